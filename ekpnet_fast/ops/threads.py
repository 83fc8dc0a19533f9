"""Threads of the ops, beside torch's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

import torch

from ekpnet_fast.ops.torch_library import ekpnet

__all__ = ["beside", "beside_ops", "num_threads", "share", "torch_on_one_thread"]

Made = TypeVar("Made")

# Contexts of `torch_on_one_thread` that are open, in all Python threads, and torch's number of
# threads before the first of them.
_lock, _open, _of_process = Lock(), 0, 1


def num_threads() -> int:
    """Threads of the ops that the calling Python thread runs: torch's, or those of the context."""
    chosen: int = ekpnet.team_threads.default(0)
    ekpnet.team_threads.default(chosen)
    return chosen or torch.get_num_threads()


@contextmanager
def torch_on_one_thread() -> Iterator[int]:
    """Context of torch's own operators on one thread, and of this package's on as many as before.

    Operators of torch share their work by OpenMP, where every thread waits for all others at the
    end, however little there was to do: beside other programs a training step waits for threads
    that do not run. This package's ops wait for nobody who has not begun. Concerns the ops that
    the calling Python thread runs; torch's number of threads is the process's. Gives the number of
    threads of this package's ops.
    """
    global _open, _of_process
    threads, of_torch = num_threads(), torch.get_num_threads()
    with _lock:
        if _open == 0:
            _of_process = of_torch
        _open += 1
    before = ekpnet.team_threads.default(threads)
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        with _lock:
            _open -= 1
            # The last to leave may have come when others had set torch's number to 1.
            torch.set_num_threads(of_torch if _open else _of_process)
        ekpnet.team_threads.default(before)


def beside_ops(pool: Executor, work: Callable[[], Made]) -> Future[Made]:
    """Submit work to a pool; until it is done it has the place of one of the ops' threads.

    More threads than processors would run in turn, and ops wait for those that do not run.
    """

    def call() -> Made:
        try:
            return work()
        finally:
            ekpnet.team_beside.default(False)

    # Said here and not in the call, because it begins when its thread gets to run.
    ekpnet.team_beside.default(True)
    try:
        return pool.submit(call)
    except BaseException:  # such as a pool that is shut down
        ekpnet.team_beside.default(False)
        raise


def beside(work: Callable[[], Made]) -> Callable[[], Made]:
    """Begin work that has one thread, beside what the calling thread goes on with.

    For what torch does within `torch_on_one_thread`, where other threads would wait for it. Ops of
    this package have one thread in it too. Where there is one thread in all, it is done when it is
    asked for.

    Args:
        work: what is done; its result must not depend on the number of threads.

    Returns:
        A function that waits for the result, or raises what `work` raised; to be called once.
    """
    if num_threads() == 1:
        return work

    def on_one_thread() -> Made:
        ekpnet.team_threads.default(1)
        torch.get_num_threads()  # by which torch passes its number on to this thread's libraries
        return work()

    with_one = ThreadPoolExecutor(1, thread_name_prefix="beside")
    result = beside_ops(with_one, on_one_thread).result
    with_one.shutdown(wait=False)
    return result


def share(work: Callable[[int], None], count: int, threads: int) -> None:
    """Call `work` with 0 .. count - 1, each once, on up to so many Python threads.

    The calling thread takes numbers itself, and waits for no thread that has not begun. Torch and
    the ops of this package have one thread in each, so that what a number gives does not depend on
    how many there are; autograd is as in the calling thread.

    Args:
        work: is called by several threads at a time.
        count: of the numbers.
        threads: at most; with one, the calling thread does it all, with the threads that it has.

    Raises:
        What `work` raised for the lowest number for which it did, after all calls have ended.
        Numbers that nobody had begun are left out then.
    """
    threads = min(threads, count)
    if threads <= 1:
        for number in range(count):
            work(number)
        return
    left, failed, grad = iter(range(count)), dict[int, BaseException](), torch.is_grad_enabled()

    def take() -> None:
        before = ekpnet.team_threads.default(1)
        torch.get_num_threads()  # by which torch passes its number on to this thread's libraries
        try:
            with torch.set_grad_enabled(grad):
                # Taken in turn: when one fails, all that are lower have begun.
                number = count  # of no call: an interrupt between two of them ends the others too
                try:
                    for number in left:
                        work(number)
                        if failed:
                            return
                except BaseException as error:
                    failed[number] = error
        finally:
            ekpnet.team_threads.default(before)

    with torch_on_one_thread(), ThreadPoolExecutor(threads - 1, "share") as pool:
        others = [pool.submit(take) for _ in range(threads - 1)]
        take()
        for other in others:
            if not other.cancel():
                other.result()
    if failed:
        raise failed[min(failed)]
