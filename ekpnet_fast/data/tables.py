"""Tables that loaders produce and the trainer consumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.temporal import shown_time
from ekpnet_fast.errors import DataError

__all__ = [
    "Dataset",
    "Examples",
    "GivenSplit",
    "Int32",
    "Interactions",
    "PreparedData",
    "SplitCounts",
    "StoredGraph",
    "validate",
]

Int32 = NDArray[np.int32]

INT32_MAX = 2**31 - 1

FEW_HEADS = 32
"""Heads per tail below which a graph is walked backwards too, by default."""


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Examples: labelled rows (user, item, label)."""

    users: Int32  # [n]
    items: Int32  # [n]
    labels: NDArray[np.int8]  # [n], 1 = positive, 0 = negative

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.users)

    def take(self, index: NDArray[Any]) -> Examples:
        """Examples at ``index``: [k] positions, or an [n] boolean mask."""
        return Examples(self.users[index], self.items[index], self.labels[index])


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """Distinct (user, item) pairs that a user touched; negatives are still to be drawn.

    A pair whose rating is below the threshold is not a positive, but it is an interaction: it is
    never drawn as a negative.
    """

    users: Int32  # [n]
    items: Int32  # [n]
    positive: NDArray[np.bool_]  # [n]
    ratings: NDArray[np.float64] | None = None  # [n], where the files have ratings
    threshold: float | None = None  # smallest rating that is a positive; None: every one is

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.users)


@dataclass(frozen=True, slots=True, eq=False)
class GivenSplit:
    """Split that the files of a data set make: which of them each row is in."""

    files: NDArray[np.uint8]  # [n], the sum of TRAIN, VALID and TEST over the row's files
    repeated: int = 0  # lines that repeat another one of the same file

    TRAIN: ClassVar[int] = 1
    VALID: ClassVar[int] = 2
    TEST: ClassVar[int] = 4


@dataclass(frozen=True, slots=True, eq=False)
class StoredGraph:
    """Triples of a data set grouped by head, mapped from its files.

    Those of head e are positions indptr[e] .. indptr[e + 1], in the order of the triples, then,
    with `inverse`, those walked backwards, by relations R .. 2 R.
    """

    indptr: NDArray[np.int64]  # [E + 1]
    relations: NDArray[Any]  # [T] uint8, int16 or int32, the smallest that holds them
    tails: Int32  # [T]
    num_relations: int  # inverse ones counted
    inverse: bool


