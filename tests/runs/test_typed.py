"""Options that have their types already: the same as by the parser, or left to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ekpnet_fast.config import RunConfig
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models import MODELS
from ekpnet_fast.runs import option_parser, resolve
from ekpnet_fast.runs.typed import UnfitError, changed

# Values that the parser converts, such as whole numbers for floats.
GIVEN = {"train.lr": 1, "data_root": "some/where", "threads": 2, "threshold": 3, "ranking": False}


@pytest.mark.parametrize("model", MODELS)
def test_as_the_parser_makes_them(model):
    presets = MODELS[model].presets
    cases = {(preset, name) for preset, found in presets.items() for name in found}
    for preset, dataset in sorted(cases | {("default", "synthetic")}):
        given = {**GIVEN, "preset": preset, "dataset": dataset, "model": model}
        defaults = resolve.preset_options(preset, dataset, model)
        typed = resolve._of_types({**defaults, **given})
        # Representations, because 1 == 1.0 == True.
        assert repr(typed) == repr(resolve._parsed(model, defaults, given))


def test_a_stored_run_needs_no_parser(monkeypatch):
    config = resolve.resolve({"model": "ekpnet_plus", "dataset": "book-crossing", "folds": 2})
    monkeypatch.setattr(option_parser, "run_parser", None)
    assert resolve.resolve(config.as_dict()) == config


@pytest.mark.parametrize(
    "values",
    [
        {"sed": 1},
        {"seed": 1.5},
        {"seed": "1"},
        {"seed": True},
        {"ranking": 1},
        {"dataset": 7},
        {"device": "gpu"},
        {"data_root": "null"},
        {"train": 3},
        {"train": {"lr": "fast"}},
        {"options": {}},
    ],
)
def test_other_values_are_left_to_the_parser(values):
    with pytest.raises(UnfitError):
        changed(RunConfig(), values)


def test_what_fits():
    values = {"data_root": "a", "threads": None, "train": {"lr": 1}, "device": "cpu"}
    config = changed(RunConfig(), values)
    assert (config.data_root, config.threads, config.device) == (Path("a"), None, "cpu")
    # What is not given is as in the whole's default, not as in the group's.
    assert repr(config.train.lr) == "1.0" and config.train.epochs == RunConfig().train.epochs == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train.lr": "fast"}, "--train.lr is fast, expected a number"),
        ({"train": {"lr": 1}, "train.lr.x": 1}, "train.lr"),
        ({"sed": 1}, "did you mean --"),
    ],
)
def test_the_parser_says_what_is_wrong(options, message):
    with pytest.raises(ConfigError, match=message):
        resolve.resolve(options)
