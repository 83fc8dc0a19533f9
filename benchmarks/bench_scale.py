"""A training step on ever larger tables: it should cost what the batch costs, not the tables."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import memory
from benchmarks.compare import alternate, time_rounds
from benchmarks.stepping import BATCH_SIZE, Training
from benchmarks.workloads import Histories, power_law_graph, random_histories
from ekpnet_fast.config import ModelConfig, StageConfig
from ekpnet_fast.data import Rows
from ekpnet_fast.sampling import UserRows

SHAPE = ModelConfig(width=16, hops=2, slots=32, layers=3)
STAGE = StageConfig(lr=5e-3, lambda1=0.001, lambda2=1e-7, lambda3=1e-7, batch_size=BATCH_SIZE)
DEGREE, RELATIONS = 7, 12  # triples per entity and relations, about as in RippleNet's full graph
USERS, ITEMS = 6_000, 2_500  # about as in MovieLens-1M, at every size
SMALLEST = 10**5
SIZES = {"1e5": 10**5, "1e6": 10**6, "1e7": 10**7}
WARMUP = 10


def training(num_entities: int) -> Training:
    """The second stage. Items are spread evenly over the table and are the same at every size."""
    graph = power_law_graph(num_entities, DEGREE * num_entities, RELATIONS)
    clicked = random_histories(USERS, ITEMS)
    histories = Histories(clicked.indptr, clicked.entities * (num_entities // ITEMS))
    users = np.repeat(np.arange(USERS, dtype=np.int32), np.diff(clicked.indptr.numpy()))
    others = np.random.default_rng(3).permutation(histories.entities.numpy())
    rows = Rows(
        np.concatenate([users, users]),
        np.concatenate([histories.entities.numpy(), others]),
        np.repeat(np.array([1, 0], np.int8), len(users)),
    )
    by_user = UserRows.from_rows(rows, USERS)
    return Training(graph, histories, by_user, SHAPE, STAGE, backend="native", deep=True)


@pytest.fixture(scope="module")
def smallest() -> Training:
    return training(SMALLEST)


@pytest.fixture(params=SIZES)
def at_size(request: pytest.FixtureRequest) -> Iterator[Training]:
    memory.reset_peak()
    yield training(SIZES[request.param])


@pytest.mark.benchmark(group="step scale")
def test_step_scale(benchmark: BenchmarkFixture, at_size: Training, smallest: Training) -> None:
    """Time per step beside that at 10^5 entities, the rows that steps touch, and peak memory."""
    touched: list[int] = []

    def step() -> None:
        at_size()
        touched.append(len(at_size.batch.rows))

    time_rounds(benchmark, step, rounds=20, warmup=WARMUP)
    for _ in range(WARMUP):
        smallest()
    table = at_size.trainer.model.entity
    benchmark.extra_info["table_mb"] = round(table.nbytes / 2**20)
    benchmark.extra_info["rows_touched"] = round(mean(touched))
    benchmark.extra_info["peak_rss_mb"] = memory.peak_mb()
    comparison = alternate(smallest, step, rounds=15, calls=(5, 5))
    benchmark.extra_info.update(comparison.extra_info("time_over_1e5"))
