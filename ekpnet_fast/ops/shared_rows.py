"""Rows of tables that processes share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, library

from ekpnet_fast.ops.torch_library import ekpnet

__all__ = ["RowPlaces", "add_rows_", "place_rows", "square_norms", "take_rows_"]


class RowPlaces(NamedTuple):
    """Where the rows are that some parts of a batch touch."""

    rows: Tensor  # [N] int32, rows of the process that has them, by process, then by part
    order: Tensor  # [N] int32, position of each of `rows` among the ids
    places: Tensor  # [N] int32, position of each id in `rows`
    counts: Tensor  # [processes, parts] int32


def place_rows(
    ids: Tensor,  # [N] int32, part after part
    lengths: Tensor,  # [parts] int64, ids of each part
    *,
    count: int,
    factor: int,
    shards: int,
    processes: int,
) -> RowPlaces:
    """Places of rows of a table of `count` that is cut into shards.

    Row i is at position p = i factor mod count, in shard p shards // count; each process has
    shards / processes of them, in order.
    """
    return RowPlaces(*ekpnet.place_rows.default(ids, lengths, count, factor, shards, processes))


def take_rows_(
    out: Tensor,  # of n rows, of any shape, changed in place
    table: Tensor,  # [E, ...]
    rows: Tensor,  # [n] int32
) -> None:
    """Fill `out` with rows of a table, one after the other."""
    ekpnet.take_rows_.default(out, table, rows)


def add_rows_(
    total: Tensor,  # [u, ...], changed in place
    positions: Tensor,  # [n] int32
    rows: Tensor,  # [n, ...]
    picked: Tensor | None = None,  # [n] int32, those of `rows` that are meant; then of any number
) -> None:
    """total[positions[i]] += rows[i] for all i, in their order, at any number of threads."""
    ekpnet.add_rows_.default(total, positions, rows, picked)


def square_norms(
    table: Tensor,  # [n, ...]
    rows: Tensor,  # [u] int32
    starts: Tensor,  # [S] int64, rising from 0
) -> Tensor:
    """Sums of squares [S] float64 of rows of a table: those from each start on, before the next.

    A sum is made in the order of `rows`.
    """
    if not table.is_contiguous():  # rows of TorchRec's memory are padded: those meant are gathered
        shards = torch.bucketize(rows, starts, right=True) - 1
        shards, order = shards.sort(stable=True)
        table = table[rows[order].long()]
        starts = torch.searchsorted(shards, torch.arange(len(starts)))
        rows = torch.arange(len(rows), dtype=torch.int32)
    norms: Tensor = ekpnet.square_norms.default(table, rows, starts)
    return norms


@library.register_fake("ekpnet::place_rows")
def _(
    ids: Tensor, lengths: Tensor, count: int, factor: int, shards: int, processes: int
) -> tuple[Tensor, ...]:
    each = (torch.empty_like(ids) for _ in range(3))
    return (*each, ids.new_empty(processes, lengths.size(0)))


@library.register_fake("ekpnet::take_rows_")
def _(out: Tensor, table: Tensor, rows: Tensor) -> None:
    return None


@library.register_fake("ekpnet::add_rows_")
def _(total: Tensor, positions: Tensor, rows: Tensor, picked: Tensor | None) -> None:
    return None


@library.register_fake("ekpnet::square_norms")
def _(table: Tensor, rows: Tensor, starts: Tensor) -> Tensor:
    return table.new_empty(starts.size(0), dtype=torch.float64)
