"""Processes that share a command's work, as torchrun and other schedulers number them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from ekpnet_fast.errors import ConfigError

if TYPE_CHECKING:  # commands that ask for nothing but the numbers start without it
    from torch import Tensor

__all__ = ["ALONE", "Processes", "rank_and_size"]


class Processes(Protocol):
    """Processes that do the same, in the same order, as one of them sees it.

    Attributes:
        rank: number of this process.
        size: W, number of processes.
    """

    rank: int
    size: int

    def each(self, x: Tensor, rows: Sequence[int]) -> Iterator[Tensor]:
        """Tensors [rows[rank], ...] of the processes by rank, one at a time, everywhere."""
        ...


class _Alone:
    """One process, which does all."""

    rank, size = 0, 1

    def each(self, x: Tensor, rows: Sequence[int]) -> Iterator[Tensor]:
        """Its own tensor."""
        yield x


ALONE: Processes = _Alone()


def rank_and_size(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Number of this process and number of all, from RANK and WORLD_SIZE; 0 and 1 without them.

    Raises:
        ConfigError: one of the two alone, or no numbers that go together.
    """
    variables = os.environ if environment is None else environment
    rank, size = (variables.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    if not rank and not size:
        return 0, 1
    if rank.isdecimal() and size.isdecimal() and int(rank) < int(size):
        return int(rank), int(size)
    raise ConfigError(
        f"RANK, WORLD_SIZE: found {rank or 'nothing'!r} and {size or 'nothing'!r}, expected two"
        " numbers, the first from 0 to the second less 1"
    )
