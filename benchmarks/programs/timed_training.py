"""Worker that trains for a time: `python -m benchmarks.programs.timed_training --data DATA ...`.

A request names the pairs of a mini-batch and the seconds, `4096 0.5`; whole steps of EKPNet's first
stage are done until these have passed, each epoch with its draw of ripple sets.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import cache
from typing import Any

import torch

from benchmarks.harness import datasets
from benchmarks.harness.worker_protocol import serve
from benchmarks.programs.training_steps import Training


def main() -> None:
    """Serve the job; the facts of a reply are the process and its seconds of CPU time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.programs.timed_training")
    parser.add_argument("--data", choices=datasets.SETTINGS, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    setting = datasets.SETTINGS[arguments.data](datasets.data_root())
    started = 0.0

    @cache
    def training(batch_size: int) -> Training:
        return Training.of(setting, deep=False, batch_size=batch_size)

    def job(request: str) -> float:
        batch_size, seconds = request.split()
        step = training(int(batch_size))
        until, samples = time.perf_counter() + float(seconds), 0
        while time.perf_counter() < until:
            samples += step()
        return samples

    def begin() -> None:
        nonlocal started
        started = time.process_time()

    def facts() -> dict[str, Any]:
        return {"pid": os.getpid(), "cpu_seconds": time.process_time() - started}

    serve(job, facts, begin)


if __name__ == "__main__":
    main()
