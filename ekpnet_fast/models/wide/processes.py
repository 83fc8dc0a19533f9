"""Processes that fit a wide part together, as one of them sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

__all__ = ["ALONE", "Processes"]


class Processes(Protocol):
    """Processes that do the same, in the same order.

    Attributes:
        rank: number of this process.
        size: W, number of processes.
    """

    rank: int
    size: int

    def each(self, x: Tensor, rows: Sequence[int]) -> Iterator[Tensor]:
        """Tensors [rows[rank], ...] of the processes by rank, one at a time, everywhere."""


class _Alone:
    rank, size = 0, 1

    def each(self, x: Tensor, rows: Sequence[int]) -> Iterator[Tensor]:
        yield x


ALONE: Processes = _Alone()
"""One process."""
