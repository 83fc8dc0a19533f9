"""The training loop: a model's stages over mini-batches of user groups."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.config import RunConfig, StageConfig
from ekpnet_fast.data import PreparedData
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.evaluation.metrics import auc
from ekpnet_fast.evaluation.ranking import evaluate_ranking
from ekpnet_fast.evaluation.scoring import KEPT_PAIRS, catalogue_scorer, score_rows
from ekpnet_fast.models.build import build_model, sample_ripple_sets
from ekpnet_fast.models.ekpnet import EKPNet
from ekpnet_fast.native.device import resolve_device
from ekpnet_fast.ops.backends import BACKENDS
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.folds import Folds
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.negatives import RedrawnNegatives
from ekpnet_fast.sampling.pairs import Pairs, history_tensors
from ekpnet_fast.sampling.ripple_sets import DrawnRippleSets, RippleSets
from ekpnet_fast.sampling.rows import TrainingRows, UserRows
from ekpnet_fast.storage.checkpoint import Keeper
from ekpnet_fast.training.cuda_graph import HostEpoch, ResidentTrainer
from ekpnet_fast.training.progress import EpochRecord, Outcome, Position, Progress, stalled
from ekpnet_fast.training.signals import Interrupted
from ekpnet_fast.training.snapshot import Saved
from ekpnet_fast.training.step import StageTrainer


def train(
    config: RunConfig,
    prepared: PreparedData,
    graph: Graph,
    report: Callable[[Progress], None] = lambda progress: None,
    keeper: Keeper | None = None,
) -> Outcome:
    """Train the model's stages; of each, the weights that did best on validation are kept.

    Args:
        config: a resolved run.
        prepared: the split data.
        graph: its knowledge graph, as the run wants it (inverse relations or not).
        report: told about each batch and each epoch.
        keeper: keeps checkpoints, and has the one to go on from.

    Raises:
        TrainingError: no training rows, or a loss that is not finite or diverges.
        Interrupted: the keeper was told to stop, and has a checkpoint of where that was.
    """
    if len(prepared.train) == 0 or len(prepared.valid) == 0:
        raise TrainingError(
            f"{prepared.dataset.name}: {len(prepared.train)} training and {len(prepared.valid)}"
            " validation rows are left, expected some of each: every user needs a train positive"
        )
    run = _Run(config, prepared, graph, report, keeper)
    stages = run.outcome.model.stages
    for name in stages[stages.index(run.at.stage) if run.at.stage else 0 :]:
        stage: StageConfig = getattr(config, name)
        if stage.epochs > 0:
            run.stage(name, stage)
    if not run.outcome.model.stages:
        run.outcome.model.fit(prepared)
    return run.outcome


class _Run:
    """What the stages of a run share."""

    def __init__(
        self,
        config: RunConfig,
        prepared: PreparedData,
        graph: Graph,
        report: Callable[[Progress], None],
        keeper: Keeper | None = None,
    ) -> None:
        self.config = config
        self.graph = graph
        self.prepared = prepared
        self.report = report
        self.keeper = keeper
        self.backend = BACKENDS[config.backend]
        self.device = resolve_device(config.device)
        num_users = prepared.dataset.num_users
        redrawn = None
        if prepared.protocol == "recbole":
            redrawn = RedrawnNegatives(prepared, config.seed)
        self.redraw: Callable[[int], Tensor] | None = redrawn
        self.train_rows = (
            UserRows.from_rows(prepared.train, num_users) if redrawn is None else redrawn.rows
        )
        self.folds: Folds | None = None
        if config.folds > 1:
            self.folds = Folds.cut(self.train_rows, config.folds, config.seed)
            kept = self.folds.kept
            if not len(kept):
                raise TrainingError(
                    f"{prepared.dataset.name}: no training row is left with --folds"
                    f" {config.folds}, expected some: no user has train positives in two folds"
                )
            self.train_rows = self.folds.rows
            if redrawn is not None:
                self.redraw = lambda epoch: redrawn(epoch)[kept]
        self.valid_pairs: list[Pairs] = []  # what they are scored by, the same in every epoch
        self.valid_rows = UserRows.from_rows(prepared.valid, num_users)
        started = time.perf_counter()
        self.ripple = sample_ripple_sets(config, graph, prepared)
        self.at = Position()
        self.best: dict[str, Tensor] = {}  # the model's state in the stage's best epoch
        model = build_model(config, prepared, graph).to(self.device)
        self.outcome = Outcome(model, stage="")
        self.outcome.seconds["sampling"] = time.perf_counter() - started
        self.scored_ripple = self.ripple.to(self.device)
        histories = Histories(*history_tensors(prepared))
        if self.folds is not None:
            histories = self.folds.histories
        started = time.perf_counter()
        model.begin(TrainingRows(self.train_rows, histories, config.folds, self.redraw))
        self.outcome.seconds["begin"] = time.perf_counter() - started
        if keeper is not None and keeper.start is not None:
            saved = Saved.of(keeper.start)
            self.at, self.best = saved.position, saved.best
            saved.restore(self.outcome)

    def ripple_of(self, number: int) -> RippleSets | DrawnRippleSets:
        """The ripple sets that the run's epoch of that number, from 1, trains on."""
        config = self.config
        epoch = number - 1 if config.sampling.resample else 0
        if self.folds is not None:
            return self._virtual_ripple(self.folds, epoch)
        if epoch == 0:
            return self.ripple
        return sample_ripple_sets(config, self.graph, self.prepared, epoch=epoch)

    def _virtual_ripple(self, folds: Folds, epoch: int) -> RippleSets | DrawnRippleSets:
        config = self.config
        if not self.outcome.model.ripple:
            return RippleSets.none(len(folds.histories))
        return DrawnRippleSets(
            self.graph,
            folds.histories,
            hops=config.shape.hops,
            slots=config.shape.slots,
            seed=config.seed,
            epoch=epoch,
            repeat=config.sampling.padding == "repeat",
        )

    def stage(self, name: str, stage: StageConfig) -> None:
        """Train a stage, or the rest of it."""
        started = time.perf_counter()
        model = self.outcome.model
        plan = model.plan(self.config, name)
        stream = BatchStream(
            self.graph,
            self.train_rows,
            batch_size=stage.batch_size,
            group_size=stage.group_size,
            triples=stage.triples if stage.lambda1 > 0 and plan.triples != "none" else 0,
            seed=self.config.seed,
            reads=model.reads,
            plan=plan,
            redraw=self.redraw,
            folds=self.folds,
        )
        # Its tables of ripple sets are by user, not by virtual user.
        resident = self.device.type == "cuda" and model.resident and self.folds is None
        kind = _ResidentEpochs if resident else _SteppedEpochs
        resumed = self.at.stage == name
        if not resumed:
            self.at, self.best = self.at.next_stage(name), {}
        at, before = self.at, self.at.stage_seconds
        with kind(self, name, stage, stream) as epochs:
            if resumed:
                assert self.keeper is not None and self.keeper.start is not None
                epochs.trainer.load_state(self.keeper.start.named("optimizer"), at.watch)
            while at.epoch < stage.epochs and not (
                plan.pairs and at.epoch - at.best_epoch >= stage.patience
            ):
                record = self._epoch(name, stage, epochs)
                self.outcome.records.append(record)
                at.end_epoch()
                at.stage_seconds = before + time.perf_counter() - started
                if plan.pairs and record.valid > at.best:
                    at.best, at.best_epoch = record.valid, at.epoch
                    self.best = {key: value.clone() for key, value in model.state_dict().items()}
                self.keep(epochs.trainer)
        if self.best:
            model.load_state_dict(self.best)
        self.outcome.stage = name
        self.outcome.seconds[name] = before + time.perf_counter() - started

    def keep(self, trainer: StageTrainer | ResidentTrainer) -> None:
        """Save a checkpoint if one is due, and stop if the keeper is told to.

        Raises:
            Interrupted: it is.
        """
        keeper, at = self.keeper, self.at
        if keeper is None:
            return
        signum = keeper.stopped()
        if signum is not None or (at.steps == 0 and keeper.due(at.epochs_done)):
            at.watch = trainer.watch.state
            Saved(at, self.best).save(keeper, self.outcome, trainer.state())
        if signum is not None:
            keeper.finish()
            raise Interrupted(signum, str(at))

    def _epoch(
        self, name: str, stage: StageConfig, epochs: _SteppedEpochs | _ResidentEpochs
    ) -> EpochRecord:
        epoch, size = self.at.epoch + 1, epochs.stream.epoch_size
        sums, seconds = epochs.run(epoch)
        valid = self._valid(name) if epochs.stream.plan.pairs else math.nan
        ranked = self.config.protocol == "recbole"
        record = EpochRecord(
            stage=name,
            epoch=epoch,
            loss=sum(sums.values()) / size,
            **{term: value / size for term, value in sums.items()},
            valid_auc=math.nan if ranked else valid,
            valid_mrr=valid if ranked else math.nan,
            seconds=seconds,
            samples_per_second=size / seconds,
        )
        rate = record.samples_per_second
        warning = stalled(record, stage)
        self.report(
            Progress(name, epoch, stage.epochs, size, size, record.loss, rate, record, warning)
        )
        return record

    def _valid(self, stage: str) -> float:
        """AUC, or MRR@10 under the protocol "recbole"."""
        model, prepared = self.outcome.model, self.prepared
        if self.config.protocol == "recbole":
            num_items = prepared.dataset.num_items
            scorer = catalogue_scorer(
                self.backend, model, self.scored_ripple, num_items, stage=stage
            )
            memory_mb = self.config.memory_mb
            return evaluate_ranking(scorer, prepared, (10,), memory_mb, "valid")[10]["mrr"]
        few = len(self.valid_rows.items) <= KEPT_PAIRS
        scores = score_rows(
            self.backend,
            model,
            self.scored_ripple,
            self.valid_rows,
            stage=stage,
            kept=self.valid_pairs if few else None,
        )
        return auc(prepared.valid.labels, scores)


