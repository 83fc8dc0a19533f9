"""Parts of a measurement: what one finds is on disk before the next one begins."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

Record = dict[str, Any]


class Stopped(BaseException):
    """Stop of the whole measurement; no `Exception`, so that no part takes it for its own."""


class Parts:
    """Record of a measurement, written after every part of it.

    A part that fails is named, with its exception, and stops no other; only a GPU that no longer
    answers ends the measurement, because every later part would fail of that too.

    Args:
        path: JSON file of the record; its tables go beside it, as `.md`.
        device: what is measured.
        found: first entries of the record.
        render: makes the tables.
        seconds: no part begins after so many.

    Attributes:
        found: the record. `failed` has the traceback of each failed part by its name, `left_out`
            the parts that were not begun, `stopped` why the measurement ended before its last
            part, or None.
    """

    def __init__(
        self,
        path: Path,
        device: torch.device,
        found: Record,
        render: Callable[[Record], str],
        seconds: float = float("inf"),
    ) -> None:
        self._path, self._device, self._render = path, device, render
        self._started, self._seconds = time.perf_counter(), seconds
        self.found: Record = {
            **found,
            **{"ceilings": {}, "failed": {}, "left_out": [], "stopped": None, "seconds": 0.0},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write()

    def run(self, name: str, work: Callable[[], Any], keep: Callable[[Any], object]) -> None:
        """Run a part and keep what it finds.

        Raises:
            Stopped: the device no longer answers.
        """
        after = time.perf_counter() - self._started
        if after > self._seconds:
            self.found["left_out"].append(name)
            self.write()
            return
        print(f"[{after:5.0f} s] {name}", file=sys.stderr, flush=True)
        try:
            keep(work())
        except Exception:  # whatever it is, the other parts are worth having
            self.found["failed"][name] = traceback.format_exc()
            print(self.found["failed"][name], file=sys.stderr, flush=True)
        self.write()
        self._recover(name)

    def write(self) -> None:
        """Write record and tables, each whole at any moment."""
        self.found["seconds"] = time.perf_counter() - self._started
        record = json.dumps(self.found, indent=1) + "\n"
        for path, text in (
            (self._path, record),
            (self._path.with_suffix(".md"), self._render(self.found)),
        ):
            part = path.with_name(f"{path.name}.part")
            part.write_text(text, encoding="utf-8")
            os.replace(part, path)

    def _recover(self, name: str) -> None:
        if self._device.type != "cuda":
            return
        try:
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
        except Exception as error:  # errors of kernels stay until the process ends
            raise Stopped(f"the GPU no longer answers after {name}: {error}") from error


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into `Stopped` meanwhile."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
