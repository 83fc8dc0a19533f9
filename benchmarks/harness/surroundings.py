"""Surroundings of a measurement: busy programs beside it, and limits of its CPU time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PERIOD = 100_000  # microseconds, as container runtimes set it

# Where the hierarchies with CPU time are mounted, and the version of each.
_MOUNTS = {
    Path("/sys/fs/cgroup/cpu"): 1,
    Path("/sys/fs/cgroup/cpu,cpuacct"): 1,
    Path("/sys/fs/cgroup"): 2,
}


@contextmanager
def on_two_cpus() -> Iterator[None]:
    """Keep this process, and those that it starts in the block, on two CPUs of a larger machine."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:2])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Busy:
    """Busy program (`benchmarks.programs.busy`), which works inside `running()` alone."""

    def __init__(self, kind: str) -> None:
        """Start it, and wait until it is ready.

        Raises:
            RuntimeError: it ended.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.programs.busy", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the busy program {kind} ended with {self._process.wait()}")

    def __enter__(self) -> Busy:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let it work."""
        self._tell()
        try:
            yield
        finally:
            self._tell()

    def _tell(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()


class CpuLimit:
    """Limit of a process's CPU time: a cgroup where one can be made, else a mask of one CPU.

    A context manager; the cgroup is removed at its end.

    Attributes:
        kind: "cgroup" with its version, or "taskset".
    """

    def __init__(self) -> None:
        self._group = _new_group()
        self.kind = "taskset" if self._group is None else f"cgroup {self._group.version}"

    def __enter__(self) -> CpuLimit:
        return self

    def __exit__(self, *_: object) -> None:
        if self._group is not None:
            self._group.folder.rmdir()

    def can(self, cpus: float) -> bool:
        """Whether a process can be limited to so many CPUs: a mask knows no parts of one."""
        return self._group is not None or cpus == 1

    @contextmanager
    def on(self, pid: int, cpus: float) -> Iterator[None]:
        """Limit a process inside the block.

        Args:
            pid: the process.
            cpus: seconds of CPU time per second.
        """
        if self._group is not None:
            self._group.limit(cpus)
            home = self._group.of(pid)
            _put(pid, self._group.folder)
            try:
                yield
            finally:
                _put(pid, home)
            return
        mask = os.sched_getaffinity(pid)
        _pin(pid, set(sorted(mask)[:1]))
        try:
            yield
        finally:
            _pin(pid, mask)


@dataclass(frozen=True, slots=True)
class _Group:
    """Cgroup of our own."""

    version: int
    mount: Path
    folder: Path

    def limit(self, cpus: float) -> None:
        """Set its quota."""
        quota = round(cpus * PERIOD)
        if self.version == 2:
            (self.folder / "cpu.max").write_text(f"{quota} {PERIOD}")
        else:
            (self.folder / "cpu.cfs_period_us").write_text(str(PERIOD))
            (self.folder / "cpu.cfs_quota_us").write_text(str(quota))

    def of(self, pid: int) -> Path:
        """Cgroup that a process is in."""
        return _cgroup(self.version, self.mount, pid)

    def works(self) -> bool:
        """Whether a process can be put into it, limited, and taken out again."""
        with subprocess.Popen(["sleep", "60"]) as process:
            try:
                home = self.of(process.pid)
                self.limit(1)
                _put(process.pid, self.folder)
                _put(process.pid, home)
            except OSError:
                return False
            finally:
                process.kill()
        return True


def _new_group() -> _Group | None:
    """Cgroup that works, below this process's own or one above it; None where none can be made."""
    for mount, version in _MOUNTS.items():
        if not (mount / "cgroup.procs").is_file():
            continue
        own = _cgroup(version, mount, os.getpid())
        for parent in (own, *own.parents):
            if not parent.is_relative_to(mount):
                break
            group = _Group(version, mount, parent / f"ekpnet-benchmark-{os.getpid()}")
            try:
                group.folder.mkdir()
            except OSError:
                continue
            if group.works():
                return group
            group.folder.rmdir()
    return None


def _cgroup(version: int, mount: Path, pid: int) -> Path:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" if version == 2 else "cpu" in controllers.split(","):
            return mount / path.lstrip("/")
    return mount


def _put(pid: int, folder: Path) -> None:
    (folder / "cgroup.procs").write_text(str(pid))


def _pin(pid: int, mask: set[int]) -> None:
    """Set the mask of all threads of a process."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), mask)
