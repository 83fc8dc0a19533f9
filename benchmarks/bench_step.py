"""A training step, from feed to optimizer, in samples per second."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import mean

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.compare import alternate, time_rounds
from benchmarks.peers import plain_torch
from benchmarks.stepping import Training
from benchmarks.workloads import Setting

Step = Callable[[], int]  # does one training step, returns its number of pairs

# What can be trained: from a setting to its step. Each system has its own batch size.
SYSTEMS: dict[str, Callable[[Setting], Step]] = {
    "ekpnet_native": Training.of,
    "ekpnet_native_pretrain": partial(Training.of, deep=False),
    "ekpnet_grouped_reference": partial(Training.of, backend="reference"),
    "ekpnet_plain": plain_torch.ekpnet_step,
    "ripplenet_plain": plain_torch.ripplenet_step,
}
FASTEST = next(iter(SYSTEMS))  # what the others are compared with

ROUNDS, WARMUP = 9, 10  # the allocator of torch takes some steps to settle


@pytest.mark.data
@pytest.mark.benchmark(group="step")
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("data", ["movielens", "book_crossing"])
def test_step(
    benchmark: BenchmarkFixture, request: pytest.FixtureRequest, data: str, system: str
) -> None:
    setting: Setting = request.getfixturevalue(data)
    step = SYSTEMS[system](setting)
    pairs: list[int] = []
    seconds = time_rounds(benchmark, lambda: pairs.append(step()), rounds=ROUNDS, warmup=WARMUP)
    benchmark.extra_info["batch"] = mean(pairs)
    benchmark.extra_info["samples_per_s"] = mean(pairs) / seconds
    if system != FASTEST:
        fastest = SYSTEMS[FASTEST](setting)
        comparison = alternate(fastest, step, rounds=5, work=(fastest(), step()))
        benchmark.extra_info.update(comparison.extra_info(f"{FASTEST}_faster"))
