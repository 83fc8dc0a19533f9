"""Assembly of a data set from the columns of interactions, triples and links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ekpnet_fast.data.formats.frames import Frame, Texts
from ekpnet_fast.data.formats.mapping import (
    Links,
    Sheet,
    build_graph,
    collect_clicks,
    collect_rows,
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
    users: Sequence[str] | None = None,
    items: Sequence[str] | None = None,
    entities: Sequence[str] | None = None,
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
    user, item = frame.texts["user"], frame.texts["item"]
    item_ids = _first_seen(items, item)
    if users is not None:
        users = _first_seen(users, user)
    rows = clicks = None
    dropped = 0
    if "label" in frame:
        _expect_consistent(interactions)
        user_ids, rows = collect_rows(user, item, frame.numbers["label"], item_ids, users)
        repeated = len(frame) - len(rows)
    else:
        ratings = frame.numbers.get("rating")
        user_ids, clicks, dropped, repeated = collect_clicks(
            user, item, ratings, threshold, item_ids, users
        )
        if not len(clicks):
            assert ratings is not None
            raise DataError.about(
                interactions.path,
                None,
                f"ratings up to {ratings.max():g}",
                f"some >= {threshold:g}",
            )
    linked = _links(links, item_ids, kg.frame)
    graph = build_graph(kg.frame, linked, item_ids, entities)
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
        user_ids=tuple(user_ids),
        item_ids=tuple(item_ids),
        entity_ids=graph.entity_ids,
        relation_names=graph.relation_names,
    )
    return Assembled(dataset, linked, dropped, repeated)


def _first_seen(given: Sequence[str] | None, column: Texts) -> list[str]:
    """Distinct texts, those that are given before those of the column."""
    return list(dict.fromkeys((*(given or ()), *column.seen())))


def _links(links: Sheet | None, item_ids: Sequence[str], triples: Frame) -> Links:
    if links is not None:
        return link_items(links)
    entities = {*triples.texts["head"].distinct, *triples.texts["tail"].distinct}
    known = [item for item in item_ids if item in entities]
    return Links(known, known, 0)


def _expect_consistent(interactions: Sheet) -> None:
    """Raise where a row labels a (user, item) otherwise than an earlier one."""
    frame = interactions.frame
    user, item, label = frame.texts["user"], frame.texts["item"], frame.numbers["label"]
    keys = user.codes.astype(np.int64) * len(item.distinct) + item.codes
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    clash = label != label[first[inverse]]
    if clash.any():
        row = int(clash.argmax())
        raise interactions.error(
            row,
            f"label {label[row]} for user {user[row]}, item {item[row]}",
            f"{1 - label[row]} as in an earlier line",
        )
