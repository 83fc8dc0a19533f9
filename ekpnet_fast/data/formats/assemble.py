"""Assembly of a data set from the columns of interactions, triples and links."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ekpnet_fast.data.formats.mapping import (
    Links,
    Sheet,
    build_graph,
    collect_clicks,
    collect_rows,
    first_seen,
    link_items,
)
from ekpnet_fast.data.tables import Dataset
from ekpnet_fast.errors import DataError

__all__ = ["Assembled", "assemble"]


@dataclass(frozen=True, slots=True, eq=False)
class Assembled:
    """Data set assembled from files, with counts of what was left out.

    Attributes:
        dataset: without names for display, source and notes.
        links: the entity of each item, items outside the catalogue too.
        dropped_users: users without a positive; they are not in the data set.
        repeated: rows that repeat another row.
    """

    dataset: Dataset
    links: Links
    dropped_users: int
    repeated: int


def assemble(
    name: str,
    interactions: Sheet,
    kg: Sheet,
    links: Sheet | None,
    *,
    threshold: float | None = None,
    users: pl.Series | None = None,
    items: pl.Series | None = None,
    entities: pl.Series | None = None,
) -> Assembled:
    """Number users, items, entities and relations.

    Users are numbered by their first positive (by their first row where rows have labels), items
    by first appearance, other entities and relations by first appearance in the triples. The whole
    graph is kept: a linked item takes its entity's triples, an item without a link stays without
    triples, and a link of an unknown item leaves its entity an ordinary one.

    Args:
        name: of the data set.
        interactions: user, item and, if any, label or rating. A label makes a labelled row.
        kg: head, relation, tail.
        links: item, entity; without it an item is the entity of the same name.
        threshold: smallest rating that is a positive.
        users, items, entities: distinct names in an order that takes the place of that of the
            rows; items and entities that occur in no row are kept, such users are not.

    Raises:
        DataError: contradicting labels or links, or no positive, with line and finding.
    """
    frame = interactions.frame
    item_ids = first_seen(frame["item"] if items is None else pl.concat([items, frame["item"]]))
    if users is not None:
        users = first_seen(pl.concat([users, frame["user"]]))
    rows = clicks = None
    dropped = 0
    if "label" in frame.columns:
        _expect_consistent(interactions)
        user_ids, rows = collect_rows(frame["user"], frame["item"], frame["label"], item_ids, users)
        repeated = len(frame) - len(rows)
    else:
        ratings = frame["rating"] if "rating" in frame.columns else None
        user_ids, clicks, dropped, repeated = collect_clicks(
            frame["user"], frame["item"], ratings, threshold, item_ids, users
        )
        if not len(clicks):
            assert ratings is not None
            raise DataError.about(
                interactions.path,
                None,
                f"ratings up to {ratings.to_numpy().max():g}",
                f"some >= {threshold:g}",
            )
    linked = _links(links, item_ids, kg.frame)
    graph = build_graph(kg.frame.select("head", "relation", "tail"), linked, item_ids, entities)
    dataset = Dataset(
        name=name,
        rows=rows,
        interactions=clicks,
        heads=graph.heads,
        relations=graph.relations,
        tails=graph.tails,
        num_users=len(user_ids),
        num_items=len(item_ids),
        num_entities=graph.num_entities,
        num_relations=len(graph.relation_names),
        user_ids=tuple(user_ids.to_list()),
        item_ids=tuple(item_ids.to_list()),
        entity_ids=graph.entity_ids,
        relation_names=graph.relation_names,
    )
    return Assembled(dataset, linked, dropped, repeated)


def _links(links: Sheet | None, item_ids: pl.Series, triples: pl.DataFrame) -> Links:
    if links is None:
        known = item_ids.filter(
            item_ids.is_in(triples["head"].implode()) | item_ids.is_in(triples["tail"].implode())
        )
        return Links(known, known, 0)
    return link_items(links)


def _expect_consistent(interactions: Sheet) -> None:
    """Raise where a row labels a (user, item) otherwise than an earlier one."""
    distinct = (
        interactions.frame.select("user", "item", "label")
        .with_row_index("row")
        .unique(["user", "item", "label"], keep="first", maintain_order=True)
    )
    clash = distinct.filter(~pl.struct("user", "item").is_first_distinct())
    if len(clash):
        row, user, item, label = clash.row(0)
        raise interactions.error(
            row,
            f"label {label} for user {user}, item {item}",
            f"{1 - label} as in an earlier line",
        )