_BLOCK = 1 << 22  # triples that are looked at together


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Examples or interactions plus a knowledge graph. Items are entities 0..num_items-1.

    Exactly one of ``rows`` and ``interactions`` is set. Users, items, entities and relations are
    numbers here. ``user_ids[u]`` and so on are their ids in the files, ``user_names[u]`` and so on
    their display names; both are None where the files have none. ``entity_ids[i]``
    is "" for an item without an entity. Where there are no ``relation_ids``, ``relation_names``
    serve as both. Arrays may be mapped files, and texts may be read when they are asked for.
    """

    name: str
    rows: Examples | None
    interactions: Interactions | None
    heads: Int32  # [T]
    relations: Int32  # [T]
    tails: Int32  # [T]
    num_users: int
    num_items: int
    num_entities: int
    num_relations: int
    user_ids: Sequence[str] | None = None
    item_ids: Sequence[str] | None = None
    entity_ids: Sequence[str] | None = None
    relation_ids: Sequence[str] | None = None
    user_names: Sequence[str] | None = None
    item_names: Sequence[str] | None = None
    entity_names: Sequence[str] | None = None
    relation_names: Sequence[str] | None = None
    oracle: NDArray[np.float32] | None = None  # [n], Bayes score per example (synthetic)
    source: str = ""
    notes: tuple[str, ...] = ()
    split: GivenSplit | None = None  # of the rows or interactions, where the files make one
    # [n], earliest of each row or interaction; where the files have one for each
    times: NDArray[np.float64] | None = None
    graph: StoredGraph | None = None  # of the triples, where the files hold it

    @property
    def num_triples(self) -> int:
        """Number of triples T."""
        return len(self.heads)

    @property
    def reaches_items(self) -> bool:
        """Whether a triple has an item, so that clicks lead into the graph."""
        return any(
            bool((column[start : start + _BLOCK] < self.num_items).any())
            for start in range(0, self.num_triples, _BLOCK)
            for column in (self.heads, self.tails)
        )


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """Counts of a split that is not drawn as a whole: what is in its parts, and what is odd.

    Attributes:
        train, valid, test: positives, each pair once.
        held_out_users: users whose train positives validation was drawn from; 0 where the data set
            brings its own.
        overlapping: positives of test that are in train or validation too. They never count as
            relevant.
        unranked_users: users with no other positives in test, left out of averages.
        repeated: rows that repeat another one of their part; merged.
        new_users: users with positives in test and none in train or validation.
        new_items: items with positives in test and none in train or validation.
        by_time: whether test is what comes last.
        valid_from, test_from: times from which on positives are in validation and test, where all
            users have the same; None otherwise.
    """

    train: int
    valid: int
    test: int
    held_out_users: int
    overlapping: int
    unranked_users: int
    repeated: int
    new_users: int
    new_items: int
    by_time: bool = False
    valid_from: float | None = None
    test_from: float | None = None

    def words(self) -> tuple[str, ...]:
        """Lines for people: what validation is, then what is odd."""
        counts = (
            (self.overlapping, "test positives are in train or validation too, never relevant"),
            (self.unranked_users, "users have no other test positives, left out of averages"),
            (self.repeated, "repeated rows, merged"),
            (self.new_users, "users with test positives only"),
            (self.new_items, "items with test positives only"),
        )
        odd = tuple(f"{count:,} {what}" for count, what in counts if count)
        return (
            f"train {self.train:,} positives; validation {self._validation()};"
            f" test {self.test:,} positives{self._from(self.test_from)}",
            *odd,
        )

    def _validation(self) -> str:
        if self.held_out_users:
            return f"{self.valid:,} positives of {self.held_out_users:,} users held out of train"
        if not self.by_time:
            return f"{self.valid:,} positives, given"
        return f"{self.valid:,} positives{self._from(self.valid_from)}"

    def _from(self, time: float | None) -> str:
        """Words for where a part of a split by time begins; none for another one."""
        if not self.by_time:
            return ""
        return ", each user's last" if time is None else f" from {shown_time(time)} on"


@dataclass(frozen=True, slots=True, eq=False)
class PreparedData:
    """Data set split into train, validation and test, with train histories.

    Under the protocols that rank (`splits.RANKING`) the three hold positives only.
    """

    dataset: Dataset
    seed: int
    train: Examples
    valid: Examples
    test: Examples
    oracle_test: NDArray[np.float32] | None  # [len(test)]
    history_indptr: NDArray[np.int64]  # [U + 1]
    history_items: Int32  # [history_indptr[-1]], sorted within a user, distinct
    dropped_users: int  # users that have examples but no positive in train
    dropped_examples: int  # those users' examples, over the three splits
    hash: str  # 16 hex digits
    missing_negatives: int = 0  # negatives that could not be drawn: too few items left
    protocol: str = "ripplenet"  # one of `splits.PROTOCOLS`
    counts: SplitCounts | None = None  # under "fixed" and the protocols by time


def validate(dataset: Dataset) -> None:
    """Check that every id is in its range, because native code indexes with them.

    Raises:
        DataError: an empty or inconsistent table, or an id out of its range; names the field.
    """
    if (dataset.rows is None) == (dataset.interactions is None):
        raise DataError(f"{dataset.name}: a data set needs either rows or interactions, not both")
    if dataset.num_items > dataset.num_entities:
        raise DataError(
            f"{dataset.name}: found num_items = {dataset.num_items} > num_entities ="
            f" {dataset.num_entities}, expected every item to be an entity"
        )
    columns: list[tuple[str, NDArray[Any], int]] = [
        ("heads", dataset.heads, dataset.num_entities),
        ("relations", dataset.relations, dataset.num_relations),
        ("tails", dataset.tails, dataset.num_entities),
    ]
    _check_lengths(dataset.name, "knowledge graph", columns, empty=True)  # there may be none
    if dataset.rows is not None:
        rows = dataset.rows
        pairs: list[tuple[str, NDArray[Any], int]] = [
            ("users", rows.users, dataset.num_users),
            ("items", rows.items, dataset.num_items),
            ("labels", rows.labels, 2),
        ]
        if dataset.oracle is not None and len(dataset.oracle) != len(rows):
            raise DataError(
                f"{dataset.name}: found {len(dataset.oracle)} oracle scores,"
                f" expected one for each of {len(rows)} rows"
            )
    else:
        assert dataset.interactions is not None
        clicks = dataset.interactions
        pairs = [
            ("users", clicks.users, dataset.num_users),
            ("items", clicks.items, dataset.num_items),
            ("positive", clicks.positive.view(np.uint8), 2),  # of a damaged file it may be more
        ]
    if dataset.split is not None:
        pairs.append(("split.files", dataset.split.files, 8))
    _check_lengths(dataset.name, "rows", pairs)
    times = dataset.times
    if times is not None and (len(times) != len(pairs[0][1]) or not np.isfinite(times).all()):
        raise DataError(
            f"{dataset.name}: found {len(times)} times, {int(np.isfinite(times).sum())} of them"
            f" finite, expected one for each of {len(pairs[0][1])} rows"
        )
    for field, values, bound in columns + pairs:
        low, high = int(values.min(initial=0)), int(values.max(initial=bound - 1))
        if low < 0 or high >= bound:
            raise DataError(
                f"{dataset.name}: found {low if low < 0 else high} in {field},"
                f" expected ids from 0 to {bound - 1}"
            )


def _check_lengths(
    name: str, what: str, columns: list[tuple[str, NDArray[Any], int]], *, empty: bool = False
) -> None:
    lengths = {len(values) for _, values, _ in columns}
    if len(lengths) > 1:
        shown = ", ".join(f"{len(values)} {field}" for field, values, _ in columns)
        raise DataError(f"{name}: found {shown}, expected columns of one length")
    if lengths == {0} and not empty:
        raise DataError(f"{name}: found an empty {what} table, expected at least one row")
