"""Epochs of a stage, batch by batch or as replays of a CUDA graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

import torch

from ekpnet_fast import ops
from ekpnet_fast.config import StageConfig
from ekpnet_fast.models import Model
from ekpnet_fast.sampling.batches import BatchStream, StepParts
from ekpnet_fast.sampling.ripple_sets import FoldRippleSets, RippleSets
from ekpnet_fast.training.cuda_graph import ResidentTrainer
from ekpnet_fast.training.data import TrainingData
from ekpnet_fast.training.fixed_shapes import HostEpoch
from ekpnet_fast.training.parallel.step import PartsTrainer
from ekpnet_fast.training.parallel.tables import SharedTables
from ekpnet_fast.training.state import StepState
from ekpnet_fast.training.step import StageTrainer, StepLoss

__all__ = ["PartedEpochs", "Passed", "ResidentEpochs", "SteppedEpochs", "epochs_of"]


class Passed(NamedTuple):
    """Part of an epoch that was trained on.

    Attributes:
        sums: terms of the loss, summed over it.
        pairs: pairs, or triples in a stage without pairs.
        whole: whether it is all that was left of the epoch, in one piece, without progress or a
            stop inside it.
        steps: that it took.
    """

    sums: dict[str, float]
    pairs: int
    whole: bool = False
    steps: int = 1


def is_resident(
    model: Model, data: TrainingData, device: torch.device, loss: str, backend: ModuleType
) -> bool:
    """Whether epochs are replayed on the device; the one place that decides it.

    A replayed epoch has all ripple sets at once, of which there may be too many, and no lists but
    those that the native op makes of groups.
    """
    on_device = device.type == "cuda" and model.resident
    return on_device and data.held and (loss == "bce" or backend is ops)


@contextmanager
def epochs_of(
    model: Model,
    name: str,
    data: TrainingData,
    stream: BatchStream,
    numbers: range,
    backend: ModuleType,
    device: torch.device,
    threads: int,
    tables: SharedTables | None = None,
) -> Iterator[SteppedEpochs | PartedEpochs | ResidentEpochs]:
    """Epochs of a stage.

    Args:
        model: on the device.
        name: the stage's name.
        data: the source of ripple sets.
        stream: the stage's mini-batches.
        numbers: of the run's epochs that are left to the stage, at most.
        backend: `ops` or `reference`.
        device: of the model.
        threads: of the host that the stage may use.
        tables: those of the model, where mini-batches are computed in parts.
    """
    stage: StageConfig = getattr(data.config, name)
    if tables is not None:
        parted = PartsTrainer(model, stage, backend, name, tables, data.config.parallel)
        yield PartedEpochs(parted, data, stream, threads > 1)
        return
    if not is_resident(model, data, device, stage.loss, backend):
        trainer = StageTrainer(model, stage, backend, name)
        ahead = device.type != "cpu" or threads > 1
        yield SteppedEpochs(trainer, data, stream, device, ahead)
        return
    # The plain-torch specification waits for the device here and there.
    capture = device.type == "cuda" and backend is ops
    resident = ResidentTrainer(model, stage, backend, stream, name, capture=capture)
    with ThreadPoolExecutor(1, initializer=_enter, initargs=(device,)) as pool:
        yield ResidentEpochs(resident, data, numbers, pool)


def _enter(device: torch.device) -> None:
    """Make the GPU the thread's, which else pins memory in the context of the first one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


READ_TOGETHER = 64  # steps of a GPU whose loss is read at once, because who reads it waits


