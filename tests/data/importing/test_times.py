"""Times of imported interactions: kept with the clicks, by both ways to import."""

from __future__ import annotations

import numpy as np
import pytest

from ekpnet_fast.data import load_dataset, prepare
from ekpnet_fast.data.importing.importer import import_bounded_dataset, import_dataset
from ekpnet_fast.errors import DataError
from support import parquet

KG = "head,relation,tail\n" + "".join(f"i{n},kind,k{n % 3}\n" for n in range(8))
# Repeated: (u0, i0) is a positive from 50 on only; (u1, i1) was first at 3.
ROWS = [
    ("u0", "i0", 2, 5), ("u0", "i0", 4, 50), ("u1", "i1", 4, 30), ("u1", "i1", 5, 3),
    ("u2", "i2", 1, 7), *((f"u{n}", f"i{(n + 3) % 8}", 5, 60 + n) for n in range(12)),
]  # fmt: skip


def csv(rows, name="ts"):
    lines = [",".join(map(str, row)) for row in rows]
    return "\n".join([f"user,item,stars,{name}", *lines]) + "\n"


def jsonl(rows):
    row = '{{"user": "{}", "item": "{}", "stars": {}, "ts": {}}}'
    return "\n".join(row.format(*r) for r in rows) + "\n"


def imported(folder, clicks, bounded=True, **options):
    """Data set of files; by both ways, where both take them."""
    options = {"columns": {"rating": "stars"}, "threshold": 3, "force": True, **options}
    options |= {"interactions": [folder / name for name in clicks], "kg": folder / "kg.csv"}
    done = import_dataset(folder / "a", **options)
    found = load_dataset(str(folder / "a"))
    if bounded:
        other = import_bounded_dataset(folder / "b", "300MB", **options)
        again = load_dataset(str(folder / "b"))
        assert other.report == done.report and again.notes == found.notes
        assert np.array_equal(again.times, found.times) or found.times is again.times is None
    return found, done


def by_pair(data):
    clicks = data.interactions
    pairs = zip(clicks.users, clicks.items, data.times.tolist(), strict=True)
    return {(data.user_ids[u], data.item_ids[i]): time for u, i, time in pairs}


def test_a_pair_has_the_time_of_its_first_positive_row(write):
    data, _ = imported(write({"kg.csv": KG, "buy.csv": csv(ROWS)}), ["buy.csv"])
    found = by_pair(data)
    assert (found["u0", "i0"], found["u1", "i1"], found["u2", "i2"]) == (50, 3, 7)
    assert data.notes[:2] == ("positives: rating >= 3", "times: 3 to 71")
    late = prepare(data, 0, "temporal", 0.2).test
    assert {data.user_ids[u] for u in late.users} == {"u10", "u11"}
    assert prepare(data, 0, "temporal_user").counts.by_time


def test_labelled_rows_have_times(write):
    rows = [(user, item, int(stars > 3), time) for user, item, stars, time in ROWS[2:]]
    folder = write({"kg.csv": KG, "buy.csv": csv(rows)})
    data, _ = imported(folder, ["buy.csv"], columns={"label": "stars"}, threshold=None)
    assert data.rows is not None and data.times.tolist() == [3, 7, *range(60, 72)]


@pytest.mark.parametrize("form", ["dates", "json", "timestamps", "whole", "texts"])
def test_forms_of_times(form, write):
    dates = [(*row[:3], f"1970-01-01T00:{row[3] // 60:02}:{row[3] % 60:02}Z") for row in ROWS]
    folder = write({"kg.csv": KG, "buy.csv": csv(dates), "buy.jsonl": jsonl(ROWS)})
    name = {"dates": "buy.csv", "json": "buy.jsonl"}.get(form, "buy.parquet")
    if name == "buy.parquet":
        kind = {"timestamps": "TIMESTAMP", "whole": "BIGINT", "texts": "VARCHAR"}[form]
        columns = {"user": "VARCHAR", "item": "VARCHAR", "stars": "DOUBLE", "ts": kind}
        parquet.write_rows(folder / name, columns, ROWS if form == "whole" else dates)
    data, _ = imported(folder, [name], bounded=form != "json")
    found = by_pair(data)
    assert (found["u0", "i0"], found["u1", "i1"], found["u11", "i6"]) == (50, 3, 71)


def test_rows_without_a_time(write):
    files = {
        "kg.csv": KG,
        "buy.csv": csv([*ROWS[:4], (*ROWS[4][:3], "soon"), *ROWS[5:]]),
        "more.csv": "user,item,stars\nu3,i1,5\n",
    }
    folder = write(files)
    data, done = imported(folder, ["buy.csv"])
    assert data.times is None and data.notes[1] == "times: none"
    assert {f.name: f.count for f in done.report.findings}["rows without a time"] == 1
    columns = {"rating": "stars", "time": "ts"}
    for load in (import_dataset, import_bounded_dataset):
        words = {"memory": "300MB"} if load is import_bounded_dataset else {}
        with pytest.raises(DataError, match=r"buy.csv, line 6: found a row without a time"):
            load(
                folder / "c",
                interactions=folder / "buy.csv",
                kg=folder / "kg.csv",
                columns=columns,
                **words,
            )


@pytest.mark.parametrize("names", [("buy.csv", "more.csv"), ("more.csv", "buy.csv")])
def test_a_file_without_times_among_others(names, write):
    more = "user,item,stars\nu3,i1,5\n"
    folder = write({"kg.csv": KG, "buy.csv": csv(ROWS), "more.csv": more})
    data, done = imported(folder, names, overwrite=True)
    assert data.times is None and len(data.interactions) == 16
    assert {f.name: f.count for f in done.report.findings}["rows without a time"] == 1


MOMENT = 881_250_949  # Unix seconds of 1997


@pytest.mark.parametrize("scale", [1, 1000], ids=["seconds", "milliseconds"])
@pytest.mark.parametrize("separator", ["\t", "::"])
def test_a_column_of_unix_times_without_a_name(separator, scale, write):
    """As in MovieLens' u.data and ratings.dat."""
    rows = [(u, i, stars, (MOMENT + time) * scale) for u, i, stars, time in ROWS]
    lines = [separator.join(map(str, row)) for row in rows]
    folder = write({"kg.csv": KG, "u.data": "\n".join(lines) + "\n"})
    data, done = imported(folder, ["u.data"], columns={})
    columns = {c["role"]: (c["column"], c["how"]) for c in done.report.files[0]["columns"]}
    assert columns["time"] == ("column 4", "by its values")
    assert columns["rating"] == ("column 3", "by its place")
    assert by_pair(data)["u0", "i0"] == (MOMENT + 50) * scale


def test_times_in_the_place_of_ratings_are_times(write):
    lines = [f"{u}\t{i}\t{MOMENT + time}" for u, i, _, time in ROWS[2:]]
    folder = write({"kg.csv": KG, "clicks.tsv": "\n".join(lines) + "\n"})
    data, _ = imported(folder, ["clicks.tsv"], columns={}, threshold=None)
    assert data.interactions.ratings is None
    assert by_pair(data)["u1", "i1"] == MOMENT + 3


@pytest.mark.parametrize("last", [7, "2020-01-01", MOMENT / 2, -MOMENT])
def test_what_does_not_look_like_unix_times_is_not_used(last, write):
    lines = [f"{u}\t{i}\t{stars}\t{last}" for u, i, stars, _ in ROWS]
    folder = write({"kg.csv": KG, "u.data": "\n".join(lines) + "\n"})
    data, done = imported(folder, ["u.data"], columns={})
    assert data.times is None
    assert "columns not used: column 4" in done.report.files[0]["notes"]
