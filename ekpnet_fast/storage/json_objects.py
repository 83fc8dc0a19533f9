"""Objects of JSON, each of whose names has one value."""

from __future__ import annotations

from typing import Any

from ekpnet_fast.errors import quote

__all__ = ["NamedTwiceError", "object_of"]


class NamedTwiceError(ValueError):
    """A name, quoted, that an object has more than once."""


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Object of names and values, as `json.loads` takes it for its `object_pairs_hook`.

    Raises:
        NamedTwiceError: of the names one comes twice, and a reader would see one of its values.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise NamedTwiceError(quote(next(name for name in names if names.count(name) > 1)))
    return found
