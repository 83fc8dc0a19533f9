"""Small training: its options, its data, a whole run, a trainer of an untrained model."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ekpnet_fast import ops
from ekpnet_fast.config import ModelConfig, RunConfig, SamplingConfig, StageConfig
from ekpnet_fast.data import SyntheticConfig, make_synthetic, prepare
from ekpnet_fast.evaluation import scoring
from ekpnet_fast.models import build
from ekpnet_fast.models.base import Model
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.ripple_sets import FoldRippleSets, RippleSets
from ekpnet_fast.training import loop, step
from ekpnet_fast.training.cuda_graph import ResidentTrainer
from ekpnet_fast.training.data import TrainingData
from ekpnet_fast.training.fixed_shapes import HostEpoch

SYNTHETIC = SyntheticConfig(
    users=60, items=80, positives=10, attributes=16, parents=4, triples=435, item_links=4
)
STAGE = StageConfig(
    epochs=2, batch_size=64, group_size=8, lr=0.02, lambda1=0.01, lambda2=1e-3, lambda3=1e-3,
    triples=32,
)  # fmt: skip
CONFIG = RunConfig(
    shape=ModelConfig(width=6, hops=2, slots=8, layers=3),
    pretrain=STAGE,
    train=replace(STAGE, lr=0.01),
    sampling=SamplingConfig(inverse=True, resample=False),
    synthetic=SYNTHETIC,
    ranking=False,
)
PLUS = replace(CONFIG, model="ekpnet_plus", folds=3)
LISTS = replace(
    CONFIG,
    protocol="recbole",
    ranking=True,
    pretrain=replace(STAGE, loss="softmax"),
    train=replace(STAGE, lr=0.01, loss="softmax"),
)
HARD = replace(LISTS, sampling=replace(LISTS.sampling, hard_share=0.5))


def load(config, change=lambda dataset: dataset):
    dataset = change(make_synthetic(config.synthetic))
    prepared = prepare(dataset, config.seed, config.protocol)
    return prepared, Graph.from_dataset(dataset, inverse=config.sampling.inverse)


def train(config, on_progress=lambda progress: None):
    return loop.train(config, *load(config), on_progress)


class Untrained(NamedTuple):
    """Untrained model, with mini-batches of 24 pairs of its last stage."""

    model: Model
    graph: Graph
    stream: BatchStream
    ripple: RippleSets | FoldRippleSets

    def batches(self):
        """Those of the first epoch."""
        return self.stream.epoch(1, self.ripple)

    def batch(self):
        """The first one."""
        return next(iter(self.batches()))


def untrained(config, *, triples=0):
    config = resolve(config)
    prepared, graph = load(config)
    model = build.build_model(config, prepared, graph)
    stream = BatchStream(
        graph,
        scoring.examples_by_user(prepared.train, prepared),
        batch_size=24,
        group_size=4,
        triples=triples,
        seed=0,
        reads=model.reads,
        plan=model.plan(config, "train"),
    )
    return Untrained(model, graph, stream, build.sample_ripple_sets(config, graph, prepared))


def start(config, deep, backend=ops):
    """Make a trainer of an untrained model, its stream of batches, and its ripple sets."""
    config = resolve(config)
    data = TrainingData(config, *load(config))
    model = build.build_model(config, data.prepared, data.graph)
    model.fit_features(data.training_examples)
    name = "train" if deep else "pretrain"
    trainer = step.StageTrainer(model, getattr(config, name), backend, name)
    return trainer, data.stream(model, name), data.ripple_sets(1)


def start_resident(config, deep, backend=ops, device="cpu", capture=False):
    """A resident trainer of an untrained model, its stream and its ripple sets."""
    untrained, stream, ripple = start(config, deep)
    trainer = ResidentTrainer(
        untrained.model.to(device),
        untrained.stage,
        backend,
        stream,
        untrained.name,
        capture=capture,
    )
    return trainer, ripple


def train_resident(trainer, ripple, epochs):
    """The terms of the loss of each epoch, summed over its pairs."""
    return [
        trainer.epoch(HostEpoch.prepare(trainer.stream, trainer.stage, ripple, number))
        for number in range(1, epochs + 1)
    ]
