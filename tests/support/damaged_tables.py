"""Small data sets in every format that is read, and ways to damage their text or their bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from backports import zstd
from hypothesis import strategies as st

from support import parquet
from support.fuzzing import damage

ROWS = [(u, (u * 3 + 2 * n) % 10, (u + n) % 2) for u in range(8) for n in range(4)]
TRIPLES = [(n, n % 2, 10 + n % 3) for n in range(10)]

TOKENS = (
    *(b"", b"-1", b"0", b"00", b"007", b"1.0", b"1e5", b"1_0", b"+1", b"0x1", b"nan", b"NaN"),
    *(b"inf", b"-inf", b"1e400", b"2147483646", b"2147483647", b"4294967296", b"9" * 400),
    *(b"\xff\xfe", b"\x00", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xd9\xa1", b"\xe2\x80\xa8"),
    *(b'"', b'"a', b'a"b', b"'", b"\\", b"\\N", b"a,b", b"a\tb", b"a;b", b"a|b", b"a::b"),
    *(b"a\nb", b"a\rb", b"\n\n", b"\r", b"#", b"sep=;", b"NULL", b"None", b"true", b" ", b" 1"),
    *(b"[b]", b"<script>", b"\x1b[31m", b"{}", b"[]", b"null", b"{", b"}", b"x" * 3000),
    *(b"<http://e.example/ x>", b'"\\uD800"', b'"\\UFFFFFFFF"', b'"x"@en', b"_:b", b"."),
)  # fmt: skip


def table(rows: list[tuple[object, ...]], separator: str = ",", *header: str) -> bytes:
    """Rows as text, after a header if there is one."""
    lines = [separator.join(map(str, row)) for row in ([header, *rows] if header else rows)]
    return ("\n".join(lines) + "\n").encode()


def array(rows: list[tuple[int, ...]]) -> bytes:
    """Rows as a file of NumPy."""
    file = io.BytesIO()
    np.save(file, np.array(rows))
    return file.getvalue()


def json_lines(rows: list[tuple[object, ...]], *names: str) -> bytes:
    """Rows as JSON, one a line."""
    lines = (json.dumps(dict(zip(names, row, strict=True))) for row in rows)
    return ("\n".join(lines) + "\n").encode()


def kgat(rows: list[tuple[int, int, int]]) -> bytes:
    """A user and its items a line."""
    lists: dict[int, list[int]] = {}
    for user, item, _ in rows:
        lists.setdefault(user, []).append(item)
    return table([(user, *items) for user, items in lists.items()], " ")


def columnar(folder: Path, types: dict[str, str], rows: list[tuple[object, ...]]) -> bytes:
    """Rows as Parquet."""
    path = folder / "made.parquet"
    parquet.write_rows(path, types, rows)
    return path.read_bytes()


def folders() -> dict[str, dict[str, bytes]]:
    """Folders that `load_dataset` reads, by format."""
    names = [(n, f"Name {n}") for n in range(10)]
    links, clicks = [(n, n) for n in range(10)], [(u, i, y * 5) for u, i, y in ROWS]
    named = [(h, f"r{r}", t) for h, r, t in TRIPLES]
    inter = ("user_id:token", "item_id:token", "rating:float")
    atoms = {
        "x.kg": table(named, "\t", "head_id:token", "relation_id:token", "tail_id:token"),
        "x.link": table(links, "\t", "item_id:token", "entity_id:token"),
    }
    parts = {"train": ROWS[:20], "valid": ROWS[20:26], "test": ROWS[26:]}
    raw = {"kg.txt": table(named, "\t"), "item_index2entity_id.txt": table(links, "\t")}
    quoted = [(f'"{u}"', f'"{i}"', f'"{r}"') for u, i, r in clicks]
    return {
        "final text": {
            "ratings_final.txt": table(ROWS, "\t"),
            "kg_final.txt": table(TRIPLES, "\t"),
            "item_names.txt": table(names, "\t"),
            "relations.txt": b"one\ntwo\n",
        },
        "final arrays": {"ratings_final.npy": array(ROWS), "kg_final.npy": array(TRIPLES)},
        "kgat": {
            "train.txt": kgat(ROWS[:20]),
            "test.txt": kgat(ROWS[20:]),
            "kg_final.txt": table(TRIPLES, " "),
            "item_list.txt": table([(f"b{n}", n) for n in range(10)], " ", "org_id", "remap_id"),
        },
        "recbole": {
            "x.inter": table(clicks, "\t", *inter),
            "x.item": table(
                [(n, f"N {n}") for n in range(10)], "\t", "item_id:token", "title:token_seq"
            ),
            **atoms,
        },
        "recbole, split": {
            **{f"x.{part}.inter": table(rows, "\t", *inter) for part, rows in parts.items()},
            **atoms,
        },
        "raw dat": {"ratings.dat": table([(*row, 1) for row in clicks], "::"), **raw},
        "raw csv": {"ratings.csv": table([(*row, 1) for row in clicks]), **raw},
        "raw books": {"BX-Book-Ratings.csv": table(quoted, ";", '"user"', '"item"', '"r"'), **raw},
        "raw artists": {"user_artists.dat": table(clicks, "\t", "user", "artist", "weight"), **raw},
    }


def imports(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Files that `import_dataset` reads, by form: which table each is of, and its content."""
    space = "http://e.example/"  # in RDF every id is an IRI
    clicks = [(f"u{u}", f"{space}b{i}", y) for u, i, y in ROWS]
    triples = [(f"b{h}", f"r{r}", f"t{t}") for h, r, t in TRIPLES]
    edges = [(space + h, r, t) for h, r, t in triples]
    roles = ("user", "item", "label")
    text = table(clicks, ",", *roles)
    nt = "".join(f"<{space}{h}> <{space}{r}> <{space}{t}> .\n" for h, r, t in triples)
    nt += f'<{space}b1> <http://www.w3.org/2000/01/rdf-schema#label> "One \\u00e9"@en .\n'
    quads = nt.replace(" .\n", f" <{space}g> .\n").encode()
    turtle = f"@prefix e: <{space}> .\n" + "".join(f"e:{h} e:{r} e:{t} .\n" for h, r, t in triples)
    xml = (
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:e="http://e.x/">'
        + "".join(
            f'<rdf:Description rdf:about="{space}{h}"><e:{r} rdf:resource="{space}{t}"/>'
            "</rdf:Description>\n"
            for h, r, t in triples
        )
        + "</rdf:RDF>\n"
    )
    types = {"user": "VARCHAR", "item": "VARCHAR", "label": "DOUBLE"}
    whole = {"user": "DOUBLE", "item": "VARCHAR", "label": "INTEGER"}
    floats = [(float(user[1:]), item, label) for user, item, label in clicks]
    names = [(f"{space}b{n}", f"Book, {n}") for n in range(10)]
    return {
        "buy.csv": ("interactions", text),
        "buy.tsv": ("interactions", table(clicks, "\t", *roles)),
        "buy.dat": ("interactions", table(clicks, "::")),
        "buy.csv.gz": ("interactions", gzip.compress(text)),
        "buy.csv.zst": ("interactions", zstd.compress(text)),
        "buy.csv.bz2": ("interactions", bz2.compress(text)),
        "buy.jsonl": ("interactions", json_lines(clicks, *roles)),
        "buy.json": (
            "interactions",
            json.dumps([dict(zip(roles, row, strict=True)) for row in clicks]).encode(),
        ),
        "buy.parquet": ("interactions", columnar(folder, types, clicks)),
        "numbers.parquet": ("interactions", columnar(folder, whole, floats)),
        "utf-16.csv": ("interactions", text.decode().encode("utf-16")),
        "kg.csv": ("kg", table(edges, ",", "head", "relation", "tail")),
        "kg.nt": ("kg", nt.encode()),
        "kg.nt.gz": ("kg", gzip.compress(nt.encode())),
        "kg.nq.zst": ("kg", zstd.compress(quads)),
        "kg.ttl": ("kg", turtle.encode()),
        "kg.rdf": ("kg", xml.encode()),
        "links.csv": ("links", table([(i, i) for i, _ in names], ",", "item", "entity")),
        "items.csv": ("items", table([(i, f'"{n}"') for i, n in names], ",", "id", "name")),
    }  # fmt: skip


@st.composite
def misspelling(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A way to put a few hostile words in the places of words of a text."""
    words = draw(
        st.lists(st.tuples(st.floats(0, 1), st.sampled_from(TOKENS)), min_size=1, max_size=3)
    )
    every = draw(st.integers(0, 7)) == 0

    def misspelt(old: bytes) -> bytes:
        for at, word in words:
            found = list(re.finditer(rb"[^\s,;:|<>\"]+", old))
            if not found:
                return old + word
            place = found[int(at * (len(found) - 1))]
            if every:
                old = old.replace(place.group(), word)
            else:
                old = old[: place.start()] + word + old[place.end() :]
        return old

    return misspelt


def damages() -> st.SearchStrategy[Callable[[bytes], bytes]]:
    """A way to damage a file: its words or its bytes."""
    return misspelling() | damage()
