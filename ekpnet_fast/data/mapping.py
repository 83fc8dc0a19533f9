"""From names in files to dense ids: users, items, entities, relations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ekpnet_fast.data.parse import line_of, to_numpy
from ekpnet_fast.data.tables import Int32, Interactions
from ekpnet_fast.errors import DataError

__all__ = [
    "Graph",
    "Links",
    "build_graph",
    "collect_clicks",
    "first_seen",
    "index_of",
    "read_links",
]


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """One entity per linked item.

    Attributes:
        items: [n] item names as in the file, distinct.
        entities: [n] entity names, distinct: of several items with one entity the first has it.
        shared: how many items went without for that reason.
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
    users: pl.Series, items: pl.Series, positive: pl.Series, item_ids: pl.Series
) -> tuple[pl.Series, Interactions, int]:
    """Distinct interactions with the known items, of users who have a positive.

    A pair that occurs several times is positive if one occurrence is. Users are numbered by their
    first positive row.

    Returns:
        User names by id, the interactions, and the number of users dropped.
    """
    frame = pl.DataFrame({"user": users, "item": index_of(items, item_ids), "positive": positive})
    frame = frame.drop_nulls("item")
    user_ids = first_seen(frame.filter("positive")["user"])
    frame = (
        frame.with_columns(index_of(frame["user"], user_ids).alias("user"))
        .drop_nulls("user")
        .group_by("user", "item")
        .agg(pl.col("positive").any())
        .sort("user", "item")
    )
    clicks = Interactions(
        to_numpy(frame["user"]), to_numpy(frame["item"]), to_numpy(frame["positive"])
    )
    return user_ids, clicks, users.n_unique() - len(user_ids)


def read_links(path: Path, items: pl.Series, entities: pl.Series, *, header: bool) -> Links:
    """Links from the two columns of a link file.

    Raises:
        DataError: an item linked to two entities.
    """
    frame = pl.DataFrame({"item": items, "entity": entities}).with_row_index("row")
    distinct = frame.unique(["item", "entity"], keep="first", maintain_order=True)
    clash = distinct.filter(~pl.col("item").is_first_distinct())
    if len(clash):
        row, item, entity = clash.row(0)
        kept = distinct.filter(pl.col("item") == item)["entity"][0]
        raise DataError.at(
            path,
            line_of(path, row, header=header),
            f"item {item} with entity {entity}",
            f"entity {kept} as in an earlier line",
        )
    kept_rows = distinct.unique("entity", keep="first", maintain_order=True)
    return Links(kept_rows["item"], kept_rows["entity"], len(distinct) - len(kept_rows))


def build_graph(triples: pl.DataFrame, links: Links, item_ids: pl.Series) -> Graph:
    """Number a graph whose entities are names.

    Items' entities take the items' ids; the others follow in order of first appearance, a
    triple's head before its tail. An item without an entity still owns its id.

    Args:
        triples: columns head, relation, tail in this order.
        links: which entity is which item; links of unknown items are ignored.
        item_ids: [I] item names by id.
    """
    triples = triples.rename(dict(zip(triples.columns, ("head", "relation", "tail"), strict=True)))
    item_index = index_of(links.items, item_ids)
    linked = pl.DataFrame({"entity": links.entities, "id": item_index}).drop_nulls("id")
    both = triples.select(pl.concat_list("head", "tail").explode().alias("entity"))["entity"]
    others = first_seen(both)
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
    relation_names = first_seen(triples["relation"])
    return Graph(
        heads=to_numpy(triples["head"].replace_strict(entities, ids, return_dtype=pl.Int32)),
        relations=to_numpy(index_of(triples["relation"], relation_names)),
        tails=to_numpy(triples["tail"].replace_strict(entities, ids, return_dtype=pl.Int32)),
        num_entities=len(names),
        relation_names=tuple(relation_names.to_list()),
        entity_ids=tuple(names.tolist()),
    )
