"""A data set small enough to train on in a blink, and runs that never happened."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ekpnet_fast.runs import evaluate, run_folder, runner

USERS, ITEMS, ENTITIES, RELATIONS = 40, 30, 50, 3


@pytest.fixture(autouse=True)
def surroundings(threads, monkeypatch):
    """Commands set torch's threads and look at EKPNET_DATA."""
    monkeypatch.delenv("EKPNET_DATA", raising=False)


@pytest.fixture
def small(tmp_path):
    """The folder of a data set in the final format; `small(seed)` writes other rows there."""

    def write(seed=0):
        stream = np.random.default_rng(seed)
        folder = tmp_path / "data" / "small"
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            f"{user} {item} {int(n < 8)}"
            for user in range(USERS)
            for n, item in enumerate(stream.permutation(ITEMS)[:16])
        ]
        (folder / "ratings_final.txt").write_text("\n".join(rows) + "\n")
        ends = stream.integers(0, ENTITIES, (120, 2))
        triples = [f"{head} {n % RELATIONS} {tail}" for n, (head, tail) in enumerate(ends)]
        (folder / "kg_final.txt").write_text("\n".join(triples) + "\n")
        return folder

    write()
    return write


@pytest.fixture
def command(capsys):
    """Runs the command in this process: exit code, what it printed, what it said on stderr."""
    from ekpnet_fast.experiments.__main__ import main

    def call(*arguments):
        capsys.readouterr()
        code = main([str(word) for word in arguments])
        return code, *capsys.readouterr()

    return call


def metrics_of(*, auc, seconds=(2.0, 1.0), ranked=True, clicked=True, **more):
    """Metrics as a run leaves them, read back from JSON."""
    clicks = {"acc": 0.6, "auc_warm": 0.65, "gauc": 0.6}
    lists = {
        str(k): {name: auc / k for name in ("precision", "recall", "f1", "ndcg", "hit", "mrr")}
        for k in (1, 2, 5, 10, 20, 50, 100)
    }
    stages = ("pretrain", "train")[: len(seconds)]
    return {
        "format": run_folder.RUN_FORMAT,
        "test": {"auc": auc, **clicks} if clicked else None,
        "ranking": lists if ranked else None,
        "epochs": [{"stage": s, "epoch": n} for s in stages for n in (1, 2)],
        "seconds": {**dict(zip(stages, seconds, strict=True)), "total": sum(seconds) + 1},
        "samples_per_second": 1000.0,
        "environment": {
            **{"torch": torch.__version__, "python": "3", "processor": "abacus", "isa": "avx2"},
            **{"threads": 1, "device": "cpu"},
        },
        **more,
    }


@pytest.fixture
def fabricated():
    return metrics_of


@pytest.fixture
def fake_runs(monkeypatch):
    """Replaces training: writes what `fabricated` says, and lists the configs it was asked for."""
    asked = []

    def fake(config, report):
        with run_folder.open_output(config.output, overwrite=config.overwrite):
            asked.append(config)
        _, prepared, _ = evaluate.load(config, evaluate.Stopwatch())
        auc = {"ekpnet": 0.9, "ekp_no": 0.8}.get(config.model, 0.75) + 0.001 * config.seed
        metrics = metrics_of(
            auc=auc,
            ranked=config.ranking,
            model=config.model,
            protocol=config.protocol,
            seed=config.seed,
            data_hash=prepared.hash,
        )
        run_folder.save_metrics(config.output, metrics)
        return metrics

    monkeypatch.setattr(runner, "run", fake)
    return asked
