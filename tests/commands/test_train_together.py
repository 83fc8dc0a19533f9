"""Training by several processes, on gloo, some of them killed, stopped or hung."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

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
@pytest.mark.parametrize(("model", "seed"), [("ekpnet", 1), ("ekpnet", 2), ("ekpnet_plus", 3)])
def test_killed_and_stopped_at_moments_drawn_from_a_seed(tmp_path, model, seed):
    """At messages, and while files of checkpoints are written or removed; see `rank_kills.py`."""
    program = [sys.executable, str(SUPPORT / "rank_kills.py"), str(tmp_path), str(seed), "6"]
    done = subprocess.run(
        [*program, *OPTIONS, "--model", model],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for start in told["starts"]:
        codes = start["codes"]
        killed = start["came"] and start["how"] != "paused"
        others = codes[: start["rank"]] + codes[start["rank"] + 1 :]
        assert codes[start["rank"]] == (-signal.SIGKILL if killed else others[0]), start
        # Who had nothing more to ask of the one that was killed has ended well.
        assert {*others} <= ({0, 2} if killed else {0}), start
        if start["came"] and start["how"] == "hung":
            unanswered = f"has not answered for {told['wait']} s (EKPNET_WAIT)"
            assert {*others} == {2} and unanswered in start["said"], start
        elif 2 in others:
            assert "another process has ended; start all" in start["said"], start
    assert sum("resumed after" in start["said"] for start in told["starts"]) > 1
    for run in range(told["runs"]):
        assert result(tmp_path / f"run-{run}") == result(tmp_path / "undisturbed"), told["starts"]


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others(runs):
    _, found = runs
    for hung in (found["hung 0"], found["hung 1"]):
        assert hung["codes"] == [-9, 2]
        assert "has not answered for 6 s (EKPNET_WAIT); start all" in hung["said"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_torchrun_starts_anew_what_was_killed(tmp_path, seed):
    """Three times, each at a message drawn from the seed."""
    words = [*OPTIONS, "--epochs", "20", "--train.patience", "20", "--pretrain.patience", "20"]
    config = parse_command([*words, "--output", str(tmp_path / "undisturbed")]).config
    runner.run(config)
    disturbed = tmp_path / "disturbed"

    def stop(progress):
        if progress.record is not None and progress.record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(replace(config, output=disturbed), stop)
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", "3"]
    program += ["--nproc-per-node", "2", str(SUPPORT / "elastic_kills.py"), str(seed), "3"]
    paths = [str(ROOT), str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Its processes are in sessions of their own: it ends them when it is told to end.
    with subprocess.Popen(
        [*program, "--resume", str(disturbed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as torchrun:
        try:
            said, errors = torchrun.communicate(timeout=240)
        except BaseException:
            torchrun.terminate()
            raise
    assert torchrun.returncode == 0, errors
    assert said.count("Written to") == 1
    assert [f"attempt {k} ends at message" in errors for k in range(4)] == [True] * 3 + [False]
    assert 0 < errors.count("another process has ended") <= 3, errors
    assert result(disturbed) == result(tmp_path / "undisturbed")
