"""Runs that survive: what is killed, stopped or full goes on to the bits of an undisturbed run."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from ekpnet_fast import train
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.runs import display, evaluate, run_folder, runner
from ekpnet_fast.runs.options import parse_command
from ekpnet_fast.storage import checkpoint, tensor_file
from ekpnet_fast.storage.checkpoint import CheckpointWriter
from ekpnet_fast.storage.seals import text_hash
from ekpnet_fast.training.signals import Interrupted, Signals
from support import small_run
from support.places import ROOT, SUPPORT
from support.programs import PATIENCE

SMALL = [
    *small_run.SMALL,
    *["--epochs", "4", "--train.patience", "9", "--pretrain.patience", "9"],
]
FILES = ["config.yaml", "context.safetensors", "metrics.json", "model.safetensors"]


@pytest.fixture(autouse=True)
def surroundings(threads, monkeypatch):
    """Runs set torch's threads and look at EKPNET_DATA."""
    monkeypatch.delenv("EKPNET_DATA", raising=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    before = torch.get_num_threads()
    output = tmp_path_factory.mktemp("undisturbed")
    runner.run(parse_command([*SMALL, "--output", str(output)]).config)
    torch.set_num_threads(before)
    return output


@pytest.fixture
def stopped(tmp_path):
    """The folder of a run that was stopped in the second epoch of its second stage."""
    output = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        runner.run(
            parse_command([*SMALL, "--output", str(output)]).config,
            after("train", 2, 3),
            signals=SIGNAL,
        )
    return output


class _Signal:
    """As `Signals`, but told by the test."""

    def __init__(self):
        self.caught = None

    def deferred(self):
        self.caught = None
        return Signals().deferred()


SIGNAL = _Signal()


def after(stage, epoch, batches):
    """A callback that has a signal come after so many batches of an epoch."""
    seen = []

    def on_progress(progress):
        if progress.record is None and (progress.stage, progress.epoch) == (stage, epoch):
            seen.append(progress)
            if len(seen) == batches:
                SIGNAL.caught = signal.SIGTERM

    return on_progress


def resume(output, *arguments, **options):
    command = parse_command(["--resume", str(output), *arguments])
    return runner.run(command.config, resume=command.resume, **options)


def assert_same_run(output, other):
    """Down to the bytes of the weights and every number but times and the memory."""
    assert sorted(path.name for path in output.iterdir()) == FILES
    found, expected = map(small_run.metrics_but_times, (output, other))
    assert found == expected
    weights = [(folder / "model.safetensors").read_bytes() for folder in (output, other)]
    assert weights[0] == weights[1]


def checkpoints(output):
    return sorted(path.name for path in output.glob("checkpoint-*"))


def refused(capsys, *arguments):
    capsys.readouterr()
    code = train.main([str(word) for word in arguments])
    err = capsys.readouterr().err
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    return err.removeprefix("error: ").strip()


# ---- killed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kills", "resumes"), [(3, 1), pytest.param(10, 4, marks=pytest.mark.slow)]
)
def test_killed_at_random_moments(tmp_path, kills, resumes):
    """SIGKILL strikes: while loading, in a step, half a checkpoint, evaluation."""
    done = subprocess.run(
        [sys.executable, SUPPORT / "killing.py", tmp_path, str(kills), str(resumes), "7", *SMALL],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["codes"].count(-signal.SIGKILL) >= kills
    assert sum(line.startswith("resumed after ") for line in told["log"]) >= resumes
    for i in range(told["runs"]):
        assert_same_run(tmp_path / f"run-{i}", tmp_path / "undisturbed")


# ---- stopped -------------------------------------------------------------------------------------


def test_a_stopped_run_loses_no_step(stopped, undisturbed):
    assert checkpoints(stopped)[-2:] == ["checkpoint-6.json", "checkpoint-6.safetensors"]
    assert not (stopped / "metrics.json").exists()
    told = []
    metrics = resume(stopped, warn=told.append)
    assert told == ["resumed after step 3 of epoch 2 of the train stage"]
    assert metrics["resumed"] == 1
    assert_same_run(stopped, undisturbed)


@pytest.mark.parametrize(
    "options",
    [
        ["--model", "ekpnet_plus", "--folds", "3", "--ekpnet_plus.low_pass", "[4]"],
        ["--shape.table_dtype", "bfloat16"],
        ["--protocol", "recbole", "--train.loss", "softmax", "--sampling.hard_share", "0.5"],
    ],
    ids=["ekpnet_plus", "bfloat16", "hard negatives"],
)
def test_it_goes_on_with_more_than_weights(tmp_path, options):
    """The linear part, which is fitted anew, folds and their ripple sets; rounding; nominees."""
    arguments = [*SMALL, *options]
    undisturbed, output = tmp_path / "undisturbed", tmp_path / "stopped"
    runner.run(parse_command([*arguments, "--output", str(undisturbed)]).config)
    with pytest.raises(Interrupted):
        runner.run(
            parse_command([*arguments, "--output", str(output)]).config,
            after("train", 2, 2),
            signals=SIGNAL,
        )
    resume(output, warn=lambda text: None)
    assert_same_run(output, undisturbed)


def test_it_goes_on_with_other_threads_elsewhere(stopped, undisturbed, tmp_path):
    moved = shutil.move(stopped, tmp_path / "moved")
    resume(moved, "--threads", "2", "--checkpoint-every", "2", warn=lambda text: None)
    metrics = json.loads((moved / "metrics.json").read_text())
    assert metrics["environment"]["threads"] == 2
    metrics["environment"]["threads"] = 1
    (moved / "metrics.json").write_text(json.dumps(metrics))
    assert_same_run(moved, undisturbed)


def test_a_signal_to_the_command(capsys, monkeypatch, undisturbed, tmp_path):
    output = tmp_path / "run"

    class Display(display.Display):
        calls = 0

        def __call__(self, progress):
            Display.calls += 1
            if Display.calls == 12:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(display, "Display", Display)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert train.main([*SMALL, "--output", str(output)]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == (
        "stopped by SIGINT after step 5 of epoch 2 of the pretrain stage;"
        f" go on with --resume {output}\n"
    )
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert train.main(["--resume", str(output)]) == 0
    assert_same_run(output, undisturbed)
    Display.calls = 0
    capsys.readouterr()
    assert train.main(SMALL) == 128 + signal.SIGINT
    assert (
        capsys.readouterr().err
        == "stopped by SIGINT; nothing of the run is kept, because it has no --output\n"
    )


def test_a_second_signal_ends_at_once():
    text = (
        "import os, signal\n"
        "from ekpnet_fast.training.signals import Signals\n"
        "with Signals() as signals, signals.deferred():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print(signals.caught, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('still here', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGINT, f"{int(signal.SIGINT)}\n")


def test_a_signal_that_nobody_waits_for():
    with Signals() as signals:
        with pytest.raises(Interrupted, match=r"^stopped by SIGTERM$"):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals.caught == signal.SIGTERM


# ---- damaged -------------------------------------------------------------------------------------


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


DAMAGES = [
    ("checkpoint-6.safetensors", cut, r"checkpoint-6\.safetensors: found \d+ bytes, expected \d+"),
    ("checkpoint-6.safetensors", flip, r"checkpoint-6\.safetensors: damaged, its hash is another"),
    (
        "checkpoint-6.safetensors",
        Path.unlink,
        r"checkpoint-6\.safetensors: no such file, expected the one that checkpoint-6\.json names",
    ),
    ("checkpoint-6.json", cut, r"checkpoint-6\.json: damaged, "),
    ("checkpoint-6.json", flip, r"checkpoint-6\.json: damaged, "),
]
damages = pytest.mark.parametrize(
    ("name", "damage", "expected"),
    DAMAGES,
    ids=["cut", "rotten", "gone", "cut json", "rotten json"],
)


@damages
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    stopped, undisturbed, name, damage, expected
):
    file = stopped / name
    if name.endswith("json") and damage is cut:
        cut(file)  # the first cut takes the final line break alone
    damage(file)
    told = []
    resume(stopped, warn=told.append)
    assert len(told) == 2
    assert told[0].startswith(str(stopped))
    assert told[0].endswith("; falling back to checkpoint-5.json")
    assert re.search(expected, told[0])
    assert told[1] == "resumed after epoch 1 of the train stage"
    assert_same_run(stopped, undisturbed)


def test_no_whole_checkpoint(stopped, capsys):
    for name in ("checkpoint-5.safetensors", "checkpoint-6.safetensors"):
        cut(stopped / name)
    text = refused(capsys, "--resume", stopped)
    assert text.startswith(f"{stopped}: no checkpoint is whole, expected one to go on from; ")
    assert "checkpoint-5.safetensors: found" in text and "checkpoint-6.safetensors: found" in text


def test_checkpoints_of_another_format(stopped, capsys):
    """Whole ones, of a version whose features of pairs were others."""
    for path in stopped.glob("checkpoint-*.json"):
        content = json.loads(path.read_text())["checkpoint"]
        content["format"] = "ekpnet_fast.checkpoint"
        path.write_text(json.dumps({"checkpoint": content, "sha256": text_hash(content)}))
    text = refused(capsys, "--resume", stopped)
    found = "found format 'ekpnet_fast.checkpoint', expected 'ekpnet_fast.checkpoint/2'"
    assert f"checkpoint-6.json: {found}" in text and f"checkpoint-5.json: {found}" in text


def test_a_full_disk(capsys, monkeypatch, undisturbed, tmp_path):
    output = tmp_path / "run"
    written = []

    def write(path, kind, tensors, facts):
        tensor_file_write(path, kind, tensors, facts)
        written.append(path)
        if len(written) == 3:
            cut(Path(path))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tensor_file_write = tensor_file.write
    monkeypatch.setattr(tensor_file, "write", write)
    text = refused(capsys, *SMALL, "--output", output)
    assert text == (
        f"{output}/checkpoint-3.safetensors cannot be written (No space left on device)"
    )
    assert checkpoints(output) == [
        f"checkpoint-{i}.{kind}" for i in (1, 2) for kind in ("json", "safetensors")
    ]
    told = []
    resume(output, warn=told.append)
    assert told == ["resumed after epoch 2 of the pretrain stage"]
    assert_same_run(output, undisturbed)


def test_a_file_system_that_refuses(tmp_path):
    """The operating system itself stops the writer in the middle of a file."""
    small, large = {"x": torch.ones(100)}, {"x": torch.ones(100_000)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with CheckpointWriter(tmp_path, {"whose": "mine"}) as writer:
        writer.save({"elapsed": 0}, small)
        writer.finish()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            writer.save({}, large)
            with pytest.raises(ConfigError, match=r"checkpoint-2\.safetensors cannot be written"):
                writer.finish()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoints(tmp_path) == ["checkpoint-1.json", "checkpoint-1.safetensors"]
    found = checkpoint.latest(tmp_path, pytest.fail)
    assert found.facts["whose"] == "mine" and torch.equal(found.tensors["x"], small["x"])


# ---- what is kept --------------------------------------------------------------------------------


def test_others_may_read_what_the_umask_lets_them(undisturbed):
    assert {file.stat().st_mode for file in undisturbed.iterdir()} == {
        (undisturbed / "config.yaml").stat().st_mode
    }
    (undisturbed / "touched").touch()
    mode = (undisturbed / "touched").stat().st_mode
    (undisturbed / "touched").unlink()
    assert (undisturbed / "model.safetensors").stat().st_mode == mode


@pytest.mark.parametrize(("every", "numbers"), [(None, [4, 5]), (2, [1, 2]), (0, [])])
def test_the_last_two_are_kept(tmp_path, every, numbers):
    """A run that is killed in its sixth epoch."""
    output = tmp_path / "run"
    options = [] if every is None else ["--checkpoint-every", str(every)]
    config = parse_command([*SMALL, "--epochs", "4", *options, "--output", str(output)]).config

    class StopError(Exception):
        pass

    def on_progress(progress):
        if (progress.stage, progress.epoch) == ("train", 2):
            raise StopError

    with pytest.raises(StopError):
        runner.run(config, on_progress)
    assert checkpoints(output) == [
        f"checkpoint-{i}.{kind}" for i in numbers for kind in ("json", "safetensors")
    ]


def test_tensors_may_change_once_they_are_saved(tmp_path):
    x, going = torch.zeros(1000), threading.Event()
    with CheckpointWriter(tmp_path, {}) as writer:
        writer._pool.submit(going.wait)  # its thread is busy
        writer.save({}, {"x": x})
        x.fill_(1)
        going.set()
    assert not checkpoint.latest(tmp_path, pytest.fail).tensors["x"].any()


def test_what_a_checkpoint_holds(stopped):
    found = checkpoint.latest(stopped, pytest.fail)
    assert found.number == 6
    assert {name.split(".")[0] for name in found.tensors} == {"model", "best", "optimizer", "rng"}
    assert {"m.entity", "v.entity", "steps", "adam.0.exp_avg"} <= set(found.named("optimizer"))
    facts = found.facts
    assert facts["position"] | {"sums": 0, "watch": 0} == {
        **{"stage": "train", "epochs_done": 5, "epoch": 1, "steps": 3, "sums": 0, "watch": 0},
        **{name: facts["position"][name] for name in ("passed", "best", "best_epoch")},
        **{name: facts["position"][name] for name in ("epoch_seconds", "stage_seconds")},
    }
    assert [record["epoch"] for record in facts["epochs"]] == [1, 2, 3, 4, 1]
    assert facts["config"] == yaml.safe_load((stopped / "config.yaml").read_text())
    assert len(facts["data_hash"]) == 16


# ---- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--train.lr", "0.5"], "--train.lr is 0.5, but the run to resume has 0.005"),
        (["--epochs", "9"], "--pretrain.epochs is 9, but the run to resume has 4"),
        (["--model", "mf"], "--model is mf, but the run to resume has ekpnet"),
        (["--config", "x.yaml"], "--config beside --resume: the options come from "),
        (["--output", "elsewhere"], "--output beside --resume: the run goes on in "),
        (["--overwrite", "true"], "--overwrite beside --resume: the run goes on in "),
    ],
)
def test_other_options(capsys, stopped, arguments, expected):
    before = checkpoints(stopped)
    assert refused(capsys, "--resume", stopped, *arguments).startswith(expected)
    assert checkpoints(stopped) == before


def test_the_same_options_may_be_repeated(stopped):
    command = parse_command(["--resume", str(stopped), *SMALL, "--seed", "0"])
    assert command.resume and command.config.output == stopped


def test_options_changed_behind_its_back(capsys, stopped):
    file = stopped / "config.yaml"
    file.write_text(file.read_text().replace("lr: 0.005", "lr: 0.006"))
    text = refused(capsys, "--resume", stopped)
    assert text == f"{stopped}/checkpoint-6.json: written with other options: train"


def test_changed_data(capsys, stopped, monkeypatch):
    prepare = evaluate.prepare
    monkeypatch.setattr(evaluate, "prepare", lambda *a: replace(prepare(*a), hash="0" * 16))
    text = refused(capsys, "--resume", stopped)
    assert text.startswith(f"{stopped}/checkpoint-6.json: trained on data with hash ")
    assert "found 0000000000000000; the files of the data set have changed" in text


def test_another_version_is_told(stopped, undisturbed, monkeypatch):
    monkeypatch.setattr(runner, "__version__", "9.9")
    told = []
    with pytest.raises(Interrupted):
        resume(stopped, warn=told.append, signals=_Stopped())
    assert "going on with 9.9" in told[0] and "numbers may differ" in told[0]


class _Stopped(_Signal):
    def deferred(self):
        self.caught = signal.SIGTERM
        return Signals().deferred()


def test_nothing_to_resume(capsys, undisturbed, tmp_path):
    text = refused(capsys, "--resume", tmp_path)
    assert text == f"--resume {tmp_path}: has no config.yaml, expected the folder of a run"
    text = refused(capsys, "--resume", undisturbed)
    assert text == f"--resume {undisturbed}: the run is finished, nothing is left to do"
    assert refused(capsys, "--resume") == "--resume has no value, expected one"
    file = tmp_path / "x.yaml"
    file.write_text("resume: there\n")
    assert "resume is no option of a run" in refused(capsys, "--config", file)
    with pytest.raises(ConfigError, match="there is no --output"):
        runner.run(parse_command(SMALL).config, resume=True)


def test_before_the_first_checkpoint(undisturbed, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    run_folder.save_config(output, parse_command([*SMALL, "--output", str(output)]).config)
    told = []
    resume(output, warn=told.append)
    assert told == [f"{output}: no checkpoint yet; starting from the beginning"]
    assert_same_run(output, undisturbed)


def test_an_unfinished_run_is_not_thrown_away_unasked(capsys, stopped, undisturbed):
    before = checkpoints(stopped)
    text = refused(capsys, *SMALL, "--output", stopped)
    assert text.startswith(f"--output {stopped} holds an unfinished run; go on with it by --resume")
    assert checkpoints(stopped) == before
    assert train.main([*SMALL, "--output", str(stopped), "--overwrite", "true"]) == 0
    assert_same_run(stopped, undisturbed)


def test_two_runs_in_one_folder(capsys, tmp_path):
    with run_folder.open_output(tmp_path, overwrite=False):
        text = refused(capsys, *SMALL, "--output", tmp_path)
    assert text.startswith(f"--output {tmp_path}: another run works there")


def test_checkpoints_need_a_folder(capsys):
    text = refused(capsys, *SMALL, "--checkpoint-every", "3")
    assert text.startswith("--checkpoint_every is 3 but there is no --output")


def test_a_checkpoint_of_another_model(stopped):
    found = checkpoint.latest(stopped, pytest.fail)
    tensors = {**found.tensors, "model.entity": torch.zeros(3, 2, 4)}
    names = ("config", "data_hash", "position", "epochs", "seconds")
    facts = {name: found.facts[name] for name in names}
    with CheckpointWriter(stopped, {}, start=found) as writer:
        writer.save(facts, tensors)
    with pytest.raises(DataError, match=r"checkpoint-7\.json: does not fit the run's model"):
        resume(stopped, warn=lambda text: None)
