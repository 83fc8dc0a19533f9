"""Runs of TorchRec that are disturbed and go on: `torchrec_resumes.py FOLDER OPTIONS...`.

A program of its own, as `rank_runs.py`, by which it starts processes. Prints as JSON the exit codes
and what was said, by run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rank_runs import codes, start, wait_for

# Imported here, once for all processes that are forked.
from ekpnet_fast.training.parallel import torchrec_rows


def killed_in_the_second_stage() -> Callable[[int], None]:
    """What two processes do first: the second kills itself where the first waits for it.

    That is as the tables of the second stage are made.
    """
    here, there = os.pipe()

    def prepare(rank: int) -> None:
        real, names = torchrec_rows._Rows.__init__, set()

        def made(self: Any, name: str, *arguments: Any) -> None:
            if name in names and rank == 0:
                os.write(there, b"!")
            elif name in names:
                os.read(here, 1)
                os.kill(os.getpid(), signal.SIGKILL)
            names.add(name)
            real(self, name, *arguments)

        torchrec_rows._Rows.__init__ = made

    return prepare


def main(folder: Path, options: list[str]) -> None:
    """Make all runs."""
    found = {}

    def tell(name: str, pids: list[int]) -> None:
        found[name] = {"codes": codes(pids), "said": (folder / f"{name}.txt").read_text()}

    def begin(
        name: str, size: int, prepare: Callable[[int], None] = lambda rank: None
    ) -> list[int]:
        words = [*options, "--output", str(folder / name)]
        return start(words, size, folder / f"{name}.txt", prepare)

    def go_on(name: str, before: str, size: int) -> None:
        shutil.copytree(folder / before, folder / name)
        tell(name, start(["--resume", str(folder / name)], size, folder / f"{name}.txt"))

    tell("undisturbed", begin("undisturbed", 2))

    # Of two processes one is killed.
    pids = begin("killed", 2)
    wait_for(folder / "killed", "checkpoint-*.json")
    os.kill(pids[1], signal.SIGKILL)
    tell("killed", pids)
    for name, size in (("two again", 2), ("four of two", 4), ("one of two", 1)):
        go_on(name, "killed", size)

    tell("killed between stages", begin("killed between stages", 2, killed_in_the_second_stage()))

    # Four are stopped.
    pids = begin("stopped", 4)
    wait_for(folder / "stopped", "checkpoint-*.json")
    os.kill(pids[0], signal.SIGTERM)
    tell("stopped", pids)
    go_on("two of four", "stopped", 2)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
