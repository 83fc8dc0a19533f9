"""Training on a device without waiting for it inside an epoch.

Ripple sets, labelled pairs and triples of an epoch are copied to the device and put in terms of
the rows that each batch touches, for many batches at once; a batch is the index that a counter on
the device holds. All shapes are fixed, so that one step, captured as a CUDA graph, is replayed for
every batch. Padding changes nothing: padded pairs belong to groups of their own that reach nothing,
have weight 0 in the loss, and name an item that the batch has anyway.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast.config import StageConfig
from ekpnet_fast.models.ekpnet import EKPNet
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.pairs import Batch
from ekpnet_fast.sampling.ripple_sets import RippleSets
from ekpnet_fast.training.losses import TERMS, LossWatch, loss_terms
from ekpnet_fast.training.snapshot import adam_state, load_adam_state

GROUP_STEP = 64  # group slots are allotted in such steps, so that epochs seldom need new buffers
REFERENCES_AT_ONCE = 1 << 23  # ids of batches that are on the device in terms of their rows


@dataclass(frozen=True)
class HostEpoch:
    """An epoch's batches in host memory, each padded to B pairs and G groups.

    Groups that a batch does not use share the padding; their user is U, who has no history.
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
    triple_heads: Tensor  # [steps, K] int32, true then corrupted
    triple_relations: Tensor  # [steps, K] int32
    triple_tails: Tensor  # [steps, K] int32

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
        drawn = [stream.draw_triples(epoch, i) for i in range(steps)]
        return cls(
            epoch,
            steps,
            RippleSets(**sets),
            *(placed(torch.from_numpy(x)) for x in (*by_step, stage.lambda3 / pairs)),
            *(placed(torch.stack(x)) for x in zip(*drawn, strict=True)),
        )

    def batches(self, begin: int, end: int, device: torch.device) -> dict[str, Tensor]:
        """Some of the batches on a device, by name."""
        return {
            name: x[begin:end].to(device, non_blocking=True)
            for name, x in vars(self).items()
            if isinstance(x, Tensor)
        }


def localize(ids: Tensor, num_entities: int) -> tuple[Tensor, Tensor]:
    """The rows that ids name, and the ids in terms of them, in fixed shapes and without waiting.

    Args:
        ids: [S, N] int32 entity ids of S batches; `num_entities` stands for no entity.
        num_entities: E.

    Returns:
        rows [S, N] int32: the distinct ids of each batch, rising, then -1; and [S, N] int32,
        positions in the batch's rows, any position for no entity.
    """
    S, N = ids.shape
    batch = torch.arange(S, device=ids.device).unsqueeze(1)
    # One sort for all batches: a batch's ids stay together.
    keys, order = torch.sort((ids + batch * (num_entities + 1)).flatten())
    values = (keys.view(S, N) - batch * (num_entities + 1)).int()
    starts = torch.ones_like(values, dtype=torch.bool)
    torch.ne(values[:, 1:], values[:, :-1], out=starts[:, 1:])
    position = starts.cumsum(1) - 1
    # Every position of a run writes the same value.
    rows = torch.full_like(values, num_entities).scatter_(1, position, values)
    local = torch.empty_like(position).scatter_(1, order.view(S, N) - batch * N, position)
    return rows.masked_fill(rows == num_entities, -1), local.int()


def localize_batches(
    at: dict[str, Tensor], sets: RippleSets, num_entities: int, num_relations: int
) -> dict[str, Tensor]:
    """S batches as `Batch` has them, every field [S, ..], from ids of entities.

    Args:
        at: fields of `HostEpoch`, [S, ..].
        sets: ripple sets of U + 1 users, on the same device.
        num_entities: E.
        num_relations: R.
    """
    S, G = at["group_users"].shape
    users = at["group_users"].flatten()
    heads, relations, tails, counts = (
        x.index_select(0, users).view(S, G, *x.shape[1:])
        for x in (sets.heads, sets.relations, sets.tails, sets.counts)
    )
    masked = torch.arange(heads.shape[3], device=heads.device) >= counts.unsqueeze(-1)
    parts = {
        "heads": heads.masked_fill(masked, num_entities),
        "tails": tails.masked_fill(masked, num_entities),
        "items": at["items"],
        "triple_heads": at["triple_heads"],
        "triple_tails": at["triple_tails"],
    }
    ids = [x.flatten(1) for x in parts.values()]
    rows, local = localize(torch.cat(ids, 1), num_entities)
    local_parts = torch.split(local, [x.shape[1] for x in ids], 1)
    named = [relations.masked_fill(masked, num_relations).flatten(1), at["triple_relations"]]
    touched = torch.zeros(S, num_relations + 1, device=rows.device)
    touched.scatter_(1, torch.cat(named, 1).long(), 1.0)
    found = {
        name: x.reshape(part.shape)
        for (name, part), x in zip(parts.items(), local_parts, strict=True)
    }
    # Masked slots hold 0 in every id, as ops ask for.
    found |= {name: found[name].masked_fill(masked, 0) for name in ("heads", "tails")}
    return {
        **found,
        "rows": rows,
        "relations": relations.masked_fill(masked, 0),
        "counts": counts,
        "triple_relations": at["triple_relations"],
        "relation_touched": touched[:, :num_relations],
        **{name: at[name] for name in ("group_indptr", "labels", "real", "real_pairs", "l2")},
    }


