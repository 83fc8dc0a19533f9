"""Format of KGAT, KGIN and their relatives: already split.

``train.txt``, ``test.txt`` and, if there is one, ``valid.txt`` hold a user a line, ``user item item
...``; ``kg_final.txt`` or ``.npy`` rows ``head relation tail``. All ids are 0-based numbers, and an
item's id is its entity id. ``item_list.txt``, ``entity_list.txt``, ``relation_list.txt`` and
``user_list.txt``, each read if present, hold the original ids (see `id_lists`);
``item_names.txt``, as in the final format, names for people.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.formats.final import (
    ID,
    RATING_FILES,
    expect_dense,
    read_graph,
    read_names,
    told_graph,
)
from ekpnet_fast.data.formats.id_lists import read_ids
from ekpnet_fast.data.formats.opened import open_text, packed_or_not
from ekpnet_fast.data.formats.split import PARTS, given_split
from ekpnet_fast.data.pair_keys import sorted_distinct
from ekpnet_fast.data.tables import INT32_MAX, Dataset, Int32, Interactions
from ekpnet_fast.errors import DataError, quote

__all__ = ["has_kgat", "load_kgat", "read_lists"]

_CHUNK = 1 << 24  # bytes of a file in memory at a time
_OTHER, _DIGIT, _BLANK = range(3)
_KINDS = np.full(256, _OTHER, dtype=np.uint8)
_KINDS[list(b"0123456789")] = _DIGIT
_KINDS[list(b" \t\r\n")] = _BLANK
_LONGEST = len(str(INT32_MAX))


def has_kgat(folder: Path) -> bool:
    """Whether the folder holds a train.txt or a test.txt, and no ratings in the final format."""
    found = any(packed_or_not(folder, f"{part}.txt").is_file() for part in ("train", "test"))
    return found and not any(packed_or_not(folder, name).is_file() for name in RATING_FILES)


def load_kgat(folder: Path, name: str) -> Dataset:
    """Read a folder in KGAT's format.

    The numbers of users, items and relations are the largest id plus one, over all files; the
    number of entities is the largest id over triples and items plus one, so ids without triples
    keep their place. Without a file of triples the graph has none, and one relation that nothing
    has. Pairs that a file repeats are merged and counted.

    Raises:
        DataError: a missing or broken file, with line and finding.
    """
    lists, owners, num_users, num_items = {}, {}, 0, 0
    paths = {part: packed_or_not(folder, f"{part}.txt") for part in PARTS}
    if not paths["valid"].is_file():
        del paths["valid"]
    for part, path in paths.items():
        if not path.is_file():
            raise DataError(f"{folder}: found no {path.name}, expected train.txt and test.txt")
        users, items, listed = read_lists(path)
        lists[part] = users, items
        owners[part] = listed
        num_users = max(num_users, int(listed.max()) + 1)
        num_items = max(num_items, int(items.max(initial=-1)) + 1)
    user_ids, item_ids, entity_ids, relation_ids = (
        read_ids(packed_or_not(folder, f"{kind}_list.txt"))
        for kind in ("user", "item", "entity", "relation")
    )
    kg_file, (heads, relations, tails) = read_graph(folder)
    size = sum(len(users) for users, _ in lists.values()) + len(heads)
    for part, (_, items) in lists.items():
        path = paths[part]
        expect_dense(path, {"user": owners[part]}, size, _line_of_list)
        expect_dense(path, {"item": items}, size, _line_of_pair)
    if kg_file is not None:
        expect_dense(kg_file, {"head": heads, "relation": relations, "tail": tails}, size)
    num_users, num_items = max(num_users, _count(user_ids)), max(num_items, _count(item_ids))
    nodes = (int(column.max(initial=-1)) + 1 for column in (heads, tails))
    num_entities = max(num_items, *nodes, _count(entity_ids))
    num_relations = int(relations.max(initial=0)) + 1
    num_relations = max(num_relations, _count(relation_ids))
    keys = {
        part: users.astype(np.int64) * num_items + items for part, (users, items) in lists.items()
    }
    pairs = sorted_distinct(np.concatenate([*keys.values()]))
    users, items = (x.astype(np.int32) for x in np.divmod(pairs, max(num_items, 1)))
    files = [*(path.name for path in paths.values()), told_graph(kg_file)]
    return Dataset(
        name=name,
        rows=None,
        interactions=Interactions(users, items, np.ones(len(users), dtype=np.bool_)),
        heads=heads,
        relations=relations,
        tails=tails,
        num_users=num_users,
        num_items=num_items,
        num_entities=num_entities,
        num_relations=num_relations,
        user_ids=_distinct_ids(folder, "user", user_ids, num_users),
        item_ids=_distinct_ids(folder, "item", item_ids, num_items),
        entity_ids=_all_ids(entity_ids, num_entities),
        relation_names=_all_ids(relation_ids, num_relations),
        item_names=read_names(packed_or_not(folder, "item_names.txt"), num_items),
        source=f"KGAT's format: {', '.join(files)}",
        split=given_split(pairs, keys),
    )


def read_lists(path: Path) -> tuple[Int32, Int32, Int32]:
    """Read lines ``user item item ...``.

    Returns:
        users [n] and items [n], the pairs in the order of the file; and the users [lines] that have
        a line, which may be of the user alone.

    Raises:
        DataError: a missing or empty file, or the first field that is no id, with its line.
    """
    users, items, listed = [], [], []
    for before, text in _chunks(path):
        starts, values, lines = _numbers(path, before, text)
        first = np.diff(lines, prepend=-1) != 0
        owners = values[first]
        counts = np.diff(np.append(np.flatnonzero(first), len(starts))) - 1
        users.append(np.repeat(owners, counts))
        items.append(values[~first])
        listed.append(owners)
    if not sum(map(len, listed)):
        raise DataError.about(path, None, "no rows", "lines of a user and its items")
    return np.concatenate(users), np.concatenate(items), np.concatenate(listed)


def _line_of_list(path: Path, row: int) -> int:
    """Line of a user's list, blank ones not counted as lists."""
    for before, text in _chunks(path):
        for number, line in enumerate(text.split(b"\n"), before + 1):
            row -= bool(line.strip())
            if row < 0:
                return number
    raise IndexError(row)


