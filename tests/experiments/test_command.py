"""The command as a user runs it: what it runs, keeps, writes, and refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ekpnet_fast.errors import TrainingError
from ekpnet_fast.experiments import cache
from ekpnet_fast.experiments.plan import Cell
from ekpnet_fast.experiments.runner import duration, expected_seconds
from ekpnet_fast.runs import plotting, runner
from support.places import ROOT
from support.programs import PATIENCE
from support.sealing import reseal


@pytest.fixture
def here(small, tmp_path):
    """Options for a quick command on the small data set, and its folder of results."""
    output = tmp_path / "out"
    root = small().parent
    return output, [
        *("--quick", "--datasets", "small", "--data-root", root),
        *("--threads", 1, "--output", output),
    ]


def refused(result):
    """The error of a command that must end in one: a line on stderr and exit code 2."""
    code, _, err = result
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    return err.removeprefix("error: ").strip()


def cells_in(output):
    return sorted(path.parent.name for path in output.glob("cells/*/*/metrics.json"))


# ---- running -------------------------------------------------------------------------------------


def test_everything_on_a_small_data_set(command, here):
    output, options = here
    code, out, err = command("all", *options)
    assert (code, err) == (0, "")
    kinds = {"md", "csv"} | ({"svg"} if plotting.has_matplotlib() else set())
    names = [*("table1", "table3", "table4", "table5"), *(f"figure{n}" for n in (4, 5, 6, 7))]
    assert {path.name for path in (output / "ripplenet").iterdir()} == {
        f"{name}.quick.{kind}" for name in names for kind in kinds
    } - {"table1.quick.svg"}
    for path in (output / "ripplenet").iterdir():
        assert "ripplenet" in path.read_text(), "every result names its protocol"
    assert "left" in out and out.count("Written: ") == len(list((output / "ripplenet").iterdir()))
    # A second time everything is there, and the same bytes are written.
    before = {path: path.read_bytes() for path in (output / "ripplenet").iterdir()}
    code, out, _ = command("all", *options)
    assert code == 0 and ", 0 to do" in out
    assert {path: path.read_bytes() for path in (output / "ripplenet").iterdir()} == before


@pytest.mark.slow
@pytest.mark.data
def test_quick_mode_on_last_fm(command, data_root, tmp_path):
    options = ["--quick", "--data-root", data_root, "--threads", 1, "--output", tmp_path / "out"]
    code, _, err = command("table1", "table4", *options)
    assert (code, err) == (0, "")
    page = (tmp_path / "out" / "ripplenet" / "table4.quick.md").read_text()
    assert "| last-fm | AUC |" in page and "| EKPNet | 0." in page
    assert "| users | 1,872 |" in (tmp_path / "out" / "ripplenet" / "table1.quick.md").read_text()


def test_cells_are_runs(command, here):
    """A cell's folder is one that `evaluate` takes, and gives the same numbers."""
    from ekpnet_fast import evaluate

    output, options = here
    assert command("table4", *options, "--models", "ekp_att", "--seeds", "1")[0] == 0
    name, _ = cells_in(output)
    assert evaluate.main([str(output / "cells" / "small" / name)]) == 0


def test_the_other_protocol(command, here):
    output, options = here
    code, out, err = command("table4", *options, "--protocol", "recbole", "--models", "ekp_no")
    assert (code, err) == (0, "")
    assert "small ekp_no, seed 0: MRR@10 0." in out
    assert "MRR@10" in (output / "recbole" / "table4.quick.md").read_text()
    # Both may lie in one folder.
    assert command("table4", *options, "--models", "ekp_no")[0] == 0
    assert "AUC" in (output / "ripplenet" / "table4.quick.md").read_text()
    assert len(cells_in(output)) == 2 * 4


def test_tables_share_their_runs(command, here, fake_runs):
    output, options = here
    for table in ("table3", "figure4", "table5"):
        assert command(table, *options, "--models", "ekpnet")[0] == 0
    assert [config.seed for config in fake_runs] == [0, 1, 0, 1]
    assert len(cells_in(output)) == 4


@pytest.mark.parametrize(
    "change", [["--preset", "paper"], ["--threads", "2"]], ids=["options", "threads"]
)
def test_other_options_are_other_cells(command, here, fake_runs, monkeypatch, change):
    from ekpnet_fast.models.ekpnet import EKPNet

    monkeypatch.setitem(EKPNet.presets["paper"], "small", {"shape.width": 3})
    _, options = here
    command("table3", *options, "--models", "ekpnet")
    again = [config.model for config in fake_runs]
    command("table3", *options, "--models", "ekpnet", *change)
    if "--preset" in change:
        again.remove("popularity")  # which has no preset of that name, for either seed
        again.remove("popularity")
    assert [config.model for config in fake_runs[4:]] == again


