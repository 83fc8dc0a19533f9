"""Start of the commands, beside a process that only imports torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.compare import alternate, time_rounds
from ekpnet_fast.runs import runner

MODELS = ("ekpnet", "ekpnet_plus")
COMMANDS = {
    "ekpnet --help": ["--help"],
    "recommend --help": ["recommend", "--help"],
    "train --help": ["train", "--help"],
    "doctor": ["doctor"],
    **{f"recommend RUN --user 1, {model}": ["recommend", model, "--user", "1"] for model in MODELS},
    "explain RUN --user 1 --item 3, ekpnet": ["explain", "ekpnet", "--user", "1", "--item", "3"],
}


def start(*words: str, folder: Path | None = None) -> None:
    """Run Python to its end."""
    environment = {name: value for name, value in os.environ.items() if name != "EKPNET_DATA"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or every start would compile the package
    subprocess.run(
        [sys.executable, *words], env=environment, cwd=folder, capture_output=True, check=True
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of runs on the drawn default data, by model; weights do not change the work."""
    folder = tmp_path_factory.mktemp("start")
    for model in MODELS:
        runner.run({"model": model, "epochs": 1, "ranking": False, "output": folder / model})
    return folder


@pytest.mark.benchmark(group="commands, from the call to the end of the process")
@pytest.mark.parametrize("command", COMMANDS)
def test_start(benchmark: BenchmarkFixture, runs: Path, command: str) -> None:
    """The peer is `import torch` in a process of its own; files are in the page cache."""

    def ours() -> None:
        start("-m", "ekpnet_fast", *COMMANDS[command], folder=runs)

    def peer() -> None:
        start("-c", "import torch", folder=runs)

    time_rounds(benchmark, ours, rounds=5, warmup=1)
    comparison = alternate(ours, peer, rounds=5)
    comparison.write(benchmark.extra_info, "import torch")
    benchmark.extra_info["beside_torch_s"] = round(comparison.first - comparison.second, 3)
