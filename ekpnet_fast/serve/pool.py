"""Thread pool that computes for requests, several in one call where it can."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch

Request = TypeVar("Request")
Answer = TypeVar("Answer")

Work: TypeAlias = Callable[[Sequence[Request]], Sequence[Answer | Exception]]
"""Work on some requests: an answer to each, or the exception that its client gets."""


class Busy(Exception):  # noqa: N818 - a state of the server, sent to the client as 503
    """Refusal of a request: every thread computes and the queue is full."""


class Overdue(Exception):  # noqa: N818
    """Timeout of an answer that took longer than its limit."""


@dataclass(slots=True, eq=False)
class _Job:
    """Request that waits or computes, and the future of its answer."""

    work: Work[Any, Any]
    request: Any
    kind: Hashable
    most: int
    answer: asyncio.Future[Any]

    def alike(self, other: _Job) -> bool:
        """Whether one call may answer both."""
        return self.kind is not None and self.kind == other.kind and self.work == other.work


class Pool:
    """Pool of threads that compute for requests.

    Every call computes on one thread: with many small requests, handing parts of one to other
    cores costs more than it saves, and the cores are busy with other requests anyway. Requests that
    arrived while the threads computed are shared out among them, and those that are alike are
    answered by one call.

    Args:
        threads: that compute at a time.
        queue: requests that may wait for a thread.
        timeout: seconds that a request may wait and compute together.
    """

    def __init__(self, threads: int, queue: int, timeout: float) -> None:
        self.threads, self.queue, self.timeout = threads, queue, timeout
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._computing = 0  # requests
        self._working = 0  # threads
        self._executor = ThreadPoolExecutor(
            threads, thread_name_prefix="compute", initializer=lambda: torch.set_num_threads(1)
        )

    @property
    def pending(self) -> int:
        """Requests that wait or compute."""
        return len(self._waiting) + self._computing

    async def run(
        self,
        work: Work[Request, Answer],
        request: Request,
        kind: Hashable = None,
        most: int = 1,
    ) -> Answer:
        """Run some work on a thread and wait for it.

        Args:
            work: called with this request and perhaps others like it. If it raises, it is called
                again with each of them alone.
            request: to answer.
            kind: of the request: those of one kind and work may be answered together; None alone.
            most: requests of the kind to answer together.

        Raises:
            Busy: there is no place in the queue; nothing was started.
            Overdue: it took too long. What had begun goes on and keeps its thread until it ends,
                because a thread cannot be stopped; what had not is dropped.
        """
        loop = asyncio.get_running_loop()
        job = _Job(work, request, kind, most, loop.create_future())
        with self._lock:
            if self.pending >= self.threads + self.queue:
                raise Busy
            if self._working < self.threads:
                self._executor.submit(self._work)  # raises if the pool is closed
                self._working += 1
            self._waiting.append(job)
        timer = loop.call_later(self.timeout, _give, job, Overdue())
        try:
            answer: Answer = await job.answer
            return answer
        except BaseException:  # it may wait still: it is overdue, or its client is gone
            self._drop(job)
            raise
        finally:
            timer.cancel()

    def close(self) -> None:
        """Drop the requests that wait, and wait for those that compute."""
        with self._lock:
            dropped = list(self._waiting)
            self._waiting.clear()
        for job in dropped:
            with suppress(RuntimeError):  # the loop is closed
                job.answer.get_loop().call_soon_threadsafe(job.answer.cancel)
        self._executor.shutdown(wait=True)

    def _drop(self, job: _Job) -> None:
        with self._lock, suppress(ValueError):
            self._waiting.remove(job)

    def _work(self) -> None:
        """Compute on a thread of the pool until nothing waits."""
        while jobs := self._next():
            outcomes = _outcomes(jobs)
            with self._lock:
                self._computing -= len(jobs)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                jobs[0].answer.get_loop().call_soon_threadsafe(_give_all, jobs, outcomes)

    def _next(self) -> list[_Job]:
        """Take the next jobs from the queue: the first one, and its share of those like it."""
        with self._lock:
            if not self._waiting:
                self._working -= 1
                return []
            first = self._waiting.popleft()
            taken = [first]
            # A thread's share, so that the next thread to get free has something to do.
            most = min(first.most, -(-(len(self._waiting) + 1) // self.threads))
            others: list[_Job] = []
            while self._waiting and len(taken) < most:
                job = self._waiting.popleft()
                (taken if job.alike(first) else others).append(job)
            self._waiting.extendleft(reversed(others))
            self._computing += len(taken)
            return taken


def _outcomes(jobs: Sequence[_Job]) -> Sequence[object]:
    """Answers of jobs that are alike, or the exceptions in their place."""
    try:
        return jobs[0].work([job.request for job in jobs])
    except Exception as error:
        if len(jobs) == 1:
            return [error]
        return [outcome for job in jobs for outcome in _outcomes([job])]


def _give_all(jobs: Sequence[_Job], outcomes: Sequence[object]) -> None:
    for job, outcome in zip(jobs, outcomes, strict=True):
        _give(job, outcome)


def _give(job: _Job, outcome: object) -> None:
    if job.answer.done():
        return
    if isinstance(outcome, Exception):
        job.answer.set_exception(outcome)
    else:
        job.answer.set_result(outcome)
