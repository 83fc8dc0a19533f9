"""Runs of several processes: `rank_runs.py FOLDER OPTIONS...`.

A program of its own that forks, after the slow imports, the processes of each run, with the
variables that torchrun sets. Some runs are disturbed. Prints as JSON the exit codes and what was
said, by run.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

# What a training process imports late is imported here, once for all that are forked.
import ekpnet_fast.evaluation.scoring
import ekpnet_fast.runs.display
import ekpnet_fast.runs.options
import ekpnet_fast.runs.runner
import ekpnet_fast.training.parallel.group  # noqa: F401
from ekpnet_fast import train

PATIENCE = 60.0  # seconds


def start(
    words: list[str], size: int, log: Path, prepare: Callable[[int], None] = lambda rank: None
) -> list[int]:
    """Start the processes of a run, which begin by `prepare(rank)`; returns their ids by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    pids = []
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            if size > 1:
                os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_PORT=port)
                os.environ["MASTER_ADDR"] = "127.0.0.1"
            prepare(rank)
            sys.stdout = io.StringIO()
            with log.open("a", buffering=1) as file, redirect_stderr(file):
                try:
                    code = train.main(words)
                except SystemExit as end:
                    code = int(end.code or 0)
                file.write(sys.stdout.getvalue())
            os._exit(code)
        pids.append(pid)
    return pids


def codes(pids: list[int]) -> list[int]:
    """Exit codes of processes, which are killed where they take too long."""
    found, deadline = [], time.monotonic() + PATIENCE
    for pid in pids:
        while not (done := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        found.append(os.waitstatus_to_exitcode(done[1]))
    return found


def wait_for(folder: Path, pattern: str) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + PATIENCE
    while not any(folder.glob(pattern)):
        assert time.monotonic() < deadline, (folder, pattern)
        time.sleep(0.002)


def main(folder: Path, options: list[str]) -> None:
    """Make all runs."""
    found = {}

    def tell(name: str, pids: list[int]) -> None:
        found[name] = {"codes": codes(pids), "said": (folder / f"{name}.txt").read_text()}

    for name, size in (("one", 1), ("two", 2), ("four", 4)):
        tell(name, start([*options, "--output", str(folder / name)], size, folder / f"{name}.txt"))

    # Of two processes one is killed, the one that goes on is stopped, and four finish.
    output = folder / "disturbed"
    pids = start([*options, "--output", str(output)], 2, folder / "killed.txt")
    wait_for(output, "checkpoint-2.json")
    os.kill(pids[1], signal.SIGKILL)
    tell("killed", pids)
    pids = start(["--resume", str(output)], 1, folder / "stopped.txt")
    wait_for(output, "checkpoint-4.json")
    os.kill(pids[0], signal.SIGTERM)
    tell("stopped", pids)
    tell("finished", start(["--resume", str(output)], 4, folder / "finished.txt"))

    # One is killed as soon as a part of a checkpoint is there, at times before the whole is.
    output = folder / "torn"
    pids = start([*options, "--output", str(output)], 2, folder / "torn.txt")
    wait_for(output, "checkpoint-3-shard-*")
    os.kill(pids[1], signal.SIGKILL)
    tell("torn", pids)
    tell("mended", start(["--resume", str(output)], 2, folder / "mended.txt"))

    # One hangs; the first one has what the others ask whether one of them has told already.
    os.environ["EKPNET_WAIT"] = "6"
    for rank in range(2):
        name = f"hung {rank}"
        pids = start([*options, "--output", str(folder / name)], 2, folder / f"{name}.txt")
        wait_for(folder / name, "checkpoint-2.json")
        os.kill(pids[rank], signal.SIGSTOP)
        other = codes([pids[1 - rank]])
        os.kill(pids[rank], signal.SIGKILL)
        tell(name, [pids[rank]])
        found[name]["codes"] += other
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
