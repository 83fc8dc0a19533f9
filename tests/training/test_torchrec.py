"""Tables that TorchRec shares; most of it in processes, where TorchRec is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import pytest
import torch
from safetensors.torch import load_file

from ekpnet_fast import train as command
from ekpnet_fast.config import ParallelConfig, RunConfig
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.training.parallel import backend
from ekpnet_fast.training.parallel.backend import check_backend
from ekpnet_fast.training.parallel.shards import Sharding
from ekpnet_fast.training.parallel.world import World
from support.places import ROOT, SUPPORT
from support.small_run import SMALL

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


def made(program, *words):
    """What a program of support prints, as JSON."""
    command = [sys.executable, str(SUPPORT / program), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def runs():
    return made("torchrec_runs.py")


OPTIONS = [
    *[*SMALL, "--epochs", "2", "--ranking", "false", "--device", "cpu"],
    *["--train.group_size", "8", "--pretrain.group_size", "8"],
    *["--parallel.parts", "4", "--parallel.table", "torchrec"],
    *["--parallel.optimizer", "rowwise_adagrad", "--train.lr", "0.05", "--pretrain.lr", "0.05"],
]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resumed")
    return folder, made("torchrec_resumes.py", str(folder), *OPTIONS)


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


def weights_and_epochs(folder):
    """Weights by name, and the loss and AUC of each epoch."""
    epochs = json.loads((folder / "metrics.json").read_text())["epochs"]
    weights = load_file(folder / "model.safetensors")
    return weights, [(epoch["stage"], epoch["loss"], epoch["valid_auc"]) for epoch in epochs]


@installed
def test_a_killed_process_ends_the_others_and_all_start_anew(resumed):
    folder, found = resumed
    again = found["two again"]
    for killed in (found["killed"], found["killed between stages"]):
        assert killed["codes"] == [2, -9], killed["said"]
        assert killed["said"].count("error: ") == 1
        assert "process 0 of 2: another process has ended; start all of them" in killed["said"]
    assert found["undisturbed"]["codes"] == again["codes"] == [0, 0], again["said"]
    ours, theirs = (weights_and_epochs(folder / name) for name in ("two again", "undisturbed"))
    assert ours[1] == theirs[1]
    for name, weights in theirs[0].items():
        assert torch.equal(ours[0][name], weights), name


@installed
@pytest.mark.parametrize(("name", "size"), [("four of two", 4), ("two of four", 2)])
def test_another_number_of_processes_goes_on(resumed, name, size):
    folder, found = resumed
    assert found["stopped"]["codes"] == [128 + 15] * 4
    assert found[name]["codes"] == [0] * size, found[name]["said"]
    assert "resumed after" in found[name]["said"]
    ours, theirs = (weights_and_epochs(folder / each) for each in (name, "undisturbed"))
    for mine, other in zip(ours[1], theirs[1], strict=True):
        assert mine[0] == other[0]
        assert mine[1:] == pytest.approx(other[1:], rel=1e-3)
    for of, weights in theirs[0].items():
        assert torch.allclose(ours[0][of], weights, rtol=0, atol=3e-4), of


@installed
def test_one_process_does_not_go_on(resumed):
    _, found = resumed
    alone = found["one of two"]
    assert alone["codes"] == [2] and alone["said"].count("\n") == 1
    assert "torchrec, but there is one process; expected two or more" in alone["said"]


@installed
def test_a_process_that_ends_is_told(runs):
    assert "process 0 of 2: another process has ended; start all of them" in runs["left alone"]


def test_an_id_out_of_range_is_refused():
    """TorchRec would take row 0."""
    sharding = Sharding(50, 4, World())
    for ids, found in (([3, 50], "50 at position 1"), ([-1], "-1 at position 0")):
        with pytest.raises(RuntimeError, match=f"ids holds id {found}, expected 0 <= id < 50"):
            sharding.placed(torch.tensor(ids, dtype=torch.int32), [len(ids)])
    assert len(sharding.placed(torch.zeros(0, dtype=torch.int32), [0]).rows) == 0


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
