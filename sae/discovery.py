"""What sae/architectures/ holds: a new file is found without being registered."""

import importlib
import pkgutil

from sae import architectures
from sae.base import SAE


def all_saes() -> tuple[type[SAE], ...]:
    """Returns every architecture defined in sae/architectures/, by file name."""
    names = sorted(info.name for info in pkgutil.iter_modules(architectures.__path__))
    modules = [importlib.import_module(f"{architectures.__name__}.{name}") for name in names]
    return tuple(
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, SAE)
        and value.__module__ == module.__name__
    )
