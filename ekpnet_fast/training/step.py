"""Optimizer step of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import torch
from torch import Tensor, nn

from ekpnet_fast import ops
from ekpnet_fast.config import StageConfig
from ekpnet_fast.models import Model
from ekpnet_fast.models.base import Gradients, widened
from ekpnet_fast.ops.deterministic import fixed_order_sum
from ekpnet_fast.sampling.pairs import Batch
from ekpnet_fast.training.losses import TERMS, loss_terms
from ekpnet_fast.training.state import StepState


class LossGradients:
    """Loss of mini-batches and its gradients.

    Args:
        model: the model.
        stage: the stage's options.
        backend: `ops` or `reference`.
        name: the stage's name.
    """

    def __init__(self, model: Model, stage: StageConfig, backend: ModuleType, name: str) -> None:
        self.model, self.stage, self.backend, self.name = model, stage, backend, name
        self.dense: list[nn.Parameter] = [*model.relations(), *model.dense_weights(name)]

    def of(
        self, tables: Mapping[str, Tensor], batch: Batch
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Terms of the loss, and by table the gradients of the batch's rows but for their decay.

        Those of the dense parameters are left in `grad`.

        Args:
            tables: those that `batch.rows_of` names rows of.
            batch: on their device.
        """
        found = None
        if self.backend is ops:
            found = self.model.gradients(tables, batch, self.stage, stage=self.name)
        return self._by_autograd(tables, batch) if found is None else self._taken(found)

    def _by_autograd(
        self, tables: Mapping[str, Tensor], batch: Batch
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        stage, model = self.stage, self.model
        batch = batch.by_fold()
        rows = {
            table: widened(tables[table].index_select(0, batch.rows_of(space))).requires_grad_()
            for table, space in model.tables.items()
        }
        terms = loss_terms(self.backend, model, rows, batch, stage, name=self.name)
        for parameter in self.dense:
            parameter.grad = None
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        read = {name: term.detach() for name, term in terms.items()}
        # A table that the loss did not look at, as in a stage of triples, stays as it is.
        grads = {table: x.grad for table, x in rows.items() if x.grad is not None}
        if stage.lambda3 > 0:
            for table in [table for table in grads if table not in model.undecayed]:
                norms = rows[table].detach().square().flatten(1)
                read[f"norm of {table}"] = fixed_order_sum(norms.sum(1))
        # Read together, because each reading waits for the device.
        found = dict(zip(read, torch.stack(list(read.values())).tolist(), strict=True))
        values = {name: found.pop(name) for name in terms}
        for norm in found.values():
            norm = norm * stage.lambda3 / batch.size / 2
            values["l2_rows"] = values.get("l2_rows", 0.0) + norm
        return values, grads

    def _taken(self, found: Gradients) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Terms and gradients as above, from the result of a native op."""
        for parameter, gradient in zip(self.dense, found.dense, strict=True):
            parameter.grad = gradient
        weights = (1.0, self.stage.lambda1, self.stage.lambda2, self.stage.lambda3)
        terms = zip(TERMS, found.terms.tolist(), weights, strict=True)
        return {name: value for name, value, weight in terms if weight > 0}, found.rows


class StageTrainer:
    """Trainer of one stage, a batch at a time.

    Args:
        model: the model.
        stage: the stage's options.
        backend: `ops` or `reference`.
        name: the stage's name.

    Attributes:
        state: of the optimizer.
    """

    def __init__(self, model: Model, stage: StageConfig, backend: ModuleType, name: str) -> None:
        self.model, self.stage, self.backend, self.name = model, stage, backend, name
        self.loss = LossGradients(model, stage, backend, name)
        self.state = StepState(model, stage, name)

    def step(self, batch: Batch) -> dict[str, float]:
        """Run one step; returns the terms of the loss before it.

        Raises:
            TrainingError: the loss is not finite or diverges; names the term and the step.
        """
        state, tables = self.state, self.model.tables
        state.steps += 1
        values, grads = self.loss.of({name: self.model.table(name) for name in tables}, batch)
        state.watch.check(values, state.steps)
        rows = {name: batch.rows_of(tables[name]) for name in grads}
        l2 = self.stage.lambda3 / batch.size
        state.apply(self.backend, rows, grads, step=state.steps, l2=l2)
        return values
