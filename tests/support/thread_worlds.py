"""Worlds whose processes are threads, which exchange tensors by a shared list."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch

from ekpnet_fast.training.parallel.world import World


class ThreadWorld(World):
    """World of one of some threads; it copies what it gives to others, as processes do."""

    def __init__(self, rank, board, barrier):
        super().__init__()
        self.rank, self.size = rank, len(board)
        self._board, self._barrier = board, barrier

    def values(self, value):
        self._board[self.rank] = value
        self._barrier.wait(60)
        found = list(self._board)
        self._barrier.wait(60)
        return found

    def exchange(self, x, sent, received):
        self.sent += sum(x[0].nbytes * n for rank, n in enumerate(sent) if rank != self.rank and n)
        pieces = [found[self.rank] for found in self.values(torch.split(x.clone(), list(sent)))]
        assert [len(piece) for piece in pieces] == list(received)
        return torch.cat(pieces)

    def each(self, x, rows):
        found = self.values(x.clone())
        assert [len(x) for x in found] == list(rows)
        yield from found

    def share(self, value):
        return self.values(value)[0]


def run_together(size, work):
    """The results of `work(world)` in so many threads, by rank."""
    barrier, board = Barrier(size), [None] * size

    def guarded(rank):
        try:
            return work(ThreadWorld(rank, board, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return [done.result() for done in [pool.submit(guarded, rank) for rank in range(size)]]
