"""Operations for whose result or size the host would wait, if their tensors were on a GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "item", "bincount",
    "repeat_interleave", "unique_dim", "_unique2", "unique_consecutive", "multinomial",
}  # fmt: skip


class Waits(TorchDispatchMode):
    """Counts operations, and notes each whose result or size the host must know."""

    def __init__(self):
        super().__init__()
        self.found, self.n_operations = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.n_operations += 1
        places = args[1] if name in ("index", "index_put", "index_put_") else []
        by_mask = any(place is not None and place.dtype == torch.bool for place in places)
        if name in WAITING or by_mask:
            self.found.append(name)
        return function(*args, **(kwargs or {}))
