"""Ripple sets: the native sampler, the same in numba, and RippleNet's Python loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import memory
from benchmarks.compare import alternate, time_rounds
from benchmarks.peers import numba_sampler, ripplenet_loop
from benchmarks.workloads import Histories, Setting, power_law_graph, random_histories
from ekpnet_fast import ops
from ekpnet_fast.graph import Graph

HOPS, SLOTS, SEED = 2, 32, 1
LOOP_USERS = slice(None, None, 12)  # the loop is timed on a subset: it takes a second for all


@dataclass(frozen=True, slots=True, eq=False)
class Sampler:
    """A call that draws the ripple sets of `num_users` users."""

    call: Callable[[], Any]
    num_users: int


def native(graph: Graph, histories: Histories) -> Sampler:
    """`ekpnet_fast.ops`."""

    def call() -> Any:
        return ops.sample_ripple_sets(
            graph.indptr,
            graph.relations,
            graph.tails,
            histories.indptr,
            histories.entities,
            hops=HOPS,
            slots=SLOTS,
            seed=SEED,
        )

    return Sampler(call, histories.num_users)


def numba_parallel(graph: Graph, histories: Histories) -> Sampler:
    """The same algorithm compiled by numba."""
    arrays = [
        tensor.numpy()
        for tensor in (
            graph.indptr,
            graph.relations,
            graph.tails,
            histories.indptr,
            histories.entities,
        )
    ]

    def call() -> Any:
        return numba_sampler.sample_ripple_sets(*arrays, hops=HOPS, slots=SLOTS, seed=SEED)

    return Sampler(call, histories.num_users)


def python_loop(graph: Graph, histories: Histories) -> Sampler:
    """RippleNet's published way."""
    indptr = graph.indptr.numpy()
    heads = np.repeat(np.arange(graph.num_entities, dtype=np.int32), np.diff(indptr))
    columns = [heads, graph.relations.numpy().astype(np.int32), graph.tails.numpy()]
    by_head = ripplenet_loop.graph_of(np.stack(columns, axis=1))
    users = np.arange(histories.num_users, dtype=np.int32)
    owners = np.repeat(users, np.diff(histories.indptr.numpy()))
    clicked = ripplenet_loop.histories_of(owners, histories.entities.numpy())
    some = list(clicked)[LOOP_USERS]

    def call() -> Any:
        return ripplenet_loop.sample_ripple_sets(by_head, clicked, some, HOPS, SLOTS)

    return Sampler(call, len(some))


PEERS = {"numba": numba_parallel, "ripplenet_loop": python_loop}


def measure(benchmark: BenchmarkFixture, sampler: Sampler, rounds: int) -> None:
    seconds = time_rounds(benchmark, sampler.call, rounds=rounds, warmup=2)
    benchmark.extra_info["users_per_s"] = sampler.num_users / seconds


def versus(ours: Sampler, peer: Sampler, label: str, **options: Any) -> dict[str, Any]:
    comparison = alternate(ours.call, peer.call, work=(ours.num_users, peer.num_users), **options)
    return comparison.extra_info(label)


@pytest.mark.data
@pytest.mark.benchmark(group="sampler movielens")
def test_movielens(benchmark: BenchmarkFixture, movielens: Setting) -> None:
    sampler = native(movielens.graph, movielens.histories)
    measure(benchmark, sampler, rounds=100)
    benchmark.extra_info["history_mean"] = round(
        len(movielens.histories.entities) / sampler.num_users, 1
    )


@pytest.mark.data
@pytest.mark.benchmark(group="sampler movielens")
@pytest.mark.parametrize("peer", PEERS)
def test_movielens_peer(benchmark: BenchmarkFixture, movielens: Setting, peer: str) -> None:
    ours = native(movielens.graph, movielens.histories)
    sampler = PEERS[peer](movielens.graph, movielens.histories)
    if peer == "numba":
        # What is compared is the same work to the last bit.
        (*sets, counts), (peer_sets, peer_counts) = ours.call(), sampler.call()
        assert np.array_equal(np.stack([x.numpy() for x in sets]), peer_sets)
        assert np.array_equal(counts.numpy(), peer_counts)
    loop = peer == "ripplenet_loop"
    measure(benchmark, sampler, rounds=5 if loop else 50)
    calls = (20, 1) if loop else (20, 10)
    benchmark.extra_info.update(versus(ours, sampler, "native_faster", calls=calls))


# ---- how speed and memory go with the size of the graph ----------------------------------------

SMALLEST = 10**6
SCALE_USERS = 20_000
SIZES = {"1e6": 10**6, "1e7": 10**7, "1e8": 10**8}
# Users click either items, which are the first entities and 1 in 75 of them as in MovieLens-1M, or
# any entity, so that hardly a read hits a cache.
ITEM_SHARE = {"items": 75, "anything": 1}


def scale_graph(num_triples: int) -> Graph:
    return power_law_graph(num_triples // 10, num_triples, 12)


@pytest.fixture(scope="module")
def smallest() -> Graph:
    return scale_graph(SMALLEST)


@pytest.fixture(scope="module", params=SIZES)
def large_graph(request: pytest.FixtureRequest) -> Iterator[Graph]:
    if request.param == "1e8" and not request.config.getoption("--large"):
        pytest.skip("10^8 triples take 3 GB and a minute: ask with --large")
    memory.reset_peak()
    yield scale_graph(SIZES[request.param])


@pytest.mark.benchmark(group="sampler scale")
@pytest.mark.parametrize("clicked", ITEM_SHARE)
def test_scale(
    benchmark: BenchmarkFixture, large_graph: Graph, smallest: Graph, clicked: str
) -> None:
    """Users per second and peak memory, beside the smallest graph and numba on the same one."""

    def histories(graph: Graph) -> Histories:
        return random_histories(SCALE_USERS, graph.num_entities // ITEM_SHARE[clicked])

    sampler = native(large_graph, histories(large_graph))
    measure(benchmark, sampler, rounds=10)
    arrays = (large_graph.indptr, large_graph.relations, large_graph.tails)
    benchmark.extra_info["graph_mb"] = round(sum(x.nbytes for x in arrays) / 2**20)
    benchmark.extra_info["peak_rss_mb"] = memory.peak_mb()
    base = native(smallest, histories(smallest))
    benchmark.extra_info.update(versus(sampler, base, "speed_of_1e6", calls=(5, 5)))
    peer = numba_parallel(large_graph, histories(large_graph))
    benchmark.extra_info.update(versus(sampler, peer, "native_faster_than_numba", calls=(4, 2)))
