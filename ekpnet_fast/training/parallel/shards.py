"""Shards of row-sparse tables.

A table of n rows is cut into P shards. Row i is at position p = a i mod n, in shard p P // n. The
constant a has no divisor in common with n and is near n times the golden ratio, so that popular
rows, whose ids are often neighbours or multiples of something, are spread. Each of W processes has
P / W shards, of the tables and of their moments. A sum over rows is made shard by shard, and the
shards' sums are added in order: neither a sum nor a shard depends on W.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.training.parallel.world import World

__all__ = ["Sharding", "held_by"]

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
        starts: [P / W] int64, the first row of each of them among the rows of this process.
    """

    def __init__(self, count: int, shards: int, world: World) -> None:
        self.count, self.shards, self.world = count, shards, world
        self.held = held_by(world.rank, world.size, shards)
        self._modulus = max(count, 1)
        factor = max(1, round(count * _GOLDEN))
        while math.gcd(factor, count) > 1:
            factor += 1
        self._factor = factor
        self._firsts = [-(-count * shard // shards) for shard in range(shards + 1)]  # positions
        of_held = self._firsts[self.held.start : self.held.stop]
        self.starts = torch.tensor([first - of_held[0] for first in of_held])

    def rows_of(self, shard: int) -> int:
        """Number of rows of a shard."""
        return self._firsts[shard + 1] - self._firsts[shard]

    def ids_of(self, shard: int) -> Tensor:
        """Ids [rows_of(shard)] int64 of a shard's rows, in their order."""
        positions = torch.arange(*self._firsts[shard : shard + 2])
        return positions * pow(self._factor, -1, self._modulus) % self._modulus

    def placed(self, ids: Tensor, lengths: Sequence[int]) -> ops.RowPlaces:
        """Where the rows are that some parts of a mini-batch want, by the processes that have them.

        Args:
            ids: [n] int32, part after part.
            lengths: ids of each part.

        Raises:
            RuntimeError: an id is out of range, which would be at the place of another one.
        """
        return ops.place_rows(
            ids,
            torch.tensor(lengths),
            count=self.count,
            factor=self._factor,
            shards=self.shards,
            processes=self.world.size,
        )

    def mine(self, table: Tensor) -> Tensor:
        """Rows of a whole table [n, ...] that this process has, shard by shard."""
        counts = [*map(self.rows_of, self.held)]
        # Written where they stay: beside the whole table there is no room for them twice.
        table = table.detach()
        found = table.new_empty(sum(counts), *table.shape[1:])
        for shard, rows in zip(self.held, torch.split(found, counts), strict=True):
            torch.index_select(table, 0, self.ids_of(shard), out=rows)
        return found

    def whole(self, mine: Tensor) -> Tensor:
        """Whole table [n, ...] of what the processes have, everywhere."""
        world = self.world
        owned = [held_by(rank, world.size, self.shards) for rank in range(world.size)]
        counts = [sum(map(self.rows_of, shards)) for shards in owned]
        table = mine.new_empty(self.count, *mine.shape[1:])
        for rank, rows in enumerate(world.each(mine, counts)):
            ids = torch.cat([self.ids_of(shard) for shard in owned[rank]])
            table.index_copy_(0, ids, rows)
        return table
