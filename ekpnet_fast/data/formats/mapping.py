"""Dense ids of users, items, entities and relations, by their names in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.formats.frames import Frame, Texts
from ekpnet_fast.data.formats.opened import UTF8
from ekpnet_fast.data.formats.parse import Column, Form, line_of
from ekpnet_fast.data.tables import Examples, Int32, Interactions
from ekpnet_fast.errors import DataError

__all__ = [
    "LABEL",
    "NO_RELATION",
    "Graph",
    "Links",
    "Part",
    "Sheet",
    "build_graph",
    "collect_clicks",
    "collect_rows",
    "link_items",
    "no_triples",
    "numbered",
]


NO_RELATION = ""  # that no triple has: of a graph without triples, as models have a row of each
LABEL = Column("label", "label", maximum=1, expected="0 or 1")


@dataclass(frozen=True, slots=True)
class Part:
    """File of a sheet.

    Attributes:
        path: the file.
        rows: number of its rows.
        form: of a text file; without one a row's number, counted from 1, is its line.
        encoding: of a text file.
    """

    path: Path
    rows: int
    form: Form | None = None
    encoding: str = UTF8


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """Columns of a file, or of several, with the line of each row.

    Attributes:
        path: the file, the first of several.
        frame: its columns, named by their roles: texts user, item; head, relation, tail; item,
            entity; id, name; numbers rating, time (float64, NaN
            where there is none) and label (int32).
        parts: the files in order.
        places: [n] the row of the files that each row was, where some were left out.
    """

    path: Path
    frame: Frame
    parts: tuple[Part, ...] = field(default=())
    places: NDArray[np.int64] | None = None

    def error(self, row: int, found: str, expected: str) -> DataError:
        """An error at a 0-based row."""
        if self.places is not None:
            row = int(self.places[row])
        for part in self.parts:
            if row < part.rows:
                line = row + 1
                if part.form is not None:
                    line = line_of(part.path, row, part.form, part.encoding)
                return DataError.about(part.path, line, found, expected)
            row -= part.rows
        return DataError.about(self.path, row + 1, found, expected)


def no_triples(path: Path) -> Sheet:
    """Sheet of a graph without triples, beside the interactions in a file."""
    return Sheet(path, Frame({name: Texts.of(()) for name in ("head", "relation", "tail")}, {}))


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """One entity per linked item.

    Attributes:
        items: [n] item names as in the file, distinct.
        entities: [n] entity names, distinct: of several items with one entity the first has it.
        shared: number of items left unlinked for that reason.
    """

    items: Sequence[str]
    entities: Sequence[str]
    shared: int


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Numbered triples."""

    heads: Int32  # [T]
    relations: Int32  # [T]
    tails: Int32  # [T]
    num_entities: int
    relation_names: tuple[str, ...]
    entity_ids: tuple[str, ...] | None  # None: the files' numbers were kept


def numbered(names: Sequence[str]) -> dict[str, int]:
    """Position of each of some distinct names."""
    return {name: number for number, name in enumerate(names)}


