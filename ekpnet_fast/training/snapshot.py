"""Snapshot of a run in training: into a checkpoint, and back out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from ekpnet_fast.errors import DataError
from ekpnet_fast.storage.checkpoint import Checkpoint, CheckpointWriter
from ekpnet_fast.training.losses import TERMS
from ekpnet_fast.training.parallel.saved import SharedWriter
from ekpnet_fast.training.progress import EpochRecord, Outcome, Position, records_as_dicts

__all__ = ["TrainingSnapshot"]


@dataclass
class TrainingSnapshot:
    """Position of a run, and the model's state in the best epoch of the stage in progress.

    Attributes:
        position: as far as it is not in tensors.
        best: by name; empty before there is one.
        checkpoint: the one it was read from, None if it was not.
    """

    position: Position
    best: dict[str, Tensor]
    checkpoint: Checkpoint | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> TrainingSnapshot:
        """Snapshot that a checkpoint holds.

        Raises:
            DataError: it lacks something.
        """
        try:
            position = Position(**checkpoint.facts["position"])
            sums = {term: position.sums[term] for term in TERMS}  # sums run in this order
        except (KeyError, TypeError) as error:
            raise DataError(f"{checkpoint.path}: has no place to go on from ({error})") from error
        best = -math.inf if position.best is None else position.best
        return cls(replace(position, sums=sums, best=best), checkpoint.named("best"), checkpoint)

    def restore(self, outcome: Outcome) -> None:
        """Put the checkpoint's weights, records and times into an outcome.

        Raises:
            DataError: the weights do not fit the model.
        """
        checkpoint = self.checkpoint
        assert checkpoint is not None
        try:
            outcome.model.load_state_dict(checkpoint.named("model"))
            outcome.model.draw.set_state(checkpoint.tensors["rng.model"])
        except (RuntimeError, KeyError) as error:
            raise DataError(f"{checkpoint.path}: does not fit the run's model ({error})") from error
        outcome.records = []
        for record in checkpoint.facts["epochs"]:
            values: dict[str, Any] = {k: math.nan if v is None else v for k, v in record.items()}
            outcome.records.append(EpochRecord(**values))
        outcome.seconds.update(checkpoint.facts["seconds"])

    def save(
        self,
        writer: CheckpointWriter | SharedWriter,
        outcome: Outcome,
        optimizer: Mapping[str, Tensor],
    ) -> None:
        """Write it, with the outcome so far and the optimizer's state."""
        tensors = {
            **{f"model.{name}": x for name, x in outcome.model.state_dict().items()},
            **{f"best.{name}": x for name, x in self.best.items()},
            **{f"optimizer.{name}": x for name, x in optimizer.items()},
            "rng.model": outcome.model.draw.get_state(),
        }
        facts = {
            "position": asdict(self.position),
            "epochs": records_as_dicts(outcome.records),
            "seconds": outcome.seconds,
        }
        writer.save(facts, tensors)
