"""Points of fig_signs and fig_sign_laws: several worlds at a place, and ratios of errors."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#009E73", "#D55E00", "#000000")
MARKERS = ("o", "^", "s", "D")
MOST = 1e3  # ratios are drawn from 1/MOST to MOST


def ratio(gain: np.ndarray) -> np.ndarray:
    """Returns error with over error without the negatives, within what is drawn."""
    return np.clip(1 - gain, 1 / MOST, MOST)


def points(ax: Axes, x: np.ndarray, y: np.ndarray, i: int, label: str = "") -> None:
    """Mean over worlds (the median where the axis is a ratio's) and their range."""
    centre = np.median(y, 0) if ax.get_yscale() == "log" else y.mean(0)
    spread = np.stack([centre - y.min(0), y.max(0) - centre]).clip(min=0)  # rounding
    style: dict[str, Any] = {"fmt": MARKERS[i], "color": COLOURS[i], "capsize": 0, "ms": 4}
    ax.errorbar(x, centre, yerr=spread, elinewidth=0.8, label=label, **style)