def test_where_data_and_results_lie_changes_no_cell(command, here, fake_runs, tmp_path):
    output, options = here
    command("table3", *options, "--models", "ekpnet")
    (tmp_path / "data").rename(tmp_path / "moved")
    output.rename(tmp_path / "elsewhere")
    moved = ["--data-root", tmp_path / "moved", "--output", tmp_path / "elsewhere"]
    code, out, _ = command("table3", *options, *moved, "--models", "ekpnet")
    assert code == 0 and ", 0 to do" in out
    assert len(fake_runs) == 4


def test_other_code_is_another_cell_and_told(command, here, fake_runs, monkeypatch):
    output, options = here
    command("table3", *options, "--models", "ekpnet")
    monkeypatch.setattr(cache, "code_version", lambda: "c0dec0de")
    code, out, _ = command("table3", *options, "--models", "ekpnet")
    assert code == 0
    assert "4 to do, 4 of them were done by another version of the package" in out
    assert len(cells_in(output)) == 8


def test_code_version_sees_sources_and_native_code(monkeypatch, tmp_path):
    package = tmp_path / "ekpnet_fast"
    (package / "experiments").mkdir(parents=True)
    files = [package / "loss.py", package / "libekpnet_cpu.so", package / "experiments" / "plan.py"]
    monkeypatch.setattr(cache, "__file__", str(package / "experiments" / "cache.py"))
    monkeypatch.setattr(cache.build, "HERE", package)
    versions = []
    for changed in (None, *files):
        for path in files:
            path.write_text("new" if path == changed else "old")
        versions.append(cache.code_version.__wrapped__())
    same, loss, native, plan = versions
    assert same == plan and len({same, loss, native}) == 3


def test_a_failed_run_does_not_stop_the_others(command, here, fake_runs, monkeypatch):
    output, options = here
    fake = runner.run

    def failing(config, report):
        if config.model == "ekp_att" and config.seed == 0:
            raise TrainingError("the loss term pairs is nan")
        return fake(config, report)

    monkeypatch.setattr(runner, "run", failing)
    code, out, _ = command("table4", *options)
    assert code == 1
    assert "small ekp_att, seed 0: failed: the loss term pairs is nan" in out
    page = (output / "ripplenet" / "table4.quick.md").read_text()
    assert "Failed and left out: small ekp_att, seed 0: the loss term pairs is nan" in page
    assert len(cells_in(output)) == 2 * 5 - 1
    monkeypatch.setattr(runner, "run", fake)
    assert command("table4", *options)[0] == 0
    assert len(cells_in(output)) == 2 * 5


KILLED = """
import os, signal, sys
from ekpnet_fast.experiments.__main__ import main
from ekpnet_fast.runs import run_folder, runner
real, calls = runner.run, []

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def dying(config, on_progress):
    calls.append(config)
    if len(calls) == 4:
        if sys.argv[1] == "training":
            on_progress = die
        else:
            run_folder.save_metrics = die
    return real(config, on_progress)

runner.run = dying
main(sys.argv[2:])
"""


@pytest.mark.parametrize("moment", ["training", "writing"])
def test_a_killed_command_loses_its_running_cell_only(command, here, moment):
    output, options = here
    words = ["table4", *map(str, options), "--models", "ekp_no", "--seeds", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, moment, *words],
        env=environment,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    stamps = {file: file.stat().st_mtime_ns for file in output.glob("cells/*/*/metrics.json")}
    assert len(stamps) == 3
    code, out, _ = command(*words)
    assert code == 0 and "4 runs: 3 are there, 1 to do" in out
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items())
    # As if nothing had happened.
    fresh = output.parent / "fresh"
    assert command(*words[: words.index("--output")], "--output", fresh, *words[-4:])[0] == 0
    for path in output.glob("cells/small/*/metrics.json"):
        ours, other = (json.loads(p.read_text()) for p in (path, fresh / path.relative_to(output)))
        assert ours["test"] == other["test"] and ours["ranking"] == other["ranking"]


def test_ctrl_c_keeps_what_is_done(command, here, fake_runs, monkeypatch):
    output, options = here
    fake = runner.run

    def interrupted(config, report):
        if config.model == "ekpnet":
            raise KeyboardInterrupt
        return fake(config, report)

    monkeypatch.setattr(runner, "run", interrupted)
    code, _, err = command("table3", *options, "--models", "ekpnet")
    assert code == 130 and "the same command goes on" in err
    assert len(cells_in(output)) == 2


