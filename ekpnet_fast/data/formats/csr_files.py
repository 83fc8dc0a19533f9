"""Triples grouped by head (CSR) as mapped files of a data set, made within a bound of memory.

``graph.indptr.npy``     [E + 1] int64.
``graph.relations.npy``  [T] uint8, int16 or int32, the smallest that holds R.
``graph.tails.npy``      [T] int32.

It is the graph that training walks by default: with inverse relations where a tail has few heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.stats import distinct_count
from ekpnet_fast.data.tables import FEW_HEADS, StoredGraph
from ekpnet_fast.errors import DataError
from ekpnet_fast.storage.columns import ColumnWriter, map_column

__all__ = ["GRAPH_FILES", "graph_writers", "map_graph", "write_graph"]

GRAPH_FILES = ("graph.indptr.npy", "graph.relations.npy", "graph.tails.npy")

_BLOCK = 1 << 22  # triples that are looked at together
_BUCKETS = 1 << 16  # of heads, which are counted to cut them into ranges
_BYTES = 48  # that a triple of a range takes while it is sorted

Triples = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def write_graph(
    folder: Path, triples: Triples, num_entities: int, num_relations: int, memory: int
) -> bool:
    """Write the graph of triples [T], which may be mapped files.

    Heads are taken in ranges whose triples fit into memory, each with a pass over all triples.

    Args:
        folder: for `GRAPH_FILES`.
        triples: heads, relations and tails.
        num_entities: E.
        num_relations: R.
        memory: bytes to stay within, but for a range of few heads that have more triples.

    Returns:
        Whether inverse relations were added.
    """
    total = len(triples[0])
    inverse = total < FEW_HEADS * distinct_count(num_entities, triples[2])
    if inverse:
        total, num_relations = 2 * total, 2 * num_relations
    indptr, relations, tails = graph_writers(folder, num_entities, num_relations, total)
    with indptr, relations, tails:
        indptr.add(np.zeros(1, dtype=np.int64))
        done = 0
        for first, last in _ranges(triples, num_entities, memory // _BYTES, inverse=inverse):
            h, r, t = _of_heads(triples, first, last, num_relations // 2 if inverse else None)
            ends, order = _grouped(h - np.int32(first), last - first)
            indptr.add(done + ends)
            relations.add(r[order])
            tails.add(t[order])
            done += len(h)
    return inverse


def graph_writers(
    folder: Path, num_entities: int, num_relations: int, total: int
) -> tuple[ColumnWriter, ColumnWriter, ColumnWriter]:
    """Writers of `GRAPH_FILES`; triples and relations are counted with their inverses."""
    small = np.uint8 if num_relations <= 1 << 8 else np.int16
    relation = small if num_relations <= 1 << 15 else np.int32
    indptr, relations, tails = (folder / name for name in GRAPH_FILES)
    return (
        ColumnWriter(indptr, np.int64, num_entities + 1),
        ColumnWriter(relations, relation, total),
        ColumnWriter(tails, np.int32, total),
    )


def map_graph(folder: Path, num_entities: int, num_relations: int, *, inverse: bool) -> StoredGraph:
    """Map the graph of a data set, of which nothing but lengths and types is looked at.

    Raises:
        DataError: a file is missing, or does not fit the others.
    """
    paths = [folder / name for name in GRAPH_FILES]
    indptr = map_column(paths[0], np.int64, scattered=True)
    relations = map_column(paths[1], scattered=True)
    tails = map_column(paths[2], np.int32, scattered=True)
    if relations.dtype not in (np.uint8, np.int16, np.int32):
        found, expected = str(relations.dtype), "uint8, int16 or int32"
        raise DataError.about(paths[1], None, found, expected)
    for path, found_count, count in (
        (paths[0], len(indptr), num_entities + 1),
        (paths[1], len(relations), len(tails)),
        (paths[2], len(tails), int(indptr[-1]) if len(indptr) else 0),
    ):
        if found_count != count:
            raise DataError.about(path, None, f"{found_count} values", f"{count}")
    return StoredGraph(indptr, relations, tails, num_relations * (1 + inverse), inverse)


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _BLOCK):
        yield slice(start, min(start + _BLOCK, count))


def _ranges(
    triples: Triples, num_entities: int, most: int, *, inverse: bool
) -> Iterator[tuple[int, int]]:
    """Ranges of heads with at most so many triples each, where a bucket has no more."""
    width = -(-num_entities // _BUCKETS)
    counts = np.zeros(-(-num_entities // width), dtype=np.int64)
    for heads in (triples[0], triples[2]) if inverse else (triples[0],):
        for block in _blocks(len(heads)):
            counts += np.bincount(heads[block] // width, minlength=len(counts))
    ends, first = np.cumsum(counts), 0
    while first < len(counts):
        limit = (int(ends[first - 1]) if first else 0) + most
        last = max(first + 1, int(np.searchsorted(ends, limit, side="right")))
        yield first * width, min(last * width, num_entities)
        first = last


def _of_heads(
    triples: Triples, first: int, last: int, inverse_from: int | None
) -> tuple[NDArray[np.int32], NDArray[Any], NDArray[np.int32]]:
    """Triples of heads [first, last) in their order, then those walked backwards."""
    heads, relations, tails = triples
    ways = [(heads, tails, 0)]
    if inverse_from is not None:
        ways.append((tails, heads, inverse_from))
    parts: list[tuple[NDArray[Any], ...]] = []
    for starts, ends, offset in ways:
        for block in _blocks(len(starts)):
            from_ = starts[block]
            at = np.flatnonzero((from_ >= first) & (from_ < last))
            parts.append((from_[at], relations[block][at] + np.int32(offset), ends[block][at]))
    empty = (np.empty(0, dtype=np.int32),) * 3
    h, r, t = (np.concatenate(columns) for columns in zip(empty, *parts, strict=True))
    return h, r, t


def _grouped(heads: NDArray[np.int32], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the triples of each of `count` heads end, and the order that groups them by head."""
    ends = np.cumsum(np.bincount(heads, minlength=count))
    # Keys of 64 bits are sorted many times faster than 32 bits are stably.
    keys = heads.astype(np.int64) << 32
    keys |= np.arange(len(heads))
    keys.sort()
    keys &= (1 << 32) - 1
    return ends, keys
