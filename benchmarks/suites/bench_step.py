"""Training step, from feed to optimizer, in samples per second."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import mean

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness import goals
from benchmarks.harness.compare import alternate, time_rounds, write_rates
from benchmarks.harness.datasets import Setting
from benchmarks.harness.worker_protocol import Worker
from benchmarks.peers import plain_torch
from benchmarks.peers.compiled import compiled
from benchmarks.programs.training_steps import BothStages, Training
from benchmarks.programs.worker_jobs import STEP
from ekpnet_fast.ops import reference

Step = Callable[[], int]  # does one training step, returns its number of pairs
Named = Callable[[str], Setting]

DATA = ["movielens", "book_crossing"]
WARMUP = 10  # the allocator of torch takes some steps to settle

# Peers of a step of both stages, how many calls of theirs a turn has, and the goal.
PEERS: dict[str, tuple[Callable[[Setting], Step], int, str]] = {
    "plain RippleNet": (plain_torch.ripplenet_step, 1, "plain"),
    "plain EKPNet": (plain_torch.ekpnet_step, 3, ""),
    "grouped, eager torch": (partial(BothStages, backend=reference), 4, "grouped"),
}


@pytest.mark.data
@pytest.mark.benchmark(group="training, both stages")
@pytest.mark.parametrize("data", DATA)
def test_both_stages(benchmark: BenchmarkFixture, setting_named: Named, data: str) -> None:
    """Step of the first stage and one of the second; a turn beside a peer is a whole epoch.

    The epoch begins with drawing ripple sets and shuffling, so everything is in its time.
    """
    setting = setting_named(data)
    ours = BothStages(setting)
    seconds, pairs = _time(benchmark, ours, rounds=40)
    info = benchmark.extra_info
    write_rates(info, seconds, samples=pairs)
    for name, (start, calls, goal) in PEERS.items():
        peer = start(setting)
        peer_pairs = mean(peer() for _ in range(3))
        comparison = alternate(
            ours,
            peer,
            rounds=5,
            calls=(ours.steps_per_epoch, calls),
            work=(pairs, peer_pairs),
        )
        comparison.write(info, name)
        if goal:
            goals.reach(info, f"step_{data}_{goal}", comparison)


@pytest.mark.data
@pytest.mark.benchmark(group="training step and threads")
@pytest.mark.parametrize("data", DATA)
def test_threads(benchmark: BenchmarkFixture, need: Callable[[str], None], data: str) -> None:
    """Step of the second stage with two threads, beside one thread."""
    need(data)
    job = ["-m", "benchmarks.programs.worker_jobs", "compute", "--data", data]
    with (
        Worker([*job, "--threads=2"]) as two,
        Worker([*job, "--threads=1"]) as one,
    ):
        for worker in (two, one):
            worker(WARMUP, STEP)
        seconds = time_rounds(benchmark, partial(two, 1, STEP), rounds=40, warmup=5)
        info = benchmark.extra_info
        write_rates(info, seconds, samples=two(20, STEP).samples / 20)
        info["threads"] = 2
        # A request of many steps, so that waiting for the answer costs nothing.
        against_one = alternate(partial(two, 20, STEP), partial(one, 20, STEP), rounds=31)
    against_one.write(info, "1 thread")
    if data == "movielens":
        goals.reach(info, "threads", against_one)


@pytest.mark.data
@pytest.mark.benchmark(group="training step by stage")
@pytest.mark.parametrize("stage", ["first", "second"])
@pytest.mark.parametrize("data", DATA)
def test_stage(benchmark: BenchmarkFixture, setting_named: Named, data: str, stage: str) -> None:
    """Step of one stage alone, beside the same trainer on compiled torch."""
    setting, deep = setting_named(data), stage == "second"
    ours = Training.of(setting, deep=deep)
    seconds, pairs = _time(benchmark, ours, rounds=40)
    info = benchmark.extra_info
    write_rates(info, seconds, samples=pairs)
    peer = Training.of(setting, deep=deep, backend=compiled())
    peer_pairs = mean(peer() for _ in range(3))
    alternate(ours, peer, rounds=5, calls=(10, 4), work=(pairs, peer_pairs)).write(
        info, "grouped, torch.compile"
    )


def _time(benchmark: BenchmarkFixture, step: Step, rounds: int) -> tuple[float, float]:
    """Median seconds of a step and its mean number of pairs."""
    pairs: list[int] = []
    seconds = time_rounds(benchmark, lambda: pairs.append(step()), rounds=rounds, warmup=WARMUP)
    return seconds, mean(pairs)