class _SteppedEpochs:
    """Epochs of one stage, batch by batch."""

    def __init__(self, run: _Run, name: str, stage: StageConfig, stream: BatchStream) -> None:
        self._run, self._name, self._stage, self.stream = run, name, stage, stream
        self.trainer = StageTrainer(run.outcome.model, stage, run.backend, name)

    def __enter__(self) -> _SteppedEpochs:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, epoch: int) -> tuple[dict[str, float], float]:
        """The terms of the loss, summed over the pairs, and the seconds of the steps."""
        run, at, size = self._run, self._run.at, self.stream.epoch_size
        started = time.perf_counter() - at.epoch_seconds
        number = at.epochs_done + 1
        ripple, ahead = run.ripple_of(number), run.device.type != "cpu"
        for batch in self.stream.epoch(number, ripple, skip=at.steps, ahead=ahead):
            for term, value in self.trainer.step(batch.to(run.device)).items():
                at.sums[term] += value * batch.size
            # The last batch of an epoch of triples draws as many as the others.
            done = batch.num_pairs if self.stream.plan.pairs else batch.size
            at.passed += min(done, size - at.passed)
            at.steps += 1
            at.epoch_seconds = max(time.perf_counter() - started, 1e-9)
            loss, rate = sum(at.sums.values()) / at.passed, at.passed / at.epoch_seconds
            run.report(Progress(self._name, epoch, self._stage.epochs, at.passed, size, loss, rate))
            run.keep(self.trainer)
        return at.sums, time.perf_counter() - started


