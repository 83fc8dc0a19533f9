"""Files of every kind that people bring: what is read of them, or the line that is said."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from contextlib import suppress

import pytest
from backports import zstd

from ekpnet_fast.data import load_dataset
from ekpnet_fast.data.__main__ import main
from ekpnet_fast.data.importing.importer import (
    UnfitDataError,
    import_bounded_dataset,
    import_dataset,
)
from ekpnet_fast.errors import ConfigError, DataError, EkpnetError
from support import parquet

ROWS = [(f"u{u}", f"b{(u * 3 + 2 * n) % 10}", (u + n) % 5 + 1) for u in range(14) for n in range(4)]
TRIPLES = [
    *((f"b{n}", "written by", f"author{n % 3}") for n in range(10)),
    *((f"b{n}", "is about", f"topic{n % 4}") for n in range(10)),
]


def lines(rows, separator=",", header=("user", "item", "rating"), end="\n"):
    texts = [separator.join(map(str, row)) for row in ([header, *rows] if header else rows)]
    return end.join(texts) + end


@pytest.fixture
def take(write, tmp_path):
    """Import a file of interactions, or other files by their options, beside usual ones."""
    count = iter(range(100))

    def imported(name="buy.csv", content=None, **more):
        graph = tmp_path / "kg.parquet"
        if not graph.exists():
            parquet.write_rows(
                graph, {"head": "VARCHAR", "relation": "VARCHAR", "tail": "VARCHAR"}, TRIPLES
            )
        if content is not None:
            write({name: content})
        elif not (tmp_path / name).exists():
            write({name: lines(ROWS)})
        given = {"interactions": tmp_path / name, "kg": graph, **more}
        return import_dataset(tmp_path / f"out{next(count)}", **given)

    return imported


def said(dataset):
    """Clicks in the words of the files, with ratings where there are any."""
    clicks = dataset.interactions
    users = [dataset.user_ids[u] for u in clicks.users.tolist()]
    items = [dataset.item_ids[i] for i in clicks.items.tolist()]
    more = [] if clicks.ratings is None else [clicks.ratings.tolist()]
    return set(zip(users, items, *more, strict=True))


PLAIN = lines(ROWS)
PLACES = {"user": "1", "item": "2", "rating": "3"}
SPELLINGS = {
    "commas": ("buy.csv", PLAIN, {}),
    "semicolons": ("buy.csv", lines(ROWS, ";"), {}),
    "tabs": ("buy.tsv", lines(ROWS, "\t"), {}),
    "bars": ("buy.txt", lines(ROWS, "|"), {}),
    "colons": ("buy.dat", lines(ROWS, "::"), {}),
    "blanks": ("buy.txt", lines(ROWS, " "), {}),
    "runs of blanks": ("buy.txt", lines(ROWS, "   "), {}),
    "told": ("buy.csv", lines(ROWS, "^"), {"separator": "^"}),
    "told in a word": ("buy.csv", lines(ROWS, "\t"), {"separator": "tab"}),
    "no header": ("buy.csv", lines(ROWS, header=None), {}),
    "no header, told": ("buy.csv", lines(ROWS, header=None), {"header": False}),
    "other names": ("buy.csv", lines(ROWS, header=("wer", "was", "wie")), {"columns": PLACES}),
    "other names, told": (
        "buy.csv",
        lines(ROWS, header=("w1", "w2", "w3")),
        {"header": True, "columns": PLACES},
    ),
    "crlf": ("buy.csv", lines(ROWS, end="\r\n"), {}),
    "cr": ("buy.csv", lines(ROWS, end="\r"), {}),
    "mixed ends": ("buy.csv", PLAIN.replace("\n", "\r\n", 9), {}),
    "no last end": ("buy.csv", PLAIN.rstrip("\n"), {}),
    "blank lines": ("buy.csv", "\n\n" + PLAIN.replace("\n", "\n\n", 3) + "\n  \n", {}),
    "lines of tabs": ("buy.tsv", lines(ROWS, "\t").replace("\n", "\n\t\t\n", 2), {}),
    "byte order mark": ("buy.csv", "\ufeff" + PLAIN, {}),
    "utf-16": ("buy.csv", PLAIN.encode("utf-16"), {}),
    "utf-16, told": ("buy.csv", PLAIN.encode("utf-16"), {"encoding": "utf-16"}),
    "utf-16-be, told": ("buy.csv", PLAIN.encode("utf-16-be"), {"encoding": "utf-16-be"}),
    "utf-32": ("buy.csv", PLAIN.encode("utf-32"), {}),
    "sep=": ("buy.csv", "sep=;\n" + lines(ROWS, ";"), {}),
    "sep= a tab": ("buy.csv", "sep=\t\n" + lines(ROWS, "\t"), {}),
    "comment of KONECT": ("out.buy", "% bip weighted\n% 56 14 10\n" + PLAIN, {}),
    "comment": ("buy.csv", '# from "here", today\n#\n' + PLAIN, {}),
    "comment that names": ("buy.csv", "# " + PLAIN, {}),
    "quotes": ("buy.csv", lines([(f'"{u}"', f'"{i}"', f'"{r}"') for u, i, r in ROWS]), {}),
    "quotes and tabs": (
        "buy.tsv",
        lines(
            [(f'"{u}"', f'"{i}"', r) for u, i, r in ROWS], "\t", ('"user"', '"item"', '"rating"')
        ),
        {},
    ),
    "gzip": ("buy.csv.gz", gzip.compress(PLAIN.encode()), {}),
    "gzip by another name": ("buy.csv", gzip.compress(PLAIN.encode()), {}),
    "gzip of two members": ("buy", b"".join(gzip.compress(x.encode()) for x in (PLAIN, "\n")), {}),
    "bzip2": ("buy.csv.bz2", bz2.compress(PLAIN.encode()), {}),
    "xz": ("buy.csv.xz", lzma.compress(PLAIN.encode()), {}),
    "zstd": ("buy.csv.zst", zstd.compress(PLAIN.encode()), {}),
    "json lines": (
        "buy.jsonl",
        "".join(json.dumps({"user": u, "item": i, "rating": r}) + "\n" for u, i, r in ROWS),
        {},
    ),
    "json": (
        "buy.json",
        json.dumps([{"user": u, "item": i, "rating": r} for u, i, r in ROWS]),
        {},
    ),
    "json lines by another name": (
        "buy.csv",
        "".join(json.dumps({"user": u, "item": i, "rating": f" {r}.0"}) + "\n" for u, i, r in ROWS),
        {},
    ),
    "json over lines by another name": (
        "buy",
        json.dumps([{"user": u, "item": i, "rating": r} for u, i, r in ROWS], indent=1),
        {},
    ),
    "other columns of one name": (
        "buy.csv",
        lines([(*row, 1, 2) for row in ROWS], header=("user", "item", "rating", "x", "x")),
        {},
    ),
    "long field": (
        "buy.csv",
        lines([(*row, "x" * 3_000_000 * (n == 7)) for n, row in enumerate(ROWS)], header=None),
        {},
    ),
    "places": ("buy.csv", PLAIN, {"columns": PLACES}),
    "a name that is a number": (
        "buy.csv",
        lines([(r, u, i) for u, i, r in ROWS], header=("2", "3", "1")),
        {"columns": {"user": "2", "item": "3", "rating": "1"}, "header": True},
    ),
}


@pytest.mark.parametrize(("name", "content", "more"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_of_the_same_table(name, content, more, take):
    done = take(name, content, **more)
    assert said(done.dataset) == set(ROWS)
    assert done.report.files[0]["rows"] == len(ROWS)
    assert done.dataset.num_items == 10 and done.dataset.num_users == 14


@pytest.mark.parametrize("field", ["user", "\ud800"])
def test_half_a_surrogate_pair_in_json(field, take):
    rows = [{"user": "a", "item": f"b{n}", field: "\udc00"} for n in range(9)]
    text = "\n".join(map(json.dumps, rows))
    with pytest.raises(DataError, match=r"line 1: found half of a surrogate pair"):
        take("buy.jsonl", text)


def test_a_name_that_is_no_text(take, tmp_path):
    """The report names the file, and can be read again."""
    name = os.fsdecode(b"buy\xff.csv")
    (tmp_path / name).write_text(PLAIN)
    take(name)
    assert load_dataset(str(tmp_path / "out0")).num_users == 14


@pytest.mark.parametrize(
    "name",
    ["a[1].csv", "a*b.csv", "a?.csv", "{a,b}.csv", "it's.csv", 'q".csv', "a%20b.csv", "-.csv"],
)
def test_a_name_is_no_pattern(name, take, write, tmp_path):
    decoys = {other: "user,item,rating\nwrong,b0,1\n" for other in ("a1.csv", "axb.csv", "a.csv")}
    write({f"[x]/{other}": text for other, text in decoys.items()} | decoys)
    assert said(take(name).dataset) == set(ROWS)
    done = take(f"[x]/{name}", lines(ROWS))
    assert said(done.dataset) == set(ROWS)


TITLES = {
    "colons over bars": (
        "movies.dat",
        "".join(f"b{n}::Film {n}::Action|Comedy|War\n" for n in range(10)),
        "Film 3",
    ),
    "tab over commas": (
        "names.tsv",
        "".join(f"b{n}\tThe Fox, the Hen, part {n}\n" for n in range(10)),
        "The Fox, the Hen, part 3",
    ),
    "tab over commas in a .txt": (
        "names.txt",
        "".join(f"b{n}\tThe Fox, the Hen, part {n}\n" for n in range(10)),
        "The Fox, the Hen, part 3",
    ),
    "quoted tabs": (
        "books.tsv",
        '"id"\t"title"\n' + "".join(f'"b{n}"\t"Book ""{n}"""\n' for n in range(10)),
        'Book "3"',
    ),
    "bare quotes and tabs": (
        "books.tsv",
        "id\ttitle\n" + "".join(f'b{n}\t"Book" {n}\n' for n in range(10)),
        '"Book" 3',
    ),
    "bare quotes and commas": (
        "books.csv",
        "id,title\n" + "".join(f'b{n},Disk of 5" {n}\n' for n in range(10)),
        'Disk of 5" 3',
    ),
    "line ends in quotes": (
        "books.csv",
        "id,title\n" + "".join(f'b{n},"Two\nlines, {n}"\n' for n in range(10)),
        "Two\nlines, 3",
    ),
}


