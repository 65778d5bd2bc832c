"""Hypothesis profiles, one torch thread, and the switch that lets tests see our own errors."""

import os

import checking

checking.install()  # before Hypothesis, which imports a package

import jaxtyping  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=20, **_COMMON)
settings.register_profile("ci", max_examples=50, derandomize=True, **_COMMON)
settings.register_profile("deep", max_examples=1000, print_blob=True, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

torch.set_num_threads(1)


@pytest.fixture
def unchecked():
    """Turns the shape checks of the tests off, as they are for users, who see our own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_configure(config):
    # The shape checks look at a random entry of each tuple[float, ...], which Hypothesis takes for
    # a strategy that draws from `random`. Ours do not: test_architecture_rules.py reads the source.
    config.addinivalue_line("filterwarnings", "ignore:Do not use the .random. module inside")
