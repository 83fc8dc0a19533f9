"""Training by parts on drawn data: CPU time of a step in one of the processes that share it.

    torchrun --standalone --nproc-per-node 2 -m benchmarks.programs.parts_training --parts 2

Without torchrun it is one process. EKPNet, width 16, 32 slots, 2 hops, 512 triples; a table of rows
for all entities. Prints on each process the median CPU milliseconds of a step, all its threads
counted, those of the clock, the bytes that it sent in a step, and the memory beyond the data.
"""

from __future__ import annotations

import argparse
import resource
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch

from ekpnet_fast.config import ModelConfig, ParallelConfig, RunConfig, StageConfig
from ekpnet_fast.data import Dataset
from ekpnet_fast.data.tables import Examples
from ekpnet_fast.runs.evaluate import prepare_run
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.training import loop
from ekpnet_fast.training.parallel.backend import check_backend
from ekpnet_fast.training.parallel.launch import Launch

SKIPPED = 10  # steps at first, which touch memory for the first time
RELATIONS, TRIPLES_OF_AN_ENTITY = 50, 5


def main() -> None:
    """Train one epoch, or as many steps as asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--table", default="rows")
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--clicks", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    stage = StageConfig(epochs=1, batch_size=options.pairs, lr=0.01, triples=512)
    config = RunConfig(
        shape=ModelConfig(width=16, hops=2, slots=32),
        pretrain=replace(stage, epochs=0),
        train=stage,
        parallel=ParallelConfig(options.parts, options.table, options.optimizer),
        ranking=False,
        threads=1,
        device="cpu",
    )
    data = prepare_run(resolve(config), drawn(options))
    before = _peak()
    with Launch() as launch:
        world = launch.world(options.parts)
        check_backend(config.parallel, world.size)
        marks: list[tuple[float, float, int]] = []

        def on_progress(progress: object) -> None:
            marks.append((time.process_time(), time.perf_counter(), world.sent))
            if len(marks) > options.steps + SKIPPED:
                raise StopIteration

        with suppress(StopIteration):
            loop.train(*data, on_progress, validate=False, world=world)
        cpu, clock, sent = np.diff(np.array(marks)[SKIPPED:], axis=0).T
        print(
            f"process {world.rank} of {world.size}, P {options.parts}, {options.table}: median of"
            f" {len(cpu)} steps {np.median(cpu) * 1e3:.2f} ms CPU, {np.median(clock) * 1e3:.2f} ms,"
            f" {np.median(sent) / 1e6:.2f} MB sent, {_peak() - before:.0f} MiB more",
            flush=True,
        )


def drawn(options: argparse.Namespace) -> Dataset:
    """Data set of users who click anywhere, and a graph with heavy-tailed tails."""
    stream = np.random.default_rng(0)
    entities, items, count = options.entities, options.entities // 5, options.clicks * options.users

    def ids(limit: int, n: int, power: float = 1.0) -> np.ndarray:
        return (limit * stream.random(n) ** power).astype(np.int32)

    users = np.repeat(np.arange(options.users, dtype=np.int32), options.clicks)
    clicks = Examples(users, ids(items, count), ids(2, count).astype(np.int8))
    triples = entities * TRIPLES_OF_AN_ENTITY
    graph = ids(entities, triples), ids(RELATIONS, triples), ids(entities, triples, power=2.0)
    counts = options.users, items, entities, RELATIONS
    return Dataset("drawn", clicks, None, *graph, *counts)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