@pytest.mark.parametrize(("name", "content", "title"), TITLES.values(), ids=TITLES.keys())
def test_names_of_items(name, content, title, take, write, tmp_path):
    write({name: content})
    data = take(items=tmp_path / name).dataset
    assert data.num_items == 10 and data.item_names[data.item_ids.index("b3")] == title


def test_ids_of_which_only_some_are_numbers_are_no_header(take, tmp_path):
    isbn = {f"b{n}": f"{n}234567890" if n else "034545104X" for n in range(10)}
    rows = [(f"{200 + int(u[1:])}", isbn[i]) for u, i, _ in ROWS]
    graph = [(isbn[h], r, t) for h, r, t in TRIPLES]
    (tmp_path / "graph.csv").write_text(lines(graph, header=("head", "relation", "tail")))
    done = take("clicks.txt", lines(rows, ";", None), kg=tmp_path / "graph.csv")
    assert done.report.files[0]["rows"] == len(ROWS) and "no header" in done.report.files[0]["form"]
    assert said(done.dataset) == set(rows)


def test_relations_called_like_columns_are_no_header(take, tmp_path):
    rows = [("b0", "type", "author0"), *((h, "type", t) for h, _, t in TRIPLES[1:])]
    (tmp_path / "bare.csv").write_text(lines(rows, header=None))
    assert take(kg=tmp_path / "bare.csv").dataset.num_triples == len(rows)


