"""Compares regenerated arrays with the committed ones, which another machine has made.

Another processor or thread count does not give the same bits, and trained runs amplify that; so
each kind of array has its tolerance (difference of regenerated and committed value, entrywise):

    <name>_by_world, [n_worlds, ...]    means over worlds: 0.02 max|ref| + 4 standard
                                        errors, from the spread over the worlds of both
    other integers, truth values, text  equal
    other floats                        0.05 max|ref|

max|ref| is over the finite entries of the committed array. NaN and infinity must be where they are
in the committed array. A change below its tolerance passes: this says that a figure is regenerated,
not that no digit moved.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Line:
    """One array of a comparison, at its worst entry: the one that exceeds its tolerance most."""

    name: str
    difference: float
    tolerance: float
    verdict: str  # "same", or what is wrong


def compare(scripts: dict[str, Path], out: Path, reference: Path) -> int:
    """Prints a table per figure; returns 0 if all agree, 1 if any differs, else 2: no reference."""
    code = 0
    for name in scripts:
        ours, committed = out / f"{name}.npz", reference / f"{name}.npz"
        again = f"python -m figures {name} --preset paper"
        if not committed.exists():
            print(f"{name}: there is no reference {committed}")
            code = code or 2
            continue
        if not ours.exists():
            print(f"{name}: not regenerated, {ours} is missing; run {again}")
            code = 1
            continue
        print(f"{name}:")
        lines = compare_arrays(_load(ours), _load(committed))
        for line in lines:
            numbers = f"difference {line.difference:<10.3g} tolerance {line.tolerance:<10.3g}"
            print(f"    {line.name:<32} {numbers} {line.verdict}")
        record = out / f"{name}.run.json"
        preset = json.loads(record.read_text())["preset"] if record.exists() else "(unknown)"
        if preset != "paper":
            print(f"    made at the preset {preset}, the reference at paper; run {again}")
        if preset != "paper" or any(line.verdict != "same" for line in lines):
            code = 1
    return code


def compare_arrays(ours: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> list[Line]:
    """Returns one line per array of either, in alphabetical order."""
    lines = []
    for name in sorted(ours | reference):
        if name not in reference:
            lines.append(Line(name, np.nan, np.nan, "not in the reference"))
        elif name not in ours:
            lines.append(Line(name, np.nan, np.nan, "not regenerated"))
        else:
            lines.append(_compare_one(name, ours[name], reference[name]))
    return lines


def _compare_one(name: str, ours: np.ndarray, ref: np.ndarray) -> Line:
    if ours.shape != ref.shape:
        verdict = f"SHAPES DIFFER: {ours.shape}, reference {ref.shape}"
        return Line(name, np.nan, np.nan, verdict)
    by_world = name.endswith("_by_world")
    if (ours.dtype.kind == "U") != (ref.dtype.kind == "U"):
        return Line(name, np.nan, np.nan, f"KINDS DIFFER: {ours.dtype}, reference {ref.dtype}")
    if ref.dtype.kind == "U" or not (by_world or ref.dtype.kind in "fc"):
        unequal = int((ours != ref).sum())
        verdict = f"{unequal} OF {ref.size} ENTRIES DIFFER" if unequal else "same"
        return Line(name, float(unequal > 0), 0.0, verdict)
    finite = np.isfinite(ref)
    odd = ~finite | ~np.isfinite(ours)
    if not np.array_equal(ours[odd], ref[odd], equal_nan=True):
        return Line(name, np.nan, np.nan, "NaN OR INFINITY ELSEWHERE")
    ours, ref = ours.astype(np.result_type(ours, float)), ref.astype(np.result_type(ref, float))
    scale = float(np.abs(ref[finite]).max(initial=0.0))
    if by_world:
        mean, error = _mean_over_worlds(ours, finite)
        mean_ref, error_ref = _mean_over_worlds(ref, finite)
        difference = np.abs(mean - mean_ref)
        tolerance = 0.02 * scale + 4 * np.sqrt(error**2 + error_ref**2)
    else:
        difference = np.abs(np.where(finite, ours, 0) - np.where(finite, ref, 0))
        tolerance = np.full(ref.shape, 0.05 * scale)
    if difference.size == 0:
        return Line(name, 0.0, 0.0, "same")
    worst = np.unravel_index(np.argmax(difference - tolerance), difference.shape)
    verdict = "same" if difference[worst] <= tolerance[worst] else "DIFFERS"
    return Line(name, float(difference[worst]), float(tolerance[worst]), verdict)


def _mean_over_worlds(array: np.ndarray, finite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over axis 0 of the finite entries and its standard error; 0 where there is no spread."""
    count = finite.sum(axis=0)
    mean = np.where(finite, array, 0).sum(axis=0) / np.maximum(count, 1)
    squares = (np.abs(np.where(finite, array - mean, 0)) ** 2).sum(axis=0)
    return mean, np.sqrt(squares / np.maximum(count - 1, 1) / np.maximum(count, 1))


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
