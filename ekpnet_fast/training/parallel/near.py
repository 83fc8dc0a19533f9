"""Messages to another process of this machine, by memory that both have mapped.

Over loopback a message is copied four times, and wakes threads of gloo on both sides. Here the
sender writes it where the receiver reads it. A Unix socket passes the memory on, then tells of each
message, and of the end of the process at its other end. Neither has a name in a file system, so
that nothing is left of a process that is killed.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ekpnet_fast.errors import TrainingError, reason
from ekpnet_fast.training.parallel.world import Float32

__all__ = ["Neighbour", "machine", "neighbours"]

_LEAST = 1 << 16  # bytes of a memory
_HEAD = struct.Struct("<q")  # floats of a message; the rank in the first one


def machine() -> str:
    """Name of what processes must share to be neighbours; empty where the system has no such."""
    try:
        booted = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{booted}/{os.stat('/proc/self/ns/net').st_ino}"
    except OSError:
        return ""


def neighbours(
    rank: int, size: int, seconds: float, post: Callable[[list[str]], list[list[str]]]
) -> dict[int, Neighbour]:
    """Other processes of this machine, by rank; all processes call it.

    Args:
        rank: number of this process.
        size: W, number of processes.
        seconds: that a process waits for another one.
        post: gives what every process posts, [W] by rank.

    Raises:
        OSError: a process does not answer.
        TrainingError: memory cannot be had.
    """
    place, name = machine(), f"ekpnet-{secrets.token_hex(16)}"
    if not place:
        post(["", ""])
        return {}
    found = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.settimeout(seconds)
        door.bind(f"\0{name}")  # in no file system
        door.listen(size)
        posted = post([place, name])
        near = [other for other, (where, _) in enumerate(posted) if where == place]
        for other in near:
            if other < rank:
                link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                link.settimeout(seconds)
                link.connect(f"\0{posted[other][1]}")
                found[other] = Neighbour(link, rank)
        for _ in range(sum(other > rank for other in near)):
            link, _ = door.accept()
            link.settimeout(seconds)
            neighbour = Neighbour(link, rank)
            found[neighbour.rank] = neighbour
    return dict(sorted(found.items()))


class Neighbour:
    """Another process of this machine.

    Each side has two memories that it writes by turns. So a message may be read until this side
    sends the next one: no other can take its memory before.

    Args:
        link: socket to it, of packets.
        rank: number of this process.

    Attributes:
        rank: number of the other one.

    Raises:
        OSError: it does not answer.
        TrainingError: memory cannot be had.
    """

    def __init__(self, link: socket.socket, rank: int) -> None:
        self._link = link
        with _had("a file in memory"):
            mine = [_Memory(os.memfd_create("ekpnet")) for _ in range(2)]
        socket.send_fds(link, [_HEAD.pack(rank)], [memory.file for memory in mine])
        told, files, *_ = socket.recv_fds(link, _HEAD.size, 2)
        (self.rank,) = _HEAD.unpack(_whole(told))
        with _had("a file in memory"):
            if len(files) < 2:  # the system has left out what this process has no room for
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self._mine, self._theirs = mine, [_Memory(file) for file in files]
        self._length = 0

    def outbox(self, length: int) -> Float32:
        """Message [length] to be written, which `send` sends.

        Raises:
            TrainingError: memory cannot be had.
        """
        self._length = length
        memory = self._mine[0]
        memory.grow(4 * length)
        return memory.floats(length)

    def send(self) -> None:
        """Send the message.

        Raises:
            OSError: the other process has ended.
        """
        self._mine.reverse()
        self._link.sendall(_HEAD.pack(self._length))

    def receive(self, length: int) -> Float32:
        """Message [length] that the other process has sent.

        Raises:
            OSError: it has ended, or does not answer.
            ValueError: it has sent a message of another length.
            TrainingError: memory cannot be had.
        """
        (sent,) = _HEAD.unpack(_whole(self._link.recv(_HEAD.size)))
        if sent != length:
            raise ValueError(f"it has sent {sent} numbers, expected {length}")
        self._theirs.reverse()
        return self._theirs[1].floats(length)

    def close(self) -> None:
        """End the connection, of which the other process is told."""
        self._link.close()
        for memory in (*self._mine, *self._theirs):
            os.close(memory.file)


def _whole(told: bytes) -> bytes:
    """What was told, which is nothing where the other process has ended."""
    if not told:
        raise ConnectionResetError("connection closed by peer")
    return told


@contextmanager
def _had(what: str) -> Iterator[None]:
    """Context that asks the system for what messages need.

    Raises:
        TrainingError: it cannot be had.
    """
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"messages to another process of this machine: asked for {what}, found"
            f" {reason(error)!r}; expected two memories of a message's size and two open files for"
            " each other process in each direction: start fewer processes on this machine, make"
            " batches smaller, or raise its limits (ulimit -v, ulimit -n)"
        ) from error


class _Memory:
    """Memory of messages in one direction, by a file that is in no folder; both sides map it."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._floats = np.zeros(0, np.float32)

    def grow(self, size: int) -> None:
        """Have at least so many bytes."""
        if size > self._floats.nbytes:
            whole = max(_LEAST, 1 << (size - 1).bit_length())
            with _had(f"{whole:,} bytes of memory"):
                os.ftruncate(self.file, whole)

    def floats(self, length: int) -> Float32:
        """The first so many float32, of a file that has them."""
        if length > len(self._floats):
            # What is mapped already stays so as long as an array is in it.
            size = os.fstat(self.file).st_size
            with _had(f"{size:,} bytes of memory"):
                mapped = mmap.mmap(self.file, size)
            self._floats = np.frombuffer(mapped, np.float32)
        return self._floats[:length]
