"""Trainings by two processes with TorchRec: `torchrec_runs.py`.

A program of its own that forks the processes, with the variables that torchrun sets. Prints as JSON
what each run found on its first process.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path

import torch

# What a process imports late is imported here, once for all that are forked.
import ekpnet_fast.training.parallel.group  # noqa: F401
from ekpnet_fast import ops
from ekpnet_fast.config import ModelConfig, ParallelConfig, RunConfig, StageConfig
from ekpnet_fast.data import SyntheticConfig, make_synthetic
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.runs.evaluate import prepare_run
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.storage import checkpoint
from ekpnet_fast.storage.checkpoint import CheckpointWriter
from ekpnet_fast.training import loop
from ekpnet_fast.training.parallel import torchrec_rows
from ekpnet_fast.training.parallel.launch import Launch
from ekpnet_fast.training.signals import Interrupted

PARTS = 4
STAGE = StageConfig(
    epochs=2, batch_size=256, group_size=8, lr=0.02, lambda1=0.01, lambda2=1e-3, lambda3=1e-3,
    triples=64,
)  # fmt: skip
RUN = RunConfig(
    shape=ModelConfig(width=6, hops=2, slots=8, layers=2),
    pretrain=STAGE,
    train=STAGE,
    synthetic=SyntheticConfig(
        users=300, items=150, positives=12, attributes=40, parents=8, triples=875
    ),
    ranking=False,
    threads=1,
    device="cpu",
)
RATES = {"sgd": 0.2, "adagrad": 0.05, "rowwise_adagrad": 0.05, "adam": 0.02}


def load(model, optimizer, table="torchrec"):
    """Configuration, split data and graph."""
    parallel = ParallelConfig(PARTS, table, optimizer)
    stage = replace(STAGE, lr=RATES[optimizer])
    config = replace(RUN, model=model, pretrain=stage, train=stage, parallel=parallel)
    return prepare_run(resolve(config), make_synthetic(config.synthetic))


def by_torch(optimizer):
    """What takes the place of `row_adam_`: the same update in plain torch, of whole rows."""

    def update(table, m, v, rows, grad, *, step, lr, l2, seed):
        at = rows.long()
        grad = (grad + l2 * table[at]).flatten(1)
        if optimizer != "sgd":
            squares = grad.square()
            if optimizer == "rowwise_adagrad":
                padded = -(-squares.shape[1] // 4) * 4
                squares = (squares.sum(1, keepdim=True) / padded).expand_as(squares)
            sums = m.flatten(1)[at] + squares
            m[at] = sums.view(-1, *m.shape[1:])
            grad = grad / (sums.sqrt() + 1e-8)
        table[at] -= lr * grad.view(-1, *table.shape[1:])

    return update


def found(outcome):
    """Records, and the weights."""
    weights = {name: x.flatten().tolist() for name, x in outcome.model.state_dict().items()}
    records = [
        [record.stage, record.loss, record.l2_rows, record.valid] for record in outcome.records
    ]
    return {"records": records, "weights": weights}


def trained(model, optimizer):
    """Run of TorchRec."""
    return lambda world: found(loop.train(*load(model, optimizer), world=world))


def stopped_and_resumed(world):
    """Run that is stopped in its second stage and goes on."""
    data, folder = load("ekpnet", "adagrad"), Path(os.environ["FOLDER"])
    for polls in (25, 10**6):
        start = checkpoint.latest(folder, print)
        left = iter(range(polls))
        with CheckpointWriter(
            folder,
            {},
            start=start,
            stopped=lambda: 15 if next(left, polls) == polls - 1 else None,  # noqa: B023
            first=world.rank == 0,
        ) as writer:
            try:
                outcome = loop.train(*data, writer=writer, world=world)
            except Interrupted:
                world.meet()
    return {**found(outcome), "resumed": start is not None}


def left_alone(world):
    """What is said where the other process ends while TorchRec waits for it."""
    look_up, calls = torchrec_rows._Rows.look_up, iter(range(5))

    def ended(*arguments):
        if world.rank == 1 and next(calls, None) is None:
            os._exit(9)
        return look_up(*arguments)

    torchrec_rows._Rows.look_up = ended
    try:
        loop.train(*load("ekpnet", "adagrad"), world=world)
    except TrainingError as error:
        return str(error)


def together(work, codes=(0, 0)):
    """What the first of two processes finds; they end with these codes."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        result, pids = Path(folder) / "result.json", []
        os.environ["FOLDER"] = folder
        for rank in range(2):
            if not (pid := os.fork()):
                try:
                    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_PORT=port)
                    os.environ.update(MASTER_ADDR="127.0.0.1", EKPNET_WAIT="60")
                    with Launch() as launch:
                        torch.set_num_threads(1)
                        value = work(launch.world(PARTS))
                    if rank == 0:
                        result.write_text(json.dumps(value))
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            pids.append(pid)
        ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        assert ends == [*codes], ends
        return json.loads(result.read_text())


def main() -> None:
    """Make all runs."""
    torch.set_num_threads(1)
    results = {}
    for model in ("ekpnet", "mf"):
        for optimizer in ("sgd", "adagrad", "rowwise_adagrad"):
            results[f"{model} {optimizer}"] = together(trained(model, optimizer))
    results["left alone"] = together(left_alone, (0, 9))
    results["resumed"] = together(stopped_and_resumed)
    adam = ops.row_adam_
    for model in ("ekpnet", "mf"):
        results[f"{model} adam"] = found(loop.train(*load(model, "adam", "rows")))
        for optimizer in ("sgd", "adagrad", "rowwise_adagrad"):
            # One process of the package's own tables, with the optimizer in plain torch.
            ops.row_adam_ = by_torch(optimizer)
            config, *data = load(model, optimizer)
            config = replace(config, parallel=ParallelConfig(PARTS))
            results[f"{model} {optimizer} alone"] = found(loop.train(config, *data))
            ops.row_adam_ = adam
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
