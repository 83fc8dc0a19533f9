"""Training by parts on drawn data: CPU time of a step in each of the processes that share it.

    python -m benchmarks.programs.parts_training 2:1:4096 2:2:4096

A case is P:W:PAIRS, the parts of a mini-batch, the processes, and its pairs. EKPNet, width 16, 32
slots, 2 hops, 512 triples; a table of rows for all entities. The cases take turns, in processes
forked from one that has the data, because a machine's speed changes from minute to minute. Prints
for each case the mean of its processes in each round: the median CPU milliseconds of a step, all
threads counted. Then medians of the rounds: of these, their shares in the kernel and outside of
the main thread, milliseconds by the clock, bytes sent in a step, memory beyond the data; and of the
CPU time of all processes for a pair, as a multiple of the first case's in the same round.
"""

from __future__ import annotations

import argparse
import resource
import time
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch

# What a process imports late is imported here, once for all that are forked.
import ekpnet_fast.training.parallel.group  # noqa: F401
from benchmarks.harness.together import mean_of_processes
from ekpnet_fast.config import ModelConfig, ParallelConfig, RunConfig, StageConfig
from ekpnet_fast.data import Dataset, PreparedData
from ekpnet_fast.data.tables import Examples
from ekpnet_fast.runs.evaluate import prepare_run
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.training import loop
from ekpnet_fast.training.parallel.backend import check_backend
from ekpnet_fast.training.parallel.launch import Launch

Data = tuple[RunConfig, PreparedData, Graph]

SKIPPED = 10  # steps at first, which touch memory for the first time
RELATIONS, TRIPLES_OF_AN_ENTITY = 50, 5


class Case(NamedTuple):
    """What is measured: P, W, and the pairs of a mini-batch."""

    parts: int
    processes: int
    pairs: int


def main() -> None:
    """Measure the cases in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", type=_case, metavar="P:W:PAIRS")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--table", default="rows")
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--clicks", type=int, default=40)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = drawn(options)

    @cache
    def data(parts: int, pairs: int) -> Data:
        stage = StageConfig(epochs=1, batch_size=pairs, lr=0.01, triples=512)
        config = RunConfig(
            shape=ModelConfig(width=16, hops=2, slots=32),
            pretrain=replace(stage, epochs=0),
            train=stage,
            parallel=ParallelConfig(parts, options.table, options.optimizer),
            ranking=False,
            threads=1,
            device="cpu",
        )
        return prepare_run(resolve(config), dataset)

    found: dict[Case, list[np.ndarray]] = {case: [] for case in options.cases}
    for _ in range(options.rounds):
        for case, rounds in found.items():
            work = partial(measured, case, data(case.parts, case.pairs), options.steps)
            rounds.append(mean_of_processes(case.processes, work))
    print("P:W:pairs  CPU ms a step | median in kernel other threads clock MB sent MiB | a pair")
    a_pair = {
        case: np.array(rounds)[:, 0] * case.processes / case.pairs for case, rounds in found.items()
    }
    first = a_pair[options.cases[0]]
    for case, rounds in found.items():
        cpu, kernel, main_thread, clock, sent, more = np.median(rounds, axis=0)
        print(
            ":".join(map(str, case)),
            *(f"{of_round[0]:.2f}" for of_round in rounds),
            f"| {cpu:.2f} {kernel:.2f} {cpu - main_thread:.2f} {clock:.2f}",
            f"{sent:.2f} {more:.0f} | {np.median(a_pair[case] / first):.3f}",
            flush=True,
        )


def _case(text: str) -> Case:
    return Case(*map(int, text.split(":")))


def measured(case: Case, data: Data, steps: int) -> list[float]:
    """CPU ms of a step, in the kernel, of the main thread; ms by the clock; MB sent; MiB."""
    before = _usage().ru_maxrss
    with Launch() as launch:
        world = launch.world(case.parts)
        check_backend(data[0].parallel, world.size)
        marks = []

        def on_progress(progress: object) -> None:
            times = time.process_time(), _usage().ru_stime, time.thread_time(), time.perf_counter()
            marks.append((*times, world.sent))
            if len(marks) > steps + SKIPPED:
                raise StopIteration

        with suppress(StopIteration):
            loop.train(*data, on_progress, validate=False, world=world)
    passed = np.diff(np.array(marks)[SKIPPED:], axis=0)
    cpu, kernel, main_thread, clock, sent = np.median(passed, axis=0)
    kernel = passed[:, 1].mean()  # counted in ticks
    more = (_usage().ru_maxrss - before) / 1024
    return [1e3 * cpu, 1e3 * kernel, 1e3 * main_thread, 1e3 * clock, sent / 1e6, more]


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


def _usage() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_SELF)


if __name__ == "__main__":
    main()
