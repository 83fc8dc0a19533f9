"""YAML of people: plain values only, in a bounded time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ekpnet_fast.errors import DataError, quote, reason

__all__ = ["check_yaml", "read_yaml"]

MOST_BYTES = 256 * 1024
DEEPEST = 32


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Loader without aliases, a few of which stand for gigabytes, deep nesting, and names that
    stand for two values.
    """

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.events.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, f"found the alias *{event.anchor}, expected values", event.start_mark
            )
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.composer.ComposerError(
                None, None, f"nested deeper than {DEEPEST} levels", event.start_mark
            )
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"found {quote(twice)} twice, expected it once", node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        DataError: no such file, too large, no YAML, aliases, a name with two values, or values
            nested too deep.
    """
    if not path.is_file():
        found = "no plain file" if path.exists() else "no such file"
        raise DataError(f"{path}: found {found}, expected a YAML file")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)})") from error
    return _loaded(content, str(path))


def check_yaml(text: str, place: str) -> Any:
    """Read YAML from a text, which something else will load.

    Raises:
        DataError: as `read_yaml`; names the place.
    """
    return _loaded(text.encode("utf-8", errors="replace"), place)


def _loaded(content: bytes, place: str) -> Any:
    if len(content) > MOST_BYTES:
        raise DataError(f"{place}: found more than {MOST_BYTES:,} bytes, expected fewer in YAML")
    try:
        return yaml.load(content.decode("utf-8-sig"), Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        said = error.problem or error.context or "no YAML"
        raise DataError(f"{place}{line}: cannot be read as YAML ({said[:200]})") from error
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, RecursionError) as error:
        raise DataError(f"{place}: cannot be read as YAML ({reason(error)})") from error
