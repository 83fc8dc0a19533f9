"""Training beside other programs, with one and two threads, in samples per second."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness import goals
from benchmarks.harness.compare import Comparison, compared
from benchmarks.harness.datasets import FOLDERS
from benchmarks.harness.surroundings import Busy, CpuLimit, on_two_cpus
from benchmarks.harness.worker_protocol import Reply, Worker

ROUNDS = 9
SECONDS, OPENING = 0.5, 0.1  # of a turn, and of the steps before it, which are not counted

PRESET = {"movielens": 4096, "book_crossing": 1024}  # pairs of a mini-batch, as `train` takes them
STEP = 8192  # as the other suites take them

QUIET, STEPS = "quiet", "steps of 8,192 pairs, quiet"
ONE, TWO, OPENMP = "one busy process", "two busy processes", "a program with OpenMP"
TOGETHER = "two trainings, together"
QUOTAS = {"quota of 1 CPU": 1.0, "quota of 1.5 CPUs": 1.5}
BESIDE = (QUIET, STEPS, ONE, TWO, OPENMP, TOGETHER, *QUOTAS)
THREADS = (1, 2)

Row = tuple[str, int]  # what is beside, and threads


@dataclass(slots=True)
class Found:
    """Times of one row per round, in seconds per sample: on the wall, and of CPU."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, replies: list[Reply]) -> None:
        """Add a round; those of trainings at the same time count together."""
        samples = sum(reply.samples for reply in replies)
        self.wall.append(1 / sum(reply.samples / reply.seconds for reply in replies))
        self.cpu.append(sum(reply.facts["cpu_seconds"] for reply in replies) / samples)


class Contest:
    """Contest of all rows of a data set, in turns; measured on first use, a data set at a time."""

    def __init__(self) -> None:
        self.limited_by = ""
        self._found: dict[str, dict[Row, Found]] = {}

    def of(self, data: str) -> dict[Row, Found]:
        """Times of all rows that can be measured here."""
        if data not in self._found:
            with ExitStack() as stack:
                stack.enter_context(on_two_cpus())
                self._found[data] = self._measure(data, stack)
        return self._found[data]

    def _measure(self, data: str, stack: ExitStack) -> dict[Row, Found]:
        trainings = {
            threads: [stack.enter_context(_training(data, threads)) for _ in range(2)]
            for threads in THREADS
        }
        loops = [stack.enter_context(Busy("spin")) for _ in range(2)]
        program = stack.enter_context(Busy("openmp"))
        limit = stack.enter_context(CpuLimit())
        pool = stack.enter_context(ThreadPoolExecutor(2))
        self.limited_by = limit.kind

        def turn(row: Row) -> list[Reply]:
            beside, threads = row
            workers = trainings[threads] if beside == TOGETHER else trainings[threads][:1]
            others = {ONE: loops[:1], TWO: loops, OPENMP: [program]}.get(beside, [])
            batch_size = STEP if beside == STEPS else PRESET[data]
            limited: AbstractContextManager[None] = nullcontext()
            if beside in QUOTAS:
                limited = limit.on(workers[0](0).facts["pid"], QUOTAS[beside])
            with ExitStack() as busy:
                for other in others:
                    busy.enter_context(other.running())
                busy.enter_context(limited)
                return list(pool.map(lambda worker: _train(worker, batch_size), workers))

        rows = [
            (beside, threads)
            for beside in BESIDE
            for threads in THREADS
            if beside not in QUOTAS or limit.can(QUOTAS[beside])
        ]
        for row in rows:
            turn(row)  # memory is taken and code is loaded in the first steps
        found: dict[Row, Found] = defaultdict(Found)
        order = random.Random(0)
        for _ in range(ROUNDS):
            for row in order.sample(rows, len(rows)):
                found[row].add(turn(row))
        return found


def _training(data: str, threads: int) -> Worker:
    module = "benchmarks.programs.timed_training"
    return Worker(["-m", module, f"--data={data}", f"--threads={threads}"])


def _train(worker: Worker, batch_size: int) -> Reply:
    worker(1, f"{batch_size} {OPENING}")
    return worker(1, f"{batch_size} {SECONDS}")


@pytest.fixture(scope="module")
def contest() -> Iterator[Contest]:
    """Contest of both data sets."""
    yield Contest()


@pytest.mark.data
@pytest.mark.benchmark(group="training beside other programs")
@pytest.mark.parametrize("contention_threads", THREADS)
@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("data", FOLDERS)
def test_training(
    benchmark: BenchmarkFixture,
    contest: Contest,
    need: Callable[[str], None],
    data: str,
    beside: str,
    contention_threads: int,
) -> None:
    """Samples per second against one thread alone, and against one thread beside the same."""
    need(data)
    found: list[dict[Row, Found]] = []
    # The first row of a data set waits for all of them.
    benchmark.pedantic(lambda: found.append(contest.of(data)), rounds=1)  # type: ignore[no-untyped-call]
    rows, row = found[0], (beside, contention_threads)
    if row not in rows:
        pytest.skip(f"no quota can be set here, only {contest.limited_by}")
    info, ours = benchmark.extra_info, rows[row]
    info["threads"] = contention_threads
    info["seconds"] = (STEP if beside == STEPS else PRESET[data]) * median(ours.wall)
    info["samples_per_s"] = 1 / median(ours.wall)
    info["samples_per_s_range"] = [1 / max(ours.wall), 1 / min(ours.wall)]
    info["samples_per_cpu_s"] = 1 / median(ours.cpu)
    if beside in QUOTAS:
        info["limited_by"] = contest.limited_by

    def against(other: Row) -> Comparison:
        return compared(ours.wall, rows[other].wall)

    if beside not in (QUIET, STEPS):
        against((QUIET, 1)).write(info, "1 thread, quiet")
        against((QUIET, contention_threads)).write(info, "as many threads, quiet")
    if contention_threads == 2:
        against((beside, 1)).write(info, "1 thread beside the same")
        _reach(info, data, beside, against)


def _reach(
    info: dict[str, Any], data: str, beside: str, against: Callable[[Row], Comparison]
) -> None:
    """Write the goals of two threads."""
    stated = {
        STEPS: ("scaling", (STEPS, 1)),
        ONE: ("beside_one", (QUIET, 1)),
        TWO: ("beside_two", (TWO, 1)),
        TOGETHER: ("together", (QUIET, 2)),
    }
    if beside in stated:
        goal, other = stated[beside]
        goals.reach(info, f"{goal}_{data}", against(other))
