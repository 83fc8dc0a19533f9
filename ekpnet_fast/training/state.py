"""Optimizer state of a stage, and the update of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ekpnet_fast.config import StageConfig
from ekpnet_fast.models import Model
from ekpnet_fast.training.dense_adam import DenseAdam
from ekpnet_fast.training.losses import LossWatch

__all__ = ["Moments", "StepState"]

Moments = tuple[dict[str, Tensor], dict[str, Tensor]]


class StepState:
    """Moments, step count and loss watch of a stage.

    Adam runs on the touched rows of the model's tables and densely on the rest; both start anew in
    each stage, as Algorithms 1 and 2 do.

    Args:
        model: the model, on its device.
        stage: the stage's options.
        name: the stage's name.
        moments: `m` and `v` of tables that another optimizer trains, which changes them.

    Attributes:
        m, v: moments of the tables, by table.
        dense: every other parameter that the stage trains, those of relations first.
        adam: the optimizer of these.
        steps: complete steps.
        watch: stops a stage that diverges.
    """

    def __init__(
        self, model: Model, stage: StageConfig, name: str, moments: Moments | None = None
    ) -> None:
        self.model, self.stage, self.name = model, stage, name
        self.m, self.v = moments or (_zeros(model), _zeros(model))
        self.dense = [*model.relations(), *model.dense_weights(name)]
        self.adam = DenseAdam(self.dense, stage.lr)
        self.steps = 0
        self.watch = LossWatch(stage, name)
        # Of the rounding of bfloat16 tables; steps start anew in each stage, and draws must not.
        place = list(model.stages).index(name) if name in model.stages else 0
        self._seed = (model.draw.initial_seed() * len(model.stages) + place) * len(model.tables)

    def apply(
        self,
        backend: ModuleType,
        rows: Mapping[str, Tensor],  # [n] int32, of each table that has a gradient
        grads: Mapping[str, Tensor],  # [n, ...] of these rows
        *,
        step: int | Tensor,  # [] int64, from 1
        l2: float | Tensor,  # [] float64, decay of the rows
    ) -> None:
        """Update the touched rows by their gradients, and the dense parameters by their own."""
        model = self.model
        tables = list(model.tables)
        for table, grad in grads.items():
            backend.row_adam_(
                model.table(table),
                self.m[table],
                self.v[table],
                rows[table],
                grad,
                step=step,
                lr=self.stage.lr,
                l2=0.0 if table in model.undecayed else l2,
                seed=self._seed + tables.index(table),
            )
        self.adam.step()

    def tensors(self) -> dict[str, Tensor]:
        """Tensors by name, for a checkpoint: all but the watch; not copies."""
        moments = {"m": self.m, "v": self.v}
        tables = {f"{name}.{t}": x for name, of in moments.items() for t, x in of.items()}
        return {**tables, **self._adam_tensors(), "steps": torch.tensor(self.steps)}

    def load(self, tensors: Mapping[str, Tensor], watch: Mapping[str, Any]) -> None:
        """Go on from what `tensors` gave, and from the watch's state, before the first step.

        Raises:
            RuntimeError: tensors of another shape.
        """
        for name, moments in (("m", self.m), ("v", self.v)):
            for table, x in moments.items():
                # Checkpoints of GPU runs may name the moments of their one table without it.
                lone = name if name in tensors else f"{name}.{table}"
                x.copy_(tensors[lone])
        self._load_adam(tensors)
        self.steps = int(tensors["steps"])
        self.watch = LossWatch(self.stage, self.name, watch)

    def _adam_tensors(self) -> dict[str, Tensor]:
        """Moments and step counts of the dense parameters by name; empty before the first step."""
        return {
            f"adam.{i}.{name}": x
            for i, parameter in enumerate(self.dense)
            for name, x in self.adam.state.get(parameter, {}).items()
        }

    def _load_adam(self, tensors: Mapping[str, Tensor]) -> None:
        found = {
            parameter: {
                name.removeprefix(f"adam.{i}."): x
                for name, x in tensors.items()
                if name.startswith(f"adam.{i}.")
            }
            for i, parameter in enumerate(self.dense)
        }
        self.adam.load({parameter: state for parameter, state in found.items() if state})


def _zeros(model: Model) -> dict[str, Tensor]:
    tables = ((table, model.table(table)) for table in model.tables)
    return {
        table: torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        for table, x in tables
    }
