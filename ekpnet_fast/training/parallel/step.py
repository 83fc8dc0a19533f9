"""Optimizer step over parts of a mini-batch, which several processes may share.

A mini-batch is P parts and a table P shards. Each process computes its parts of the gradients;
those of rows are added up where the rows are, those of the other parameters everywhere, and always
in the order of the parts. So P decides the arithmetic, and the number of processes decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ekpnet_fast.config import ParallelConfig, StageConfig
from ekpnet_fast.models import Model
from ekpnet_fast.ops.deterministic import fixed_order_sum
from ekpnet_fast.sampling.batches import StepParts
from ekpnet_fast.training.losses import TERMS
from ekpnet_fast.training.parallel.routes import Asked, Route, Router
from ekpnet_fast.training.parallel.tables import SharedTables
from ekpnet_fast.training.state import Moments, StepState
from ekpnet_fast.training.step import LossGradients

__all__ = ["PartsTrainer"]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class PartsTrainer:
    """Trainer of one stage, the parts of a mini-batch at a time.

    The loss is that of `step.StageTrainer`, but for rounding.

    Args:
        model: with the rows of its tables that this process has.
        stage: the stage's options.
        backend: `ops` or `reference`.
        name: the stage's name.
        tables: those of the model, in P shards.
        parallel: the backend that they are trained by.

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
        parallel: ParallelConfig,
    ) -> None:
        self.model, self.stage, self.backend, self.name = model, stage, backend, name
        self._shardings, self._world = tables.shardings, tables.world
        self._router, moments = _router(model, tables, stage, parallel)
        self.parts, self.mine = tables.shards, tables.held
        # A part does not know which rows the others touch, so decay is added afterwards.
        self._loss = LossGradients(model, replace(stage, lambda2=0.0, lambda3=0.0), backend, name)
        self.state = StepState(model, stage, name, moments)
        self._reports = _Reports(model, self.state)
        self._ahead: tuple[StepParts, dict[str, Route]] | None = None

    def step(self, step: StepParts, following: StepParts | None = None) -> dict[str, float]:
        """Run one step; returns the terms of the loss before it.

        Args:
            step: the parts of this process.
            following: those of the next step, which is told to the others in this one.

        Raises:
            TrainingError: the loss is not finite or diverges; names the term and the step.
        """
        model, state, stage, router = self.model, self.state, self.stage, self._router
        state.steps += 1
        ahead, self._ahead = self._ahead, None
        routes = ahead[1] if ahead and ahead[0] is step else router.routes(self._asked(step))
        asked = {} if following is None else self._asked(following)
        touched = {
            name: model.table(name).index_select(0, routes[space].touched)
            for name, space in model.tables.items()
        }
        leaves, counts = router.fetch(routes, touched, asked)
        report = self._reports.empty(len(self.mine))
        grads: dict[str, list[Tensor]] = {name: [] for name in leaves}
        for k in range(len(self.mine)):
            found = {}
            if k < len(step.batches):
                found = self._part(leaves, routes, step, k, report[k])
            for name, of_parts in grads.items():
                of_part = found.get(name)
                if of_part is None:
                    wanted = len(routes[model.tables[name]].asked.places[k])
                    of_part = leaves[name].new_zeros(wanted, *leaves[name].shape[1:])
                of_parts.append(of_part)
        self._reports.norms(report)[:] = self._norms(routes, touched)
        self._reports.stop(report)[:] = self._world.caught() or 0
        sums, reports, told = router.give_back(
            routes, grads, torch.from_numpy(report), asked, counts
        )
        if following is not None:
            self._ahead = following, told
        total = self._reports.total(reports.numpy())
        self._world.stop = total.stop
        values = total.terms
        self._decay(values, total, step.size)
        state.watch.check(values, state.steps)
        router.update(state, self.backend, routes, sums, total.tables, stage.lambda3 / step.size)
        return values

    def _asked(self, step: StepParts) -> dict[str, Asked]:
        """Rows by space that the parts of this process touch."""
        none = [torch.zeros(0, dtype=torch.int32)] * (len(self.mine) - len(step.batches))
        return self._router.ask(
            {
                space: [batch.rows_of(space) for batch in step.batches] + none
                for space in dict.fromkeys(self.model.tables.values())
            }
        )

    def _part(
        self,
        leaves: Mapping[str, Tensor],
        routes: Mapping[str, Route],
        step: StepParts,
        k: int,
        report: Float32,
    ) -> dict[str, Tensor]:
        """Gradients of a part's rows by table; the rest of what it found is left in its report.

        They are of the loss without decay, and divided by the mini-batch's size.
        """
        batch = step.batches[k]
        places = {space: route.asked.places[k] for space, route in routes.items()}
        local = replace(batch, rows=places.get("entity", batch.rows), touched=places)
        loss, rows = self._loss.of(leaves, local)
        weight = batch.size / step.size
        self._reports.put(report, loss.read(), rows, batch.relation_touched, weight)
        with torch.no_grad():  # results of native ops ask for gradients of their own
            return {name: grad.detach().mul_(weight) for name, grad in rows.items()}

    def _norms(self, routes: Mapping[str, Route], touched: Mapping[str, Tensor]) -> Float64:
        """Squared norms [P / W, tables] of the touched rows of each shard."""
        model = self.model
        norms = np.zeros((len(self.mine), len(model.tables)))
        if self.stage.lambda3 == 0:
            return norms
        for at, (name, space) in enumerate(model.tables.items()):
            if name in model.undecayed:
                continue
            rows = touched[name].flatten(1).numpy()
            squares = np.einsum("nk,nk->n", rows, rows)
            shards = self._shardings[space].held_shards(routes[space].touched)
            # Rows of a shard come in the order of the parts that touch them, and are added in it.
            norms[:, at] = np.bincount(shards, weights=squares, minlength=len(self.mine))
        return norms

    def _decay(self, values: dict[str, float], total: _Total, size: int) -> None:
        """Add what the squared weights and rows have in the loss, and in the dense gradients."""
        model, stage = self.model, self.stage
        if stage.lambda2 > 0 and (dense := model.dense_weights(self.name)):
            weight = stage.lambda2 / size
            with torch.no_grad():
                flat = torch.cat([p.flatten() for p in dense])
                values["l2_weights"] = float(fixed_order_sum(flat.square_())) * weight / 2
                torch._foreach_add_([_grad(p) for p in dense], tuple(dense), alpha=weight)
        if stage.lambda3 == 0:
            return
        tables = list(model.tables)
        weight, norm = stage.lambda3 / size, 0.0
        for p in model.relations():
            x = p.detach()
            touched = total.relations.view(-1, *[1] * (x.dim() - 1))
            norm += float(fixed_order_sum(x.square() * touched))
            _grad(p).addcmul_(x, touched, value=weight)
        for name in total.tables:
            norm += float(total.norms[tables.index(name)])
        values["l2_rows"] = norm * weight / 2


