"""The training loop: Algorithm 1 and Algorithm 2 over mini-batches of user groups."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ekpnet_fast import ops, reference
from ekpnet_fast.config import RunConfig, StageConfig
from ekpnet_fast.data import PreparedData, Rows
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.graph import Graph
from ekpnet_fast.metrics import auc
from ekpnet_fast.models.ekpnet import EKPNet
from ekpnet_fast.sampling import Batch, BatchStream, RippleSets, UserRows, history_tensors

SCORED_PAIRS = 1 << 16  # pairs whose hop features are in memory at a time

BACKENDS: dict[str, ModuleType] = {"native": ops, "reference": reference}


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did.

    Attributes:
        stage: "pretrain" or "train".
        epoch: from 1 within the stage.
        loss, bce, kg, weights, rows: the loss (eq. 24) and its weighted terms, per pair.
        valid_auc: AUC over the validation rows.
        seconds: training time, without evaluation.
        samples_per_second: training pairs per second.
    """

    stage: str
    epoch: int
    loss: float
    bce: float
    kg: float
    weights: float
    rows: float
    valid_auc: float
    seconds: float
    samples_per_second: float


@dataclass
class Outcome:
    """A trained model and how it came about."""

    model: EKPNet
    deep: bool  # whether the kept weights predict by eq. 18
    records: list[EpochRecord] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # per part of the run


@dataclass(frozen=True)
class Progress:
    """Told after each batch (`record` is None) and after each epoch."""

    stage: str
    epoch: int
    epochs: int
    pairs: int  # done in this epoch
    total_pairs: int
    loss: float  # per pair, so far in this epoch
    samples_per_second: float
    record: EpochRecord | None = None


UNSPLIT = 1 << 14  # elements that torch leaves to one thread


