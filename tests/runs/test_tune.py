"""`--tune`: what is tried, what is kept, and that a search goes on where it was."""

from __future__ import annotations

import csv
import math
import sys

import pytest
import yaml

from ekpnet_fast import train
from ekpnet_fast.config import RunConfig
from ekpnet_fast.errors import ConfigError, TrainingError
from ekpnet_fast.models import MODELS
from ekpnet_fast.runs import runner, tune
from ekpnet_fast.runs.options import parse_command
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.runs.tune import Range, default_space, read_space
from ekpnet_fast.training import loop
from support.small_run import SMALL

optuna = pytest.importorskip("optuna")

WORDS = [*SMALL, "--model", "ekp_att", "--epochs", "2"]
SPACE = {"pretrain.lr": Range(1e-3, 1e-1, log=True), "shape.hops": (1, 2)}


@pytest.fixture(autouse=True)
def surroundings(threads, monkeypatch):
    monkeypatch.delenv("EKPNET_DATA", raising=False)


def tried(trials):
    """All of them but their times, in the order of trying."""
    ordered = sorted(trials, key=lambda trial: trial.number)
    return [(trial.number, trial.value, trial.options, trial.error) for trial in ordered]


def options_of(*words):
    return parse_command([*WORDS, *words]).options


def search(output, trials, *words, space=SPACE):
    return tune.tune(options_of("--output", str(output), *words), trials, space)


def test_what_is_kept(tmp_path):
    told = []
    options = options_of("--output", str(tmp_path / "search"))
    trials = tune.tune(options, 4, SPACE, lambda trial, best: told.append((trial, best)))
    assert [trial.number for trial, _ in told] == [1, 2, 3, 4]
    assert [best.value for _, best in told] == [
        max(trial.value for trial, _ in told[: i + 1]) for i in range(4)
    ]
    assert [trial.value for trial in trials] == sorted((t.value for t in trials), reverse=True)
    for trial in trials:
        assert 1e-3 <= trial.options["pretrain.lr"] <= 1e-1
        assert trial.options["shape.hops"] in (1, 2)
    with open(tmp_path / "search/trials.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [trial.value for trial, _ in told]
    assert [float(row["pretrain.lr"]) for row in rows] == [
        trial.options["pretrain.lr"] for trial, _ in told
    ]


def test_the_best_run_validates_as_its_trial_did(tmp_path):
    best = search(tmp_path / "search", 3)[0]
    config = parse_command(["--config", str(tmp_path / "search/best.yaml")]).config
    assert config.output is None
    assert config.pretrain.lr == best.options["pretrain.lr"]
    assert config.shape.hops == best.options["shape.hops"]
    epochs = runner.run(config)["epochs"]
    assert max(record["valid_auc"] for record in epochs) == best.value


def test_goes_on_as_if_never_interrupted(tmp_path, monkeypatch):
    whole = search(tmp_path / "whole", 5)
    search(tmp_path / "parts", 2)
    original, calls = loop.train, []

    def killed(*arguments):
        calls.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "parts", 5)
    assert len(calls) == 1
    monkeypatch.setattr(loop, "train", original)
    assert tried(search(tmp_path / "parts", 5)) == tried(whole)


def test_finished_search_trains_nothing(tmp_path, monkeypatch):
    before = search(tmp_path / "search", 2)
    monkeypatch.setattr(loop, "train", lambda *arguments: pytest.fail("trained"))
    assert tried(search(tmp_path / "search", 2)) == tried(before)


def test_trial_that_fails_does_not_end_the_search(tmp_path):
    # Two pretraining learning rates: one of them makes the loss overflow.
    space = {"pretrain.lr": (0.01, 1e30)}
    trials = search(tmp_path / "search", 5, space=space)
    failed = [trial for trial in trials if trial.error is not None]
    assert 0 < len(failed) < 5
    assert all(trial.options["pretrain.lr"] == 1e30 for trial in failed)
    assert all(math.isnan(trial.value) for trial in failed)
    assert trials[-len(failed) :] == failed
    with pytest.raises(TrainingError, match="all 1 trials failed"):
        search(tmp_path / "other", 1, space={"pretrain.lr": (1e30,)})
    assert not (tmp_path / "other/best.yaml").exists()


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].stages])
def test_default_space_is_one_of_runs(name):
    space = default_space(resolve(RunConfig(model=name)))
    tune._check_space({"model": name}, space)
    assert set(space) & {f"{stage}.lr" for stage in MODELS[name].stages}


