"""Statistics of a data set (Table 1), and checks for common faults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.tables import Dataset, PreparedData

__all__ = ["PAPER_TABLE_1", "Finding", "Statistics", "check", "describe", "distinct_count"]

_BLOCK = 1 << 22  # ids that are looked at together


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of a data set: the rows of Table 1, then some that it lacks.

    Users, items, entities and relations are those that occur, not the ranges of their ids. The
    paper says that inter-avg counts per item, and link-avg links per item; its numbers are rows
    per user and triples per entity, and so are these. Sparsity is cut after two decimals, not
    rounded, as in the paper.
    """

    users: int
    items: int
    interactions: int  # examples, negatives included
    interactions_per_user: float
    sparsity: float  # percent
    entities: int
    relations: int
    triples: int
    triples_per_entity: float
    interactions_per_item: float
    links_per_item: float  # triples with an item as head or tail, over items

    def table(self) -> list[tuple[str, str]]:
        """Labels and printed values; the first nine rows are Table 1's."""
        return [
            ("users", f"{self.users:,}"),
            ("items", f"{self.items:,}"),
            ("interactions", f"{self.interactions:,}"),
            ("inter-avg (per user)", f"{self.interactions_per_user:.0f}"),
            ("sparsity", f"{self.sparsity:.2f}%"),
            ("entities", f"{self.entities:,}"),
            ("relations", f"{self.relations:,}"),
            ("KG triples", f"{self.triples:,}"),
            ("link-avg (triples per entity)", f"{self.triples_per_entity:.0f}"),
            ("interactions per item", f"{self.interactions_per_item:.1f}"),
            ("triples per item", f"{self.links_per_item:.1f}"),
        ]


