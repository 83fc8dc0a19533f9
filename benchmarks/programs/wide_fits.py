"""Fits of EKPNet+'s wide part by several processes: time and memory of each.

    python -m benchmarks.programs.wide_fits 1:10000:5000 2:10000:5000

A case is W:USERS:ITEMS. The data are drawn: users of 40 rows, half of them clicks, entities five
times as many as items, five triples each, inverse relations. Processes are forked from one that
has the data. Prints for each case the mean of its processes: CPU seconds of making and fitting the
model, MiB that it took at most and that it leaves, both beyond the data, and how many of these are
its tables: affinities, matrices of the graph, logits of the training examples, and parameters.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse  # noqa: F401  # here, once for all that are forked
import torch

import ekpnet_fast.training.parallel.group  # noqa: F401
from benchmarks.harness.memory import peak_mb, reset_peak, resident_mb
from benchmarks.harness.together import mean_of_processes
from benchmarks.programs.parts_training import drawn
from ekpnet_fast.config import ParallelConfig, RunConfig
from ekpnet_fast.models.build import build_model
from ekpnet_fast.models.ekpnet_plus import EKPNetPlus
from ekpnet_fast.runs.evaluate import prepare_run
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.training.data import TrainingData
from ekpnet_fast.training.parallel.launch import Launch

PARTS, ROWS_OF_A_USER = 4, 40


class Case(NamedTuple):
    """What is measured: W, and the size of the data."""

    processes: int
    users: int
    items: int


def main() -> None:
    """Measure the cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", type=_case, metavar="W:USERS:ITEMS")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("W:users:items clicks rows | CPU s, MiB at most, MiB left, MiB in tables")
    for case in options.cases:
        sizes = argparse.Namespace(users=case.users, entities=5 * case.items, clicks=ROWS_OF_A_USER)
        config = RunConfig(
            model="ekpnet_plus",
            folds=5,
            parallel=ParallelConfig(PARTS),
            ranking=False,
            threads=1,
            device="cpu",
        )
        data = TrainingData(*prepare_run(resolve(config), drawn(sizes)))
        training = data.training_examples
        clicks, rows = int(training.rows.labels.sum()), len(training.rows.labels)
        found = mean_of_processes(case.processes, partial(measured, data))
        print(":".join(map(str, case)), clicks, rows, "|", *(f"{x:.1f}" for x in found), flush=True)


def _case(text: str) -> Case:
    return Case(*map(int, text.split(":")))


def measured(data: TrainingData) -> list[float]:
    """CPU seconds, MiB at most, left, and in tables."""
    with Launch() as launch:
        world = launch.world(PARTS)
        before = resident_mb() or 0.0
        reset_peak()
        began = time.process_time()
        model = build_model(data.config, data.prepared, data.graph)
        model.fit_features(data.training_examples, world)
        seconds, most = time.process_time() - began, (peak_mb() or 0.0) - before
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        left = (resident_mb() or 0.0) - before
        assert isinstance(model, EKPNetPlus)
        held = [model.linear, model.state_dict()]
        tables = dict(tables_of(held, {id(model.linear._graph)}))
        return [seconds, most, left, sum(tables.values()) / 2**20]


def tables_of(value: Any, seen: set[int]) -> Iterator[tuple[int, int]]:
    """Addresses and bytes of the tensors and arrays that an object has, and the objects in it."""
    if id(value) in seen or isinstance(value, type):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value.data_ptr(), value.nbytes
    elif isinstance(value, np.ndarray):
        yield value.ctypes.data, value.nbytes
    elif isinstance(value, list | tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tables_of(each, seen)
    elif hasattr(value, "__dict__"):
        yield from tables_of(vars(value), seen)


if __name__ == "__main__":
    main()