def test_ids_stay_as_they_are_written(take, tmp_path):
    ids = ["007", "7", "-3", "1e5", "12345678901234567890123", "1.0", "NA", "nan", "null", "é😀"]
    change = dict(zip((f"b{n}" for n in range(10)), ids, strict=True))
    rows = [(u, change[i], r) for u, i, r in ROWS]
    (tmp_path / "graph.csv").write_text(
        lines([(change[h], r, t) for h, r, t in TRIPLES], header=("head", "relation", "tail"))
    )
    done = take(content=lines(rows), kg=tmp_path / "graph.csv")
    assert {*done.dataset.item_ids} == {*ids} and said(done.dataset) == set(rows)
    keyed = "".join(json.dumps({"user": u, "item": i, "rating": r}) + "\n" for u, i, r in rows)
    assert said(take("b.jsonl", keyed, kg=tmp_path / "graph.csv").dataset) == set(rows)


@pytest.mark.parametrize("memory", [None, "1GB"])
@pytest.mark.parametrize(
    ("before", "after"),
    [("u", " "), ("u", "\u200b"), ("u", "\u00a0"), ("00", ""), ("", ".0")],
    ids=["blank", "unseen", "hard blank", "zeros", "fraction"],
)
def test_ids_that_look_alike_are_told(before, after, memory, take, write, tmp_path):
    take()
    bare = "u" if before == "u" else ""
    rows = [
        (f"{before}{u[1:]}{after}" if n % 2 else bare + u[1:], i, r)
        for n, (u, i, r) in enumerate(ROWS)
    ]
    write({"alike.csv": lines(rows)})
    read, bound = (
        (import_dataset, {}) if memory is None else (import_bounded_dataset, {"memory": memory})
    )
    done = read(
        tmp_path / "alike",
        interactions=tmp_path / "alike.csv",
        kg=tmp_path / "kg.parquet",
        threshold=0,
        **bound,
    )
    name = "users that differ by blanks, case or zeros alone"
    found = {f.name: f for f in done.report.findings}[name]
    first, second = f"{bare}0", f"{before}0{after}"
    assert found.count == 14 and f"{first!r} and {second!r}" in found.meaning


