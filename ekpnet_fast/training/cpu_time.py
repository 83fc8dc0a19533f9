"""CPU time that training gets, beside what its threads could use; read from Linux' counters.

A step that is partly serial uses less than its threads too, so what counts is that threads which
were ready to run had to wait, or that the quota of a cgroup stopped them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ekpnet_fast.native.cpus import Quota, allowed_cpus, cpu_quota

__all__ = ["CpuWatch", "Reading", "shortage"]

SPAN = 3.0  # seconds between two readings that are compared, at least
WAITED = 0.2  # share of waiting in what threads wanted to run that is much
OTHERS = 0.5  # CPUs; with less than that used by others, threads waited for one another
STOPPED = 0.25  # share of a quota's periods that is much
MUCH_LESS = 0.7  # of the CPUs that a quota allows


@dataclass(frozen=True, slots=True)
class Reading:
    """Reading of counters; only differences of two mean something.

    Attributes:
        clock: seconds.
        used: CPU seconds of this process.
        ran, waited: seconds of each of its threads, by id, on a CPU and ready to run without one.
        busy: seconds that the CPUs it may use were busy with anything.
        periods, stopped: periods of the quota, and those in which it stopped the cgroup.
    """

    clock: float
    used: float
    ran: dict[int, float]
    waited: dict[int, float]
    busy: float
    periods: int = 0
    stopped: int = 0


def read(root: Path = Path("/"), quota: Quota | None = None) -> Reading | None:
    """Reading of now; None where the system does not count what threads wait.

    Args:
        root: the folder that has `proc`.
        quota: of the process's cgroup.
    """
    ran, waited = {}, {}
    try:
        for task in os.listdir(root / "proc/self/task"):
            try:
                words = (root / f"proc/self/task/{task}/schedstat").read_text().split()
            except (FileNotFoundError, ProcessLookupError):  # it ended since
                continue
            ran[int(task)], waited[int(task)] = int(words[0]) / 1e9, int(words[1]) / 1e9
        busy = _busy((root / "proc/stat").read_text())
        periods, stopped = (0, 0) if quota is None else _stops(quota.folder / "cpu.stat")
    except (OSError, ValueError, LookupError):
        return None
    return (
        Reading(time.monotonic(), time.process_time(), ran, waited, busy, periods, stopped)
        if ran
        else None
    )


def shortage(
    before: Reading, after: Reading, threads: int, cpus: int, quota: float | None = None
) -> str | None:
    """Advice where threads got much less CPU time than they could use between two readings.

    Args:
        before: the reading at the start.
        after: the one at the end.
        threads: that training computes with. With one there is nothing to set.
        cpus: of the affinity mask.
        quota: CPU seconds per second that its cgroup may use, or None.
    """
    if threads == 1:
        return None
    seconds = after.clock - before.clock
    got = (after.used - before.used) / seconds
    periods, stopped = after.periods - before.periods, after.stopped - before.stopped
    if quota is not None and periods > 0 and stopped >= STOPPED * periods:
        # Waiting says nothing here, because the time of being stopped counts as such.
        fitting = math.ceil(quota)
        if threads <= fitting:
            if got >= MUCH_LESS * min(threads, quota):
                return None
            fitting = max(1, round(got))  # others in the cgroup use the rest
        return (
            f"the {threads} threads got {got:.1f} CPUs: the cgroup quota of {quota:.4g} CPUs"
            f" stopped them in {100 * stopped / periods:.0f} % of its periods;"
            f" set --threads {fitting}"
        )
    ran, waited = _grown(before.ran, after.ran), _grown(before.waited, after.waited)
    if not waited >= max(WAITED * (ran + waited), WAITED / 2 * seconds):
        return None
    share = f"{100 * waited / (ran + waited):.0f} %"
    if threads > cpus:
        fitting = cpus if quota is None else min(cpus, math.ceil(quota))
        return (
            f"the {threads} threads waited {share} of the time for one of {cpus} CPUs;"
            f" set --threads {fitting}"
        )
    others = (after.busy - before.busy) / seconds - got
    if others < OTHERS:
        return None
    fitting = max(1, min(threads - 1, int(cpus - others)))
    return (
        f"the {threads} threads waited {share} of the time for a CPU, while other processes used"
        f" {others:.1f} of {cpus} CPUs; end those, or try --threads {fitting}"
    )


class CpuWatch:
    """Watch over the CPU time of a run, which has something to say once at most.

    Args:
        threads: that training computes with.
        take: takes a reading.
    """

    def __init__(self, threads: int, take: Callable[[], Reading | None] | None = None) -> None:
        mask = allowed_cpus()
        self._cpus = (os.cpu_count() or 1) if mask is None else len(mask)
        self._threads, self._quota = threads, cpu_quota()
        self._take = take or partial(read, quota=self._quota)
        self._last = self._take() if threads > 1 else None

    def advice(self) -> str | None:
        """Advice on the time since the last reading that was compared, if it is long enough."""
        if self._last is None or time.monotonic() - self._last.clock < SPAN:
            return None
        before, self._last = self._last, self._take()
        if self._last is None:
            return None
        quota = None if self._quota is None else self._quota.cpus
        found = shortage(before, self._last, self._threads, self._cpus, quota)
        if found is not None:
            self._last = None  # said once
        return found


def _grown(before: dict[int, float], after: dict[int, float]) -> float:
    """Growth of a counter over the threads that there are; those that ended are left out."""
    return sum(max(0.0, value - before.get(task, 0.0)) for task, value in after.items())


def _busy(text: str) -> float:
    """Busy seconds of the CPUs that the process may use, from the text of /proc/stat."""
    mask, ticks = allowed_cpus(), 0
    for line in text.splitlines():
        name, *fields = line.split()
        if not name.startswith("cpu") or name == "cpu":
            continue
        if mask is None or int(name[3:]) in mask:
            user, nice, system, _, _, irq, softirq = map(int, fields[:7])
            ticks += user + nice + system + irq + softirq
    return ticks / os.sysconf("SC_CLK_TCK")


def _stops(path: Path) -> tuple[int, int]:
    """Periods of a quota, and those in which it stopped the cgroup, from its `cpu.stat`."""
    facts = dict(line.split() for line in path.read_text().splitlines())
    return int(facts["nr_periods"]), int(facts["nr_throttled"])