def collect_clicks(
    users: Texts,
    items: Texts,
    ratings: NDArray[np.float64] | None,
    threshold: float | None,
    item_ids: Sequence[str],
    user_ids: Sequence[str] | None = None,
) -> tuple[list[str], Interactions, int, int]:
    """Distinct interactions with the known items, of users who have a positive.

    Of a pair that occurs several times the best rating counts. Users are numbered by their first
    positive row.

    Args:
        users, items: [n] names per row.
        ratings: [n] float64, or None where there are none.
        threshold: smallest rating that is a positive; every row is one when None.
        item_ids: [I] item names by id.
        user_ids: user names in an order that takes the place of that of the rows.

    Returns:
        User names by id, the interactions, and the numbers of users dropped and of rows that
        repeat a pair.
    """
    item = items.index_in(numbered(item_ids))
    known = item >= 0
    positive = known if threshold is None or ratings is None else known & (ratings >= threshold)
    found = users.take(positive).seen()
    if user_ids is not None:
        occurring = set(found)
        found = [user for user in user_ids if user in occurring]
    user = users.index_in(numbered(found))
    known &= user >= 0
    # One key a row, because sorting numbers is much cheaper than grouping by two columns.
    keys = user[known].astype(np.int64) * len(item_ids) + item[known]
    rows = len(keys)
    order = np.argsort(keys)
    keys = keys[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    best = None
    if ratings is not None:
        # Of no rows there is no maximum to take.
        best = ratings[known][order]
        best = np.maximum.reduceat(best, starts) if len(starts) else best
    positive_pairs = np.ones(len(starts), dtype=np.bool_)
    if threshold is not None and best is not None:
        positive_pairs = best >= threshold
    keys = keys[starts]
    clicks = Interactions(
        (keys // max(len(item_ids), 1)).astype(np.int32),
        (keys % max(len(item_ids), 1)).astype(np.int32),
        positive_pairs,
        best,
        threshold,
    )
    return found, clicks, len(users.order()) - len(found), rows - len(clicks)


def collect_rows(
    users: Texts,
    items: Texts,
    labels: Int32,
    item_ids: Sequence[str],
    user_ids: Sequence[str] | None = None,
) -> tuple[list[str], Examples]:
    """Labelled rows of the known items, in order, each (user, item, label) once.

    Args:
        users, items: [n] names per row.
        labels: [n] int32, 1 = positive, 0 = negative.
        item_ids: [I] item names by id.
        user_ids: user names in an order that takes the place of that of the rows.

    Returns:
        User names by id, and the rows.
    """
    item = items.index_in(numbered(item_ids))
    rows = np.flatnonzero(item >= 0)
    keys = (users.codes[rows].astype(np.int64) * len(item_ids) + item[rows]) * 2 + labels[rows]
    rows = rows[_firsts(keys)]
    found = users.take(rows).seen()
    if user_ids is not None:
        occurring = set(found)
        found = [user for user in user_ids if user in occurring]
    user = users.take(rows).index_in(numbered(found))
    return found, Examples(user, item[rows], labels[rows].astype(np.int8))


def _firsts(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions in order at which a key occurs for the first time."""
    return np.sort(np.unique(keys, return_index=True)[1])


def link_items(links: Sheet) -> Links:
    """Links from columns item and entity.

    Raises:
        DataError: an item linked to two entities.
    """
    items, entities = links.frame.texts["item"], links.frame.texts["entity"]
    keys = items.codes.astype(np.int64) * len(entities.distinct) + entities.codes
    rows = _firsts(keys)
    first = _firsts(items.codes[rows].astype(np.int64))
    if len(first) < len(rows):
        again = rows[np.setdiff1d(np.arange(len(rows)), first)[0]]
        kept = rows[np.flatnonzero(items.codes[rows] == items.codes[again])[0]]
        raise links.error(
            int(again),
            f"item {items[again]} with entity {entities[again]}",
            f"entity {entities[kept]} as in an earlier line",
        )
    kept_rows = rows[_firsts(entities.codes[rows].astype(np.int64))]
    return Links(
        [items.distinct[code] for code in items.codes[kept_rows].tolist()],
        [entities.distinct[code] for code in entities.codes[kept_rows].tolist()],
        len(rows) - len(kept_rows),
    )


def build_graph(
    triples: Frame,
    links: Links,
    item_ids: Sequence[str],
    entity_order: Sequence[str] | None = None,
) -> Graph:
    """Number a graph whose entities are names.

    Items' entities take the items' ids; the others follow in order of first appearance, a
    triple's head before its tail. An item without an entity still owns its id.

    Args:
        triples: texts head, relation, tail.
        links: the entity of each item; links of unknown items are ignored.
        item_ids: [I] item names by id.
        entity_order: distinct entities that are numbered before others, in triples or not.
    """
    size = len(triples)
    ends = Texts.join([triples.texts["head"], triples.texts["tail"]])
    # Head and tail of a triple side by side, which is the order that entities are numbered in.
    order = Texts(ends.codes.reshape(2, size).T.reshape(-1), ends.distinct).seen()
    known = numbered(item_ids)
    linked = {
        entity: known[item]
        for item, entity in zip(links.items, links.entities, strict=True)
        if item in known
    }
    numbers = dict(linked)
    for entity in (*(entity_order or ()), *order):
        if entity not in numbers:
            numbers[entity] = len(item_ids) + len(numbers) - len(linked)
    names = [""] * (len(item_ids) + len(numbers) - len(linked))
    for entity, number in numbers.items():
        names[number] = entity
    entities = ends.index_in(numbers)
    relations = triples.texts["relation"]
    relation_names = relations.seen() or [NO_RELATION]
    return Graph(
        heads=entities[:size],
        relations=relations.index_in(numbered(relation_names)),
        tails=entities[size:],
        num_entities=len(names),
        relation_names=tuple(relation_names),
        entity_ids=tuple(names),
    )