def fixed_order_sum(x: Tensor) -> Tensor:
    """Sum of all elements in pieces that torch does not split over threads."""
    return torch.stack([piece.sum() for piece in torch.split(x.flatten(), UNSPLIT)]).sum()


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy summed over [n] pairs, the same bits for any number of threads.

    In pieces, because torch's exp and log differ in the last bit between whole vectors and the
    rest of a thread's share, in the gradient too.
    """
    pieces = zip(torch.split(logits, UNSPLIT), torch.split(labels, UNSPLIT), strict=True)
    sums = [functional.binary_cross_entropy_with_logits(x, y, reduction="sum") for x, y in pieces]
    return torch.stack(sums).sum()


def loss_terms(
    backend: ModuleType,
    model: EKPNet,
    rows: Tensor,  # [n, C, D], the batch's rows of the entity table
    batch: Batch,
    stage: StageConfig,
    *,
    deep: bool,
) -> dict[str, Tensor]:
    """The four terms of eq. 24 over a mini-batch, weighted and divided by its pairs.

    The term "rows" holds the relations only: `row_adam_` adds the entity rows' share to their
    gradient, and `StageTrainer.step` to their value.
    """
    logits = model.logits(backend, rows, batch, batch.group_indptr, batch.items, deep=deep)
    pairs = batch.num_pairs
    terms = {"bce": cross_entropy_sum(logits, batch.labels) / pairs}
    if stage.lambda1 > 0:
        kg = backend.triple_loss(
            rows,
            model.relation,
            batch.triple_heads,
            batch.triple_relations,
            batch.triple_tails,
            batch.triple_labels,
        )
        terms["kg"] = kg * (stage.lambda1 / 2 / pairs)
    if stage.lambda2 > 0:
        norm = torch.stack(
            [fixed_order_sum(w.square()) for w in model.dense_weights(deep=deep)]
        ).sum()
        terms["weights"] = norm * (stage.lambda2 / 2 / pairs)
    if stage.lambda3 > 0:
        norm = fixed_order_sum(model.relation.square().sum((1, 2)) * batch.relation_touched)
        terms["rows"] = norm * (stage.lambda3 / 2 / pairs)
    return terms


class StageTrainer:
    """One stage: its optimizer state and its steps.

    Adam runs on the touched rows of the entity table and densely on the rest; both start anew in
    each stage, as Algorithms 1 and 2 do.
    """

    def __init__(
        self, model: EKPNet, stage: StageConfig, backend: ModuleType, *, deep: bool
    ) -> None:
        self.model = model
        self.stage = stage
        self.backend = backend
        self.deep = deep
        self.m = torch.zeros_like(model.entity)
        self.v = torch.zeros_like(model.entity)
        dense = [model.relation, *model.dense_weights(deep=deep)]
        self.adam = torch.optim.Adam(dense, lr=stage.lr, fused=True)
        self.steps = 0

    def step(self, batch: Batch) -> dict[str, float]:
        """One step; returns the terms of the loss before it.

        Raises:
            TrainingError: a term is not finite; names it and the step.
        """
        self.steps += 1
        stage, model = self.stage, self.model
        rows = model.entity.index_select(0, batch.rows).requires_grad_()
        terms = loss_terms(self.backend, model, rows, batch, stage, deep=self.deep)
        self.adam.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        assert rows.grad is not None
        l2 = stage.lambda3 / batch.num_pairs
        values = {name: float(term.detach()) for name, term in terms.items()}
        if stage.lambda3 > 0:
            norms = rows.detach().square().sum((1, 2))
            values["rows"] += float(fixed_order_sum(norms)) * l2 / 2
        for name, value in values.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss term {name} is {value} in step {self.steps} of the"
                    f" {'train' if self.deep else 'pretrain'} stage; a smaller lr"
                    f" (now {stage.lr}) usually helps"
                )
        self.backend.row_adam_(
            model.entity,
            self.m,
            self.v,
            batch.rows,
            rows.grad,
            step=self.steps,
            lr=stage.lr,
            l2=l2,
        )
        self.adam.step()
        return values


@torch.no_grad()
def score_rows(
    backend: ModuleType, model: EKPNet, ripple: RippleSets, rows: UserRows, *, deep: bool
) -> NDArray[np.float32]:
    """Logits [N] of labelled rows, in the order of the table that `rows` came from."""
    indptr = rows.indptr.numpy()
    users = np.flatnonzero(np.diff(indptr))
    ends = indptr[users + 1]
    logits = torch.empty(len(rows.items))
    first = 0
    while first < len(users):
        start = int(indptr[users[first]])
        last = max(first + 1, int(np.searchsorted(ends, start + SCORED_PAIRS, side="right")))
        stop = int(ends[last - 1])
        group_indptr = torch.from_numpy(np.append(indptr[users[first:last]], stop) - start)
        logits[start:stop] = model.logits(
            backend,
            model.entity,
            ripple.of_users(torch.from_numpy(users[first:last])),
            group_indptr,
            rows.items[start:stop],
            deep=deep,
        )
        first = last
    in_table_order = torch.empty_like(logits)
    in_table_order[rows.order] = logits
    scores: NDArray[np.float32] = in_table_order.numpy()
    return scores


def catalogue_scorer(
    backend: ModuleType, model: EKPNet, ripple: RippleSets, num_items: int, *, deep: bool
) -> Callable[[NDArray[np.int32]], Tensor]:
    """Scores [b, I] of all items for users [b], as `ranking.rank_all` asks for them.

    A user's key and value tiles are built once and serve every item; hop features are in memory
    for `SCORED_PAIRS` pairs, or one user, at a time.
    """
    items = torch.arange(num_items, dtype=torch.int32)
    users_at_once = max(1, SCORED_PAIRS // num_items)

    @torch.no_grad()
    def score(users: NDArray[np.int32]) -> Tensor:
        scores = torch.empty(len(users), num_items)
        for first in range(0, len(users), users_at_once):
            block = torch.from_numpy(users[first : first + users_at_once]).long()
            n = len(block)
            scores[first : first + n] = model.logits(
                backend,
                model.entity,
                ripple.of_users(block),
                torch.arange(n + 1) * num_items,
                items.repeat(n),
                deep=deep,
            ).view(n, num_items)
        return scores

    return score


def build_model(config: RunConfig, graph: Graph) -> EKPNet:
    """The untrained model of a run."""
    return EKPNet(
        config.shape,
        graph.num_entities,
        graph.num_relations,
        semantic_attention=config.semantic_attention,
        deep=config.deep,
        seed=config.seed,
    )


def sample_ripple_sets(
    config: RunConfig, graph: Graph, prepared: PreparedData, epoch: int = 0
) -> RippleSets:
    """The ripple sets of a run; those of epoch 0 serve evaluation."""
    return RippleSets.sample(
        graph,
        *history_tensors(prepared),
        hops=config.shape.hops,
        slots=config.shape.slots,
        seed=config.seed,
        epoch=epoch,
        repeat=config.sampling.padding == "repeat",
    )


def train(
    config: RunConfig,
    prepared: PreparedData,
    graph: Graph,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Train both stages and keep the weights with the best validation AUC of the last stage.

    Args:
        config: a resolved run.
        prepared: the split data.
        graph: its knowledge graph, as the run wants it (inverse relations or not).
        report: told about each batch and each epoch.

    Raises:
        TrainingError: no training rows, or a loss that is not finite.
    """
    if len(prepared.train) == 0 or len(prepared.valid) == 0:
        raise TrainingError(
            f"{prepared.dataset.name}: {len(prepared.train)} training and {len(prepared.valid)}"
            " validation rows are left, expected some of each: every user needs a train positive"
        )
    run = _Run(config, prepared, graph, report)
    stages = [("pretrain", config.pretrain, False)]
    if config.deep:
        stages.append(("train", config.train, True))
    for name, stage, deep in stages:
        if stage.epochs > 0:
            run.stage(name, stage, deep)
    return run.outcome


