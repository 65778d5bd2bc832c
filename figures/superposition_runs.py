"""What fig_superposition.py trains, and the expected loss of few features by quadrature."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from figures.runs import device
from toymodels import CorrelatedPairs, Independent, Signed, ToyDistribution, Uniform, stream
from toymodels.superposition import initial_weights, train_superposition
from toymodels.superposition_boundary import superposition_boundary
from toymodels.superposition_geometry import feature_dimensionality
from toymodels.superposition_neurons import train_neurons

UNIT = Uniform(0.0, 1.0)
FIVE = (1.0, 0.74, 0.55, 0.4, 0.32, 0.28, 0.24, 0.2, 0.16, 0.12, 0.09, 0.07, 0.05)
MANY = (1.0, 0.7, 0.5, 0.4, 0.32, 0.25, 0.2, 0.14, 0.1)
IMPORTANCES = tuple(float(10**e) for e in np.linspace(-1, 1, 8))
MAP = tuple(float(10**-e) for e in np.linspace(0, 2, 9))
PARTNERS = (0.45, 0.2, 0.1, 0.05)
LAWS = ("together", "independent", "apart")
LINEAR = (1.0, 0.3, 0.1, 0.03)
NEURONS = (0.75, 0.35, 0.15, 0.1, 0.06, 0.02, 0.01)
ABSOLUTE = (1.0, 0.5, 0.1, 0.03)
LEARNING = 0.05  # density: most starts end at a pentagon, some by way of two digons


@dataclass(frozen=True)
class Training:
    """AdamW at `lr`, which falls towards 0 in the last share `decay` of the steps."""

    n_steps: int
    batch_size: int = 512
    lr: float = 5e-3
    decay: float = 0.5


@dataclass(frozen=True)
class Run:
    """Networks of one world: for each density and importance, `n_starts` of them.

    model: "relu" or "linear", x' = f(W^T W x + b); "neurons", hidden ReLU, tied; "absolute",
        hidden ReLU, untied, of signed codes, whose target is |x|.
    law: "independent" features, "together" in pairs, or "apart", pairs that exclude one another.
    importances: each a value for every feature.
    """

    seed: int
    model: str
    n_hidden: int
    densities: tuple[float, ...]
    importances: tuple[tuple[float, ...], ...]
    n_starts: int
    training: Training
    law: str = "independent"


def law_of(run: Run, density: float) -> ToyDistribution:
    n = len(run.importances[0])
    if run.law == "independent":
        law = Independent(n, density, UNIT)
        return Signed(law, 0.5) if run.model == "absolute" else law
    return CorrelatedPairs(n // 2, density, density, density * (run.law == "together"), UNIT)


def superposition_run(run: Run) -> dict[str, np.ndarray]:
    """Returns W, W_out (transposed if tied), b and the loss of the last tenth, of each network.

    Shapes begin with [n_densities, n_importances, n_starts].
    """
    t, init = run.training, stream(run.seed, "init", device())
    lead = (len(run.densities), len(run.importances), run.n_starts)
    n, m = len(run.importances[0]), run.n_hidden
    importance = torch.tensor(run.importances, device=device())
    W = initial_weights(lead[0] * lead[1] * lead[2], m, n, generator=init)
    laws = [law_of(run, p) for p in run.densities]
    settings = {
        "importance": importance.repeat_interleave(run.n_starts, 0).repeat(len(laws), 1),
        "n_steps": t.n_steps, "batch_size": t.batch_size, "learning_rate": t.lr, "decay": t.decay,
        "n_records": 10, "generator": stream(run.seed, "train", device()),
    }  # fmt: skip
    if run.model in ("relu", "linear"):
        net = train_superposition(W, laws, rectified=run.model == "relu", **settings)
        W_in, W_out, b, losses = net.W, net.W.mT, net.b, net.losses[-1]
    else:
        weights = [W]
        if run.model == "absolute":
            weights.append(initial_weights(len(W), n, m, generator=init))
        net = train_neurons(weights, laws, **settings)
        W_in, W_out, b, losses = net.W_in, net.W_out, net.b, net.losses[-1]
    found = {"W": W_in, "W_out": W_out, "b": b, "loss": losses}
    return {name: a.reshape(*lead, *a.shape[1:]).cpu().numpy() for name, a in found.items()}


@dataclass(frozen=True)
class Learning:
    """Records of networks of one world: importances .9^i, features at one density."""

    seed: int
    density: float
    n_starts: int
    training: Training
    n_features: int = 5
    n_hidden: int = 2
    n_records: int = 60


def learning_run(run: Learning) -> dict[str, np.ndarray]:
    """Returns step [n_records], D [n_records, n_starts, n_features], loss [n_records, n_starts].

    The loss is the expected one at the record's weights: batches add no falls of their own.
    """
    t, n, init = run.training, run.n_features, stream(run.seed, "init", device())
    W = initial_weights(run.n_starts, run.n_hidden, n, generator=init)
    importance = 0.9 ** torch.arange(n, device=device())
    net = train_superposition(
        W, [Independent(n, run.density, UNIT)], importance=importance, n_steps=t.n_steps,
        batch_size=t.batch_size, learning_rate=t.lr, decay=t.decay, n_records=run.n_records,
        generator=stream(run.seed, "train", device()),
    )  # fmt: skip
    density = torch.tensor(run.density, device=device())
    loss = expected_loss(net.W_records, net.b_records, density, importance, n_points=4)
    D = feature_dimensionality(net.W_records.flatten(0, 1)).view(*loss.shape, n)
    found = {"step": net.steps, "D": D, "loss": loss}
    return {name: a.cpu().numpy() for name, a in found.items()}


def expected_loss(
    W: Tensor, b: Tensor, density: Tensor, importance: Tensor, *, n_points: int = 8
) -> Tensor:
    """Returns E sum_j I_j (x_j - x'_j)^2 of x' = ReLU(W^T W x + b) for few independent features.

    Each feature is 0 with probability 1 - density, else uniform: the midpoint rule in every one
    that fires. Batch losses cannot tell patterns apart that differ where two rare features fire.

    Args:
        W: [..., n_hidden, n_features]; b, importance: [..., n_features]; density: [...].
    """
    n = W.shape[-1]
    z = torch.cat([torch.zeros(1), (torch.arange(n_points) + 0.5) / n_points]).to(W)
    x = torch.cartesian_prod(*[z] * n)
    fires = (x > 0).sum(1)
    p = density[..., None]
    weight = (p / n_points) ** fires * (1 - p) ** (n - fires)
    error = ((x @ W.mT) @ W + b[..., None, :]).relu() - x
    return ((error.square() @ importance[..., None])[..., 0] * weight).sum(-1)


@dataclass(frozen=True)
class Free:
    """Relative importances < 1 of the second of two features in one hidden dimension."""

    importances: tuple[float, ...]
    n_points: int = 24
    n_halvings: int = 7  # of [p*/1.5, 1.5 p*]: to half a per cent
    n_steps: int = 200


def free_boundary_run(free: Free) -> dict[str, np.ndarray]:
    """Returns the density below which the best x' = ReLU(w (w . x) + b) holds both features.

    The expected loss is minimised over w and b from the antipodal pattern and from that without
    the second feature; bisection in the density. To hold both is to have w_1 w_2 < 0 and both
    norms >= 1/2.
    """
    importance = torch.tensor(free.importances, dtype=torch.float64)
    exact = torch.tensor([superposition_boundary(i) for i in free.importances])
    low, high = exact.to(importance) / 1.5, exact.to(importance) * 1.5
    for _ in range(free.n_halvings):
        p = (low + high) / 2
        w, loss = _minimised(p, importance, free)
        best = w[loss.argmin(0), torch.arange(len(p))]
        both = (best.abs() >= 0.5).all(1) & (best[:, 0] * best[:, 1] < 0)
        low, high = torch.where(both, p, low), torch.where(both, high, p)
    return {"boundary": ((low + high) / 2).numpy()}


def _minimised(p: Tensor, importance: Tensor, free: Free) -> tuple[Tensor, Tensor]:
    """Returns w [2, n, 2] and the loss [2, n], from the two patterns, by Adam."""
    n = len(p)
    w = torch.tensor([[1.0, -1.0], [1.0, 0.05]], dtype=p.dtype)[:, None].repeat(1, n, 1)
    b = torch.stack([torch.zeros(n, 2, dtype=p.dtype), torch.stack([0 * p, p / 2], 1)])
    factor = torch.stack([torch.ones_like(importance), importance], 1).expand(2, n, 2)
    for parameter in (w, b):
        parameter.requires_grad_()
    optimiser = torch.optim.Adam([w, b], lr=0.02)

    def losses() -> Tensor:
        return expected_loss(w[..., None, :], b, p.expand(2, n), factor, n_points=free.n_points)

    for step in range(free.n_steps):
        optimiser.param_groups[0]["lr"] = 0.02 * (1 - step / free.n_steps)
        optimiser.zero_grad()
        losses().sum().backward()
        optimiser.step()
    with torch.no_grad():
        return w.detach(), losses()
