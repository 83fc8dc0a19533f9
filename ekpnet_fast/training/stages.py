"""Stages of a run: early stopping, the best weights, epoch records, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from torch import Tensor

from ekpnet_fast.config import RunConfig, StageConfig
from ekpnet_fast.ops.threads import num_threads
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.storage.checkpoint import CheckpointWriter
from ekpnet_fast.training.cpu_time import CpuWatch
from ekpnet_fast.training.epochs import Passed
from ekpnet_fast.training.losses import TERMS
from ekpnet_fast.training.parallel.saved import SharedWriter
from ekpnet_fast.training.progress import (
    EpochRecord,
    Outcome,
    Position,
    Progress,
    measured,
    stalled,
)
from ekpnet_fast.training.signals import Interrupted
from ekpnet_fast.training.snapshot import TrainingSnapshot
from ekpnet_fast.training.state import StepState

__all__ = ["Stages"]


class Stages:
    """Position of a run in its stages, and the weights, records and checkpoints kept of them.

    Args:
        config: a resolved run.
        outcome: gets records and times; its model, the best weights of each stage.
        on_progress: called after each batch and each epoch.
        writer: writes checkpoints, and has the one to go on from.
        validate: whether the epochs of stages with pairs are validated.
    """

    def __init__(
        self,
        config: RunConfig,
        outcome: Outcome,
        on_progress: Callable[[Progress], None],
        writer: CheckpointWriter | SharedWriter | None,
        *,
        validate: bool = True,
    ) -> None:
        self.config, self.outcome = config, outcome
        self.on_progress, self.writer = on_progress, writer
        self.at = Position()
        self._validate = validate
        self._cpu = CpuWatch(num_threads())
        self.best: dict[str, Tensor] = {}  # the model's state in the stage's best epoch
        if writer is not None and writer.start is not None:
            snapshot = TrainingSnapshot.of(writer.start)
            self.at, self.best = snapshot.position, snapshot.best
            snapshot.restore(outcome)

    def left(self) -> list[str]:
        """Stages to run, the one in progress first; none of triples alone where there are none."""
        model = self.outcome.model
        first = model.stages.index(self.at.stage) if self.at.stage else 0
        return [
            name
            for name in model.stages[first:]
            if (self._options(name).epochs or model.silent(name))
            and (model.plan(self.config, name).pairs or model.source.graph.num_triples)
        ]

    def enter(self, name: str, stream: BatchStream) -> range:
        """Start a stage, or the rest of it; the run's epochs that are left to it, at most."""
        self._started = time.perf_counter()
        self._resumed = self.at.stage == name
        if not self._resumed:
            self.at, self.best = self.at.next_stage(name), {}
        self._stage, self._size = self._options(name), stream.epoch_size
        self._validated = self._validate and stream.plan.pairs
        self._seconds_before = self.at.stage_seconds
        first = self.at.epochs_done + 1
        return range(first, first + self._stage.epochs - self.at.epoch)

    def start(self, score: Callable[[], float]) -> None:
        """Record what the model predicts before the stage's first epoch, where it says something.

        Args:
            score: the validation measure of the model's state.
        """
        at, model = self.at, self.outcome.model
        silent = model.silent(at.stage)
        if not silent or self._resumed or not self._validated or not self._stage.epochs:
            return
        drawn = {name: value.clone() for name, value in model.state_dict().items()}
        self.best = {**drawn, **silent}
        model.load_state_dict(self.best)
        at.best, at.best_epoch = score(), 0
        model.load_state_dict(drawn)
        terms = dict.fromkeys(("loss", *TERMS), math.nan)
        found = measured(self.config.protocol, at.best)
        times = {"seconds": 0.0, "samples_per_second": 0.0}
        record = EpochRecord(stage=at.stage, epoch=0, **terms, **found, **times)
        self._notify(0, math.nan, 0.0, record)
        self.outcome.records.append(record)

    def epochs(self, state: StepState) -> Iterator[int]:
        """Numbers of the run's epochs until the stage ends; its steps change `state`."""
        at, self._state = self.at, state
        if self._resumed:
            assert self.writer is not None and self.writer.start is not None
            state.load(self.writer.start.named("optimizer"), at.watch)
        while at.epoch < self._stage.epochs and not self._out_of_patience():
            self._epoch_started = time.perf_counter() - at.epoch_seconds
            yield at.epochs_done + 1

    def add(self, passed: Passed) -> None:
        """Count steps of the epoch in progress.

        Raises:
            Interrupted: the run was stopped, and has a checkpoint of that position.
        """
        at = self.at
        for term, value in passed.sums.items():
            at.sums[term] += value
        at.passed += min(passed.pairs, self._size - at.passed)
        at.steps += passed.steps
        at.epoch_seconds = max(time.perf_counter() - self._epoch_started, 1e-9)
        if not passed.whole:
            self._notify(at.passed, sum(at.sums.values()) / at.passed, at.passed / at.epoch_seconds)
            self._keep()

    def end_epoch(self, valid: float) -> None:
        """Record an epoch, and keep its weights if they are the stage's best.

        Raises:
            Interrupted: the run was stopped, and has a checkpoint of that position.
        """
        at, model = self.at, self.outcome.model
        record = self._record(valid)
        warning = stalled(record, self._stage) or self._cpu.advice()
        self._notify(self._size, record.loss, record.samples_per_second, record, warning)
        self.outcome.records.append(record)
        at.end_epoch()
        at.stage_seconds = self._seconds_so_far()
        if self._validated and record.valid > at.best:
            at.best, at.best_epoch = record.valid, at.epoch
            self.best = {key: value.clone() for key, value in model.state_dict().items()}
        self._keep()

    def leave(self) -> None:
        """Give the model the stage's best weights."""
        model = self.outcome.model
        if not self._stage.epochs:
            self.best = {**model.state_dict(), **model.silent(self.at.stage)}
        if self.best:
            model.load_state_dict(self.best)
        self.outcome.stage = self.at.stage
        self.outcome.seconds[self.at.stage] = self._seconds_so_far()

    def _options(self, name: str) -> StageConfig:
        stage: StageConfig = getattr(self.config, name)
        return stage

    def _out_of_patience(self) -> bool:
        at = self.at
        return self._validated and at.epoch - at.best_epoch >= self._stage.patience

    def _seconds_so_far(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def _record(self, valid: float) -> EpochRecord:
        at, size = self.at, self._size
        return EpochRecord(
            stage=at.stage,
            epoch=at.epoch + 1,
            loss=sum(at.sums.values()) / size,
            **{term: value / size for term, value in at.sums.items()},
            **measured(self.config.protocol, valid),
            seconds=at.epoch_seconds,
            samples_per_second=size / at.epoch_seconds,
        )

    def _notify(
        self,
        done: int,
        loss: float,
        rate: float,
        record: EpochRecord | None = None,
        warning: str | None = None,
    ) -> None:
        at, epochs, size = self.at, self._stage.epochs, self._size
        users = self.outcome.validated_users
        self.on_progress(
            Progress(at.stage, at.epoch + 1, epochs, done, size, loss, rate, record, warning, users)
        )

    def _keep(self) -> None:
        """Write a checkpoint if one is due, and stop if the run must.

        Raises:
            Interrupted: it must.
        """
        writer, at = self.writer, self.at
        if writer is None:
            return
        signum = writer.stopped()
        if signum is not None or (at.steps == 0 and writer.due(at.epochs_done)):
            at.watch = self._state.watch.state
            TrainingSnapshot(at, self.best).save(writer, self.outcome, self._state.tensors())
        if signum is not None:
            writer.finish()
            raise Interrupted(signum, str(at))
