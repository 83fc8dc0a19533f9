"""Training by several processes, on gloo, some of them killed, stopped or hung."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support.places import ROOT, SUPPORT
from support.small_run import SMALL

OPTIONS = [
    *SMALL,
    *["--parallel.parts", "4", "--train.group_size", "8", "--pretrain.group_size", "8"],
    *["--epochs", "4", "--train.patience", "9", "--pretrain.patience", "9"],
]
TIMES = {"seconds", "samples_per_second", "peak_rss_mb", "resumed", "files", "sha256"}


def result(folder):
    """The weights, and the metrics but for times."""
    metrics = json.loads((folder / "metrics.json").read_text())
    kept = {name: value for name, value in metrics.items() if name not in TIMES}
    for record in kept["epochs"]:
        record["seconds"] = record["samples_per_second"] = 0
    return (folder / "model.safetensors").read_bytes(), kept


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    program = [sys.executable, str(SUPPORT / "rank_runs.py"), str(folder), *OPTIONS]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.slow
def test_processes_change_no_bit(runs):
    folder, found = runs
    for name, size in (("one", 1), ("two", 2), ("four", 4)):
        assert found[name]["codes"] == [0] * size, found[name]["said"]
        assert found[name]["said"].count("Written to") == 1  # by the first alone
        assert result(folder / name) == result(folder / "one"), name
        assert not list((folder / name).glob("checkpoint-*"))


@pytest.mark.slow
def test_a_disturbed_run_goes_on_to_the_same_bits(runs):
    folder, found = runs
    killed = found["killed"]
    assert killed["codes"] == [2, -9]
    assert killed["said"].count("error: ") == 1
    assert "error: process 0 of 2: another process has ended; start all" in killed["said"]
    assert found["stopped"]["codes"] == [128 + 15]
    assert "stopped by SIGTERM after" in found["stopped"]["said"]
    assert found["finished"]["codes"] == [0] * 4, found["finished"]["said"]
    assert result(folder / "disturbed") == result(folder / "one")


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others(runs):
    _, found = runs
    assert found["hung"]["codes"] == [2]
    assert "has not answered for 2 s (EKPNET_WAIT); start all" in found["hung"]["said"]


@pytest.mark.slow
def test_torchrun(tmp_path):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += ["-m", "ekpnet_fast.train", *OPTIONS, "--epochs", "1", "--output", str(tmp_path / "a")]
    # Its processes are in sessions of their own: it ends them when it is told to end.
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            said, errors = program.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            program.terminate()
            raise
    assert program.returncode == 0, errors
    assert said.count("Written to") == 1
    assert (tmp_path / "a" / "metrics.json").is_file()
