"""KGAT's format: what loads, and what each kind of broken file says."""

from __future__ import annotations

import bz2
import gzip
import lzma

import numpy as np
import pytest

from ekpnet_fast.data import load_dataset, prepare
from ekpnet_fast.data.datasets import is_split
from ekpnet_fast.data.formats import kgat
from ekpnet_fast.errors import ConfigError, DataError

TRAIN = "0 0 2 3\n1 1 1\n3\n"
TEST = "0 4\n1 0 1\n"
KG = "0 0 5\n1 1 6\n5 0 2\n"
FILES = {"train.txt": TRAIN, "test.txt": TEST, "kg_final.txt": KG}


def parts(data):
    """Pairs by the files that they are in."""
    clicks, found = data.interactions, {}
    for user, item, files in zip(clicks.users, clicks.items, data.split.files, strict=True):
        found[int(user), int(item)] = int(files)
    return found


@pytest.mark.parametrize(
    "files",
    [
        FILES,
        {**FILES, "train.txt": TRAIN.replace("\n", "\r\n"), "kg_final.txt": KG + "\n"},
        {**FILES, "train.txt": "\n" + TRAIN.replace("\n", " \n\n"), "test.txt": TEST.rstrip("\n")},
        {**FILES, "train.txt": TRAIN.replace(" ", "\t"), "kg_final.txt": KG.replace(" ", "\t")},
        {**FILES, "train.txt": "\ufeff" + TRAIN, "test.txt": TEST.replace(" ", "  ")},
        {**FILES, "train.txt": "1 1\n0 3 2\n3\n0 0\n1 1\n"},
        {**FILES, "train.txt": TRAIN.replace("\n", "\r"), "test.txt": TEST.replace("\n", "\r")},
    ],
    ids=["plain", "crlf", "blanks", "tabs", "byte order mark", "users on several lines", "cr"],
)
def test_loads_every_spelling_of_the_same_data(files, write):
    data = load_dataset(str(write(files)))
    counts = (data.num_users, data.num_items, data.num_entities, data.num_relations)
    assert counts == (4, 5, 7, 2)
    assert parts(data) == {(0, 0): 1, (0, 2): 1, (0, 3): 1, (0, 4): 4, (1, 0): 4, (1, 1): 5}
    assert data.interactions.positive.all() and data.rows is None
    assert data.split.repeated == 1
    assert [data.heads.tolist(), data.relations.tolist(), data.tails.tolist()] == [
        [0, 1, 5],
        [0, 1, 0],
        [5, 6, 2],
    ]
    assert (data.user_ids, data.item_ids, data.entity_ids, data.relation_names) == (None,) * 4
    assert data.source == "KGAT's format: train.txt, test.txt, kg_final.txt"


def test_a_validation_file_is_a_part(write):
    data = load_dataset(str(write({**FILES, "valid.txt": "2 4\n1 0\n"})))
    assert data.num_users == 4 and "valid.txt" in data.source
    assert parts(data)[2, 4] == 2 and parts(data)[1, 0] == 2 | 4


def test_original_ids_come_from_the_lists(write):
    lists = {
        "user_list.txt": "org_id remap_id\nann 0\nbob 1\ncleo 3\nd 2\n",
        "item_list.txt": "org_id remap_id freebase_id\nb7 1 m.1\nThe Wall 0 m.0\nb9 5 m.5\n"
        "b2 2\nb3 3\nb4 4 m.4\n",
        "entity_list.txt": "org_id\tremap_id\nm.0\t0\nm.6\t6\n",
        "relation_list.txt": "org_id remap_id\nfilm.star 1\nfilm.genre 0\n",
    }
    data = load_dataset(str(write({**FILES, **lists})))
    assert data.user_ids == ("ann", "bob", "d", "cleo")
    assert data.item_ids == ("The Wall", "b7", "b2", "b3", "b4", "b9") and data.num_items == 6
    assert data.entity_ids == ("m.0", "", "", "", "", "", "m.6")
    assert data.relation_names == ("film.genre", "film.star")


LISTS = {
    "no header": "The Wall 0\nb7 1\nb2 2\nNo 5 3\n4 4\n",
    "no header, more columns": "The Wall 0 m.0\nb7 1 m.1\nb2 2 m.2\nNo 5 3 m.3\n4 4 m.4\n",
    "no header, columns of numbers": "The Wall 0 7\nb7 1 8\nb2 2 9\nNo 5 3 7\n4 4 6\n",
    "no header, tabs": "The Wall\t0\tm.0\nb7\t1\nb2\t2\t\nNo 5\t3\t4\n4\t4\n",
    "empty columns": "org_id remap_id mid\nThe Wall 0 \nb7 1\nb2 2 m.2\nNo 5 3 \n4 4\n",
    "columns left out": "org_id remap_id mid\nThe Wall 0\nb7 1\nb2 2 m.2\n4 4\nNo 5 3\n",
    "taken numbers": "org_id remap_id mid\nThe Wall 0\nNo 5 3\nb7 1\nb2 2\n4 4\nb 5 m.5\n",
    "columns of numbers": "org_id remap_id kg\nThe Wall 0 4\nb7 1 3\nb2 2 2\nNo 5 3 1\n4 4 0\n",
    "trailing blanks": "org_id remap_id \nThe Wall 0 \nb7 1  \nb2 2\nNo 5 3 \n4 4 \n",
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS.keys())
def test_spellings_of_a_list(text, write):
    """With and without a header, blanks in ids, and columns after the number that may be empty."""
    data = load_dataset(str(write({**FILES, "item_list.txt": text})))
    assert data.item_ids[:5] == ("The Wall", "b7", "b2", "No 5", "4")


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_files_are_read_as_others_are(packed, ending, write):
    """What a file is follows from its bytes; its name may say it or not."""
    files = {f"{name}{ending}": packed(text.encode()) for name, text in FILES.items()}
    folder = write(files)
    data = load_dataset(str(folder))
    assert is_split(str(folder)) and data.source.count(f".txt{ending}") == 3
    assert data.tails.tolist() == [5, 6, 2]
    assert parts(data) == {(0, 0): 1, (0, 2): 1, (0, 3): 1, (0, 4): 4, (1, 0): 4, (1, 1): 5}


