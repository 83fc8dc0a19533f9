"""The pool: which requests one call answers, and what becomes of those that fail or wait long."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ekpnet_fast.serve.pool import Busy, Overdue, Pool
from support.programs import PATIENCE


class Gate:
    """Work that waits at a gate in its first call, and keeps what each call was given."""

    def __init__(self):
        self.open, self.entered, self.calls = threading.Event(), threading.Event(), []

    def __call__(self, requests):
        self.calls.append(list(requests))
        self.entered.set()
        assert self.open.wait(PATIENCE)
        return [self.answer(request) for request in requests]

    def answer(self, request):
        return request * 10


def waiting(pool, gate, jobs, threads=1):
    """Outcomes of jobs (request, kind, most), all but the first sent while the first computes."""

    async def all_of_them():
        first = asyncio.ensure_future(pool.run(gate, *jobs[0]))
        while not gate.entered.is_set():
            await asyncio.sleep(0.001)
        others = [asyncio.ensure_future(pool.run(gate, *job)) for job in jobs[1:]]
        while pool.pending < len(jobs):
            await asyncio.sleep(0.001)
        gate.open.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    try:
        return asyncio.run(asyncio.wait_for(all_of_them(), PATIENCE))
    finally:
        gate.open.set()
        pool.close()


@pytest.fixture
def gate():
    return Gate()


def test_what_arrives_while_a_call_is_under_way_forms_the_next_one(gate):
    pool = Pool(1, 64, PATIENCE)
    assert waiting(pool, gate, [(i, "a", 8) for i in range(6)]) == [0, 10, 20, 30, 40, 50]
    assert gate.calls == [[0], [1, 2, 3, 4, 5]]
    assert pool.pending == 0


def test_no_more_than_the_most_of_a_kind(gate):
    pool = Pool(1, 64, PATIENCE)
    found = waiting(pool, gate, [(0, "a", 3), *((i, "a", 3) for i in range(1, 8))])
    assert found == [10 * i for i in range(8)]
    assert gate.calls == [[0], [1, 2, 3], [4, 5, 6], [7]]


def test_kinds_apart_in_the_order_of_their_first(gate):
    kinds = ["a", "b", "a", None, "b", None, "a"]
    pool = Pool(1, 64, PATIENCE)
    found = waiting(pool, gate, [(0, None, 1), *((i, k, 8) for i, k in enumerate(kinds, 1))])
    assert found == [10 * i for i in range(8)]
    assert gate.calls == [[0], [1, 3, 7], [2, 5], [4], [6]]


def test_threads_share_what_waits():
    pool, calls = Pool(2, 64, PATIENCE), []
    gates = [threading.Event(), threading.Event()]
    entered = threading.Semaphore(0)

    def work(requests):
        calls.append(list(requests))
        if requests[0] < 2:
            entered.release()
            gates[requests[0]].wait(PATIENCE)
        return list(requests)

    async def ask():
        first = [asyncio.ensure_future(pool.run(work, i, i, 1)) for i in range(2)]
        for _ in range(2):
            assert await asyncio.get_running_loop().run_in_executor(None, entered.acquire)
        others = [asyncio.ensure_future(pool.run(work, i, "a", 8)) for i in range(2, 8)]
        while pool.pending < 8:
            await asyncio.sleep(0.001)
        gates[0].set()  # one thread gets free: it may not take all six
        await asyncio.gather(*others)
        gates[1].set()
        return await asyncio.gather(*first)

    assert asyncio.run(asyncio.wait_for(ask(), PATIENCE)) == [0, 1]
    pool.close()
    assert calls[2:] == [[2, 3, 4], [5, 6], [7]]


def test_an_exception_in_place_of_an_answer_is_that_request_s_alone(gate):
    gate.answer = lambda request: ValueError(f"no {request}") if request == 2 else request
    pool = Pool(1, 64, PATIENCE)
    found = waiting(pool, gate, [(i, "a", 8) for i in range(4)])
    assert found[:2] == [0, 1] and found[3] == 3
    assert isinstance(found[2], ValueError) and str(found[2]) == "no 2"


def test_a_call_that_fails_is_repeated_one_by_one(gate):
    def answer(request):
        if request == 2:
            raise ValueError("no 2")
        return request

    gate.answer = answer
    pool = Pool(1, 64, PATIENCE)
    found = waiting(pool, gate, [(i, "a", 8) for i in range(4)])
    assert gate.calls == [[0], [1, 2, 3], [1], [2], [3]]
    assert found[:2] == [0, 1] and found[3] == 3 and isinstance(found[2], ValueError)


def test_requests_that_are_overdue_or_given_up_are_never_computed(gate):
    pool = Pool(1, 64, PATIENCE)

    async def ask():
        first = asyncio.ensure_future(pool.run(gate, 0, "a", 8))
        while not gate.entered.is_set():
            await asyncio.sleep(0.001)
        pool.timeout = 0.01
        with pytest.raises(Overdue):
            await pool.run(gate, 1, "a", 8)
        pool.timeout = PATIENCE
        given_up = asyncio.ensure_future(pool.run(gate, 2, "a", 8))
        await asyncio.sleep(0)
        assert pool.pending == 2
        given_up.cancel()
        await asyncio.sleep(0.01)
        assert pool.pending == 1
        gate.open.set()
        assert await first == 0
        assert await pool.run(gate, 3, "a", 8) == 30

    asyncio.run(asyncio.wait_for(ask(), PATIENCE))
    pool.close()
    assert gate.calls == [[0], [3]]


def test_a_full_queue_and_a_closed_pool(gate):
    pool = Pool(1, 1, PATIENCE)

    async def ask():
        jobs = [asyncio.ensure_future(pool.run(gate, i)) for i in range(2)]
        while not gate.entered.is_set():
            await asyncio.sleep(0.001)
        with pytest.raises(Busy):
            await pool.run(gate, 2)
        closing = asyncio.get_running_loop().run_in_executor(None, pool.close)
        with pytest.raises(asyncio.CancelledError):  # it had not begun
            await jobs[1]
        gate.open.set()
        await closing
        assert await jobs[0] == 0
        with pytest.raises(RuntimeError):
            await pool.run(gate, 3)
        assert pool.pending == 0

    asyncio.run(asyncio.wait_for(ask(), PATIENCE))
    assert gate.calls == [[0]]
