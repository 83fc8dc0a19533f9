"""Tables of a model, of which each process has a share of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from ekpnet_fast.models import Model
from ekpnet_fast.training.parallel.shards import Sharding, held_by
from ekpnet_fast.training.parallel.world import World

__all__ = ["SharedTables"]


class SharedTables:
    """Row-sparse tables of a model, cut into shards that the processes share.

    The model then has the rows of this process alone, shard by shard.

    Args:
        model: with whole tables.
        world: the processes.
        shards: P.

    Attributes:
        shardings: by space.
        held: numbers of the shards, and of the parts of a mini-batch, that this process has.
    """

    def __init__(self, model: Model, world: World, shards: int) -> None:
        self._model, self.world, self.shards = model, world, shards
        self.held = held_by(world.rank, world.size, shards)
        self.shardings = {
            space: Sharding(len(model.table(name)), shards, world)
            for name, space in model.tables.items()
        }
        for name, space in model.tables.items():
            self.put(name, self.shardings[space].mine(model.table(name)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tables."""
        return tuple(self._model.tables)

    def lengths(self, name: str) -> list[int]:
        """Rows of a table in each shard of this process."""
        sharding = self.shardings[self._model.tables[name]]
        return [sharding.rows_of(shard) for shard in self.held]

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Context of whole tables in the model; all processes enter it."""
        mine = {name: self._model.table(name) for name in self._model.tables}
        self.make_whole()
        try:
            yield
        finally:
            for name, rows in mine.items():
                self.put(name, rows)

    def make_whole(self) -> None:
        """Give the model whole tables; all processes call it."""
        for name, space in self._model.tables.items():
            self.put(name, self.shardings[space].whole(self._model.table(name)))

    def put(self, name: str, rows: Tensor) -> None:
        """Make rows a table of the model."""
        setattr(self._model, name, rows)
