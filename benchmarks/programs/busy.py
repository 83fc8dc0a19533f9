"""Busy program to measure beside: `python -m benchmarks.programs.busy spin`, or `openmp`.

It says `ready`; then each line that it reads starts it or stops it again, and the end of its input
ends it. `spin` keeps one CPU busy, `openmp` multiplies matrices and adds them with two threads of
torch's OpenMP, which spin between its regions as any program's do.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Callable


def spinning() -> Callable[[], object]:
    """Loop that keeps one CPU busy for some milliseconds."""

    def work() -> None:
        for _ in range(100_000):
            pass

    return work


def openmp() -> Callable[[], object]:
    """Some milliseconds of many parallel regions of two threads."""
    import torch  # only where it is needed: a plain loop starts at once

    torch.set_num_threads(2)
    a, b = torch.randn(2, 384, 384)
    found = torch.empty_like(a)

    def work() -> None:
        for _ in range(3):
            torch.mm(a, b, out=found)
            torch.add(found, a, out=found)

    return work


KINDS = {"spin": spinning, "openmp": openmp}


def main() -> None:
    """Work while told to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.programs.busy")
    parser.add_argument("kind", choices=KINDS)
    work = KINDS[parser.parse_args().kind]()
    work()
    print("ready", flush=True)
    lines = sys.stdin.fileno()
    # Bytes, not lines of `sys.stdin`, whose buffer `select` does not see.
    while os.read(lines, 1):
        while not select.select([lines], [], [], 0)[0]:
            work()
        if not os.read(lines, 1):
            return


if __name__ == "__main__":
    main()
