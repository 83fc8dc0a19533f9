"""CUDA-graph training: the epoch resides on the GPU, one captured step is replayed.

Ripple sets, labelled pairs, the model's inputs and triples of an epoch are copied to the device
and put in terms of the rows that each batch touches, for many batches at once; a batch is the index
that a counter on the device holds. All shapes are fixed (see `fixed_shapes`), so that one step,
captured as a CUDA graph, is replayed for every batch, and the host does not wait for the device
inside an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.config import StageConfig
from ekpnet_fast.models import Model
from ekpnet_fast.models.base import Gradients, widened
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.pairs import Batch
from ekpnet_fast.sampling.ripple_sets import FoldRippleSets, RippleSets
from ekpnet_fast.training.fixed_shapes import INPUT, BatchBuffer, HostEpoch, localize_batches
from ekpnet_fast.training.losses import TERMS, loss_terms
from ekpnet_fast.training.state import StepState

REFERENCES_AT_ONCE = 1 << 23  # ids of batches that are on the device in terms of their rows


class ResidentTrainer:
    """Trainer of one stage, an epoch at a time: the same arithmetic as `step.StageTrainer`.

    Args:
        model: on the device; `resident` by its class.
        stage: the stage's options.
        backend: `ops` or `reference`.
        stream: the batches.
        name: the stage's name.
        capture: replay the step as a CUDA graph; else run it operation by operation.

    Attributes:
        state: of the optimizer.
        groups: slots for groups in the last epoch's batches.
    """

    def __init__(
        self,
        model: Model,
        stage: StageConfig,
        backend: ModuleType,
        stream: BatchStream,
        name: str,
        *,
        capture: bool,
    ) -> None:
        self.model, self.stage, self.backend, self.name = model, stage, backend, name
        self.stream, self.capture = stream, capture
        (self._table,) = model.tables
        self._rows = model.table(self._table)
        self.device = device = self._rows.device
        self.state = StepState(model, stage, name)
        self.groups = 0
        # Of the step in progress, from 1, and of its batch in the buffer.
        self._step_number = torch.zeros((), dtype=torch.int64, device=device)
        self._cursor = torch.zeros(1, dtype=torch.int64, device=device)
        self._buffer: BatchBuffer | None = None
        # A row per batch in the buffer.
        self._terms = torch.zeros(0, len(TERMS), dtype=torch.float64, device=device)
        self._step_as_graph: torch.cuda.CUDAGraph | None = None
        K = 2 * stream.triples
        self._triple_labels = (torch.arange(K, device=device) < stream.triples).to(torch.int8)

    def epoch(self, host: HostEpoch, skip: int = 0) -> dict[str, float]:
        """Run the steps of an epoch after some of the first; returns the loss terms, summed.

        Raises:
            TrainingError: the loss is not finite or diverges; names the term and its step.
        """
        self.groups = host.group_users.shape[1]
        self._step_number.fill_(self.state.steps)
        sets = host.ripple.each(lambda x: x.to(self.device, non_blocking=True))
        references = host.items.shape[1] + 2 * host.triple_heads.shape[1]
        references += 2 * self.groups * sets.slots
        at_once = max(1, REFERENCES_AT_ONCE // references)
        terms = [self._terms[:0]]
        for begin in range(skip, host.steps, at_once):
            end = min(begin + at_once, host.steps)
            self._load(host, begin, end, sets, min(at_once, host.steps + host.steps // 16 + 1))
            step = self._replayable_step()
            for _ in range(begin, end):
                step()
            terms.append(self._terms[: end - begin].clone())
        table = torch.cat(terms).cpu()  # the only wait
        for row in table.tolist():
            self.state.steps += 1
            self.state.watch.check(dict(zip(TERMS, row, strict=True)), self.state.steps)
        sums = (table * host.real_pairs[skip:].double().unsqueeze(1)).sum(0)
        return dict(zip(TERMS, sums.tolist(), strict=True))

    def _load(
        self,
        host: HostEpoch,
        begin: int,
        end: int,
        sets: RippleSets | FoldRippleSets,
        room: int = 0,
    ) -> None:
        """Put batches of an epoch into the buffer that a captured step reads.

        A new buffer has room for more: epochs differ by some batches, and one that did not fit
        would make a new buffer and capture the step again.
        """
        fields = localize_batches(
            host.batches(begin, end, self.device),
            sets,
            self._rows.shape[0],
            self.stream.graph.num_relations,
        )
        if self._buffer is None or not self._buffer.fits(fields):
            self._step_as_graph = None  # it reads the old buffer
            self._buffer = BatchBuffer(fields, room)
            self._terms = self._terms.new_zeros(self._buffer.capacity, len(TERMS))
        else:
            self._buffer.load(fields)
        self._cursor.zero_()

    def _replayable_step(self) -> Callable[[], None]:
        if not self.capture:
            return self._step
        if self._step_as_graph is None:
            self._step_as_graph = self._captured()
        return self._step_as_graph.replay

    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Table and its moments, of which a step changes some rows."""
        return self._rows, self.state.m[self._table], self.state.v[self._table]

    def _changed(self) -> list[Tensor]:
        """State that a step changes besides the rows of the tables."""
        adam = [x for state in self.state.adam.state.values() for x in state.values()]
        return [self._step_number, self._cursor, *(p.data for p in self.state.dense), *adam]

    def _captured(self) -> torch.cuda.CUDAGraph:
        """Capture the step as a graph; the state that the step before it changed is restored."""
        tables = self._tables()
        touched = self._batch()[0].rows.clamp(min=0)  # of the first batch, as in the step below
        rows_before = [x.index_select(0, touched) for x in tables]
        before = [(x, x.clone()) for x in self._changed()]
        known = {x.data_ptr() for x, _ in before}
        side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            self._step()  # once uncaptured, to make Adam's state
        torch.cuda.current_stream(self.device).wait_stream(side)
        for table, rows in zip(tables, rows_before, strict=True):
            table.index_copy_(0, touched.long(), rows)
        for x, value in before:
            x.copy_(value)
        for x in self._changed():
            if x.data_ptr() not in known:
                x.zero_()  # Adam's state, made by the first step
        graph = torch.cuda.CUDAGraph()
        # Meanwhile another thread pins memory for the next epoch, which only this mode lets it do.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            self._step()
        return graph

    def _batch(self) -> tuple[Batch, Tensor]:
        """Batch at the cursor, in terms of the rows that it touches; lambda3 / pairs."""
        assert self._buffer is not None
        at: dict[str, Any] = {**self._buffer.at(self._cursor)}
        l2: Tensor = at.pop("l2")
        names = [name for name in at if name.startswith(INPUT)]
        inputs = {name.removeprefix(INPUT): at.pop(name) for name in names}
        known = {"relation_touched": at.pop("relation_touched")}
        R = self.stream.graph.num_relations
        batch = Batch(
            triple_labels=self._triple_labels, num_relations=R, inputs=inputs, known=known, **at
        )
        return batch, l2

    def _step(self) -> None:
        """Run the step at the cursor; nothing in it waits for the device or depends on a value."""
        batch, l2 = self._batch()
        self._step_number.add_(1)
        found = self._gradients(batch, l2)
        for parameter, gradient in zip(self.state.dense, found.dense, strict=True):
            parameter.grad = gradient
        with torch.no_grad():
            self._terms.index_copy_(0, self._cursor, found.terms.unsqueeze(0))
            touched = {self._table: batch.rows}
            self.state.apply(self.backend, touched, found.rows, step=self._step_number, l2=l2)
        self._cursor.add_(1)

    def _gradients(self, batch: Batch, l2: Tensor) -> Gradients:
        """Terms of the loss and gradients, by a native op where there is one."""
        model, stage, name = self.model, self.stage, self.name
        if self.backend is ops:
            found = model.gradients({self._table: self._rows}, batch, stage, stage=name)
            if found is not None:
                return found
        batch = batch.by_fold()
        rows = widened(self._rows.index_select(0, batch.rows.clamp(min=0))).requires_grad_()
        terms = loss_terms(self.backend, model, {self._table: rows}, batch, stage, name=name)
        loss = torch.stack(list(terms.values())).sum()
        drows, *dense = torch.autograd.grad(loss, [rows, *self.state.dense])
        with torch.no_grad():
            return Gradients(self._values(terms, rows, batch, l2), {self._table: drows}, dense)

    def _values(self, terms: dict[str, Tensor], rows: Tensor, batch: Batch, l2: Tensor) -> Tensor:
        """Terms [4] float64 of the loss, with the decay of the rows."""
        values = {name: term.detach() for name, term in terms.items()}
        zero = torch.zeros((), device=self.device)
        if self.stage.lambda3 > 0:
            norms = rows.square().sum((1, 2)).masked_fill(batch.rows < 0, 0.0)
            decay = norms.sum() * (l2 / 2).float()
            values["l2_rows"] = values.get("l2_rows", zero) + decay
        return torch.stack([values.get(name, zero) for name in TERMS]).double()
