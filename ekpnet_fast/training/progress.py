"""Progress of a run: epoch records, the outcome, the position to go on from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ekpnet_fast.config import StageConfig
from ekpnet_fast.evaluation.columns import VALIDATED_BY
from ekpnet_fast.models import Model
from ekpnet_fast.training.losses import TERMS

__all__ = [
    "EpochRecord",
    "Outcome",
    "Position",
    "Progress",
    "measured",
    "records_as_dicts",
    "stalled",
]


@dataclass(frozen=True)
class EpochRecord:
    """Record of an epoch: loss, validation, speed.

    Attributes:
        stage: "pretrain" or "train".
        epoch: from 1 within the stage; 0 for the model before it, which has only the measures.
        loss, pairs, kg, l2_weights, l2_rows: the loss (eq. 24) and its weighted terms, per pair, or
            per triple in a stage without pairs.
        valid_auc: AUC over the validation examples, under the protocol "ripplenet". It and the next
            two are NaN under the other protocols, and where the epoch was not validated, as in a
            stage without pairs.
        valid_mrr: MRR@10 of ranking all items on validation, under "recbole".
        valid_ndcg: NDCG@20 of the same, under "fixed" and the protocols by time.
        seconds: training time, without evaluation.
        samples_per_second: training pairs, or triples, per second.
    """

    stage: str
    epoch: int
    loss: float
    pairs: float
    kg: float
    l2_weights: float
    l2_rows: float
    valid_auc: float
    valid_mrr: float
    valid_ndcg: float
    seconds: float
    samples_per_second: float

    @property
    def valid(self) -> float:
        """Validation measure that the epoch is chosen by."""
        values = (self.valid_auc, self.valid_mrr, self.valid_ndcg)
        return next((value for value in values if not math.isnan(value)), math.nan)


def measured(protocol: str, valid: float) -> dict[str, float]:
    """Validation measures of an epoch record, of which one is known.

    Args:
        protocol: of the run.
        valid: its measure (`columns.VALIDATED_BY`), or NaN.
    """
    fields = {"auc": "valid_auc", "mrr@10": "valid_mrr", "ndcg@20": "valid_ndcg"}
    return {
        name: valid if VALIDATED_BY[protocol] == measure else math.nan
        for measure, name in fields.items()
    }


@dataclass
class Outcome:
    """Outcome of training: the model, epoch records and times."""

    model: Model
    stage: str  # whose prediction the kept weights give
    records: list[EpochRecord] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # per part of the run
    validated_users: int | None = None  # whose lists chose the epochs, where lists did


@dataclass(frozen=True)
class Progress:
    """Progress of a stage after a batch (`record` is None) or after an epoch."""

    stage: str
    epoch: int
    epochs: int
    pairs: int  # done in this epoch; triples in a stage without pairs
    total_pairs: int
    loss: float  # per pair, so far in this epoch
    samples_per_second: float
    record: EpochRecord | None = None
    warning: str | None = None  # with the record: what went wrong, and the options to change
    validated_users: int | None = None  # whose lists the record's measure is of; None without lists


STALLED = 0.005  # a validation AUC so near to 0.5 is that of chance


def stalled(record: EpochRecord, stage: StageConfig) -> str | None:
    """Advice where a stage's first epoch has taught the model nothing; else None.

    Predictions that are products of small rows have a saddle at zero, which norms hold them in.
    """
    if record.epoch > 1 or not abs(record.valid_auc - 0.5) < STALLED:
        return None
    name = record.stage
    return (
        f"validation AUC is {record.valid_auc:.3f} after the first epoch of the {name} stage: the"
        " model tells nothing apart, as where its rows are too small to have a gradient; try a"
        f" smaller --{name}.lambda3 (now {stage.lambda3}) or --{name}.lambda2 (now"
        f" {stage.lambda2}), a larger --{name}.lr (now {stage.lr}), a smaller --{name}.batch_size"
        f" (now {stage.batch_size}), or another --shape.init"
    )


@dataclass
class Position:
    """Position of a run, as far as it is not in tensors.

    Attributes:
        stage: the stage in progress; "" before the first.
        epochs_done: complete epochs of the run. Every draw of training is a function of the seed,
            the number of the epoch and that of the batch, so this is the state of all of them.
        epoch: complete epochs of the stage.
        steps: complete steps of the epoch in progress.
        passed: pairs, or triples, that those steps passed over.
        sums: terms of the loss over them, not divided.
        epoch_seconds: training time of them.
        stage_seconds: time of the stage in earlier processes.
        best, best_epoch: validation measure of the stage's best epoch; -inf and 0 before one.
        watch: state of `losses.LossWatch`.
    """

    stage: str = ""
    epochs_done: int = 0
    epoch: int = 0
    steps: int = 0
    passed: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TERMS, 0.0))
    epoch_seconds: float = 0.0
    stage_seconds: float = 0.0
    best: float = -math.inf
    best_epoch: int = 0
    watch: dict[str, Any] = field(default_factory=dict)

    def next_stage(self, stage: str) -> Position:
        """Position at the start of the next stage."""
        return Position(stage, self.epochs_done)

    def end_epoch(self) -> None:
        """Count the epoch in progress as complete."""
        self.epochs_done += 1
        self.epoch += 1
        self.steps, self.passed, self.epoch_seconds = 0, 0, 0.0
        self.sums = dict.fromkeys(TERMS, 0.0)

    def __str__(self) -> str:
        """Text such as "after epoch 3 of the train stage"."""
        if self.steps:
            return f"after step {self.steps} of epoch {self.epoch + 1} of the {self.stage} stage"
        return f"after epoch {self.epoch} of the {self.stage} stage"


def records_as_dicts(records: list[EpochRecord]) -> list[dict[str, Any]]:
    """Epoch records as plain values."""
    return [asdict(record) for record in records]