def test_names_of_strangers_stop(take, write, tmp_path):
    write({"names.csv": "id,title\n" + "".join(f"B{n},Book\n" for n in range(10))})
    with pytest.raises(UnfitDataError, match=r"no id of --items in the interactions.*as one") as at:
        take(items=tmp_path / "names.csv")
    assert at.value.forceable


def test_several_files_and_folders_are_one_table(take, write, tmp_path):
    write({"x.1.csv": lines(ROWS[:20]), "x.2.tsv": lines(ROWS[20:], "\t")})
    done = take(interactions=[tmp_path / "x.1.csv", tmp_path / "x.2.tsv"])
    assert said(done.dataset) == set(ROWS) and len(done.report.files) == 3
    atomic = ("user_id:token", "item_id:token", "rating:float")
    parts = {"train": ROWS[:30], "valid": ROWS[30:40], "test": ROWS[40:]}
    write({f"x.{part}.inter": lines(rows, "\t", atomic) for part, rows in parts.items()})
    assert said(take(interactions=[tmp_path / f"x.{p}.inter" for p in parts]).dataset) == set(ROWS)
    types = {"user": "VARCHAR", "item": "VARCHAR", "rating": "BIGINT"}
    spark = tmp_path / "spark"
    spark.mkdir()
    for number in range(2):
        parquet.write_rows(spark / f"part-{number}.parquet", types, ROWS[number::2])
    write({"spark/_SUCCESS": "", "spark/.part-0.parquet.crc": "x"})
    assert said(take(interactions=spark).dataset) == set(ROWS)
    for stars in range(1, 6):
        place = tmp_path / "hive" / f"rating={stars}"
        place.mkdir(parents=True)
        rows = [row[:2] for row in ROWS if row[2] == stars]
        parquet.write_rows(place / "0.parquet", {"user": "VARCHAR", "item": "VARCHAR"}, rows)
    assert said(take(interactions=tmp_path / "hive").dataset) == set(ROWS)
    write({"y.csv": lines([row[:2] for row in ROWS], header=("user", "item"))})
    with pytest.raises(DataError, match=r"y.csv: found columns for user, item, expected user"):
        take(interactions=[tmp_path / "x.1.csv", tmp_path / "y.csv"])


