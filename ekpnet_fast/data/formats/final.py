"""Format "final" of RippleNet, KGCN, CKAN, MCCLK and their relatives.

``ratings_final.npy`` or ``.txt`` holds rows ``user item label``; ``kg_final.npy`` or ``.txt``, if
there is a graph, rows ``head relation tail``. All ids are 0-based numbers, and an item's id is its
entity id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ekpnet_fast.data.formats.mapping import LABEL
from ekpnet_fast.data.formats.opened import open_text, packed_or_not
from ekpnet_fast.data.formats.parse import (
    Column,
    Form,
    guess_separator,
    line_of,
    load_array,
    read_lines,
    read_text,
)
from ekpnet_fast.data.tables import INT32_MAX, Dataset, Examples, Int32
from ekpnet_fast.errors import DataError

__all__ = [
    "ID",
    "KG_FILES",
    "RATING_FILES",
    "expect_dense",
    "has_final",
    "load_final",
    "read_graph",
    "read_names",
    "told_graph",
]

RATING_FILES = ("ratings_final.npy", "ratings_final.txt")
KG_FILES = ("kg_final.npy", "kg_final.txt")

ID = "a whole number from 0 to 2147483646"
_RATING_COLUMNS = (
    Column("user", maximum=INT32_MAX - 1, expected=ID),
    Column("item", maximum=INT32_MAX - 1, expected=ID),
    LABEL,
)
_FEW_IDS = 1_000_000  # as many as this many are taken, however few rows there are
_FEW_RELATIONS = 10_000
_KG_COLUMNS = tuple(
    Column(name, maximum=INT32_MAX - 1, expected=ID) for name in ("head", "relation", "tail")
)


def has_final(folder: Path) -> bool:
    """Whether the folder holds a ratings_final or a kg_final file."""
    return any(packed_or_not(folder, name).is_file() for name in RATING_FILES + KG_FILES)


def load_final(folder: Path, name: str) -> Dataset:
    """Read a folder in the final format.

    The numbers of users, items and relations are the largest id plus one; the number of entities
    is the largest id over triples and items plus one, so ids without triples keep their place.
    Without a file of triples the graph has none, and one relation that nothing has. If present,
    ``item_names.txt`` (``item<TAB>name``) and ``relations.txt`` (a name a line) are
    read.

    Raises:
        DataError: a missing or broken file, with line and finding.
    """
    rating_file = _first(folder, RATING_FILES)
    users, items, labels = _read(rating_file, _RATING_COLUMNS)
    kg_file, (heads, relations, tails) = read_graph(folder)
    size = len(users) + len(heads)
    expect_dense(rating_file, {"user": users, "item": items}, size)
    if kg_file is not None:
        expect_dense(kg_file, {"head": heads, "relation": relations, "tail": tails}, size)
    rows = Examples(users, items, labels.astype(np.int8))
    _check_contradictions(rating_file, rows)
    num_items = int(items.max()) + 1
    num_relations = int(relations.max(initial=0)) + 1
    return Dataset(
        name=name,
        rows=rows,
        interactions=None,
        heads=heads,
        relations=relations,
        tails=tails,
        num_users=int(users.max()) + 1,
        num_items=num_items,
        num_entities=max(num_items, *(int(x.max(initial=-1)) + 1 for x in (heads, tails))),
        num_relations=num_relations,
        relation_names=_relation_names(
            packed_or_not(folder, "relations.txt"), None if kg_file is None else num_relations
        ),
        item_names=read_names(packed_or_not(folder, "item_names.txt"), num_items),
        source=f"final format: {rating_file.name}, {told_graph(kg_file)}",
    )


def read_graph(folder: Path) -> tuple[Path | None, tuple[Int32, Int32, Int32]]:
    """File of triples of a folder, and its heads, relations and tails [T]; none without a file.

    Raises:
        DataError: a broken file, with line and finding.
    """
    paths = (packed_or_not(folder, name) for name in KG_FILES)
    path = next((path for path in paths if path.is_file()), None)
    empty = np.zeros(0, dtype=np.int32)
    return path, (empty,) * 3 if path is None else read_triples(path)


def told_graph(path: Path | None) -> str:
    """Words for the file of triples in a data set's source."""
    return "no graph" if path is None else path.name