class _Run:
    """What the stages of a run share."""

    def __init__(
        self,
        config: RunConfig,
        prepared: PreparedData,
        graph: Graph,
        report: Callable[[Progress], None],
    ) -> None:
        self.config = config
        self.graph = graph
        self.prepared = prepared
        self.report = report
        self.backend = BACKENDS[config.backend]
        num_users = prepared.dataset.num_users
        self.train_rows = UserRows.from_rows(prepared.train, num_users)
        self.valid_rows = UserRows.from_rows(prepared.valid, num_users)
        started = time.perf_counter()
        self.ripple = sample_ripple_sets(config, graph, prepared)
        self.epochs_done = 0
        self.outcome = Outcome(build_model(config, graph), deep=False)
        self.outcome.seconds["sampling"] = time.perf_counter() - started

    def stage(self, name: str, stage: StageConfig, deep: bool) -> None:
        started = time.perf_counter()
        model = self.outcome.model
        trainer = StageTrainer(model, stage, self.backend, deep=deep)
        stream = BatchStream(
            self.graph,
            self.train_rows,
            batch_size=stage.batch_size,
            group_size=stage.group_size,
            triples=stage.triples if stage.lambda1 > 0 else 0,
            seed=self.config.seed,
        )
        best_auc, best_epoch, best_state = -math.inf, 0, {}
        for epoch in range(1, stage.epochs + 1):
            record = self._epoch(name, stage, epoch, trainer, stream)
            self.outcome.records.append(record)
            if record.valid_auc > best_auc:
                best_auc, best_epoch = record.valid_auc, epoch
                best_state = {key: value.clone() for key, value in model.state_dict().items()}
            elif epoch - best_epoch >= stage.patience:
                break
        model.load_state_dict(best_state)
        self.outcome.deep = deep
        self.outcome.seconds[name] = time.perf_counter() - started

    def _epoch(
        self,
        name: str,
        stage: StageConfig,
        epoch: int,
        trainer: StageTrainer,
        stream: BatchStream,
    ) -> EpochRecord:
        started = time.perf_counter()
        self.epochs_done += 1
        ripple = self.ripple
        if self.config.sampling.resample and self.epochs_done > 1:
            ripple = sample_ripple_sets(
                self.config, self.graph, self.prepared, epoch=self.epochs_done - 1
            )
        total = len(self.train_rows.items)
        sums: dict[str, float] = dict.fromkeys(("bce", "kg", "weights", "rows"), 0.0)
        pairs = 0

        def progress(record: EpochRecord | None = None) -> Progress:
            seconds = max(time.perf_counter() - started, 1e-9)
            loss = sum(sums.values()) / max(pairs, 1)
            return Progress(name, epoch, stage.epochs, pairs, total, loss, pairs / seconds, record)

        for batch in stream.epoch(self.epochs_done, ripple):
            for term, value in trainer.step(batch).items():
                sums[term] += value * batch.num_pairs
            pairs += batch.num_pairs
            self.report(progress())
        seconds = time.perf_counter() - started
        record = EpochRecord(
            stage=name,
            epoch=epoch,
            loss=sum(sums.values()) / pairs,
            **{term: value / pairs for term, value in sums.items()},
            valid_auc=self._valid_auc(trainer.deep),
            seconds=seconds,
            samples_per_second=pairs / seconds,
        )
        self.report(progress(record))
        return record

    def _valid_auc(self, deep: bool) -> float:
        scores = score_rows(
            self.backend, self.outcome.model, self.ripple, self.valid_rows, deep=deep
        )
        return auc(self.prepared.valid.labels, scores)


def records_as_dicts(records: list[EpochRecord]) -> list[dict[str, Any]]:
    """Epoch records as plain values."""
    return [asdict(record) for record in records]


def rows_by_user(rows: Rows, prepared: PreparedData) -> UserRows:
    """Rows of a prepared data set, grouped by user."""
    return UserRows.from_rows(rows, prepared.dataset.num_users)
