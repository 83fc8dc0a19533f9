"""Training by one of two hosts: `host_run.py INTERFACE`, with the variables that torchrun sets.

Prints as JSON a hash of what was trained, the number of steps, the bytes that the interface sent in
those between the first and the last one, those of the formula in docs/scaling.md to processes of
the other host, and those that this process counted to all others.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from ekpnet_fast.config import ModelConfig, ParallelConfig, RunConfig, StageConfig
from ekpnet_fast.data import SyntheticConfig, make_synthetic
from ekpnet_fast.models.build import build_model
from ekpnet_fast.runs.evaluate import prepare_run
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.training import loop
from ekpnet_fast.training.parallel.launch import Launch
from ekpnet_fast.training.parallel.routes import Router

PARTS = 4
SYNTHETIC = SyntheticConfig(
    users=1000, items=1500, positives=16, attributes=120, parents=20, triples=9000
)
STAGE = StageConfig(
    epochs=1, batch_size=1024, group_size=8, lr=0.02, lambda1=0.01, lambda2=1e-3, lambda3=1e-3,
    triples=64,
)  # fmt: skip


def data():
    """Configuration, split data and graph."""
    config = RunConfig(
        shape=ModelConfig(width=16, hops=2, slots=16, layers=2),
        pretrain=replace(STAGE, epochs=0),
        train=STAGE,
        synthetic=SYNTHETIC,
        ranking=False,
        threads=1,
        device="cpu",
        parallel=ParallelConfig(PARTS),
    )
    return prepare_run(resolve(config), make_synthetic(SYNTHETIC))


def trained(outcome):
    """Hash of the weights, and the loss of each epoch."""
    whole = hashlib.sha256()
    for x in outcome.model.state_dict().values():
        whole.update(x.numpy().tobytes())
    return whole.hexdigest(), [repr(record.loss) for record in outcome.records]


def main(interface: str) -> None:
    """Train, and count."""
    torch.set_num_threads(1)
    config, prepared, graph = data()
    model = build_model(config, prepared, graph)
    dense = sum(p.numel() for p in [*model.relations(), *model.dense_weights("train")])
    counter = Path(f"/sys/class/net/{interface}/statistics/tx_bytes")
    with Launch() as launch:
        world, fetch, seen, formula = launch.world(PARTS), Router.fetch, [], 0
        each = int(os.environ["LOCAL_WORLD_SIZE"])
        far = [rank for rank in range(world.size) if rank // each != world.rank // each]
        reports = len(far) * (PARTS // world.size) * (4 + 4 * dense + 4 * graph.num_relations + 100)

        def counted(router, routes, tables, following):
            nonlocal formula
            formula += reports
            for name, space in model.tables.items():
                route, width = routes[space], tables[name][0].nbytes
                asked, given = route.asked.from_each, route.to_each
                r, r_given = (sum(counts[rank] for rank in far) for counts in (asked, given))
                formula += 4 * r + width * r_given + width * r
            return fetch(router, routes, tables, following)

        def step(progress):
            if progress.record is None:
                seen.append((int(counter.read_text()), formula, world.sent))

        Router.fetch = counted
        outcome = loop.train(config, prepared, graph, step, validate=False, world=world)
        sent, formula, told = (last - first for first, last in zip(seen[0], seen[-1], strict=True))
        print(json.dumps([trained(outcome), len(seen), sent, formula, told]))


if __name__ == "__main__":
    main(sys.argv[1])
