"""G7: do trained models have the two bases that G1 to G4 say they have?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from sae import TopK, TrainConfig, train
from theory.claims._claim import Claim, Comparisons, Mutant
from theory.claims._trained import Effects, mean_at_least, mean_at_most
from theory.curvature import hessian
from theory.effective_rank import common_features_bound, effective_rank
from theory.isotropic import isotropic_rows
from theory.learning_coefficient import learning_coefficient
from theory.recovery import Recovery, recovery
from theory.rotation import eigenspace_rotation
from toymodels import (
    Dictionary,
    Exclusive,
    ToyModel,
    Uniform,
    hadamard_union,
    orthonormal,
    reweighted,
    stream,
)

SPAN, D_IN, N = 16, 20, 32  # a tight frame of 32 features in 16 of 20 dimensions
N_LATENTS, N_OUTPUTS, R = 64, 3, 4  # of the SAEs, of the student, and of the weight basis
CHANGE = 0.1  # relative, of firing probabilities, on average; a sample's are off by .022
N_COMMON, COMMON = 4, 0.15  # of the world with few common features: how many, how often each
RARE, FREQUENT = 1e-4, 1 / (N + 1)  # firing probability of the last feature, before and after
VISIBLE = 0.01  # eigenvalue above which a direction is visible; that of the frame is near .07
MAGNITUDE = Uniform(0.5, 1.5)
N_EVAL, N_BETA, LOCALISATION = 65_536, 500.0, 1.0


@dataclass(frozen=True)
class Both:
    """A world on which a linear student and SAEs are trained."""

    seed: int
    n_steps: int = 800
    batch_size: int = 256


def run(world: Both) -> Effects:
    """Returns what G1 to G4 predict beside what the trained models show."""
    generator = stream(world.seed, "dictionary")
    frame = hadamard_union(SPAN).vectors @ orthonormal(SPAN, D_IN, generator=generator).vectors
    even = torch.full((N,), 1 / N, dtype=torch.float64)
    base = ToyModel(Exclusive(N, even, MAGNITUDE), Dictionary.normalise(frame))
    x = base.sample(N_EVAL, generator=stream(world.seed, "eval")).x.double()
    return {
        name: np.array(float(value))
        for part in (_student(world, base, x), _turned(world, base, x), _few_common(world, frame))
        for name, value in part.items()
    } | {name: np.array(float(value)) for name, value in _rare(world, frame).items()}


def fit(world: Both, toy: ToyModel, name: str) -> Float[Tensor, "n_latents d_in"]:
    """Returns the rows of an SAE; all of one world start alike, on data of their own `name`."""
    sae = TopK(D_IN, N_LATENTS, 1, generator=stream(world.seed, "init"))
    config = TrainConfig(world.n_steps, world.batch_size, lr=1e-2, decay=0.5, dead_after=2000)
    return train(sae, toy, config, generator=stream(world.seed, name)).sae.W_dec.detach().double()


def moment(x: Float[Tensor, "n d_in"]) -> Float[Tensor, "d_in d_in"]:
    return x.T @ x / len(x)


def _student(world: Both, base: ToyModel, x: Tensor) -> dict[str, Any]:
    """G1: the Hessian of a student trained on x, and its learning coefficient, by sampling."""
    generator = stream(world.seed, "student")
    options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    teacher = torch.randn(N_OUTPUTS, D_IN, **options)
    w = 0.1 * torch.randn(N_OUTPUTS * D_IN, **options)

    # The same loss as that of all samples: as many rows as dimensions, of the same second moment.
    _, singular, directions = torch.linalg.svd(x, full_matrices=False)
    data = directions.T * (singular / len(x) ** 0.5)

    def loss(points: Float[Tensor, "n n_weights"]) -> Float[Tensor, " n"]:
        error = (points.view(len(points), N_OUTPUTS, D_IN) - teacher) @ data
        return 0.5 * error.square().sum((1, 2))

    for _ in range(world.n_steps):
        w = w.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(w[None]).sum(), w)
        w = w.detach() - 5 * slope  # curvature of the frame: about 1/15
    curvature = hessian(loss, w)
    values = torch.linalg.eigvalsh(curvature)
    estimate = learning_coefficient(
        loss,
        w,
        n_beta=N_BETA,
        localisation=LOCALISATION,
        step_size=2e-3,
        n_draws=4 * world.n_steps,
        n_burn_in=world.n_steps,
        n_chains=8,
        generator=stream(world.seed, "chains"),
    )
    law = base.distribution
    found = effective_rank(
        base.dictionary.vectors.double(),
        law.code_energies(),
        n_samples=N_BETA,
        prior_precision=LOCALISATION,
    )
    closed = found.learning_coefficient(N_OUTPUTS)
    return {
        "hessian_rank": (values > 1e-6 * values[-1]).sum(),
        "coefficient": (estimate.estimate - estimate.step_bias) / closed,
    }


def _turned(world: Both, base: ToyModel, x: Tensor) -> dict[str, Any]:
    """G2: two bases when every firing probability changes by CHANGE."""
    generator = stream(world.seed, "shift")
    xi = torch.rand(N, generator=generator, dtype=torch.float64) + 0.5
    xi = xi * (1 - 2 * (torch.randperm(N, generator=generator) % 2))
    xi = xi - xi.mean()
    probs = base.distribution.firing_probs() * (1 + CHANGE * xi)
    new = base.shifted(reweighted(base.distribution, probs))
    y = new.sample(N_EVAL, generator=stream(world.seed, "eval again")).x.double()
    turned = eigenspace_rotation(moment(x), moment(y), R)
    d = base.dictionary.vectors.double()
    foretold = eigenspace_rotation((d.T * xi) @ d, moment(y), R)
    before, after = fit(world, base, "train"), fit(world, new, "train again")
    kept = matched(base.dictionary.vectors, before)
    rows = before[kept.matching[kept.recovered]]
    moved = sines(rows, after)
    null = sines(rows, isotropic_rows(N_LATENTS, D_IN, generator=stream(world.seed, "null")))
    return {
        "rotation": turned.score / (1 - R / SPAN),  # chance within the span of the features
        "foretold": foretold.score / (1 - R / SPAN),
        "moved": moved / null,
        "recovered": kept.recovered.double().mean(),
    }


def matched(features: Tensor, rows: Tensor) -> Recovery:
    return recovery(features.double(), rows.double())


def sines(rows: Tensor, others: Tensor) -> float:
    """Returns the mean sine of the angles between rows and what is matched to them; NaN of none."""
    if len(rows) == 0:
        return float("nan")
    return float((1 - matched(rows, others).cosines.square()).clamp(min=0).sqrt().mean())


def _few_common(world: Both, frame: Tensor) -> dict[str, Any]:
    """G3: the bound by the rows, the energies and the spectrum that were measured, none given."""
    probs = torch.full((N,), (1 - N_COMMON * COMMON) / (N - N_COMMON), dtype=torch.float64)
    probs[:N_COMMON] = COMMON
    toy = ToyModel(Exclusive(N, probs, MAGNITUDE), Dictionary.normalise(frame))
    rows = fit(world, toy, "train few")
    x = toy.sample(N_EVAL, generator=stream(world.seed, "eval few")).x.double()
    found = matched(toy.dictionary.vectors, rows)
    rows = normalize(rows[found.matching[found.recovered]], dim=1)
    along = (x @ rows.T).clamp(min=0) if len(rows) else x[:, :1]
    best = along.argmax(1, keepdim=True)
    energies = torch.zeros_like(along).scatter(1, best, along.gather(1, best)).square().mean(0)
    threshold = COMMON * MAGNITUDE.second_moment() / 2
    common = rows[energies[: len(rows)] >= threshold]
    tail = float(torch.linalg.eigvalsh(moment(x))[:-N_COMMON].sum())
    coherence = Dictionary(common).rms_coherence() if len(common) > 1 else 0.0
    bound = common_features_bound(N_COMMON, tail, threshold, coherence)
    return {"common": len(common), "bound": bound, "all": len(rows)}


def _rare(world: Both, frame: Tensor) -> dict[str, Any]:
    """G4: a rare feature becomes common, in the span of the others or outside it."""
    effects = {}
    directions = isotropic_rows(2, D_IN, generator=stream(world.seed, "rare")).to(frame)
    inside = directions[0] @ frame.T @ frame  # the frame is tight: a multiple of the projection
    outside = directions[1] - directions[1] @ frame.T @ frame / 2
    for name, direction in (("inside", inside), ("outside", outside)):
        dictionary = Dictionary.normalise(torch.cat([frame, direction[None]]))
        seen = {}
        for often, prob in (("rare", RARE), ("common", FREQUENT)):
            probs = torch.full((N + 1,), (1 - prob) / N, dtype=torch.float64)
            probs[-1] = prob
            toy = ToyModel(Exclusive(N + 1, probs, MAGNITUDE), dictionary)
            x = toy.sample(N_EVAL, generator=stream(world.seed, f"eval {often}")).x.double()
            seen[often] = (torch.linalg.eigvalsh(moment(x)) > VISIBLE).sum()
        rows = fit(world, toy, f"train {name}")
        effects[f"rise_{name}"] = seen["common"] - seen["rare"]
        nearest = (dictionary.vectors[:-1] @ dictionary.vectors[-1]).max()
        effects[f"found_{name}"] = matched(dictionary.vectors, rows).cosines[-1] - nearest
    return effects


def compare(effects: Effects) -> Comparisons:
    rank, coefficient = effects["hessian_rank"], effects["coefficient"]
    common, bound = effects["common"], effects["bound"]
    return (
        mean_at_most("rank of the student's Hessian", rank, float(N_OUTPUTS * SPAN)),
        mean_at_least("the same, from below", rank, float(N_OUTPUTS * SPAN)),
        mean_at_most("sampled coefficient over the closed form", coefficient, 1.05),
        mean_at_least("sampled coefficient, from below", coefficient, 0.95),
        mean_at_least("rotation of the weight basis over chance", effects["rotation"], 0.5),
        mean_at_most("rotation from the space that G2 foretells", effects["foretold"], 0.5),
        mean_at_most("sines of the SAE's rows over chance", effects["moved"], 0.5),
        mean_at_most("common features recovered, less the bound", common - bound, 0.0),
        mean_at_least("common features recovered", common, N_COMMON / 2),
        mean_at_most(
            "directions that a feature outside the span adds", effects["rise_outside"], 1.0
        ),
        mean_at_least("the same, at least", effects["rise_outside"], 1.0),
        mean_at_most("directions that one inside adds", effects["rise_inside"], 0.0),
        mean_at_least(
            "cosine of the SAE's latent for it, less that of the nearest feature",
            effects["found_inside"],
            0.0,
        ),
    )


def rank_counts_features(effects: Effects) -> Comparisons:
    return (mean_at_least("rank", effects["hessian_rank"], float(N_OUTPUTS * N)),)


def turns_alike(effects: Effects) -> Comparisons:
    label = "sines of the SAE's rows, less rotation of the weight basis, over chance"
    return (mean_at_least(label, effects["moved"] - effects["rotation"], 0.0),)


def bounds_all(effects: Effects) -> Comparisons:
    return (mean_at_most("all recovered, less the bound", effects["all"] - effects["bound"], 0.0),)


def adds_a_direction(effects: Effects) -> Comparisons:
    label = "directions that a feature inside the span adds"
    return (mean_at_least(label, effects["rise_inside"], 1.0),)


CLAIM = Claim(
    key="G7",
    statement="Trained models have the two bases of G1 to G4\n"
    "A tight frame of 32 features in 16 of 20 dimensions, one at a time. A trained linear student "
    "of 3 outputs has a Hessian of rank 3 x 16, and a sampled learning coefficient within 5 % of "
    "(q/2) sum_j N lambda_j / (N lambda_j + alpha). If firing probabilities change by 10 % on "
    "average, its top 4 directions turn by at least half of what chance would, and to within half "
    "of that to the space that G2 foretells; the rows of a TopK SAE turn by at most half. "
    "With 4 common features, those recovered by the SAE keep G3's bound by measured rows, energies "
    "and spectrum. A rare feature that becomes common adds one direction outside the span of the "
    "others and none inside, where the SAE's latent for it is nearer than any other feature. "
    "Averages over worlds, in 95 % intervals.",
    source="new",
    proof="",
    status="conjecture",
    kind="trained",
    paper_label="eq:two-bases-trained",
    strategy=None,
    compare=compare,
    run=run,
    worlds=tuple(Both(seed) for seed in range(8)),
    mutants=(
        Mutant("rank-counts-features", "The rank is at least 3 x 32", rank_counts_features),
        Mutant("turns-alike", "The SAE's rows turn as far as the weight basis", turns_alike),
        Mutant("bounds-all", "The bound of G3 holds for all recovered features", bounds_all),
        Mutant("adds-a-direction", "A feature inside the span adds a direction", adds_a_direction),
    ),
)
