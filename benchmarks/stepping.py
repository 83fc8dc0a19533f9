"""The package's training step as `ekpnet_fast.training` runs it: a batch of the stream, a step."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, count

from benchmarks.workloads import Histories, Setting
from ekpnet_fast.config import ModelConfig, RunConfig, StageConfig
from ekpnet_fast.graph import Graph
from ekpnet_fast.models.ekpnet import EKPAtt, EKPNet
from ekpnet_fast.sampling import Batch, BatchStream, RippleSets, Source, UserRows
from ekpnet_fast.training import BACKENDS, StageTrainer, rows_by_user

BATCH_SIZE = 8192


class Training:
    """A stage under way; calling it waits for the next batch and does one step with it.

    Attributes:
        batch: what the last step worked on.
        trainer: the stage and its model.
    """

    batch: Batch

    def __init__(
        self,
        graph: Graph,
        histories: Histories,
        rows: UserRows,
        shape: ModelConfig,
        stage: StageConfig,
        *,
        backend: str,
        deep: bool,
    ) -> None:
        sets = RippleSets.sample(
            graph,
            histories.indptr,
            histories.entities,
            hops=shape.hops,
            slots=shape.slots,
            seed=0,
        )
        stream = BatchStream(
            graph,
            rows,
            batch_size=stage.batch_size,
            group_size=stage.group_size,
            triples=stage.triples,
            seed=0,
        )
        # Items are entities; how many of them are does not matter to a step.
        sizes = histories.num_users, graph.num_entities
        source = Source(graph, *sizes, histories.indptr, histories.entities, seed=0)
        model = (EKPNet if deep else EKPAtt)(RunConfig(shape=shape), source)
        name = "train" if deep else "pretrain"
        self.trainer = StageTrainer(model, stage, BACKENDS[backend], name)
        self._batches = chain.from_iterable(stream.epoch(epoch, sets) for epoch in count())

    @classmethod
    def of(cls, setting: Setting, *, backend: str = "native", deep: bool = True) -> Training:
        """The second stage of a setting, or the first, with large batches."""
        config = setting.config
        return cls(
            setting.graph,
            setting.histories,
            rows_by_user(setting.prepared.train, setting.prepared),
            config.shape,
            replace(config.train if deep else config.pretrain, batch_size=BATCH_SIZE),
            backend=backend,
            deep=deep,
        )

    def __call__(self) -> int:
        """One step; returns its number of pairs."""
        self.batch = next(self._batches)
        self.trainer.step(self.batch)
        return self.batch.num_pairs
