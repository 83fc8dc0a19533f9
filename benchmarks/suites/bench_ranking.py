"""Full ranking of all users, beside a batched torch forward over all pairs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness import goals
from benchmarks.harness.compare import alternate, time_rounds, write_rates
from benchmarks.harness.datasets import Setting
from benchmarks.harness.worker_protocol import Reply, Worker
from benchmarks.peers import pair_ranking
from benchmarks.programs.worker_jobs import ALL_USERS, TOP

# Timed calls per turn, of some users each: ours, and the peer.
CALLS = {"movielens": (1, 8), "book_crossing": (1, 2)}


@pytest.mark.data
@pytest.mark.benchmark(group="full ranking of all users, top 100")
@pytest.mark.parametrize("data", CALLS)
def test_ranking(
    benchmark: BenchmarkFixture,
    setting_named: Callable[[str], Setting],
    threads: int,
    data: str,
) -> None:
    """Ranking for all users once, in turns for some; samples are pairs of user and item."""
    setting, info = setting_named(data), benchmark.extra_info
    job = ["-m", "benchmarks.programs.worker_jobs", "rank", "--data", data]
    peer, task = pair_ranking.ranker(setting, TOP)
    with Worker([*job, f"--threads={threads}"]) as ours, Worker([*job, "--threads=1"]) as one:
        replies: list[Reply] = []
        seconds = time_rounds(
            benchmark, lambda: replies.append(ours(1, ALL_USERS)), rounds=1, warmup=0
        )
        write_rates(info, seconds, samples=replies[0].samples)
        some = ours().samples
        comparison = alternate(ours, peer, rounds=3, calls=CALLS[data], work=(some, peer()))
        # All users at both numbers of threads: some are too few to share.
        for_all = (lambda: ours(1, ALL_USERS)), (lambda: one(1, ALL_USERS))
        alternate(*for_all, rounds=3).write(info, "1 thread")
    info["users_per_s"] = len(task.users) / seconds
    comparison.write(info, "torch over pairs")
    goals.reach(info, f"ranking_{data}", comparison)
    peak = replies[0].facts["peak_mb_above_tables"]
    if peak is not None:
        info["peak_mb_above_tables"] = round(peak, 1)
        goals.reach(info, f"ranking_memory_{data}", peak)
