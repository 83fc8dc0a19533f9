"""Shards of row-sparse tables, and the way of rows to the mini-batches that touch them.

A table of n rows is cut into P shards. Row i is at position p = a i mod n, in shard p P // n. The
constant a has no divisor in common with n and is near n times the golden ratio, so that popular
rows, whose ids are often neighbours or multiples of something, are spread. Each of W processes has
P / W shards, of the tables and of their moments. A sum over rows is made shard by shard, and the
shards' sums are added in order: neither a sum nor a shard depends on W.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.training.parallel.world import World

__all__ = ["Route", "Sharding"]

_GOLDEN = (math.sqrt(5) - 1) / 2  # whose multiples are as far apart as can be


def held_by(rank: int, size: int, shards: int) -> range:
    """Shards that a process of so many has."""
    each = shards // size
    return range(rank * each, (rank + 1) * each)


class Sharding:
    """Places of the rows of a space.

    Args:
        count: n, rows.
        shards: P.
        world: of W processes; W divides P.

    Attributes:
        held: shards that this process has.
    """

    def __init__(self, count: int, shards: int, world: World) -> None:
        self.count, self.shards, self.world = count, shards, world
        self.held = held_by(world.rank, world.size, shards)
        self._each = len(self.held)
        self._modulus = max(count, 1)
        factor = max(1, round(count * _GOLDEN))
        while math.gcd(factor, count) > 1:
            factor += 1
        self._factor = factor
        # First position of each shard, and of the first shard of its process.
        self._firsts = [-(-count * shard // shards) for shard in range(shards + 1)]
        firsts = torch.tensor(self._firsts[:-1])
        self._bases = firsts[:: self._each].repeat_interleave(self._each)
        self._starts = firsts - self._bases

    def rows_of(self, shard: int) -> int:
        """Number of rows of a shard."""
        return self._firsts[shard + 1] - self._firsts[shard]

    def ids_of(self, shard: int) -> Tensor:
        """Ids [rows_of(shard)] int64 of a shard's rows, in their order."""
        positions = torch.arange(*self._firsts[shard : shard + 2])
        return positions * pow(self._factor, -1, self._modulus) % self._modulus

    def places(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Shard, and row among all rows of the process that has it, of ids [n]; int64."""
        positions = ids.long() * self._factor % self._modulus
        shards = positions * self.shards // self._modulus
        return shards, positions - self._bases[shards]

    def held_shards(self, rows: Tensor) -> Tensor:
        """Shard of each of the rows [n] of this process, from 0 for its first one."""
        starts = self._starts[self.held.start : self.held.stop]
        return torch.searchsorted(starts, rows.long(), right=True) - 1

    def mine(self, table: Tensor) -> Tensor:
        """Rows of a whole table [n, ...] that this process has, shard by shard."""
        return torch.cat([table.index_select(0, self.ids_of(shard)) for shard in self.held])

    def whole(self, mine: Tensor) -> Tensor | None:
        """Whole table [n, ...] of what the processes have; None on all but the first one."""
        world = self.world
        owned = [held_by(rank, world.size, self.shards) for rank in range(world.size)]
        counts = [sum(map(self.rows_of, shards)) for shards in owned]
        table = mine.new_empty(self.count, *mine.shape[1:]) if world.rank == 0 else None
        for rank, rows in enumerate(world.collect(mine, counts)):
            assert table is not None
            ids = torch.cat([self.ids_of(shard) for shard in owned[rank]])
            table.index_copy_(0, ids, rows)
        return table


class Route:
    """Way of the rows of one space for one step: to the parts of a mini-batch, and back.

    Args:
        sharding: of the space.
        wanted: [P / W] ids [n] int32, distinct within a part, that the parts of this process touch.

    Attributes:
        touched: [u] int32, rows of this process that any part touches.
    """

    def __init__(self, sharding: Sharding, wanted: Sequence[Tensor]) -> None:
        self._world = world = sharding.world
        each = sharding.shards // world.size
        self._lengths = [len(ids) for ids in wanted]
        shards, rows = sharding.places(torch.cat(list(wanted)))
        part = torch.repeat_interleave(torch.arange(each), torch.tensor(self._lengths))
        keys = shards // each * each + part  # owner, then part
        # NumPy sorts bytes in one pass.
        order = np.argsort(keys.to(torch.uint8).numpy(), kind="stable")
        self._order = torch.from_numpy(order)
        self._back = torch.empty_like(self._order)
        self._back[self._order] = torch.arange(len(order))
        asked = keys.bincount(minlength=sharding.shards).view(world.size, each)
        ones = [1] * world.size
        given = world.exchange(asked, ones, ones)  # [W, P / W] rows that each part asks of this one
        self._asked, self._given = asked.sum(1).tolist(), given.sum(1).tolist()
        self._given_parts: list[int] = given.flatten().tolist()
        self._ids = world.exchange(rows[self._order].int(), self._asked, self._given)
        self.touched, positions = ops.localize(self._ids)
        self._positions = torch.split(positions, self._given_parts)

    def fetch(self, table: Tensor) -> list[Tensor]:
        """Rows [n, ...] that each part touches.

        Args:
            table: those rows that this process has.
        """
        came = self._world.exchange(table.index_select(0, self._ids), self._given, self._asked)
        if self._world.size > 1:
            came = came.index_select(0, self._back)
        return list(torch.split(came, self._lengths))

    def give_back(self, grads: Sequence[Tensor]) -> Tensor:
        """Gradients [u, ...] of the touched rows of this process, summed in the order of the parts.

        Args:
            grads: [P / W] gradients [n, ...] of the rows that each part touches.
        """
        parts = grads
        if self._world.size > 1:
            by_owner = torch.cat(list(grads)).index_select(0, self._order)
            came = self._world.exchange(by_owner, self._asked, self._given)
            parts = torch.split(came, self._given_parts)
        total = grads[0].new_zeros(len(self.touched), *grads[0].shape[1:])
        for positions, grad in zip(self._positions, parts, strict=True):
            total.index_add_(0, positions, grad)  # in any order, because a part names a row once
        return total