def test_a_clash_is_said_of_its_file(take, write, tmp_path):
    head = ("user", "item", "label")
    write({"a.csv": lines([("u", "b1", 1)], header=head)})
    write({"b.csv": lines([("u", "b2", 1), ("u", "b1", 0)], header=head)})
    with pytest.raises(DataError, match=r"b.csv, line 3: found label 0 for user u, item b1"):
        take(interactions=[tmp_path / "a.csv", tmp_path / "b.csv"])


CLICKS = lines([row[:2] for row in ROWS], header=("user", "item"))
KEYED = "".join(json.dumps({"user": u, "item": i, "rating": r}) + "\n" for u, i, r in ROWS)
BAD = {
    "short": (PLAIN + "u1,b1\n", {}, 58, "2 columns in 'u1,b1'", "3 (user, item, rating)"),
    "long": (PLAIN + "u1,b1,1,1\n", {}, 58, "4 columns", "3 (user"),
    "total": (PLAIN + "TOTAL,,\n", {}, 58, "item ''", "text"),
    "blank id": (PLAIN + "  ,b1,1\n", {}, 58, "user ' '", "text"),
    "open quote": (PLAIN + '"u1,b1,1\n', {}, 58, "no CSV", "CSV"),
    "nan": (PLAIN + "u1,b1,nan\n", {}, 58, "rating 'nan'", "a finite number"),
    "infinite": (PLAIN + "u1,b1,1e400\n", {}, 58, "rating '1e400'", "a finite number"),
    "decimal comma": (lines(ROWS, ";") + "u1;b1;4,5\n", {}, 58, "rating '4,5'", "a finite number"),
    "underscore": (PLAIN + "u1,b1,1_0\n", {}, 58, "rating '1_0'", "a finite number"),
    "hexadecimal": (PLAIN + "u1,b1,0x10\n", {}, 58, "rating '0x10'", "a finite number"),
    "latin-1": (PLAIN.encode() + b"u\xe9,b1,1\n", {}, 58, "\\xe9", "--encoding"),
    "ascii": (PLAIN + "é,b1,1\n", {"encoding": "ascii"}, 58, "\\xc3", "ASCII text"),
    "utf-16 without mark": (PLAIN.encode("utf-16-le"), {}, 1, "zero bytes", "--encoding utf-16-le"),
    "a zero byte": (PLAIN.replace("u3,", "u\0,", 1), {}, 14, "a zero byte", "UTF-8 text"),
    "a CR in a line": (PLAIN.replace("u3,", "u\r,", 1), {}, 14, "a CR inside", "of one kind"),
    "half utf-16": (PLAIN.encode("utf-16")[:-1], {}, 57, "", "UTF-16"),
    "after blank lines": ("\n\n" + PLAIN + "\nu1,b1\n", {}, 61, "2 columns", "3 ("),
    "separators alone": (PLAIN + ",,\n", {}, 58, "user ''", "text"),
    "after quoted lines": (PLAIN + '"a\nb",b1,1\nu1,b1\n', {}, 60, "2 columns", "3 ("),
    "empty": ("", {}, None, "no rows", "rows of interactions"),
    "blank": ("\n \n", {}, None, "no rows", "rows of interactions"),
    "header alone": ("user,item,rating\n", {}, None, "no rows", "user, item"),
    "title above": ("My export\n" + PLAIN, {}, 1, "1 column in 'My export'", "3 as in the lines"),
    "twice": (PLAIN.replace("rating", "item", 1), {}, 1, "column 'item' twice", "distinct"),
    "alike": (PLAIN.replace("rating", "User", 1), {}, 1, "columns 'user' and 'User'", "--user"),
    "header again": (CLICKS + CLICKS, {}, 58, "the header once more", "each file by itself"),
    "idna": ("é" + PLAIN, {"encoding": "idna"}, 1, "\\xc3\\xa9user", "IDNA text"),
    "a quote that ends early": (PLAIN + '"u1"x,b1,1\n', {}, 58, "no CSV", "CSV"),
    "cut gzip": (gzip.compress(PLAIN.encode())[:-9], {}, None, "damaged gzip data", "can be read"),
    "gzip, one byte": (b"\x1f\x8b", {}, None, "damaged gzip data", "can be read"),
    "cut bzip2": (bz2.compress(PLAIN.encode())[:-9], {}, None, "damaged bzip2 data", "can be read"),
    "cut xz": (lzma.compress(PLAIN.encode())[:-9], {}, None, "damaged xz data", "can be read"),
    "cut zstd": (zstd.compress(PLAIN.encode())[:-9], {}, None, "damaged zstd data", "can be read"),
    "Excel": (b"PK\x03\x04rest", {}, None, "a zip file, perhaps an Excel one", "text, such as CSV"),
    "cut Parquet": (b"PAR1 and nothing", {}, None, "a damaged file", "a Parquet file"),
}


