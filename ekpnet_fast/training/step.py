"""Optimizer step of a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from types import ModuleType

import torch
from torch import Tensor, nn

from ekpnet_fast import ops
from ekpnet_fast.config import StageConfig
from ekpnet_fast.models import Model
from ekpnet_fast.models.base import Gradients, widened
from ekpnet_fast.ops.deterministic import fixed_order_sum
from ekpnet_fast.sampling.pairs import Batch
from ekpnet_fast.training.losses import TERMS, backward, loss_terms
from ekpnet_fast.training.state import StepState


class StepLoss:
    """Terms of a step's loss, where they were computed: who reads them waits for a GPU.

    Args:
        values: what the terms follow from, 1-dimensional.
        terms: makes them of these values.
    """

    def __init__(self, values: Tensor, terms: Callable[[list[float]], dict[str, float]]) -> None:
        self._values, self._terms = values, terms

    def read(self) -> dict[str, float]:
        """Terms by name."""
        return self._terms(self._values.tolist())

    @staticmethod
    def read_all(losses: Sequence[StepLoss]) -> list[dict[str, float]]:
        """Terms of several steps, for which a GPU is waited for once."""
        values = torch.cat([loss._values.double() for loss in losses]).tolist()
        ends = accumulate(len(loss._values) for loss in losses)
        return [
            loss._terms(values[end - len(loss._values) : end])
            for loss, end in zip(losses, ends, strict=True)
        ]


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

    def of(self, tables: Mapping[str, Tensor], batch: Batch) -> tuple[StepLoss, dict[str, Tensor]]:
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
    ) -> tuple[StepLoss, dict[str, Tensor]]:
        stage, model = self.stage, self.model
        batch = batch.by_fold()
        rows = {
            table: widened(tables[table].index_select(0, batch.rows_of(space))).requires_grad_()
            for table, space in model.tables.items()
        }
        known: list[tuple[Tensor, Tensor]] | None = [] if self.backend is ops else None
        terms = loss_terms(self.backend, model, rows, batch, stage, name=self.name, known=known)
        for parameter in self.dense:
            parameter.grad = None
        backward(terms, known or ())
        read = {name: term.detach() for name, term in terms.items()}
        # A table that the loss did not look at, as in a stage of triples, stays as it is.
        grads = {table: x.grad for table, x in rows.items() if x.grad is not None}
        if stage.lambda3 > 0:
            for table in [table for table in grads if table not in model.undecayed]:
                norms = rows[table].detach().square().flatten(1)
                read[f"norm of {table}"] = fixed_order_sum(norms.sum(1))
        names, of_terms = list(read), len(terms)
        weight, size = stage.lambda3, batch.size

        def as_terms(numbers: list[float]) -> dict[str, float]:
            found = dict(zip(names, numbers, strict=True))
            values = {name: found.pop(name) for name in names[:of_terms]}
            for norm in found.values():
                norm = norm * weight / size / 2
                values["l2_rows"] = values.get("l2_rows", 0.0) + norm
            return values

        return StepLoss(torch.stack(list(read.values())), as_terms), grads

    def _taken(self, found: Gradients) -> tuple[StepLoss, dict[str, Tensor]]:
        """Terms and gradients as above, from the result of a native op."""
        for parameter, gradient in zip(self.dense, found.dense, strict=True):
            parameter.grad = gradient
        weights = (1.0, self.stage.lambda1, self.stage.lambda2, self.stage.lambda3)

        def as_terms(numbers: list[float]) -> dict[str, float]:
            terms = zip(TERMS, numbers, weights, strict=True)
            return {name: value for name, value, weight in terms if weight > 0}

        return StepLoss(found.terms, as_terms), found.rows


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
        loss, grads = self._computed(batch)
        values = loss.read()
        self.state.watch.check(values, self.state.steps)
        self._apply(batch, grads)
        return values

    def step_unread(self, batch: Batch) -> StepLoss:
        """Run one step as `step` does, but neither read nor check its loss, which `read` does."""
        loss, grads = self._computed(batch)
        self._apply(batch, grads)
        return loss

    def read(self, losses: Sequence[StepLoss]) -> list[dict[str, float]]:
        """Read and check the loss of the last steps; returns the terms of each.

        Raises:
            TrainingError: as from `step`.
        """
        found = StepLoss.read_all(losses)
        for number, values in enumerate(found, self.state.steps - len(found) + 1):
            self.state.watch.check(values, number)
        return found

    def _computed(self, batch: Batch) -> tuple[StepLoss, dict[str, Tensor]]:
        self.state.steps += 1
        return self.loss.of({name: self.model.table(name) for name in self.model.tables}, batch)

    def _apply(self, batch: Batch, grads: Mapping[str, Tensor]) -> None:
        rows = {name: batch.rows_of(self.model.tables[name]) for name in grads}
        l2 = self.stage.lambda3 / batch.size
        self.state.apply(self.backend, rows, grads, step=self.state.steps, l2=l2)
