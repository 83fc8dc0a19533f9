"""Epochs of `ekpnet_fast.training.loop.train`, beside sample-by-sample plain torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness import memory
from benchmarks.harness.datasets import FOLDERS, Setting
from benchmarks.peers import plain_torch
from benchmarks.programs.training_steps import BATCH_SIZE
from ekpnet_fast.config import RunConfig
from ekpnet_fast.runs import runner
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.training import loop

Named = Callable[[str], Setting]

PEERS = {
    "plain RippleNet": plain_torch.ripplenet_step,
    "plain EKPNet": plain_torch.ekpnet_step,
}
STAGES = ("pretrain", "train")
EPOCHS, ROUNDS, PEER_STEPS = 2, 3, 2


def config_of(setting: Setting) -> RunConfig:
    """Configuration of some epochs of each stage with large batches."""
    stages = {
        name: replace(
            getattr(setting.config, name), epochs=EPOCHS, patience=EPOCHS, batch_size=BATCH_SIZE
        )
        for name in STAGES
    }
    return replace(setting.config, ranking=False, **stages)


@pytest.mark.data
@pytest.mark.benchmark(group="epochs of both stages")
@pytest.mark.parametrize("epoch_threads", [1, 2])
@pytest.mark.parametrize("data", FOLDERS)
def test_epochs(
    benchmark: BenchmarkFixture,
    setting_named: Named,
    threads: int,
    large: bool,
    data: str,
    epoch_threads: int,
) -> None:
    """Two epochs of each stage with their validation; speed is that of the epochs themselves.

    Epochs of the peers are extrapolated from some steps; with --large one is done whole.
    """
    setting, info = setting_named(data), benchmark.extra_info
    config, pairs = config_of(setting), len(setting.prepared.train)
    speeds: list[float] = []
    of_stage: dict[str, list[float]] = {name: [] for name in STAGES}
    validation: list[float] = []

    def ours() -> None:
        outcome = loop.train(config, setting.prepared, setting.graph)
        records = outcome.records
        seconds = {
            name: [record.seconds for record in records if record.stage == name] for name in STAGES
        }
        for name in STAGES:
            of_stage[name] += seconds[name]
        total = sum(sum(times) for times in seconds.values())
        speeds.append(len(records) * pairs / total)
        stages = sum(outcome.seconds[name] for name in STAGES)
        validation.append((stages - total) / len(records))

    peers = {name: start(setting) for name, start in PEERS.items()}
    rates: dict[str, list[float]] = {name: [] for name in PEERS}
    torch.set_num_threads(epoch_threads)
    try:
        memory.reset_peak()

        def turn() -> None:
            ours()
            for name, step in peers.items():
                step()
                started = time.perf_counter()
                done = sum(step() for _ in range(PEER_STEPS))
                rates[name].append(done / (time.perf_counter() - started))

        for _ in range(ROUNDS - 1):
            turn()
        benchmark.pedantic(turn, rounds=1)  # type: ignore[no-untyped-call]
        info["peak_mb"] = memory.peak_mb()
        whole = {name: whole_epoch(step, pairs) for name, step in peers.items()} if large else {}
    finally:
        torch.set_num_threads(threads)
    info["threads"] = epoch_threads
    info["samples_per_s"] = median(speeds)
    for name in STAGES:
        info[f"seconds_{name}_epoch"] = median(of_stage[name])
    info["seconds"] = sum(median(times) for times in of_stage.values())
    info["seconds_validation"] = median(validation)
    for name, found in rates.items():
        ratios = [a / b for a, b in zip(speeds, found, strict=True)]
        speed = median(found)
        info.setdefault("peers", {})[name] = {
            "ratio": median(speeds) / speed,
            "range": [min(ratios), max(ratios)],
            "per_s": speed,
        }
        info.setdefault("peer_epoch_seconds", {})[name] = pairs / speed
    if whole:
        info["peer_whole_epoch_seconds"] = whole


def whole_epoch(step: Callable[[], int], pairs: int) -> float:
    """Seconds of a peer's whole epoch."""
    started, done = time.perf_counter(), 0
    while done < pairs:
        done += step()
    return time.perf_counter() - started


@pytest.mark.data
@pytest.mark.benchmark(group="whole runs with the default preset")
@pytest.mark.parametrize("data", FOLDERS)
def test_run(
    benchmark: BenchmarkFixture,
    need: Callable[[str], None],
    data_root: Path,
    threads: int,
    large: bool,
    data: str,
) -> None:
    """Run from loading to the test AUC, on the data set's own graph, as a user runs it."""
    if not large:
        pytest.skip("whole runs take a minute: ask with --large")
    need(data)
    options = {
        "dataset": FOLDERS[data],
        "data_root": data_root,
        "ranking": False,
        "threads": threads,
    }
    config = resolve(options)
    found: list[dict[str, Any]] = []
    benchmark.pedantic(lambda: found.append(runner.run(config)), rounds=1)  # type: ignore[no-untyped-call]
    info = benchmark.extra_info
    info["samples_per_s"] = mean(x["samples_per_second"] for x in found)
    info["epochs"] = mean(sum(r["epoch"] > 0 for r in x["epochs"]) for x in found)
    info["auc"] = mean(x["test"]["auc"] for x in found)
    for part, seconds in found[-1]["seconds"].items():
        info[f"seconds_{part}"] = seconds
