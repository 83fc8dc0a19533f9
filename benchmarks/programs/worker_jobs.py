"""Jobs of a worker process, `python -m benchmarks.programs.worker_jobs JOB ...`.

A process has one instruction set, one number of threads, and its memory to itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from benchmarks.harness import datasets, memory
from benchmarks.harness.worker_protocol import serve
from benchmarks.programs.op_calls import OPS, problem_of
from benchmarks.programs.training_steps import Training
from ekpnet_fast import ops
from ekpnet_fast.evaluation.ranking import rank_all, ranking_task
from ekpnet_fast.evaluation.scoring import catalogue_scorer
from ekpnet_fast.models.build import build_model, sample_ripple_sets
from ekpnet_fast.native.build import build_info
from ekpnet_fast.ops.threads import torch_on_one_thread

TOP = 100
STEP = "training step"
ALL_USERS, SOME_USERS = "all", 256
RANKING_MB = 256  # bound on the scores in memory, the default of a run

Job = Callable[[str], float]


def compute(setting: datasets.Setting) -> Job:
    """Job: any op on the first batch of training by its name, or a step of the second stage."""
    training = Training.of(setting)
    made = cache(lambda name: OPS[name](problem_of(setting), ops))

    def job(name: str) -> float:
        if name == STEP:
            return training()
        call, amount = made(name)
        call()
        return amount.samples

    return job


def rank(setting: datasets.Setting) -> Job:
    """Job: the best items of all users of the test split, or of some, by an untrained model."""
    prepared, config, graph = setting.prepared, setting.config, setting.graph
    num_items = prepared.dataset.num_items
    model = build_model(config, prepared, graph)
    sets = sample_ripple_sets(config, graph, prepared)
    score = catalogue_scorer(ops, model, sets, num_items, stage=model.stages[-1])
    task = ranking_task(prepared)

    def job(name: str) -> float:
        users = len(task.users) if name == ALL_USERS else min(SOME_USERS, len(task.users))
        indptr = task.consumed_indptr[: users + 1]
        seen = task.consumed_items[: indptr[-1]]
        with torch_on_one_thread() as threads:
            given = task.users[:users], num_items, indptr, seen, TOP, RANKING_MB
            rank_all(score, *given, threads=threads)
        return users * num_items

    return job


JOBS: dict[str, Callable[[datasets.Setting], Job]] = {"compute": compute, "rank": rank}


def main() -> None:
    """Serve one job."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.programs.worker_jobs")
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--data", choices=datasets.SETTINGS, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    setting = datasets.SETTINGS[arguments.data](datasets.data_root())
    job = JOBS[arguments.job](setting)
    before = memory.resident_mb()

    def facts() -> dict[str, Any]:
        peak = memory.peak_mb()
        above = None if peak is None or before is None else peak - before
        return {"isa": build_info().isa, "peak_mb_above_tables": above}

    serve(job, facts, memory.reset_peak)


if __name__ == "__main__":
    main()
