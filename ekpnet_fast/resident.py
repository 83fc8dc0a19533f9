"""Training on a device without waiting for it inside an epoch.

Ripple sets, labelled pairs and triples of an epoch lie on the device; a batch is the index that a
counter on the device holds. All shapes are fixed, so that one step, captured as a CUDA graph, is
replayed for every batch. Padding changes nothing: padded pairs belong to a group of their own that
reaches nothing, have weight 0 in the loss, and name an item that the batch has anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.config import StageConfig
from ekpnet_fast.graph import Graph
from ekpnet_fast.losses import TERMS, check_finite, loss_terms
from ekpnet_fast.models.ekpnet import EKPNet
from ekpnet_fast.sampling import Batch, BatchStream, RippleSets

GROUP_STEP = 64  # group slots are allotted in such steps, so that epochs seldom need new buffers


@dataclass(frozen=True)
class HostEpoch:
    """An epoch's batches in host memory, each padded to B pairs and G groups.

    The last group of every batch holds the padding; its user is U, who has no history. Groups
    that a batch does not use have no pairs and the same user.
    """

    number: int  # of the epoch
    steps: int
    ripple: RippleSets  # of U + 1 users
    group_users: Tensor  # [steps, G] int64
    group_indptr: Tensor  # [steps, G + 1] int64
    items: Tensor  # [steps, B] int32
    labels: Tensor  # [steps, B] float32
    real: Tensor  # [steps, B] float32, 1 for pairs and 0 for padding
    real_pairs: Tensor  # [steps] float32
    l2: Tensor  # [steps] float64, lambda3 / pairs

    @classmethod
    def prepare(
        cls,
        stream: BatchStream,
        stage: StageConfig,
        ripple: RippleSets,
        epoch: int,
        groups: int = 0,
        *,
        pin: bool = False,
    ) -> HostEpoch:
        """Draw an epoch's order and pad its batches, to at least so many groups.

        `pin` puts the tensors into memory that a GPU copies from without the host waiting.
        """
        order = stream.order(epoch)
        ends = order.group_indptr.numpy()
        cuts = np.asarray(order.cuts)
        steps, most = len(cuts) - 1, int(np.diff(cuts).max(initial=0))
        G = max(groups, -(-most // GROUP_STEP) * GROUP_STEP + 1)
        B = stream.batch_size
        users = np.full((steps, G), ripple.num_users, np.int64)
        indptr = np.zeros((steps, G + 1), np.int64)
        items, labels = np.zeros((steps, B), np.int32), np.zeros((steps, B), np.float32)
        real = np.zeros((steps, B), np.float32)
        for i, (first, last) in enumerate(pairwise(cuts)):
            begin, end = ends[first], ends[last]
            users[i, : last - first] = order.group_users[first:last]
            indptr[i, : last - first + 1] = ends[first : last + 1] - begin
            # Padding over the groups that are left, so that no team has it all.
            spare = np.arange(1, G - (last - first) + 1)
            share = -(-(B - (end - begin)) // len(spare))
            indptr[i, last - first + 1 :] = np.minimum(end - begin + spare * share, B)
            items[i, : end - begin] = order.items[begin:end]
            items[i, end - begin :] = items[i, 0]
            labels[i, : end - begin] = order.labels[begin:end]
            real[i, : end - begin] = 1
        pairs = np.diff(ends[cuts])

        def placed(x: Tensor) -> Tensor:
            return x.pin_memory() if pin else x

        sets = {
            name: placed(torch.cat([x, torch.zeros_like(x[:1])]))
            for name, x in vars(ripple).items()
        }
        by_step = (users, indptr, items, labels, real, pairs.astype(np.float32))
        return cls(
            epoch,
            steps,
            RippleSets(**sets),
            *(placed(torch.from_numpy(x)) for x in (*by_step, stage.lambda3 / pairs)),
        )

    def by_step(self) -> dict[str, Tensor]:
        """What a step takes one row of, by name."""
        return {name: x for name, x in vars(self).items() if isinstance(x, Tensor)}


def localize(ids: Tensor, num_entities: int) -> tuple[Tensor, Tensor]:
    """The rows that ids name, and the ids in terms of them, in fixed shapes and without waiting.

    Args:
        ids: [N] int32 entity ids; `num_entities` stands for no entity.
        num_entities: E.

    Returns:
        rows [N] int32: the distinct ids, rising, then -1; and [N] int32, positions in `rows`, any
        position for no entity.
    """
    values, order = torch.sort(ids, stable=True)
    starts = torch.ones_like(values, dtype=torch.bool)
    torch.ne(values[1:], values[:-1], out=starts[1:])
    position = starts.cumsum(0) - 1
    # Every position of a run writes the same value.
    rows = torch.full_like(values, num_entities).scatter_(0, position, values)
    local = torch.empty_like(order).scatter_(0, order, position)
    return rows.masked_fill(rows == num_entities, -1), local.int()


class ResidentTrainer:
    """One stage on a device: its state, its buffers, and its step.

    The same arithmetic as `training.StageTrainer`: Adam runs on the touched rows of the entity
    table and densely on the rest, both from zero.

    Args:
        model: lies on the device.
        stage: its options.
        backend: `ops` or `reference`.
        graph: where the triples of the KG term come from, on the host.
        stream: the batches.
        deep: whether the stage predicts by eq. 18.
        capture: replay the step as a CUDA graph; else run it operation by operation.
    """

    def __init__(
        self,
        model: EKPNet,
        stage: StageConfig,
        backend: ModuleType,
        graph: Graph,
        stream: BatchStream,
        *,
        deep: bool,
        capture: bool,
    ) -> None:
        self.model, self.stage, self.backend, self.deep = model, stage, backend, deep
        self.stream, self.capture = stream, capture
        self.device = device = model.entity.device
        self._indptr = graph.indptr.to(device)
        self._relations = graph.relations.to(device)
        self._tails = graph.tails.to(device)
        self.m = torch.zeros_like(model.entity)
        self.v = torch.zeros_like(model.entity)
        self._dense = [model.relation, *model.dense_weights(deep=deep)]
        self.adam = torch.optim.Adam(
            self._dense, lr=stage.lr, fused=True, capturable=device.type == "cuda"
        )
        self.steps = torch.zeros((), dtype=torch.int64, device=device)
        self._cursor = torch.zeros(1, dtype=torch.int64, device=device)
        self._buffers: dict[str, Tensor] = {}
        self._step_as_graph: torch.cuda.CUDAGraph | None = None
        self._steps_before = 0
        K = 2 * stream.triples
        self._triple_labels = (torch.arange(K, device=device) < stream.triples).to(torch.int8)

    @property
    def groups(self) -> int:
        """Groups that the buffers hold per batch; 0 before the first epoch."""
        users = self._buffers.get("group_users")
        return 0 if users is None else users.shape[1]

    def epoch(self, host: HostEpoch) -> dict[str, float]:
        """All steps of an epoch; returns the terms of the loss, summed over the pairs.

        Raises:
            TrainingError: a term is not finite; names it and its step.
        """
        self._load(host)
        self._cursor.zero_()
        step = self._replayable_step()
        for _ in range(host.steps):
            step()
        table = self._buffers["terms"][: host.steps].cpu()  # the only wait
        for i, row in enumerate(table.tolist(), self._steps_before + 1):
            terms = dict(zip(TERMS, row, strict=True))
            check_finite(terms, i, self.stage, deep=self.deep)
        self._steps_before += host.steps
        sums = (table.double() * host.real_pairs.double().unsqueeze(1)).sum(0)
        return dict(zip(TERMS, sums.tolist(), strict=True))

    def _load(self, host: HostEpoch) -> None:
        """Copy an epoch to the device, into the buffers that a captured step reads."""
        by_step = host.by_step()
        for name, x in (vars(host.ripple) | by_step).items():
            buffer = self._buffers.get(name)
            if buffer is None or len(buffer) < len(x) or buffer.shape[1:] != x.shape[1:]:
                spare = 2 if name in by_step else 0  # the next epoch may be cut into a batch more
                shape = (len(x) + spare, *x.shape[1:])
                self._buffers[name] = torch.zeros(shape, dtype=x.dtype, device=self.device)
                self._step_as_graph = None  # it reads the old buffer
            self._buffers[name][: len(x)].copy_(x, non_blocking=True)
        steps, K = len(self._buffers["items"]), 2 * self.stream.triples
        if len(self._buffers.get("terms", ())) != steps:
            self._step_as_graph = None
            self._buffers["terms"] = torch.zeros(steps, len(TERMS), device=self.device)
            for name in ("triple_heads", "triple_relations", "triple_tails"):
                self._buffers[name] = torch.zeros(steps, K, dtype=torch.int32, device=self.device)
        for i in range(host.steps if K else 0):
            drawn = ops.sample_triples(
                self._indptr,
                self._relations,
                self._tails,
                self.stream.triples,
                seed=self.stream.seed,
                step=self.stream.triple_step(host.number, i),
            )
            for name, ids in zip(("heads", "relations", "tails"), drawn, strict=True):
                self._buffers[f"triple_{name}"][i].copy_(ids)

    def _replayable_step(self) -> Callable[[], None]:
        if not self.capture:
            return self._step
        if self._step_as_graph is None:
            self._step_as_graph = self._captured()
        return self._step_as_graph.replay

    def _state(self) -> list[Tensor]:
        """What a step changes besides the rows of the tables."""
        adam = [x for state in self.adam.state.values() for x in state.values()]
        return [self.steps, self._cursor, *(p.data for p in self._dense), *adam]

    def _captured(self) -> torch.cuda.CUDAGraph:
        """The step as a graph; what the steps before it changed is put back."""
        tables = (self.model.entity, self.m, self.v)
        touched = self._batch().rows.clamp(min=0)  # of the first batch, as in the steps below
        rows_before = [x.index_select(0, touched) for x in tables]
        before = [(x, x.clone()) for x in self._state()]
        known = {x.data_ptr() for x, _ in before}
        side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries set themselves up in the first calls
                self._cursor.zero_()
                self._step()
        torch.cuda.current_stream(self.device).wait_stream(side)
        for table, rows in zip(tables, rows_before, strict=True):
            table.index_copy_(0, touched.long(), rows)
        for x, value in before:
            x.copy_(value)
        for x in self._state():
            if x.data_ptr() not in known:
                x.zero_()  # Adam's state, made by the first step
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph

    def _batch(self) -> Batch:
        """The batch at the cursor, in terms of the rows that it touches."""
        at = {
            name: x.index_select(0, self._cursor)[0]
            for name, x in self._buffers.items()
            if name not in ("heads", "relations", "tails", "counts", "terms")
        }
        users = at["group_users"]
        heads, relations, tails, counts = (
            self._buffers[name].index_select(0, users)
            for name in ("heads", "relations", "tails", "counts")
        )
        E, M = self.model.entity.shape[0], heads.shape[2]
        masked = torch.arange(M, device=self.device) >= counts.unsqueeze(-1)
        # Groups without pairs reach rows that no pair of the batch looks at.
        idle = at["group_indptr"][1:] == at["group_indptr"][:-1]
        nowhere = masked | idle.view(-1, 1, 1)
        parts = [
            heads.masked_fill(nowhere, E).flatten(),
            tails.masked_fill(nowhere, E).flatten(),
            at["items"],
            at["triple_heads"],
            at["triple_tails"],
        ]
        rows, local = localize(torch.cat(parts), E)
        heads_, tails_, items, triple_heads, triple_tails = torch.split(
            local, [x.numel() for x in parts]
        )
        # Masked slots hold 0 in every id, as ops ask for.
        relations = relations.masked_fill(nowhere, 0)
        R = self.model.relation.shape[0]
        touched = torch.zeros(R + 1, device=self.device)
        named = torch.cat([relations.masked_fill(nowhere, R).flatten(), at["triple_relations"]])
        touched.index_fill_(0, named.long(), 1.0)
        return Batch(
            rows=rows,
            heads=heads_.view_as(heads).masked_fill(nowhere, 0),
            relations=relations,
            tails=tails_.view_as(tails).masked_fill(nowhere, 0),
            counts=counts.masked_fill(idle.unsqueeze(-1), 0),
            group_indptr=at["group_indptr"],
            items=items.contiguous(),
            labels=at["labels"],
            triple_heads=triple_heads.contiguous(),
            triple_relations=at["triple_relations"],
            triple_tails=triple_tails.contiguous(),
            triple_labels=self._triple_labels,
            relation_touched=touched[:R],
            real=at["real"],
            real_pairs=at["real_pairs"],
        )

    def _step(self) -> None:
        """One step at the cursor; nothing in it waits for the device or depends on a value."""
        model, stage = self.model, self.stage
        batch = self._batch()
        l2 = self._buffers["l2"].index_select(0, self._cursor)[0]
        self.steps.add_(1)
        rows = model.entity.index_select(0, batch.rows.clamp(min=0)).requires_grad_()
        terms = loss_terms(self.backend, model, rows, batch, stage, deep=self.deep)
        loss = torch.stack(list(terms.values())).sum()
        drows, *dense = torch.autograd.grad(loss, [rows, *self._dense])
        for parameter, gradient in zip(self._dense, dense, strict=True):
            parameter.grad = gradient
        with torch.no_grad():
            values = {name: term.detach() for name, term in terms.items()}
            if stage.lambda3 > 0:
                norms = rows.square().sum((1, 2)).masked_fill(batch.rows < 0, 0.0)
                values["rows"] = values["rows"] + norms.sum() * (l2 / 2).float()
            zero = torch.zeros((), device=self.device)
            record = torch.stack([values.get(name, zero) for name in TERMS])
            self._buffers["terms"].index_copy_(0, self._cursor, record.unsqueeze(0))
            self.backend.row_adam_(
                *(model.entity, self.m, self.v, batch.rows, drows),
                step=self.steps,
                lr=stage.lr,
                l2=l2,
            )
        self.adam.step()
        self._cursor.add_(1)
