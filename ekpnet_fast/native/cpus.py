"""CPUs that this process may use, and the number of threads that follows.

Neither this module nor importing the package sets a number of threads: commands and runs do.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ekpnet_fast.errors import ConfigError

__all__ = [
    "MOST_THREADS",
    "Quota",
    "Threads",
    "allowed_cpus",
    "choose_threads",
    "cpu_quota",
    "usable_cpus",
]

MOST_THREADS = 1024

# Any of these lets OpenMP pin the main thread to a CPU as soon as torch is imported; the thread's
# mask then says nothing about the process.
_BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY")


@dataclass(frozen=True, slots=True)
class Threads:
    """Number of threads to compute with, and why.

    Attributes:
        count: at least 1.
        reason: such as "2 of 64 CPUs: the cgroup quota is 1.5 CPUs, rounded up".
    """

    count: int
    reason: str

    def __str__(self) -> str:
        """Text such as "2 threads (all 2 CPUs)"."""
        return f"{self.count} thread{'s' * (self.count > 1)} ({self.reason})"


@dataclass(frozen=True, slots=True)
class Quota:
    """Quota of CPU time that a cgroup sets for this process.

    Attributes:
        cpus: seconds of CPU time per second.
        folder: of the cgroup that sets it, with its `cpu.stat`.
    """

    cpus: float
    folder: Path


def choose_threads(given: int | None = None, root: Path = Path("/")) -> Threads:
    """Number of threads to compute with.

    Without an option it is OMP_NUM_THREADS, if that is set to a number, else `usable_cpus`.

    Args:
        given: the option, or None.
        root: the folder that has `proc` and `sys`.

    Raises:
        ConfigError: `given` is not 1 to 1024.
    """
    if given is not None:
        if not 1 <= given <= MOST_THREADS:
            raise ConfigError(f"--threads is {given}, expected 1 to {MOST_THREADS}")
        return Threads(given, "--threads")
    # Such as "4,2", which is for nested regions too.
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted.isascii() and wanted.isdecimal() and 1 <= int(wanted) <= MOST_THREADS:
        return Threads(int(wanted), f"OMP_NUM_THREADS is {wanted}")
    return usable_cpus(root)


def usable_cpus(root: Path = Path("/")) -> Threads:
    """Threads for the CPUs that the process may use.

    They are those of its affinity mask, but no more than the quota of its cgroup. A quota with a
    fraction is rounded up, because threads that are stopped at times do more than CPU time that is
    never used.

    Args:
        root: the folder that has `proc` and `sys`.
    """
    total = os.cpu_count() or 1
    mask = allowed_cpus()
    allowed = total if mask is None else len(mask)
    quota = cpu_quota(root)
    if quota is not None and quota.cpus < allowed:
        count = math.ceil(quota.cpus)
        rounded = "" if count == quota.cpus else ", rounded up"
        why = f"the cgroup quota is {quota.cpus:.4g} CPUs{rounded}"
        return Threads(count, f"{count} of {total} CPUs: {why}")
    if allowed < total:
        return Threads(allowed, f"{allowed} of {total} CPUs: the affinity mask")
    return Threads(total, f"all {total} CPUs" if total > 1 else "the only CPU")


def cpu_quota(root: Path = Path("/")) -> Quota | None:
    """Smallest CPU quota of the process's cgroup and of those above it; None if none is seen.

    Args:
        root: the folder that has `proc` and `sys`.
    """
    found = []
    for folder in _cgroup_folders(root):
        cpus = _quota_of(folder)
        if cpus is not None:
            found.append(Quota(cpus, folder))
    return min(found, key=lambda quota: quota.cpus, default=None)


def allowed_cpus() -> set[int] | None:
    """Numbers of the CPUs of the affinity mask; None where there is no mask, or it is OpenMP's."""
    if not hasattr(os, "sched_getaffinity") or any(name in os.environ for name in _BINDING):
        return None
    return os.sched_getaffinity(0)


def _quota_of(folder: Path) -> float | None:
    """CPUs of a cgroup's own quota, of version 2 or 1; None if it has none."""
    words = _text(folder / "cpu.max").split() or [
        *_text(folder / "cpu.cfs_quota_us").split(),
        *_text(folder / "cpu.cfs_period_us").split(),
    ]
    try:
        quota, period = map(int, words)
        return quota / period if quota > 0 and period > 0 else None  # version 1 says -1 for none
    except (ValueError, OverflowError):  # "max 100000", no files, or not what the kernel writes
        return None


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """Folders of the process's cgroup and of those above it, in each hierarchy with CPU time."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        if number == "0" and controllers == "":
            mounts = list(_mounts(root, "cgroup2", None))
        elif "cpu" in controllers.split(","):
            mounts = list(_mounts(root, "cgroup", "cpu"))
        else:
            continue
        inside = PurePosixPath(path)
        for top, folder in mounts:
            # A container may see its cgroup by a name from outside, but has its own mounted.
            if ".." not in inside.parts and inside.is_relative_to(top):
                below = inside.relative_to(top)
                yield from (folder / part for part in (below, *below.parents))
                break
        else:
            yield from (folder for _, folder in mounts[:1])


def _mounts(root: Path, kind: str, option: str | None) -> Iterator[tuple[PurePosixPath, Path]]:
    """Mounts of cgroups: the cgroup that is on top there, and the folder."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if len(fields) < 5 or len(kinds) < 3 or kinds[0] != kind:
            continue
        if option is None or option in kinds[2].split(","):
            top, place = (re.sub(r"\\([0-7]{3})", _octal, text) for text in fields[3:5])
            yield PurePosixPath(top), root / place.lstrip("/")


def _octal(match: re.Match[str]) -> str:
    return chr(int(match[1], 8))


def _text(path: Path) -> str:
    """Text of a file, empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
