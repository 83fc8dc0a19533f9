"""Signals that stop a run, Ctrl-C (SIGINT) and SIGTERM, without tearing a step."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupted", "Signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Stop of a run by a signal; the text names its position.

    Attributes:
        signum: the signal; a command exits with 128 + signum.
    """

    def __init__(self, signum: int, where: str = "") -> None:
        super().__init__(signum, where)
        self.signum = signum
        self.where = where

    def __str__(self) -> str:
        """Text on one line."""
        return f"stopped by {signal.Signals(self.signum).name}{self.where and ' ' + self.where}"


class Signals:
    """Handler of the first signal inside the block; a second one ends the process at once.

    Inside `deferred` the signal is only noted in `caught`, so that training can stop between two
    steps; elsewhere it raises `Interrupted` where it strikes, as Ctrl-C does.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._deferring = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        """Set the handlers."""
        self._before = {signum: signal.signal(signum, self._handle) for signum in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the handlers from before."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Context of a block that checks `caught` itself; a signal left over is raised after it.

        Where the block ends by an error, a signal is only noted from there on too, so that the
        error is what is told.

        Raises:
            Interrupted: a signal came and the block ended without stopping for it.
        """
        self._deferring = True
        yield
        self._deferring = False
        if self.caught is not None:
            raise Interrupted(self.caught)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.caught is not None:
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), b"\x1b[?25h\n")  # a progress bar hides the cursor
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        self.caught = signum
        if not self._deferring:
            raise Interrupted(signum)
