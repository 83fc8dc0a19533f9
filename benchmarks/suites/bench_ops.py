"""Single ops on one batch of training: the native ones beside eager and compiled torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.compare import alternate, time_rounds, write_rates
from benchmarks.harness.datasets import Setting
from benchmarks.harness.roofline import ceilings
from benchmarks.peers.compiled import compiled
from benchmarks.programs.op_calls import COMPILED, OPS, problem_of
from ekpnet_fast import ops
from ekpnet_fast.ops import reference


@pytest.fixture(params=[1, 2])
def op_threads(request: pytest.FixtureRequest, threads: int) -> Iterator[int]:
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def compiled_ops() -> object:
    return compiled()


@pytest.mark.data
@pytest.mark.benchmark(group="single ops")
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("data", ["movielens", "book_crossing"])
def test_op(
    benchmark: BenchmarkFixture,
    setting_named: Callable[[str], Setting],
    data: str,
    op: str,
    op_threads: int,
    compiled_ops: object,
) -> None:
    """Native op, and its speed-up over torch."""
    problem = problem_of(setting_named(data))
    call, amount = OPS[op](problem, ops)
    seconds = time_rounds(benchmark, call, rounds=20, warmup=5)
    info = benchmark.extra_info
    info["threads"] = op_threads
    write_rates(
        info, seconds, samples=amount.samples, work=amount.work, ceilings=ceilings(op_threads)
    )
    eager, _ = OPS[op](problem, reference)
    alternate(call, eager, rounds=5, calls=(5, 2)).write(info, "eager torch")
    if op in COMPILED and op_threads > 1:  # torch compiles anew, for seconds, per thread count
        peer, _ = OPS[op](problem, compiled_ops)
        peer()
        alternate(call, peer, rounds=5, calls=(5, 3)).write(info, "torch.compile")
