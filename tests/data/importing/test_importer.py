"""Importing people's own files."""

from __future__ import annotations

import gzip
import json
import re

import numpy as np
import pytest

from ekpnet_fast import train
from ekpnet_fast.data import load_dataset, prepare
from ekpnet_fast.data.__main__ import main
from ekpnet_fast.data.datasets import check_dataset
from ekpnet_fast.data.formats import imported
from ekpnet_fast.data.formats.imported import MANIFEST, read_ids
from ekpnet_fast.data.ids import id_maps
from ekpnet_fast.data.importing.importer import UnfitDataError, import_dataset
from ekpnet_fast.errors import ConfigError, DataError
from support import parquet, shop
from support.sealing import reseal


@pytest.fixture
def folder(write):
    return write(shop.files())


def take(folder, out="out", **changes):
    names = {"interactions": "buy.csv", "kg": "kg.csv", "links": "map.csv"}
    paths = {key: folder / name for key, name in names.items()}
    return import_dataset(folder / out, **{**paths, **changes})


def digest(path):
    return prepare(load_dataset(str(path)), seed=0).hash


def counts(report):
    return {finding.name: finding.count for finding in report.findings}


def test_ids_and_names_are_kept(folder):
    done = take(folder, items=folder / "goods.csv", threshold=3)
    data = load_dataset(str(folder / "out"))
    assert data.item_ids == tuple(f"sku-{item}" for item in range(shop.ITEMS))
    assert data.item_names[3] == 'Thing, "3"'
    assert data.entity_ids[:3] == ("thing0", "thing1", "thing2")
    assert data.entity_ids[shop.ITEMS - 1] == ""  # without a link
    # Every row can be said in the user's own words again.
    clicks = data.interactions
    rows = zip(clicks.users, clicks.items, clicks.ratings, clicks.positive, strict=True)
    said = {(data.user_ids[u], data.item_ids[i], int(r), bool(p)) for u, i, r, p in rows}
    assert said == {(u, i, stars, stars >= 3) for u, i, stars in shop.purchases()}
    graph = zip(data.heads, data.relations, data.tails, strict=True)
    facts = [(data.entity_ids[h], data.relation_ids[r], data.entity_ids[t]) for h, r, t in graph]
    assert facts == shop.triples()
    assert counts(done.report) == {
        "duplicate triples": 1,
        "orphan entities": 1,
        "items without triples": 1,
        "items without a link": 1,
    }
    assert np.array_equal(done.dataset.heads, data.heads) and done.dataset.notes == data.notes


def test_ids_for_a_python_api(folder):
    take(folder, items=folder / "goods.csv")
    ids = read_ids(folder / "out")
    assert ids.items.number("sku-4") == 4 and ids.items.name(4) == 'Thing, "4"'
    assert ids.users.numbers(["u1", "u0"]).tolist() == [1, 0]
    assert ids.users.name(0) == "u0" and "sku-0" in ids.items and "" not in ids.entities
    with pytest.raises(DataError, match=r"item: found 'sku4', expected one of 9 ids.*'sku-4'"):
        ids.items.number("sku4")
    synthetic = id_maps(load_dataset("synthetic"))
    assert synthetic.items.number("7") == 7 and synthetic.relations.kind == "relation"


def test_formats_give_the_same(folder):
    take(folder, threshold=3)
    wanted = digest(folder / "out")
    types = {"user_id": "VARCHAR", "item_id": "VARCHAR", "rating": "BIGINT"}
    parquet.write_rows(folder / "buy.parquet", types, shop.purchases())
    tabbed = shop.table(("item", "entity"), shop.links(), "\t")
    (folder / "map.tsv.gz").write_bytes(gzip.compress(tabbed.encode()))
    atomic = ("head_id:token", "relation_id:token", "tail_id:token")
    (folder / "shop.kg").write_text(shop.table(atomic, shop.triples(), "\t"))
    take(
        folder,
        "mixed",
        interactions=folder / "buy.parquet",
        kg=folder / "shop.kg",
        links=folder / "map.tsv.gz",
        threshold=3,
    )
    assert digest(folder / "mixed") == wanted
    bare = "\n".join(shop.table((), shop.purchases(), ";").split("\n")[1:])
    (folder / "bare.txt").write_text(bare + "\n\n")  # blank lines at the end are no rows
    done = take(folder, "bare", interactions=folder / "bare.txt", threshold=3)
    assert digest(folder / "bare") == wanted
    assert [c["how"] for c in done.report.files[0]["columns"]] == ["by its place"] * 3


