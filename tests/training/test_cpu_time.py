"""What training says where it gets less CPU time than it has threads, and where it says nothing."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys

import pytest

from ekpnet_fast.native.cpus import Quota
from ekpnet_fast.training import cpu_time
from ekpnet_fast.training.cpu_time import CpuWatch, Reading, shortage
from support.places import ROOT
from support.programs import PATIENCE
from support.small_training import CONFIG, train

START = Reading(100.0, 50.0, {1: 30.0, 2: 20.0, 3: 9.0}, {1: 2.0, 2: 1.0, 3: 5.0}, 700.0, 40, 7)


def after(seconds, ran, waited, others=0.0, periods=0, stopped=0):
    """Reading after some seconds, in which two threads ran and waited and others used CPUs."""
    used = sum(ran)
    return Reading(
        START.clock + seconds,
        START.used + used,
        {1: 30.0 + ran[0], 2: 20.0 + ran[1], 4: 0.0},  # thread 3 has ended, and 4 begun
        {1: 2.0 + waited[0], 2: 1.0 + waited[1], 4: 0.0},
        START.busy + used + others,
        START.periods + periods,
        START.stopped + stopped,
    )


def test_beside_a_busy_process():
    # Three that always want a CPU share two: each has two thirds of one.
    found = shortage(START, after(9, (6, 6), (3, 3), others=6), threads=2, cpus=2)
    assert found == (
        "the 2 threads waited 33 % of the time for a CPU, while other processes used 0.7 of 2 CPUs;"
        " end those, or try --threads 1"
    )


@pytest.mark.parametrize(
    ("others", "threads", "cpus", "fitting"),
    [(20, 2, 2, 1), (10, 8, 8, 7), (35, 8, 8, 4), (6, 8, 8, 7), (200, 8, 8, 1), (10, 2, 64, 1)],
)
def test_fewer_threads_are_what_others_leave(others, threads, cpus, fitting):
    found = shortage(START, after(10, (5, 5), (5, 5), others), threads, cpus)
    assert f"other processes used {others / 10:.1f} of {cpus} CPUs" in found
    assert found.endswith(f"try --threads {fitting}")


def test_more_threads_than_cpus():
    found = shortage(START, after(10, (10, 10), (30, 30)), threads=8, cpus=2)
    assert found == "the 8 threads waited 75 % of the time for one of 2 CPUs; set --threads 2"
    found = shortage(START, after(10, (4, 4), (30, 30)), threads=8, cpus=2, quota=0.9)
    assert found.endswith("set --threads 1")


@pytest.mark.parametrize(
    "reading",
    [
        after(10, (10, 10), (0.3, 0.3), others=0.1),  # a quiet machine
        after(10, (9, 1), (0.1, 0.1), others=0.1),  # a step that is serial nearly everywhere
        after(10, (9, 1), (0.1, 0.1), others=10),  # the same beside a process in its way nowhere
        after(10, (0.1, 0.0), (0.2, 0.0), others=15),  # hardly anything wanted to run
        after(10, (10, 8), (6, 6), others=4),  # waited for its own threads more than for others
        after(10, (0, 0), (0, 0)),
    ],
)
def test_nothing_is_said(reading):
    assert shortage(START, reading, threads=2, cpus=2) is None


def test_one_thread_has_nothing_to_set():
    reading = after(9, (6, 0), (12, 0), others=12)
    assert shortage(START, reading, threads=1, cpus=2) is None
    assert shortage(START, reading, threads=2, cpus=2) is not None


@pytest.mark.parametrize(
    ("threads", "quota", "ran", "stopped", "expected"),
    [
        (8, 2.0, (10, 10), 95, "got 2.0 CPUs: the cgroup quota of 2 CPUs stopped them in 95 %"),
        (8, 1.5, (8, 7), 95, "set --threads 2"),
        (2, 1.5, (8, 7), 90, None),  # what is chosen by default, and all of the quota
        (2, 2.0, (5, 5), 80, "got 1.0 CPUs: the cgroup quota of 2 CPUs"),  # shared with others
        (4, 4.0, (12, 12), 80, "set --threads 2"),
        (2, 2.0, (10, 9), 10, None),
        (8, 0.5, (3, 2), 99, "set --threads 1"),
    ],
)
def test_a_quota_that_stops_threads(threads, quota, ran, stopped, expected):
    """And not "other processes", although being stopped counts as waiting, and others are there."""
    reading = after(10, ran, (10, 10), others=10, periods=100, stopped=stopped)
    if stopped < 25:
        reading = after(10, ran, (0, 0), others=10, periods=100, stopped=stopped)
    found = shortage(START, reading, threads, cpus=64, quota=quota)
    assert found is None if expected is None else expected in found
    assert found is None or "other processes" not in found


# ---- readings ------------------------------------------------------------------------------------


@pytest.fixture
def counters(tmp_path, monkeypatch):
    """Writes a made-up /proc and cgroup; CPUs 1 and 3 are allowed."""
    monkeypatch.setattr(cpu_time, "allowed_cpus", lambda: {1, 3})
    ticks = os.sysconf("SC_CLK_TCK")
    files = {
        "proc/self/task/11/schedstat": "1500000000 250000000 17\n",
        "proc/self/task/12/schedstat": "500000000 0 3\n",
        "proc/stat": f"cpu {9 * ticks} 0 0 0 0 0 0 0 0 0\n"
        f"cpu0 {5 * ticks} 0 0 {90 * ticks} 0 0 0 0 0 0\n"
        f"cpu1 {ticks} {2 * ticks} {3 * ticks} {50 * ticks} {60 * ticks} {4 * ticks} {5 * ticks}"
        f" {70 * ticks} {80 * ticks} 0\n"
        f"cpu3 {ticks} 0 0 0 0 0 0 0 0 0\nintr 1 2\n",
        "cpu.stat": "nr_periods 12\nnr_throttled 3\nthrottled_usec 4\n",
    }

    def write(**changes):
        for path, text in {**files, **changes}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            if text is not None:
                (tmp_path / path).write_text(text)
        return tmp_path

    return write


def test_reading(counters):
    root = counters()
    found = cpu_time.read(root, Quota(1.0, root))
    assert (found.ran, found.waited) == ({11: 1.5, 12: 0.5}, {11: 0.25, 12: 0.0})
    assert found.busy == 1 + 2 + 3 + 4 + 5 + 1  # user, nice, system and interrupts of two CPUs
    assert (found.periods, found.stopped) == (12, 3)
    assert cpu_time.read(root).periods == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"proc/self/task/11/schedstat": "no numbers\n"},
        {"proc/self/task/11/schedstat": ""},
        {"proc/stat": "cpu1 1 2\n"},
        {"proc/stat": "cpus are two\n"},
        {"proc/stat": None},
        {"cpu.stat": "nr_periods 12\n"},
        {"cpu.stat": "usage_usec\n"},
        {"cpu.stat": None},
    ],
)
def test_counters_that_cannot_be_read_are_no_reading(counters, changes):
    root = counters(**changes)
    assert cpu_time.read(root, Quota(1.0, root)) is None


def test_without_counters_nothing_is_said(tmp_path):
    assert cpu_time.read(tmp_path) is None
    (tmp_path / "proc/self/task/11").mkdir(parents=True)  # a kernel that does not count
    (tmp_path / "proc/stat").write_text("")
    assert cpu_time.read(tmp_path) is None
    assert CpuWatch(2, lambda: cpu_time.read(tmp_path)).advice() is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_threads_that_share_a_cpu_wait():
    """The system's own counters: more threads than CPUs, each wants to run all the time."""
    found = cpu_time.read()
    if found is None or not any(found.ran.values()):
        pytest.skip("this kernel does not count what threads wait")
    code = (
        "import os, threading, time, zlib\n"
        "from ekpnet_fast.training import cpu_time\n"
        "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])\n"
        "before, data = cpu_time.read(), os.urandom(10**6)\n"
        "def press():\n"
        "    while True: zlib.compress(data)\n"  # without Python's lock
        "for _ in range(3): threading.Thread(target=press, daemon=True).start()\n"
        "found = None\n"
        "while found is None:\n"
        "    time.sleep(0.1)\n"
        "    found = cpu_time.shortage(before, cpu_time.read(), threads=3, cpus=1)\n"
        "print(found, flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.endswith("% of the time for one of 1 CPUs; set --threads 1\n")


# ---- training ------------------------------------------------------------------------------------

BESIDE = "end those, or try --threads 1"


@pytest.fixture
def crowded(monkeypatch):
    """Counters by which both threads wait for a CPU half of the time, and others use one."""
    monkeypatch.setattr(cpu_time, "SPAN", 0.0)
    monkeypatch.setattr(cpu_time, "allowed_cpus", lambda: {0, 1})
    monkeypatch.setattr(cpu_time, "cpu_quota", lambda: None)
    times = (float(seconds) for seconds in itertools.count(0, 10))

    def take(quota=None):
        now = next(times)
        return Reading(now, now, {1: now / 2, 2: now / 2}, {1: now / 2, 2: now / 2}, 2 * now)

    return take


def test_a_run_says_it_once(crowded, monkeypatch, threads):
    # Here, so that the other tests can be collected where a GPU machine has no terminal library.
    from rich.console import Console

    from ekpnet_fast.runs.display import Display

    monkeypatch.setattr(cpu_time, "read", crowded)
    threads(2)
    told, shown = [], io.StringIO()
    with Display(Console(file=shown, width=1000)) as display:
        train(CONFIG, lambda progress: (told.append(progress), display(progress)))
    (progress,) = (progress for progress in told if progress.warning is not None)
    assert progress.record is not None and progress.warning.endswith(BESIDE)
    assert shown.getvalue().count("warning: ") == 1


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_says_nothing(monkeypatch, threads, count, crowded):
    """With one thread; or with two on a system without counters."""
    monkeypatch.setattr(cpu_time, "read", crowded if count == 1 else lambda quota=None: None)
    threads(count)
    told = []
    train(CONFIG, lambda progress: told.append(progress.warning))
    assert told and set(told) == {None}


def test_time_that_is_too_short_is_not_judged(crowded, monkeypatch):
    watch = CpuWatch(2, crowded)
    monkeypatch.setattr(cpu_time, "SPAN", 1e9)
    assert watch.advice() is None
    monkeypatch.setattr(cpu_time, "SPAN", 0.0)
    assert watch.advice().endswith(BESIDE)
    assert watch.advice() is None