def test_names_of_items(write):
    names = {"item_names.txt": "0\tThe Wall\n3\tAmélie\n"}
    data = load_dataset(str(write({**FILES, **names})))
    assert data.item_names == ("The Wall", "", "", "Amélie", "", "")[: data.num_items]


def test_without_triples_the_graph_is_empty(write):
    data = load_dataset(str(write({"train.txt": TRAIN, "test.txt": TEST})))
    assert (data.num_triples, data.num_entities, data.num_relations) == (0, 5, 1)
    assert data.source.endswith("no graph")
    prepare(data, 0, "fixed")


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_pieces_of_a_file_give_the_same(chunk, monkeypatch, tmp_path):
    stream = np.random.default_rng(0)
    lines = [stream.integers(0, 500, stream.integers(1, 9)).tolist() for _ in range(40)]
    path = tmp_path / "train.txt"
    path.write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
    monkeypatch.setattr(kgat, "_CHUNK", chunk)
    users, items, listed = kgat.read_lists(path)
    assert users.tolist() == [line[0] for line in lines for _ in line[1:]]
    assert items.tolist() == [item for line in lines for item in line[1:]]
    assert listed.tolist() == [line[0] for line in lines]
    path.write_text(path.read_text() + "3 4 x5\n")
    with pytest.raises(DataError, match="line 41: found item 'x5'"):
        kgat.read_lists(path)


BAD = {
    "text": ("train.txt", TRAIN + "2 1 abc 3\n", 4, "item 'abc'", "a whole number from 0"),
    "user": ("test.txt", "u1 4\n", 1, "user 'u1'", "a whole number from 0"),
    "negative": ("train.txt", "0 1\n1 -1\n", 2, "item '-1'", "a whole number from 0"),
    "decimal": ("train.txt", "0 1\n\n1 2 3.5\n", 3, "item '3.5'", "a whole number from 0"),
    "comma": ("train.txt", "0,1\n", 1, "user '0,1'", "a whole number from 0"),
    "large": ("train.txt", "0 1\n1 2147483647\n", 2, "item '2147483647'", "to 2147483646"),
    "long": ("train.txt", "0 1 2\n99999999999999999999 1\n", 2, "user '9999", "to 2147483646"),
    "not text": ("train.txt", b"0 1\n0 \xff2\n", 2, "item '\ufffd2'", "a whole number"),
    "empty": ("test.txt", "\n", None, "no rows", "lines of a user and its items"),
    "triples": ("kg_final.txt", "0 0\n", 1, "2 columns", "3 (head, relation, tail)"),
    "header": ("item_list.txt", "id,name\n", 1, "'id,name'", "a header of org_id, remap_id"),
    "list": ("item_list.txt", "org_id remap_id\na b\n", 2, "'a b'", "an original id and"),
    "digits": (
        "item_list.txt",
        f"org_id remap_id\na {'9' * 5000}\n",
        2,
        "'a 999",
        "an original id",
    ),
    "without": (
        "item_list.txt",
        "org_id remap_id\na 1\n",
        None,
        "no original id of item 0",
        "to 4",
    ),
    "one id": (
        "user_list.txt",
        "org_id remap_id\n" + "".join(f"u{n % 3} {n}\n" for n in range(4)),
        None,
        "the original id 'u0' for users 0 and 3",
        "distinct ids",
    ),
    "twice": ("item_list.txt", "org_id remap_id\na 1\nb 1\n", 3, "'b 1'", "one original id of 1"),
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


def test_a_missing_part_is_named(write):
    folder = write({"train.txt": TRAIN, "kg_final.txt": KG})
    with pytest.raises(DataError, match=r"found no test\.txt, expected train\.txt and"):
        load_dataset(str(folder))


def test_ratings_in_the_final_format_win_and_a_threshold_is_refused(write):
    folder = write(FILES)
    assert is_split(str(folder))
    with pytest.raises(ConfigError, match="threshold: found 4 for"):
        load_dataset(str(folder), threshold=4)
    write({"ratings_final.txt": "0 0 1\n0 1 0\n"})
    assert load_dataset(str(folder)).rows is not None and not is_split(str(folder))


def test_only_folders_of_split_files_are_split(write):
    assert not is_split("synthetic") and not is_split("nowhere")
    assert not is_split(str(write({"kg_final.txt": KG})))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "counts", "split", "odd"),
    [
        (
            "alibaba-ifashion",
            (114_737, 30_040, 89_196, 51, 279_155),
            (1_380_510, 400_583),
            {"overlapping": 0, "repeated": 0, "new_items": 1},
        ),
        (
            "last-fm-kgat",
            (23_566, 48_123, 106_389, 9, 464_567),
            (1_120_496, 423_635),
            {"overlapping": 1_275, "unranked_users": 170, "repeated": 192_701},
        ),
    ],
)
def test_public_benchmarks(name, counts, split, odd, data_root):
    data = load_dataset(name, data_root)
    found = (data.num_users, data.num_items, data.num_entities, data.num_relations)
    assert (*found, data.num_triples) == counts
    prepared = prepare(data, 0, "fixed")
    assert (len(prepared.train) + len(prepared.valid), len(prepared.test)) == split
    assert prepared.counts.held_out_users == 10_000
    assert {field: getattr(prepared.counts, field) for field in odd} == odd
