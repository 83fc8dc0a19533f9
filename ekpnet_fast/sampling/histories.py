"""Histories: lists of clicked items by user, and those that cross-fitting makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Histories", "distinct_keys", "fold_histories", "fold_of", "histories_of"]


@dataclass(frozen=True)
class Histories:
    """Clicked items by history: those of history n are items[indptr[n] : indptr[n + 1]].

    Attributes:
        indptr: [n + 1] int64.
        items: [indptr[-1]] int32, sorted and distinct within a history.
    """

    indptr: Tensor
    items: Tensor

    def __len__(self) -> int:
        """Number of histories."""
        return len(self.indptr) - 1

    def of(self, ids: Tensor) -> Histories:
        """Histories of some ids [G], in that order, repeats allowed."""
        ids = ids.long()
        begins, lengths = self.indptr[ids], self.indptr[ids + 1] - self.indptr[ids]
        indptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        at = torch.arange(int(indptr[-1])) + torch.repeat_interleave(begins - indptr[:-1], lengths)
        return Histories(indptr, self.items[at])


def distinct_keys(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distinct keys, rising; sorting them is faster than the hash table of `np.unique`."""
    found = np.sort(keys)
    distinct: NDArray[np.int64] = found[np.diff(found, prepend=found[:1] - 1) != 0]
    return distinct


def fold_of(
    users: NDArray[np.integer],  # [N]
    items: NDArray[np.integer],  # [N]
    count: int,
    seed: int,
) -> NDArray[np.int64]:
    """Fold [N], 0 to count - 1, of (user, item) pairs: a hash of (seed, user, item).

    An example that a file repeats is in one fold, so that no copy of it reveals its label. The hash
    is two rounds of the finalizer of splitmix64 (Steele, Lea & Flood 2014).
    """
    x = (users.astype(np.uint64) << np.uint64(32)) | items.astype(np.uint64)
    x = _mixed(_mixed(x) ^ np.uint64(seed))
    # The high half times count, shifted: uniform without a division.
    folds: NDArray[np.int64] = (((x >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)).astype(
        np.int64
    )
    return folds


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def fold_histories(
    users: NDArray[np.integer],  # [n] of the clicks
    items: NDArray[np.integer],  # [n]
    folds: NDArray[np.integer],  # [n]
    num_users: int,
    count: int,
) -> Histories:
    """Histories [U * count]: number u * count + k holds u's clicks outside fold k."""
    u, i = users.astype(np.int64), items.astype(np.int64)
    stride = int(i.max(initial=0)) + 1
    keys = [(u * count + k)[folds != k] * stride + i[folds != k] for k in range(count)]
    return _of_keys(np.concatenate(keys), stride, num_users * count)


def histories_of(
    users: NDArray[np.integer],  # [n] of the clicks
    items: NDArray[np.integer],  # [n]
    num_users: int,
) -> Histories:
    """Histories [U] of all clicks."""
    i = items.astype(np.int64)
    stride = int(i.max(initial=0)) + 1
    return _of_keys(users.astype(np.int64) * stride + i, stride, num_users)


def _of_keys(keys: NDArray[np.int64], stride: int, num_owners: int) -> Histories:
    """Histories [num_owners] of keys owner * stride + item."""
    found = distinct_keys(keys)
    owners = found // stride
    indptr = np.zeros(num_owners + 1, dtype=np.int64)
    np.cumsum(np.bincount(owners, minlength=num_owners), out=indptr[1:])
    clicked = (found - owners * stride).astype(np.int32)
    return Histories(torch.from_numpy(indptr), torch.from_numpy(clicked))
