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
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.config import ParallelConfig, StageConfig
from ekpnet_fast.models import Model
from ekpnet_fast.sampling.batches import StepParts
from ekpnet_fast.training.losses import TERMS
from ekpnet_fast.training.parallel.routes import Asked, Route, Router
from ekpnet_fast.training.parallel.tables import SharedTables
from ekpnet_fast.training.parallel.world import Float32
from ekpnet_fast.training.state import Moments, StepState
from ekpnet_fast.training.step import LossGradients

__all__ = ["PartsTrainer"]

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
        tables = {name: model.table(name) for name in model.tables}
        leaves, counts = router.fetch(routes, tables, asked)
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
        self._reports.norms(report)[:] = self._norms(routes, tables)
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
        self._reports.leave()
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

    def _norms(self, routes: Mapping[str, Route], tables: Mapping[str, Tensor]) -> Float64:
        """Squared norms [P / W, tables] of the touched rows of each shard."""
        model = self.model
        norms = np.zeros((len(self.mine), len(model.tables)))
        if self.stage.lambda3 == 0:
            return norms
        for at, (name, space) in enumerate(model.tables.items()):
            if name not in model.undecayed:
                # Rows of a shard come, and are added, in the order of the parts that touch them.
                starts = self._shardings[space].starts
                norms[:, at] = ops.square_norms(tables[name], routes[space].touched, starts).numpy()
        return norms

    def _decay(self, values: dict[str, float], total: _Total, size: int) -> None:
        """Add what the squared weights and rows have in the loss, and in the dense gradients."""
        stage, reports = self.stage, self._reports
        if stage.lambda2 > 0 and reports.has_weights:
            weight = stage.lambda2 / size
            values["l2_weights"] = reports.decay_weights(weight) * weight / 2
        if stage.lambda3 == 0:
            return
        tables, weight = list(self.model.tables), stage.lambda3 / size
        norm = reports.decay_relations(total.relations, weight)
        for name in total.tables:
            norm += float(total.norms[tables.index(name)])
        values["l2_rows"] = norm * weight / 2


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
        relations: [R], 1 where a part names the relation.
        norms: [tables] float64, squared norms of the touched rows.
        stop: signal that a process has caught, None without one.
    """

    terms: dict[str, float]
    tables: list[str]
    relations: Float32
    norms: Float64
    stop: int | None


class _Reports:
    """Reports on the parts of a mini-batch and the shards, [P, L] float32, and their sums."""

    def __init__(self, model: Model, state: StepState) -> None:
        self._dense, self._tables = state.dense, list(model.tables)
        self._relations = len(model.relations())  # the first ones of them
        self._sizes = [p.numel() for p in self._dense]
        self._grads = np.zeros(sum(self._sizes), np.float32)  # of all of them, one after the other
        pieces = torch.split(torch.from_numpy(self._grads), self._sizes)
        self._of_each = [x.view_as(p) for x, p in zip(pieces, self._dense, strict=True)]
        # Parameters are changed in place, so these are what they are.
        self._weights = [p.detach().view(-1).numpy() for p in self._dense[self._relations :]]
        self._has = [False] * len(self._dense)
        # A number of float64 takes two places.
        lengths = {
            "dense": len(self._grads),
            "has dense": len(self._dense),
            "has rows": len(self._tables),
            "has term": len(_TERMS),
            "relations": model.source.graph.num_relations,
            "stop": 1,
            "terms": 2 * len(_TERMS),
            "norms": 2 * len(self._tables),
        }
        ends = list(accumulate(lengths.values()))
        self._length = ends[-1]
        self._at = {
            name: slice(end - length, end)
            for (name, length), end in zip(lengths.items(), ends, strict=True)
        }
        # Of these the largest counts, and of these the sum.
        self._most = slice(self._at["has dense"].start, self._at["stop"].stop)
        self._added = slice(self._at["terms"].start, self._length)

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
        """Sums in the order of the parts; `leave` gives the parameters their gradients."""
        at = self._at
        first, *others = reports[:, at["dense"]]
        self._grads[:] = first
        for grad in others:
            self._grads += grad
        most = np.zeros(self._length, np.float32)
        reports[:, self._most].max(0, out=most[self._most])
        has_dense, has_rows, has_term = (
            most[at[f"has {name}"]].tolist() for name in ("dense", "rows", "term")
        )
        self._has = [has > 0 for has in has_dense]
        sums = np.cumsum(reports[:, self._added].view(np.float64), axis=0)[-1]
        return _Total(
            {term: float(x) for term, x, has in zip(_TERMS, sums, has_term, strict=False) if has},
            [name for name, has in zip(self._tables, has_rows, strict=True) if has],
            most[at["relations"]],
            sums[len(_TERMS) :],
            int(most[at["stop"]][0]) or None,
        )

    @property
    def has_weights(self) -> bool:
        """Whether there are weights besides those of relations."""
        return bool(self._weights)

    def decay_weights(self, weight: float) -> float:
        """Add the decay of the weights to their gradients; returns their squared norm."""
        x = np.concatenate(self._weights)
        self._grads[len(self._grads) - len(x) :] += x * np.float32(weight)
        self._has[self._relations :] = [True] * len(self._weights)
        return float(ops.square_norms(torch.from_numpy(x[None]), _FIRST, _START))

    def decay_relations(self, named: Float32, weight: float) -> float:
        """Add the decay of the relations [R] that are named; returns their squared norm."""
        rows, norm = torch.from_numpy(np.flatnonzero(named).astype(np.int32)), 0.0
        weights = (named * np.float32(weight))[:, None]
        for k in range(self._relations):
            x = self._dense[k].detach()
            norm += float(ops.square_norms(x, rows, _START))
            grad = self._of_each[k].numpy().reshape(len(named), -1)
            grad += x.numpy().reshape(len(named), -1) * weights
            self._has[k] = True
        return norm

    def leave(self) -> None:
        """Leave the sums of the gradients in `grad` of the parameters, until the next `total`."""
        for p, grad, has in zip(self._dense, self._of_each, self._has, strict=True):
            p.grad = grad if has else None


_FIRST, _START = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)
_TERMS = TERMS[:2]  # those that are sums over pairs and triples