class SteppedEpochs:
    """Epochs of one stage, batch by batch; with `ahead` the next one is prepared beside a step.

    On a GPU losses are read, and progress is told, after `READ_TOGETHER` steps, where a run that
    must stop does so.
    """

    def __init__(
        self,
        trainer: StageTrainer,
        data: TrainingData,
        stream: BatchStream,
        device: torch.device,
        ahead: bool,
    ) -> None:
        self._trainer, self._data, self._stream, self._device = trainer, data, stream, device
        self._ahead = ahead

    @property
    def state(self) -> StepState:
        """State of the optimizer."""
        return self._trainer.state

    def run(self, number: int, skip: int) -> Iterator[Passed]:
        """Train on the run's epoch of that number, but for its first steps."""
        ripple, trainer = self._data.ripple_sets(number), self._trainer
        unread: list[tuple[StepLoss, int, int]] = []  # with the divisors and the pairs
        for batch in self._stream.epoch(number, ripple, skip=skip, ahead=self._ahead):
            # The last batch of an epoch of triples draws as many as the others.
            pairs = batch.num_pairs if self._stream.plan.pairs else batch.size
            if self._device.type == "cpu":
                yield _passed([trainer.step(batch)], [batch.size], [pairs])
                continue
            if trainer.backend is not ops:
                batch = batch.by_fold()  # its sizes depend on values, for which a device must wait
            batch = batch.knowing(trainer.model.found_ahead())
            loss = trainer.step_unread(batch.to(self._device))
            unread.append((loss, batch.size, pairs))
            if len(unread) == READ_TOGETHER:
                yield self._read(unread)
                unread = []
        if unread:
            yield self._read(unread)

    def _read(self, unread: list[tuple[StepLoss, int, int]]) -> Passed:
        losses, sizes, pairs = zip(*unread, strict=True)
        return _passed(self._trainer.read(losses), sizes, pairs)


def _passed(
    terms: Sequence[dict[str, float]], sizes: Sequence[int], pairs: Sequence[int]
) -> Passed:
    """What some steps passed over, by the terms of their loss."""
    sums: dict[str, float] = defaultdict(float)
    for of_step, size in zip(terms, sizes, strict=True):
        for term, value in of_step.items():
            sums[term] += value * size
    return Passed(sums, sum(pairs), steps=len(terms))


class PartedEpochs:
    """Epochs of one stage by parts of mini-batches; `ahead` as in `SteppedEpochs`."""

    def __init__(
        self, trainer: PartsTrainer, data: TrainingData, stream: BatchStream, ahead: bool
    ) -> None:
        self._trainer, self._data, self._stream, self._ahead = trainer, data, stream, ahead

    @property
    def state(self) -> StepState:
        """State of the optimizer."""
        return self._trainer.state

    def run(self, number: int, skip: int) -> Iterator[Passed]:
        """Train on the run's epoch of that number, but for its first steps."""
        trainer = self._trainer
        ripple = self._data.ripple_sets(number, lazy=len(trainer.mine) < trainer.parts)
        steps = self._stream.steps(
            number, ripple, trainer.mine, trainer.parts, skip=skip, ahead=self._ahead
        )
        for step, following in _with_following(steps):
            terms = trainer.step(step, following)
            yield Passed({term: value * step.size for term, value in terms.items()}, step.pairs)


def _with_following(steps: Iterator[StepParts]) -> Iterator[tuple[StepParts, StepParts | None]]:
    """Each step and the one after it, None after the last."""
    step = next(steps, None)
    while step is not None:
        following = next(steps, None)
        yield step, following
        step = following


class ResidentEpochs:
    """Epochs of one stage on a device; the host draws the next one while the device computes.

    A run that must stop does so at the end of an epoch.
    """

    def __init__(
        self, trainer: ResidentTrainer, data: TrainingData, numbers: range, pool: Executor
    ) -> None:
        self._trainer, self._data, self._numbers, self._pool = trainer, data, numbers, pool
        self._ahead = self._prepare(numbers.start, 0)

    @property
    def state(self) -> StepState:
        """State of the optimizer."""
        return self._trainer.state

    def run(self, number: int, skip: int) -> Iterator[Passed]:
        """Train on the run's epoch of that number, but for its first steps."""
        trainer, host = self._trainer, self._ahead.result()
        if number + 1 in self._numbers:
            groups = max(trainer.groups, host.group_users.shape[1])
            self._ahead = self._prepare(number + 1, groups)
        sums = trainer.epoch(host, skip)
        yield Passed(sums, trainer.stream.epoch_size, whole=True)

    def _prepare(self, number: int, groups: int) -> Future[HostEpoch]:
        """Start drawing an epoch, with at least so many groups per batch."""
        trainer, pin = self._trainer, self._trainer.device.type == "cuda"

        def prepare() -> HostEpoch:
            ripple = self._data.ripple_sets(number)
            assert isinstance(ripple, RippleSets | FoldRippleSets)  # `is_resident`
            return HostEpoch.prepare(trainer.stream, trainer.stage, ripple, number, groups, pin=pin)

        return self._pool.submit(prepare)
