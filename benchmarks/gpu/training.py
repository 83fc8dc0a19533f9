"""Training and ranking on one device: a step, whole runs, all users' top lists, large tables.

Without real data sets their sizes are drawn: users, items, positives, entities and triples as in
the paper's, at random in the rest, which changes the weights learnt and not the work.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, supported_activities

from benchmarks.gpu.timing import seconds
from ekpnet_fast import ops
from ekpnet_fast.config import ModelConfig, RunConfig, StageConfig
from ekpnet_fast.data import Examples, PreparedData, SyntheticConfig, load_dataset, make_synthetic
from ekpnet_fast.data import prepare as split
from ekpnet_fast.evaluation import ranking, scoring
from ekpnet_fast.models import build
from ekpnet_fast.models.ekpnet import EKPNet
from ekpnet_fast.ops import reference
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.examples import UserExamples
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.pairs import TrainContext
from ekpnet_fast.sampling.ripple_sets import RippleSets
from ekpnet_fast.training import loop
from ekpnet_fast.training.cuda_graph import ResidentTrainer
from ekpnet_fast.training.fixed_shapes import HostEpoch

EPOCHS = 10  # of each stage: 20 in all, none left out by patience


@dataclass(frozen=True)
class Workload:
    """Workload: a data set with a graph, and the paper's settings for it."""

    name: str
    source: str
    prepared: PreparedData
    graph: Graph
    config: RunConfig


def paper_stages(batch_size: int, pre: dict[str, float], deep: dict[str, float]) -> dict[str, Any]:
    """Stages of Table 2 for a fixed number of epochs."""
    common: dict[str, Any] = dict(epochs=EPOCHS, patience=EPOCHS, batch_size=batch_size)
    return {
        "pretrain": StageConfig(**common, lr=1e-2, lambda1=0.01, **pre),
        "train": StageConfig(**common, lr=5e-3, lambda1=0.001, **deep),
    }


def movielens(device: str, data_root: Path | None) -> Workload:
    """MovieLens-1M with a graph of the paper's size."""
    config = RunConfig(
        device=device,
        shape=ModelConfig(width=16, hops=2, slots=32, layers=3),
        **paper_stages(4096, dict(lambda2=5e-3, lambda3=5e-3), dict(lambda2=1e-7, lambda3=1e-7)),
    )
    if data_root is None:
        return _synthetic("movielens-1m", SyntheticConfig.movielens_1m(), config)
    from benchmarks.harness.datasets import power_law_graph

    prepared = split(load_dataset("movielens-1m", data_root), seed=0)
    graph = power_law_graph(182_011, 1_241_995, 12)
    return Workload("movielens-1m", "real clicks, graph drawn", prepared, graph, config)


def book_crossing(device: str, data_root: Path | None) -> Workload:
    """Book-Crossing."""
    config = RunConfig(
        device=device,
        shape=ModelConfig(width=4, hops=3, slots=32, layers=4),
        **paper_stages(1024, dict(lambda2=1e-7, lambda3=1e-7), dict(lambda2=1e-4, lambda3=1e-4)),
    )
    if data_root is None:
        return _synthetic("book-crossing", SyntheticConfig.book_crossing(), config)
    prepared = split(load_dataset("book-crossing", data_root), seed=0)
    graph = Graph.from_dataset(prepared.dataset, inverse=True)
    return Workload("book-crossing", "real", prepared, graph, config)


def tiny(device: str) -> Workload:
    """Sizes for trying the benchmark itself."""
    stage = StageConfig(epochs=1, batch_size=64, triples=16)
    config = RunConfig(device=device, pretrain=stage, train=stage)
    sizes = SyntheticConfig(
        users=60, items=80, positives=10, attributes=16, parents=4, triples=435, item_links=4
    )
    return _synthetic("tiny", sizes, config)


def _synthetic(name: str, sizes: SyntheticConfig, config: RunConfig) -> Workload:
    dataset = make_synthetic(sizes)
    graph = Graph.from_dataset(dataset, inverse=config.sampling.inverse)
    return Workload(name, "sizes as published, drawn", split(dataset, seed=0), graph, config)


class Steps:
    """Steps of one stage on one epoch's batches, again and again."""

    def __init__(
        self,
        model: EKPNet,
        stage: StageConfig,
        graph: Graph,
        examples: UserExamples,
        ripple: RippleSets,
        *,
        backend: Any,
        deep: bool,
    ) -> None:
        stream = BatchStream(
            graph,
            examples,
            batch_size=stage.batch_size,
            group_size=stage.group_size,
            triples=stage.triples,
            seed=0,
        )
        capture = model.entity.is_cuda and backend is ops
        name = "train" if deep else "pretrain"
        self.trainer = ResidentTrainer(model, stage, backend, stream, name, capture=capture)
        self.host = HostEpoch.prepare(stream, stage, ripple, 1, pin=model.entity.is_cuda)
        self.pairs = len(examples.items)

    def seconds_per_step(self, rounds: int) -> float:
        """Median time over epochs, with each one's copy to the device and reading of its loss."""
        times = []
        for _ in range(rounds + 1):  # the first captures
            started = time.perf_counter()
            self.trainer.epoch(self.host)
            times.append(time.perf_counter() - started)
        return median(times[1:]) / self.host.steps


def steps_of(work: Workload, backend: Any, *, deep: bool) -> Steps:
    """Steps of a stage of a workload."""
    config, device = work.config, torch.device(work.config.device)
    return Steps(
        build.build_model(config, work.prepared, work.graph).to(device),
        config.train if deep else config.pretrain,
        work.graph,
        scoring.examples_by_user(work.prepared.train, work.prepared),
        build.sample_ripple_sets(config, work.graph, work.prepared),
        backend=backend,
        deep=deep,
    )