def test_whole_numbers_that_pandas_made_fractions(folder):
    rows = [(float(user[1:]), item, stars) for user, item, stars in shop.purchases()]
    types = {"user": "DOUBLE", "item": "VARCHAR", "rating": "BIGINT"}
    parquet.write_rows(folder / "buy.parquet", types, rows)
    done = take(folder, interactions=folder / "buy.parquet")
    assert done.dataset.user_ids[0] == "0"
    assert "whole numbers held as DOUBLE" in done.dataset.notes[2]


def test_ntriples(folder):
    (folder / "kg.nt").write_text(shop.ntriples())
    rows = [(item, f"http://shop.example/{entity}") for item, entity in shop.links()]
    (folder / "map.csv").write_text(shop.table(("item", "uri"), rows))
    done = take(folder, kg=folder / "kg.nt")
    data = done.dataset
    names = dict(zip(data.entity_ids, data.entity_names, strict=True))
    assert names["http://shop.example/maker0"] == 'The "first" é'
    assert names["http://shop.example/maker1"] == "Second"
    assert names["http://shop.example/maker2"] == "" and "_:b0" in names
    assert data.relation_names == ("made by", "http://shop.example/has_colour")
    assert data.relation_ids[0] == "http://shop.example/made_by"
    assert data.num_triples == len(shop.triples()) + 1
    assert "5 triples with a literal, left out; 3 names taken from them" in data.notes[-1]
    again = take(folder, "de", kg=folder / "kg.nt", language="de").dataset
    assert dict(zip(again.entity_ids, again.entity_names, strict=True))[
        "http://shop.example/maker0"
    ] == ("Der erste")


def test_items_are_entities_without_links(folder):
    rows = [(h.replace("thing", "sku-"), r, t) for h, r, t in shop.triples()]
    (folder / "kg.csv").write_text(shop.table(("head", "relation", "tail"), rows))
    data = take(folder, links=None).dataset
    assert data.entity_ids[: shop.ITEMS] == data.item_ids


def test_labelled_rows(folder):
    rows = [(user, item, int(stars > 2)) for user, item, stars in shop.purchases()]
    (folder / "buy.csv").write_text(shop.table(("user", "item", "label"), rows))
    take(folder)
    data = load_dataset(str(folder / "out"))
    assert data.interactions is None
    found = zip(data.rows.users, data.rows.items, data.rows.labels, strict=True)
    assert [(data.user_ids[u], data.item_ids[i], int(y)) for u, i, y in found] == rows


def test_linked_only(folder):
    data = take(folder, linked_only=True).dataset
    assert data.num_items == shop.ITEMS - 1
    assert "items without a link, left out: 1 with" in data.notes[-1]
    # Lines are those of the file still.
    rows = [("x", f"sku-{shop.ITEMS - 1}", 1), ("u0", "sku-0", 1), ("u0", "sku-0", 0)]
    (folder / "buy.csv").write_text(shop.table(("user", "item", "label"), rows))
    with pytest.raises(DataError, match=r"buy.csv, line 4: found label 0 for user u0, item sku-0"):
        take(folder, "other", linked_only=True)


def test_clicks_alone(folder, tmp_path):
    """Without a graph there are no triples, and one relation that nothing has."""
    whole = take(folder)
    done = take(folder, "alone", kg=None, links=None)
    data = load_dataset(str(folder / "alone"))
    assert (data.num_triples, data.num_relations) == (0, 1)
    assert data.num_entities == data.num_items == whole.dataset.num_items
    assert np.array_equal(data.interactions.items, whole.dataset.interactions.items)
    assert not done.report.stops
    missing = {"hubs", "orphan entities", "items without triples"}
    assert not missing & counts(done.report).keys()
    assert main(["stats", str(folder / "alone")]) == 0
    assert main(["export", str(folder / "alone"), str(tmp_path / "again")]) == 0
    assert {path.suffix for path in (tmp_path / "again").iterdir()} == {
        *(".inter", ".user", ".item", ".entity")
    }
    assert len(load_dataset(str(tmp_path / "again")).interactions) == len(data.interactions)


@pytest.mark.parametrize("more", [{"links": "map.csv"}, {"links": None, "linked_only": True}])
def test_what_is_about_a_graph_needs_one(more, folder):
    if more["links"]:
        more = {"links": folder / more["links"]}
    with pytest.raises(ConfigError, match="found it without a file of --kg"):
        take(folder, kg=None, **more)


