"""Start of the commands: what they must not import, because it would be waited for."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ekpnet_fast.runs import runner
from support.places import ROOT

# The heavy ones, by what imports them: seconds for torch, tenths for the others.
HEAVY = ("numpy", "torch", "scipy", "duckdb", "jsonargparse", "rich", "yaml", "safetensors")
TRAINING = "ekpnet_fast.training.loop"
PROGRAM = """
import json, sys
from ekpnet_fast import cli
try:
    cli.main(sys.argv[2:])
except SystemExit:
    pass
print(json.dumps([name for name in json.loads(sys.argv[1]) if name in sys.modules]))
"""


def imported(*words: object) -> list[str]:
    """Heavy modules that a command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([*HEAVY, TRAINING]), *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) > 1, done.stderr  # the command said something
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of small runs, by model."""
    folder = tmp_path_factory.mktemp("start")
    sizes = {"users": 60, "items": 80, "positives": 10, "attributes": 16, "parents": 4}
    for model in ("ekpnet", "ekpnet_plus"):
        options = {
            "model": model,
            "epochs": 1,
            "ranking": False,
            "threads": 1,
            "output": folder / model,
            "shape": {"width": 4, "slots": 8},
            "synthetic": {**sizes, "triples": 435},
        }
        runner.run(options)
    return folder


def test_help_of_all_commands():
    assert imported("--help") == []


@pytest.mark.parametrize("command", ["recommend", "explain", "export", "evaluate", "serve"])
def test_help_of_a_command_for_a_run(command):
    assert not {*imported(command, "--help")} & {"torch", "scipy", "duckdb", "jsonargparse", "rich"}


def test_help_of_training():
    """Its options are those of the models, which are torch's; the parser is jsonargparse's."""
    assert not {*imported("train", "--help")} & {"scipy", "duckdb"}


@pytest.mark.parametrize("words", [["recommend"], ["recommend", "--explain"], ["explain"]])
def test_answers_of_a_run(runs, words):
    command, *options = words
    item = ["--item", 3] if command == "explain" else []
    found = imported(command, runs / "ekpnet", "--user", 1, *item, *options)
    assert "torch" in found
    assert not {*found} & {"scipy", "duckdb", "jsonargparse", TRAINING}


def test_answers_of_a_run_with_a_wide_part(runs):
    assert not {*imported("recommend", runs / "ekpnet_plus", "--user", 1)} & {
        "duckdb",
        "jsonargparse",
        TRAINING,
    }


GARBAGE = """
import gc, sys
from ekpnet_fast.recommender.command import set_threads
from ekpnet_fast.terminal import importing
searches = []
gc.callbacks.append(lambda phase, info: searches.append(len(gc.get_objects())))
set_threads(1, 1)
assert "torch" in sys.modules and not searches, searches
assert gc.isenabled() and len(gc.get_objects()) < 10_000 < gc.get_freeze_count()
try:
    with importing():
        assert not gc.isenabled()
        import a_module_that_is_not_there
except ImportError:
    pass
assert gc.isenabled()
"""


def test_imports_of_a_command_are_not_looked_through_for_garbage():
    subprocess.run(
        [sys.executable, "-c", GARBAGE], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )


def test_a_process_that_is_there_for_more_keeps_its_garbage_collector():
    code = "import torch, gc; from ekpnet_fast.terminal import importing\n"
    code += "with importing(): assert gc.isenabled()\nassert not gc.get_freeze_count()"
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )
