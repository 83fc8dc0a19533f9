"""Training steps beside an installed RecBole: same data set, shape, batch size and threads.

RecBole may live in an interpreter of its own: `--recbole-python PATH`.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness import datasets
from benchmarks.harness.compare import alternate, time_rounds
from benchmarks.harness.worker_protocol import ROOT, Worker
from benchmarks.programs.training_steps import BATCH_SIZE, BothStages
from ekpnet_fast.config import ModelConfig

DATA, THRESHOLD = "ml-100k-recbole", 4.0
SHAPE = ModelConfig(width=16, hops=2, slots=32, layers=3)
SAME_BATCH = 2048  # RecBole's default
# Timed steps of ours and of the peer per turn.
CALLS = {"RippleNet": (20, 1), "KGCN": (20, 15)}


@pytest.fixture(scope="module")
def recbole_python(request: pytest.FixtureRequest) -> str:
    """Interpreter that has RecBole; skips without one."""
    python: str = request.config.getoption("--recbole-python") or sys.executable
    found = subprocess.run(
        [python, "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('recbole') is None)"]
    )
    if found.returncode != 0:
        pytest.skip(
            f"no RecBole in {python}: pip install '.[recbole]', or name another interpreter with"
            " --recbole-python"
        )
    return python


@pytest.fixture(scope="module")
def ml100k(data_root: Path) -> datasets.Setting:
    if not (data_root / DATA).is_dir():
        pytest.skip(f"no data set {DATA} in {data_root}")
    found = datasets.setting(DATA, data_root, "default")
    return replace(found, config=replace(found.config, shape=SHAPE))


@pytest.mark.data
@pytest.mark.benchmark(group="training on ml-100k beside RecBole")
@pytest.mark.parametrize("batch_size", [SAME_BATCH, BATCH_SIZE])
@pytest.mark.parametrize("model", CALLS)
def test_recbole(
    benchmark: BenchmarkFixture,
    ml100k: datasets.Setting,
    recbole_python: str,
    threads: int,
    tmp_path: Path,
    large: bool,
    model: str,
    batch_size: int,
) -> None:
    """Step of each stage of EKPNet, and its speed-up in samples a second."""
    if batch_size != SAME_BATCH and not large:
        pytest.skip("RecBole's RippleNet takes seconds per large step: ask with --large")
    ours = BothStages(ml100k, batch_size=batch_size)
    pairs: list[int] = []
    seconds = time_rounds(benchmark, lambda: pairs.append(ours()), rounds=20, warmup=10)
    info = benchmark.extra_info
    info["samples_per_s"] = sum(pairs) / len(pairs) / seconds
    shape = [f"--width={SHAPE.width}", f"--hops={SHAPE.hops}", f"--slots={SHAPE.slots}"]
    script = str(ROOT / "benchmarks" / "peers" / "recbole_worker.py")
    options = [f"--data={ml100k_folder()}", f"--threshold={THRESHOLD}", f"--threads={threads}"]
    arguments = [script, model, *options, *shape, f"--batch-size={batch_size}"]
    log, calls = tmp_path / "recbole.log", CALLS[model][1]
    with Worker(arguments, python=recbole_python, log=log) as peer:
        first = peer()
        comparison = alternate(
            ours, peer, rounds=5, calls=CALLS[model], work=(sum(pairs) / len(pairs), first.samples)
        )
        if batch_size == SAME_BATCH:
            log = tmp_path / "anomaly.log"
            with Worker([*arguments, "--anomaly"], python=recbole_python, log=log) as checked:
                slower = alternate(peer, checked, rounds=3, calls=(calls, calls))
            info["peer_slower_with_anomaly"] = slower.ratio
    comparison.write(info, f"RecBole {model}")
    info["peer_versions"] = first.facts["versions"]


def ml100k_folder() -> Path:
    return datasets.data_root() / DATA
