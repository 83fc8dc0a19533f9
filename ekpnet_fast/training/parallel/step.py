"""Optimizer step over parts of a mini-batch, which several processes may share.

A mini-batch is P parts and a table P shards. Each process computes its parts of the gradients;
those of rows are added up where the rows are, those of the other parameters everywhere, and always
in the order of the parts. So P decides the arithmetic, and the number of processes decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast.config import StageConfig
from ekpnet_fast.models import Model
from ekpnet_fast.ops.deterministic import fixed_order_sum
from ekpnet_fast.sampling.batches import StepParts
from ekpnet_fast.sampling.pairs import Batch
from ekpnet_fast.training.parallel.shards import Route
from ekpnet_fast.training.parallel.tables import SharedTables
from ekpnet_fast.training.parallel.world import World
from ekpnet_fast.training.state import StepState
from ekpnet_fast.training.step import LossGradients

__all__ = ["PartsTrainer"]


@dataclass(frozen=True)
class _Part:
    """Gradients of a part, of the loss without decay and divided by the mini-batch's size."""

    terms: dict[str, float]
    rows: dict[str, Tensor]  # by table
    dense: list[Tensor | None]


class PartsTrainer:
    """Trainer of one stage, the parts of a mini-batch at a time.

    The loss is that of `step.StageTrainer`, but for rounding.

    Args:
        model: with the rows of its tables that this process has.
        stage: the stage's options.
        backend: `ops` or `reference`.
        name: the stage's name.
        tables: those of the model, in P shards.

    Attributes:
        parts: P.
        mine: the parts that this process computes.
        state: of the optimizer; moments of the rows that this process has.
    """

    def __init__(
        self,
        model: Model,
        stage: StageConfig,
        backend: ModuleType,
        name: str,
        tables: SharedTables,
    ) -> None:
        self.model, self.stage, self.backend, self.name = model, stage, backend, name
        self._shardings, self._world = tables.shardings, tables.world
        self.parts, self.mine = tables.shards, tables.held
        # A part does not know which rows the others touch, so decay is added afterwards.
        self._loss = LossGradients(model, replace(stage, lambda2=0.0, lambda3=0.0), backend, name)
        self.state = StepState(model, stage, name)
        self._report = _Report(model, self.state, len(self.mine))

    def step(self, step: StepParts) -> dict[str, float]:
        """Run one step; returns the terms of the loss before it.

        Raises:
            TrainingError: the loss is not finite or diverges; names the term and the step.
        """
        model, state, stage = self.model, self.state, self.stage
        state.steps += 1
        routes = {
            space: Route(self._shardings[space], self._wanted(space, step.batches))
            for space in dict.fromkeys(model.tables.values())
        }
        leaves = {
            name: routes[space].fetch(model.table(name)) for name, space in model.tables.items()
        }
        parts = [
            self._part({name: rows[k] for name, rows in leaves.items()}, batch, step.size)
            for k, batch in enumerate(step.batches)
        ]
        found = self._report.of_all(parts, step.batches, self._norms(routes), self._world)
        grads, rows = {}, {}
        for name in found.tables:
            route = routes[model.tables[name]]
            of_parts = [
                parts[k].rows.get(name, torch.zeros_like(x)) if k < len(parts) else x
                for k, x in enumerate(leaves[name])
            ]
            grads[name], rows[name] = route.give_back(of_parts), route.touched
        values = found.terms
        self._decay(values, found, step.size)
        state.watch.check(values, state.steps)
        state.apply(self.backend, rows, grads, step=state.steps, l2=stage.lambda3 / step.size)
        return values

    def _wanted(self, space: str, batches: Sequence[Batch]) -> list[Tensor]:
        """Ids that each part of this process touches; none where the mini-batch has fewer parts."""
        none = torch.zeros(0, dtype=torch.int32)
        found = [batch.rows_of(space) for batch in batches]
        return found + [none] * (len(self.mine) - len(found))

    def _part(self, tables: Mapping[str, Tensor], batch: Batch, size: int) -> _Part:
        """Gradients of a part, from the rows that it touches."""
        weight = batch.size / size
        local = replace(
            batch,
            rows=torch.arange(len(batch.rows), dtype=torch.int32),
            touched={
                space: torch.arange(len(ids), dtype=torch.int32)
                for space, ids in batch.touched.items()
            },
        )
        terms, rows = self._loss.of(tables, local)
        with torch.no_grad():  # results of native ops ask for gradients of their own
            return _Part(
                {term: value * weight for term, value in terms.items()},
                {name: grad.detach().mul_(weight) for name, grad in rows.items()},
                [
                    None if p.grad is None else p.grad.detach().mul_(weight)
                    for p in self.state.dense
                ],
            )

    def _norms(self, routes: Mapping[str, Route]) -> Tensor:
        """Squared norms [P / W, tables] float64 of the touched rows of each shard."""
        model = self.model
        norms = torch.zeros(len(self.mine), len(model.tables), dtype=torch.float64)
        if self.stage.lambda3 == 0:
            return norms
        for at, (name, space) in enumerate(model.tables.items()):
            if name in model.undecayed:
                continue
            touched = routes[space].touched
            rows = model.table(name).index_select(0, touched).flatten(1).numpy()
            squares = np.einsum("nk,nk->n", rows, rows)
            shards = self._shardings[space].held_shards(touched)
            # Rows of a shard come in the order of the parts that touch them, and are added in it.
            found = np.bincount(shards, weights=squares, minlength=len(self.mine))
            norms[:, at] = torch.from_numpy(found)
        return norms

    def _decay(self, values: dict[str, float], found: _Found, size: int) -> None:
        """Add what the squared weights and rows have in the loss, and in the dense gradients."""
        model, stage = self.model, self.stage
        if stage.lambda2 > 0 and (dense := model.dense_weights(self.name)):
            with torch.no_grad():
                flat = torch.cat([p.flatten() for p in dense])
                values["l2_weights"] = float(fixed_order_sum(flat.square_()))
                values["l2_weights"] *= stage.lambda2 / 2 / size
                for p in dense:
                    decay = p.detach() * (stage.lambda2 / size)
                    p.grad = decay if p.grad is None else p.grad + decay
        if stage.lambda3 == 0:
            return
        tables = list(model.tables)
        norm = 0.0
        for p in model.relations():
            x = p.detach()
            touched = found.relations.view(-1, *[1] * (x.dim() - 1))
            norm += float(fixed_order_sum(x.square() * touched))
            decay = x * touched * (stage.lambda3 / size)
            p.grad = decay if p.grad is None else p.grad + decay
        for name in found.tables:
            norm += float(found.norms[tables.index(name)])
        values["l2_rows"] = norm * stage.lambda3 / 2 / size


