"""Pairs of user and item as keys user * I + item, and what is done with sorted ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.tables import Dataset, Examples, Int32

__all__ = [
    "Int64",
    "count_new",
    "history_of",
    "is_in_sorted",
    "keys_of",
    "pair_keys",
    "positions_within",
    "positives_of",
    "sorted_distinct",
]

Int64 = NDArray[np.int64]


def pair_keys(dataset: Dataset) -> tuple[Int64, NDArray[np.bool_]]:
    """Keys user * I + item [n] of a data set's rows, and which of them are positives."""
    pairs = dataset.rows if dataset.rows is not None else dataset.interactions
    assert pairs is not None
    keys = keys_of(pairs.users, pairs.items, dataset.num_items)
    return keys, pairs.labels == 1 if isinstance(pairs, Examples) else pairs.positive


def keys_of(users: Int32, items: Int32, num_items: int) -> Int64:
    """Keys user * I + item [n] of pairs."""
    keys: Int64 = users.astype(np.int64)
    keys *= num_items
    keys += items
    return keys


def positives_of(keys: Int64, num_items: int) -> Examples:
    """Examples, all positive, of keys user * I + item [n]."""
    users, items = np.divmod(keys, num_items)
    return Examples(
        users.astype(np.int32), items.astype(np.int32), np.ones(len(keys), dtype=np.int8)
    )


def history_of(rows: Examples, num_users: int, num_items: int) -> tuple[Int64, Int32]:
    """Positives per user as a CSR table.

    Returns:
        indptr [U + 1] int64 and items [indptr[-1]] int32, sorted and distinct within a user.
    """
    positive = rows.labels == 1
    keys = sorted_distinct(keys_of(rows.users[positive], rows.items[positive], num_items))
    users = keys // num_items
    indptr = np.zeros(num_users + 1, dtype=np.int64)
    np.cumsum(np.bincount(users, minlength=num_users), out=indptr[1:])
    return indptr, (keys - users * num_items).astype(np.int32)


def sorted_distinct(keys: Int64) -> Int64:
    """Distinct keys, rising; sorting them is faster than the hash table of `np.unique`."""
    keys = np.sort(keys)
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys


def is_in_sorted(values: Int64, table: Int64) -> NDArray[np.bool_]:
    """Mask [n] of the values that are in a rising table."""
    if not len(table):
        return np.zeros(len(values), dtype=np.bool_)
    found = np.searchsorted(table, values)
    result: NDArray[np.bool_] = table[np.minimum(found, len(table) - 1)] == values
    return result


def count_new(values: Int64, known: Int64) -> int:
    """Number of distinct values that are not among others."""
    found = sorted_distinct(values)
    return len(found) - int(np.count_nonzero(is_in_sorted(found, sorted_distinct(known))))


def positions_within(counts: Int64) -> Int64:
    """Positions 0..counts[0]-1, 0..counts[1]-1 and so on, end to end."""
    starts = np.cumsum(counts) - counts
    result: Int64 = np.arange(int(counts.sum())) - np.repeat(starts, counts)
    return result
