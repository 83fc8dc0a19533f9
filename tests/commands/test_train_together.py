"""Training by several processes, on gloo, some of them killed, stopped or hung."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ekpnet_fast.runs import runner
from ekpnet_fast.runs.options import parse_command
from support.places import ROOT, SUPPORT
from support.small_run import SMALL, metrics_but_times

OPTIONS = [
    *SMALL,
    *["--parallel.parts", "4", "--train.group_size", "8", "--pretrain.group_size", "8"],
    *["--epochs", "4", "--train.patience", "9", "--pretrain.patience", "9"],
]


def result(folder):
    """The weights, and the metrics but for times."""
    kept = metrics_but_times(folder)
    kept["environment"].pop("processes", None)
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
def test_a_process_killed_while_a_checkpoint_is_written_changes_no_bit(runs):
    folder, found = runs
    assert found["torn"]["codes"] == [2, -9]
    assert found["mended"]["codes"] == [0, 0], found["mended"]["said"]
    assert "resumed" in found["mended"]["said"]
    assert result(folder / "torn") == result(folder / "one")


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others(runs):
    _, found = runs
    for hung in (found["hung 0"], found["hung 1"]):
        assert hung["codes"] == [-9, 2]
        assert "has not answered for 2 s (EKPNET_WAIT); start all" in hung["said"]


@pytest.mark.slow
def test_torchrun_starts_anew_what_was_killed(tmp_path):
    words = [*OPTIONS, "--epochs", "20", "--train.patience", "20", "--pretrain.patience", "20"]
    config = parse_command([*words, "--output", str(tmp_path / "undisturbed")]).config
    runner.run(config)
    disturbed = tmp_path / "disturbed"

    def stop(progress):
        if progress.record is not None and progress.record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(replace(config, output=disturbed), stop)
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", "1"]
    program += ["--nproc-per-node", "2", "-m", "ekpnet_fast.train", "--resume", str(disturbed)]
    # Its processes are in sessions of their own: it ends them when it is told to end.
    with subprocess.Popen(
        program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as torchrun:
        try:
            deadline = time.monotonic() + 120
            while not (disturbed / "checkpoint-4.json").exists():
                assert time.monotonic() < deadline
                time.sleep(0.002)
            children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text()
            os.kill(int(children.split()[-1]), signal.SIGKILL)
            said, errors = torchrun.communicate(timeout=120)
        except BaseException:
            torchrun.terminate()
            raise
    assert torchrun.returncode == 0, errors
    assert said.count("Written to") == 1
    assert errors.count("another process has ended") == 1, errors
    assert result(disturbed) == result(tmp_path / "undisturbed")
