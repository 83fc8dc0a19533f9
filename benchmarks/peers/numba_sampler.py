"""Ripple sets in numba: the same draws as the native op, compiled by numba and run in parallel.

The algorithm is the native one as far as it can be written here: degrees are summed, positions are
drawn by Floyd's algorithm and located by binary search; sets of entities are small hash tables that
stay in the cache; threads take users in chunks and reuse their buffers. Because the draws are the
same hashes, the results are equal to those of `ekpnet_fast.ops.sample_ripple_sets` number for
number, so the two can be compared on time alone.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_LOW = np.uint64(0xFFFFFFFF)
_CHUNK = 64


@numba.njit(inline="always")
def _mix64(x):  # type: ignore[no-untyped-def]
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


@numba.njit(inline="always")
def _bounded(bits, n):  # type: ignore[no-untyped-def]
    """High half of the product bits * n, for n < 2^32."""
    low = ((bits & _LOW) * n) >> np.uint64(32)
    return ((bits >> np.uint64(32)) * n + low) >> np.uint64(32)


@numba.njit(inline="always")
def _stream_key(seed, a, b):  # type: ignore[no-untyped-def]
    key = _mix64(seed + _GAMMA)
    key = _mix64(key ^ (a + _GAMMA))
    key = _mix64(key ^ (b + np.uint64(2) * _GAMMA))
    return _mix64(key ^ (np.uint64(3) * _GAMMA))


@numba.njit(inline="always")
def _insert(table, mask, value):  # type: ignore[no-untyped-def]
    """Insert a value; true if it was not in the open-addressing table, whose free slots hold -1."""
    i = ((np.uint64(value) * _GAMMA) >> np.uint64(32)) & mask
    while table[i] != -1:
        if table[i] == value:
            return False
        i = (i + np.uint64(1)) & mask
    table[i] = value
    return True


@numba.njit(inline="always")
def _power_of_two(n):  # type: ignore[no-untyped-def]
    size = 4
    while size < n:
        size *= 2
    return size


@numba.njit(parallel=True, cache=True, boundscheck=False)
def _sample(  # type: ignore[no-untyped-def]
    indptr, relations, tails, seed_indptr, seeds, hops, slots, seed, epoch, out, counts
):
    num_users = seed_indptr.shape[0] - 1
    longest = 0
    for u in range(num_users):
        longest = max(longest, seed_indptr[u + 1] - seed_indptr[u])
    most_heads = max(longest, slots)
    for chunk in numba.prange((num_users + _CHUNK - 1) // _CHUNK):
        seen = np.empty(_power_of_two(2 * (longest + hops * slots)), np.int32)
        drawn = np.empty(_power_of_two(4 * slots), np.int64)
        drawn_mask = np.uint64(drawn.shape[0] - 1)
        heads = np.empty(most_heads, np.int32)
        first = np.empty(most_heads, np.int64)
        cumulative = np.empty(most_heads + 1, np.int64)
        cumulative[0] = 0
        for u in range(chunk * _CHUNK, min(num_users, (chunk + 1) * _CHUNK)):
            begin, size = seed_indptr[u], seed_indptr[u + 1] - seed_indptr[u]
            seen_size = _power_of_two(2 * (size + hops * slots))
            seen_mask = np.uint64(seen_size - 1)
            seen[:seen_size] = -1
            key = _stream_key(seed, epoch, np.uint64(u))
            count = size
            for p in range(hops):
                n = 0
                for i in range(count):
                    entity = seeds[begin + i] if p == 0 else out[2, u, p - 1, i]
                    if not _insert(seen, seen_mask, entity):
                        continue
                    degree = indptr[entity + 1] - indptr[entity]
                    if degree == 0:
                        continue
                    heads[n] = entity
                    first[n] = indptr[entity]
                    cumulative[n + 1] = cumulative[n] + degree
                    n += 1
                candidates = cumulative[n]
                count = min(candidates, slots)
                if candidates > slots:
                    drawn[:] = -1
                counter = key + ((np.uint64(p) << np.uint64(32)) + np.uint64(1)) * _GAMMA
                for m in range(count):
                    position = m
                    if candidates > slots:
                        top = candidates - slots + m
                        bits = _mix64(counter + np.uint64(m) * _GAMMA)
                        position = np.int64(_bounded(bits, np.uint64(top + 1)))
                        if not _insert(drawn, drawn_mask, position):
                            position = top
                            _insert(drawn, drawn_mask, position)
                    low, high = 0, n
                    while high - low > 1:
                        middle = (low + high) // 2
                        if cumulative[middle] <= position:
                            low = middle
                        else:
                            high = middle
                    triple = first[low] + position - cumulative[low]
                    out[0, u, p, m] = heads[low]
                    out[1, u, p, m] = relations[triple]
                    out[2, u, p, m] = tails[triple]
                for m in range(count, slots):
                    out[0, u, p, m] = 0
                    out[1, u, p, m] = 0
                    out[2, u, p, m] = 0
                counts[u, p] = count


def sample_ripple_sets(
    indptr: NDArray[np.int64],  # [E + 1]
    relations: NDArray[np.integer],  # [T]
    tails: NDArray[np.int32],  # [T]
    seed_indptr: NDArray[np.int64],  # [U + 1]
    seeds: NDArray[np.int32],  # [history]
    *,
    hops: int,
    slots: int,
    seed: int,
    epoch: int = 0,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Heads, relations and tails [3, U, H, M] and counts [U, H] int32, in numba's threads."""
    num_users = len(seed_indptr) - 1
    out = np.empty((3, num_users, hops, slots), np.int32)
    counts = np.empty((num_users, hops), np.int32)
    _sample(
        indptr,
        relations,
        tails,
        seed_indptr,
        seeds,
        hops,
        slots,
        np.uint64(seed),
        np.uint64(epoch),
        out,
        counts,
    )
    return out, counts
