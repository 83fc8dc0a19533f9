"""Checkpoints whose tables are in shards, each written by the process that has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Any

import torch
from torch import Tensor

from ekpnet_fast.errors import DataError
from ekpnet_fast.storage.checkpoint import Checkpoint, CheckpointWriter, Seals
from ekpnet_fast.training.parallel.tables import SharedTables

__all__ = ["SharedWriter"]

_OF_TABLES = ("model", "best", "optimizer.m", "optimizer.v")


class SharedWriter:
    """Writer of checkpoints of which each process writes its shards, and the first one the rest.

    A shard does not depend on the number of processes, so as many as divide their number can go on.

    Args:
        writer: of this process.
        tables: of the model.

    Attributes:
        start: the checkpoint to go on from, with the rows of this process.

    Raises:
        DataError: the checkpoint to go on from lacks a shard, or one is damaged.
    """

    def __init__(self, writer: CheckpointWriter, tables: SharedTables) -> None:
        self._writer, self._tables = writer, tables
        self._saves = 0
        self.start = None if writer.start is None else self._joined(writer.start)
        self.stopped, self.due = writer.stopped, writer.due

    def save(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Copy a state and start to write it; all processes call it.

        Args:
            facts: JSON-serialisable.
            tensors: by name; of the tables and their moments the rows of this process. They may
                change once this returns, but for the rows of the best epoch.

        Raises:
            ConfigError: the checkpoint before this one could not be written.
        """
        tables, writer = self._tables, self._writer
        self.finish()
        # Nothing changes the rows of the best epoch, so they are written without a copy.
        cut = {
            name: torch.split(x if kind == "best" else x.detach().clone(), tables.lengths(table))
            for table in tables.names
            for kind in _OF_TABLES
            for name in (f"{kind}.{table}",)
            if (x := tensors.get(name)) is not None
        }
        shards = {
            shard: {name: rows[at] for name, rows in cut.items()}
            for at, shard in enumerate(tables.held)
        }
        self._saves += 1
        post = partial(tables.world.post, f"seals/{self._saves}")

        def sealed(seals: Seals, given_up: Event) -> Seals:
            return {name: seal for of_one in post(seals, given_up) for name, seal in of_one.items()}

        rest = {name: x for name, x in tensors.items() if name not in cut}
        writer.save(facts, rest, shards, sealed)

    def finish(self) -> None:
        """Wait until the last checkpoint saved is on the disk; all processes call it.

        Raises:
            ConfigError: it could not be written.
        """
        world = self._tables.world
        if world.rank > 0:
            self._writer.finish()
        # Here, because the first one would wait long for the seals of a process that has ended.
        world.meet()
        if world.rank == 0:
            self._writer.finish()

    def _joined(self, start: Checkpoint) -> Checkpoint:
        found = [start.shard(number) for number in self._tables.held]
        try:
            rows = {name: torch.cat([shard[name] for shard in found]) for name in found[0]}
        except (KeyError, RuntimeError) as error:
            raise DataError(f"{start.path}: has shards that do not fit ({error})") from error
        return replace(start, tensors={**start.tensors, **rows})
