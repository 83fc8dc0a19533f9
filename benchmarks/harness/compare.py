"""Interleaved timing: two callables take turns in one run, because a machine's speed drifts."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.operation_counts import Work
from benchmarks.harness.roofline import Ceilings

PAUSE = 0.02  # seconds before a turn, in which threads of the one before go to sleep


@dataclass(frozen=True, slots=True)
class Comparison:
    """Times of two callables per unit of work, and the speed-up of the first over the second.

    Attributes:
        first: median time of the first per unit of work, seconds.
        second: the same of the second.
        low, high: smallest and largest ratio of a round; the ratio of medians is between them.
        best: ratio of the fastest turns, which other load on the machine disturbs least.
    """

    first: float
    second: float
    low: float
    high: float
    best: float

    @property
    def ratio(self) -> float:
        """Ratio of medians, above 1 where the first is faster."""
        return self.second / self.first

    def write(self, info: dict[str, Any], peer: str) -> None:
        """Write into the `extra_info` of a benchmark: the second is a peer of the first."""
        info.setdefault("peers", {})[peer] = {
            "ratio": round(self.ratio, 3),
            "range": [round(self.low, 3), round(self.high, 3)],
            "best": round(self.best, 3),
            "per_s": 1 / self.second,
        }


def alternate(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    rounds: int = 9,
    calls: tuple[int, int] = (1, 1),
    work: tuple[float, float] = (1.0, 1.0),
) -> Comparison:
    """Time two callables in turns; who begins changes from round to round.

    Each turn opens with a pause, because OpenMP's threads spin for milliseconds after their last
    region, and with a call that is not timed, because the caches are full of the other one's data.

    Args:
        first: the callable whose speed-up is measured.
        second: the peer.
        rounds: turns of each.
        calls: timed calls per turn of the first and of the second; their mean counts.
        work: units of work that a call of the first and of the second does.
    """
    times: tuple[list[float], list[float]] = ([], [])
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            for side in (turn % 2, 1 - turn % 2):
                call = (first, second)[side]
                time.sleep(PAUSE)
                call()
                start = time.perf_counter()
                for _ in range(calls[side]):
                    call()
                elapsed = time.perf_counter() - start
                times[side].append(elapsed / calls[side] / work[side])
    finally:
        if enabled:
            gc.enable()
    return compared(*times)


def compared(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Comparison of times per unit of work that were taken in turns, a pair per round."""
    ratios = [b / a for a, b in zip(first, second, strict=True)]
    best = min(second) / min(first)
    return Comparison(median(first), median(second), min(ratios), max(ratios), best)


def time_rounds(
    benchmark: BenchmarkFixture, call: Callable[[], object], *, rounds: int, warmup: int
) -> float:
    """Run a benchmark for a fixed number of rounds; returns the median time in seconds."""
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=warmup)  # type: ignore[no-untyped-call]
    if benchmark.disabled or benchmark.stats is None:
        return float("nan")
    return float(median(benchmark.stats.stats.data))


def write_rates(
    info: dict[str, Any],
    seconds: float,
    *,
    samples: float | None = None,
    work: Work | None = None,
    num_bytes: float | None = None,
    ceilings: Ceilings | None = None,
) -> None:
    """Write the rates that follow from a time into the `extra_info` of a benchmark.

    Args:
        info: where to.
        seconds: of one call.
        samples: that a call works on.
        work: its least operations and bytes, for rates and, with ceilings, the share of the floor.
        num_bytes: its least bytes, where operations mean nothing.
        ceilings: of the machine with this number of threads.
    """
    if samples is not None:
        info["samples_per_s"] = samples / seconds
    if num_bytes is not None:
        info["bytes_per_s"] = num_bytes / seconds
    if work is not None:
        info["operations_per_s"] = work.operations / seconds
        info["bytes_per_s"] = work.bytes / seconds
        if ceilings is not None:
            floor = work.seconds(ceilings.operations_per_s, ceilings.bytes_per_s)
            info["share_of_floor"] = floor / seconds
