"""What measurements are made beside and under: busy programs, limits of CPU time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.harness import surroundings
from benchmarks.harness.compare import compared
from benchmarks.harness.worker_protocol import Reply
from support.programs import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def state(pid):
    """State of a process: R for running, S for asleep."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def comes_to(expected, pid):
    """Whether a process comes into a state before patience ends."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if state(pid) == expected:
            return True
        time.sleep(0.005)
    return False


@pytest.mark.parametrize("kind", ["spin", "openmp"])
def test_a_busy_program_works_only_while_it_is_told_to(kind):
    with surroundings.Busy(kind) as busy:
        pid = busy._process.pid
        for _ in range(2):  # it can be told again
            assert comes_to("S", pid)
            with busy.running():
                assert comes_to("R", pid)
    assert busy._process.returncode == 0


def test_a_busy_program_ends_with_who_started_it():
    with surroundings.Busy("spin") as busy:
        busy._tell()
        assert comes_to("R", busy._process.pid)
        busy._process.stdin.close()
        assert busy._process.wait(PATIENCE) == 0


def test_a_busy_program_that_does_not_start_is_told(capfd):
    with pytest.raises(RuntimeError, match="busy program no such ended with 2"):
        surroundings.Busy("no such")


@pytest.fixture
def process():
    with subprocess.Popen(["sleep", str(PATIENCE)]) as process:
        yield process
        process.kill()


def place(pid):
    """Where a process is: its cgroups, and its CPUs."""
    return Path(f"/proc/{pid}/cgroup").read_text(), os.sched_getaffinity(pid)


def test_a_limit_ends_with_its_block(process):
    before = place(process.pid)
    with surroundings.CpuLimit() as limit:
        assert limit.kind in ("cgroup 1", "cgroup 2", "taskset") and limit.can(1)
        with limit.on(process.pid, 1):
            cgroups, mask = place(process.pid)
            name = f"ekpnet-benchmark-{os.getpid()}"
            assert len(mask) == 1 if limit.kind == "taskset" else name in cgroups
        assert place(process.pid) == before
    assert not any(Path("/sys/fs/cgroup").glob(f"**/{name}"))


def test_a_cgroup_gets_the_quota(process):
    with surroundings.CpuLimit() as limit:
        if limit.kind == "taskset":
            pytest.skip("no cgroup can be made here")
        with limit.on(process.pid, 1.5):
            folder = limit._group.folder
            if limit.kind == "cgroup 2":
                assert (folder / "cpu.max").read_text() == "150000 100000\n"
            else:
                assert (folder / "cpu.cfs_quota_us").read_text() == "150000\n"
                assert (folder / "cpu.cfs_period_us").read_text() == "100000\n"
            assert str(process.pid) in (folder / "cgroup.procs").read_text().split()


def test_where_no_cgroup_can_be_made_it_is_a_cpu(process, monkeypatch):
    monkeypatch.setattr(surroundings, "_new_group", lambda: None)
    before = os.sched_getaffinity(process.pid)
    with surroundings.CpuLimit() as limit:
        assert limit.kind == "taskset" and limit.can(1) and not limit.can(1.5)
        with limit.on(process.pid, 1):
            assert os.sched_getaffinity(process.pid) == {min(before)}
        assert os.sched_getaffinity(process.pid) == before


def test_two_cpus_of_a_larger_machine():
    before = os.sched_getaffinity(0)
    with surroundings.on_two_cpus():
        assert os.sched_getaffinity(0) == set(sorted(before)[:2])
    assert os.sched_getaffinity(0) == before


def test_comparison_of_rounds_by_hand():
    found = compared([1.0, 2.0, 4.0], [2.0, 2.0, 3.0])
    assert (found.first, found.second, found.ratio) == (2.0, 2.0, 1.0)
    assert (found.low, found.high, found.best) == (0.75, 2.0, 2.0)


def test_trainings_at_the_same_time_count_together():
    pytest.importorskip("pytest_benchmark", reason="suites need it")
    from benchmarks.suites.bench_contention import Found

    found = Found()
    # 50 and 100 samples per second; 6 seconds of CPU for 400 samples.
    found.add([Reply(2.0, 100, {"cpu_seconds": 1.0}), Reply(3.0, 300, {"cpu_seconds": 5.0})])
    assert found.wall == [pytest.approx(1 / 150)] and found.cpu == [pytest.approx(0.015)]
