"""What the papers of fig_pathologies print, how they train, and what their objective is best at."""

from dataclasses import replace

import numpy as np
from scipy import stats

from figures.pathology_runs import Training

WORLDS = {"independent": "independent", "hierarchical": "hierarchy", "batch_topk": "BatchTopK"}
VARIANTS = {  # spread of magnitudes, Pr(parent silent | child), label, published share
    "sd": (0.1, 0.0, "magnitudes, sd .1", 0.78),
    "magnitudes": (0.1**0.5, 0.0, "magnitudes, variance .1", 0.78),
    "cooccurrence": (0.0, 0.05, "95 % co-occurrence", 0.32),
}
L1, L1_PUBLISHED = 0.01, 3e-5
L1_SD, L1_COOCCURRENCE = 0.0145, 0.039  # at which the published shares are best
NUMBERS = {
    "parent (1, 1)": 0.22, "parent (.9, 1)": 0.12, "parent (.75, 1)": 0.0, "child (1, 1)": 1.27,
    "parent (1, 1) ": 0.67, "child (1, 1) ": 1.05, "child (0, 1) ": 0.95,
}  # fmt: skip
CORRELATED = {"independent": 0, "hierarchical": 1, "positive": 1, "negative": -1}
FEATURE_2 = 0.2  # its firing probability in the independent world
CLOSE = 0.05  # of a parent's magnitude: the size of an error that the published plots would show
PUBLISHED = Training(24_414, 4096, 3e-4, 0.0)
SMALLER = replace(PUBLISHED, n_steps=97_656, batch_size=1024)  # where no batch is published
FEW, FEW_KS = Training(14_648, 1024, 3e-4, 0.0), (7, 9, 11, 13, 20)  # ks below, at and above 11
TREE = Training(40_000, 200, 3e-2, 0.2)
RECIPES = (PUBLISHED, SMALLER, FEW, TREE)
TRUE_L0 = 11  # of the world of 50 features, rounded


def saving(delta: np.ndarray) -> np.ndarray:
    """Returns the L1 saved where both fire, with unit rows."""
    return 1 + delta - np.sqrt(1 + delta**2)


def best_share(l1: float, spread: float, alone: float) -> float:
    """Returns the share delta that is best within the family of absorbing SAEs, to 1/400.

    Encoders d_p - delta d_c and d_c, unit rows d_p and d_c + delta d_p: with parent a and child b
    L(delta) = p11 [E(delta b - a)_+^2 + l1 E(a - delta b)_+ + l1 sqrt(1 + delta^2) E b]
             + p01 min_z [1 - 2 c z + z^2 + l1 z],   c = 1 / sqrt(1 + delta^2).

    Args:
        l1: > 0.
        spread: standard deviation of a and b, N(1, spread^2) cut at 0.
        alone: Pr(parent silent | child fires); 0 is a hierarchy.
    """
    nodes = np.linspace(-5, 5, 201) if spread > 0 else np.zeros(1)
    weights = stats.norm.pdf(nodes) / stats.norm.pdf(nodes).sum()
    a = np.maximum(1 + spread * nodes, 0)
    joint, costs = np.outer(weights, weights), []
    deltas = np.linspace(0, 1, 401)
    for delta in deltas:
        left = a[:, None] - delta * a
        cost = np.maximum(-left, 0) ** 2 + l1 * np.maximum(left, 0)
        row = np.sqrt(1 + delta**2)
        both = (joint * cost).sum() + l1 * row * (weights @ a)
        z = max(1 / row - l1 / 2, 0)
        costs.append((1 - alone) * both + alone * (1 - 2 * z / row + z * z + l1 * z))
    return float(deltas[np.argmin(costs)])
