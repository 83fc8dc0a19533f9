"""Graphs that are drawn onto a disk, opened, and sampled from, beside one that fits in a cache.

    python -m benchmarks.programs.mapped_graph --folder DIR --triples 1000000000

A graph is drawn head by head, block by block, and never as a whole in memory; its files are those
of an imported data set. Degrees are geometric, tails heavy-tailed. Prints one line per graph:
seconds of CPU to write it, milliseconds to open it, and microseconds of CPU and of the clock per
user, of sampling ripple sets, first with nothing of the files in memory, then again in the same
process.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path

import numpy as np
import torch

from ekpnet_fast import ops
from ekpnet_fast.data.formats.csr_files import graph_writers, map_graph

RELATIONS = 200
BLOCK = 1 << 20  # heads that are drawn together
TAIL_POWER = 2.0  # tail = E * uniform ^ power, so that the first entities are the popular ones


def draw(folder: Path, num_triples: int, num_entities: int, seed: int) -> int:
    """Write a graph's files; returns its triples, which are nearly as many as asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    mean, starts = num_triples / num_entities, range(0, num_entities, BLOCK)

    def degrees(start: int) -> np.ndarray:
        stream = np.random.default_rng([seed, start, 0])
        return stream.geometric(1 / (mean + 1), min(BLOCK, num_entities - start)) - 1

    total = sum(int(degrees(start).sum()) for start in starts)
    indptr, relations, tails = graph_writers(folder, num_entities, RELATIONS, total)
    with indptr, relations, tails:
        indptr.add(np.zeros(1, dtype=np.int64))
        done = 0
        for start in starts:
            ends = done + np.cumsum(degrees(start))
            indptr.add(ends)
            stream = np.random.default_rng([seed, start, 1])
            count, done = int(ends[-1]) - done, int(ends[-1])
            relations.add(stream.integers(0, RELATIONS, count, dtype=np.uint8))
            places = stream.random(count, dtype=np.float32).astype(np.float64) ** TAIL_POWER
            tails.add(np.minimum(places * num_entities, num_entities - 1).astype(np.int32))
    return total


def forget(folder: Path) -> None:
    """Let the system give up the pages of a folder's files."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(folder: Path, num_entities: int, users: int, clicks: int) -> list[float]:
    """Milliseconds to open, then microseconds of CPU and of the clock per user, twice."""
    forget(folder)
    stream = np.random.default_rng(0)
    items = stream.integers(0, num_entities, users * clicks, dtype=np.int32)
    indptr = torch.arange(users + 1) * clicks
    started = time.perf_counter()
    graph = map_graph(folder, num_entities, RELATIONS, inverse=False)
    columns = [torch.from_numpy(x) for x in (graph.indptr, graph.relations, graph.tails)]
    ops.leave_checks_to_samplers(columns[0], columns[2])
    figures = [(time.perf_counter() - started) * 1e3]
    for _ in ("cold", "warm"):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        ops.sample_ripple_sets(*columns, indptr, torch.from_numpy(items), hops=2, slots=32, seed=1)
        after, took = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - started
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        figures += [spent / users * 1e6, took / users * 1e6]
    return figures


def main() -> None:
    """Draw, open and sample the small graph and the large one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for the files, which stay")
    parser.add_argument("--triples", type=int, default=1_000_000_000)
    parser.add_argument("--per-entity", type=float, default=5.0)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--clicks", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    header = ("triples", "write CPU s", "MB", "open ms")
    times = ("cold CPU us", "cold us", "warm CPU us", "warm us")
    print("".join(f"{name:>14}" for name in (*header, *times)))
    for triples in (1_000_000, options.triples):
        folder, entities = options.folder / str(triples), int(triples / options.per_entity)
        started = time.process_time()
        total = draw(folder, triples, entities, seed=0)
        written = time.process_time() - started
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        figures = measure(folder, entities, options.users, options.clicks)
        shown = [f"{total:,}", *(f"{x:,.2f}" for x in (written, size, *figures))]
        print("".join(f"{x:>14}" for x in shown), flush=True)


if __name__ == "__main__":
    main()