def _line_of_pair(path: Path, row: int) -> int:
    """Line of a pair, in the order of the file."""
    for before, text in _chunks(path):
        for number, line in enumerate(text.split(b"\n"), before + 1):
            pairs = max(len(line.split()) - 1, 0)
            if row < pairs:
                return number
            row -= pairs
    raise IndexError(row)


def _chunks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Pieces of whole lines, each with the number of lines before it."""
    lines = 0
    with open_text(path) as opened:
        file = opened.file
        file.seek(0)
        while text := file.read(_CHUNK) + file.readline():
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")  # of old Macs
            yield lines, text.removeprefix(codecs.BOM_UTF8) if not lines else text
            lines += text.count(b"\n")


def _numbers(path: Path, before: int, text: bytes) -> tuple[NDArray[np.int64], Int32, Int32]:
    """Begins [n], values [n] and lines [n], from 0, of the fields of some lines."""
    raw = np.frombuffer(text, dtype=np.uint8)
    kinds = _KINDS[raw]
    if not kinds.all():
        raise _no_id(path, before, text, int(np.argmin(kinds)))
    turns = np.flatnonzero(np.diff(kinds == _DIGIT, prepend=False, append=False))
    starts, ends = turns[::2], turns[1::2]
    long = ends - starts > _LONGEST
    if long.any():
        raise _no_id(path, before, text, int(starts[np.argmax(long)]))
    values = np.fromstring(text, dtype=np.int64, sep=" ")
    if len(values) and values.max() >= INT32_MAX:
        raise _no_id(path, before, text, int(starts[np.argmax(values)]))
    lines = np.searchsorted(np.flatnonzero(raw == ord("\n")), starts)
    return starts, values.astype(np.int32), lines.astype(np.int32)


def _no_id(path: Path, before: int, text: bytes, at: int) -> DataError:
    """Error about the field around a byte."""
    line = text.count(b"\n", 0, at)
    start = text.rfind(b"\n", 0, at) + 1
    fields_before = text[start:at].split()
    inside = at > start and _KINDS[text[at - 1]] != _BLANK
    number = len(fields_before) - inside
    field = text[start:].split(b"\n", 1)[0].split()[number]
    what = "item" if number else "user"
    return DataError.about(
        path, before + line + 1, f"{what} {quote(field.decode(errors='replace'))}", ID
    )


def _count(ids: dict[int, str]) -> int:
    """Numbers that the ids of a list need."""
    return max(ids, default=-1) + 1


def _all_ids(ids: dict[int, str], count: int) -> tuple[str, ...] | None:
    """Original ids [count], "" where the list has none; None without a list."""
    return tuple(ids.get(number, "") for number in range(count)) if ids else None


def _distinct_ids(
    folder: Path, kind: str, ids: dict[int, str], count: int
) -> tuple[str, ...] | None:
    """Original ids [count] of users or items, which are asked for by them; None without a list.

    Raises:
        DataError: one has none, or two have one.
    """
    path = folder / f"{kind}_list.txt"
    without = next((number for number in range(count) if number not in ids), None)
    if ids and without is not None:
        expected = f"one for each of 0 to {count - 1}; without the file numbers are the ids"
        raise DataError.about(path, None, f"no original id of {kind} {without}", expected)
    numbers: dict[str, int] = {}
    for number, original in ids.items():
        other = numbers.setdefault(original, number)
        if other != number:
            found = f"the original id {quote(original)} for {kind}s {other} and {number}"
            raise DataError.about(path, None, found, "distinct ids")
    return _all_ids(ids, count)
