"""Launch of a training process: alone, or as one of those that torchrun started."""

from __future__ import annotations

import os
import signal
from types import TracebackType
from typing import TYPE_CHECKING

from ekpnet_fast.errors import ConfigError
from ekpnet_fast.native.processes import rank_and_size
from ekpnet_fast.terminal import TRACEBACK_VARIABLE
from ekpnet_fast.training.parallel.world import WAIT_VARIABLE, World

if TYPE_CHECKING:
    from ekpnet_fast.training.parallel.group import Group

__all__ = ["Launch"]

_WAIT = 300.0  # seconds; processes that do the same take about as long


class Launch:
    """Launch of this process, by the variables that torchrun sets; a context manager.

    Of what ends all processes one tells.

    Attributes:
        rank: number of this process.
        size: number of all.

    Raises:
        ConfigError: variables that do not go together.
    """

    def __init__(self) -> None:
        self.rank, self.size = rank_and_size()
        self._group: Group | None = None
        self._meeting = False

    def world(self, parts: int) -> World:
        """World of the processes, which wait for each other here.

        Args:
            parts: of a mini-batch, that the processes share.

        Raises:
            ConfigError: as many processes cannot share them.
            TrainingError: the processes do not find each other.
        """
        if self.size == 1:
            return World()
        if parts % self.size:
            raise ConfigError(
                f"--parallel.parts is {parts}, expected a multiple of {self.size}, the number of"
                " processes (WORLD_SIZE)"
            )
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if not os.environ.get(name):
                raise ConfigError(
                    f"{name} is not set, but WORLD_SIZE is {self.size}: start the processes by"
                    " torchrun, or unset RANK and WORLD_SIZE"
                )
        # Imported on use, because a process that is alone needs nothing of it.
        from ekpnet_fast.training.parallel.group import Group

        seconds = _wait()
        self._meeting = True
        self._group = Group(self.rank, self.size, seconds)
        return self._group

    def alone(self, what: str) -> None:
        """Refuse what one process does where there are several.

        Raises:
            ConfigError: there are several.
        """
        if self.size > 1:
            raise ConfigError(
                f"{what}: found {self.size} processes (WORLD_SIZE), expected one for it"
            )

    def tells(self) -> bool:
        """Whether this process is the one that says why all end."""
        if self._group is not None:
            return self._group.first_to_tell()
        # Where the processes do not find each other, the first one may have ended.
        return self.rank == 0 or self._meeting

    def __enter__(self) -> Launch:
        """Return the launch itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the group; end the process without a word where another one tells."""
        if error is not None and self._group is not None:
            # torchrun ends a process as soon as another one has ended; this one tells why first.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        told = error is None or isinstance(error, SystemExit) or os.environ.get(TRACEBACK_VARIABLE)
        quiet = not told and not self.tells()
        if self._group is not None:
            self._group.leave()
        if quiet:
            raise SystemExit(128 + int(getattr(error, "signum", 2 - 128))) from error


def _wait() -> float:
    """Seconds that a process waits for another one.

    Raises:
        ConfigError: the variable is no number above 0.
    """
    text = os.environ.get(WAIT_VARIABLE, "")
    try:
        seconds = float(text) if text else _WAIT
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{WAIT_VARIABLE} is {text!r}, expected seconds above 0")
    return seconds