@pytest.mark.parametrize(
    ("content", "more", "line", "found", "expected"), BAD.values(), ids=BAD.keys()
)
def test_what_cannot_be_read_is_said_with_its_line(content, more, line, found, expected, take):
    with pytest.raises(DataError) as caught:
        take("bad.csv", content, **more)
    message = str(caught.value)
    assert f"bad.csv, line {line}: " in message if line else "bad.csv: " in message
    assert found in message and expected in message and len(message) < 500


BAD_JSON = {
    "a name twice": ('{"user": "u1", "user": "u2", "item": "b1"}', "'user' twice", "distinct"),
    "other digits": (
        '{"user": "u1", "item": "b1", "rating": "\u0661"}',
        "rating '\u0661'",
        "finite",
    ),
    "deep": ('{"user": ' + "[" * 100_000, "nested too deep", "an object a line"),
    "a list": ('{"user": ["u1"], "item": "b1"}', "user \"['u1']\"", "text or a whole number"),
    "a fraction": ('{"user": 1e5, "item": "b1"}', "user '1e5'", "text or a whole number"),
}


@pytest.mark.parametrize(("line", "found", "expected"), BAD_JSON.values(), ids=BAD_JSON.keys())
def test_json_that_cannot_be_taken(line, found, expected, take):
    with pytest.raises(DataError) as caught:
        take("bad.jsonl", KEYED + line + "\n")
    assert "bad.jsonl, line 57: found " in str(caught.value)
    assert found in str(caught.value) and expected in str(caught.value)


def test_a_name_that_is_too_long(take, tmp_path):
    with pytest.raises(DataError, match="x: found File name too long, expected a file of"):
        take(kg=tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    "more",
    [
        *({"encoding": name} for name in ("utf8mb4", "hex", "rot13", "undefined", "", "a\0b")),
        *({"separator": mark} for mark in ("", '"', "\n", "12345", "\0")),
        *({"threshold": value} for value in (float("nan"), float("inf"))),
    ],
    ids=repr,
)
def test_options_that_cannot_be(more, take):
    with pytest.raises(ConfigError, match=f"--{next(iter(more))}: found .*expected"):
        take(**more)


DOUBLES = {
    "beyond 2^53": ("(76561197960265729 + 2 * u)::DOUBLE", 1, "ids below 9,007,199,254,740,992"),
    "nan": ("CASE u WHEN 3 THEN 'nan'::DOUBLE ELSE u END", 4, "ids, whole numbers or text"),
    "infinite": ("CASE u WHEN 3 THEN '-inf'::DOUBLE ELSE u END", 4, "ids, whole numbers or text"),
    "fraction": ("u + 0.5::DOUBLE", 1, "ids, whole numbers or text"),
    "float": ("(16777216 + u)::FLOAT", 1, "ids below 16,777,216"),
    "null": ("CASE u WHEN 3 THEN NULL ELSE u::DOUBLE END", 4, "text or a number"),
    "list": ("[u]", None, "text or a number"),
}


@pytest.mark.parametrize(("user", "line", "expected"), DOUBLES.values(), ids=DOUBLES.keys())
def test_ids_of_parquet_that_are_none(user, line, expected, take, tmp_path):
    parquet.write(
        tmp_path / "buy.parquet",
        f"SELECT {user} AS user, 'b' || (u % 10) AS item FROM range(14) t(u)",
    )
    with pytest.raises(DataError) as caught:
        take("buy.parquet")
    place = f"buy.parquet, line {line}: found user" if line else "buy.parquet: found column user"
    assert place in str(caught.value) and expected in str(caught.value)


