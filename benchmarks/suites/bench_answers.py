"""Latency of single answers: a recommendation list, an explanation, a change of the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness import goals
from benchmarks.harness.catalogues import with_drawn_items
from benchmarks.harness.compare import alternate, time_rounds
from benchmarks.harness.datasets import Setting, movielens, setting
from ekpnet_fast.models import build
from ekpnet_fast.recommender import Id, Recommender
from ekpnet_fast.recommender.store import state_of
from ekpnet_fast.runs.context_file import RunContext

GRAPHS = ("own graph", "drawn graph")
ANSWERS = 1000
K = 10
CANDIDATES = 20_000


@pytest.fixture(scope="module")
def recommenders(data_root: Path, need: Callable[[str], None]) -> dict[str, Recommender]:
    """Recommenders of MovieLens with its own graph, and with one of RippleNet's size; untrained."""
    need("movielens")
    settings = (setting("movielens-1m", data_root, "paper"), movielens(data_root))
    return {name: untrained(found) for name, found in zip(GRAPHS, settings, strict=True)}


@pytest.fixture(scope="module")
def trained(data_root: Path, need: Callable[[str], None]) -> Recommender:
    """Recommender of MovieLens, trained, because recall depends on the weights."""
    need("movielens")
    return Recommender.fit("movielens-1m", data_root=data_root, device="cpu")


def untrained(found: Setting) -> Recommender:
    """Make an untrained recommender: weights do not change the time of an answer."""
    graph, prepared = found.graph, found.prepared
    prepared = replace(
        prepared,
        dataset=replace(
            prepared.dataset,
            num_entities=graph.num_entities,
            num_relations=graph.num_relations // (2 if graph.inverse else 1),
            relation_names=None,
        ),
    )
    model = build.build_model(found.config, prepared, graph)
    return Recommender(state_of(found.config, RunContext.of(prepared, graph), model, "train"))


def histories(recommender: Recommender) -> list[list[Id]]:
    """Histories of as many users as there are answers, drawn once."""
    users = [user for user in recommender.user_ids() if recommender.history(user)]
    drawn = np.random.default_rng(0).permutation(len(users))[:ANSWERS]
    return [recommender.history(users[i]) for i in drawn.tolist()]


@contextmanager
def threads_of(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_latencies(benchmark: BenchmarkFixture, threads: int) -> None:
    """Write the 95th percentile beside the median."""
    info = benchmark.extra_info
    info["threads"] = threads
    if benchmark.stats is not None:
        info["p95_ms"] = float(np.percentile(benchmark.stats.stats.data, 95) * 1e3)


@pytest.mark.data
@pytest.mark.benchmark(group="the 10 best of 2,445 items for a history that training did not see")
@pytest.mark.parametrize("answer_threads", [1, 2])
@pytest.mark.parametrize("graph", GRAPHS)
def test_list(
    benchmark: BenchmarkFixture,
    recommenders: dict[str, Recommender],
    graph: str,
    answer_threads: int,
) -> None:
    """List from ids, with names and scores. The peer computes the same groups in eager torch."""
    recommender = recommenders[graph]
    state = recommender.state
    eager = Recommender(replace(state, config=replace(state.config, backend="reference")))
    some = cycle(histories(recommender))
    with threads_of(answer_threads):
        seconds = time_rounds(
            benchmark,
            lambda: recommender.recommend(history=next(some), k=K),
            rounds=ANSWERS,
            warmup=20,
        )
        comparison = alternate(
            lambda: recommender.recommend(history=next(some), k=K),
            lambda: eager.recommend(history=next(some), k=K),
            rounds=5,
            calls=(50, 10),
        )
    write_latencies(benchmark, answer_threads)
    comparison.write(benchmark.extra_info, "eager torch")
    if graph == GRAPHS[1] and answer_threads == 1:
        goals.reach(benchmark.extra_info, "list_median", seconds * 1e3)
        goals.reach(benchmark.extra_info, "list_p95", benchmark.extra_info["p95_ms"])


@pytest.mark.data
@pytest.mark.benchmark(group="the 10 best of 2,445 items by a wide part, 1 thread")
@pytest.mark.parametrize("model", ["linear", "ekpnet_plus"])
def test_list_by_a_wide_part(
    benchmark: BenchmarkFixture, data_root: Path, need: Callable[[str], None], model: str
) -> None:
    """List for a history that training did not see; what is fitted changes the work."""
    need("movielens")
    recommender = Recommender.fit(
        "movielens-1m", model, epochs=1, data_root=data_root, device="cpu"
    )
    some = cycle(histories(recommender))
    with threads_of(1):
        time_rounds(
            benchmark,
            lambda: recommender.recommend(history=next(some), k=K),
            rounds=ANSWERS,
            warmup=20,
        )
    write_latencies(benchmark, 1)


@pytest.mark.data
@pytest.mark.benchmark(
    group="the 10 best of many items, drawn around a trained MovieLens, 1 thread"
)
@pytest.mark.parametrize("items", [100_000, 1_000_000])
def test_many_items(benchmark: BenchmarkFixture, trained: Recommender, items: int) -> None:
    """List by 20,000 candidates, its recall, and the exact list that it stands for."""
    large = with_drawn_items(trained, items)
    with threads_of(1):
        start = perf_counter()
        large.prepare(CANDIDATES)
        built = perf_counter() - start
        users = cycle([user for user in large.user_ids() if large.history(user)])
        seconds = time_rounds(
            benchmark,
            lambda: large.recommend(user=next(users), k=K, candidates=CANDIDATES),
            rounds=200,
            warmup=5,
        )
        found = large.recall(CANDIDATES, 100, k=K)
    write_latencies(benchmark, 1)
    info = benchmark.extra_info
    index = large.state.index.of(large.state, CANDIDATES)
    info["recall"], info["lowest_recall"] = found.mean, found.lowest
    info["exact_ms"] = found.exact_seconds * 1e3
    info["index_seconds"], info["index_mb"] = built, index.bytes / 1e6
    info["tables_mb"] = sum(x.nbytes for x in large.state.tables.values()) / 1e6
    if items == 1_000_000:
        goals.reach(info, "list_million", seconds * 1e3)
        goals.reach(info, "list_million_recall", found.mean)


@pytest.mark.data
@pytest.mark.benchmark(group="the reasons for an item, a history that training did not see")
@pytest.mark.parametrize("graph", GRAPHS)
def test_reasons(
    benchmark: BenchmarkFixture, recommenders: dict[str, Recommender], graph: str
) -> None:
    """Reasons with every path of the ripple set masked once: 65 groups of one pair."""
    recommender = recommenders[graph]
    some, items = cycle(histories(recommender)), cycle(recommender.item_ids())
    with threads_of(1):
        time_rounds(
            benchmark,
            lambda: recommender.explain(history=next(some), item=next(items)),
            rounds=ANSWERS,
            warmup=20,
        )
    write_latencies(benchmark, 1)


@pytest.mark.data
@pytest.mark.benchmark(group="a triple is added and taken out again")
@pytest.mark.parametrize("graph", GRAPHS)
def test_change(
    benchmark: BenchmarkFixture, recommenders: dict[str, Recommender], graph: str
) -> None:
    """Change of the live graph, there and back, each over all triples."""
    live = recommenders[graph].graph

    def call() -> None:
        live.add_triples([(0, 0, 1)])
        live.remove_triples([(0, 0, 1)])

    with threads_of(1):
        time_rounds(benchmark, call, rounds=20, warmup=1)
    write_latencies(benchmark, 1)
    benchmark.extra_info["triples"] = live.num_triples