class BatchBuffer:
    """Batches of fixed shapes on a device, from which a captured step takes one.

    Fields of one dtype lie side by side, so that four reads fetch a batch.

    Args:
        fields: batches [S, ..] by name, S of them as many as there is room for.
    """

    def __init__(self, fields: dict[str, Tensor]) -> None:
        self.shapes = {name: x.shape[1:] for name, x in fields.items()}
        self.capacity = len(next(iter(fields.values())))
        dtypes = {x.dtype for x in fields.values()}
        self._names = {
            dtype: [name for name, x in fields.items() if x.dtype == dtype] for dtype in dtypes
        }
        self._packed = self._pack(fields)

    def fits(self, fields: dict[str, Tensor]) -> bool:
        """Whether batches have the shapes and find room."""
        return all(
            x.shape[1:] == self.shapes[name] and len(x) <= self.capacity
            for name, x in fields.items()
        )

    def load(self, fields: dict[str, Tensor]) -> None:
        """Copy batches into the same memory as before."""
        for dtype, x in self._pack(fields).items():
            self._packed[dtype][: len(x)].copy_(x)

    def at(self, cursor: Tensor) -> dict[str, Tensor]:
        """The batch that a [1] int64 on the device names."""
        found = {}
        for dtype, names in self._names.items():
            row = self._packed[dtype].index_select(0, cursor)[0]
            sizes = [self.shapes[name].numel() for name in names]
            for name, x in zip(names, torch.split(row, sizes), strict=True):
                found[name] = x.view(self.shapes[name])
        return found

    def _pack(self, fields: dict[str, Tensor]) -> dict[torch.dtype, Tensor]:
        return {
            dtype: torch.cat([fields[name].reshape(len(fields[name]), -1) for name in names], 1)
            for dtype, names in self._names.items()
        }


