"""World: the processes that train together, as one of them sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Event
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["WAIT_VARIABLE", "Float32", "World"]

Float32 = NDArray[np.float32]

WAIT_VARIABLE = "EKPNET_WAIT"  # seconds that processes wait for each other, at most

Value = TypeVar("Value")


class World:
    """World of one process; `group.Group` is one of several.

    All processes call its methods in the same order, or they wait for each other in vain.

    Attributes:
        rank: number of this process.
        size: W, number of processes.
        sent: bytes that this process has sent to others, without what the transport adds.
        caught: gives the signal that this process has caught, None without one.
        stop: signal that one of the processes had caught at the last step, None without one.
    """

    rank = 0
    size = 1

    def __init__(self) -> None:
        self.sent = 0
        self.caught: Callable[[], int | None] = lambda: None
        self.stop: int | None = None

    def outbox(self, lengths: Sequence[int]) -> list[Float32]:
        """Messages [lengths[rank]] to be written, by rank; `deliver` sends them."""
        return [np.empty(length, np.float32) for length in lengths]

    def deliver(self, lengths: Sequence[int]) -> list[Float32]:
        """Messages [lengths[rank]] of the processes to this one, by rank.

        They may be read until the next ones are delivered.
        """
        return [np.empty(length, np.float32) for length in lengths]

    def each(self, x: Tensor, rows: Sequence[int]) -> Iterator[Tensor]:
        """Tensors [rows[rank], ...] of the processes by rank, one at a time, everywhere."""
        yield x

    def share(self, value: Value) -> Value:
        """Value of the first process, everywhere."""
        return value

    def answered(self) -> AbstractContextManager[None]:
        """Context of a collective that is not one of these methods.

        Raises:
            TrainingError: another process does not answer.
        """
        return nullcontext()

    def meet(self) -> None:
        """Wait until all processes are here."""

    def post(self, name: str, value: Value, given_up: Event) -> list[Value]:
        """Values of the processes by rank, on the first one; on the others their own.

        Unlike the other methods it may be called by any thread, while others are called.

        Args:
            name: of the values, used once.
            value: JSON-serialisable.
            given_up: ends the waiting.
        """
        return [value]
