"""`recommend`, `explain` and `ekpnet` as a user runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from xml.etree import ElementTree

import pytest

import ekpnet_fast
from ekpnet_fast import cli, doctor, explain, recommend
from ekpnet_fast.recommender import Recommender, many, topk
from support import parquet
from support.cinema import cinema, fitted, without_graph
from support.numbered import fitted_to_numbers, numbered_dataset
from support.places import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands") / "cinema"
    fitted().save(folder)
    return folder


@pytest.fixture
def expected(folder):
    return Recommender.load(folder)


@pytest.fixture
def command(capsys):
    """Runs a command in this process: exit code, what it printed, what it said on stderr."""

    def call(main, *arguments):
        capsys.readouterr()
        return main([str(word) for word in arguments]), *capsys.readouterr()

    return call


# ---- recommend -----------------------------------------------------------------------------------


def test_a_list(command, folder, expected):
    code, out, err = command(recommend.main, folder, "--user", "ann", "-k", "2")
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    best = expected.recommend("ann", k=2)
    assert cells == [
        [str(rank), item.item, item.name or "", f"{item.score:.4f}"]
        for rank, item in enumerate(best, 1)
    ]
    assert "Best items for user ann" in out


@pytest.fixture(scope="module")
def eighty(tmp_path_factory):
    """Recommender of 80 items, saved without and with an index."""
    folder = tmp_path_factory.mktemp("commands")
    recommender = fitted_to_numbers(numbered_dataset())
    recommender.save(folder / "without")
    recommender.prepare(20)
    recommender.save(folder / "with")
    return folder


def test_candidates(command, eighty):
    words = ["--user", "3", "-k", "2", "--candidates", "20", "--json"]
    for name in ("without", "with"):
        code, out, err = command(recommend.main, eighty / name, *words)
        assert (code, err) == (0, "")
        assert json.loads(out)["notes"][-1].startswith("60 of 80 items were scored")
    code, out, _ = command(recommend.main, eighty / "with", *words[:-3], "--candidates", "all")
    assert code == 0 and "were scored" not in out


def test_a_single_list_needs_no_index(command, eighty, monkeypatch):
    monkeypatch.setattr(topk, "EXACT_ITEMS", 79)
    monkeypatch.setattr(topk, "CANDIDATES", 20)
    notes = {}
    for name in ("without", "with"):
        _, out, _ = command(recommend.main, eighty / name, "--user", "3", "--json")
        notes[name] = json.loads(out)["notes"]
    assert notes["without"] == [] and "of 80 items were scored" in notes["with"][-1]


def test_recall(command, eighty):
    words = ["--recall", "9", "--candidates", "20", "-k", "4"]
    code, out, err = command(recommend.main, eighty / "with", *words)
    assert (code, err) == (0, "")
    found = re.fullmatch(
        r"recall@4 ([01]\.\d{4}) of 9 exact lists, the lowest ([01]\.\d\d): 20 candidates and 40"
        r" representatives of 80 items, [\d.]+ ms a list \([\d.]+ ms exact\)\n",
        out,
    )
    assert found is not None and 0.7 < float(found[1]) <= 1 and float(found[2]) <= float(found[1])
    _, out, _ = command(recommend.main, eighty / "with", *words, "--json")
    assert json.loads(out)["mean"] == pytest.approx(float(found[1]), abs=1e-4)


def test_json_with_reasons(command, folder, expected):
    words = ["--history", "alien, dune", "-k", "3", "--explain", "--json"]
    code, out, _ = command(recommend.main, folder, *words)
    assert code == 0
    found = json.loads(out)
    best = expected.recommend(history=["alien", "dune"], k=3)
    for item, wanted in zip(found["items"], best, strict=True):
        explained = expected.explain(history=["alien", "dune"], item=wanted.item).to_dict()
        for name in ("reasons", "parts", "signals", "base", "covered", "rest"):
            assert item.pop(name) == explained[name]
    assert found == best.to_dict()


def test_ids_of_a_history_may_hold_commas(command, expected, tmp_path):
    expected.graph.add_items({"Paris,_Texas": [("genre", "m/scifi")], "a, b": [("genre", "dune")]})
    expected.save(tmp_path / "commas")
    words = ["--history", "alien, Paris,_Texas,a, b,dune", "--json"]
    code, out, _ = command(recommend.main, tmp_path / "commas", *words)
    assert code == 0
    assert json.loads(out)["history"] == ["alien", "Paris,_Texas", "a, b", "dune"]
    _, out, _ = command(explain.main, tmp_path / "commas", *words, "--item", "eden")
    assert json.loads(out)["history"] == ["alien", "Paris,_Texas", "a, b", "dune"]
    code, _, err = command(recommend.main, tmp_path / "commas", "--history", "Paris,_Tex")
    assert code == 2 and "item: found 'Paris', expected" in err


def test_reasons_in_words(command, folder, expected):
    code, out, _ = command(recommend.main, folder, "--user", "ann", "-k", "2", "--explain")
    best = expected.recommend("ann", k=2)
    texts = [expected.explain("ann", item.item).to_text() for item in best]
    assert (code, out) == (0, "\n\n".join(texts) + "\n")


def test_notes_are_printed(command, folder):
    _, out, _ = command(recommend.main, folder, "--history", "fargo")
    assert "note: the graph says nothing about the history" in out


@pytest.mark.parametrize("model", ["mf", "ekpnet", "ekpnet_plus"])
def test_what_is_noted_of_every_item_is_said_once(command, tmp_path, model):
    fitted(model, without_graph(cinema())).save(tmp_path / "run")
    words = [tmp_path / "run", "--user", "ann", "--explain"]
    for count in (1, 3):
        code, out, _ = command(recommend.main, *words, "-k", count)
        assert code == 0 and out.count(" for user ann: ") == count
        assert out.count("paths") == (model != "ekpnet_plus")
        if count > 1 and model == "mf":
            assert out.endswith("\n\nnote: model mf does not look at paths of the graph\n")


def test_several_notes_of_every_item_are_lines_of_one_block(command, folder, monkeypatch):
    real = Recommender.explain

    def noted(*arguments, **options):
        return replace(real(*arguments, **options), notes=("one thing", "another"))

    monkeypatch.setattr(Recommender, "explain", noted)
    _, out, _ = command(recommend.main, folder, "--user", "ann", "--explain", "-k", "2")
    assert out.endswith("\n\nnote: one thing\nnote: another\n")


def test_only_some_items(command, folder, tmp_path):
    (tmp_path / "items").write_text("alien\neden\n\n")
    words = ["--user", "ann", "--items", tmp_path / "items", "--json"]
    _, out, _ = command(recommend.main, folder, *words)
    assert [item["item"] for item in json.loads(out)["items"]] == ["eden"]
    _, out, _ = command(recommend.main, folder, *words, "--include-seen")
    assert {item["item"] for item in json.loads(out)["items"]} == {"alien", "eden"}


def test_lists_for_everybody(command, folder, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(many, "AT_ONCE", 3)
    path = tmp_path / "lists.parquet"
    code, out, err = command(recommend.main, folder, "--all", "-k", "2", "--output", path)
    assert (code, err) == (0, "")
    lists = expected.recommend_batch(k=2)
    assert f"Written to {path}: {len(lists)} lists, {sum(map(len, lists))} rows" in out
    types, rows = parquet.read(path)
    assert types == {
        "user": "VARCHAR",
        "rank": "INTEGER",
        "item": "VARCHAR",
        "name": "VARCHAR",
        "score": "FLOAT",
    }
    assert rows == [
        (best.user, rank, item.item, item.name, pytest.approx(item.score))
        for best in lists
        for rank, item in enumerate(best, 1)
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["lists.parquet"]
    path = tmp_path / "lists.csv"
    assert command(recommend.main, folder, "--all", "-k", "2", "--output", path)[0] == 0
    first = next(iter(lists))[0]
    lines = path.read_text().splitlines()
    assert lines[0] == "user,rank,item,name,score" and len(lines) == len(rows) + 1
    assert lines[1].startswith(f"{rows[0][0]},1,{first.item},")


def test_lists_for_some_with_numbers(command, tmp_path):
    fitted_to_numbers(numbered_dataset()).save(tmp_path / "r")
    (tmp_path / "users").write_text("7\n3\n")
    words = ["--users", tmp_path / "users", "--output", tmp_path / "lists.parquet"]
    assert command(recommend.main, tmp_path / "r", *words)[0] == 0
    types, rows = parquet.read(tmp_path / "lists.parquet")
    assert [row[0] for row in rows] == [7] * 10 + [3] * 10
    assert types["user"] == types["item"] == "BIGINT"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "found none, expected one of --user, --history"),
        (["--user", "ann", "--history", "alien"], "found --user and --history, expected one"),
        (["--user", "nobody"], "user: found 'nobody'"),
        (["--history", "alien,heat"], "item: found 'heat'"),
        (["--history", ","], "history: found no item"),
        (["--user", "ann", "-k", "0"], "k: found 0"),
        (["--user", "ann", "--threads", "0"], "--threads is 0, expected 1 to 1024"),
        (["--user", "ann", "--threads", "9999"], "--threads is 9999, expected 1 to 1024"),
        (["--user", "ann", "--items", "nowhere"], "--items nowhere cannot be read"),
        (["--all"], "--all: found no --output"),
        (["--user", "ann", "--output", "x.parquet"], "--output: found it with --user"),
        (["--all", "--output", "x.parquet", "--explain"], "--explain: found it with --all"),
        (["--all", "--output", "no/such/x.parquet"], "found no such folder to write to"),
    ],
)
def test_recommend_refuses(command, folder, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(recommend.main, folder, *words)
    assert (code, out) == (2, "") and err.startswith("error: ") and message in err
    assert list(tmp_path.iterdir()) == []


# ---- explain -------------------------------------------------------------------------------------


def test_explain(command, folder, expected, tmp_path):
    svg = tmp_path / "why.svg"
    words = ["--user", "ann", "--item", "eden", "--svg", svg]
    code, out, err = command(explain.main, folder, *words)
    wanted = expected.explain("ann", "eden")
    assert (code, out, err) == (0, wanted.to_text() + "\n", "")
    assert svg.read_text() == wanted.to_svg()
    ElementTree.parse(svg)
    words = ["--history", "alien,dune", "--item", "eden", "--top", "2", "--json"]
    code, out, _ = command(explain.main, folder, *words)
    wanted = expected.explain(history=["alien", "dune"], item="eden", top=2)
    assert (code, json.loads(out)) == (0, wanted.to_dict())


def test_fidelity(command, folder, expected):
    wanted = expected.fidelity(masked=2)
    code, out, _ = command(explain.main, folder, "--fidelity", "--top", "2", "--json")
    assert (code, json.loads(out)) == (0, wanted.to_dict())
    code, out, _ = command(explain.main, folder, "--fidelity", "--top", "2")
    assert code == 0 and f"falls on average by {wanted.top:.4f} without the first 2" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--user", "ann"], "found no --item, expected one, or --fidelity"),
        (["--item", "alien"], "found neither user nor history"),
        (["--user", "ann", "--item", "heat"], "item: found 'heat'"),
        (["--user", "ann", "--item", "alien", "--top", "0"], "top: found 0"),
        (["--fidelity", "--item", "alien"], "--fidelity: found it with --item"),
        (["--user", "ann", "--item", "eden", "--svg", "no/x.svg"], "no/x.svg cannot be written"),
    ],
)
def test_explain_refuses(command, folder, words, message):
    code, out, err = command(explain.main, folder, *words)
    assert (code, out) == (2, "") and err.startswith("error: ") and message in err


def test_no_recommender(command, tmp_path):
    for main in (recommend.main, explain.main):
        code, _, err = command(
            main, tmp_path, "--user", "1", *["--item", "2"][: 2 * (main is explain.main)]
        )
        assert code == 2 and "found neither recommender.json nor metrics.json" in err


# ---- ekpnet --------------------------------------------------------------------------------------


def test_every_command_has_a_module_and_help(capsys):
    for name in cli.COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            cli.main([name, "--help"])
        assert stopped.value.code == 0
        assert f"ekpnet_fast.{name}" in capsys.readouterr().out


def test_commands_are_listed(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0
    for name in ("train", "evaluate", "recommend", "explain", "doctor", "data", "experiments"):
        assert f"\n  {name} " in out


@pytest.mark.parametrize("words", [[], ["trian"]])
def test_a_command_that_is_none(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2 and "COMMAND" in capsys.readouterr().err


def test_the_exit_code_is_that_of_the_command(command, folder, monkeypatch):
    code, out, _ = command(cli.main, "recommend", folder, "--user", "ann")
    assert code == 0 and "Best items" in out
    assert command(cli.main, "recommend", folder, "--user", "nobody")[0] == 2
    monkeypatch.setattr(doctor, "main", lambda words: 7 if words == ["--json"] else 0)
    assert command(cli.main, "doctor", "--json")[0] == 7


def test_the_script_is_the_command():
    (line,) = re.findall(r'^ekpnet = "(.*)"$', (ROOT / "pyproject.toml").read_text(), flags=re.M)
    module, name = line.split(":")
    assert getattr(import_module(module), name) is cli.main


def test_as_a_program(folder, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = ["recommend", str(folder), "--user", "ann", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "ekpnet_fast", *words],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["user"] == "ann"


def test_doctor_runs_where_the_native_code_is_broken(tmp_path):
    """By the short name too."""
    package = tmp_path / "ekpnet_fast"
    package.mkdir()
    for source in (ROOT / "ekpnet_fast").rglob("*.py"):
        target = package / source.relative_to(ROOT / "ekpnet_fast")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text())
    (package / "native" / "build.py").write_text("raise ImportError('no native files')")
    done = subprocess.run(
        [sys.executable, "-m", "ekpnet_fast", "doctor"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "the core does not work" in done.stdout, done.stderr


def test_names_that_are_imported_later():
    assert ekpnet_fast.Recommender is Recommender
    with pytest.raises(AttributeError, match="has no attribute 'Recomender'"):
        _ = ekpnet_fast.Recomender
