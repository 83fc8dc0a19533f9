"""Exporting RecBole's atomic files, and importing them back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ekpnet_fast.data import load_dataset, prepare
from ekpnet_fast.data.__main__ import main
from ekpnet_fast.data.datasets import is_split
from ekpnet_fast.data.formats.export import export_recbole, needed_threshold
from ekpnet_fast.data.ids import id_maps
from ekpnet_fast.data.importing.importer import import_dataset
from ekpnet_fast.errors import ConfigError, DataError
from support import shop


def back(folder, out, threshold=None):
    """The exported files, imported."""
    names = {
        "interactions": "inter",
        "kg": "kg",
        "links": "link",
        "users": "user",
        "items": "item",
        "entities": "entity",
    }
    paths = {key: folder / f"{folder.name}.{ending}" for key, ending in names.items()}
    return import_dataset(out, **paths, threshold=threshold).dataset


@pytest.fixture
def data(write):
    folder = write(shop.files())
    return import_dataset(
        folder / "shop",
        interactions=folder / "buy.csv",
        kg=folder / "kg.csv",
        links=folder / "map.csv",
        items=folder / "goods.csv",
        threshold=3,
    ).dataset


def test_files(data, tmp_path):
    out = tmp_path / "x"
    export_recbole(data, out)
    lines = (out / "x.inter").read_text().splitlines()
    assert lines[0] == "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    found = {tuple(line.split("\t")) for line in lines[1:]}
    assert found == {(u, i, str(stars), "7") for u, i, stars in shop.purchases()}
    links = [tuple(line.split("\t")) for line in (out / "x.link").read_text().splitlines()]
    assert links == [("item_id:token", "entity_id:token"), *shop.links()]
    facts = [tuple(line.split("\t")) for line in (out / "x.kg").read_text().splitlines()[1:]]
    assert facts == shop.triples()
    assert (out / "x.item").read_text().splitlines()[:2] == [
        "item_id:token\titem_name:token_seq",
        'sku-0\tThing, "0"',
    ]


def test_round_trip(data, tmp_path):
    out = tmp_path / "x"
    export_recbole(data, out)
    assert needed_threshold(data) == 3
    again = back(out, tmp_path / "again", threshold=3)
    assert prepare(again, 0).hash == prepare(data, 0).hash
    for field in ("user_ids", "item_ids", "item_names", "entity_ids", "relation_names"):
        assert getattr(again, field) == getattr(data, field)
    # The folder can be loaded as it is too: the same clicks, numbered by the files.
    loaded = load_dataset(str(out), threshold=3)
    clicks = loaded.interactions
    said = {
        (loaded.user_ids[u], loaded.item_ids[i], bool(p))
        for u, i, p in zip(clicks.users, clicks.items, clicks.positive, strict=True)
    }
    assert said == {(u, i, stars >= 3) for u, i, stars in shop.purchases()}


def test_positives_without_ratings(data, tmp_path):
    bare = replace(data, interactions=replace(data.interactions, ratings=None, threshold=None))
    export_recbole(bare, tmp_path / "x")
    assert needed_threshold(bare) == 1
    again = back(tmp_path / "x", tmp_path / "again", threshold=1)
    assert np.array_equal(again.interactions.positive, data.interactions.positive)


def test_labelled_rows(write, tmp_path):
    ratings = "".join(f"{u} {i} {(u + i) % 2}\n" for u in range(6) for i in range(4))
    folder = write({"f/ratings_final.txt": ratings, "f/kg_final.txt": "0 0 4\n1 0 4\n2 1 5\n"})
    data = load_dataset(str(folder / "f"))
    export_recbole(data, tmp_path / "x")
    wanted = prepare(data, 0).hash
    assert prepare(back(tmp_path / "x", tmp_path / "again"), 0).hash == wanted
    loaded = load_dataset(str(tmp_path / "x"))  # items appear in order here, so the same numbers
    assert loaded.interactions is None and prepare(loaded, 0).hash != ""
    assert np.array_equal(loaded.rows.labels, data.rows.labels)
    assert "positives: label = 1" in loaded.notes
    with pytest.raises(DataError, match="label column"):
        load_dataset(str(tmp_path / "x"), threshold=1)


@pytest.mark.data
@pytest.mark.parametrize("name", ["ml-100k-recbole", "last-fm", "last-fm/raw", "book-crossing"])
def test_round_trip_of_real_data(name, data_root, tmp_path):
    data = load_dataset(name, data_root)
    out = tmp_path / name.replace("/", "-")
    export_recbole(data, out)
    again = back(out, tmp_path / "again", needed_threshold(data))
    assert prepare(again, 0).hash == prepare(data, 0).hash


def test_what_cannot_be_written(data, tmp_path):
    out = tmp_path / "x"
    tabbed = replace(data, user_ids=("a\tb", *data.user_ids[1:]))
    with pytest.raises(DataError, match=r"user: found id 'a\\tb', expected one without tabs"):
        export_recbole(tabbed, out)
    twice = replace(data, relation_ids=("same", "same"))
    with pytest.raises(DataError, match="relation: found 'same' twice"):
        export_recbole(twice, out)
    assert not out.exists()
    export_recbole(data, out)
    with pytest.raises(ConfigError, match="add --overwrite"):
        export_recbole(data, out)
    export_recbole(data, out, overwrite=True)
    (out / "other.kg").write_text("")
    with pytest.raises(ConfigError, match=r"found other.kg, expected a folder of its own"):
        export_recbole(data, out, overwrite=True)


def test_command(data, tmp_path, capsys):
    assert main(["export", str(tmp_path / "shop"), str(tmp_path / "x")]) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / "x" / "x.inter") in shown and "load with --threshold 3" in shown
    assert main(["export", "synthetic", str(tmp_path / "y")]) == 0
    assert main(["export", "synthetic", str(tmp_path / "y")]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_times_are_kept(write):
    inter = "user_id:token\titem_id:token\ttimestamp:float\nu\ti\t7\nv\ti\t8.5\nu\tj\t9\n"
    kg = "head_id:token\trelation_id:token\ttail_id:token\ne\tis\tf\n"
    link = "item_id:token\tentity_id:token\ni\te\n"
    data = load_dataset(str(write({"a.inter": inter, "a.kg": kg, "a.link": link})))
    out = write({}) / "again"
    export_recbole(data, out)
    again = load_dataset(str(out))
    assert (out / "again.inter").read_text().splitlines()[0].endswith("\ttimestamp:float")
    assert sorted(again.times.tolist()) == [7, 8.5, 9]


@pytest.mark.parametrize("valid", ["", "2 4\n1 0\n"], ids=["held out", "given"])
def test_a_split_is_kept(valid, write, tmp_path):
    """Rows of test must not become rows to train on, nor those of two files those of one."""
    files = {"train.txt": "0 0 2 3\n1 1 2\n3 4\n", "test.txt": "0 4\n1 0 1\n"}
    if valid:
        files["valid.txt"] = valid
    data = load_dataset(str(write(files)))
    paths = export_recbole(data, tmp_path / "out")
    endings = {path.name.partition(".")[2] for path in paths}
    parts = {"train.inter", "test.inter", *(["valid.inter"] if valid else [])}
    assert endings == {*parts, "user", "item", "entity"}
    again = load_dataset(str(tmp_path / "out"))
    assert is_split(str(tmp_path / "out"))

    def found(data):
        clicks, ids = data.interactions, id_maps(data)
        triples = zip(clicks.users, clicks.items, data.split.files, strict=True)
        return {(ids.users.ids[u], ids.items.ids[i], int(files)) for u, i, files in triples}

    assert found(again) == found(data) and ("1", "1", 5) in found(data)
