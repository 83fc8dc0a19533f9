"""Raw files of the RippleNet, MKR and KGCN scripts."""

from __future__ import annotations

import pytest

from ekpnet_fast.data import load_dataset, prepare
from ekpnet_fast.data.tables import validate
from ekpnet_fast.errors import DataError

LINKS = "10\t0\r\n20\t1\r\n30\t2\r\n"
KG = "0\tgenre\t3\n1\tstar\t4\n2\tgenre\t3\n"
RATINGS = (
    "7::10::5::978\n5::20::3::978\n5::30::4::978\n7::99::5::978\n9::10::2::978\n7::20::3::978\n"
)
MOVIES = {
    "ratings.dat": RATINGS,
    "kg_rehashed.txt": KG,
    "item_index2entity_id_rehashed.txt": LINKS,
}


def clicks(data):
    pairs = zip(
        data.interactions.users.tolist(),
        data.interactions.items.tolist(),
        data.interactions.positive.tolist(),
        strict=True,
    )
    return set(pairs)


def test_movielens_numbers_users_by_first_positive_and_keeps_dense_entities(write):
    data = load_dataset(str(write(MOVIES)))
    assert data.rows is None
    assert data.user_ids == ("7", "5")
    assert data.item_ids == ("10", "20", "30")
    assert clicks(data) == {(0, 0, True), (0, 1, False), (1, 1, False), (1, 2, True)}
    assert data.heads.tolist() == [0, 1, 2] and data.tails.tolist() == [3, 4, 3]
    assert data.relations.tolist() == [0, 1, 0] and data.relation_names == ("genre", "star")
    assert (data.num_items, data.num_entities, data.entity_ids) == (3, 5, None)
    assert "users without positives, dropped: 1" in data.notes
    assert "rated items without an entity, dropped: 1" in data.notes


def test_threshold_argument(write):
    data = load_dataset(str(write(MOVIES)), threshold=3)
    assert clicks(data) == {(0, 0, True), (0, 1, True), (1, 1, True), (1, 2, True)}


def test_two_graph_files_are_read_in_order(write):
    files = {**MOVIES, "kg_part1_rehashed.txt": KG, "kg_part2_rehashed.txt": "4\tfrom\t9\n"}
    del files["kg_rehashed.txt"]
    data = load_dataset(str(write(files)))
    assert data.tails.tolist() == [3, 4, 3, 9] and data.num_entities == 10
    assert data.relation_names == ("genre", "star", "from")


def test_sparse_numbers_are_renumbered_by_first_appearance(write):
    kg = "500000000\tstar\t70\n20\tgenre\t500000000\n"
    files = {**MOVIES, "kg_rehashed.txt": kg}
    files["item_index2entity_id_rehashed.txt"] = "10\t20\n20\t0\n30\t70\n"
    data = load_dataset(str(write(files)))
    assert data.item_ids == ("10", "20", "30")
    assert data.entity_ids == ("20", "0", "70", "500000000")
    assert data.heads.tolist() == [3, 0] and data.tails.tolist() == [2, 3]


def test_dense_entities_in_another_order_name_the_items(write):
    files = {**MOVIES, "item_index2entity_id_rehashed.txt": "10\t2\n20\t0\n30\t1\n"}
    data = load_dataset(str(write(files)))
    assert data.item_ids == ("20", "30", "10")
    assert clicks(data) == {(0, 2, True), (0, 0, False), (1, 0, False), (1, 1, True)}


def test_names_as_entities(write):
    files = {
        "raw/ratings.dat": RATINGS,
        "raw/kg.txt": "m.a\tgenre\tm.x\nm.y\tstar\tm.b\n",
        "raw/item_index2entity_id.txt": "10\tm.a\n20\tm.b\n30\tm.c\n",
        "raw/item_names.txt": "0\tAlpha\n",
    }
    data = load_dataset(str(write(files)))
    assert data.entity_ids == ("m.a", "m.b", "m.c", "m.x", "m.y")
    assert data.heads.tolist() == [0, 4] and data.tails.tolist() == [3, 1]
    assert data.item_names == ("Alpha", "", "")


def test_book_crossing(write):
    ratings = (
        '"User-ID";"ISBN";"Book-Rating"\r\n'
        '"276725";"034545104X";"0"\r\n'
        '"276726";"0\\"3;30";"5"\r\n'
        '"276726";"M\xfcnchen";"0"\r\n'
        '"276727";"unlinked";"7"\r\n'
    ).encode("latin-1")
    links = '034545104X\t0\n0\\"3;30\t1\nM\xfcnchen\t2\n'
    files = {"BX-Book-Ratings.csv": ratings, "kg.txt": KG, "item_index2entity_id.txt": links}
    data = load_dataset(str(write(files)))
    assert data.user_ids == ("276725", "276726")
    assert clicks(data) == {(0, 0, True), (1, 1, True), (1, 2, True)}


def test_last_fm_header_and_repeated_pairs(write):
    listens = "userID\tartistID\tweight\n2\t10\t7\n2\t10\t1\n2\t30\t5\n"
    files = {"user_artists.dat": listens, "kg.txt": KG, "item_index2entity_id.txt": LINKS}
    data = load_dataset(str(write(files)))
    assert clicks(data) == {(0, 0, True), (0, 2, True)}