PAPER_TABLE_1: dict[str, tuple[str, ...]] = {
    "movielens-1m": (
        "6,036",
        "2,445",
        "753,772",
        "125",
        "94.89%",
        "182,011",
        "12",
        "1,241,995",
        "7",
    ),
    "book-crossing": ("17,860", "14,967", "139,746", "8", "99.94%", "77,903", "25", "198,771", "3"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Oddity of a data set; it does not stop training."""

    name: str
    count: int
    meaning: str


def describe(data: Dataset | PreparedData) -> Statistics:
    """Compute the statistics of Table 1.

    Where negatives are still to be drawn, as many as :func:`prepare` would draw are counted.
    """
    dataset = data.dataset if isinstance(data, PreparedData) else data
    users, items, interactions = _rows(dataset)
    num_users, num_items = _distinct(users), _distinct(items)
    entities = _distinct(dataset.heads, dataset.tails)
    triples = dataset.num_triples
    linked = (dataset.heads < dataset.num_items) | (dataset.tails < dataset.num_items)
    density = interactions / (num_users * num_items)
    return Statistics(
        users=num_users,
        items=num_items,
        interactions=interactions,
        interactions_per_user=interactions / num_users,
        sparsity=math.floor((1 - density) * 1e4) / 100,
        entities=entities,
        relations=_distinct(dataset.relations),
        triples=triples,
        triples_per_entity=triples / max(entities, 1),
        interactions_per_item=interactions / num_items,
        links_per_item=int(np.count_nonzero(linked)) / num_items,
    )


def check(data: Dataset | PreparedData) -> tuple[Finding, ...]:
    """Check for common faults; only findings with a count above 0 are returned.

    Histories and missing negatives are checked in prepared data only. Ids out of range are
    checked as well, so a data set put together by hand can be checked before it is prepared.
    """
    dataset = data.dataset if isinstance(data, PreparedData) else data
    graph = dataset.num_triples > 0  # without, entities and items have no triples to miss
    counts = [
        Finding(
            "ids out of range",
            _out_of_range(dataset),
            "rows or triples with an id below 0 or not below the data set's counts",
        ),
        Finding(
            "orphan entities",
            graph * (dataset.num_entities - _distinct(dataset.heads, dataset.tails)),
            "entity ids without any triple",
        ),
        Finding(
            "items without triples",
            graph * _items_without_triples(dataset),
            "their ripple sets are empty: only clicks tell about them",
        ),
        Finding("duplicate triples", _duplicate_triples(dataset), "drawn more often than others"),
        Finding(
            "self-loops",
            int(np.count_nonzero(dataset.heads == dataset.tails)),
            "triples from an entity to itself",
        ),
    ]
    pairs = dataset.rows if dataset.rows is not None else dataset.interactions
    if pairs is not None:
        keys = pairs.users.astype(np.int64) * dataset.num_items + pairs.items
        keys.sort()
        counts += [
            Finding(
                "duplicate rows",
                int(np.count_nonzero(keys[1:] == keys[:-1])),
                "the same pair can fall into train and test",
            ),
            Finding(
                "unused user ids",
                dataset.num_users - _distinct(pairs.users),
                "rows of embedding tables that nothing trains",
            ),
            Finding(
                "items without rows",
                items_without_rows(dataset),
                "nobody touched them, but lists may have them",
            ),
        ]
    if isinstance(data, PreparedData):
        counts += [
            Finding(
                "users with an empty history",
                data.dropped_users,
                f"no positive in train; left out with {data.dropped_examples:,} rows",
            ),
            Finding(
                "missing negatives",
                data.missing_negatives,
                "users who interacted with more than half of the items",
            ),
        ]
    return tuple(finding for finding in counts if finding.count)


def _rows(dataset: Dataset) -> tuple[NDArray[Any], NDArray[Any], int]:
    if dataset.rows is not None:
        return dataset.rows.users, dataset.rows.items, len(dataset.rows)
    clicks = dataset.interactions
    assert clicks is not None
    wanted = np.bincount(clicks.users[clicks.positive], minlength=dataset.num_users)
    free = dataset.num_items - np.bincount(clicks.users, minlength=dataset.num_users)
    # Every item can be drawn as a negative, so all of them count as items of the examples.
    items = np.arange(dataset.num_items)
    return clicks.users, items, int((wanted + np.minimum(wanted, free)).sum())


def _distinct(*columns: NDArray[Any]) -> int:
    """Distinct values over all columns; ids are dense enough for a table of flags."""
    low = min(int(column.min(initial=0)) for column in columns)
    high = max(int(column.max(initial=-1)) for column in columns)
    return distinct_count(high + 1, *columns, low=low)


def distinct_count(bound: int, *columns: NDArray[Any], low: int = 0) -> int:
    """Number of distinct ids, all of them from `low` and below a bound, over some columns.

    A byte for each possible id is held, and nothing of the columns, which may be mapped files.
    """
    seen = np.zeros(bound - low, dtype=np.bool_)
    for column in columns:
        for start in range(0, len(column), _BLOCK):
            seen[column[start : start + _BLOCK] - low] = True
    return int(np.count_nonzero(seen))


def _out_of_range(dataset: Dataset) -> int:
    bounds: list[tuple[NDArray[Any], int]] = [
        (dataset.heads, dataset.num_entities),
        (dataset.relations, dataset.num_relations),
        (dataset.tails, dataset.num_entities),
    ]
    pairs = dataset.rows if dataset.rows is not None else dataset.interactions
    if pairs is not None:
        bounds += [(pairs.users, dataset.num_users), (pairs.items, dataset.num_items)]
    return sum(int(np.count_nonzero((ids < 0) | (ids >= bound))) for ids, bound in bounds)


def items_without_rows(dataset: Dataset) -> int:
    """Number of items that are in no row or interaction."""
    pairs = dataset.rows if dataset.rows is not None else dataset.interactions
    assert pairs is not None
    return max(dataset.num_items - _distinct(pairs.items), 0)


def _items_without_triples(dataset: Dataset) -> int:
    linked = np.zeros(dataset.num_items, dtype=np.bool_)
    for column in (dataset.heads, dataset.tails):
        linked[column[(column >= 0) & (column < dataset.num_items)]] = True
    return int(np.count_nonzero(~linked))


def _duplicate_triples(dataset: Dataset) -> int:
    """Triples that occurred before.

    Head and tail fill one 64-bit key; the relation joins them by a second sort of equal keys only.
    """
    if not dataset.num_triples:
        return 0
    keys = dataset.heads.astype(np.int64) << 32 | dataset.tails.astype(np.int64)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    same = keys[1:] == keys[:-1]
    again = np.concatenate([[False], same]) | np.concatenate([same, [False]])
    triples = np.stack([keys[again], dataset.relations[order[again]].astype(np.int64)], axis=1)
    return len(triples) - len(np.unique(triples, axis=0)) if len(triples) else 0