@dataclass(frozen=True)
class _Found:
    """Sums over all parts and shards.

    Attributes:
        terms: of the loss, without decay.
        tables: names of those that have a gradient.
        relations: [R] float32, 1 where a part names the relation.
        norms: [tables] float64, squared norms of the touched rows.
    """

    terms: dict[str, float]
    tables: list[str]
    relations: Tensor
    norms: Tensor


class _Report:
    """Report of a process on its parts and shards, one row of float32 for each, and their sums."""

    def __init__(self, model: Model, state: StepState, count: int) -> None:
        self._model, self._state, self._count = model, state, count
        self._relations = model.source.graph.num_relations

    def of_all(
        self, parts: Sequence[_Part], batches: Sequence[Batch], norms: Tensor, world: World
    ) -> _Found:
        """Sums in the order of the parts; gradients of dense parameters are left in `grad`."""
        dense, tables = self._state.dense, list(self._model.tables)
        rows = [
            self._row(parts[k], batches[k].relation_touched) if k < len(parts) else self._nothing()
            for k in range(self._count)
        ]
        stop = torch.full((self._count, 1), float(world.caught() or 0))
        mine = torch.cat([torch.stack(rows), norms.view(torch.float32), stop], dim=1)
        by_part = world.gather(mine)
        sizes = [p.numel() for p in dense]
        lengths = [sum(sizes), len(dense), len(tables), self._relations, 2, 4, 2 * len(tables), 1]
        grads, *flags, terms, norms, stop = torch.split(by_part, lengths, dim=1)
        total = grads[0].clone()
        for grad in grads[1:]:
            total += grad
        has_grad, has_rows, relations, has_term = (flag.amax(0) for flag in flags)
        for p, grad, has in zip(dense, torch.split(total, sizes), has_grad.tolist(), strict=True):
            p.grad = grad.view_as(p) if has else None
        world.stop = int(stop.max()) or None
        sums = terms.contiguous().view(torch.float64).cumsum(0)[-1].tolist()
        return _Found(
            {
                term: value
                for term, value, has in zip(_TERMS, sums, has_term.tolist(), strict=True)
                if has
            },
            [name for name, has in zip(tables, has_rows.tolist(), strict=True) if has],
            relations,
            norms.contiguous().view(torch.float64).cumsum(0)[-1],
        )

    def _row(self, part: _Part, relations: Tensor) -> Tensor:
        dense = self._state.dense
        grads = [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for p, g in zip(dense, part.dense, strict=True)
        ]
        flags = [
            *(g is not None for g in part.dense),
            *(name in part.rows for name in self._model.tables),
        ]
        terms = torch.tensor([part.terms.get(term, 0.0) for term in _TERMS], dtype=torch.float64)
        return torch.cat(
            [
                *grads,
                torch.tensor(flags, dtype=torch.float32),
                relations,
                torch.tensor([term in part.terms for term in _TERMS], dtype=torch.float32),
                terms.view(torch.float32),
            ]
        )

    def _nothing(self) -> Tensor:
        dense = self._state.dense
        length = sum(p.numel() for p in dense) + len(dense) + len(self._model.tables)
        return torch.zeros(length + self._relations + 2 + 4)


_TERMS = ("pairs", "kg")