@pytest.mark.parametrize("label", ["0.7", "2", "-1", "'nan'::DOUBLE", "NULL::DOUBLE", "'x'"])
def test_labels_of_parquet_that_are_none(label, take, tmp_path):
    parquet.write(
        tmp_path / "buy.parquet",
        f"SELECT u AS user, 'b' || (u % 10) AS item, {label} AS label FROM range(14) t(u)",
    )
    with pytest.raises(DataError, match=r"buy.parquet, line 1: found label .*expected 0 or 1"):
        take("buy.parquet")


def test_types_of_parquet_that_are_read(take, tmp_path):
    parquet.write(
        tmp_path / "buy.parquet",
        "SELECT (18446744073709551615 - u)::UBIGINT AS user, ('b' || ((u + i) % 10))::ENUM ("
        + ", ".join(f"'b{n}'" for n in range(10))
        + ") AS item, ((u + i) % 5)::DECIMAL(4, 1) AS rating, [1] AS tags"
        " FROM range(14) t(u), range(4) s(i)",
    )
    data = take("buy.parquet").dataset
    assert data.user_ids[0] == "18446744073709551615" and len(data.interactions) == 56


@pytest.mark.slow
def test_damaged_parquet_never_ends_the_process(take, tmp_path):
    types = {"user": "VARCHAR", "item": "VARCHAR", "rating": "DOUBLE"}
    parquet.write_rows(tmp_path / "buy.parquet", types, ROWS)
    whole = (tmp_path / "buy.parquet").read_bytes()
    for place in range(0, len(whole), 13):
        damaged = whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        (tmp_path / "buy.parquet").write_bytes(damaged)
        with suppress(EkpnetError):
            take_again(tmp_path)


def take_again(folder):
    return import_dataset(
        folder / "again",
        interactions=folder / "buy.parquet",
        kg=folder / "kg.parquet",
        force=True,
        overwrite=True,
    )


NT = "".join(
    f"<http://x/{h}> <http://x/{r.replace(' ', '_')}> <http://x/{t}> .\n" for h, r, t in TRIPLES
)
LABEL = '<http://x/b0> <http://www.w3.org/2000/01/rdf-schema#label> "{}"@en .\n'
TTL = "@prefix x: <http://x/> .\n" + "".join(
    f"x:{h} x:{r.replace(' ', '_')} x:{t} .\n" for h, r, t in TRIPLES
)
XML = (
    '<?xml version="1.0"?>\n<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    ' xmlns:x="http://x/">\n'
    + "".join(
        f'<rdf:Description rdf:about="http://x/{h}"><x:{r.replace(" ", "_")}'
        f' rdf:resource="http://x/{t}"/></rdf:Description>\n'
        for h, r, t in TRIPLES
    )
    + "</rdf:RDF>\n"
)
GRAPHS = {
    "N-Triples": ("kg.nt", NT, "N-Triples"),
    "N-Triples without an ending": ("kg", "# made today\n" + NT, "N-Triples"),
    "N-Triples as text": ("kg.txt", NT.replace("> <", ">\t<"), "N-Triples"),
    "gzip": ("kg.nt.gz", gzip.compress(NT.encode()), "N-Triples"),
    "bzip2": ("kg.nt.bz2", bz2.compress(NT.encode()), "N-Triples"),
    "zstd": ("kg.nt.zst", zstd.compress(NT.encode()), "N-Triples"),
    "gzip by another name": ("kg.nt", gzip.compress(NT.encode()), "N-Triples"),
    "N-Triples with a byte order mark": ("kg.nt", "\ufeff" + NT, "N-Triples"),
    "N-Quads": ("kg.nq", NT.replace(" .", " <http://x/g> ."), "N-Quads"),
    "N-Quads as text": ("kg.txt", NT.replace(" .", " <http://x/g> ."), "N-Quads"),
    "Turtle": ("kg.ttl", TTL, "Turtle"),
    "Turtle with a byte order mark": ("kg.txt", "\ufeff" + TTL, "Turtle"),
    "Turtle as text": ("kg.txt", TTL, "Turtle"),
    "TriG": ("kg.trig", TTL.replace("x:b0", "x:g { x:b0", 1) + "}", "TriG"),
    "RDF/XML": ("kg.rdf", XML, "RDF/XML"),
    "RDF/XML as .xml": ("kg.xml", XML, "RDF/XML"),
}


