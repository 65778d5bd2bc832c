"""Named, independent random streams: the only way the testbed makes a generator."""

import hashlib

import numpy as np
import torch

from toymodels.checks import check

_MT_WORDS = 624  # words of the Mersenne Twister's state, after 24 bytes of counters


def stream(seed: int, name: str, device: str = "cpu") -> torch.Generator:
    """Returns the generator of the stream `name` of world `seed`.

    Streams of different (seed, name) are independent: the state is drawn by numpy's SeedSequence
    from SHA-256(seed, name). On the CPU all 19,937 bits are set, because torch's manual_seed keeps
    only the low 32 bits of a seed there, so that among 10,000 streams two would coincide with
    probability 1 %. Other devices take a 64-bit seed.

    Args:
        seed: the world, any integer >= 0. Never pass seed + 1 to get a second stream: name it.
        name: the purpose, e.g. "dictionary", "train", "eval"; not empty.
        device: where the generator draws ("cpu", "cuda", ...).
    Raises:
        ValueError: a negative or non-integer seed, an empty name, a device torch does not have.
    Example:
        >>> a, b = stream(0, "train"), stream(0, "train")
        >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
        True
    """
    is_integer = isinstance(seed, int) and not isinstance(seed, bool)
    check(is_integer and seed >= 0, "stream", "an integer seed >= 0", seed=seed)
    check(isinstance(name, str) and name != "", "stream", "a name such as 'train'", name=name)
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    sequence = np.random.SeedSequence(int.from_bytes(digest, "big"))
    try:
        generator = torch.Generator(device=device)
    except RuntimeError as error:
        rule, reason = "a device that torch can draw on here, such as 'cpu'", str(error)
        check(False, "stream", rule, reason.partition(". ")[0], device=device)
        raise
    if generator.device.type != "cpu":
        low, high = sequence.generate_state(2)
        return generator.manual_seed((int(high) << 32 | int(low)) >> 1)
    generator.manual_seed(int(sequence.generate_state(1)[0]))
    state = generator.get_state()
    words = state.numpy()[24 : 24 + 8 * _MT_WORDS].view(np.uint64)
    words[:] = sequence.generate_state(_MT_WORDS)
    generator.set_state(state)
    return generator
