"""Training of a run: once to choose the epochs, and with `--refit` again on all of train."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import PreparedData
from ekpnet_fast.data.splits import with_validation
from ekpnet_fast.models import MODELS
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.storage.checkpoint import CheckpointWriter
from ekpnet_fast.training import loop
from ekpnet_fast.training.parallel.world import World
from ekpnet_fast.training.progress import EpochRecord, Outcome, Progress, records_as_dicts

__all__ = ["Fitted", "chosen_epochs", "fit_run"]


@dataclass(frozen=True)
class Fitted:
    """Trained model of a run.

    Attributes:
        outcome: of the last training; its records are those of the first, which chose the epochs.
        prepared: what the model was trained on.
        refit: with `--refit` the epochs of each stage and the records of training them, else None.
    """

    outcome: Outcome
    prepared: PreparedData
    refit: dict[str, Any] | None


def fit_run(
    config: RunConfig,
    prepared: PreparedData,
    graph: Graph,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    writer: CheckpointWriter | None = None,
    check: Callable[[], None] = lambda: None,
    world: World | None = None,
) -> Fitted:
    """Train a run's model.

    With `--refit` an untrained model is then trained on train and validation together, each stage
    for the epochs that were best on validation; no checkpoint is written of it. A model without
    epochs is trained on them at once.

    Args:
        config: a resolved run.
        prepared: its split data.
        graph: its graph.
        on_progress: called after each batch and each epoch; the second training is stage "refit".
        writer: writes checkpoints of the first training.
        check: called after each batch of the second training; raises to stop it.
        world: the processes that share the work, as for `loop.train`.

    Raises:
        TrainingError, Interrupted: as `loop.train`.
    """
    if config.refit and not MODELS[config.model].stages:  # there are no epochs to choose
        data = with_validation(prepared)
        only = loop.train(config, data, graph, on_progress, writer, validate=False)
        return Fitted(only, data, {"epochs": {}, "records": []})
    outcome = loop.train(config, prepared, graph, on_progress, writer, world=world)
    if not config.refit:
        return Fitted(outcome, prepared, None)

    def on_refit(progress: Progress) -> None:
        check()
        on_progress(replace(progress, stage="refit"))

    epochs = chosen_epochs(outcome.records)
    stages: dict[str, Any] = {
        name: replace(getattr(config, name), epochs=count) for name, count in epochs.items()
    }
    records, validated_users, seconds = outcome.records, outcome.validated_users, outcome.seconds
    del outcome  # whose model would take memory beside the one that is made now
    data = with_validation(prepared)
    started = time.perf_counter()
    again = replace(config, **stages)
    last = loop.train(again, data, graph, on_refit, validate=False, world=world)
    refit = {"epochs": epochs, "records": records_as_dicts(last.records)}
    last.records, last.validated_users = records, validated_users
    last.seconds = {**seconds, "refit": time.perf_counter() - started}
    return Fitted(last, data, refit)


def chosen_epochs(records: Sequence[EpochRecord]) -> dict[str, int]:
    """Number of epochs of each stage that was best on validation; all of one without validation."""
    found = {}
    for stage in dict.fromkeys(record.stage for record in records):
        of_stage = [record for record in records if record.stage == stage]
        known = [record for record in of_stage if not math.isnan(record.valid)]
        best = max(known, key=lambda record: record.valid) if known else of_stage[-1]
        found[stage] = best.epoch
    return found
