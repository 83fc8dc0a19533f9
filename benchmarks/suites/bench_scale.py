"""Scaling: time and memory by number of entities and of triples."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness import goals, memory
from benchmarks.harness.compare import alternate, time_rounds, write_rates
from benchmarks.harness.datasets import Histories, power_law_graph, random_histories
from benchmarks.harness.operation_counts import ripple_bytes
from benchmarks.programs.samplers import native, numba_parallel
from benchmarks.programs.training_steps import BATCH_SIZE, Training
from ekpnet_fast import ops
from ekpnet_fast.config import ModelConfig, StageConfig
from ekpnet_fast.data import Examples
from ekpnet_fast.sampling.examples import UserExamples
from ekpnet_fast.sampling.graph import Graph

SHAPE = ModelConfig(width=16, hops=2, slots=32, layers=3)
STAGE = StageConfig(lr=5e-3, lambda1=0.001, lambda2=1e-7, lambda3=1e-7, batch_size=BATCH_SIZE)
DEGREE, RELATIONS = 7, 12  # triples per entity and relations, about as in RippleNet's full graph
USERS, ITEMS = 6_000, 2_500  # about as in MovieLens-1M, at every size
FEWEST = 10**5
ENTITIES = {"1e5": 10**5, "1e6": 10**6, "1e7": 10**7}
WARMUP = 10


def training(num_entities: int) -> Training:
    """Training of the second stage on items spread evenly over the table, the same at any size."""
    graph = power_law_graph(num_entities, DEGREE * num_entities, RELATIONS)
    clicked = random_histories(USERS, ITEMS)
    histories = Histories(clicked.indptr, clicked.entities * (num_entities // ITEMS))
    users = np.repeat(np.arange(USERS, dtype=np.int32), np.diff(clicked.indptr.numpy()))
    others = np.random.default_rng(3).permutation(histories.entities.numpy())
    examples = Examples(
        np.concatenate([users, users]),
        np.concatenate([histories.entities.numpy(), others]),
        np.repeat(np.array([1, 0], np.int8), len(users)),
    )
    by_user = UserExamples.from_examples(examples, USERS)
    return Training(graph, histories, by_user, SHAPE, STAGE, backend=ops, deep=True)


@pytest.fixture(params=ENTITIES)
def entities(request: pytest.FixtureRequest) -> Iterator[str]:
    memory.reset_peak()
    yield request.param


@pytest.mark.benchmark(group="training step and number of entities")
def test_entities(benchmark: BenchmarkFixture, entities: str) -> None:
    """Step by number of entities, beside that at 10^5; rows that it touches, and peak memory."""
    size = ENTITIES[entities]
    ours = training(size)
    touched: list[int] = []

    def step() -> None:
        ours()
        touched.append(len(ours.batch.rows))

    seconds = time_rounds(benchmark, step, rounds=20, warmup=WARMUP)
    info = benchmark.extra_info
    write_rates(info, seconds, samples=BATCH_SIZE)
    info["entities"] = size
    info["rows_touched"] = round(mean(touched))
    info["table_mb"] = round(ours.trainer.model.entity.nbytes / 2**20)
    info["peak_mb"] = memory.peak_mb()
    fewest = training(FEWEST)
    for _ in range(WARMUP):
        fewest()
    comparison = alternate(fewest, step, rounds=15, calls=(5, 5))
    info["time_over_1e5"] = round(comparison.ratio, 3)
    if size == max(ENTITIES.values()):
        goals.reach(info, "scale", comparison)


SAMPLED_USERS = 20_000
FEWEST_TRIPLES = 10**6
TRIPLES = {"1e6": 10**6, "1e7": 10**7, "1e8": 10**8}
# Users click either items, which are the first entities and 1 in 75 of them as in MovieLens-1M, or
# any entity, so that hardly a read hits a cache.
ITEM_SHARE = {"items": 75, "anything": 1}


def scale_graph(num_triples: int) -> Graph:
    return power_law_graph(num_triples // 10, num_triples, 12)


@pytest.fixture(scope="module")
def fewest_triples() -> Graph:
    return scale_graph(FEWEST_TRIPLES)


@pytest.fixture(params=TRIPLES)
def triples(request: pytest.FixtureRequest, large: bool) -> Iterator[str]:
    if request.param == "1e8" and not large:
        pytest.skip("10^8 triples take 3 GB and a minute: ask with --large")
    yield request.param


@pytest.mark.benchmark(group="ripple sets and number of triples")
@pytest.mark.parametrize("clicked", ITEM_SHARE)
def test_triples(
    benchmark: BenchmarkFixture, triples: str, clicked: str, fewest_triples: Graph
) -> None:
    """Ripple sets by number of triples, beside the smallest graph and numba; samples are users."""

    def histories(graph: Graph) -> Histories:
        return random_histories(SAMPLED_USERS, graph.num_entities // ITEM_SHARE[clicked])

    memory.reset_peak()
    graph = scale_graph(TRIPLES[triples])
    clicks = histories(graph)
    sampler = native(graph, clicks)
    counts = sampler.call()[3]
    seconds = time_rounds(benchmark, sampler.call, rounds=10, warmup=2)
    info = benchmark.extra_info
    num_bytes = ripple_bytes(counts, clicks.entities)
    write_rates(info, seconds, samples=SAMPLED_USERS, num_bytes=num_bytes)
    info["triples"] = graph.num_triples
    info["graph_mb"] = round(
        sum(x.nbytes for x in (graph.indptr, graph.relations, graph.tails)) / 2**20
    )
    info["peak_mb"] = memory.peak_mb()
    base = native(fewest_triples, histories(fewest_triples))
    info["time_over_1e6"] = round(
        alternate(base.call, sampler.call, rounds=9, calls=(5, 5)).ratio, 3
    )
    peer = numba_parallel(graph, clicks)
    alternate(sampler.call, peer.call, rounds=9, calls=(4, 2)).write(info, "numba parallel")
