"""Original ids by number, in the lists of KGAT's format.

A line holds an original id, its number and perhaps more, such as an item's entity: ``org_id
remap_id freebase_id``, as the first line says unless it is left out. Tabs separate the columns, or
else blanks, and then an original id may hold blanks too, while the columns after the number may be
empty.
"""

from __future__ import annotations

import re
from pathlib import Path

from ekpnet_fast.data.formats.final import ID
from ekpnet_fast.data.formats.parse import read_lines
from ekpnet_fast.data.tables import INT32_MAX
from ekpnet_fast.errors import DataError

__all__ = ["read_ids"]

_HEADER = "a header of org_id, remap_id, or an original id and its number"


def read_ids(path: Path) -> dict[int, str]:
    """Original ids by number; none where there is no file.

    Raises:
        DataError: a line that is none of a list, or another id for a number.
    """
    found: dict[int, str] = {}
    if not path.is_file():
        return found
    unsure: list[tuple[int, str, dict[int, str]]] = []
    after = -1  # columns after that of the number
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        if after < 0:
            header = line.split()
            if header[:2] == ["org_id", "remap_id"]:
                after = len(header) - 2
                continue
            after = _columns_after(line)
            if after < 0:
                raise DataError.at(path, number, line, _HEADER)
        ways = _ways(line, after)
        if not ways:
            raise DataError.at(path, number, line, f"an original id and {ID}")
        if len(ways) > 1:
            unsure.append((number, line, ways))
            continue
        ((key, original),) = ways.items()
        if found.setdefault(key, original) != original:
            raise DataError.at(path, number, line, f"one original id of {key}")
    # All columns are there, unless another line has the number, or it leaves a gap.
    count = len(found) + len(unsure)
    for number, line, ways in unsure:
        free = [key for key, text in ways.items() if found.get(key, text) == text]
        if not free:
            told = " and ".join(map(str, ways))
            raise DataError.at(path, number, line, f"a number that no other line has, not {told}")
        key = next((key for key in free if key < count), free[0])
        found[key] = ways[key]
    return found


def _columns_after(line: str) -> int:
    """Columns after that of the number, told from a first line that is no header; -1 for none."""
    tabs = "\t" in line
    fields = line.split("\t") if tabs else line.split()
    places = [place for place, field in enumerate(fields) if place and _number(field) is not None]
    if not places:
        return -1
    zeros = [place for place in places if fields[place] == "0"]  # numbers mostly begin there
    return len(fields) - 1 - (places[0] if tabs else (zeros or places)[-1])


def _ways(line: str, after: int) -> dict[int, str]:
    """Original id by number, in each way that a line may be read, that with all columns first."""
    if "\t" in line:
        original, key = (*line.split("\t"), "")[:2]
        number = _number(key.strip())
        return {} if number is None or not original.strip() else {number: original.strip()}
    # Two blanks side by side, or one at the end, say that a column is empty.
    fields = line.split(" ")
    place = len(fields) - 1 - after
    if len(fields) > len(line.split()) and place > 0:
        number, original = _number(fields[place]), " ".join(fields[:place]).strip()
        if number is not None and original:
            return {number: original}
    ways: dict[int, str] = {}
    fields = line.split()
    for place in range(max(1, len(fields) - 1 - after), len(fields)):
        number = _number(fields[place])
        if number is not None:
            ways.setdefault(number, " ".join(fields[:place]))
    return ways


def _number(field: str) -> int | None:
    """Number of an id; None where it is none."""
    known = re.fullmatch("[0-9]{1,10}", field) and int(field) < INT32_MAX
    return int(field) if known else None
