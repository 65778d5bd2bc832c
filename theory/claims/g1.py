"""G1: how many parameters the data determine, whatever the number of features."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import Claim, Comparisons, Mutant, at_most, equal
from theory.effective_rank import effective_rank
from toymodels import Dictionary, stream
from toymodels import strategies as tms

LARGER = 10.0  # the factor between the two numbers of samples at which the evidence is compared


@dataclass(frozen=True)
class Fitted:
    """A linear map to n_outputs, learnt from samples of features with these energies."""

    dictionary: Dictionary
    energies: tuple[float, ...]
    n_outputs: int
    n_samples: float
    prior_precision: float
    seed: int

    def e(self) -> Float[Tensor, " n_features"]:
        return torch.tensor(self.energies, dtype=torch.float64)

    def second_moment(self) -> Float[Tensor, "d_in d_in"]:
        d = self.dictionary.vectors
        return (d.T * self.e()) @ d

    def coefficient(self, n_samples: float) -> float:
        """Returns (q/2) sum_j N lambda_j / (N lambda_j + alpha), the criterion's."""
        options = {"n_samples": n_samples, "prior_precision": self.prior_precision}
        found = effective_rank(self.dictionary.vectors, self.e(), **options)
        return found.learning_coefficient(self.n_outputs)

    def evidence(self, n_samples: float) -> float:
        """Returns -ln of the mean of exp(-N L) over the normal prior, in closed form."""
        d_in = self.dictionary.d_in
        ratio = n_samples / self.prior_precision
        identity = torch.eye(d_in, dtype=torch.float64)
        return self.n_outputs / 2 * float(torch.logdet(identity + ratio * self.second_moment()))


@st.composite
def fitted(draw: Any) -> Fitted:
    """Any dictionary; energies over a factor of 100, numbers of samples over eight decades."""
    dictionary = draw(tms.dictionaries())
    n = dictionary.n_features
    energy = st.sampled_from([1.0, 0.1]) | st.floats(0.05, 5)
    energies = draw(st.lists(energy, min_size=n, max_size=n))
    return Fitted(
        dictionary,
        tuple(energies),
        n_outputs=draw(st.integers(1, 3)),
        n_samples=draw(st.sampled_from([1.0, 100.0]) | st.floats(-3, 5).map(lambda t: 10.0**t)),
        prior_precision=draw(st.sampled_from([1.0, 0.1])),
        seed=draw(tms.seeds()),
    )


def loss(instance: Fitted, change: Float[Tensor, "q d_in"]) -> float:
    """Returns L(W* + change) = 1/2 E|change x|^2, feature by feature."""
    pairs = zip(instance.energies, instance.dictionary.vectors, strict=True)
    return sum(0.5 * e * float((change @ d).square().sum()) for e, d in pairs)


def compare(instance: Fitted) -> Comparisons:
    d, e, q = instance.dictionary.vectors, instance.e(), instance.n_outputs
    n, d_in = d.shape
    generator = stream(instance.seed, "change")
    change = torch.randn(q, d_in, generator=generator, dtype=torch.float64)
    identity = torch.eye(q, dtype=torch.float64)
    hessian = torch.kron(identity, instance.second_moment())
    flat = change.flatten()
    rank = int(torch.linalg.matrix_rank(d))
    now = instance.coefficient(instance.n_samples)
    later = instance.coefficient(LARGER * instance.n_samples)
    evidence = instance.evidence(LARGER * instance.n_samples) - instance.evidence(
        instance.n_samples
    )
    slope = evidence / math.log(LARGER)
    weighted = e.sqrt()[:, None] * d
    gram = instance.n_samples / instance.prior_precision * weighted @ weighted.T
    by_features = torch.linalg.solve(gram + torch.eye(n, dtype=torch.float64), gram).trace()
    # The rounding of eigenvalues that are 0 is as large as the largest N lambda / alpha makes it.
    amplified = 1e-5 * float(gram.diagonal().sum())
    copied = Fitted(
        Dictionary(torch.cat([d, d])),
        tuple([x / 2 for x in instance.energies] * 2),
        q,
        instance.n_samples,
        instance.prior_precision,
        0,
    )
    scale = float(e.sum()) * float(flat.square().sum())
    return (
        equal("loss, against the Hessian I x Sigma", loss(instance, change),
              0.5 * float(flat @ hessian @ flat), scale=scale),
        equal("rank of the Hessian", float(torch.linalg.matrix_rank(hessian)), float(q * rank)),
        at_most("coefficient, against its limit", now, q / 2 * rank, scale=q * rank),
        at_most("its limit, against q d_in / 2", q / 2 * rank, q / 2 * d_in, scale=q * d_in),
        equal("with almost endless samples, against the limit", instance.coefficient(1e18),
              q / 2 * rank, scale=q * rank),
        at_most("coefficient at N, against the slope of the evidence", now, slope, scale=q * d_in),
        at_most("slope of the evidence, against the coefficient at 10 N", slope, later,
                scale=q * d_in),
        equal("by the Gram matrix of the features", q / 2 * float(by_features), now,
              scale=q * max(n, amplified)),
        equal("every feature in two copies of half its energy",
              copied.coefficient(instance.n_samples), now, scale=q * d_in),
    )  # fmt: skip


def counts_features(instance: Fitted) -> Comparisons:
    limit = instance.n_outputs / 2 * len(instance.energies)
    return (equal("coefficient with almost endless samples", instance.coefficient(1e18), limit),)


def any_number_of_samples(instance: Fitted) -> Comparisons:
    rank = int(torch.linalg.matrix_rank(instance.dictionary.vectors))
    now = instance.coefficient(instance.n_samples)
    return (at_most("limit, against the coefficient at N", instance.n_outputs / 2 * rank, now),)


CLAIM = Claim(
    key="G1",
    statement="What the data determine is a matter of rank\n"
    "E[a_i a_j] = 0 for i != j. For L(W) = 1/2 E|(W - W*) x|^2 with W [q, d_in] the Hessian is I_q "
    "x Sigma, Sigma = D^T diag(e) D, of rank q rank(D), and the learning coefficient (q/2) rank(D) "
    "<= q d_in / 2 is blind to the number of features. At N samples and a prior of precision alpha "
    "about W*, (q/2) sum_j N lambda_j / (N lambda_j + alpha) is the slope of -ln evidence in ln N, "
    "never falls with N, and tends to that.",
    source="new; learning coefficient: Watanabe 2009 (textbook)",
    proof="L is quadratic in W; -ln evidence is (q/2) ln det(I + N Sigma / alpha), whose slope in "
    "ln N rises with N; the nonzero spectra of D^T E D and E^(1/2) D D^T E^(1/2) agree",
    status="proved",
    kind="exact",
    paper_label="eq:learning-coefficient",
    strategy=fitted,
    compare=compare,
    mutants=(
        Mutant("counts-features", "The learning coefficient is (q/2) n_features", counts_features),
        Mutant(
            "any-number-of-samples",
            "The coefficient of a finite sample is already (q/2) rank(D)",
            any_number_of_samples,
        ),
    ),
)
