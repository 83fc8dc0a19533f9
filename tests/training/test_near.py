"""Messages to processes of the same machine, which are threads here."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from ekpnet_fast.errors import TrainingError
from ekpnet_fast.training.parallel import near
from ekpnet_fast.training.parallel.near import Neighbour, neighbours

SECONDS = 20.0


def together(size, work, seconds=SECONDS):
    """The results of `work(rank, neighbours of it)` in so many threads, by rank."""
    board, barrier = [None] * size, Barrier(size)

    def of(rank):
        def post(value):
            board[rank] = value
            barrier.wait(SECONDS)
            return list(board)

        found = neighbours(rank, size, seconds, post)
        try:
            return work(rank, found)
        finally:
            for neighbour in found.values():
                neighbour.close()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(of, range(size)))


@pytest.mark.parametrize("size", [2, 4])
def test_messages_come_as_they_were_sent(size):
    """Of lengths that change, so that memory grows; readable until the next one is sent."""

    def length(rank, other, turn):
        return (rank * 7919 + other * 104729 + turn * 50021) % (turn * 30011 + 1)

    def message(rank, other, turn):
        return np.arange(length(rank, other, turn), dtype=np.float32) + rank * 10 + other + turn

    def work(rank, near):
        before, last = {}, 0
        for turn in range(12):
            for other, neighbour in near.items():
                neighbour.outbox(length(rank, other, turn))[:] = message(rank, other, turn)
            for other, came in before.items():
                assert np.array_equal(came, message(other, rank, last))
            for neighbour in near.values():
                neighbour.send()
            before, last = (
                {
                    other: neighbour.receive(length(other, rank, turn))
                    for other, neighbour in near.items()
                },
                turn,
            )
        return list(near)

    found = together(size, work)
    assert found == [[other for other in range(size) if other != rank] for rank in range(size)]


def test_a_process_that_ends_is_noticed():
    def work(rank, near):
        if rank == 0:
            return
        with pytest.raises(ConnectionError):
            near[0].receive(1)
        near[0].outbox(1)
        with pytest.raises(ConnectionError):
            near[0].send()

    together(2, work)


def test_a_process_that_does_not_answer_is_given_up():
    barrier = Barrier(2)

    def work(rank, near):
        if rank == 1:
            with pytest.raises(TimeoutError, match="timed out"):
                near[0].receive(1)
        barrier.wait(SECONDS)

    together(2, work, seconds=0.05)


def test_another_length_is_refused():
    def work(rank, near):
        (other,) = near.values()
        other.outbox(3)
        other.send()
        with pytest.raises(ValueError, match="it has sent 3 numbers, expected 4"):
            other.receive(4)

    together(2, work)


def test_machines_have_no_memory_in_common(monkeypatch):
    places = iter(["one", "", "other", "one"])
    monkeypatch.setattr(near, "machine", lambda: next(places))
    found = together(4, lambda rank, near: (rank, list(near)))
    assert sorted(len(near) for _, near in found) == [0, 0, 1, 1]


def test_nothing_is_left_open():
    def work(rank, near):
        for neighbour in near.values():
            neighbour.outbox(9)[:] = 0
            neighbour.send()
        return [neighbour.receive(9).tolist() for neighbour in near.values()]

    counts = []
    for _ in range(2):
        assert together(3, work) == [[[0] * 9] * 2] * 3
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[0] == counts[1]


# ---- what cannot be had --------------------------------------------------------------------------


def test_memory_that_cannot_be_had_is_told_on_both_sides(monkeypatch):
    def no_room(*_):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    def work(rank, near):
        (other,) = near.values()
        other.outbox(9)[:] = 0
        other.send()
        if barrier.wait(SECONDS) == 0:
            monkeypatch.setattr(mmap, "mmap", no_room)
        barrier.wait(SECONDS)
        with pytest.raises(TrainingError, match="asked for 65,536 bytes of memory, found 'Cannot"):
            other.receive(9)
        with pytest.raises(TrainingError, match=r"131,072 bytes .*start fewer processes"):
            other.outbox(1 << 15)

    barrier = Barrier(2)
    together(2, work)


@pytest.mark.parametrize("room", [1, 3])
def test_files_that_cannot_be_had_are_told(room):
    """Of the four of a neighbour, two are opened by the other process and passed on."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ours, theirs:
        socket.send_fds(theirs, [bytes(8)], [theirs.fileno()] * 2)
        first = os.dup(ours.fileno())
        os.close(first)
        resource.setrlimit(resource.RLIMIT_NOFILE, (first + room, before[1]))
        try:
            with pytest.raises(TrainingError, match="asked for a file in memory, found 'Too many"):
                Neighbour(ours, 0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