def step(work: Workload, rounds: int) -> list[dict[str, Any]]:
    """Time a step of either stage, everything included, beside the same step in eager torch."""
    records = []
    for deep in (False, True):
        native = steps_of(work, ops, deep=deep)
        ours = native.seconds_per_step(rounds)
        eager = steps_of(work, reference, deep=deep).seconds_per_step(1)
        records.append(
            {
                "workload": work.name,
                "stage": "train" if deep else "pretrain",
                "batch_size": native.trainer.stage.batch_size,
                "steps_per_epoch": native.host.steps,
                "step_s": ours,
                "epoch_s": ours * native.host.steps,
                "samples_per_s": native.pairs / (ours * native.host.steps),
                "eager_step_s": eager,
                "faster_than_eager": eager / ours,
            }
        )
    return records


def kernels(work: Workload, *, deep: bool) -> list[dict[str, Any]]:
    """What a step of a stage launches, by kernel, and the device's time for it.

    By torch's profiler over an epoch, whose copies and batches count too. Of a CPU, or where the
    profiler sees no GPU, operators in place of kernels.
    """
    steps = steps_of(work, ops, deep=deep)
    steps.trainer.epoch(steps.host)  # captures
    on_gpu = work.config.device != "cpu" and ProfilerActivity.CUDA in supported_activities()
    kind = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiled:
        steps.trainer.epoch(steps.host)
    records = []
    for event in profiled.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if spent > 0:
            name = re.sub(r"\(anonymous namespace\)::|ekpnet::|^void ", "", event.key)
            records.append(
                {
                    "workload": work.name,
                    "stage": steps.trainer.name,
                    "kernel": name.split("(")[0][:80],
                    "per_step": event.count / steps.host.steps,
                    "us_per_step": spent / steps.host.steps,
                }
            )
    return sorted(records, key=lambda record: -record["us_per_step"])


def end_to_end(work: Workload, runs: int = 2) -> dict[str, Any]:
    """Time a run with sampling and validation after each epoch; the last of some counts.

    The first one also pays the costs of a process: kernels load, libraries start.
    """
    walls, outcome = [], None
    for _ in range(runs):
        started = time.perf_counter()
        outcome = loop.train(work.config, work.prepared, work.graph)
        walls.append(time.perf_counter() - started)
    assert outcome is not None
    return {
        "workload": work.name,
        "model": work.config.model,
        "source": work.source,
        "epochs": len(outcome.records),
        "train_examples": len(work.prepared.train),
        "first_s": walls[0],
        "seconds": walls[-1],
        "fit_features_s": outcome.seconds["fit_features"],
        "parts_s": outcome.seconds,
        "train_s": sum(record.seconds for record in outcome.records),
        "valid_auc": outcome.records[-1].valid_auc,
    }


def end_to_end_of_plus(work: Workload) -> dict[str, Any]:
    """Time a run of EKPNet+ on the workload, once: most of it is the wide part, of the CPU."""
    config = resolve(replace(work.config, model="ekpnet_plus"))
    return end_to_end(replace(work, config=config), runs=1)


def rank(work: Workload, k: int = 100) -> dict[str, Any]:
    """Time all users' top lists over all items, with the trained shape and untrained weights."""
    config, device = work.config, torch.device(work.config.device)
    model = build.build_model(config, work.prepared, work.graph).to(device)
    ripple = build.sample_ripple_sets(config, work.graph, work.prepared).to(device)
    num_items = work.prepared.dataset.num_items
    score = scoring.catalogue_scorer(ops, model, ripple, num_items, stage="train")
    task = ranking.ranking_task(work.prepared)

    def lists() -> object:
        return ranking.rank_all(
            score,
            task.users,
            num_items,
            task.consumed_indptr,
            task.consumed_items,
            min(k, num_items),
            256,
        )

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    took = seconds(lists, device, rounds=3)
    record: dict[str, Any] = {
        "workload": work.name,
        "users": len(task.users),
        "items": num_items,
        "seconds": took,
        "pairs_per_s": len(task.users) * num_items / took,
    }
    if device.type == "cuda":
        record["memory_above_tables_mb"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return record


def scale(
    device: torch.device,
    num_entities: int,
    width: int,
    make_graph: Callable[..., Graph],
    users: int,
) -> dict[str, Any]:
    """Time a step over a table of so many entities; users click items spread evenly over it."""
    items, clicks = min(2500, num_entities), 60
    graph = make_graph(num_entities, 5 * num_entities, 12)
    draw = np.random.default_rng(0)
    owners = np.repeat(np.arange(users, dtype=np.int32), clicks)
    clicked = draw.integers(0, items, len(owners)) * (num_entities // items)
    examples = Examples(
        owners, clicked.astype(np.int32), draw.integers(0, 2, len(owners)).astype(np.int8)
    )
    shape = ModelConfig(width=width, hops=2, slots=32, layers=3)
    stage = StageConfig(batch_size=4096, lambda1=0.001, lambda2=1e-7, lambda3=1e-7)
    histories = torch.arange(users + 1) * clicks, torch.from_numpy(examples.items)
    ripple = RippleSets.sample(
        graph,
        *histories,
        hops=shape.hops,
        slots=shape.slots,
        seed=0,
    )
    source = TrainContext(graph, users, num_entities, *histories, seed=0)
    model = EKPNet(RunConfig(shape=replace(shape, init="normal")), source)
    steps = Steps(
        model.to(device),
        stage,
        graph,
        UserExamples.from_examples(examples, users),
        ripple,
        backend=ops,
        deep=True,
    )
    return {
        "entities": num_entities,
        "width": width,
        "table_mb": model.entity.nbytes / 2**20,
        "step_s": steps.seconds_per_step(3),
    }