def read_triples(path: Path) -> tuple[Int32, Int32, Int32]:
    """Heads, relations and tails [T] of a ``kg_final`` file.

    Raises:
        DataError: a missing or broken file, with line and finding.
    """
    return _read(path, _KG_COLUMNS)


def read_names(path: Path, count: int) -> tuple[str, ...] | None:
    """Names by id from lines ``id<TAB>name``; "" where an id has none, None without the file.

    Raises:
        DataError: a line without an id from 0 to count - 1 and a tab.
    """
    if not path.is_file():
        return None
    names = [""] * count
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        key, tab, value = line.partition("\t")
        if not tab or not re.fullmatch("[0-9]{1,10}", key) or int(key) >= count:
            raise DataError.at(path, number, line, f"id from 0 to {count - 1}, tab, name")
        if names[int(key)] not in ("", value):
            raise DataError.at(path, number, line, f"one name of {key}, as in an earlier line")
        names[int(key)] = value
    return tuple(names)


def _relation_names(path: Path, count: int | None) -> tuple[str, ...] | None:
    """Names of `count` relations, None without the file; without a graph there must be none."""
    if not path.is_file():
        return None
    names = tuple(line for line in read_lines(path) if line.strip())
    if count is None:
        missing = f"{' or '.join(KG_FILES)} beside it, or no {path.name}"
        raise DataError.about(path, None, f"{len(names)} names of relations, but no graph", missing)
    if len(names) != count:
        raise DataError.about(path, None, f"{len(names)} names", f"{count}, one per relation")
    return names


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        path = packed_or_not(folder, name)
        if path.is_file():
            return path
    raise DataError(f"{folder}: found none of {', '.join(names)}, expected one of them")


def _read(path: Path, columns: tuple[Column, ...]) -> tuple[Int32, Int32, Int32]:
    if path.suffix == ".npy":
        first, second, third = load_array(path, columns)
    else:
        with open_text(path) as text:
            numbers = read_text(text, columns, Form(guess_separator(text))).numbers
        first, second, third = (numbers[column.name] for column in columns)
    return first, second, third


def _line(path: Path, row: int) -> int:
    if path.suffix == ".npy":
        return row + 1
    with open_text(path) as text:
        form = Form(guess_separator(text))
    return line_of(path, row, form)


def expect_dense(
    path: Path,
    columns: Mapping[str, Int32],
    size: int,
    line: Callable[[Path, int], int] | None = None,
) -> None:
    """Raise where an id is so large that tables with a row per id would take all memory.

    Args:
        path: the file.
        columns: ids [n] by the name of their column.
        size: number of rows and triples in all; ten times as many ids are taken.
        line: finds the line of a row.

    Raises:
        DataError: names the line.
    """
    for column, ids in columns.items():
        row = int(ids.argmax()) if len(ids) else 0
        most = max(_FEW_RELATIONS if column == "relation" else _FEW_IDS, 10 * size)
        if len(ids) and ids[row] >= most:
            raise DataError.about(
                path,
                (line or _line)(path, row),
                f"{column} {ids[row]} where {len(np.unique(ids)):,} of them occur",
                f"numbers from 0 without large gaps, below {most:,}; `ekpnet data import` numbers"
                " anew",
            )


def _check_contradictions(path: Path, rows: Examples) -> None:
    """Raise where one (user, item) pair is labelled both 0 and 1."""
    stride = int(rows.items.max()) + 1
    pairs = rows.users.astype(np.int64) * stride + rows.items
    keyed = np.sort(pairs * 2 + rows.labels)
    clash = (keyed[1:] ^ keyed[:-1]) == 1
    if not clash.any():
        return
    bad = np.unique(keyed[1:][clash] >> 1)
    positions = np.flatnonzero(np.isin(pairs, bad))
    first_label: dict[int, int] = {}
    for row in positions.tolist():
        pair, label = int(pairs[row]), int(rows.labels[row])
        if first_label.setdefault(pair, label) != label:
            raise DataError.about(
                path,
                _line(path, row),
                f"label {label} for user {rows.users[row]}, item {rows.items[row]}",
                f"{1 - label} as in an earlier line",
            )