def test_named_options_stay(tmp_path):
    options = options_of("--pretrain.lambda3", "0.001", "--output", str(tmp_path / "search"))
    (trial,) = tune.tune(options, 1)
    assert "pretrain.lr" in trial.options
    assert not {"pretrain.lambda3", "shape.width", "pretrain.batch_size"} & set(trial.options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("seed", "changes what all trials are compared on"),
        ("synthetic.users", "changes what all trials are compared on"),
        ("threads", "changes what all trials are compared on"),
        ("pretrain.lrr", "cannot try pretrain.lrr"),
        ("kgcn.neighbors", "an option of model kgcn"),
        ("shape.width", "cannot try shape.width 500: .* expected 1 to 128"),
    ],
)
def test_what_cannot_be_tried_is_told_before_any_trial(tmp_path, option, message):
    with pytest.raises(ConfigError, match=message):
        search(tmp_path / "search", 1, space={option: (500,)})
    assert not (tmp_path / "search").exists()


def test_search_of_another_kind_in_the_folder(tmp_path):
    search(tmp_path, 1)
    with pytest.raises(ConfigError, match="holds a search with other options; choose another"):
        search(tmp_path, 2, "--shape.width", "8")
    with pytest.raises(ConfigError, match="holds a search with other space"):
        search(tmp_path, 2, space={"shape.hops": (1, 3)})
    (trial,) = search(tmp_path, 1, "--shape.width", "8", "--overwrite", "true")
    assert trial.number == 1


def test_space_from_a_file(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text("train.lr: {low: 1e-3, high: 0.1, log: true}\nshape.hops: {low: 1, high: 3}\n")
    assert read_space(file) == {"train.lr": Range(1e-3, 0.1, True), "shape.hops": Range(1, 3)}
    file.write_text("shape.init: [xavier, normal]\n")
    assert read_space(file) == {"shape.init": ("xavier", "normal")}


@pytest.mark.parametrize(
    "text",
    [
        "train.lr: 0.1",
        "train.lr: []",
        "train.lr: {low: 1}",
        "train.lr: {low: 2, high: 1}",
        "train.lr: {low: 0, high: 1, log: true}",
        "train.lr: {low: a, high: b}",
        "train.lr: {low: 1, high: .inf}",
        "train.lr: {low: 1, high: 2, step: 1}",
    ],
)
def test_space_that_is_none(tmp_path, text):
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"space\.yaml: train\.lr is .*, expected a list of"):
        read_space(file)


def test_space_file_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match="found no such file, expected a YAML file"):
        read_space(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected lines such as"):
        read_space(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        read_space(tmp_path / "broken.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tune", "3"], "--tune needs --output"),
        (["--tune", "0", "--output", "search"], "--tune is 0, expected at least 1 trial"),
        (["--tune", "many"], "--tune is 'many', expected a number of trials"),
        (["--tune_space", "a.yaml"], "there is no --tune"),
        (["--tune", "3", "--resume", "run"], "--resume beside --tune"),
        (["--tune", "3", "--output", "search", "--report"], "--report has no effect"),
        (["--tune", "3", "--output", "search", "--model", "popularity"], "nothing to tune"),
    ],
)
def test_commands_that_are_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main([*SMALL, *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_command(tmp_path, capsys):
    (tmp_path / "space.yaml").write_text("pretrain.lr: [0.01, 0.03]\n")
    output = tmp_path / "search"
    space = ["--tune-space", str(tmp_path / "space.yaml")]
    assert train.main([*WORDS, "--tune", "2", *space, "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "  2/2  valid 0." in shown
    assert f"--config {output / 'best.yaml'}" in shown
    assert yaml.safe_load((output / "best.yaml").read_text())["model"] == "ekp_att"


def test_without_optuna(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'ekpnet_fast\[tune\]'"):
        search(tmp_path, 1)