def test_a_click_again_counts_once(folder):
    text = shop.files()["buy.csv"] + "u0,sku-0,5,8\n"  # one star before
    (folder / "buy.csv").write_text(text)
    done = take(folder, threshold=4)
    assert counts(done.report)["repeated interactions"] == 1
    clicks, data = done.dataset.interactions, done.dataset
    pair = (clicks.users == data.user_ids.index("u0")) & (
        clicks.items == data.item_ids.index("sku-0")
    )
    assert clicks.positive[pair].tolist() == [True] and clicks.ratings[pair].tolist() == [5]


@pytest.mark.data
def test_real_files_give_what_loading_them_gives(data_root, tmp_path):
    place = data_root / "ml-100k-recbole"
    parts = {"interactions": "inter", "kg": "kg", "links": "link"}
    paths = {key: place / f"ml-100k.{end}" for key, end in parts.items()}
    import_dataset(tmp_path / "ml", **paths)
    assert digest(tmp_path / "ml") == prepare(load_dataset(str(place)), seed=0).hash


BUY = shop.files()["buy.csv"]
BAD = {
    "rating": ("buy.csv", BUY + "u1,sku-1,much,1\n", {}, 50, "stars 'much'", "a finite number"),
    "empty id": ("buy.csv", BUY + ",sku-1,3,1\n", {}, 50, "customer ''", "text"),
    "too many": ("buy.csv", BUY + "u1,sku-1,3,1,9\n", {}, 50, "5 columns", "4 (customer"),
    "line end in quotes": (
        "buy.csv",
        BUY + '"u\n1",sku-1,3,1\nu1,sku-1,x,1\n',
        {},
        52,
        "stars 'x'",
        "a finite number",
    ),
    "open quote": ("buy.csv", BUY + 'u1,"sku-1,3,1\n', {}, 50, "no CSV", "CSV"),
    "not UTF-8": ("buy.csv", BUY.encode() + b"\xe9,sku-1,3,1\n", {}, 50, "\\xe9", "UTF-8"),
    "no item": (
        "buy.csv",
        BUY.replace("sku,", "ware,", 1),
        {},
        1,
        "columns customer, ware",
        "one for item; say which: --item COLUMN",
    ),
    "told": ("buy.csv", BUY, {"user": "buyer"}, 1, "columns customer", "--user 'buyer'"),
    "same": ("buy.csv", BUY, {"user": "1", "item": "1"}, 1, "'customer' as user and", "one column"),
    "twice": ("buy.csv", BUY.replace("stars", "sku", 1), {}, 1, "column 'sku' twice", "distinct"),
    "no rows": ("buy.csv", "user,item\n", {}, None, "no rows", "rows of user"),
    "empty": ("buy.csv", "", {}, None, "no rows", "rows of interactions"),
    "two links": (
        "map.csv",
        shop.files()["map.csv"] + "sku-0,thing1\n",
        {},
        10,
        "item sku-0 with entity thing1",
        "entity thing0 as in an earlier line",
    ),
}


@pytest.mark.parametrize(
    ("file", "content", "columns", "line", "found", "expected"), BAD.values(), ids=BAD.keys()
)
def test_bad_files(file, content, columns, line, found, expected, folder):
    data = content if isinstance(content, bytes) else content.encode()
    (folder / file).write_bytes(data)
    with pytest.raises(DataError) as caught:
        take(folder, columns=columns)
    place = f"{folder / file}, line {line}: " if line else f"{folder / file}: "
    assert str(caught.value).startswith(place)
    assert found in str(caught.value) and expected in str(caught.value)
    assert not (folder / "out").exists()


def test_bad_ntriples(folder):
    (folder / "kg.nt").write_text(shop.ntriples() + '<a> "b" <c> .\n')
    line = shop.ntriples().count("\n") + 1
    with pytest.raises(
        DataError, match=rf"kg.nt, line {line}: found '<a>' .*expected N-Triples; --lenient"
    ):
        take(folder, kg=folder / "kg.nt")


