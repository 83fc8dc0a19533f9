"""Options that have their types already, as a stored run's have, made without a parser.

The parser of the command line takes a third of a second to import and to build, which every command
that opens a run's folder would wait for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["UnfitError", "changed"]

_NULLS = ("", "~", "null", "Null", "NULL")  # texts that the parser takes for None


class UnfitError(Exception):
    """Signal that a value needs the parser: to be converted, or to be refused."""


def changed(base: Any, values: Mapping[str, Any]) -> Any:
    """Copy of a dataclass's instance with some fields, and fields of these, set.

    Raises:
        UnfitError: a name that the class does not have, or a value of another type.
    """
    hints = get_type_hints(type(base))
    if not values.keys() <= hints.keys():
        raise UnfitError
    fitted = {
        name: _fitted(hints[name], value, getattr(base, name)) for name, value in values.items()
    }
    return replace(base, **fitted)


def _fitted(hint: Any, value: Any, default: Any = None) -> Any:
    """Value as the parser would give it: whole numbers as floats, texts as paths, and so on."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return _first_that_fits(arguments, value)
    if kind is Literal:
        fits = isinstance(value, str) and value in arguments
    elif kind is tuple:
        if isinstance(value, list | tuple) and arguments[1:] == (...,):
            return tuple(_fitted(arguments[0], item) for item in value)
        fits = False
    elif is_dataclass(hint):
        if isinstance(value, Mapping):
            return changed(default, value)
        fits = False
    elif hint is Path:
        if isinstance(value, str | Path) and str(value) not in _NULLS:
            return Path(value)
        fits = False
    elif hint is float and type(value) is int:
        return float(value)
    else:
        fits = hint in (bool, int, float, str, NoneType) and type(value) is hint
    if not fits:
        raise UnfitError
    return value


def _first_that_fits(hints: tuple[Any, ...], value: Any) -> Any:
    for hint in hints:
        try:
            return _fitted(hint, value)
        except UnfitError:
            pass
    raise UnfitError
