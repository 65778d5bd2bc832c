"""What the folders hold: a new file is found without being registered."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

from toymodels import dictionaries, distributions
from toymodels.checks import check
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
    """Returns every dictionary in toymodels/dictionaries/: the function named like its file.

    Raises:
        ValueError: a file without such a function.
    """
    return tuple(_named_like_its_file(module) for module in _modules(dictionaries))


def _named_like_its_file(module: ModuleType) -> Callable[..., Dictionary]:
    name = module.__name__.rpartition(".")[2]
    make: Any = getattr(module, name, None)
    own = [key for key, f in inspect.getmembers(module, inspect.isfunction)
           if f.__module__ == module.__name__]  # fmt: skip
    rule = f"a function {name} in toymodels/dictionaries/{name}.py"
    check(callable(make), "all_dictionaries", rule, "name it like its file", functions=own)
    return make


def _modules(package: ModuleType) -> list[ModuleType]:
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]
