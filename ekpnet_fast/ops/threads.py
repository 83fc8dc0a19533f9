"""Threads of the ops, beside torch's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ekpnet_fast.ops.torch_library import ekpnet

__all__ = ["num_threads", "torch_on_one_thread"]


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
    threads, of_torch = num_threads(), torch.get_num_threads()
    before = ekpnet.team_threads.default(threads)
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(of_torch)
        ekpnet.team_threads.default(before)
