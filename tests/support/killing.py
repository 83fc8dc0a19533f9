"""Killing of runs at random moments: `killing.py FOLDER KILLS RESUMES SEED OPTIONS...`.

Resumes them, until at least so many were killed and so many went on. A program of its own, because
a process that has computed with several threads must not fork. It forks, after the slow imports, a
process for each part of a run; prints as JSON their exit codes, how many runs they were, and
what they said on stderr.
"""

from __future__ import annotations

import io
import json
import math
import os
import random
import signal
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

# What a training process imports late is imported here, once for all that are forked.
import ekpnet_fast.evaluation.scoring
import ekpnet_fast.runs.display
import ekpnet_fast.runs.options
import ekpnet_fast.runs.runner  # noqa: F401
from ekpnet_fast import train

KILL, TERM = int(signal.SIGKILL), int(signal.SIGTERM)


def process_of(
    arguments: list[str], log: Path, seconds: float = math.inf, signum: int = KILL
) -> int:
    """Run a process that trains, signalled after so many seconds; returns its exit code."""
    pid = os.fork()
    if pid == 0:
        sys.stdout = io.StringIO()
        with log.open("a", buffering=1) as file, redirect_stderr(file):
            code = train.main(arguments)
        os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signum)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder: Path, kills: int, resumes: int, seed: int, options: list[str]) -> None:
    """Run undisturbed once, then others until so many were killed and so many went on."""
    draw = random.Random(seed)
    log = folder / "log.txt"
    started = time.monotonic()
    assert process_of([*options, "--output", str(folder / "undisturbed")], log) == 0
    most = time.monotonic() - started  # seconds of a process
    codes: list[int] = []
    runs = 0

    def enough() -> bool:
        went_on = log.read_text().count("resumed after")
        return codes.count(-KILL) >= kills and went_on >= resumes

    while not enough():
        output = folder / f"run-{runs}"
        runs += 1
        arguments = [*options, "--output", str(output)]
        before: list[str] = []
        while not (output / "metrics.json").exists():
            # Now and then the gentle signal, which leaves a checkpoint in the middle of an epoch.
            signum = draw.choice([KILL, KILL, KILL, TERM])
            seconds = math.inf if enough() else draw.uniform(0.0, most)
            codes.append(process_of(arguments, log, seconds, signum))
            # -TERM: before the handler was there.
            assert codes[-1] in (0, -KILL, -TERM, 128 + TERM), (codes[-1], log.read_text())
            # However busy the machine is, processes are to end in the middle of a run.
            found = sorted(path.name for path in output.glob("checkpoint-*.json"))
            most *= 0.8 if codes[-1] == 0 else 1.4 if found == before else 1.0
            before = found
            if (output / "config.yaml").exists():
                arguments = ["--resume", str(output)]
        if codes[-1] != 0:  # killed between its result and the end
            assert process_of(["--resume", str(output)], log) == 2
    print(json.dumps({"codes": codes, "runs": runs, "log": log.read_text().splitlines()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]), sys.argv[5:])
