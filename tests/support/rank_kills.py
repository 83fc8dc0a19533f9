"""Runs of several processes that are struck: `rank_kills.py FOLDER SEED STRIKES OPTIONS...`.

One of two or four processes kills or stops itself at a moment drawn from the seed: at any message
of a step, or while any file of a checkpoint is written or removed. Then the run is resumed, and
struck again, until there were so many strikes, and one of each kind; and goes on to its end. A
program of its own, as `rank_runs.py`, by which it starts processes. Prints as JSON how many runs
there were, how many seconds they waited for who hung, and of each start who was struck, when and
how, the exit codes and what was said.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rank_runs import PATIENCE, start

from ekpnet_fast.storage import files, tensor_file
from ekpnet_fast.training.parallel.group import Group

MOMENTS: dict[str, tuple[Any, str]] = {
    "message": (Group, "deliver"),
    "half a file": (tensor_file, "write"),  # of tensors
    "sync": (files, "sync"),  # of a file before it has its name, and of the name
    "removal": (Path, "unlink"),  # of the files of a checkpoint, which the first process removes
}
# "hung" is stopped for good, "paused" until the others have waited for it a little.
STRIKES = [
    *[("message", "killed"), ("half a file", "killed"), ("sync", "killed")],
    *[("removal", "killed"), ("message", "hung"), ("message", "paused")],
]
PAUSE, WAIT = 0.3, "10"  # seconds


class Strike(NamedTuple):
    """What strikes a process: `how`, at its call number `at` of a kind of moment."""

    rank: int
    moment: str
    at: int
    how: str


def counting(counts: Any, strike: Strike | None) -> Callable[[int], None]:
    """What a process does first: count its calls [rank, moment] of each kind, until struck."""

    def prepare(rank: int) -> None:
        for row, moment in enumerate(MOMENTS):
            struck = strike if strike and (strike.rank, strike.moment) == (rank, moment) else None
            wrap(moment, counts[rank, row : row + 1], struck)

    return prepare


def wrap(moment: str, count: Any, strike: Strike | None) -> None:
    """Count the calls of a moment, and strike this process at one of them."""
    owner, name = MOMENTS[moment]
    real = getattr(owner, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        if moment != "removal" or arguments[0].name.startswith("checkpoint-"):
            count[0] += 1
            if strike is not None and count[0] == strike.at:
                if moment == "half a file":
                    real(*arguments)
                    os.truncate(arguments[0], arguments[0].stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL if strike.how == "killed" else signal.SIGSTOP)
        return real(*arguments, **options)

    setattr(owner, name, counted)


def ends_of(pids: list[int], strike: Strike | None) -> tuple[list[int], bool]:
    """Exit codes of processes, and whether one was struck; who hangs is killed after the others."""
    found: dict[int, int] = {}
    stopped: set[int] = set()
    came, deadline = False, time.monotonic() + PATIENCE
    try:
        while len(found) < len(pids):
            assert time.monotonic() < deadline, (strike, found)
            for pid in {*pids} - {*found}:
                done, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
                if not done:
                    continue
                if not os.WIFSTOPPED(status):
                    found[pid] = os.waitstatus_to_exitcode(status)
                    came |= found[pid] == -signal.SIGKILL
                    continue
                came = True
                if strike is not None and strike.how == "paused":
                    time.sleep(PAUSE)
                    os.kill(pid, signal.SIGCONT)
                else:
                    stopped.add(pid)
            if stopped and {*pids} - {*found} == stopped:
                for pid in stopped:
                    os.kill(pid, signal.SIGKILL)
                stopped = set()
            time.sleep(0.002)
    finally:
        for pid in {*pids} - {*found}:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return [found[pid] for pid in pids], came


def main(folder: Path, seed: int, strikes: int, options: list[str]) -> None:
    """Run undisturbed once, then others until there were enough strikes."""
    draw = random.Random(seed)
    counts = np.frombuffer(mmap.mmap(-1, 8 * 4 * len(MOMENTS)), np.int64).reshape(4, -1)
    log = folder / "undisturbed.txt"
    words = [*options, "--output", str(folder / "undisturbed")]
    codes, _ = ends_of(start(words, 2, log, counting(counts, None)), None)
    assert codes == [0, 0], log.read_text()
    calls = counts.copy()  # of a whole run, by rank and moment

    left, told, runs = [*STRIKES], [], 0
    while left or sum(each["came"] for each in told) < strikes:
        output = folder / f"run-{runs}"
        runs += 1
        words = [*options, "--output", str(output)]
        while not (output / "metrics.json").exists():
            size = draw.choice([2, 2, 4])
            moment, how = draw.choice(left or STRIKES)
            rank = 0 if moment == "removal" else draw.randrange(size)
            # No process calls anything more often than one of two does; a resumed one less often.
            most = int(calls[min(rank, 1), [*MOMENTS].index(moment)])
            strike = Strike(rank, moment, draw.randint(1, max(1, most // 2)), how)
            os.environ["EKPNET_WAIT"] = WAIT if how == "hung" else str(PATIENCE / 2)
            counts[:] = 0
            log = folder / f"{len(told)}.txt"
            codes, came = ends_of(start(words, size, log, counting(counts, strike)), strike)
            # Else the run would be begun again and again.
            assert {*codes} <= ({0, 2, -signal.SIGKILL} if came else {0}), log.read_text()
            told.append({**strike._asdict(), "size": size, "came": came, "codes": codes})
            told[-1]["said"] = log.read_text()
            if came and (moment, how) in left:
                left.remove((moment, how))
            if (output / "config.yaml").exists():
                words = ["--resume", str(output)]
    json.dump({"runs": runs, "wait": WAIT, "starts": told}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:4]), sys.argv[4:])
