"""Checkpoints whose tables are in shards, each written by the process that has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ekpnet_fast.errors import DataError
from ekpnet_fast.storage.checkpoint import Checkpoint, CheckpointWriter
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
        self.start = None if writer.start is None else self._joined(writer.start)
        self.stopped, self.due, self.finish = writer.stopped, writer.due, writer.finish

    def save(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a state; all processes call it.

        Args:
            facts: JSON-serialisable.
            tensors: by name; of the tables and their moments the rows of this process.

        Raises:
            ConfigError: it could not be written.
        """
        tables, writer = self._tables, self._writer
        cut = {
            name: torch.split(tensors[name], tables.lengths(table))
            for table in tables.names
            for name in (f"{kind}.{table}" for kind in _OF_TABLES)
            if name in tensors
        }
        seals: dict[str, Any] = {}
        for at, shard in enumerate(tables.held):
            seals |= writer.write_shard(shard, {name: rows[at] for name, rows in cut.items()})
        for others in tables.world.values(seals):
            seals |= others
        writer.save(facts, {name: x for name, x in tensors.items() if name not in cut}, seals)

    def _joined(self, start: Checkpoint) -> Checkpoint:
        found = [start.shard(number) for number in self._tables.held]
        try:
            rows = {name: torch.cat([shard[name] for shard in found]) for name in found[0]}
        except (KeyError, RuntimeError) as error:
            raise DataError(f"{start.path}: has shards that do not fit ({error})") from error
        return replace(start, tensors={**start.tensors, **rows})
