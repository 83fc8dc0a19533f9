"""Group of processes that torchrun started, on `torch.distributed` with gloo.

Messages of a step to processes of the same machine go by memory, see `near`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Event, Thread
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ekpnet_fast.errors import EkpnetError, TrainingError, reason
from ekpnet_fast.training.parallel.near import neighbours
from ekpnet_fast.training.parallel.world import WAIT_VARIABLE, Float32, World

__all__ = ["Group"]

Value = TypeVar("Value")

_POLL = 0.02  # seconds
_ASKED = 5.0  # seconds that a process which ends waits for the store
_NOTHING = np.zeros(0, np.float32)


class Group(World):
    """World of several processes.

    Args:
        rank: number of this process.
        size: W, number of processes.
        seconds: that a process waits for another one, at most.

    Raises:
        TrainingError: the processes do not find each other, or cannot have memory for messages.
    """

    def __init__(self, rank: int, size: int, seconds: float) -> None:
        super().__init__()
        self.rank, self.size, self._seconds = rank, size, seconds
        timeout = timedelta(seconds=seconds)
        # Processes that torchrun starts anew may find what those before them left in its store.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        with self.answered():
            store, *_ = next(dist.rendezvous("env://", rank, size, timeout=timeout))  # type: ignore[attr-defined]
            self._store = dist.PrefixStore(f"ekpnet/{attempt}", store)  # type: ignore[attr-defined]
            dist.init_process_group(
                "gloo", store=self._store, rank=rank, world_size=size, timeout=timeout
            )
            self._near = neighbours(rank, size, seconds, self._posted)
        self._remote = len(self._near) < size - 1
        self._far = torch.zeros(0), [0] * size

    def leave(self) -> None:
        """Leave the group; others that wait for this process end."""
        for neighbour in self._near.values():
            neighbour.close()
        with suppress(RuntimeError):
            dist.destroy_process_group()

    def first_to_tell(self) -> bool:
        """Whether no other process has asked this before, as where all end by one cause.

        Where it cannot be asked, or hangs, each is the first.
        """
        told: list[int] = []

        def ask() -> None:
            with suppress(RuntimeError):
                told.append(self._store.add("told", 1))

        # In a thread, because the store waits for its answer without an end.
        asking = Thread(target=ask, daemon=True)
        with suppress(RuntimeError):  # there can be no further thread
            asking.start()
            asking.join(_ASKED)
        return told in ([], [1])

    def outbox(self, lengths: Sequence[int]) -> list[Float32]:
        """Messages [lengths[rank]] to be written, by rank."""
        pieces = [_NOTHING] * self.size
        if self._remote:
            far = self._lengths(lengths)
            self._far = torch.empty(sum(far)), far
            pieces = _pieces(*self._far)
        for rank, neighbour in self._near.items():
            pieces[rank] = neighbour.outbox(lengths[rank])
        self.sent += 4 * (sum(lengths) - lengths[self.rank])
        return pieces

    def deliver(self, lengths: Sequence[int]) -> list[Float32]:
        """Messages [lengths[rank]] of the processes to this one, by rank."""
        pieces = [_NOTHING] * self.size
        with self.answered():
            for neighbour in self._near.values():
                neighbour.send()
            if self._remote:
                x, sent = self._far
                far = self._lengths(lengths)
                came = x.new_empty(sum(far))
                dist.all_to_all_single(came, x, far, sent)
                pieces = _pieces(came, far)
            for rank, neighbour in self._near.items():
                pieces[rank] = neighbour.receive(lengths[rank])
        return pieces

    def _lengths(self, lengths: Sequence[int]) -> list[int]:
        """Lengths of messages to or from processes of other machines, by rank."""
        return [0 if rank in self._near else length for rank, length in enumerate(lengths)]

    def each(self, x: Tensor, rows: Sequence[int]) -> Iterator[Tensor]:
        """Tensors [rows[rank], ...] of the processes by rank, one at a time, everywhere."""
        for rank in range(self.size):
            mine = rank == self.rank
            of_rank = x.contiguous() if mine else x.new_empty(rows[rank], *x.shape[1:])
            with self.answered():
                dist.broadcast(of_rank, rank)
            self.sent += (self.size - 1) * x.nbytes if mine else 0
            yield of_rank

    def share(self, value: Value) -> Value:
        """Value of the first process, everywhere."""
        values: list[Any] = [value if self.rank == 0 else None]
        with self.answered():
            dist.broadcast_object_list(values, 0)
        return cast(Value, values[0])

    def meet(self) -> None:
        """Wait until all processes are here."""
        with self.answered():
            dist.barrier()

    def post(self, name: str, value: Value, given_up: Event) -> list[Value]:
        """Values of the processes by rank, on the first one; on the others their own.

        By the store, because a thread that waited in a collective would be in the way of others.
        """
        if self.rank > 0:
            with self.answered():
                self._store.set(f"{name}/{self.rank}", json.dumps(value))
            return [value]
        values, deadline = [value], time.monotonic() + self._seconds
        for rank in range(1, self.size):
            with self.answered():
                while not self._store.check([f"{name}/{rank}"]):
                    if given_up.wait(_POLL) or time.monotonic() > deadline:
                        raise RuntimeError("timed out")
                values.append(json.loads(self._store.get(f"{name}/{rank}")))
        return values

    def _posted(self, value: list[str]) -> list[list[str]]:
        """Values of the processes by rank, everywhere."""
        self._store.set(f"near/{self.rank}", json.dumps(value))
        return [json.loads(self._store.get(f"near/{rank}")) for rank in range(self.size)]

    @contextmanager
    def answered(self) -> Iterator[None]:
        """Context of waiting for the other processes.

        Raises:
            TrainingError: one of them does not answer.
        """
        try:
            yield
        except EkpnetError:
            raise  # told already
        except (RuntimeError, ValueError, OSError) as error:
            said = str(error).lower()
            if "timed out" in said or "timeout" in said:
                why = f"has not answered for {self._seconds:g} s ({WAIT_VARIABLE})"
            elif "peer" in said or "connection" in said or isinstance(error, ConnectionError):
                why = "has ended"
            else:
                why = f"cannot be reached ({reason(error)})"
            raise TrainingError(
                f"process {self.rank} of {self.size}: another process {why}; start all of them"
                " again, with --resume where the run has an --output"
            ) from error


def _pieces(x: Tensor, lengths: Sequence[int]) -> list[Float32]:
    """Pieces of such lengths of a tensor, one after the other."""
    return [piece.numpy() for piece in torch.split(x, list(lengths))]
