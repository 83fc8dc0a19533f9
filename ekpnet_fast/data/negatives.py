"""Negatives that are drawn once, for data sets that bring none."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ekpnet_fast.data.pair_keys import (
    Int64,
    is_in_sorted,
    keys_of,
    positions_within,
    sorted_distinct,
)
from ekpnet_fast.data.streams import NEGATIVES, random_stream
from ekpnet_fast.data.tables import Dataset, Examples, Int32, Interactions

__all__ = ["draw_negatives", "items_of_ranks", "label_rows"]

_BLOCK = 1 << 21  # items that are looked at together


def label_rows(dataset: Dataset, seed: int) -> tuple[Examples, int]:
    """Examples of a data set: its own, or its positives with drawn negatives.

    Rows whose labels are all 1 name no negatives, so they are drawn for these too.

    Returns:
        The examples, and the number of negatives missing because users ran out of items.
    """
    clicks = dataset.interactions
    if clicks is None:
        assert dataset.rows is not None
        if not dataset.rows.labels.all():
            return dataset.rows, 0
        keys = sorted_distinct(keys_of(dataset.rows.users, dataset.rows.items, dataset.num_items))
        users, items = (x.astype(np.int32) for x in np.divmod(keys, dataset.num_items))
        clicks = Interactions(users, items, np.ones(len(keys), dtype=np.bool_))
    users, items, missing = draw_negatives(
        random_stream(seed, NEGATIVES), clicks, dataset.num_users, dataset.num_items
    )
    positive = clicks.positive
    labels = np.zeros(int(positive.sum()) + len(users), dtype=np.int8)
    labels[: len(labels) - len(users)] = 1
    rows = Examples(
        np.concatenate([clicks.users[positive], users]),
        np.concatenate([clicks.items[positive], items]),
        labels,
    )
    return rows, missing


def draw_negatives(
    stream: np.random.Generator, clicks: Interactions, num_users: int, num_items: int
) -> tuple[Int32, Int32, int]:
    """Draw for every user as many negatives as positives from the items never interacted with.

    The draw is uniform without replacement. It happens on ranks among a user's free items; a rank
    becomes an item by adding the number of consumed items in front of it.

    Returns:
        users [n] int32 and items [n] int32, sorted by both, and the number of negatives missing
        because a user had fewer free items than positives.
    """
    seen = sorted_distinct(keys_of(clicks.users, clicks.items, num_items))
    seen_count = np.bincount(seen // num_items, minlength=num_users)
    free = num_items - seen_count
    wanted = np.bincount(clicks.users[clicks.positive], minlength=num_users)
    count = np.minimum(wanted, free)
    # A user who needs more than half of the free items draws those to leave out, because drawing
    # nearly all of them by rejection would take very many rounds.
    inverted = 2 * count > free
    blocks = _blocks(seen_count + count + np.where(inverted, free, 0))
    drawn = _distinct_ranks(
        stream, np.where(inverted, free - count, count), free, num_items, blocks
    )
    total = int(count.sum())
    users, items = np.empty(total, dtype=np.int32), np.empty(total, dtype=np.int32)
    done, seen_ends = 0, np.cumsum(seen_count)
    for number, (first, last) in enumerate(blocks):
        ranks, drawn[number] = drawn[number], np.empty(0, dtype=np.int64)
        few = np.where(inverted[first:last], free[first:last], 0)
        if few.any():
            every = np.repeat(np.arange(last - first), few) * num_items + positions_within(few)
            left_out = inverted[first:last][ranks // num_items]
            taken = every[~is_in_sorted(every, ranks[left_out])]
            ranks = np.sort(np.concatenate([ranks[~left_out], taken]))
        here = slice(done, done := done + len(ranks))
        users[here] = first + ranks // num_items
        of_block = seen_count[first:last]
        known = seen[seen_ends[first] - of_block[0] : seen_ends[last - 1]] - first * num_items
        items[here] = items_of_ranks(ranks, known, of_block, num_items)
    return users, items, int((wanted - count).sum())


def _blocks(weights: Int64) -> list[tuple[int, int]]:
    """Runs of users, first and end, of about a weight that is drawn for together."""
    ends = np.cumsum(weights)
    most = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(_BLOCK, most, _BLOCK), side="right")
    bounds = np.unique(np.concatenate([[0], cuts, [len(weights)]])).tolist()
    return list(pairwise(bounds))


def items_of_ranks(ranks: Int64, seen: Int64, seen_count: Int64, num_items: int) -> Int64:
    """Items at ranks among those that a user has not consumed.

    Args:
        ranks: [n] user * I + rank, from 0, among the user's other items.
        seen: [sum of seen_count] consumed items, user * I + item, sorted and distinct.
        seen_count: [U].
        num_items: I.
    """
    users = ranks // num_items
    starts = np.cumsum(seen_count) - seen_count
    before = seen - positions_within(seen_count)
    skipped = np.searchsorted(before, ranks, side="right") - starts[users]
    items: Int64 = ranks - users * num_items + skipped
    return items


def _distinct_ranks(
    stream: np.random.Generator,
    count: Int64,
    free: Int64,
    stride: int,
    blocks: Sequence[tuple[int, int]],
) -> list[Int64]:
    """``count[u]`` distinct numbers below ``free[u]`` for every u.

    By block of users, sorted keys (u - first) * stride + rank. Numbers already drawn are drawn
    again, in rounds over all blocks, so that blocks decide no draw. At most half of a user's
    numbers are wanted, so every round settles at least half of what is missing, on average.
    """
    missing = count.copy()
    kept = [np.empty(0, dtype=np.int64) for _ in blocks]
    while missing.any():
        for number, (first, last) in enumerate(blocks):
            owner = np.repeat(np.arange(last - first), missing[first:last])
            if not len(owner):
                continue
            rank = (stream.random(len(owner)) * free[first:last][owner]).astype(np.int64)
            fresh = sorted_distinct(owner * stride + rank)
            fresh = fresh[~is_in_sorted(fresh, kept[number])]
            missing[first:last] -= np.bincount(fresh // stride, minlength=last - first)
            kept[number] = np.sort(np.concatenate([kept[number], fresh]), kind="stable")
    return kept
