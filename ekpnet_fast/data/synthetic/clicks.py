"""Positives of synthetic users, drawn without replacement in proportion to the click weights.

Up to `DENSE_CELLS` pairs of user and item each pair has a random number of its own (Gumbel top-k).
Beyond, that would take minutes, and the weights are only added up, in single precision: a user's
items are then drawn by those sums one after the other, and one that the user has is drawn again.
The law is the same. Users with nearly all weight on few items, or who take nearly all, would draw
the same again and again; these are drawn as up to that size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.tables import Int32

__all__ = ["draw_positives"]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

DENSE_CELLS = 1 << 28  # more than Book-Crossing has
_BLOCK_CELLS = 1 << 22
_USERS, _IN_CACHE = 128, 1 << 18  # users at a time, and their weights at a time
_PART = 64  # items whose weights are added up
# Multiplications of a matrix product that OpenBLAS does not share: several threads give other bits,
# and beside another program wait for each other ten times as long as they compute.
_ONE_THREAD = 1 << 18
_ROUNDS = 8  # of draws
_DRAWS = 1 << 12  # that compute the weights of a part at a time
_LARGEST = 60.0  # log weight whose exponential, and the sum of many, are still floats


def draw_positives(
    tastes: Float64,  # [U, latent]
    item_vectors: Float64,  # [I, latent]
    bias: Float64,  # [I]
    counts: Int64,  # [U]
    stream: np.random.Generator,
) -> tuple[Int32, Float64]:
    """Positives of all users end to end [sum(counts)], and logsumexp of the log weights [U].

    Item i has log weight <taste_u, vector_i> + bias_i for user u.
    """
    num_users, num_items = len(tastes), len(item_vectors)
    if num_users * num_items <= DENSE_CELLS:
        return _draw_densely(tastes, item_vectors, bias, counts, stream)
    parts = _parts(item_vectors, bias)
    length = np.sqrt(np.einsum("id,id->i", item_vectors, item_vectors).max())
    largest = np.sqrt(np.einsum("ud,ud->u", tastes, tastes)) * length + np.abs(bias).max()
    normaliser = np.empty(num_users)
    by_sums = np.flatnonzero(largest <= _LARGEST)
    drawn, left = [], [np.flatnonzero(largest > _LARGEST)]
    for start in range(0, len(by_sums), _USERS):
        users = by_sums[start : start + _USERS]
        rows = np.column_stack([tastes[users], np.ones(len(users))]).astype(np.float32)
        sums = _sums(rows, parts)
        normaliser[users] = np.log(sums.sum(axis=1))
        keys, missing = _draw_by_sums(rows, parts, sums, counts[users], num_items, stream)
        drawn.append(users[keys // num_items] * num_items + keys % num_items)
        left.append(users[missing])
    others = np.concatenate(left)
    if len(others):
        items, normaliser[others] = _draw_densely(
            tastes[others], item_vectors, bias, counts[others], stream
        )
        drawn.append(np.repeat(others, counts[others]) * num_items + items)
    keys = np.concatenate(drawn)
    keys = keys[np.argsort(keys // num_items, kind="stable")]
    return (keys % num_items).astype(np.int32), normaliser


def _draw_densely(
    tastes: Float64,
    item_vectors: Float64,
    bias: Float64,
    counts: Int64,
    stream: np.random.Generator,
) -> tuple[Int32, Float64]:
    """Positives and logsumexp by all weights, in blocks of users."""
    num_users, num_items = len(tastes), len(item_vectors)
    step = max(1, _BLOCK_CELLS // num_items)
    drawn: list[Int32] = []
    normaliser = np.empty(num_users)
    for start in range(0, num_users, step):
        block = slice(start, start + step)
        weights = tastes[block] @ item_vectors.T + bias
        top = weights.max(axis=1, keepdims=True)
        normaliser[block] = np.log(np.exp(weights - top).sum(axis=1)) + top[:, 0]
        # log w minus the log of an exponential draw is log w plus a Gumbel draw.
        weights -= np.log(stream.standard_exponential(weights.shape))
        most = int(counts[block].max())
        best = np.argpartition(weights, num_items - most, axis=1)[:, num_items - most :]
        order = np.argsort(-np.take_along_axis(weights, best, axis=1), axis=1, kind="stable")
        ranked = np.take_along_axis(best, order, axis=1)
        drawn.append(ranked[np.arange(most) < counts[block, None]].astype(np.int32))
    return np.concatenate(drawn), normaliser


def _parts(item_vectors: Float64, bias: Float64) -> Float32:
    """Items [P, _PART, latent + 1], vectors and biases; what fills up has weight 0."""
    num_items, latent = item_vectors.shape
    count = -(-num_items // _PART)
    table = np.zeros((count * _PART, latent + 1), dtype=np.float32)
    table[:num_items, :latent] = item_vectors
    table[:num_items, latent] = bias
    table[num_items:, latent] = -np.inf
    return table.reshape(count, _PART, latent + 1)


def _sums(rows: Float32, parts: Float32) -> Float64:
    """Sums [n, P] of the weights of each part, for users with `rows` [n, latent + 1]."""
    sums = np.empty((len(rows), len(parts)))
    items = parts.transpose(0, 2, 1)
    most = max(1, _ONE_THREAD // (_PART * parts.shape[2]))
    for start in range(0, len(rows), most):
        some = rows[start : start + most]
        step = max(1, _IN_CACHE // (len(some) * _PART))
        for first in range(0, len(parts), step):
            weights = np.matmul(some, items[first : first + step])
            np.exp(weights, out=weights)
            sums[start : start + most, first : first + step] = weights.sum(axis=2).T
    return sums


def _draw_by_sums(
    rows: Float32,
    parts: Float32,
    sums: Float64,
    counts: Int64,
    num_items: int,
    stream: np.random.Generator,
) -> tuple[Int64, Int64]:
    """Positives as keys user * I + item, by user and in the order drawn; and the users, without
    positives, for whom too few different items came up.
    """
    num_users, num_parts = sums.shape
    running = np.cumsum(sums, axis=1)
    running /= running[:, -1:]
    # One table of rising sums for all users: the place of a user's own is the user's number.
    table = (running + np.arange(num_users)[:, None]).ravel()
    keys = np.empty(0, dtype=np.int64)
    missing = counts
    for _ in range(_ROUNDS):
        users = np.repeat(np.arange(num_users), np.where(missing > 0, 2 * missing + 16, 0))
        part = np.searchsorted(table, users + stream.random(len(users)), side="right")
        part = np.minimum(part - users * num_parts, num_parts - 1)
        within = stream.random(len(users))
        items = np.empty(len(users), dtype=np.int64)
        for first in range(0, len(users), _DRAWS):
            at = slice(first, first + _DRAWS)
            weights = np.einsum("nd,nkd->nk", rows[users[at]], parts[part[at]])
            inside = np.cumsum(np.exp(weights.astype(np.float64)), axis=1)
            chosen = (inside <= within[at, None] * inside[:, -1:]).sum(axis=1)
            items[at] = part[at] * _PART + np.minimum(chosen, _PART - 1)
        items = np.minimum(items, num_items - 1)  # of the last part, which may not be full
        keys = _first_of_each(np.concatenate([keys, users * num_items + items]), num_items, counts)
        missing = counts - np.bincount(keys // num_items, minlength=num_users)
        if not missing.any():
            break
    short = np.flatnonzero(missing)
    return keys[~np.isin(keys // num_items, short)], short


def _first_of_each(keys: Int64, num_items: int, counts: Int64) -> Int64:
    """Keys user * I + item by user, the first ``counts[u]`` different ones of each in order."""
    _, at = np.unique(keys, return_index=True)
    keys = keys[np.sort(at)]
    keys = keys[np.argsort(keys // num_items, kind="stable")]
    users = keys // num_items
    have = np.bincount(users, minlength=len(counts))
    rank = np.arange(len(keys)) - np.repeat(np.cumsum(have) - have, have)
    return keys[rank < counts[users]]
