"""Names of a room's face that are imported on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(room: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """`__getattr__` of a room (PEP 562) that imports the names of its face on first use.

    Args:
        room: its `__name__`.
        homes: the module that each name is from.
    """

    def find(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        raise AttributeError(f"module {room!r} has no attribute {name!r}")

    return find
