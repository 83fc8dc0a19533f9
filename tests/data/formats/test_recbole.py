"""RecBole's atomic files."""

from __future__ import annotations

import numpy as np
import pytest

from ekpnet_fast.data import load_dataset, prepare
from ekpnet_fast.data.tables import validate
from ekpnet_fast.errors import DataError

INTER = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "u1\ti5\t3\t1\n"
    "u2\ti7\t5\t2\n"
    "u1\ti7\t4\t3\n"
    "u3\ti9\t1\t4\n"
)
KG = "head_id:token\trelation_id:token\ttail_id:token\nm.7\tstar\tm.x\nm.q\tstar\tm.7\n"
LINK = "item_id:token\tentity_id:token\ni7\tm.7\ni8\tm.q\n"
FILES = {"ml-t.inter": INTER, "ml-t.kg": KG, "ml-t.link": LINK}


def clicks(data):
    pairs = data.interactions
    return set(
        zip(pairs.users.tolist(), pairs.items.tolist(), pairs.positive.tolist(), strict=True)
    )


def test_loads(write):
    data = load_dataset(str(write(FILES)))
    assert data.user_ids == ("u2", "u1")
    assert data.item_ids == ("i5", "i7", "i9")
    assert clicks(data) == {(0, 1, True), (1, 0, False), (1, 1, True)}
    assert data.entity_ids == ("", "m.7", "", "m.x", "m.q")
    assert data.heads.tolist() == [1, 4] and data.tails.tolist() == [3, 1]
    assert data.num_relations == 1 and data.item_names is None
    assert "items without a link: 2" in data.notes
    assert "users without positives, dropped: 1" in data.notes


def test_threshold_applies_to_ratings_only(write):
    assert clicks(load_dataset(str(write(FILES)), threshold=5)) == {(0, 1, True)}
    implicit = "user_id:token\titem_id:token\nu1\ti5\nu1\ti7\n"
    folder = write({"ml-t.inter": implicit})
    assert clicks(load_dataset(str(folder))) == {(0, 0, True), (0, 1, True)}
    with pytest.raises(DataError, match="no rating column"):
        load_dataset(str(folder), threshold=3)


def test_titles(write):
    items = 'item_id:token\tmovie_title:token_seq\tyear:float\ni7\tHeat "95\t\ni5\tAmélie\t2001\n'
    data = load_dataset(str(write({**FILES, "ml-t.item": items})))
    assert data.item_names == ("Amélie", 'Heat "95', "")


BAD = {
    "no types": ("ml-t.inter", INTER.replace(":token", ""), 1, "'user_id'", "name:type"),
    "twice": ("ml-t.inter", INTER.replace("timestamp", "rating"), 1, "column 'rating' twice", ""),
    "header again": ("ml-t.kg", KG + KG, 4, "the header once more", "each file by itself"),
    "no item": ("ml-t.inter", INTER.replace("item_id", "thing"), 1, "no column item_id", "user_id"),
    "titles": ("ml-t.item", "id:token\ttitle:token\n1\tA\n", 1, "no column item_id", "item_id"),
    "short": ("ml-t.inter", INTER + "u1\ti5\n", 6, "2 columns", "4 (user_id"),
    "rating": ("ml-t.inter", INTER + "u1\ti5\tx\t1\n", 6, "rating 'x'", "number"),
    "no rows": ("ml-t.inter", INTER.split("\n")[0] + "\n", None, "no rows", "rows of user_id"),
    "empty": ("ml-t.inter", "", 1, "''", "name:type"),
    "not UTF-8": ("ml-t.kg", KG.encode() + b"\xe9\ta\tb\n", 4, "\\xe9", "UTF-8"),
    "empty tail": ("ml-t.kg", KG + "m.7\tstar\t\n", 4, "tail_id ''", "text"),
    "empty graph": ("ml-t.kg", KG.split("\n")[0], None, "no rows", "head_id"),
    "two links": ("ml-t.link", LINK + "i7\tm.q\n", 4, "item i7 with entity m.q", "entity m.7"),
}


@pytest.mark.parametrize(
    ("file", "content", "line", "found", "expected"), BAD.values(), ids=BAD.keys()
)
def test_bad_files(file, content, line, found, expected, write):
    folder = write({**FILES, file: content})
    with pytest.raises(DataError) as caught:
        load_dataset(str(folder))
    place = f"{folder / file}, line {line}: " if line else f"{folder / file}: "
    assert str(caught.value).startswith(place)
    assert found in str(caught.value) and expected in str(caught.value)


@pytest.mark.parametrize("left_out", ["ml-t.kg", "ml-t.link"])
def test_missing_file(left_out, write):
    folder = write({name: text for name, text in FILES.items() if name != left_out})
    with pytest.raises(DataError, match=r"found no \*\.(kg|link), expected one"):
        load_dataset(str(folder))


def test_no_graph(write):
    """What is known of users and items stays; there is one relation, which nothing has."""
    clicks = {name: text for name, text in FILES.items() if name not in ("ml-t.kg", "ml-t.link")}
    found = load_dataset(str(write(clicks)))
    whole = load_dataset(str(write(FILES)))
    assert found.num_triples == 0 < whole.num_triples
    assert (found.num_entities, found.num_relations) == (whole.num_items, 1)
    assert found.item_ids == whole.item_ids and found.user_ids == whole.user_ids
    assert np.array_equal(found.interactions.items, whole.interactions.items)
    assert found.source.endswith(", no graph")
    validate(found)


