"""Ripple sets: the native sampler, the same in numba, and RippleNet's Python loop."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness import goals
from benchmarks.harness.compare import alternate, time_rounds, write_rates
from benchmarks.harness.datasets import Setting
from benchmarks.harness.operation_counts import ripple_bytes
from benchmarks.programs.samplers import native, numba_parallel, python_loop


@pytest.mark.data
@pytest.mark.benchmark(group="ripple sets of all users")
@pytest.mark.parametrize("sampler_threads", [1, 2])
def test_movielens(
    benchmark: BenchmarkFixture, movielens: Setting, threads: int, sampler_threads: int
) -> None:
    """Ripple sets on a graph of RippleNet's size; samples are users, peers have as many threads."""
    graph, histories = movielens.graph, movielens.histories
    ours, peer = native(graph, histories), numba_parallel(graph, histories)
    loop = python_loop(graph, histories)
    info = benchmark.extra_info
    torch.set_num_threads(sampler_threads)
    numba.set_num_threads(sampler_threads)
    try:
        # Both do the same work, to the last bit.
        (*sets, counts), (peer_sets, peer_counts) = ours.call(), peer.call()
        assert np.array_equal(np.stack([x.numpy() for x in sets]), peer_sets)
        assert np.array_equal(counts.numpy(), peer_counts)
        seconds = time_rounds(benchmark, ours.call, rounds=100, warmup=2)
        num_bytes = ripple_bytes(counts, histories.entities)
        write_rates(info, seconds, samples=ours.num_users, num_bytes=num_bytes)
        info["threads"] = sampler_threads
        info["clicks_per_user"] = round(len(histories.entities) / ours.num_users, 1)
        work = (ours.num_users, peer.num_users)
        against_numba = alternate(ours.call, peer.call, rounds=15, calls=(20, 10), work=work)
        work = (ours.num_users, loop.num_users)
        against_loop = alternate(ours.call, loop.call, rounds=5, calls=(20, 1), work=work)
    finally:
        torch.set_num_threads(threads)
        numba.set_num_threads(threads)
    against_numba.write(info, "numba parallel")
    against_loop.write(info, "RippleNet's loop")
    if sampler_threads == 2:
        goals.reach(info, "sampler_numba", against_numba)
        goals.reach(info, "sampler_loop", against_loop)