def test_final_format_wins_unless_raw_is_asked_for(write):
    files = {f"both/raw/{name}": content for name, content in MOVIES.items()}
    files["both/ratings_final.txt"] = "0\t0\t1\n0\t1\t0\n"
    files["both/kg_final.txt"] = "0\t0\t2\n"
    root = write(files)
    assert load_dataset("both", root).rows is not None
    raw = load_dataset("both/raw", root)
    assert raw.interactions is not None and raw.name == "both/raw"


BX = {"BX-Book-Ratings.csv": '"1";"a";"0"\n', "kg.txt": KG, "item_index2entity_id.txt": LINKS}

BAD = {
    "columns": (MOVIES, "ratings.dat", RATINGS + "1::2\n", 7, "2 columns", "4 (user, item"),
    "single colon": (MOVIES, "ratings.dat", "1::10::5::9\n1:10::5::9\n", 2, "3 columns", "4 ("),
    "rating": (MOVIES, "ratings.dat", RATINGS + "1::2::x::3\n", 7, "rating 'x'", "number"),
    "rating nan": (MOVIES, "ratings.dat", RATINGS + "1::2::nan::3\n", 7, "rating 'nan'", "number"),
    "no user": (MOVIES, "ratings.dat", RATINGS + "::2::3::3\n", 7, "user ''", "text"),
    "not UTF-8": (MOVIES, "ratings.dat", b"1::10::5::9\n1::\xe9::5::9\n", 2, "\\xe9", "UTF-8"),
    "empty ratings": (MOVIES, "ratings.dat", "", None, "no rows", "rows of user, item, rating"),
    "nothing linked": (MOVIES, "ratings.dat", "1::8::5::9\n", None, "no positive", "at least one"),
    "book": (BX, "BX-Book-Ratings.csv", '"1";"a";"0"\n"2";"b"\n', 2, '"2";"b"', '"rating"'),
    "empty book": (BX, "BX-Book-Ratings.csv", '"User";"ISBN";"R"\n', None, "no rows", '"rating"'),
    "kg id": (MOVIES, "kg_rehashed.txt", KG + "x\tgenre\t2\n", 4, "head 'x'", "whole number"),
    "kg empty": (MOVIES, "kg_rehashed.txt", "", None, "no rows", "head, relation, tail"),
    "two entities": (
        MOVIES,
        "item_index2entity_id_rehashed.txt",
        LINKS + "\n10\t5\n",
        5,
        "item 10 with entity 5",
        "entity 0 as in an earlier line",
    ),
}


@pytest.mark.parametrize(
    ("base", "file", "content", "line", "found", "expected"), BAD.values(), ids=BAD.keys()
)
def test_bad_files(base, file, content, line, found, expected, write):
    folder = write({**base, file: content})
    with pytest.raises(DataError) as caught:
        load_dataset(str(folder))
    place = f"{folder / file}, line {line}: " if line else f"{folder / file}: "
    assert str(caught.value).startswith(place)
    assert found in str(caught.value) and expected in str(caught.value)


def test_without_a_graph_and_links_all_items_are_those_rated(write):
    data = load_dataset(str(write({"ratings.dat": RATINGS})))
    assert data.item_ids == ("10", "20", "30", "99") and data.user_ids == ("7", "5")
    assert clicks(data) == {
        *((0, 0, True), (0, 1, False), (0, 3, True), (1, 1, False), (1, 2, True)),
    }
    assert (data.num_triples, data.num_entities, data.num_relations) == (0, 4, 1)
    assert data.source == "raw files: ratings.dat, no graph"
    validate(data)


@pytest.mark.parametrize(
    ("left_out", "looked_for"),
    [
        ("kg_rehashed.txt", "kg.txt, kg_rehashed.txt, kg_part1_rehashed.txt + kg_part2"),
        ("item_index2entity_id_rehashed.txt", "item_index2entity_id.txt, item_index2entity_id_re"),
    ],
)
def test_missing_files_are_listed(left_out, looked_for, write):
    folder = write({name: text for name, text in MOVIES.items() if name != left_out})
    with pytest.raises(DataError) as caught:
        load_dataset(str(folder))
    assert f"found none of {looked_for}" in str(caught.value)


@pytest.mark.data
def test_last_fm_raw_has_the_positives_of_its_final_files(data_root):
    raw = load_dataset("last-fm/raw", data_root)
    final = load_dataset("last-fm", data_root)
    positive = final.rows.take(final.rows.labels == 1)
    assert clicks(raw) == {
        (user, item, True)
        for user, item in zip(positive.users.tolist(), positive.items.tolist(), strict=True)
    }
    assert raw.heads.tolist() == final.heads.tolist()
    assert raw.relations.tolist() == final.relations.tolist()
    assert raw.tails.tolist() == final.tails.tolist()
    assert (raw.num_users, raw.num_items, raw.num_entities) == (1872, 3846, 9366)
    prepared = prepare(raw, 0)
    rows = sum(map(len, (prepared.train, prepared.valid, prepared.test)))
    assert rows + prepared.dropped_examples == len(final.rows)


def test_times_of_movielens(write):
    ratings = "7::10::5::978\n5::20::3::979\n5::30::4::980\n7::20::3::981\n7::10::4::970\n"
    data = load_dataset(str(write({**MOVIES, "ratings.dat": ratings})))
    pairs = data.interactions
    found = zip(pairs.users.tolist(), pairs.items.tolist(), data.times.tolist(), strict=True)
    assert set(found) == {(0, 0, 970), (1, 1, 979), (1, 2, 980), (0, 1, 981)}
    without = ratings.replace("::979", "::")
    assert load_dataset(str(write({**MOVIES, "ratings.dat": without}))).times is None
