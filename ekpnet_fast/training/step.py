"""The optimizer step of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.config import StageConfig
from ekpnet_fast.models import Model
from ekpnet_fast.models.base import Gradients
from ekpnet_fast.ops.deterministic import fixed_order_sum
from ekpnet_fast.sampling.pairs import Batch
from ekpnet_fast.training.losses import TERMS, LossWatch, loss_terms
from ekpnet_fast.training.snapshot import adam_state, load_adam_state


class StageTrainer:
    """One stage: its optimizer state and its steps.

    Adam runs on the touched rows of the model's tables and densely on the rest; both start anew in
    each stage, as Algorithms 1 and 2 do.

    Args:
        model: the model.
        stage: its options.
        backend: `ops` or `reference`.
        name: the stage's name.
    """

    def __init__(self, model: Model, stage: StageConfig, backend: ModuleType, name: str) -> None:
        self.model = model
        self.stage = stage
        self.backend = backend
        self.name = name
        self.m = {table: torch.zeros_like(model.table(table)) for table in model.tables}
        self.v = {table: torch.zeros_like(model.table(table)) for table in model.tables}
        self.dense = [*model.relations(), *model.dense_weights(name)]
        self.adam = torch.optim.Adam(self.dense, lr=stage.lr, fused=True) if self.dense else None
        # Native ops that find gradients by themselves are the CPU's.
        self.native = backend is ops and all(p.device.type == "cpu" for p in self.dense)
        self.steps = 0
        self.watch = LossWatch(stage, name)

    def state(self) -> dict[str, Tensor]:
        """What steps change besides the model, by name; the tensors themselves."""
        moments = {"m": self.m, "v": self.v}
        tables = {f"{name}.{t}": x for name, of in moments.items() for t, x in of.items()}
        steps = torch.tensor(self.steps)
        return {**tables, **adam_state(self.adam), "steps": steps}

    def load_state(self, state: Mapping[str, Tensor], watch: Mapping[str, Any]) -> None:
        """Go on from a `state` and that of the watch.

        Raises:
            RuntimeError: tensors of another shape.
        """
        for table in self.m:
            self.m[table].copy_(state[f"m.{table}"])
            self.v[table].copy_(state[f"v.{table}"])
        load_adam_state(self.adam, state)
        self.steps = int(state["steps"])
        self.watch = LossWatch(self.stage, self.name, watch)

    def step(self, batch: Batch) -> dict[str, float]:
        """One step; returns the terms of the loss before it.

        Raises:
            TrainingError: the loss is not finite or diverges; names the term and the step.
        """
        self.steps += 1
        stage, model = self.stage, self.model
        found = model.gradients(batch, stage, stage=self.name) if self.native else None
        values, grads = self._by_autograd(batch) if found is None else self._taken(found)
        self.watch.check(values, self.steps)
        l2 = stage.lambda3 / batch.size
        for table, grad in grads.items():
            self.backend.row_adam_(
                model.table(table),
                self.m[table],
                self.v[table],
                batch.rows_of(model.tables[table]),
                grad,
                step=self.steps,
                lr=stage.lr,
                l2=0.0 if table in model.undecayed else l2,
            )
        if self.adam is not None:
            self.adam.step()
        return values

    def _by_autograd(self, batch: Batch) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The terms of the loss, and by table the gradients of rows; those of the rest are set."""
        stage, model = self.stage, self.model
        rows = {
            table: model.table(table).index_select(0, batch.rows_of(space)).requires_grad_()
            for table, space in model.tables.items()
        }
        terms = loss_terms(self.backend, model, rows, batch, stage, name=self.name)
        if self.adam is not None:
            self.adam.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        values = {name: float(term.detach()) for name, term in terms.items()}
        # A table that the loss did not look at, as in a stage of triples, stays as it is.
        grads = {table: x.grad for table, x in rows.items() if x.grad is not None}
        if stage.lambda3 > 0:
            for table in [table for table in grads if table not in model.undecayed]:
                norms = rows[table].detach().square().flatten(1)
                norm = float(fixed_order_sum(norms.sum(1))) * stage.lambda3 / batch.size / 2
                values["rows"] = values.get("rows", 0.0) + norm
        return values, grads

    def _taken(self, found: Gradients) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The same from what a native op has found."""
        for parameter, gradient in zip(self.dense, found.dense, strict=True):
            parameter.grad = gradient
        weights = (1.0, self.stage.lambda1, self.stage.lambda2, self.stage.lambda3)
        terms = zip(TERMS, found.terms.tolist(), weights, strict=True)
        return {name: value for name, value, weight in terms if weight > 0}, found.rows
