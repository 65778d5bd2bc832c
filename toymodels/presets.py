"""The toy worlds of the literature, by name, with their published values as defaults.

world = presets.nabeshima_tree(generator=stream(0, "dictionary"))
world.distribution.expected_l0()    # 1.12; the publication's configuration says 1.2338

Each docstring says what is as published and what is not. Where a description and the process that
its code runs disagree, both numbers are given; ours are exact, by `expected_l0` and `firing_probs`.
"""

from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.dictionaries.composed import composed, random_mixing
from toymodels.dictionaries.orthonormal import orthonormal
from toymodels.dictionaries.random_unit import random_unit
from toymodels.dictionary import Dictionary
from toymodels.distribution import ToyDistribution
from toymodels.distributions.blocks import Blocks
from toymodels.distributions.correlated_hierarchy import CorrelatedHierarchy
from toymodels.distributions.correlated_pairs import CorrelatedPairs
from toymodels.distributions.gaussian_copula import GaussianCopula
from toymodels.distributions.hierarchy import Hierarchy
from toymodels.distributions.independent import Independent
from toymodels.distributions.scaled import Scaled
from toymodels.distributions.shared_gain import SharedGain
from toymodels.distributions.two_sets import TwoSets
from toymodels.distributions.weighted_k import WeightedK
from toymodels.magnitudes import AbsNormal, Constant, RectifiedNormal, Uniform
from toymodels.model import ToyModel


def sharkey(correlated: bool = False, *, generator: torch.Generator) -> ToyModel:
    """Returns 512 features of geometrically falling probability, along random directions in R^256.

    p_i = (5 / 512) .99^i, i = 0 .. 511, strengths U[0, 1]. The description counts 5 active
    features, which is the sum before the decay: the expected l0 is .971, and the rarest p 5.7e-5.
    With `correlated` the published code rescales, so that the probabilities do sum to 5; there they
    average about .0503 .99^i, which is what they are here, the rarest 3.0e-4.

    As published: sizes, probabilities, directions. Not as published: the public code multiplies
    each strength by another U[0, 1], so that its mean is 1/4, not 1/2. Its correlation is one
    normal vector for each batch, which scales the probabilities of that batch; within a batch
    features fire independently, and a sample without features is given one (which adds .006 to the
    l0). Ours is a Gaussian copula in every sample, with the correlation of that vector: averages of
    two U[0, 1], symmetric, with the diagonal raised until the matrix is positive definite; .05 on
    average between latents, and between the firing of features .003.

    Args:
        correlated: whether features fire by the copula.
    Source: Sharkey, Braun and Millidge 2022, Taking features out of superposition with sparse
        autoencoders.
    """
    decay = 0.99 ** torch.arange(512, dtype=torch.float64)
    dictionary = random_unit(512, 256, generator=generator)
    strength = Uniform(0.0, 1.0)
    if not correlated:
        return ToyModel(Independent(512, 5 / 512 * decay, strength), dictionary)
    u = torch.rand(512, 512, dtype=torch.float64, device=generator.device, generator=generator)
    matrix = (u + u.T).cpu() / 2
    matrix.diagonal().sub_(1.001 * torch.linalg.eigvalsh(matrix)[0])
    p = 5 * decay / decay.sum()
    law = GaussianCopula.from_latent(p, _unit_diagonal(matrix), strength)
    return ToyModel(law, dictionary)


