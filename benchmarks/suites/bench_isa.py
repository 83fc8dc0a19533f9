"""Ops and steps per CPU instruction set: the library chooses one at load, so each has a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.compare import alternate, time_rounds, write_rates
from benchmarks.harness.worker_protocol import Worker
from benchmarks.programs.worker_jobs import STEP
from ekpnet_fast.native.build import build_info

# With the calls per request, so that waiting for the answer costs nothing.
WORK = {
    STEP: 5,
    "ripple_attention": 20,
    "ripple_attention backward": 10,
    "deep_score": 20,
    "deep_score backward": 10,
    "triple_loss backward": 100,
    "row_adam_": 20,
}
ISAS = build_info().isas_supported


@pytest.fixture(scope="module")
def workers(need: Callable[[str], None]) -> Iterator[dict[str, Worker]]:
    """Workers, one process per instruction set, with one thread."""
    need("movielens")
    job = ["-m", "benchmarks.programs.worker_jobs", "compute", "--data", "movielens", "--threads=1"]
    with ExitStack() as stack:
        yield {
            isa: stack.enter_context(Worker(job, environment={"EKPNET_CPU_ISA": isa}))
            for isa in ISAS
        }


@pytest.mark.data
@pytest.mark.benchmark(group="per instruction set, MovieLens, 1 thread")
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("work", WORK)
def test_isa(benchmark: BenchmarkFixture, workers: dict[str, Worker], work: str, isa: str) -> None:
    """Speed-up over the plainest set."""
    calls, info = WORK[work], benchmark.extra_info
    ours = partial(workers[isa], calls, work)
    reply = ours()
    assert reply.facts["isa"] == isa
    seconds = time_rounds(benchmark, ours, rounds=5, warmup=1) / calls
    write_rates(info, seconds, samples=reply.samples / calls)
    info["threads"] = 1
    info["seconds"] = seconds
    if isa != ISAS[0]:
        plainest = partial(workers[ISAS[0]], calls, work)
        alternate(ours, plainest, rounds=5).write(info, ISAS[0])