def test_bad_parquet(folder):
    types = {"user": "VARCHAR", "item": "VARCHAR"}
    parquet.write_rows(folder / "buy.parquet", types, [("a", "x"), (None, "y")])
    with pytest.raises(DataError, match=r"buy.parquet, line 2: found user None, expected text"):
        take(folder, interactions=folder / "buy.parquet")
    (folder / "buy.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(DataError, match=r"buy.parquet: found .*expected a Parquet file"):
        take(folder, interactions=folder / "buy.parquet")


def with_items(change):
    return [(user, change(item), stars) for user, item, stars in shop.purchases()]


HEADER = ("user", "item", "rating")
UNFIT = {
    "blanks": (HEADER, with_items(lambda i: i + " "), {}, "match with blanks around ids taken off"),
    "case": (HEADER, with_items(str.upper), {}, "match with upper and lower case taken as one"),
    "strange": (HEADER, with_items(lambda i: "?" + i[::-1]), {}, "found no link of an item"),
    "exchanged": (("item", "user", "rating"), shop.purchases(), {}, "may be exchanged"),
    "few": (HEADER, shop.purchases()[:5], {}, "found 5 clicks, expected 10"),
    "only 1": (("user", "item", "label"), with_items(str), {}, "0 labels 0, expected both"),
    "everything": (
        HEADER,
        [(f"u{u}", f"sku-{i}", 1) for u in range(9) for i in range(3)],
        {},
        "users with all 3 items",
    ),
    "one each": (
        HEADER,
        [(f"u{n}", item, 1) for n, (_, item, _) in enumerate(shop.purchases())],
        {},
        "is the user column one of users",
    ),
}


@pytest.mark.parametrize(("header", "rows", "changes", "said"), UNFIT.values(), ids=UNFIT.keys())
def test_meaningless_data_stop_even_by_force(header, rows, changes, said, folder):
    if "label" in header:
        rows = [(user, item, 1) for user, item, _ in rows]
    (folder / "buy.csv").write_text(shop.table(header, rows))
    with pytest.raises(UnfitDataError) as caught:
        take(folder, force=True, **changes)
    assert said in str(caught.value) and not caught.value.forceable
    assert not (folder / "out").exists()


def doubtful():
    """Of 24 clicks on things all but two are on things outside the graph."""
    rows = [(u, i if n < 2 else f"x{n % 7}") for n, (u, i, _) in enumerate(shop.purchases())]
    return shop.table(("user", "item"), rows)


def command(folder, *more):
    paths = ["--interactions", "buy.csv", "--kg", "kg.csv", "--links", "map.csv"]
    words = [str(folder / word) if "." in word else word for word in paths]
    return main(["import", *words, str(folder / "out"), *more])


def test_doubtful_data_can_be_forced(folder, capsys):
    (folder / "buy.csv").write_text(doubtful())
    assert command(folder) == 1
    shown = capsys.readouterr()
    assert "found 4.2% of the clicks on items with triples" in shown.err
    assert "--force imports it all the same" in shown.err and "items without a link" in shown.out
    assert not (folder / "out").exists()
    assert command(folder, "--force") == 0
    assert "forced: " in capsys.readouterr().out
    assert "4.2%" in json.loads((folder / "out" / "dataset.json").read_text())["forced"][0]


def test_command_imports_and_trains(folder, capsys):
    assert command(folder, "--threshold", "2", "--items", str(folder / "goods.csv")) == 0
    shown = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert any(line.endswith("user customer by its name") for line in lines)
    assert "times: 7 to 7" in shown and "time when by its name" in "\n".join(lines)
    assert "positives: rating >= 2" in shown and f"--dataset {folder / 'out'}" in shown
    assert main(["stats", str(folder / "out")]) == 0
    options = ["--epochs", "1", "--threads", "1"]
    assert train.main(["--dataset", str(folder / "out"), *options]) == 0
    assert "Test, " in capsys.readouterr().out


def test_command_imports_split_files(folder, capsys):
    rows = [f"{user}\t{item}\t4\t9\n" for user, item, _ in shop.purchases()]
    (folder / "buy.csv").write_text("".join(rows[::2]))
    (folder / "test.csv").write_text("".join(rows[1::2]))
    options = ["--test", str(folder / "test.csv"), "--time", "4", "--label", "x"]
    assert command(folder, *options) == 2  # a file without names has no column of one
    assert "--label 'x'" in capsys.readouterr().err
    assert command(folder, *options[:-2]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "rating column 3 by its place" in lines and "time column 4 as told" in lines
    options = ["--model", "mf", "--threads", "1", "--output", str(folder / "run")]
    assert train.main(["--dataset", str(folder / "out"), *options]) == 0
    assert "protocol fixed" in capsys.readouterr().out
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert metrics["split"]["test"] == 24


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--threshold", "3", "--label", "stars"], "--threshold: found it with --label"),
        (["--users-name", "title"], "--users-name: found it without a file of --users"),
        (["--items", "nowhere.csv"], "nowhere.csv: found no such file"),
        (["--valid", "buy.csv"], "--valid: found it without a file of --test"),
    ],
)
def test_command_says_what_is_wrong(options, said, folder, capsys):
    assert command(folder, *options) == 2
    assert said in capsys.readouterr().err


