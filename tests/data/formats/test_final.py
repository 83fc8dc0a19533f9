"""The final format: what loads, and what each kind of broken file says."""

from __future__ import annotations

import io

import numpy as np
import pytest

from ekpnet_fast.data import load_dataset
from ekpnet_fast.data.tables import validate
from ekpnet_fast.errors import DataError, EkpnetError

RATINGS = "0\t0\t1\n0\t2\t0\n1\t1\t1\n2\t0\t0\n"
KG = "0\t0\t3\n1\t1\t4\n3\t0\t5\n"


def npy(array: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array))
    return buffer.getvalue()


def table(text: str) -> np.ndarray:
    return np.loadtxt(io.StringIO(text), dtype=np.int64)


@pytest.mark.parametrize(
    "files",
    [
        {"ratings_final.txt": RATINGS, "kg_final.txt": KG},
        {"ratings_final.npy": npy(table(RATINGS)), "kg_final.txt": KG},
        {"ratings_final.txt": RATINGS, "kg_final.npy": npy(np.asfortranarray(table(KG)))},
        {"ratings_final.txt": RATINGS.replace("\n", "\r\n"), "kg_final.txt": KG + "\n\n"},
        {"ratings_final.txt": RATINGS.rstrip("\n"), "kg_final.txt": KG.replace("\t", " ")},
        {"ratings_final.txt": RATINGS.replace("\t", "  "), "kg_final.txt": KG.replace("\t", ",")},
        {"ratings_final.npy": npy(table(RATINGS).astype(np.uint8)), "kg_final.txt": KG},
        {"ratings_final.txt": "\ufeff" + RATINGS, "kg_final.txt": "\ufeff" + KG + "\n"},
        {"ratings_final.txt": RATINGS.replace("2", "+2"), "kg_final.txt": KG.replace("3", "003")},
    ],
    ids=[
        "text",
        "npy",
        "fortran npy",
        "crlf and blank lines",
        "blanks",
        "padded, commas",
        "uint8",
        "byte order mark",
        "signs and zeros",
    ],
)
def test_loads_every_spelling_of_the_same_data(files, write):
    data = load_dataset(str(write(files)))
    counts = (data.num_users, data.num_items, data.num_entities, data.num_relations)
    assert counts == (3, 3, 6, 2)
    assert data.rows.users.tolist() == [0, 0, 1, 2]
    assert data.rows.items.tolist() == [0, 2, 1, 0]
    assert data.rows.labels.tolist() == [1, 0, 1, 0]
    assert [data.heads.tolist(), data.relations.tolist(), data.tails.tolist()] == [
        [0, 1, 3],
        [0, 1, 0],
        [3, 4, 5],
    ]
    for array in (data.rows.users, data.rows.items, data.heads, data.relations, data.tails):
        assert array.dtype == np.int32 and array.flags.c_contiguous
    assert data.rows.labels.dtype == np.int8
    assert data.interactions is None and data.oracle is None


def test_reads_names(write):
    names = {"item_names.txt": "0\tToy Story\n2\tÀ bout\n", "relations.txt": "genre\nstar\n"}
    data = load_dataset(str(write({"ratings_final.txt": RATINGS, "kg_final.txt": KG, **names})))
    assert data.item_names == ("Toy Story", "", "À bout")
    assert data.relation_names == ("genre", "star")


def test_without_triples_the_graph_is_empty(write):
    data = load_dataset(str(write({"ratings_final.txt": RATINGS})))
    counts = (data.num_users, data.num_items, data.num_entities, data.num_relations)
    assert counts == (3, 3, 3, 1) and data.num_triples == 0
    assert data.source == "final format: ratings_final.txt, no graph"
    validate(data)


BAD_RATINGS = {
    "short line": ("0\t0\t1\n0\t2\n", 2, "2 columns", "3 (user, item, label)"),
    "long line": ("0\t0\t1\n0\t2\t1\t5\n", 2, "4 columns", "3 (user, item, label)"),
    "word": ("0\t0\t1\n0\tx\t1\n", 2, "item 'x'", "a whole number from 0"),
    "float": ("0\t0\t1\n0\t3.0\t1\n", 2, "item '3.0'", "a whole number from 0"),
    "negative id": ("0\t0\t1\n\n-4\t1\t1\n", 3, "user '-4'", "a whole number from 0"),
    "label 2": ("0\t0\t1\n0\t1\t2\n", 2, "label '2'", "0 or 1"),
    "label -1": ("0\t0\t1\n0\t1\t-1\n", 2, "label '-1'", "0 or 1"),
    "too large": ("0\t0\t1\n0\t3000000000\t1\n", 2, "item '3000000000'", "2147483646"),
    "largest int32": ("0\t0\t1\n0\t2147483647\t1\n", 2, "item '2147483647'", "2147483646"),
    "empty field": ("0\t0\t1\n0\t\t1\n", 2, "item ''", "a whole number from 0"),
    "header": ("user\titem\tlabel\n0\t0\t1\n", 1, "user 'user'", "a whole number from 0"),
    "not UTF-8": (b"0\t0\t1\n0\t\xff1\t1\n", 2, r"'0\t\xff1\t1'", "UTF-8 text"),
    "contradiction": ("0\t0\t1\n1\t1\t1\n\n0\t0\t0\n", 4, "label 0", "1 as in an earlier line"),
    "empty file": ("", None, "no rows", "rows of user, item, label"),
    "blank file": ("\n\n", None, "no rows", "rows of user, item, label"),
}


