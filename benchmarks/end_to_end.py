"""Whole runs of the package beside sample-by-sample training in plain torch.

`python -m benchmarks.end_to_end --data-root DIR`

The package runs as a user runs it: `ekpnet_fast.run.run` with the default preset, both stages, from
loading to the test AUC. The peers train the same split, graph and shape; they are timed over some
steps after warm-up, and an epoch of theirs is extrapolated from that. All take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from benchmarks import report, workloads
from benchmarks.peers import plain_torch
from ekpnet_fast import run
from ekpnet_fast.options import parse_run

DATASETS = ("movielens-1m", "book-crossing")
PEERS = {"RippleNet": plain_torch.ripplenet_step, "EKPNet": plain_torch.ekpnet_step}
OURS = "ekpnet_fast"
WARMUP = 5
STAGES = ("pretrain", "train")

HEADER = (
    "data",
    "system",
    "samples/s",
    "seconds per epoch",
    "seconds of a run",
    "samples/s of ekpnet_fast over it",
)


def timed(step: Callable[[], int], steps: int) -> float:
    """Samples per second over some steps."""
    started = time.perf_counter()
    pairs = sum(step() for _ in range(steps))
    return pairs / (time.perf_counter() - started)


def compare(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The rounds of one data set."""
    options = ["--dataset", name, "--data-root", str(arguments.data_root), "--ranking", "false"]
    options += ["--threads", str(arguments.threads)]
    setting = workloads.setting(name, arguments.data_root, "default")
    torch.set_num_threads(arguments.threads)
    steps = {peer: start(setting) for peer, start in PEERS.items()}
    for step in steps.values():
        timed(step, WARMUP)
    runs: list[dict[str, Any]] = []
    speeds: dict[str, list[float]] = {peer: [] for peer in PEERS}
    for _ in range(arguments.rounds):
        runs.append(run.run(parse_run(options)))
        for peer, step in steps.items():
            step()
            speeds[peer].append(timed(step, arguments.steps))
    speeds[OURS] = [found["samples_per_second"] for found in runs]
    of_stage: dict[str, float] = {}
    for stage in STAGES:
        epochs = [e for found in runs for e in found["epochs"] if e["stage"] == stage]
        of_stage[stage] = median(epoch["samples_per_second"] for epoch in epochs)
    return {
        "dataset": name,
        "pairs": len(setting.prepared.train),
        "samples_per_second": speeds,
        "stage_samples_per_second": of_stage,
        "epochs": [len(found["epochs"]) for found in runs],
        "seconds": [found["seconds"] for found in runs],
        "auc": [found["test"]["auc"] for found in runs],
        "environment": runs[-1]["environment"],
    }


def rows_of(found: dict[str, Any]) -> list[list[str]]:
    """Rows of one data set."""
    name, pairs = found["dataset"], found["pairs"]
    speed = {system: median(values) for system, values in found["samples_per_second"].items()}
    total = median(seconds["total"] for seconds in found["seconds"])
    rows = [
        [name, OURS, f"{speed[OURS]:,.0f}", f"{pairs / speed[OURS]:.2f}", f"{total:.1f}", "1"],
    ]
    for stage in STAGES:
        at = found["stage_samples_per_second"][stage]
        rows.append([name, f"{OURS}, {stage} stage", f"{at:,.0f}", f"{pairs / at:.2f}", "", ""])
    for peer in PEERS:
        cells = [f"{speed[peer]:,.0f}", f"{pairs / speed[peer]:.1f}"]
        rows.append([name, f"plain {peer}", *cells, "", f"{speed[OURS] / speed[peer]:.1f}"])
    return rows


def notes(found: dict[str, Any], steps: int) -> str:
    """What the numbers of one data set stand for."""
    parts = [
        f"{part} {median(seconds[part] for seconds in found['seconds']):.2f} s"
        for part in found["seconds"][0]
    ]
    return (
        f"{found['dataset']}: {found['pairs']:,} training pairs, on average"
        f" {mean(found['epochs']):.1f} epochs in a run of the package, test AUC"
        f" {report.mean_sd(found['auc'], 4)}. Parts of a run, medians: {', '.join(parts)}. Peers:"
        f" {steps} steps of {plain_torch.BATCH_SIZE} pairs per round; epochs are extrapolated."
    )


def main() -> None:
    """Run, print a Markdown table, write all numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.end_to_end")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="steps of a peer per round")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    found = [compare(name, arguments) for name in DATASETS]
    facts = report.facts("benchmarks.end_to_end", found[-1]["environment"])
    print(report.table(HEADER, [row for one in found for row in rows_of(one)]), end="\n\n")
    for one in found:
        print(notes(one, arguments.steps), end="\n\n")
    print(report.facts_text(facts))
    if arguments.output is not None:
        content = json.dumps({"facts": facts, "results": found}, indent=1)
        arguments.output.write_text(content + "\n")


if __name__ == "__main__":
    main()
