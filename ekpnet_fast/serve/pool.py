"""Thread pool that computes for requests, with a bound on how many may wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class Busy(Exception):  # noqa: N818 - a state of the server, sent to the client as 503
    """Refusal of a request: every thread computes and the queue is full."""


class Overdue(Exception):  # noqa: N818
    """Timeout of an answer that took longer than its limit."""


class Pool:
    """Pool of threads that compute for requests.

    Every request computes on one thread: with many small requests, handing parts of one to other
    cores costs more than it saves, and the cores are busy with other requests anyway.

    Args:
        threads: that compute at a time.
        queue: requests that may wait for a thread.
        timeout: seconds that a request may wait and compute together.
    """

    def __init__(self, threads: int, queue: int, timeout: float) -> None:
        self.threads, self.queue, self.timeout = threads, queue, timeout
        self._lock = threading.Lock()
        self._pending = 0
        self._executor = ThreadPoolExecutor(
            threads, thread_name_prefix="compute", initializer=lambda: torch.set_num_threads(1)
        )

    @property
    def pending(self) -> int:
        """Requests that wait or compute."""
        return self._pending

    async def run(self, work: Callable[[], T]) -> T:
        """Run some work on a thread and wait for it.

        Raises:
            Busy: there is no place in the queue; nothing was started.
            Overdue: it took too long. What had begun goes on and keeps its thread until it ends,
                because a thread cannot be stopped; what had not is dropped.
        """
        with self._lock:
            if self._pending >= self.threads + self.queue:
                raise Busy
            self._pending += 1
        try:
            future = self._executor.submit(work)
        except RuntimeError:  # the pool is closed
            self._done()
            raise
        future.add_done_callback(self._done)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.timeout)
        except asyncio.TimeoutError:
            raise Overdue from None

    def close(self) -> None:
        """Drop the requests that wait, and wait for those that compute."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _done(self, _: Future[T] | None = None) -> None:
        with self._lock:
            self._pending -= 1