class ResidentTrainer:
    """One stage on a device: its state, its buffers, and its step.

    The same arithmetic as `training.StageTrainer`: Adam runs on the touched rows of the entity
    table and densely on the rest, both from zero.

    Args:
        model: lies on the device.
        stage: its options.
        backend: `ops` or `reference`.
        stream: the batches.
        deep: whether the stage predicts by eq. 18.
        capture: replay the step as a CUDA graph; else run it operation by operation.
    """

    def __init__(
        self,
        model: EKPNet,
        stage: StageConfig,
        backend: ModuleType,
        stream: BatchStream,
        *,
        deep: bool,
        capture: bool,
    ) -> None:
        self.model, self.stage, self.backend = model, stage, backend
        self.name = "train" if deep else "pretrain"
        self.stream, self.capture = stream, capture
        self.device = device = model.entity.device
        self.m = torch.zeros_like(model.entity)
        self.v = torch.zeros_like(model.entity)
        self._dense = [model.relation, *model.dense_weights(self.name)]
        self.adam = torch.optim.Adam(
            self._dense, lr=stage.lr, fused=True, capturable=device.type == "cuda"
        )
        self.steps = torch.zeros((), dtype=torch.int64, device=device)
        self.groups = 0  # per batch, so far
        self._cursor = torch.zeros(1, dtype=torch.int64, device=device)
        self._buffer: BatchBuffer | None = None
        self._terms = torch.zeros(0, len(TERMS), device=device)  # a row per batch in the buffer
        self._step_as_graph: torch.cuda.CUDAGraph | None = None
        self._steps_before = 0
        self.watch = LossWatch(stage, self.name)
        K = 2 * stream.triples
        self._triple_labels = (torch.arange(K, device=device) < stream.triples).to(torch.int8)

    def state(self) -> dict[str, Tensor]:
        """What steps change besides the model, by name; the tensors themselves."""
        return {"m": self.m, "v": self.v, **adam_state(self.adam), "steps": self.steps}

    def load_state(self, state: Mapping[str, Tensor], watch: Mapping[str, Any]) -> None:
        """Go on from a `state` and that of the watch, before the first step.

        Raises:
            RuntimeError: tensors of another shape.
        """
        self.m.copy_(state["m"])
        self.v.copy_(state["v"])
        load_adam_state(self.adam, state)
        self.steps.copy_(state["steps"])
        self._steps_before = int(state["steps"])
        self.watch = LossWatch(self.stage, self.name, watch)

    def epoch(self, host: HostEpoch) -> dict[str, float]:
        """All steps of an epoch; returns the terms of the loss, summed over the pairs.

        Raises:
            TrainingError: the loss is not finite or diverges; names the term and its step.
        """
        self.groups = host.group_users.shape[1]
        sets = RippleSets(
            **{name: x.to(self.device, non_blocking=True) for name, x in vars(host.ripple).items()}
        )
        references = host.items.shape[1] + 2 * host.triple_heads.shape[1]
        references += 2 * self.groups * sets.heads[0].numel()
        at_once = max(1, REFERENCES_AT_ONCE // references)
        terms = []
        for begin in range(0, host.steps, at_once):
            end = min(begin + at_once, host.steps)
            self._load(host, begin, end, sets)
            step = self._replayable_step()
            for _ in range(begin, end):
                step()
            terms.append(self._terms[: end - begin].clone())
        table = torch.cat(terms).cpu()  # the only wait
        for i, row in enumerate(table.tolist(), self._steps_before + 1):
            self.watch.check(dict(zip(TERMS, row, strict=True)), i)
        self._steps_before += host.steps
        sums = (table.double() * host.real_pairs.double().unsqueeze(1)).sum(0)
        return dict(zip(TERMS, sums.tolist(), strict=True))

    def _load(self, host: HostEpoch, begin: int, end: int, sets: RippleSets) -> None:
        """Put batches of an epoch into the buffer that a captured step reads."""
        fields = localize_batches(
            host.batches(begin, end, self.device),
            sets,
            self.model.entity.shape[0],
            self.model.relation.shape[0],
        )
        if self._buffer is None or not self._buffer.fits(fields):
            self._step_as_graph = None  # it reads the old buffer
            self._buffer = BatchBuffer(fields)
            self._terms = torch.zeros(self._buffer.capacity, len(TERMS), device=self.device)
        else:
            self._buffer.load(fields)
        self._cursor.zero_()

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
        """The step as a graph; what the step before it changed is put back."""
        tables = (self.model.entity, self.m, self.v)
        touched = self._batch()[0].rows.clamp(min=0)  # of the first batch, as in the step below
        rows_before = [x.index_select(0, touched) for x in tables]
        before = [(x, x.clone()) for x in self._state()]
        known = {x.data_ptr() for x, _ in before}
        side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side), warnings.catch_warnings():
            # Adam advises against running it uncaptured; once it must, to make its state.
            warnings.filterwarnings("ignore", message=".*capturable.*")
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
        # Meanwhile another thread pins memory for the next epoch, which only this mode lets it do.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            self._step()
        return graph

    def _batch(self) -> tuple[Batch, Tensor]:
        """The batch at the cursor, in terms of the rows that it touches; lambda3 / pairs."""
        assert self._buffer is not None
        at: dict[str, Any] = {**self._buffer.at(self._cursor)}
        l2: Tensor = at.pop("l2")
        return Batch(triple_labels=self._triple_labels, **at), l2

    def _step(self) -> None:
        """One step at the cursor; nothing in it waits for the device or depends on a value."""
        model, stage = self.model, self.stage
        batch, l2 = self._batch()
        self.steps.add_(1)
        rows = model.entity.index_select(0, batch.rows.clamp(min=0)).requires_grad_()
        terms = loss_terms(self.backend, model, {"entity": rows}, batch, stage, name=self.name)
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
            self._terms.index_copy_(0, self._cursor, record.unsqueeze(0))
            self.backend.row_adam_(
                *(model.entity, self.m, self.v, batch.rows, drows),
                step=self.steps,
                lr=stage.lr,
                l2=l2,
            )
        self.adam.step()
        self._cursor.add_(1)