class _ResidentEpochs:
    """Epochs of one stage on a device; the host draws the next one while the device computes.

    A run that is told to stop does so at the end of an epoch.
    """

    def __init__(self, run: _Run, name: str, stage: StageConfig, stream: BatchStream) -> None:
        assert isinstance(run.outcome.model, EKPNet)
        self._run, self._stage, self.stream = run, stage, stream
        self.trainer = ResidentTrainer(
            run.outcome.model,
            stage,
            run.backend,
            stream,
            deep=name == "train",
            # The plain-torch specification waits for the device here and there.
            capture=run.device.type == "cuda" and run.backend is ops,
        )
        self._pool = ThreadPoolExecutor(1)
        self._ahead = self._pool.submit(self._prepare, run.at.epochs_done + 1, 0)

    def __enter__(self) -> _ResidentEpochs:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def _prepare(self, number: int, groups: int) -> HostEpoch:
        ripple = self._run.ripple_of(number)
        assert isinstance(ripple, RippleSets)  # drawn on demand only with folds
        pin = self._run.device.type == "cuda"
        return HostEpoch.prepare(self.stream, self._stage, ripple, number, groups, pin=pin)

    def run(self, epoch: int) -> tuple[dict[str, float], float]:
        """The terms of the loss, summed over the pairs, and the seconds of the steps."""
        started = time.perf_counter()
        host = self._ahead.result()
        if epoch < self._stage.epochs:
            groups = max(self.trainer.groups, host.group_users.shape[1])
            self._ahead = self._pool.submit(self._prepare, host.number + 1, groups)
        sums = self.trainer.epoch(host)
        return sums, time.perf_counter() - started