def test_threshold_needs_ratings(folder):
    rows = [(user, item) for user, item, _ in shop.purchases()]
    (folder / "buy.csv").write_text(shop.table(("user", "item"), rows))
    with pytest.raises(DataError, match="expected one of ratings for --threshold: --rating COLUMN"):
        take(folder, threshold=3)


def test_output_is_not_written_over(folder):
    take(folder)
    with pytest.raises(ConfigError, match="add --overwrite"):
        take(folder)
    take(folder, overwrite=True, threshold=3)
    assert load_dataset(str(folder / "out")).interactions.threshold == 3
    with pytest.raises(ConfigError, match="which was imported"):
        load_dataset(str(folder / "out"), threshold=4)
    with pytest.raises(ConfigError, match="a folder with other files"):
        take(folder, ".", overwrite=True)


@pytest.mark.parametrize("file", ["triples.head.npy", "interactions.user.npy", "graph.tails.npy"])
def test_damaged_folder(folder, file):
    take(folder)
    out = folder / "out"
    table, name = out / file, re.escape(file)
    whole = table.read_bytes()
    middle = len(whole) - 3
    table.write_bytes(whole[:middle])
    with pytest.raises(DataError, match=rf"{name}: found \d+ bytes, expected \d+"):
        load_dataset(str(out))
    reseal(out / MANIFEST, "sealed")
    with pytest.raises(DataError, match=rf"{name}: found .*expected a column of int32 in a .npy"):
        load_dataset(str(out))
    table.write_bytes(whole)
    reseal(out / MANIFEST, "sealed")
    table.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(DataError, match=rf"{name}: damaged, its hash is another"):
        load_dataset(str(out))
    table.unlink()
    with pytest.raises(DataError, match=rf"{name}: no such file, expected the one that"):
        load_dataset(str(out))
    np.save(table, np.zeros(3))
    reseal(out / MANIFEST, "sealed")
    with pytest.raises(DataError, match=rf"{name}: found \[3\] of float64, expected a column of"):
        load_dataset(str(out))


def test_a_graph_that_does_not_fit_is_refused(folder):
    take(folder)
    out = folder / "out"
    for file, values, message in (
        ("graph.relations.npy", np.zeros(3, dtype=np.uint8), "found 3 values, expected"),
        ("graph.relations.npy", np.zeros(3), "found float64, expected uint8"),
        ("graph.indptr.npy", np.zeros(3, dtype=np.int64), "found 3 values, expected"),
        ("graph.tails.npy", np.zeros(3, dtype=np.int32), "found 3 values, expected"),
    ):
        whole = (out / file).read_bytes()
        np.save(out / file, values)
        reseal(out / MANIFEST, "sealed")
        with pytest.raises(DataError, match=rf"{re.escape(file)}: {message}|relations.npy: found"):
            load_dataset(str(out))
        (out / file).write_bytes(whole)


def test_texts_are_read_when_asked_for(folder):
    take(folder)
    out = folder / "out"
    data = load_dataset(str(out))
    assert len(data.user_ids) == data.num_users
    _, users = parquet.read(out / "users.parquet")
    types = {"id": "VARCHAR", "name": "VARCHAR"}
    whole = (out / "users.parquet").read_bytes()
    parquet.write_rows(out / "users.parquet", types, users[1:])
    with pytest.raises(DataError, match=r"users.parquet: found \d+ bytes, expected \d+"):
        _ = data.user_ids[0]
    reseal(out / MANIFEST, "sealed")
    other = load_dataset(str(out))
    with pytest.raises(DataError, match=r"users.parquet: found 11 rows, expected 12 as in"):
        list(other.user_ids)
    (out / "users.parquet").write_bytes(whole)
    assert tuple(data.user_ids) == tuple(row[0] for row in users) == data.user_ids[:]
    assert data.user_ids == data.user_ids[:] != data.item_ids


def test_large_files_are_hashed_when_asked(folder, monkeypatch):
    take(folder)
    out = folder / "out"
    whole = (out / "triples.tail.npy").read_bytes()
    (out / "triples.tail.npy").write_bytes(whole[:-4] + bytes([whole[-4] ^ 1]) + whole[-3:])
    monkeypatch.setattr(imported, "HASHED", 100)
    load_dataset(str(out))
    with pytest.raises(DataError, match=r"triples.tail.npy: damaged, its hash is another"):
        check_dataset(str(out))


def test_a_folder_of_another_format(folder):
    take(folder)
    out = folder / "out"
    (out / "dataset.json").write_text('{"format": "other"}')
    with pytest.raises(DataError, match=r"found format 'other'.*import again"):
        load_dataset(str(out))
