"""Statistics, checks, finding data sets by name, and the command."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from ekpnet_fast.data import SyntheticConfig, check, describe, load_dataset, prepare
from ekpnet_fast.data.__main__ import main
from ekpnet_fast.data.stats import PAPER_TABLE_1
from ekpnet_fast.errors import ConfigError, DataError

RATINGS = "".join(f"{u}\t{i}\t{(u + i) % 2}\n" for u in (0, 1, 2, 4) for i in range(4))
KG = "0\t0\t5\n0\t0\t5\n1\t1\t6\n6\t0\t6\n0\t1\t5\n"
FINAL = {"made/ratings_final.txt": RATINGS, "made/kg_final.txt": KG}


def test_describe_counts_what_occurs(write):
    found = describe(load_dataset("made", write(FINAL)))
    assert (found.users, found.items, found.interactions) == (4, 4, 16)
    assert (found.entities, found.relations, found.triples) == (4, 2, 5)
    assert found.interactions_per_user == 4 and found.interactions_per_item == 4
    assert found.sparsity == 0 and found.triples_per_entity == 1.25
    assert found.links_per_item == 1


def test_describe_of_interactions_counts_the_rows_that_prepare_draws(write):
    inter = "user_id:token\titem_id:token\n" + "".join(
        f"u{u}\ti{i}\n" for u in range(4) for i in range(5) if i != u
    )
    kg = "head_id:token\trelation_id:token\ttail_id:token\na\tr\tb\n"
    link = "item_id:token\tentity_id:token\ni0\ta\n"
    data = load_dataset("d", write({"d/d.inter": inter, "d/d.kg": kg, "d/d.link": link}))
    prepared = prepare(data, 0)
    rows = sum(map(len, (prepared.train, prepared.valid, prepared.test)))
    assert describe(prepared).interactions == rows + prepared.dropped_examples == 20
    assert prepared.missing_negatives == 12
    assert {f.name: f.count for f in check(prepared)}["missing negatives"] == 12


def test_check_finds_what_is_wrong(write):
    files = {**FINAL, "made/ratings_final.txt": RATINGS + "1\t2\t1\n"}
    data = prepare(load_dataset("made", write(files)), 0)
    counts = {finding.name: finding.count for finding in check(data)}
    dropped = counts.pop("users with an empty history", 0)
    assert dropped == data.dropped_users
    assert counts == {
        "orphan entities": 3,
        "items without triples": 2,
        "duplicate triples": 1,
        "self-loops": 1,
        "duplicate rows": 1,
        "unused user ids": 1,
    }


def test_check_finds_ids_out_of_range(write):
    data = load_dataset("made", write(FINAL))
    broken = dataclasses.replace(data, tails=np.array([5, 5, 6, 7, -1], dtype=np.int32))
    assert {f.name: f.count for f in check(broken)}["ids out of range"] == 2


def test_unknown_name_lists_what_there_is(write):
    root = write(FINAL)
    with pytest.raises(DataError) as caught:
        load_dataset("movies", root)
    assert f"found synthetic, made under {root}" in str(caught.value)
    assert "--data-root DIR or EKPNET_DATA" in str(caught.value)


def test_unknown_name_without_a_data_root(monkeypatch, tmp_path):
    monkeypatch.delenv("EKPNET_DATA", raising=False)
    with pytest.raises(DataError, match="no data root is set"):
        load_dataset("movies")
    with pytest.raises(DataError, match="is no folder; set --data-root"):
        load_dataset("movies", tmp_path / "absent")


def test_environment_names_the_data_root_and_the_argument_wins(monkeypatch, write, tmp_path):
    root = write(FINAL)
    monkeypatch.setenv("EKPNET_DATA", str(root))
    assert load_dataset("made").name == "made"
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="unknown data set 'made'"):
        load_dataset("made", tmp_path / "other")


def test_folder_without_data_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"ratings_final\.npy \| ratings_final\.txt"):
        load_dataset(str(tmp_path))


def test_options_that_do_not_fit(write):
    root = write(FINAL)
    with pytest.raises(ConfigError, match="threshold"):
        load_dataset("made", root, threshold=4)
    with pytest.raises(ConfigError, match="threshold"):
        load_dataset("synthetic", threshold=4)
    with pytest.raises(ConfigError, match="synthetic"):
        load_dataset("made", root, synthetic=SyntheticConfig())


def test_command_prints_plain_text(write, capsys):
    assert main(["stats", "made", "--data-root", str(write(FINAL)), "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert "made: statistics" in out and "split 6:2:2, seed 1" in out
    assert "self-loops" in out and "prepared data hash: " in out
    assert "\x1b" not in out


def test_command_says_errors_on_one_line(tmp_path):
    command = [sys.executable, "-m", "ekpnet_fast.data", "stats", "no", "--data-root", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: unknown data set 'no'")
    assert done.stderr.count("\n") == 1


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "same"), [("movielens-1m", range(5)), ("book-crossing", [0, 1, 2, 3, 4, 5, 6])]
)
def test_table_1_agrees_where_the_files_are_the_papers(name, same, data_root):
    table = describe(load_dataset(name, data_root)).table()
    for row in same:
        assert table[row][1] == PAPER_TABLE_1[name][row]
