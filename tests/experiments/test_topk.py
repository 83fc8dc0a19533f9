"""The table of ranked catalogues: what it runs, stops, writes and refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from ekpnet_fast.data import load_dataset, prepare
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.experiments import topk
from ekpnet_fast.experiments.plan import Settings
from ekpnet_fast.experiments.published import PUBLISHED, STUDY
from ekpnet_fast.experiments.topk import Line, TopKPlan, benchmark_of

USERS, ITEMS = 30, 20


@pytest.fixture
def split(tmp_path):
    """Folder of data that come split: one user of 30 tests on what is in train."""
    stream = np.random.default_rng(0)
    folder = tmp_path / "data" / "split"
    folder.mkdir(parents=True)
    drawn = [stream.permutation(ITEMS)[:9] for _ in range(USERS)]
    parts = {"train": [items[:6] for items in drawn], "test": [items[6:] for items in drawn]}
    parts["test"][7] = parts["train"][7][:2]
    for name, rows in parts.items():
        lines = [f"{user} {' '.join(map(str, row))}" for user, row in enumerate(rows)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    triples = [f"{item} 0 {ITEMS + item % 3}" for item in range(ITEMS)]
    (folder / "kg_final.txt").write_text("\n".join(triples) + "\n")
    return folder


@pytest.fixture
def here(split, tmp_path):
    """Options for the small data set, and the folder of results."""
    output = tmp_path / "out"
    words = ["topk", "--data-root", split.parent, "--datasets", "split", "--threads", 1]
    return output, [*words, "--output", output]


def test_a_row_for_every_system(command, here):
    output, options = here
    options += ["--quick", "--seeds", 2, "--rows", "mf", "item_knn", "dkn", "popularity"]
    code, out, err = command(*options)
    assert (code, err) == (0, "")
    # What draws nothing is run once; dkn needs titles.
    assert "4 runs: 0 are there, 4 to do" in out
    page = (output / "fixed" / "topk.quick.md").read_text()
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    assert lines[0] == [
        "| split",
        "Recall@20",
        "NDCG@20",
        "seconds",
        "CPU s",
        "memory, MiB",
        "users |",
    ]
    assert [line[0] for line in lines[2:]] == ["| item popularity", "| MF", "| ItemKNN"]
    assert [line[6] for line in lines[2:]] == ["29 |"] * 3
    assert "Not run: DKN on split, which has no" in page and "(protocol fixed)" in page
    # All 20 items are in a list of 20, so that all of them are found.
    with (output / "fixed" / "topk.quick.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ["popularity", "mf", "item_knn"]
    assert [row["seeds"] for row in rows] == ["1", "2", "1"]
    for row in rows:
        assert row["protocol"] == "fixed" and float(row["recall@20"]) == 1
        assert 0 < float(row["ndcg_low"]) <= float(row["ndcg@20"]) <= float(row["ndcg_high"]) < 1
        assert len(row["data_hashes"].split()) == int(row["seeds"])
        assert 50 < float(row["peak_rss_mb"]) < 5000 and float(row["cpu_seconds"]) > 0
    assert ", 0 to do" in command(*options)[1]


def test_systems_that_score_every_pair_rank_for_some_users(command, here):
    output, options = here
    options += ["--quick", "--seeds", 1, "--users", 11, "--rows", "kgcn", "mf"]
    assert command(*options)[::2] == (0, "")
    page = (output / "fixed" / "topk.quick.md").read_text()
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][2:]
    assert [(line[0], line[6]) for line in lines] == [("| MF", "29 |"), ("| KGCN", "11 |")]
    assert "Where users are fewer, they are 11 drawn by the seed" in page
    with (output / "fixed" / "topk.quick.csv").open() as file:
        assert [row["users"] for row in csv.DictReader(file)] == ["29", "11"]


def test_a_system_over_its_budget_is_stopped_and_named(command, here, monkeypatch):
    output, options = here
    options += ["--rows", "popularity"]
    code, out, err = command(*options, "--budget", 0.01)
    assert (code, err) == (0, "")
    assert "split popularity, seed 0: failed: stopped after 0 s, its budget" in out
    page = (output / "fixed" / "topk.md").read_text()
    assert "Left out: split popularity, seed 0: stopped after 0 s, its budget." in page
    # Another command does not spend it again, and one with more does.
    started = []
    run = topk.subprocess.Popen

    def noted(words, **kinds):
        started.append(words)
        return run(words, **kinds)

    monkeypatch.setattr(topk.subprocess, "Popen", noted)
    assert command(*options, "--budget", 0.005)[0] == 0
    assert not started
    assert command(*options, "--budget", 600)[0] == 0
    assert len(started) == 1
    assert "| item popularity |" in (output / "fixed" / "topk.md").read_text()


def test_a_table_by_time_begins_its_test_at_the_cut(command, tmp_path):
    """Each of 30 users clicks at times 0 to 9: a cut at 7 leaves three clicks a user to test."""
    stream, place = np.random.default_rng(0), tmp_path / "data" / "timed"
    place.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(USERS):
        lines += [f"u{user}\ti{i}\t{t}" for t, i in enumerate(stream.permutation(ITEMS)[:10])]
    (place / "timed.inter").write_text("\n".join(lines) + "\n")
    kg = "head_id:token\trelation_id:token\ttail_id:token\n"
    (place / "timed.kg").write_text(kg + "".join(f"e{i}\tkind\tk{i % 4}\n" for i in range(ITEMS)))
    link = "item_id:token\tentity_id:token\n" + "".join(f"i{i}\te{i}\n" for i in range(ITEMS))
    (place / "timed.link").write_text(link)
    words = ["topk", "--data-root", place.parent, "--datasets", "timed"]
    words += ["--threads", 1, "--rows", "popularity", "--protocol", "temporal"]
    hashes = {}
    for cut in ("7", "9"):
        output = tmp_path / cut  # a folder has one split
        assert command(*words, "--cut", cut, "--output", output)[::2] == (0, "")
        page = (output / "temporal" / "topk.md").read_text()
        assert f"(protocol temporal, cut {float(cut)})" in page
        with (output / "temporal" / "topk.csv").open() as file:
            (row,) = csv.DictReader(file)
        hashes[cut] = row["data_hashes"]
        prepared = prepare(load_dataset("timed", place.parent), 0, "temporal", float(cut))
        assert prepared.counts.test == USERS * (10 - int(cut))
    assert hashes["7"] != hashes["9"]


def test_a_run_that_fails_is_told(command, here, split, monkeypatch):
    output, options = here
    changed = topk.lasting

    def elsewhere(config):
        return changed(config.__class__(**{**vars(config), "dataset": "nowhere"}))

    monkeypatch.setattr(topk, "lasting", elsewhere)
    code, out, _ = command(*options, "--rows", "popularity")
    assert code == 1
    assert "failed: " in out and "nowhere" in out
    assert "Left out: split popularity, seed 0: " in (output / "fixed" / "topk.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["topk", "--protocol", "recbole"],
            "--protocol is recbole, expected fixed or temporal or temporal_user",
        ),
        (["table3", "--protocol", "fixed"], "--protocol is fixed, expected ripplenet or recbole"),
        (
            ["topk", "--cut", "0.2"],
            "--cut is 0.2 with --protocol fixed, expected --protocol temporal",
        ),
        (["topk", "--budget", "0"], "--budget is 0, expected seconds, more than 0"),
        (["topk", "--budget", "nan"], "--budget is nan, expected seconds"),
    ],
)
def test_refused(command, here, words, message):
    output, options = here
    code, _, err = command(words[0], *options[1:], *words[1:])
    assert code == 2 and message in err
    assert not (output / "cells").exists()


def line(model, recall, low, high):
    numbers = {"recall": recall, "recall_low": low, "recall_high": high}
    return Line(model, [{"ranking": {"20": numbers}}])


def test_bold_needs_an_interval_above_all_others():
    lines = [line("mf", 0.2, 0.18, 0.22), line("cke", 0.25, 0.23, 0.27)]
    assert topk._best(lines, "recall") == "cke"
    assert topk._best([*lines, line("kgcn", 0.1, 0.0, 0.24)], "recall") is None
    assert topk._best(lines[:1], "recall") is None


def test_options_are_refitted_and_rows_keep_their_order():
    settings = Settings(Path("unused"), datasets=("a", "b"), seeds=2, threads=1, protocol="fixed")
    plan = TopKPlan(settings, (), ["ekpnet_plus", "popularity"])
    cells = plan.cells("topk")
    assert [(cell.dataset, cell.model, cell.seed) for cell in cells] == [
        *(("a", "popularity", 0), ("a", "ekpnet_plus", 0), ("a", "ekpnet_plus", 1)),
        *(("b", "popularity", 0), ("b", "ekpnet_plus", 0), ("b", "ekpnet_plus", 1)),
    ]
    config = plan.config(cells[1])
    assert config.refit and config.ranking and config.protocol == "fixed"
    with pytest.raises(ConfigError, match="protocol is ripplenet"):
        TopKPlan(Settings(Path("unused")), ())


def test_published_numbers_are_told_by_counts(split):
    for benchmark, rows in PUBLISHED.items():
        assert all(count > 20_000 for count in benchmark)
        for row in rows:
            assert 0 < float(row.recall) < 0.3 and 0 < float(row.ndcg) < 0.3
            assert len(row.recall) in (5, 6) and row.source.cited and row.source.differs
        assert len({(row.model, row.source) for row in rows}) == len(rows)
    counts = benchmark_of(prepare(load_dataset("split", split.parent), 0, "fixed"))
    assert counts == topk.Benchmark(USERS, ITEMS, 6 * USERS, 3 * USERS - 1)


def test_published_rows_stand_below(command, here, monkeypatch):
    output, options = here
    counts = topk.Benchmark(USERS, ITEMS, 6 * USERS, 3 * USERS - 1)
    source = topk.Published("Oracle", "0.90", "0.80", STUDY)
    monkeypatch.setitem(PUBLISHED, counts, (source,))
    assert command(*options, "--rows", "popularity")[0] == 0
    page = (output / "fixed" / "topk.md").read_text()
    assert "| split, published | Recall@20 | NDCG@20 | source |" in page
    assert "| Oracle | 0.90 | 0.80 | 1 |" in page
    assert f"1. {STUDY.cited}; differs: " in page


@pytest.mark.slow
@pytest.mark.data
def test_published_numbers_are_of_the_data(data_root):
    if not (data_root / "last-fm-kgat").is_dir():
        pytest.skip("there is no last-fm-kgat")
    counts = benchmark_of(prepare(load_dataset("last-fm-kgat", data_root), 0, "fixed"))
    assert {row.model for row in PUBLISHED[counts]} >= {"EASE^R", "KGIN"}
