"""Median times on a device, and the peak rates that they are held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch


def seconds(work: Callable[[], object], device: torch.device, rounds: int = 15) -> float:
    """Median time of a call. On a GPU each call is between two events of the stream.

    The first calls are not timed: they load modules, compile, and fill the allocator.
    """
    for _ in range(3):
        work()
    if device.type != "cuda":
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        return median(times)
    events = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(rounds)
    ]
    torch.cuda.synchronize()
    for begin, end in events:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return median(begin.elapsed_time(end) for begin, end in events) / 1e3


CALLS = 20  # in a graph: what the launch of a graph takes must not count


def replayed_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median time of a call, of `CALLS` in one captured graph on a GPU."""
    if device.type != "cuda":
        return seconds(work, device)
    return seconds(_replayed(work), device) / CALLS


def _replayed(work: Callable[[], object]) -> Callable[[], object]:
    """Capture calls as a graph, so that launches from Python do not hide the kernels' time."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            work()
    return graph.replay


def copy_bytes_per_second(device: torch.device, size: int) -> float:
    """Rate of a copy within device memory, bytes read plus bytes written."""
    source = torch.randint(1 << 30, (size // 4,), dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device)


def float32_operations_per_second(device: torch.device, n: int) -> float:
    """Rate of an n x n matrix product in float32 proper, which the propagation computes in too."""
    a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return 2.0 * n**3 / seconds(lambda: a @ b, device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
