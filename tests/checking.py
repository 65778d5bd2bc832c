"""The shape checks of the tests: each function is wrapped once, by beartype in one scope of axes.

jaxtyping's own wrapper binds the signature and checks the arguments before the call, and once more
with the result after it, which was half the time of many tests. Here beartype wraps the function,
so arguments and result are checked once each, and only a function whose hints name arrays opens a
scope in which an axis has one size. `install` comes before the packages are imported.
"""

import functools
import inspect
import typing
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, config

_theirs = jaxtyping.jaxtyped
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as elsewhere
_scope = _theirs("context")  # it keeps nothing itself, so it may be entered again within itself


def install() -> None:
    """Puts `jaxtyped` in the place where jaxtyping's import hook looks for its decorator."""
    jaxtyping.jaxtyped = jaxtyped


def jaxtyped(fn: Any = None, *, typechecker: Any) -> Any:
    """Returns `fn` with its hints checked in each call, unless the `unchecked` fixture is in use.

    Classes, generators, and functions with hints that are still strings are left to jaxtyping.
    """
    if fn is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    hints = _parts(list(getattr(fn, "__annotations__", {}).values()))
    unknown = any(isinstance(hint, str | typing.ForwardRef) for hint in hints)
    later = inspect.isgeneratorfunction(fn) or inspect.iscoroutinefunction(fn)
    if unknown or later or not inspect.isfunction(fn):
        return _theirs(fn, typechecker=_beartype)
    return _in_scope(fn) if any(map(_is_array, hints)) else _without_scope(fn)


def _in_scope(fn: Any) -> Any:
    checked = _beartype(fn)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if config.jaxtyping_disable:
            return fn(*args, **kwargs)
        with _scope:
            return checked(*args, **kwargs)

    return call


def _without_scope(fn: Any) -> Any:
    checked = _beartype(fn)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (fn if config.jaxtyping_disable else checked)(*args, **kwargs)

    return call


def _parts(hint: Any) -> list[Any]:
    """`hint` and all hints within it."""
    inner = hint if isinstance(hint, list | tuple) else typing.get_args(hint)
    return [hint, *(part for each in inner for part in _parts(each))]


def _is_array(hint: Any) -> bool:
    return inspect.isclass(hint) and issubclass(hint, AbstractArray)
