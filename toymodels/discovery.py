"""What the folders hold: a new file is found without being registered."""

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType

from toymodels import dictionaries, distributions
from toymodels.dictionary import Dictionary
from toymodels.distribution import ToyDistribution


def all_distributions() -> tuple[type[ToyDistribution], ...]:
    """Returns every distribution defined in toymodels/distributions/, by file name."""
    return tuple(
        value
        for module in _modules(distributions)
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, ToyDistribution)
        and value.__module__ == module.__name__
    )


def all_dictionaries() -> tuple[Callable[..., Dictionary], ...]:
    """Returns every dictionary in toymodels/dictionaries/: the function named like its file."""
    return tuple(
        getattr(module, module.__name__.rpartition(".")[2]) for module in _modules(dictionaries)
    )


def _modules(package: ModuleType) -> list[ModuleType]:
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]