def test_without_matplotlib_the_rest_is_written_and_it_is_said(
    command, here, fake_runs, monkeypatch
):
    output, options = here
    monkeypatch.setattr(plotting, "has_matplotlib", lambda: False)
    code, out, _ = command("table3", *options)
    assert code == 0
    assert "matplotlib is missing; pip install 'ekpnet_fast[report]'" in out
    assert {path.suffix for path in (output / "ripplenet").iterdir()} == {".md", ".csv"}


# ---- refusals ------------------------------------------------------------------------------------


def test_unknown_data_leave_nothing_behind(command, here):
    output, options = here
    text = refused(command("table3", *options, "--datasets", "smal"))
    assert "unknown data set 'smal': found synthetic, small under" in text
    assert not output.exists()


def test_unknown_names(command, here, capsys):
    _, options = here
    with pytest.raises(SystemExit) as stop:
        command("table2", *options)
    assert stop.value.code == 2
    assert "invalid choice: 'table2'" in capsys.readouterr().err
    text = refused(command("table3", *options, "--models", "riplenet"))
    assert text.startswith("--models: unknown model 'riplenet'") and "mean ripplenet?" in text
    assert "names one twice" in refused(command("table3", *options, "--datasets", "small", "small"))


def test_options_that_do_not_fit_are_told_before_any_run(command, here, fake_runs):
    _, options = here
    assert "not for small" in refused(command("table3", *options, "--preset", "paper"))
    assert "--threads is 0" in refused(command("table3", *options, "--threads", "0"))
    assert fake_runs == []


def test_a_folder_of_something_else(command, here, tmp_path, fake_runs):
    output, options = here
    output.mkdir()
    (output / "thesis.tex").write_text("kept")
    text = refused(command("table3", *options))
    assert text.startswith(f"--output {output} holds thesis.tex but no experiments.json")
    assert [path.name for path in output.iterdir()] == ["thesis.tex"]
    (output / "experiments.json").write_text('{"format": "another"}')
    assert "found format 'another'" in refused(command("table3", *options))
    (output / "experiments.json").write_text("{")
    assert "experiments.json: not valid JSON" in refused(command("table3", *options))
    (tmp_path / "file").write_text("kept")
    text = refused(command("table3", *options, "--output", tmp_path / "file"))
    assert "cannot be written" in text
    assert fake_runs == []


def test_changed_data(command, here, small, fake_runs):
    _, options = here
    assert command("table3", *options)[0] == 0
    count = len(fake_runs)
    small(seed=1)
    text = refused(command("table3", *options))
    assert "has results of small, ripplenet, seed 0 with data hash" in text
    assert "have changed; choose another folder" in text
    assert len(fake_runs) == count


def test_a_changed_cell(command, here, fake_runs):
    output, options = here
    command("table3", *options, "--models", "ekpnet")
    (file, *_) = sorted(output.glob("cells/small/*/metrics.json"))
    text = file.read_text()
    file.write_text(text.replace('"seed": 0', '"seed": 7'))
    assert "found other text than was written" in refused(command("table3", *options))
    reseal(file, seed=7)
    assert "found seed 7, expected seed 0; remove the folder" in refused(
        command("table3", *options)
    )
    reseal(file, seed=0, protocol="recbole")
    refusal = refused(command("table3", *options))
    assert "found protocol 'recbole', expected protocol 'ripplenet'; remove the folder" in refusal
    file.write_text("{")
    assert "not valid JSON" in refused(command("table3", *options))


def test_two_commands_in_one_folder(command, here, fake_runs):
    output, options = here
    with cache.Store.opened(output):
        text = refused(command("table3", *options))
    assert "another experiments command works there" in text
    assert command("table3", *options)[0] == 0


# ---- time left -----------------------------------------------------------------------------------


def test_time_left(fabricated):
    def took(total):
        return {**fabricated(auc=0.5), "seconds": {"total": total}}

    found = {
        Cell("a", "ekpnet", 0): took(10.0),
        Cell("a", "ekpnet", 1): took(20.0),
        Cell("a", "mf", 0): took(3.0),
    }
    assert expected_seconds([Cell("a", "ekpnet", 2)], {}) is None
    assert expected_seconds([Cell("a", "ekpnet", 2), Cell("a", "mf", 1)], found) == 15 + 3
    assert expected_seconds([Cell("a", "kgcn", 0)], found) == 11  # as runs of the data set
    assert expected_seconds([Cell("b", "kgcn", 0)], found) == 11  # as all runs
    assert [duration(s) for s in (7.2, 89, 150, 4800)] == ["7 s", "89 s", "2 min", "1 h 20 min"]
