"""Protocols by time: what lies before the cut, what after, and what test may know."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import Dataset, Examples, Interactions, load_dataset, prepare
from ekpnet_fast.data.formats.seconds import seconds_of
from ekpnet_fast.data.splits import ratio_counts, with_validation
from ekpnet_fast.data.tables import SplitCounts
from ekpnet_fast.data.temporal import shown_time
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.runs import evaluate, runner


def dataset(rows, num_users=6, num_items=30, labels=None):
    """Data set of rows (user, item, time)."""
    users, items, times = np.array(rows, dtype=np.float64).T
    users, items = users.astype(np.int32), items.astype(np.int32)
    given = None if labels is None else Examples(users, items, np.int8(labels))
    clicks = None
    if labels is None:
        clicks = Interactions(users, items, np.ones(len(rows), dtype=np.bool_))
    ends = np.int32([0])
    return Dataset(
        "made", given, clicks, ends, ends, np.int32([num_items]),
        num_users, num_items, num_items + 1, 1, times=times,
    )  # fmt: skip


def pairs(rows):
    return list(zip(rows.users.tolist(), rows.items.tolist(), strict=True))


# Ten positives; the last two moments are 90 and 100, of users 4 and 5 the latter is new.
ROWS = [(0, 1, 10), (1, 2, 20), (0, 3, 30), (2, 1, 40), (3, 4, 50), (2, 5, 60), (1, 6, 70),
        (0, 7, 80), (4, 2, 90), (5, 8, 100)]  # fmt: skip


def test_one_moment_for_all():
    data = prepare(dataset(ROWS), 0, "temporal")
    assert data.protocol == "temporal"
    assert pairs(data.train) == sorted((u, i) for u, i, time in ROWS if time < 90)
    assert (pairs(data.valid), pairs(data.test)) == ([(4, 2)], [(5, 8)])
    assert data.history_indptr.tolist() == [0, 3, 5, 7, 8, 8, 8]
    assert data.counts == SplitCounts(
        train=8, valid=1, test=1, held_out_users=0, overlapping=0, unranked_users=0, repeated=0,
        new_users=1, new_items=1, by_time=True, valid_from=90, test_from=100,
    )  # fmt: skip
    assert data.counts.words() == (
        "train 8 positives; validation 1 positives from 90 on; test 1 positives from 100 on",
        "1 users with test positives only",
        "1 items with test positives only",
    )
    # A user of validation is known when test begins.
    assert with_validation(data).history_items.tolist() == [1, 3, 7, 2, 6, 1, 5, 4, 2]


def test_equal_times_are_on_one_side():
    rows = [(u % 6, u, min(u, 17)) for u in range(20)]
    data = prepare(dataset(rows), 0, "temporal")
    # Two of 20 each, but three have the last time, and then one is left of the four.
    assert [item for _, item in sorted(pairs(data.test), key=lambda x: x[1])] == [17, 18, 19]
    assert pairs(data.valid) == [(4, 16)]
    with pytest.raises(
        DataError, match=r"made: found no positive in train, .* the 20 positives have 1 different"
    ):
        prepare(dataset([(u % 6, u, 5) for u in range(20)]), 0, "temporal")


@pytest.mark.parametrize(
    ("cut", "valid", "test"),
    [
        (0.3, [(1, 6)], [(0, 7), (4, 2), (5, 8)]),
        (75, [(1, 6)], [(0, 7), (4, 2), (5, 8)]),
        ("1970-01-01T01:01:20+01:00", [(1, 6)], [(0, 7), (4, 2), (5, 8)]),
        ("1970-01-01 00:01:31", [(4, 2)], [(5, 8)]),
    ],
)
def test_a_cut_that_is_asked_for(cut, valid, test):
    data = prepare(dataset(ROWS), 0, "temporal", cut)
    assert (sorted(pairs(data.valid)), sorted(pairs(data.test))) == (valid, test)
    assert data.counts.new_users == len({u for u, _ in test} - {0, 1, 2, 3, *[u for u, _ in valid]})


@pytest.mark.parametrize("cut", [0, -1, float("nan"), True, "soon", "2020-13-01"])
def test_refuses_a_cut_that_is_none(cut):
    with pytest.raises(ConfigError, match=r"cut: found .* expected a share between 0 and 1"):
        prepare(dataset(ROWS), 0, "temporal", cut)


def test_refuses_a_cut_with_nothing_on_one_side():
    for cut, word in ((5, "train"), (101, "test"), ("2020-01-01", "test"), (0.95, "train")):
        with pytest.raises(DataError, match=f"no positive in {word}, .* from 10 to 100"):
            prepare(dataset(ROWS), 0, "temporal", cut)
    with pytest.raises(ConfigError, match=r"cut: found 0\.2 with protocol 'temporal_user'"):
        prepare(dataset(ROWS), 0, "temporal_user", 0.2)


def test_each_users_last_ones():
    stream = np.random.default_rng(0)
    rows = [
        (u, int(i), t)
        for u in range(6)
        for i, t in zip(
            stream.permutation(30)[: (25, 10, 9, 3, 2, 1)[u]],
            stream.permutation(1000),
            strict=False,
        )
    ]
    rows = [rows[n] for n in stream.permutation(len(rows))]
    data = prepare(dataset(rows), 0, "temporal_user")
    totals = np.array([25, 10, 9, 3, 2, 1])
    train, valid, _ = ratio_counts(totals)
    for u in range(6):
        mine = [item for user, item, _ in sorted(rows, key=lambda row: row[2]) if user == u]
        ends = train[u], train[u] + valid[u]
        parts = mine[: ends[0]], mine[ends[0] : ends[1]], mine[ends[1] :]
        for part, expected in zip((data.train, data.valid, data.test), parts, strict=True):
            assert sorted(item for user, item in pairs(part) if user == u) == sorted(expected)
    assert [len(data.valid), len(data.test)] == [2 + 1 + 1 + 1, 2 + 1 + 1 + 1 + 1]
    assert data.counts.test_from is None and data.counts.by_time
    assert "validation 5 positives, each user's last; test 6" in data.counts.words()[0]


def test_a_repeated_click_counts_when_it_came_first():
    labels = [1] * len(ROWS) + [1, 0]
    rows = [*ROWS, (0, 1, 200), (3, 9, 300)]
    data = prepare(dataset(rows, labels=labels), 0, "temporal")
    # Neither the repetition at 200 nor the negative at 300 is a positive of its own.
    assert pairs(data.test) == [(5, 8)] and (0, 1) in pairs(data.train)


def test_nothing_is_drawn_but_the_hash_tells_protocols_apart():
    rows = [(u % 5, u, (7 * u) % 40) for u in range(30)]
    first, again = (prepare(dataset(rows), 3, "temporal") for _ in range(2))
    other, by_user = (
        prepare(dataset(rows), 4, "temporal"),
        prepare(dataset(rows), 3, "temporal_user"),
    )
    assert first.hash == again.hash and pairs(first.test) == pairs(other.test)
    assert len({first.hash, other.hash, by_user.hash}) == 3


@pytest.mark.parametrize("protocol", ["temporal", "temporal_user"])
def test_needs_times(protocol):
    plain = dataclasses.replace(dataset(ROWS), times=None)
    with pytest.raises(ConfigError, match=f"protocol: found '{protocol}', .* made has no time"):
        prepare(plain, 0, protocol)
    for times in (np.arange(9.0), np.array([np.nan] * 10)):
        with pytest.raises(DataError, match=r"times, .* expected one for each of 10"):
            prepare(dataclasses.replace(plain, times=times), 0, protocol)


def test_times_of_texts():
    assert seconds_of(["3", " 1.5 ", "-2e3"]).tolist() == [3, 1.5, -2000]
    dates = ["1970-01-02", "1970-01-01T00:00:10Z", "1970-01-01 01:00:00+01:00", "1970-01-01 00:01"]
    assert seconds_of(dates).tolist() == [86400, 10, 0, 60]
    for bad in (["1", None], ["1", "soon"], ["1", "inf"], ["1", "1970-01-01"], ["1", "1_0"]):
        assert np.isnan(seconds_of(bad)).tolist() == [False, True]
    assert np.isnan(seconds_of([None, "1970-02-30", "1"])).all() and len(seconds_of([])) == 0


def test_times_are_shown_as_dates_where_they_look_like_some():
    assert shown_time(978300760) == "2000-12-31 22:12:40 UTC"
    assert shown_time(978300760000) == "2000-12-31 22:12:40 UTC"
    assert [shown_time(x) for x in (0, 90, 1e16)] == ["0", "90", "1e+16"]


# ---- runs ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """RecBole files of 40 users with times; the last ten come late, 38 and 39 in test alone."""
    stream = np.random.default_rng(1)
    place = tmp_path / "data" / "timed"
    place.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(40):
        start = 0 if user < 30 else 880 if user < 35 else 1000 if user < 38 else 1200
        for n, item in enumerate(stream.permutation(25)[:8]):
            lines.append(f"u{user}\ti{item}\t{start + 16 * n + user % 7}")
    (place / "timed.inter").write_text("\n".join(lines) + "\n")
    kg = "head_id:token\trelation_id:token\ttail_id:token\n"
    kg += "".join(f"e{i}\tkind\tk{i % 4}\n" for i in range(25))
    (place / "timed.kg").write_text(kg)
    link = "item_id:token\tentity_id:token\n" + "".join(f"i{i}\te{i}\n" for i in range(25))
    (place / "timed.link").write_text(link)
    return place


def test_a_run_names_its_protocol_and_is_evaluated_to_the_same_numbers(folder, tmp_path):
    out = tmp_path / "run"
    options = {"dataset": "timed", "data_root": folder.parent, "model": "item_knn", "threads": 1}
    found = runner.run({**options, "protocol": "temporal", "output": out})
    assert json.loads((out / "metrics.json").read_text())["protocol"] == "temporal"
    assert found["split"]["by_time"] and found["split"]["new_users"] == 2
    assert evaluate.same_metrics(*evaluate.evaluate_run(out))
    user = runner.run({**options, "protocol": "temporal_user"})
    assert user["protocol"] == "temporal_user" and user["data_hash"] != found["data_hash"]


@pytest.mark.parametrize("model", ["item_knn", "linear", "ekpnet"])
def test_test_knows_histories_up_to_the_cut(folder, model, monkeypatch):
    """Users of validation have their history, though weights are of train alone."""
    given = []
    scorer = evaluate.scoring.catalogue_scorer

    def noted(backend, built, ripple, num_items, **kinds):
        given.append(built.source.histories)
        return scorer(backend, built, ripple, num_items, **kinds)

    monkeypatch.setattr(evaluate.scoring, "catalogue_scorer", noted)
    options = {"dataset": "timed", "data_root": folder.parent, "threads": 1, "epochs": 1}
    runner.run({**options, "protocol": "temporal", "model": model})
    data = prepare(load_dataset("timed", folder.parent), RunConfig.seed, "temporal")
    known = with_validation(data)
    late = {user for user, _ in pairs(data.valid)} - {user for user, _ in pairs(data.train)}
    assert late
    assert given[-1].items.tolist() == known.history_items.tolist()
    assert given[-1].indptr.tolist() == known.history_indptr.tolist()
