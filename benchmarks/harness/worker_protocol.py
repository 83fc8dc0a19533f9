"""Line protocol between a benchmark and a worker process.

The other process reads the number of calls and the job's name from a line, does that, and answers
with a line of JSON.
So two interpreters, instruction sets or core counts take turns in one benchmark like two functions.
This module imports nothing but the standard library: it also runs where this project is not
installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Reply:
    """Reply of a worker to a request: time, samples and facts of its calls.

    Attributes:
        seconds: they took.
        samples: they worked on.
        facts: further ones of the worker.
    """

    seconds: float
    samples: float
    facts: dict[str, Any]


def serve(
    job: Callable[[str], float],
    facts: Callable[[], Mapping[str, Any]] = dict,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Answer requests until the input ends.

    Args:
        job: one call of the job that the request names; returns the samples it worked on.
        facts: called after the calls of a request.
        before: called before those, not timed.
    """
    # Libraries print; only replies may go to the pipe.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        calls, _, name = line.strip().partition(" ")
        before()
        started = time.perf_counter()
        samples = sum(job(name) for _ in range(int(calls)))
        reply = {"seconds": time.perf_counter() - started, "samples": samples, **facts()}
        print(json.dumps(reply), file=replies, flush=True)


class Worker:
    """Worker process; calling it does one call there. A context manager."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        """Start it and wait until it is ready.

        Args:
            arguments: of the interpreter, such as `-m`, a module and its options.
            python: the interpreter.
            environment: variables beside those of this process.
            log: where its standard error goes; that of this process if None.

        Raises:
            RuntimeError: it ended before it was ready.
        """
        self._log_path = log
        self._log = log.open("w") if log is not None else None
        self._name = " ".join(arguments)
        self._process = subprocess.Popen(
            [python, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )
        self._read()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        if self._log is not None:
            self._log.close()

    def __call__(self, calls: int = 1, name: str = "") -> Reply:
        """Do some calls of a worker's job by its name."""
        assert self._process.stdin is not None
        print(calls, name, file=self._process.stdin, flush=True)
        facts = self._read()
        return Reply(facts.pop("seconds"), facts.pop("samples"), facts)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            said = self._log_path.read_text() if self._log_path is not None else ""
            raise RuntimeError(
                f"the worker `{self._name}` ended with exit status {code}: {said[-2000:]}"
            )
        reply: dict[str, Any] = json.loads(line)
        return reply