def anders(
    set_size: int = 2, lone_prob: float = 0.0, magnitude_correlation: float = 0.0
) -> ToyModel:
    """Returns two sets of features, of which each sample combines one of each: composed features.

    `TwoSets` with strengths U[0, 1]; expected l0 2 - lone_prob. Features of one set lie in opposite
    pairs on orthogonal axes, and the sets are orthogonal to one another: d_in = set_size.

    As published: the law; sets of 2 (in 2 dimensions), 4 (in 4) and 8 (in 8); a lone feature in up
    to 75 % of samples. Not as published: their directions are the rows of a trained toy model, of
    which ours are the ideal; their sets of 4 in 3 dimensions and 8 in 6 are left out. Their
    correlated strengths are U and (1 - f) V + f U, with correlation f / sqrt(f^2 + (1 - f)^2): .32,
    .71 and .95 at f = 1/4, 1/2 and 3/4. Ours share a lognormal gain of mean 1 and reach any
    correlation below 3/4; they are then unbounded. Their generator of uncorrelated features
    silences a feature with the probability 0.1 called sparsity, so that it fires with 0.9; it is
    not this world.

    Args:
        set_size: even, >= 2.
        lone_prob: probability that one feature of the union fires instead of a pair, in [0, 1].
        magnitude_correlation: of the strengths of a pair, in [0, 0.75).
    Source: Anders, Neo, Hoelscher-Obermaier and Howard 2024, Sparse autoencoders find composed
        features in small toy models.
    """
    check_size("anders", set_size=set_size)
    check(set_size % 2 == 0, "anders", "an even set_size", set_size=set_size)
    law = TwoSets(set_size, set_size, lone_prob, Uniform(0.0, 1.0))
    axes = torch.eye(set_size // 2)
    one_set = torch.cat([axes, -axes])
    dictionary = Dictionary(torch.block_diag(one_set, one_set))
    if magnitude_correlation == 0:
        return ToyModel(law, dictionary)
    return ToyModel(SharedGain.from_correlation(law, magnitude_correlation), dictionary)


def absorption(variant: str = "hierarchical", *, generator: torch.Generator) -> ToyModel:
    """Returns orthonormal features in R^50 of which feature 1 depends on its parent, feature 0.

    | variant      | firing                                                         | expected l0 |
    | ------------ | -------------------------------------------------------------- | ----------- |
    | independent  | probabilities .25, .05, .05, .05                               | 0.4         |
    | hierarchical | the same, but feature 1 only with feature 0                    | 0.4         |
    | magnitudes   | hierarchical, with strengths of variance .1                    | 0.4         |
    | cooccurrence | the same, 95 % of the firings of feature 1 with feature 0      | 0.4         |
    | batch_topk   | 12 features: .4, .6 given feature 0, and ten others of .15     | 2.14        |

    As published: the above, strengths 1. Readings of ours: the variance as that of N(1, .1) cut at
    0, for every feature (a firing feature then has strength 0 with probability 8e-4); and of
    batch_topk, whose text has 12 features of .15 and k = 2 where a caption has 12, that parent and
    child are among the 12. The expected l0 of 2.14 fits k = 2; with 12 others it would be 2.44.

    Args:
        variant: one of the table.
    Source: Chanin et al. 2024, A is for absorption, arXiv 2409.14507.
    """
    names = ("independent", "hierarchical", "magnitudes", "cooccurrence", "batch_topk")
    check(variant in names, "absorption", f"variant one of {names}", variant=variant)
    strength = RectifiedNormal(1.0, 0.1**0.5) if variant == "magnitudes" else Constant(1.0)
    p = torch.tensor([0.25, 0.05, 0.05, 0.05], dtype=torch.float64)
    parents = (-1, 0, -1, -1)
    law: ToyDistribution
    if variant == "batch_topk":
        p = torch.tensor([0.4, 0.24] + [0.15] * 10, dtype=torch.float64)
        parents = (-1, 0) + (-1,) * 10
    if variant == "independent":
        law = Independent(4, p, strength)
    elif variant == "cooccurrence":
        pair = {(0, 1): 0.95 * 0.05, (1,): 0.05 * 0.05, (0,): 0.25 - 0.95 * 0.05}
        law = Blocks.from_laws(pair, {(2,): 0.05}, {(3,): 0.05}, magnitude=strength)
    else:
        law = Hierarchy(parents, p, magnitude=strength)
    return ToyModel(law, orthonormal(law.n_features, 50, generator=generator))


def hedging(variant: str = "hierarchical", *, generator: torch.Generator) -> ToyModel:
    """Returns two orthonormal features in R^50, for an SAE that has one latent.

    Feature 0 fires with probability .25, feature 1 with a probability that depends on it:

    | variant      | given feature 0 | without it | P(1 fires) | expected l0 | correlation |
    | ------------ | --------------- | ---------- | ---------- | ----------- | ----------- |
    | independent  | .2              | .2         | .2         | .45         | 0           |
    | hierarchical | .2              | 0          | .05        | .30         | .397        |
    | positive     | .2              | .1         | .125       | .375        | .131        |
    | negative     | .1              | .2         | .175       | .425        | -.114       |

    As published, strengths 1. The text beside the published code has .25 given feature 0 in the
    positive variant, which the code sets to .2.

    Args:
        variant: one of the table.
    Source: Chanin et al. 2025, Feature hedging, arXiv 2505.11756.
    """
    given = {
        "independent": (0.2, 0.2),
        "hierarchical": (0.2, 0.0),
        "positive": (0.2, 0.1),
        "negative": (0.1, 0.2),
    }
    check(variant in given, "hedging", f"variant one of {tuple(given)}", variant=variant)
    with_parent, without = given[variant]
    joint = 0.25 * with_parent
    law = CorrelatedPairs(1, 0.25, joint + 0.75 * without, joint, Constant(1.0))
    return ToyModel(law, orthonormal(2, 50, generator=generator))


def hedging_balance(
    child_probs: tuple[float, ...] = (0.15, 0.15, 0.15), *, generator: torch.Generator
) -> ToyModel:
    """Returns a parent and its children, orthonormal in R^50, for Matryoshka losses in balance.

    The parent fires with probability .25, each child given the parent with its own, independently
    of the others. Expected l0 .25 (1 + sum of child_probs): .3625, and .4175 for the published
    children (.02, .15, .5), which no single weight of the inner loss balances.

    As published, strengths 1. The published code lists a further child of .55 that is not read out:
    a remainder that matters for exclusive children only, which these are not.

    Args:
        child_probs: P(child fires | parent fires), 1 to 49 of them, each in [0, 1].
    Source: Chanin et al. 2025, Feature hedging, arXiv 2505.11756.
    """
    n = len(child_probs)
    check(1 <= n <= 49, "hedging_balance", "1 to 49 children", number_of_children=n)
    conditional = torch.tensor((0.25, *child_probs), dtype=torch.float64)
    parents = (-1,) + (0,) * n
    law = Hierarchy.from_conditional(parents, conditional, magnitude=Constant(1.0))
    return ToyModel(law, orthonormal(1 + n, 50, generator=generator))


def sparse_but_wrong(correlation: float = 0.4, *, generator: torch.Generator) -> ToyModel:
    """Returns 5 orthonormal features in R^20, four of them correlated with feature 0.

    Each fires with probability .4 (expected l0 2), strengths N(1, .15^2) cut at 0. The published
    correlation is that of the latent normals of a Gaussian copula; the firing of feature 0 and of
    any other correlates less, by .259 at .4 and by -.251 at -.4. The four do not correlate with one
    another.

    As published.

    Args:
        correlation: of latents, in [-0.5, 0.5]; published .4, -.4 and a sweep of this range.
    Source: Chanin and Garriga-Alonso 2025, Sparse but wrong, arXiv 2508.16560.
    """
    ok = -0.5 <= correlation <= 0.5
    rule, todo = "-0.5 <= correlation <= 0.5", "four features share a partner: 4 rho^2 <= 1"
    check(ok, "sparse_but_wrong", rule, todo, correlation=correlation)
    matrix = torch.eye(5, dtype=torch.float64)
    matrix[0, 1:] = matrix[1:, 0] = correlation
    p = torch.full((5,), 0.4, dtype=torch.float64)
    law = GaussianCopula.from_latent(p, matrix, RectifiedNormal(1.0, 0.15))
    return ToyModel(law, orthonormal(5, 20, generator=generator))


def sparse_but_wrong_large(*, generator: torch.Generator) -> ToyModel:
    """Returns 50 orthonormal features in R^100 with random correlations.

    p_i = .345 (49 - i) / 50 + .05, i = 0 .. 49: expected l0 10.95, which a copula leaves as it is
    (the publication says about 11). Strengths N(1, .15^2) cut at 0. Of the 1,225 pairs 429 get a
    positive and 429 a negative latent correlation, of U[.3, .9] in size. Such a matrix has
    eigenvalues down to about -6; they are clipped at 1e-6 and the diagonal restored, which leaves
    little of the request: the 858 largest correlations are .18 in mean size, not .60, and 5 to 8 %
    of them reach .3; the other pairs are no longer at 0; firing correlates by .066 in mean size.

    As published, but for the draw (theirs is of one fixed seed, ours of the generator).

    Source: Chanin and Garriga-Alonso 2025, Sparse but wrong, arXiv 2508.16560.
    """
    p = 0.345 * (49 - torch.arange(50, dtype=torch.float64)) / 50 + 0.05
    device = generator.device
    chosen = torch.randperm(1225, device=device, generator=generator)[:858]
    size = torch.rand(858, dtype=torch.float64, device=device, generator=generator)
    value = torch.zeros(1225, dtype=torch.float64, device=device)
    value[chosen] = (0.3 + 0.6 * size) * torch.where(torch.arange(858, device=device) < 429, 1, -1)
    matrix = torch.zeros(50, 50, dtype=torch.float64)
    row, column = torch.triu_indices(50, 50, 1)
    matrix[row, column] = value.cpu()
    eigenvalues, vectors = torch.linalg.eigh(matrix + matrix.T + torch.eye(50))
    matrix = _unit_diagonal(vectors @ eigenvalues.clamp(min=1e-6).diag() @ vectors.T)
    law = GaussianCopula.from_latent(p, matrix, RectifiedNormal(1.0, 0.15))
    return ToyModel(law, orthonormal(50, 100, generator=generator))


def nabeshima_tree(*, generator: torch.Generator) -> ToyModel:
    """Returns 20 binary features in R^20: three parents with exclusive children, and eight more.

    Features 0, 4 and 8 are parents that fire with probability .15; the three after each are its
    children, of which one fires with probability .2 each given the parent, and none with .4; 12 to
    19 fire alone with .05. Orthonormal directions, strengths 1 + .05 N(0, 1), drawn once for each
    feature.

    As published. The expected l0 is 3 * .15 * 1.6 + 8 * .05 = 1.12; the published configuration
    aims at 1.2338, which it calls the l0 of the true features. The root that always fires is not
    read out and left out here.

    Source: Nabeshima 2024, Matryoshka sparse autoencoders.
    """
    parents = tuple(q for i in (0, 4, 8) for q in (-1, i, i, i)) + (-1,) * 8
    p = torch.tensor([0.15, 0.03, 0.03, 0.03] * 3 + [0.05] * 8, dtype=torch.float64)
    tree = Hierarchy(parents, p, exclusive=True, magnitude=Constant(1.0))
    dictionary = orthonormal(20, 20, generator=generator)
    normal = torch.randn(20, dtype=torch.float64, device=generator.device, generator=generator)
    return ToyModel(Scaled(tree, (1 + 0.05 * normal).cpu()), dictionary)


def ordered_sae(
    n_features: int = 100, d_in: int = 80, k: int = 5, *, generator: torch.Generator
) -> ToyModel:
    """Returns features of which k fire, drawn without replacement by Zipf's law of exponent 1.2.

    `WeightedK` with weights 1 / i^1.2 and strengths |N(0, 1)|, along random directions. Drawing
    without replacement flattens Zipf's law: the first of 100 features fires with probability .834
    and the last with .0070, in the ratio 119 instead of 251; k times their shares of the weights
    would be 1.388 and .0055.

    As published, read as successive draws (the text does not say how; no code is public).

    Args:
        n_features, d_in: >= 1.
        k: from 1 to n_features.
    Source: Wang et al. 2025, arXiv 2512.02194.
    """
    check_size("ordered_sae", n_features=n_features, d_in=d_in)
    weights = torch.arange(1, n_features + 1, dtype=torch.float64) ** -1.2
    law = WeightedK(weights, k, AbsNormal())
    return ToyModel(law, random_unit(n_features, d_in, generator=generator))


@dataclass(frozen=True, eq=False)
class ComposedWorld:
    """A world with what its features are made of.

    Args:
        atoms: rows that never fire alone.
        mixing: [n_features, n_atoms], the weights of the atoms in each feature before normalising.
        model: features normalise(mixing @ atoms), and how they fire.
    """

    atoms: Dictionary
    mixing: Float[Tensor, "n_features n_atoms"]
    model: ToyModel


def composed_world(
    atoms: Dictionary,
    n_features: int = 160,
    *,
    l0: float = 1.5,
    exponent: float = 0.8,
    sizes: tuple[int, ...] = (2, 3),
    noise_std: float = 0.05,
    generator: torch.Generator,
) -> ComposedWorld:
    """Returns features that are mixtures of atoms, as many of each size, with Zipf frequencies.

    `random_mixing` of each of the sizes in turn. Features fire independently, with
    the probabilities min(1/2, l0 i^-exponent / sum_j j^-exponent), i = 1, 2, ..., in random order;
    strengths U[1/2, 3/2]. Expected l0: l0, unless a probability is cut at 1/2.

    As published: that features are conjunctions of atoms, like "Einstein" of science, fame and
    Germany. All numbers are this project's.

    Args:
        atoms: any dictionary, such as `random_unit` or `orthonormal`.
        n_features: a multiple of the number of sizes, within what `random_mixing` allows.
        l0: > 0.   exponent: >= 0; 0 is one probability for all.
        sizes: atoms in a feature.   noise_std: of white noise on x.
    Source: Bussmann et al. 2024, Showing SAE latents are not atomic using meta-SAEs.
    """
    where, n_sizes = "composed_world", len(sizes)
    todo, kind = "pass Dictionary(vectors), with unit rows", type(atoms).__name__
    check(isinstance(atoms, Dictionary), where, "a Dictionary", todo, atoms=kind)
    rule, whole = f"n_features a multiple of {n_sizes} (sizes)", n_features % max(1, n_sizes) == 0
    check(n_sizes > 0 and whole, where, rule, n_features=n_features, sizes=sizes)
    check(0 < l0 < float("inf"), where, "a finite l0 > 0", l0=l0)
    check(0 <= exponent < float("inf"), where, "a finite exponent >= 0", exponent=exponent)
    each = n_features // n_sizes
    parts = [random_mixing(each, atoms.n_features, k, generator=generator) for k in sizes]
    mixing = torch.cat(parts)
    power = torch.arange(1, n_features + 1, dtype=torch.float64) ** -exponent
    order = torch.randperm(n_features, device=generator.device, generator=generator).cpu()
    probs = (l0 * power / power.sum()).clamp(max=0.5)[order]
    law = Independent(n_features, probs, Uniform(0.5, 1.5))
    model = ToyModel(law, composed(mixing, atoms), noise_std=noise_std)
    return ComposedWorld(atoms, mixing, model)


def benchmark_16k(d_in: int = 768, *, generator: torch.Generator) -> ToyModel:
    """Returns the 16,384 features of SynthSAEBench, in 768 dimensions.

    128 trees of branching 4 and depth 3, 10,880 features (one account prints 10,884), of which the
    children of one feature exclude one another; and 5,504 lone features. Numbered level by level.

    Expected l0. The requested probabilities, Zipf's law of exponent .5 stretched to [5e-4, .4], sum
    to 59.14. No process has these marginals: the children of 116 of the 128 roots, and of all 512
    features below them, would exceed their parent. The published one draws every feature with a
    compensated probability, and silences those whose parent is silent and all but one of the
    siblings that fire. The compensation falls short, more so at each level: without the copula the
    marginals are those of `benchmark_marginals`, with sum 34.50 (25.17 for the first 4,096), which
    this world has exactly; the publication measures about 34 and 25. Its copula also joins
    parents with children, which scatters their marginals by 5, 6 and 10 % (standard deviation on
    the first, second and third level) and leaves 34.39 +- .03 at its own seed.

    As published: the above; strengths of mean 5.0 (feature 0) to 4.0 (the last), those of children
    scaled by the strength of their parent over its mean; a bias of norm .5. Not as published: the
    copula, of the same rank 25 and scale .1, acts on whether a feature (or one of exclusive
    siblings) fires given its parent, so that it leaves the marginals alone; standard deviations,
    |N(.5, .5^2)| drawn for each feature, are replaced by their root mean square, .157 of the mean;
    directions are random, not orthogonalised in 100 steps: the mean over features of the largest
    |cosine| is .148, against about .15.

    Args:
        d_in: >= 1; the published sweep of superposition has 256 to 1,536.
    Source: Chanin and Garriga-Alonso 2026, SynthSAEBench, arXiv 2602.14687.
    """
    n = 16_384
    trees = Hierarchy.regular(128, 4, 3, 0.1, 0.1).parents
    forest = Hierarchy(
        trees + (-1,) * (n - len(trees)),
        benchmark_marginals(),
        exclusive=True,
        coupled=True,
        magnitude=RectifiedNormal(1.0, 0.5**0.5 / 4.5),
    )
    law = CorrelatedHierarchy.low_rank(forest, 25, 0.1, generator=generator)
    means = torch.linspace(5.0, 4.0, n, dtype=torch.float64)
    dictionary = random_unit(n, d_in, generator=generator)
    bias = 0.5 * random_unit(1, d_in, generator=generator).vectors[0]
    return ToyModel(Scaled(law, means), dictionary, bias=bias)


def benchmark_marginals() -> Float[Tensor, " n_features"]:
    """Returns the firing probabilities of SynthSAEBench's process without its copula, [16384].

    With b the requested probabilities, a child i of q is drawn with the compensated probability
    c_i = b_i / b_q (1 + sum over its siblings j of b_j / b_q), and if q fires and several siblings
    are drawn, one of them fires, each with the same chance. So P(i) = P(q) c_i E[1 / (1 + N_i)]
    with N_i the number of siblings drawn: 16 cases.
    """
    n, n_roots, n_parents, n_tree = 16_384, 128, 2_688, 10_880
    rank = torch.arange(1, n + 1, dtype=torch.float64) ** -0.5
    requested = 5e-4 + (0.4 - 5e-4) * (rank - rank[-1]) / (rank[0] - rank[-1])
    share = requested[n_roots:n_tree].reshape(n_parents, 4) / requested[:n_parents, None]
    drawn = share * (1 + share.sum(1, keepdim=True) - share)
    fires = torch.zeros_like(drawn)
    for case in product((0.0, 1.0), repeat=4):
        which = torch.tensor(case, dtype=torch.float64)
        prob = (which * drawn + (1 - which) * (1 - drawn)).prod(1, keepdim=True)
        fires += prob * which / which.sum().clamp(min=1)
    p = requested.clone()
    for q in range(n_parents):  # parents come before their children
        first = n_roots + 4 * q
        p[first : first + 4] = p[q] * fires[q]
    return p


def _unit_diagonal(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    scale = matrix.diagonal().rsqrt()
    matrix = scale[:, None] * matrix * scale
    return ((matrix + matrix.T) / 2).fill_diagonal_(1.0)