def _grad(p: nn.Parameter) -> Tensor:
    """Gradient of a parameter, zeros where it has none yet."""
    if p.grad is None:
        p.grad = torch.zeros_like(p)
    return p.grad


def _router(
    model: Model, tables: SharedTables, stage: StageConfig, parallel: ParallelConfig
) -> tuple[Router, Moments | None]:
    """Router of the backend, and the moments that it has."""
    if parallel.table == "rows":
        return Router(tables.shardings, model.tables, tables.world), None
    # Imported on use, because it takes seconds, and few have it.
    from ekpnet_fast.training.parallel.torchrec_rows import TorchrecRouter

    router = TorchrecRouter(model, tables, stage, parallel.optimizer)
    return router, (router.moments, {})


@dataclass(frozen=True)
class _Total:
    """Sums over all parts and shards.

    Attributes:
        terms: of the loss, without decay.
        tables: names of those that have a gradient.
        relations: [R] float32, 1 where a part names the relation.
        norms: [tables] float64, squared norms of the touched rows.
        stop: signal that a process has caught, None without one.
    """

    terms: dict[str, float]
    tables: list[str]
    relations: Tensor
    norms: Float64
    stop: int | None


class _Reports:
    """Reports on the parts of a mini-batch and the shards, [P, L] float32, and their sums."""

    def __init__(self, model: Model, state: StepState) -> None:
        self._dense, self._tables = state.dense, list(model.tables)
        self._sizes = [p.numel() for p in self._dense]
        # A number of float64 takes two places.
        lengths = {
            "dense": sum(self._sizes),
            "has dense": len(self._dense),
            "has rows": len(self._tables),
            "relations": model.source.graph.num_relations,
            "has term": len(_TERMS),
            "terms": 2 * len(_TERMS),
            "norms": 2 * len(self._tables),
            "stop": 1,
        }
        ends = list(accumulate(lengths.values()))
        self._length = ends[-1]
        self._at = {
            name: slice(end - length, end)
            for (name, length), end in zip(lengths.items(), ends, strict=True)
        }

    def empty(self, count: int) -> Float32:
        """Reports of so many parts that do not exist."""
        return np.zeros((count, self._length), np.float32)

    def norms(self, reports: Float32) -> Float64:
        """Squared norms [n, tables] of the touched rows of the shards."""
        return reports[:, self._at["norms"]].view(np.float64)

    def stop(self, reports: Float32) -> Float32:
        """Signals [n, 1] that the processes have caught, 0 without one."""
        return reports[:, self._at["stop"]]

    def put(
        self,
        report: Float32,
        terms: Mapping[str, float],
        rows: Mapping[str, Tensor],
        relations: Tensor,
        weight: float,
    ) -> None:
        """Fill the report [L] on a part: terms and gradients times its weight."""
        at = self._at
        grads = [p.grad for p in self._dense]
        if grads:
            dense = report[at["dense"]]
            of_all = [
                np.zeros(size, np.float32) if grad is None else grad.detach().numpy().ravel()
                for grad, size in zip(grads, self._sizes, strict=True)
            ]
            np.concatenate(of_all, out=dense)
            dense *= weight
        report[at["has dense"]] = [grad is not None for grad in grads]
        report[at["has rows"]] = [name in rows for name in self._tables]
        report[at["relations"]] = relations.numpy()
        report[at["has term"]] = [term in terms for term in _TERMS]
        report[at["terms"]].view(np.float64)[:] = [terms.get(term, 0.0) * weight for term in _TERMS]

    def total(self, reports: Float32) -> _Total:
        """Sums in the order of the parts; gradients of dense parameters are left in `grad`."""
        at = self._at
        first, *others = reports[:, at["dense"]]
        grads = first.copy()
        for grad in others:
            grads += grad
        of_each = torch.split(torch.from_numpy(grads), self._sizes)
        has_dense, has_rows, has_term = (
            reports[:, at[f"has {name}"]].max(0).tolist() for name in ("dense", "rows", "term")
        )
        for p, grad, has_grad in zip(self._dense, of_each, has_dense, strict=True):
            p.grad = grad.view_as(p) if has_grad else None
        sums = np.cumsum(reports[:, at["terms"]].view(np.float64), axis=0)[-1].tolist()
        return _Total(
            {term: x for term, x, has in zip(_TERMS, sums, has_term, strict=True) if has},
            [name for name, has in zip(self._tables, has_rows, strict=True) if has],
            torch.from_numpy(reports[:, at["relations"]].max(0)),
            np.cumsum(self.norms(reports), axis=0)[-1],
            int(self.stop(reports).max()) or None,
        )


_TERMS = TERMS[:2]  # those that are sums over pairs and triples