SPLIT = {
    "ml-t.train.inter": INTER,
    "ml-t.valid.inter": INTER.split("\n")[0] + "\nu2\ti5\t4\t5\nu3\ti9\t2\t5\n",
    "ml-t.test.inter": "item_id:token\tuser_id:token\trating:float\n"
    "i7\tu2\t4\ni7\tu2\t4\ni3\tu1\t5\n",
    "ml-t.kg": KG,
    "ml-t.link": LINK,
}


def test_files_already_split(write):
    data = load_dataset(str(write(SPLIT)))
    assert data.user_ids == ("u2", "u1") and data.item_ids == ("i5", "i7", "i9", "i3")
    clicks = data.interactions
    files = zip(
        clicks.users.tolist(), clicks.items.tolist(), data.split.files.tolist(), strict=True
    )
    # u2 has i7 in train and in test; u1's i5 is no positive, and u3 has none.
    assert list(files) == [(0, 0, 2), (0, 1, 5), (1, 0, 1), (1, 1, 1), (1, 3, 4)]
    assert clicks.positive.tolist() == [True, True, False, True, True]
    assert data.split.repeated == 1
    assert "ml-t.train.inter, ml-t.valid.inter, ml-t.test.inter, ml-t.kg" in data.source
    prepared = prepare(data, 0, "fixed")
    assert [len(part) for part in (prepared.train, prepared.valid, prepared.test)] == [2, 1, 2]


def test_labels_of_files_already_split(write):
    head = "user_id:token\titem_id:token\tlabel:float\n"
    labelled = {
        "t.train.inter": head + "a\t1\t1\na\t2\t0\nb\t2\t1\nb\t1\t1\n",
        "t.test.inter": head + "a\t2\t0\na\t3\t1\n",
        "t.kg": KG,
        "t.link": LINK,
    }
    folder = write(labelled)
    data = load_dataset(str(folder))
    assert data.rows.labels.tolist() == [1, 0, 1, 1, 1]
    assert data.split.files.tolist() == [1, 5, 1, 1, 4]
    write({"t.test.inter": head + "a\t3\t1\nb\t2\t0\n"})
    with pytest.raises(
        DataError, match=r"t\.test\.inter, line 3: found label 0 for user b, item 2"
    ):
        load_dataset(str(folder))


def test_whole_file_beside_the_parts_is_not_used(write):
    data = load_dataset(str(write({**SPLIT, "ml-t.inter": INTER})))
    assert len(data.interactions) == 5
    assert data.notes[-1] == "ml-t.inter, not used: the data are split"


def test_split_files_need_a_test_part(write):
    folder = write({name: text for name, text in SPLIT.items() if "test" not in name})
    with pytest.raises(DataError, match=r"found no \*\.test\.inter, expected one"):
        load_dataset(str(folder))


@pytest.mark.data
def test_movielens_100k(data_root):
    data = load_dataset("ml-100k-recbole", data_root)
    assert (data.num_users, data.num_items, data.num_relations) == (942, 1682, 24)
    assert data.num_triples == 91_631
    assert int(data.interactions.positive.sum()) == 55_375
    assert data.item_names[data.item_ids.index("1")] == "Toy Story"
    prepared = prepare(data, 3)
    assert prepared.missing_negatives == 0


def times_of(data):
    pairs = data.rows if data.rows is not None else data.interactions
    users, items = pairs.users.tolist(), pairs.items.tolist()
    return dict(zip(zip(users, items, strict=True), data.times.tolist(), strict=True))


def test_times_are_the_earliest_of_a_positive(write):
    again = INTER + "u2\ti7\t2\t0\nu2\ti7\t4\t1.5\nu1\ti5\t1\t0.5\n"
    data = load_dataset(str(write({**FILES, "ml-t.inter": again})))
    # The first row of (u2, i7) at 0 is no positive; (u1, i5) has none.
    assert times_of(data) == {(0, 1): 1.5, (1, 0): 0.5, (1, 1): 3}
    labels = INTER.replace("rating:float", "label:float").replace("\t3\t1\n", "\t0\t1\n")
    labels = labels.replace("\t5\t2\n", "\t1\t2\n").replace("\t4\t3\n", "\t1\t3\n")
    data = load_dataset(str(write({**FILES, "ml-t.inter": labels})))
    assert times_of(data) == {(0, 0): 1, (1, 1): 2, (0, 1): 3, (2, 2): 4}


@pytest.mark.parametrize(
    "change", [("\t5\t2\n", "\t5\t\n"), ("\t2\n", "\tlate\n"), ("\t2\n", "\tnan\n")]
)
def test_without_a_time_in_every_row_there_are_none(write, change):
    data = load_dataset(str(write({**FILES, "ml-t.inter": INTER.replace(*change)})))
    assert data.times is None and len(data.interactions) == 3


def test_split_files_have_times(write):
    header = INTER.splitlines()[0]
    parts = {"train": "u1\ti7\t4\t3\n", "test": "u2\ti7\t5\t2\n"}
    files = {f"ml-t.{part}.inter": f"{header}\n{rows}" for part, rows in parts.items()}
    data = load_dataset(str(write({"ml-t.kg": KG, "ml-t.link": LINK, **files})))
    assert times_of(data) == {(0, 0): 3, (1, 0): 2}
