"""Every figure at smoke: its claim holds, its broken twin is refused, its files repeat."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from figures.draw import load
from figures.runner import discover

ROOT = Path(__file__).resolve().parent.parent
FIGURES = discover(ROOT / "figures")
QUICKLY = ("fig_recovery", "fig_einstein")  # drawn twice here, all others in make deep


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A fresh store for the module, so that nothing computed before can stand in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAE_TESTBED_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield


@pytest.fixture(scope="module", params=FIGURES, ids=str)
def figure(request, store):
    module = load(FIGURES[request.param])
    config = module.CONFIGS["smoke"]
    return module, config, module.compute(config)


def test_claim_holds_and_is_drawn(figure):
    module, config, data = figure
    margins = module.check(data, config)
    assert min(margins.values()) >= 0
    drawn = module.plot(data)
    assert all(ax.get_xlabel() or ax.get_shared_x_axes().get_siblings(ax) for ax in drawn.axes)
    assert all(ax.has_data() for ax in drawn.axes), "an empty panel"
    plt.close(drawn)


def test_broken_twin_is_refused(figure):
    module, config, _ = figure
    with pytest.raises(AssertionError):
        module.check(module.broken(config), config)


def test_check_reads_the_trained_models(figure):
    """Scores of 2, which no fraction or cosine reaches, must be refused."""
    module, config, data = figure
    scores = [n for n, a in data.items() if n.endswith("by_world") and a.dtype.kind == "f"]
    spoiled = {name: np.full_like(data[name], 2.0) for name in scores}
    try:
        module.check({**data, **spoiled}, config)
    except AssertionError:
        return
    pytest.fail(
        f"{module.__name__}: check accepts {scores} replaced by 2.0; give it a margin that reads "
        "them and that no such score satisfies, as an upper bound does"
    )


def test_presets_keep_their_promises(figure):
    module, _, _ = figure
    worlds = {preset: config.n_worlds for preset, config in module.CONFIGS.items()}
    assert worlds["smoke"] >= 2
    assert worlds["quick"] >= 3
    assert worlds["paper"] >= 5
    for config in module.CONFIGS.values():
        assert dataclasses.is_dataclass(config)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICKLY else pytest.param(name, marks=pytest.mark.slow) for name in FIGURES],
)
def test_two_runs_give_the_same_bytes(name, tmp_path):
    """Two fresh processes with fresh stores write identical pictures and arrays."""
    written = []
    for attempt in ("first", "second"):
        out = tmp_path / attempt
        environment = {**os.environ, "SAE_TESTBED_RUNS": str(tmp_path / f"{attempt}-runs")}
        command = [sys.executable, "-m", "figures", name, "--preset", "smoke", "--out", str(out)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        written.append({s: (out / f"{name}{s}").read_bytes() for s in (".pdf", ".png", ".npz")})
        record = json.loads((out / f"{name}.run.json").read_text())
        assert record["runs"]["computed"] > 0
    assert written[0] == written[1]
