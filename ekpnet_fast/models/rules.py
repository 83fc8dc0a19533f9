"""Rules: options that follow from measurable properties of the data, not from its name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ekpnet_fast.data import PreparedData
from ekpnet_fast.data.splits import RANKING
from ekpnet_fast.data.stats import distinct_count
from ekpnet_fast.data.tables import FEW_HEADS

__all__ = [
    "DataFacts",
    "Rule",
    "Rules",
    "batch_size",
    "by_density",
    "by_measure",
    "if_dense",
    "if_triples",
    "row_decay",
    "walks_back",
]

_LEAST_STEPS = 75  # of an epoch
_BATCH_SIZES = (64, 4096)
_DECAY_OF_PAIR = 4.3e-6  # of the rows that a mini-batch touches, at most, for each of its pairs
_SPARSE, _DENSE = 3.0, 90.0  # train clicks per item
_MANY_CLICKS = 16.0  # per item, in the middle of both by logarithms


@dataclass(frozen=True)
class DataFacts:
    """Properties of prepared data that options follow from.

    Attributes:
        rows: training examples of an epoch.
        clicks_per_item: train positives over items.
        heads_per_tail: triples over the distinct entities that are a tail; 0 where no triple has
            an item.
        lists: whether the protocol measures lists, not single clicks.
        items: number of items.
        users: number of users with a train positive.
    """

    rows: int
    clicks_per_item: float
    heads_per_tail: float
    lists: bool = False
    items: int = 0
    users: int = 0

    @classmethod
    def of(cls, prepared: PreparedData) -> DataFacts:
        """Properties of split data."""
        dataset = prepared.dataset
        triples = dataset.num_triples if dataset.reaches_items else 0
        tails = distinct_count(dataset.num_entities, dataset.tails)
        # Protocols that rank draw a negative to each positive in every epoch.
        rows = len(prepared.train) * (2 if prepared.protocol in RANKING else 1)
        return cls(
            rows,
            len(prepared.history_items) / max(dataset.num_items, 1),
            triples / max(tails, 1),
            prepared.protocol in RANKING,
            dataset.num_items,
            int(np.count_nonzero(np.diff(prepared.history_indptr))),
        )


Rule = Callable[[DataFacts], Any]
Rules = Mapping[str, Rule]
"""Rules of options, by dotted name."""


def batch_size(facts: DataFacts, most: int = _BATCH_SIZES[1]) -> int:
    """Pairs of a mini-batch: the largest power of two that leaves 75 steps to an epoch.

    Adam's steps are of one size, so what an epoch learns follows from their number. At least 64,
    at most `most`.
    """
    wanted = max(facts.rows // _LEAST_STEPS, 1)
    return min(max(1 << (wanted.bit_length() - 1), _BATCH_SIZES[0]), most)


def walks_back(facts: DataFacts) -> bool:
    """Whether triples are walked backwards too: where a tail has fewer heads than a hop has slots.

    From an entity that is the tail of hundreds, such as a category, the way back leads to any item.
    A hop has 32 slots, unless another number is asked for.
    """
    return facts.heads_per_tail < FEW_HEADS


def by_density(sparse: float, dense: float) -> Rule:
    """Rule for a number: from `sparse` at 3 train clicks per item to `dense` at 90, by logarithms.

    Rounded to two digits; below 3 and above 90 clicks it stays.
    """

    def value(facts: DataFacts) -> float:
        clicks = min(max(facts.clicks_per_item, _SPARSE), _DENSE)
        share = math.log(clicks / _SPARSE) / math.log(_DENSE / _SPARSE)
        return float(f"{sparse * (dense / sparse) ** share:.1e}")

    return value


def row_decay(sparse: float, dense: float) -> Rule:
    """Rule for the decay of rows: by density, and at most so much for a pair of a mini-batch.

    The fewer pairs a mini-batch has, the fewer of them touch a row, which decays as much in each:
    more than that holds rows at 0 for epochs.
    """
    wanted = by_density(sparse, dense)

    def value(facts: DataFacts) -> float:
        most = float(f"{_DECAY_OF_PAIR * batch_size(facts):.1e}")
        return min(most, float(wanted(facts)))

    return value


def if_dense(sparse: Any, dense: Any) -> Rule:
    """Rule for a choice: `dense` from 16 train clicks per item on, else `sparse`."""
    return lambda facts: dense if facts.clicks_per_item >= _MANY_CLICKS else sparse


def by_measure(click: Any, lists: Any) -> Rule:
    """Rule for a choice: `lists` where the protocol measures lists, else `click`."""
    return lambda facts: lists if facts.lists else click


def if_triples(given: Any, none: Any) -> Rule:
    """Rule for a choice: `none` without a triple of an item, else `given`, or what it says."""

    def value(facts: DataFacts) -> Any:
        if not facts.heads_per_tail:
            return none
        return given(facts) if callable(given) else given

    return value
