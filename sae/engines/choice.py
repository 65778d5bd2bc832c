"""Which engine trains a run."""

from collections.abc import Sequence

from sae.base import SAE
from sae.checks import check
from sae.config import TrainConfig
from sae.engines.eager import Eager
from sae.engines.engine import Engine
from sae.engines.rows import Rows
from sae.engines.stacked import Stacked

# The fastest first; the last trains everything.
_ENGINES: tuple[type[Engine], ...] = (Rows, Stacked, Eager)


def engines() -> tuple[str, ...]:
    """Returns the names of all engines, the fastest first."""
    return tuple(engine.name for engine in _ENGINES)


def choose(name: str, saes: Sequence[SAE], config: TrainConfig) -> list[type[Engine]]:
    """Returns for each SAE the engine of that name, or for "auto" the first that does not refuse.

    The choice follows from architecture, device and config, never from the other members.

    Raises:
        ValueError: no engine of that name, or it refuses an SAE.
    """
    names = ("auto", *engines())
    check(name in names, "train", f"an engine among {names}", engine=name)
    if name == "auto":
        return [next(e for e in _ENGINES if _takes(e, sae, config)) for sae in saes]
    (engine,) = (engine for engine in _ENGINES if engine.name == name)
    for i, sae in enumerate(saes):
        why = engine.refusal(sae, config)
        rule = f'SAEs that the engine "{name}" can train'
        check(not why, "train", rule, 'use engine="auto"', **{f"member_{i}": why})
    return [engine] * len(saes)


def _takes(engine: type[Engine], sae: SAE, config: TrainConfig) -> bool:
    return engine.automatic(sae) and not engine.refusal(sae, config)
