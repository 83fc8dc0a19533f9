"""Training loop: a model's stages over mini-batches of user groups."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import PreparedData
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.models.build import build_model
from ekpnet_fast.native.device import resolve_device
from ekpnet_fast.ops.backends import BACKENDS
from ekpnet_fast.ops.threads import torch_on_one_thread
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.storage.checkpoint import CheckpointWriter
from ekpnet_fast.training.data import TrainingData
from ekpnet_fast.training.epochs import epochs_of
from ekpnet_fast.training.parallel.saved import SharedWriter
from ekpnet_fast.training.parallel.tables import SharedTables
from ekpnet_fast.training.parallel.world import World
from ekpnet_fast.training.progress import Outcome, Progress
from ekpnet_fast.training.stages import Stages
from ekpnet_fast.training.validation import Validation


def train(
    config: RunConfig,
    prepared: PreparedData,
    graph: Graph,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    writer: CheckpointWriter | None = None,
    *,
    validate: bool = True,
    world: World | None = None,
) -> Outcome:
    """Train the model's stages; of each, the weights that are best on validation are kept.

    Args:
        config: a resolved run.
        prepared: the split data.
        graph: its knowledge graph, with inverse relations if the run has them.
        on_progress: called after each batch and each epoch.
        writer: writes checkpoints, and has the one to go on from.
        validate: whether epochs are validated; without, each stage's last weights are kept.
        world: the processes that share the parts of mini-batches, and the users to validate. Each
            has a part of the model's tables while it trains; all return a whole model.

    Raises:
        TrainingError: no training examples, no triples for stages of triples alone, or a loss that
            is not finite or diverges.
        Interrupted: the run was stopped, and the writer has a checkpoint of that position.
    """
    _check_examples(prepared)
    device, backend = resolve_device(config.device), BACKENDS[config.backend]
    world = world or World()
    data = TrainingData(config, prepared, graph)
    outcome = _untrained(data, device, world)
    model, tables = outcome.model, None
    if config.parallel.parts > 1:
        tables = SharedTables(model, world, config.parallel.parts)
    shared: CheckpointWriter | SharedWriter | None = writer
    if tables is not None and writer is not None:
        shared = SharedWriter(writer, tables)
    stages = Stages(config, outcome, on_progress, shared, validate=validate)
    validation = None
    if validate and model.stages:
        validation = Validation(data, model, backend, device, world)
        outcome.validated_users = validation.users
    left = stages.left()
    if model.stages and not left and not graph.num_triples:
        raise TrainingError(
            f"{prepared.dataset.name} has no triples, by which alone {config.model} learns in the"
            " stages that have epochs, expected epochs of a stage of pairs"
        )
    for name in left:
        stream = data.stream(model, name)
        numbers = stages.enter(name, stream)
        score = partial(_scored, validation, tables, name)
        if validate:
            stages.start(score)
        with (
            torch_on_one_thread() as threads,
            epochs_of(
                model, name, data, stream, numbers, backend, device, threads, tables
            ) as epochs,
        ):
            for number in stages.epochs(epochs.state):
                for passed in epochs.run(number, skip=stages.at.steps):
                    stages.add(passed)
                valid = math.nan
                if validate and stream.plan.pairs:
                    valid = score()
                stages.end_epoch(valid)
        stages.leave()
    if tables is not None:
        if shared is not None:
            shared.finish()
        tables.make_whole()
    if not model.stages:
        model.fit(prepared)
    return outcome


def _scored(validation: Validation | None, tables: SharedTables | None, stage: str) -> float:
    """Validation measure of a stage's prediction; all processes ask for it, and all get it."""
    with nullcontext() if tables is None else tables.whole():
        return math.nan if validation is None else validation.score(stage)


def _check_examples(prepared: PreparedData) -> None:
    if len(prepared.train) == 0 or len(prepared.valid) == 0:
        raise TrainingError(
            f"{prepared.dataset.name}: {len(prepared.train)} training and {len(prepared.valid)}"
            " validation rows are left, expected some of each: every user needs a train positive"
        )


def _untrained(data: TrainingData, device: torch.device, world: World) -> Outcome:
    """Outcome with an untrained model, its features fitted to the training examples."""
    started = time.perf_counter()
    if world.size == 1:
        _ = data.ripple  # drawn here, so that its time counts as sampling
    sampled = time.perf_counter()
    model = build_model(data.config, data.prepared, data.graph).to(device)
    outcome = Outcome(model, stage="")
    model.fit_features(data.training_examples, world)
    outcome.seconds["sampling"] = sampled - started
    outcome.seconds["fit_features"] = time.perf_counter() - sampled
    return outcome