@pytest.mark.parametrize(
    ("content", "line", "found", "expected"), BAD_RATINGS.values(), ids=BAD_RATINGS.keys()
)
def test_bad_ratings(content, line, found, expected, write):
    folder = write({"ratings_final.txt": content, "kg_final.txt": KG})
    check_message(folder, "ratings_final.txt", line, found, expected)


BAD_ARRAYS = {
    "two columns": (npy([[0, 1]]), None, "shape [1, 2]", "shape [n, 3]"),
    "one dimension": (npy([0, 1, 1]), None, "shape [3]", "shape [n, 3]"),
    "float": (npy([[0.0, 1.0, 1.0]]), None, "dtype float64", "an integer array"),
    "bool": (npy([[True, False, True]]), None, "dtype bool", "an integer array"),
    "no rows": (npy(np.zeros((0, 3), dtype=np.int32)), None, "no rows", "[n, 3]"),
    "text": (b"0\t0\t1\n", None, "no NumPy array", "an integer array"),
    "cut off": (npy(table(RATINGS))[:-9], None, "no NumPy array", "an integer array"),
    "empty": (b"", None, "no NumPy array", "an integer array"),
    "negative": (npy([[0, 0, 1], [0, -2, 1]]), 2, "item -2", "a whole number from 0"),
    "label 5": (npy([[0, 0, 1], [0, 2, 5]]), 2, "label 5", "0 or 1"),
    "too large": (npy([[0, 0, 1], [2**40, 2, 1]]), 2, f"user {2**40}", "2147483646"),
    "contradiction": (npy([[0, 0, 1], [0, 0, 0]]), 2, "label 0", "1 as in an earlier line"),
    "objects": (npy(np.array([[0, "x", None]], dtype=object)), None, "no NumPy", "an integer"),
}


@pytest.mark.parametrize(
    ("content", "line", "found", "expected"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys()
)
def test_bad_arrays(content, line, found, expected, write):
    folder = write({"ratings_final.npy": content, "kg_final.txt": KG})
    check_message(folder, "ratings_final.npy", line, found, expected)


@pytest.mark.parametrize(
    ("content", "line", "found", "expected"),
    [
        ("", None, "no rows", "rows of head, relation, tail"),
        ("0\t0\t3\n0\tstar\t3\n", 2, "relation 'star'", "a whole number from 0"),
        ("0\t0\t3\n0\t0\n", 2, "2 columns", "3 (head, relation, tail)"),
        ("0\t0\t3\n0\t0\t-1\n", 2, "tail '-1'", "a whole number from 0"),
    ],
    ids=["empty", "word", "short", "negative"],
)
def test_bad_graph(content, line, found, expected, write):
    folder = write({"ratings_final.txt": RATINGS, "kg_final.txt": content})
    check_message(folder, "kg_final.txt", line, found, expected)


@pytest.mark.parametrize(
    ("file", "content", "line", "found"),
    [
        ("item_names.txt", "0\tone\nx\ttwo\n", 2, "'x\\ttwo'"),
        ("item_names.txt", "0\tone\n7\ttwo\n", 2, "'7\\ttwo'"),
        ("item_names.txt", "\u0660\tone\n", 1, "one"),
        ("item_names.txt", "0\tone\n0\tone\n0\ttwo\n", 3, "'0\\ttwo'"),
        ("item_names.txt", b"0\tAm\xe9lie\n", 1, "\\xe9"),
        ("relations.txt", "one\n", None, "1 names"),
    ],
)
def test_bad_names(file, content, line, found, write):
    folder = write({"ratings_final.txt": RATINGS, "kg_final.txt": KG, file: content})
    check_message(folder, file, line, found, "")


def test_relations_without_a_graph_name_the_file_that_is_missing(write):
    folder = write({"ratings_final.txt": RATINGS, "relations.txt": "genre\n"})
    found = "1 names of relations, but no graph"
    check_message(folder, "relations.txt", None, found, "kg_final.npy or kg_final.txt beside it")


def test_missing_file_lists_the_names_looked_for(write):
    folder = write({"kg_final.txt": KG})
    with pytest.raises(DataError, match=r"found none of ratings_final\.npy, ratings_final\.txt"):
        load_dataset(str(folder))


def test_error_is_one_line_and_short(write):
    folder = write({"ratings_final.txt": "0\t0\t" + "9" * 5000 + "\n", "kg_final.txt": KG})
    with pytest.raises(EkpnetError) as caught:
        load_dataset(str(folder))
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 + len(str(folder))


def check_message(folder, file, line, found, expected):
    with pytest.raises(DataError) as caught:
        load_dataset(str(folder))
    message = str(caught.value)
    place = f"{folder / file}, line {line}: " if line else f"{folder / file}: "
    assert message.startswith(place)
    assert "\n" not in message
    assert found in message and expected in message
