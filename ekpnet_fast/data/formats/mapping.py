"""Dense ids of users, items, entities and relations, by their names in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ekpnet_fast.data.formats.parse import Column, line_of, to_numpy
from ekpnet_fast.data.tables import Examples, Int32, Interactions
from ekpnet_fast.errors import DataError

__all__ = [
    "LABEL",
    "Graph",
    "Links",
    "Sheet",
    "build_graph",
    "collect_clicks",
    "collect_rows",
    "first_seen",
    "index_of",
    "link_items",
]


LABEL = Column("label", maximum=1, expected="0 or 1")


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """Columns of a file, with the line of each row.

    Attributes:
        path: the file.
        frame: its columns, named by their roles (user, item, rating, label; head, relation, tail;
            item, entity; id, name): String, but Float64 ratings and Int32 labels.
        header: the first line holds names.
        quoted_by: the separator of a text file whose fields may be quoted.
        text: rows are lines of text; else a row's number, counted from 1, is its line.
        places: [n] the row of the file that each row was, where some were left out.
    """

    path: Path
    frame: pl.DataFrame
    header: bool = False
    quoted_by: str | None = None
    text: bool = True
    places: pl.Series | None = None

    def error(self, row: int, found: str, expected: str) -> DataError:
        """An error at a 0-based row."""
        if self.places is not None:
            row = int(self.places[row])
        if not self.text:
            return DataError.about(self.path, row + 1, found, expected)
        line = line_of(self.path, row, header=self.header, quoted_by=self.quoted_by)
        return DataError.about(self.path, line, found, expected)


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """One entity per linked item.

    Attributes:
        items: [n] item names as in the file, distinct.
        entities: [n] entity names, distinct: of several items with one entity the first has it.
        shared: number of items left unlinked for that reason.
    """

    items: pl.Series
    entities: pl.Series
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


def first_seen(names: pl.Series) -> pl.Series:
    """Distinct values in order of first appearance."""
    return names.unique(maintain_order=True)


def index_of(values: pl.Series, table: pl.Series) -> pl.Series:
    """Position in ``table`` of each value as Int32, null where it is not there."""
    index = pl.int_range(len(table), dtype=pl.Int32, eager=True)
    result: pl.Series = values.replace_strict(table, index, default=None, return_dtype=pl.Int32)
    return result


def collect_clicks(
    users: pl.Series,
    items: pl.Series,
    ratings: pl.Series | None,
    threshold: float | None,
    item_ids: pl.Series,
    user_ids: pl.Series | None = None,
) -> tuple[pl.Series, Interactions, int, int]:
    """Distinct interactions with the known items, of users who have a positive.

    Of a pair that occurs several times the best rating counts. Users are numbered by their first
    positive row.

    Args:
        users, items: [n] names per row.
        ratings: [n] Float64, or None where there are none.
        threshold: smallest rating that is a positive; every row is one when None.
        item_ids: [I] item names by id.
        user_ids: user names in an order that takes the place of that of the rows.

    Returns:
        User names by id, the interactions, and the numbers of users dropped and of rows that
        repeat a pair.
    """
    frame = pl.DataFrame({"user": users, "item": index_of(items, item_ids)})
    if ratings is not None:
        frame = frame.with_columns(ratings.alias("rating"))
    frame = frame.drop_nulls("item")
    positive = pl.lit(True) if threshold is None else pl.col("rating") >= threshold
    found = first_seen(frame.filter(positive)["user"])
    if user_ids is not None:
        found = user_ids.filter(user_ids.is_in(found.implode()))
    frame = frame.with_columns(index_of(frame["user"], found).alias("user")).drop_nulls("user")
    # One key a row, because sorting numbers is much cheaper than grouping by two columns.
    keys = frame["user"].to_numpy().astype(np.int64) * len(item_ids) + frame["item"].to_numpy()
    order = np.argsort(keys)
    keys = keys[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    best = None
    if ratings is not None:
        # Of no rows there is no maximum to take.
        best = frame["rating"].to_numpy()[order]
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
    return found, clicks, users.n_unique() - len(found), len(frame) - len(clicks)


def collect_rows(
    users: pl.Series,
    items: pl.Series,
    labels: pl.Series,
    item_ids: pl.Series,
    user_ids: pl.Series | None = None,
) -> tuple[pl.Series, Examples]:
    """Labelled rows of the known items, in order, each (user, item, label) once.

    Args:
        users, items: [n] names per row.
        labels: [n] Int32, 1 = positive, 0 = negative.
        item_ids: [I] item names by id.
        user_ids: user names in an order that takes the place of that of the rows.

    Returns:
        User names by id, and the rows.
    """
    frame = pl.DataFrame({"user": users, "item": index_of(items, item_ids), "label": labels})
    frame = frame.drop_nulls("item").unique(maintain_order=True)
    found = first_seen(frame["user"])
    if user_ids is not None:
        found = user_ids.filter(user_ids.is_in(found.implode()))
    frame = frame.with_columns(index_of(frame["user"], found).alias("user"))
    return found, Examples(
        to_numpy(frame["user"]),
        to_numpy(frame["item"]),
        to_numpy(frame["label"].cast(pl.Int8)),
    )


def link_items(links: Sheet) -> Links:
    """Links from columns item and entity.

    Raises:
        DataError: an item linked to two entities.
    """
    frame = links.frame.select("item", "entity").with_row_index("row")
    distinct = frame.unique(["item", "entity"], keep="first", maintain_order=True)
    clashes = distinct.filter(~pl.col("item").is_first_distinct())
    if len(clashes):
        row, item, entity = clashes.row(0)
        kept = distinct.filter(pl.col("item") == item)["entity"][0]
        raise links.error(
            row, f"item {item} with entity {entity}", f"entity {kept} as in an earlier line"
        )
    kept_rows = distinct.unique("entity", keep="first", maintain_order=True)
    return Links(kept_rows["item"], kept_rows["entity"], len(distinct) - len(kept_rows))


def build_graph(
    triples: pl.DataFrame,
    links: Links,
    item_ids: pl.Series,
    entity_order: pl.Series | None = None,
) -> Graph:
    """Number a graph whose entities are names.

    Items' entities take the items' ids; the others follow in order of first appearance, a
    triple's head before its tail. An item without an entity still owns its id.

    Args:
        triples: columns head, relation, tail in this order.
        links: the entity of each item; links of unknown items are ignored.
        item_ids: [I] item names by id.
        entity_order: distinct entities that are numbered before others, in triples or not.
    """
    triples = triples.rename(dict(zip(triples.columns, ("head", "relation", "tail"), strict=True)))
    item_index = index_of(links.items, item_ids)
    linked = pl.DataFrame({"entity": links.entities, "id": item_index}).drop_nulls("id")
    # Text is looked up once; all else happens on its position in this table.
    table = pl.concat([triples["head"], triples["tail"]]).unique()
    heads, tails = (to_numpy(index_of(triples[end], table)) for end in ("head", "tail"))
    first = np.empty(len(table), dtype=np.int64)
    # Written backwards, so that of several positions the first one stays.
    places = np.arange(2 * len(heads))[::-1]
    first[np.stack([heads, tails], axis=1).reshape(-1)[::-1]] = places
    others = table.gather(np.argsort(first))
    if entity_order is not None:
        others = first_seen(pl.concat([entity_order, others]))
    others = others.filter(~others.is_in(linked["entity"].implode()))
    entities = pl.concat([linked["entity"], others])
    ids = pl.concat(
        [
            linked["id"],
            pl.int_range(len(item_ids), len(item_ids) + len(others), dtype=pl.Int32, eager=True),
        ]
    )
    names = np.full(len(item_ids) + len(others), "", dtype=object)
    names[ids.to_numpy()] = entities.cast(pl.String).to_numpy()
    numbers = to_numpy(table.replace_strict(entities, ids, return_dtype=pl.Int32))
    relation_names = first_seen(triples["relation"])
    return Graph(
        heads=numbers[heads],
        relations=to_numpy(index_of(triples["relation"], relation_names)),
        tails=numbers[tails],
        num_entities=len(names),
        relation_names=tuple(relation_names.to_list()),
        entity_ids=tuple(names.tolist()),
    )
