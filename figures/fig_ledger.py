"""Every claim survives the search that refutes each of its false variants within a few examples.

Left: the least margin by which each inequality of a claim held, one dot for each search; those on
the left edge are attained, so no smaller constant would do. A claim of equalities has no dots.
Right: how many instances the same search needed to refute each mutant (and each claim kept because
it is false): median and range over searches that differ in their seed alone. A claim's survival is
worth as much as the mutants that fell beside it.

Paper: fig:ledger.
"""

import hashlib
import importlib
import inspect
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.runs import map_cached, require

FEW = 20  # instances, of up to a thousand, that are enough for three mutants in four
ATTAINED = 1e-9  # a margin of rounding alone


@dataclass(frozen=True)
class Config:
    """Which claims (all if none is named), searches of each, and instances to try in one.

    mutants_are_true: each mutant is replaced by the claim itself, with which no search succeeds.
    """

    n_worlds: int
    keys: tuple[str, ...] = ()
    examples: int = 50
    most_to_refute: int = 1000
    mutants_are_true: bool = False


CONFIGS = {
    "smoke": Config(2, ("A2", "D6"), examples=20, most_to_refute=100),
    "quick": Config(3, examples=40),
    "paper": Config(8, examples=200),
}


@dataclass(frozen=True)
class Search:
    """One search on a claim and its mutants. The store does not know the source; `source` does."""

    key: str
    seed: int
    examples: int
    most_to_refute: int
    mutants_are_true: bool
    source: str


def search(run: Search) -> dict[str, np.ndarray]:
    """Returns the margins met, least first, and the instances each false variant survived."""
    claims = importlib.import_module("theory.claims")  # needs hypothesis, which figures do not
    claim = claims.find_claim(run.key)
    falls = [claim] if claim.status == "refuted" else []
    falls += [claim if run.mutants_are_true else claim.variant(m) for m in claim.mutants]
    needed = []
    for false in falls:
        found = claims.check(false, examples=run.most_to_refute, seed=run.seed, shrink=False)
        needed.append(found.n_examples if found.counterexample else np.nan)
    closest = ()
    if claim.status != "refuted":
        closest = claims.check(claim, examples=run.examples, seed=run.seed).closest
    return {
        "margins": np.array([c.margin for c in closest], dtype=float),
        "bounds": np.array([c.margin for c in closest if c.relation == "<="], dtype=float),
        "needed": np.array(needed, dtype=float),
    }


def compute(cfg: Config) -> dict[str, np.ndarray]:
    found = importlib.import_module("theory.claims").all_claims()
    searched = [c for c in found if c.kind != "trained"]
    claims = [c for c in searched if c.key in cfg.keys or not cfg.keys]
    texts = [inspect.getsource(inspect.getmodule(c.compare) or c.compare) for c in claims]
    sources = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    settings = (cfg.examples, cfg.most_to_refute, cfg.mutants_are_true)
    runs = [
        Search(c.key, seed, *settings, source)
        for seed in range(cfg.n_worlds)
        for c, source in zip(claims, sources, strict=True)
    ]
    results = map_cached(search, runs)
    by_world = [results[i : i + len(claims)] for i in range(0, len(runs), len(claims))]
    needed = np.array([np.concatenate([r["needed"] for r in world]) for world in by_world])
    per_claim = [len(r["needed"]) for r in by_world[0]]
    least = [[r["margins"].min(initial=np.inf) for r in world] for world in by_world]
    refuted = np.isfinite(needed)
    counted = np.where(refuted, needed, np.inf)
    ranks = np.concatenate([np.arange(n) for n in per_claim])
    rows = np.repeat(np.arange(len(claims)), per_claim)
    slack = [(i, m) for world in by_world for i, r in enumerate(world) for m in r["bounds"]]
    return {
        "key": np.array([c.key for c in claims]),
        "least_margin_by_world": np.array(least, dtype=float),
        "refuted_by_world": refuted.astype(float),
        "needed_by_world": needed,
        "needed_middle": np.median(counted, axis=0),
        "needed_low": counted.min(0),
        "needed_high": counted.max(0),
        "mutant_height": rows + 0.7 * (ranks / np.array(per_claim)[rows] - 0.3),
        "slack": np.maximum([m for _, m in slack], ATTAINED),
        "slack_height": np.array([i for i, _ in slack]),
        "n_claims": np.array(len(claims)),
        "n_mutants": np.array(needed.shape[1]),
        "refuted_in_every_search": refuted.all(0).mean(),
        "needed_median": np.median(counted),
        "needed_three_quarters": np.quantile(counted, 0.75, method="higher"),
        "needed_most": counted.max(),
    }


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    refuted = data["refuted_by_world"]
    return require(
        {
            "no claim was refuted in any search": np.min(data["least_margin_by_world"]),
            "every mutant was refuted in every search": 0.0 - np.abs(refuted - 1).max(),
            "three in four within few instances": FEW - float(data["needed_three_quarters"]),
        }
    )


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same searches, set on the claims themselves in place of their mutants."""
    return compute(replace(cfg, mutants_are_true=True))


def plot(data: dict[str, np.ndarray]) -> Figure:
    keys = data["key"].tolist()
    fig, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(6.4, 1.2 + 0.16 * len(keys)))
    left.plot(data["slack"], data["slack_height"], "o", color="#0072B2", alpha=0.35, ms=3)
    left.set_xscale("log")
    left.axvline(ATTAINED, color="0.6", lw=0.8, zorder=0)
    left.set_xlabel("least margin of each inequality\n← attained         (dimensionless)")
    left.set_yticks(range(len(keys)), keys)
    left.set_ylim(len(keys) - 0.4, -0.6)
    left.set_ylabel("claim")
    height = data["mutant_height"]
    right.hlines(height, data["needed_low"], data["needed_high"], color="#D55E00", lw=0.8)
    right.plot(data["needed_middle"], height, "o", color="#D55E00", ms=2.5)
    right.axvline(FEW, color="0.6", lw=0.8, zorder=0)
    right.set_xscale("log")
    right.set_xlabel("instances needed to refute each mutant\n(median and range over searches)")
    for ax in (left, right):
        ax.grid(axis="y", color="0.92", lw=0.5)
        ax.set_axisbelow(True)
    return fig
