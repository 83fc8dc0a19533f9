"""Lists for everybody as parts of a folder, by one process and by several."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from ekpnet_fast import recommend
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models import MODELS
from ekpnet_fast.recommender import Recommender, many
from support import parquet
from support.cinema import fitted
from support.numbered import OPTIONS, fitted_to_numbers, numbered_dataset
from support.places import ROOT


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts") / "numbers"
    fitted_to_numbers(numbered_dataset()).save(folder)
    return folder


@pytest.fixture
def write(run, tmp_path, capsys, monkeypatch):
    """Runs the command for all users: exit code, what it printed, what it said on stderr."""

    def call(out, *words, folder=run, rank=None, world=None):
        for name, value in (("RANK", rank), ("WORLD_SIZE", world)):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, str(value))
        capsys.readouterr()
        arguments = [folder, "--all", "-k", "7", "--output", tmp_path / out, *words]
        return recommend.main([str(word) for word in arguments]), *capsys.readouterr()

    return call


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def rows_in(folder):
    """Rows of all parts, in the order of their names."""
    return [row for name in names_in(folder) for row in parquet.read(folder / name)[1]]


def test_parts_hold_the_lists_of_the_one_file(write, tmp_path):
    assert write("whole.parquet")[0] == 0
    expected = parquet.read(tmp_path / "whole.parquet")
    assert len(expected[1]) == 60 * 7
    for shards in (1, 4, 61):
        out = tmp_path / f"lists-{shards}"
        code, said, err = write(out.name, "--shards", shards)
        assert (code, err) == (0, "")
        assert f"Written to {out}: {shards} of {shards} parts; 60 lists, 420 rows" in said
        assert names_in(out) == [f"part-{s:05}-of-{shards:05}.parquet" for s in range(shards)]
        parts = [parquet.read(out / name) for name in names_in(out)]
        assert {str(columns) for columns, _ in parts} == {str(expected[0])}
        assert [row for _, rows in parts for row in rows] == expected[1]


@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_list_does_not_depend_on_who_is_scored_with_it(model, tmp_path, monkeypatch):
    options = {name: OPTIONS[name] for name in OPTIONS if model == "ekpnet"}
    recommender = Recommender.fit(
        numbered_dataset(), model, epochs=1, options=options, device="cpu"
    )
    users = many.numbers_of(recommender, None)[:12]
    found = []
    for at_once in (256, 7, 1):
        monkeypatch.setattr(many, "AT_ONCE", at_once)
        monkeypatch.setattr(many, "ROWS_AT_ONCE", 9 * at_once)
        path = tmp_path / f"{at_once}.parquet"
        assert many.write_file(recommender, many.Lists(users, 5), path) == 60
        found.append(parquet.read(path)[1])
    assert found[0] == found[1] == found[2]


def test_processes_share_the_parts(write, tmp_path):
    assert write("whole.parquet")[0] == 0
    code, said, _ = write("lists", "--shards", 5, rank=1, world=2)
    assert code == 0 and "2 of 5 parts; 24 lists, 168 rows" in said
    assert names_in(tmp_path / "lists") == [f"part-{s:05}-of-00005.parquet" for s in (1, 3)]
    assert write("lists", "--shards", 5, rank=0, world=2)[0] == 0
    assert rows_in(tmp_path / "lists") == parquet.read(tmp_path / "whole.parquet")[1]


def test_without_a_number_there_are_as_many_shards_for_each(write, tmp_path, monkeypatch):
    monkeypatch.setattr(many, "SHARD", 25)
    for rank in (1, 0):
        assert write("lists", rank=rank, world=2)[0] == 0
    assert names_in(tmp_path / "lists") == [f"part-{s:05}-of-00004.parquet" for s in range(4)]
    # Another number of processes goes on with the shards that are there.
    (tmp_path / "lists" / "part-00002-of-00004.parquet").unlink()
    _, said, _ = write("lists")
    assert "1 of 4 parts, 3 were there; 15 lists" in said


def test_a_restart_keeps_what_is_finished(write, tmp_path):
    folder = tmp_path / "lists"
    assert write("lists", "--shards", 4)[0] == 0
    before = {name: (folder / name).stat().st_mtime_ns for name in names_in(folder)}
    expected = rows_in(folder)
    lost = "part-00001-of-00004.parquet"
    (folder / lost).unlink()
    left = folder / ".part-00001-of-00004.parquet.0123456789ab.tmp"  # of a killed process
    left.mkdir()
    (left / "000000.parquet").write_bytes(b"half")
    code, said, _ = write("lists", "--shards", 4)
    assert code == 0 and "1 of 4 parts, 3 were there; 15 lists, 105 rows" in said
    assert rows_in(folder) == expected
    for name in before.keys() - {lost}:
        assert (folder / name).stat().st_mtime_ns == before[name]
    assert "0 of 4 parts, 4 were there" in write("lists", "--shards", 4)[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shards", "5"], "found a part of 4 shards, expected 5; --shards 4 goes on"),
        (["-k", "6"], "found lists of k 7, expected 6; choose another folder"),
        (["--include-seen"], "found lists of include_seen False, expected True"),
        (["--candidates", "20"], "found lists of candidates default, expected 20"),
    ],
)
def test_parts_of_other_lists_are_refused(write, tmp_path, words, message):
    assert write("lists", "--shards", 4)[0] == 0
    before = rows_in(tmp_path / "lists")
    code, out, err = write("lists", *words)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert "part-00000-of-00004.parquet" in err
    assert rows_in(tmp_path / "lists") == before


def test_parts_of_another_run_or_other_users_are_refused(write, tmp_path):
    fitted().save(tmp_path / "cinema")
    assert write("lists")[0] == 0
    code, _, err = write("lists", folder=tmp_path / "cinema")
    assert code == 2 and re.search(r"found lists of run [0-9a-f]{16}, expected [0-9a-f]{16};", err)
    (tmp_path / "items").write_text("3\n4\n")
    code, _, err = write("lists", "--items", tmp_path / "items")
    assert code == 2 and "found lists of items all, expected" in err


def test_other_files_are_refused(write, tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "notes.txt").write_text("mine")
    code, _, err = write("lists")
    assert code == 2 and "notes.txt: found another file, expected a folder of lists alone" in err
    (tmp_path / "lists" / "notes.txt").unlink()
    parquet.write(tmp_path / "lists" / "part-00000-of-00001.parquet", "SELECT 1 AS user")
    code, _, err = write("lists")
    assert code == 2 and "found lists of run unknown, expected" in err


@pytest.mark.parametrize(
    ("words", "rank", "world", "message"),
    [
        (["--shards", "0"], None, None, "--shards: found 0, expected a whole number from 1"),
        ([], "2", "2", "RANK, WORLD_SIZE: found '2' and '2', expected two numbers"),
        ([], "0", None, "RANK, WORLD_SIZE: found '0' and 'nothing'"),
    ],
)
def test_options_that_do_not_go_together(write, words, rank, world, message):
    code, _, err = write("lists", *words, rank=rank, world=world)
    assert code == 2 and message in err


def test_a_file_is_not_shared(write):
    code, _, err = write("lists.parquet", rank=0, world=2)
    assert code == 2 and "lists.parquet: found a file for WORLD_SIZE 2, expected a folder" in err
    code, _, err = write("lists.parquet", "--shards", 2)
    assert code == 2 and "--shards: found it without --output FOLDER" in err


def test_shares():
    assert many.my_share({}) == many.Share(0, 1)
    assert many.my_share({"RANK": "1", "WORLD_SIZE": "3"}) == many.Share(1, 3)
    with pytest.raises(ConfigError, match="RANK"):
        many.my_share({"RANK": "-1", "WORLD_SIZE": "3"})


def test_a_killed_process_leaves_whole_parts_only(run, write, tmp_path):
    words = [sys.executable, "-m", "ekpnet_fast.recommend", str(run), "--all", "-k", "7"]
    words += ["--output", str(tmp_path / "lists"), "--shards", "60", "--threads", "1"]
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    folder = tmp_path / "lists"
    while process.poll() is None and not (folder.is_dir() and list(folder.glob("part-*"))):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert write("whole.parquet")[0] == 0 and write("lists", "--shards", "60")[0] == 0
    assert [name for name in names_in(folder) if name.startswith(".")] == []
    assert rows_in(folder) == parquet.read(tmp_path / "whole.parquet")[1]
