"""Worlds whose processes are threads, which exchange tensors by a shared list."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np

from ekpnet_fast.training.parallel.world import World


class ThreadWorld(World):
    """World of one of some threads; it copies what it gives to others, as processes do."""

    def __init__(self, rank, board, barrier, posted):
        super().__init__()
        self.rank, self.size = rank, len(board)
        self._board, self._barrier, self._posted = board, barrier, posted

    def meet(self):
        self._barrier.wait(60)

    def post(self, name, value, given_up):
        self._posted[name, self.rank] = value
        if self.rank > 0:
            return [value]
        while any((name, rank) not in self._posted for rank in range(self.size)):
            assert not given_up.wait(0.002)
        return [self._posted[name, rank] for rank in range(self.size)]

    def values(self, value):
        self._board[self.rank] = value
        self._barrier.wait(60)
        found = list(self._board)
        self._barrier.wait(60)
        return found

    def outbox(self, lengths):
        self._outbox = [np.empty(length, np.float32) for length in lengths]
        self.sent += 4 * (sum(lengths) - lengths[self.rank])
        return self._outbox

    def deliver(self, lengths):
        came = [found[self.rank] for found in self.values(self._outbox)]
        assert [len(message) for message in came] == list(lengths)
        return came

    def each(self, x, rows):
        found = self.values(x.clone())
        assert [len(x) for x in found] == list(rows)
        yield from found

    def share(self, value):
        return self.values(value)[0]


def run_together(size, work):
    """The results of `work(world)` in so many threads, by rank."""
    barrier, board, posted = Barrier(size), [None] * size, {}

    def guarded(rank):
        try:
            return work(ThreadWorld(rank, board, barrier, posted))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return [done.result() for done in [pool.submit(guarded, rank) for rank in range(size)]]