@pytest.mark.parametrize(("name", "content", "form"), GRAPHS.values(), ids=GRAPHS.keys())
def test_every_spelling_of_the_same_graph(name, content, form, take, write, tmp_path):
    write({name: content})
    rows = [(u, f"http://x/{i}", r) for u, i, r in ROWS]
    done = take(content=lines(rows), kg=tmp_path / name)
    data = done.dataset
    assert done.report.files[1]["form"] == form
    facts = zip(data.heads.tolist(), data.relations.tolist(), data.tails.tolist(), strict=True)
    ids = data.entity_ids
    assert {(ids[h], data.relation_ids[r], ids[t]) for h, r, t in facts} == {
        (f"http://x/{h}", f"http://x/{r.replace(' ', '_')}", f"http://x/{t}") for h, r, t in TRIPLES
    }


BAD_GRAPHS = {
    "illegal IRI": ("<http://x/b0> <http://x/p> <http://x/a|b> .\n", "<http://x/a|b>"),
    "half an escape": (LABEL.format(r"\uD83D"), "uD83D"),
    "beyond": (LABEL.format(r"\UFFFFFFFF"), "UFFFFFFFF"),
    "no triple": ('<http://x/b0> "text" <http://x/b1> .\n', "text"),
    "not UTF-8": (LABEL.format("é").encode("latin-1"), "UTF-8"),
}


@pytest.mark.parametrize(("line", "shown"), BAD_GRAPHS.values(), ids=BAD_GRAPHS.keys())
def test_a_graph_is_refused_with_the_line_or_read_leniently(line, shown, take, write, tmp_path):
    raw = line.encode() if isinstance(line, str) else line
    write({"kg.nt": NT.encode() + raw + b"<http://x/b0> <http://x/p> <http://x/last> .\n"})
    rows = lines([(u, f"http://x/{i}", r) for u, i, r in ROWS])
    with pytest.raises(DataError, match=r"kg.nt, line 21: found .*--lenient") as caught:
        take(content=rows, kg=tmp_path / "kg.nt")
    assert shown in str(caught.value)
    done = take(content=rows, kg=tmp_path / "kg.nt", lenient=True)
    assert "http://x/last" in done.dataset.entity_ids
    left_out = [note for note in done.dataset.notes if "could not be read" in note]
    assert left_out or shown in ("<http://x/a|b>", "UTF-8")
    if left_out:
        assert left_out == ["1 places that could not be read, left out, such as"]
        assert any("line 21" in note for note in done.dataset.notes)


def test_a_literal_may_hold_control_characters(take, write, tmp_path):
    write({"kg.nt": NT + LABEL.format("a\x01b")})
    rows = lines([(u, f"http://x/{i}", r) for u, i, r in ROWS])
    data = take(content=rows, kg=tmp_path / "kg.nt").dataset
    assert data.entity_names[data.entity_ids.index("http://x/b0")] == "a\x01b"


def test_the_folder_may_come_last(take, tmp_path, capsys):
    take()
    words = [
        "import",
        "--interactions",
        str(tmp_path / "buy.csv"),
        "--kg",
        str(tmp_path / "kg.parquet"),
    ]
    assert main([*words, str(tmp_path / "last")]) == 0
    assert (tmp_path / "last" / "dataset.json").is_file()
    assert main([*words, str(tmp_path / "no"), "--header", "no"]) == 2
    assert "line 1: found column 3 'rating'" in capsys.readouterr().err
    assert main(words) == 2
    assert "found no folder to write" in capsys.readouterr().err
