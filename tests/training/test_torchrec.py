"""Tables that TorchRec shares; most of it in processes, where TorchRec is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import pytest
import torch

from ekpnet_fast import train as command
from ekpnet_fast.config import ParallelConfig, RunConfig
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.training.parallel import backend
from ekpnet_fast.training.parallel.backend import check_backend
from ekpnet_fast.training.parallel.shards import Sharding
from ekpnet_fast.training.parallel.world import World
from support.places import ROOT, SUPPORT

TORCHREC = ParallelConfig(4, "torchrec", "adagrad")
MODELS = ("ekpnet", "mf")
OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad")


def missing():
    """Why runs of TorchRec are skipped here."""
    try:
        check_backend(TORCHREC, 2)
    except ConfigError as error:
        return str(error)
    return ""


installed = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def runs():
    program = [sys.executable, str(SUPPORT / "torchrec_runs.py")]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@installed
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_processes_do_what_the_same_optimizer_does_in_one(runs, model, optimizer):
    """TorchRec divides gradients by the number of processes, unless it is told not to.

    The decay of rows is in it, and MF's biases are padded.
    """
    ours, theirs = runs[f"{model} {optimizer}"], runs[f"{model} {optimizer} alone"]
    for mine, other in zip(ours["records"], theirs["records"], strict=True):
        assert mine[0] == other[0]
        assert mine[1:] == pytest.approx(other[1:], rel=2e-4)
    assert ours["weights"].keys() == theirs["weights"].keys()
    for name, weights in ours["weights"].items():
        assert weights == pytest.approx(theirs["weights"][name], abs=3e-4), name


@installed
@pytest.mark.parametrize("model", MODELS)
def test_losses_fall_as_they_do_by_adam(runs, model):
    adam = runs[f"{model} adam"]["records"]
    for optimizer in ("adagrad", "rowwise_adagrad"):
        records = runs[f"{model} {optimizer}"]["records"]
        for (stage, first, *_), (same, second, *_) in zip(records[::2], records[1::2], strict=True):
            assert stage == same and second < 0.98 * first
        assert records[-1][1] == pytest.approx(adam[-1][1], abs=0.03)
        assert records[-1][3] == pytest.approx(adam[-1][3], abs=0.05)  # AUC on validation


@installed
def test_a_stopped_run_goes_on_to_the_same_weights(runs):
    resumed, undisturbed = runs["resumed"], runs["ekpnet adagrad"]
    assert resumed.pop("resumed")
    assert resumed == undisturbed


@installed
def test_a_process_that_ends_is_told(runs):
    assert "process 0 of 2: another process has ended; start all of them" in runs["left alone"]


def test_an_id_out_of_range_is_refused():
    """TorchRec would take row 0."""
    sharding = Sharding(50, 4, World())
    for ids, found in (([3, 50], "from 3 to 50"), ([-1], "from -1 to -1")):
        with pytest.raises(ValueError, match=f"ids {found}, expected 0 to 49"):
            sharding.places(torch.tensor(ids))
    assert len(sharding.places(torch.tensor([], dtype=torch.int32))[0]) == 0


def versions(monkeypatch, **known):
    def version(name):
        try:
            return known[name.replace("-", "_")]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(backend.metadata, "version", version)


INSTALL = "pip install 'ekpnet_fast\\[torchrec\\]' && pip install --no-deps torchrec==1.8.0"


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"torch": "2.13.0+cpu"}, "found torchrec missing and fbgemm-gpu missing, expected 1.8.0"),
        (
            {"torch": "2.13.0", "torchrec": "1.9.2", "fbgemm_gpu": "1.9.0"},
            f"found torchrec 1.9.2 and fbgemm-gpu 1.9.0, expected 1.8.0 of .* 2.13.0: {INSTALL}",
        ),
        (
            {"torch": "2.13.0", "torchrec": "1.8.0"},
            f"torchrec 1.8.0 and fbgemm-gpu missing, .*{INSTALL}",
        ),
        ({"torch": "2.12.1"}, r"but torch is 2.12.1; expected 2.13, with which TorchRec was tried"),
    ],
)
def test_versions_that_do_not_go_together_are_told(known, said, monkeypatch):
    versions(monkeypatch, **known)
    with pytest.raises(ConfigError, match=said):
        check_backend(TORCHREC, 2)
    check_backend(ParallelConfig(4), 2)


def test_versions_that_go_together(monkeypatch):
    versions(monkeypatch, torch="2.13.0+cpu", torchrec="1.8.0+cpu", fbgemm_gpu_cpu="1.8.0")
    check_backend(TORCHREC, 2)


def test_one_process_is_refused(capsys):
    words = ["--parallel.parts", "4", "--parallel.table", "torchrec"]
    assert command.main([*words, "--parallel.optimizer", "adagrad", "--device", "cpu"]) == 2
    assert "torchrec, but there is one process; expected two or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parallel", "said"),
    [
        (
            ParallelConfig(4, "torchrec"),
            "adam, expected sgd or adagrad or rowwise_adagrad: --parallel.table torchrec has",
        ),
        (ParallelConfig(4, "rows", "sgd"), "optimizer is sgd, expected adam: .*table rows"),
    ],
)
def test_optimizers_that_a_backend_lacks_are_refused(parallel, said):
    with pytest.raises(ConfigError, match=said):
        resolve(replace(RunConfig(), parallel=parallel))
