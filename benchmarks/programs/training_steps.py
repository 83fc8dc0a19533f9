"""Training steps as `ekpnet_fast.training` runs them: a batch of the stream, a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from types import ModuleType, SimpleNamespace

from benchmarks.harness.datasets import Histories, Setting
from ekpnet_fast import ops
from ekpnet_fast.config import ModelConfig, RunConfig, StageConfig
from ekpnet_fast.evaluation.scoring import examples_by_user
from ekpnet_fast.models.ekpnet import EKPAtt, EKPNet
from ekpnet_fast.ops.threads import num_threads, torch_on_one_thread
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.examples import UserExamples
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.pairs import Batch, TrainContext
from ekpnet_fast.sampling.ripple_sets import RippleSets
from ekpnet_fast.training.step import StageTrainer

BATCH_SIZE = 8192


class Training:
    """Training of one stage; calling it waits for the next batch and does one step with it.

    Each epoch draws ripple sets anew, as a run does: its first step pays for that.

    Attributes:
        batch: of the last step.
        trainer: the stage and its model.
        steps_per_epoch: about.
    """

    batch: Batch

    def __init__(
        self,
        graph: Graph,
        histories: Histories,
        examples: UserExamples,
        shape: ModelConfig,
        stage: StageConfig,
        *,
        backend: ModuleType | SimpleNamespace,
        deep: bool,
    ) -> None:
        stream = BatchStream(
            graph,
            examples,
            batch_size=stage.batch_size,
            group_size=stage.group_size,
            triples=stage.triples,
            seed=0,
        )
        # Items are entities; how many of them are does not matter to a step.
        sizes = histories.num_users, graph.num_entities
        source = TrainContext(graph, *sizes, histories.indptr, histories.entities, seed=0)
        model = (EKPNet if deep else EKPAtt)(RunConfig(shape=shape), source)
        name = "train" if deep else "pretrain"
        self.trainer = StageTrainer(model, stage, backend, name)  # type: ignore[arg-type]
        self.steps_per_epoch = max(1, len(examples.items) // stage.batch_size)

        def batches() -> Iterator[Batch]:
            for epoch in count():
                sets = RippleSets.sample(
                    graph,
                    histories.indptr,
                    histories.entities,
                    hops=shape.hops,
                    slots=shape.slots,
                    seed=0,
                    epoch=epoch,
                )
                yield from stream.epoch(epoch, sets, ahead=num_threads() > 1)

        self._batches = batches()

    @classmethod
    def of(
        cls,
        setting: Setting,
        *,
        backend: ModuleType | SimpleNamespace = ops,
        deep: bool = True,
        batch_size: int = BATCH_SIZE,
    ) -> Training:
        """Training of the second stage of a setting, or of the first, with large batches."""
        config = setting.config
        return cls(
            setting.graph,
            setting.histories,
            examples_by_user(setting.prepared.train, setting.prepared),
            config.shape,
            replace(config.train if deep else config.pretrain, batch_size=batch_size),
            backend=backend,
            deep=deep,
        )

    def __call__(self) -> int:
        """Run one step; returns its number of pairs."""
        with torch_on_one_thread():
            self.batch = next(self._batches)
            self.trainer.step(self.batch)
        return self.batch.num_pairs


class BothStages:
    """Training of both stages: a step of the first, then one of the second, per call."""

    def __init__(
        self,
        setting: Setting,
        backend: ModuleType | SimpleNamespace = ops,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.stages = [
            Training.of(setting, backend=backend, deep=deep, batch_size=batch_size)
            for deep in (False, True)
        ]

    @property
    def steps_per_epoch(self) -> int:
        """Calls that go once over the training examples in each stage."""
        return self.stages[0].steps_per_epoch

    def __call__(self) -> int:
        return sum(stage() for stage in self.stages)
