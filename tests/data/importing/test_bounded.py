"""Import within a bound of memory: the same data set as the import in memory writes."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from ekpnet_fast.data import load_dataset, prepare
from ekpnet_fast.data.__main__ import main
from ekpnet_fast.data.formats import imported
from ekpnet_fast.data.formats.export import export_recbole
from ekpnet_fast.data.importing import bounded
from ekpnet_fast.data.importing.importer import (
    UnfitDataError,
    import_bounded_dataset,
    import_dataset,
)
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.sampling.graph import Graph
from support import parquet, shop
from support.places import ROOT


@pytest.fixture
def folder(write):
    return write(shop.files())


def shop_of(folder, **changes):
    names = {"interactions": "buy.csv", "kg": "kg.csv", "links": "map.csv"}
    return {**{key: folder / name for key, name in names.items()}, **changes}


def expect_equal(found, expected):
    """Every field of two data sets, and of the tables in them."""
    for field in dataclasses.fields(expected):
        if field.name == "name":
            continue  # follows from the folder
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if dataclasses.is_dataclass(b):
            expect_equal(a, b)
        elif isinstance(b, np.ndarray):
            assert a.dtype == b.dtype and np.array_equal(a, b), field.name
        else:
            assert a == b, field.name


def both(folder, **options):
    """Import by both ways; returns the data set."""
    inside = import_dataset(folder / "inside" / "out", **options)
    outside = import_bounded_dataset(folder / "outside" / "out", "300MB", **options)
    expected = load_dataset(str(folder / "inside" / "out"))
    found = load_dataset(str(folder / "outside" / "out"))
    expect_equal(found, expected)
    assert outside.report == inside.report
    assert prepare(found, 0).hash == prepare(expected, 0).hash
    graphs = [Graph.from_dataset(data, inverse=True) for data in (found, expected)]
    for name in ("indptr", "relations", "tails"):
        assert getattr(graphs[0], name).equal(getattr(graphs[1], name))
    assert outside.counts == {
        "users": expected.num_users,
        "items": expected.num_items,
        "entities": expected.num_entities,
        "relations": expected.num_relations,
        "triples": expected.num_triples,
    }
    assert [path.name for path in (folder / "outside").iterdir()] == ["out"]
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"threshold": 3},
        {"linked_only": True},
        {"linked_only": True, "threshold": 2},
        {"columns": {"rating": "stars", "time": "when", "head": "1"}},
    ],
    ids=str,
)
def test_the_shop(folder, changes):
    data = both(folder, **shop_of(folder, **changes))
    assert data.num_triples == len(shop.triples())


def test_clicks_alone(folder):
    data = both(folder, interactions=folder / "buy.csv", items=folder / "goods.csv")
    assert (data.num_triples, data.num_relations) == (0, 1)


@pytest.mark.parametrize(
    "changes", [{}, {"threshold": 3}, {"linked_only": True}, {"valid": None}], ids=str
)
def test_files_that_are_split(folder, changes):
    header, *rows = (folder / "buy.csv").read_text().splitlines()
    # Row 0 is in all files, row 1 in test alone twice.
    for name, some in (
        ("buy.csv", rows[:1] + rows[2:30]),
        ("valid.csv", rows[:1] + rows[30:40]),
        ("test.csv", rows[40:] + rows[:2] + rows[1:2]),
    ):
        (folder / name).write_text("\n".join([header, *some]) + "\n")
    parts = {part: folder / f"{part}.csv" for part in ("valid", "test")}
    data = both(folder, **shop_of(folder, **{**parts, **changes}))
    assert data.split is not None and data.split.repeated == 1
    names = zip(data.interactions.users, data.interactions.items, strict=True)
    found = {
        (data.user_ids[user], data.item_ids[item]): files
        for (user, item), files in zip(names, data.split.files.tolist(), strict=True)
    }
    valid = changes.get("valid", ...) is not None
    for place, row in enumerate(rows):
        user, item, _ = row.split(",", 2)
        part = {0: 5 + 2 * valid, 1: 4}.get(place, 1 if place < 30 else 2 if place < 40 else 4)
        if (part == 2 and not valid) or (changes.get("linked_only") and item == "sku-8"):
            assert (user, item) not in found
        elif user in data.user_ids:
            assert found.pop((user, item)) == part
    assert not found


def test_tables_of_names(write):
    folder = write(
        {
            **shop.files(),
            "users.csv": "id,name\nu9,Nine\nnobody,No\nu2,\nu9,Again\n",
            "things.csv": "id,name\nmaker2,Second\nalone,Alone\nthing3,Third\n",
            "goods.csv": "sku,title\nsku-4,\nsku-new,New\nsku-2,Two\n",
        }
    )
    names = {"users": "users.csv", "entities": "things.csv", "items": "goods.csv"}
    data = both(folder, **shop_of(folder, **{k: folder / v for k, v in names.items()}))
    assert data.user_ids[:2] == ("u9", "u2") and data.user_names[:2] == ("Nine", "")
    assert data.item_ids[:3] == ("sku-4", "sku-new", "sku-2")
    assert data.entity_ids[data.num_items : data.num_items + 2] == ("maker2", "alone")
    assert data.item_names[data.item_ids.index("sku-3")] == "Third"  # its entity's


def drawn(folder, seed):
    """Files with repeats, ids that look alike, quotes, loops and links that are shared."""
    draw = random.Random(seed)
    users = [f"u{n}" for n in range(40)] + ["U3", " u 3", "ü", "Ü", "007", "7"]
    items = [f"i{n}" for n in range(30)] + ["I1", 'say ""so""']
    things = [f"e{n}" for n in range(60)] + ["E5", "e 5", "hub"]
    quoted = lambda text: f'"{text}"'  # noqa: E731
    clicks = [
        (draw.choice(users), draw.choice(items), draw.choice([1, 2, 3, 4, 4.5, 5]))
        for _ in range(600)
    ]
    graph = [
        (draw.choice(things), draw.choice(["r1", "r2", "R1"]), draw.choice([*things, "hub", "hub"]))
        for _ in range(700)
    ]
    pairs = [(item, draw.choice(things[:20])) for item in [*items[:25], "unknown", "other"]]
    draw.shuffle(pairs)
    tables = {
        "clicks.csv": [("user", "item", "rating"), *clicks],
        "kg.csv": [("head", "relation", "tail"), *graph],
        "links.csv": [("item", "entity"), *pairs, pairs[3]],
    }
    for name, rows in tables.items():
        text = "\n".join(",".join(quoted(cell) for cell in row) for row in rows)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    return {"interactions": folder / "clicks.csv", "kg": folder / "kg.csv"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("linked", [True, False])
def test_drawn_files(tmp_path, seed, linked):
    files = drawn(tmp_path, seed)
    options = {"threshold": 4.0 if seed else None}
    if linked:
        options["links"] = tmp_path / "links.csv"
    else:  # items are entities of the same id
        text = (tmp_path / "kg.csv").read_text(encoding="utf-8").replace('"e', '"i')
        (tmp_path / "kg.csv").write_text(text, encoding="utf-8")
    data = both(tmp_path, **files, **options)
    assert data.num_users > 20 and data.num_triples == 700


@pytest.mark.parametrize("given", [False, True])
def test_labels(tmp_path, given):
    draw = random.Random(5)
    pairs = [(f"u{draw.randrange(9)}", f"i{draw.randrange(12)}") for _ in range(60)]
    labels = {pair: draw.randrange(2) for pair in pairs}
    rows = "".join(f"{user}\t{item}\t{labels[user, item]}\n" for user, item in pairs)
    (tmp_path / "clicks.tsv").write_text("user\titem\tlabel\n" + rows)
    graph = "".join(f"i{n}\tlike\ti{(n * 5 + 1) % 12}\n" for n in range(12))
    (tmp_path / "kg.tsv").write_text("head\trelation\ttail\n" + graph)
    (tmp_path / "users.txt").write_text("id\nu4\nu1\n")
    more = {"users": tmp_path / "users.txt"} if given else {}
    data = both(tmp_path, interactions=tmp_path / "clicks.tsv", kg=tmp_path / "kg.tsv", **more)
    assert data.rows is not None and len(data.rows) == len(labels)
    assert data.user_ids[:2] == ("u4", "u1") or not given


def test_several_files_and_parquet_in_folders(tmp_path):
    for part, rows in enumerate((shop.purchases()[:30], shop.purchases()[30:])):
        place = tmp_path / "buy" / f"stars={part + 3}"
        place.mkdir(parents=True)
        columns = {"customer": "VARCHAR", "sku": "VARCHAR"}
        parquet.write_rows(place / "x.parquet", columns, [row[:2] for row in rows])
    half = len(shop.triples()) // 2
    fields = dict.fromkeys(("head", "relation", "tail"), "VARCHAR")
    (tmp_path / "kg").mkdir()
    parquet.write_rows(tmp_path / "kg" / "a.parquet", fields, shop.triples()[:half])
    parquet.write_rows(tmp_path / "kg" / "b.parquet", fields, shop.triples()[half:])
    numbers = {"item": "DOUBLE", "entity": "BIGINT"}
    parquet.write_rows(tmp_path / "numbers.parquet", numbers, [(1.0, 5), (2.0, 6)])
    (tmp_path / "map.csv").write_text(shop.files()["map.csv"])
    data = both(
        tmp_path,
        interactions=tmp_path / "buy",
        kg=[tmp_path / "kg"],
        links=tmp_path / "map.csv",
        threshold=4,
        columns={"rating": "stars"},
    )
    assert {3.0, 4.0} == {*data.interactions.ratings.tolist()}
    assert data.num_triples == len(shop.triples())


def test_edges_of_a_relation_a_file(folder, tmp_path):
    """Heads and tails alone, as entity2rec has them: the file's name is that of the relation."""
    edges: dict[str, list[str]] = {}
    for head, relation, tail in shop.triples():
        edges.setdefault(relation, []).append(f"{head} {tail}\n")
    (tmp_path / "graphs").mkdir()
    for relation, rows in edges.items():
        (tmp_path / "graphs" / f"dbo:{relation}.edgelist").write_text("".join(rows))
    whole = tmp_path / "whole.tsv"
    whole.write_text("".join("\t".join((h, f"dbo:{r}", t)) + "\n" for h, r, t in shop.triples()))
    data = both(tmp_path, **shop_of(folder, kg=tmp_path / "graphs"))
    import_dataset(tmp_path / "expected", **shop_of(folder, kg=whole))
    expected = load_dataset(str(tmp_path / "expected"))

    def named(found):
        ids, names = found.entity_ids, found.relation_names
        return {
            (ids[h], names[r], ids[t])
            for h, r, t in zip(found.heads, found.relations, found.tails, strict=True)
        }

    assert named(data) == named(expected) and len(named(data)) == len({*shop.triples()})
    odd = tmp_path / "odd.csv"
    odd.write_text("head,relation\na,b\nc,d\n")
    with pytest.raises(
        DataError, match=r"odd.csv, line 1: found columns head, relation, expected one for tail"
    ):
        import_dataset(tmp_path / "no", **shop_of(folder, kg=odd))


CITIES = ("Chicago,_Illinois", "Evanston,_Illinois", "Paris", "Bath,_Maine", "Bath,_Ohio")
NUMBERED = [(str(n), "New York, NY, USA" if n % 2 else "Bath, ME, USA") for n in range(6)]


@pytest.mark.parametrize(
    ("name", "separator", "edges"),
    [
        ("in.edgelist", " ", [(f"n{n}", city) for n, city in enumerate(CITIES)]),
        ("in.txt", " ", [("A", "Chicago,_Illinois"), ("B", "Paris,_Texas")]),
        ("in.txt", " ", [("Chicago,_Illinois", "A"), ("Paris,_Texas", "B")]),
        ("in.txt", " ", [("Evanston,_Illinois", "Chicago,_Illinois")] * 2),
        ("in.txt", " ", [("1", "New,York,NY"), ("2", "Bath,Maine,USA")]),
        ("in.edgelist", " ", [("Paris,Texas", "A"), ("Bath,Maine", "B")]),
        ("in.tsv", "\t", NUMBERED),
        ("in.txt", "\t", NUMBERED),
        ("in.txt", ",", [("m1", "Ridley Scott"), ("m2", "David Lynch")]),
        ("in.csv", ",", [("m 1", "Alien"), ("m 2", "Eden")]),
        ("in.txt", ", ", [("m1", "Alien"), ("m2", "Eden")]),
    ],
)
def test_ids_of_edges_may_hold_commas_and_blanks(name, separator, edges, folder, tmp_path):
    """Each edge is one, whatever marks its ids hold."""
    kg = tmp_path / name
    kg.write_text("".join(separator.join(edge) + "\n" for edge in edges))
    data = both(tmp_path, interactions=folder / "buy.csv", kg=kg, links=links_to(edges, tmp_path))
    ids = data.entity_ids
    found = {(ids[h], ids[t].strip()) for h, t in zip(data.heads, data.tails, strict=True)}
    assert found == {*edges} and data.relation_names == ("in",)


@pytest.mark.parametrize(
    ("separator", "triples"),
    [
        (",", [("m1", "directed by", "m2"), ("m3", "directed by", "m4")]),
        (",", [("The Alien", "genre", "horror film"), ("The Eden", "genre", "quiet film")]),
        (", ", [("m1", "genre", "m2"), ("m3", "genre", "m4")]),
        (" ", [("m1", "in", "Bath,_Ohio"), ("m3", "in", "Chicago,_Illinois")]),
        (" ", [("m1", "in", "Bath,Ohio,USA"), ("m3", "in", "Chicago,Illinois,USA")]),
        ("|", [("m1", "in", "Bath,Ohio"), ("m 3", "in", "Chicago,Illinois")]),
    ],
)
def test_ids_of_triples_may_hold_commas_and_blanks(separator, triples, folder, tmp_path):
    kg = tmp_path / "kg.txt"
    kg.write_text("".join(separator.join(triple) + "\n" for triple in triples))
    data = both(tmp_path, interactions=folder / "buy.csv", kg=kg, links=links_to(triples, tmp_path))
    ids, names = data.entity_ids, data.relation_names
    columns = zip(data.heads, data.relations, data.tails, strict=True)
    assert {(ids[h], names[r].strip(), ids[t].strip()) for h, r, t in columns} == {*triples}


def links_to(rows, folder):
    """File that links the goods with heads of edges or triples."""
    path = folder / "links.tsv"
    heads = dict.fromkeys(row[0] for row in rows)
    path.write_text("".join(f"sku-{n}\t{head}\n" for n, head in enumerate(heads)))
    return path


@pytest.mark.parametrize(
    "content", ["id,name\nA,Alien\n", "title,genre\n1,2\n3,4\n5,6\n", "item,entity\na,b\n"]
)
def test_a_table_of_other_names_is_no_graph(content, folder, tmp_path):
    """Two named columns are edges where a name or an option says so."""
    kg = tmp_path / "names.csv"
    kg.write_text(content)
    names = content.partition("\n")[0].split(",")
    wrong = f"line 1: found columns {', '.join(names)}, expected one for head; say which: --head"
    for importer in (import_dataset, import_with_memory):
        with pytest.raises(DataError, match=wrong):
            importer(tmp_path / "no", **shop_of(folder, kg=kg))
    told = {"head": names[0], "tail": names[1]}
    rows = [tuple(line.split(",")) for line in content.splitlines()[1:]]
    links = links_to(rows, tmp_path)
    data = both(tmp_path, **shop_of(folder, kg=kg, links=links, columns=told))
    assert data.num_triples == len(rows) and data.relation_names == ("names",)


def import_with_memory(out, **options):
    """Import on disk."""
    return import_bounded_dataset(out, "300MB", **options)


@pytest.mark.data
def test_real_data(data_root, tmp_path):
    data = load_dataset("last-fm", data_root)
    export_recbole(data, tmp_path / "lastfm")
    both(
        tmp_path,
        interactions=tmp_path / "lastfm" / "lastfm.inter",
        kg=tmp_path / "lastfm" / "lastfm.kg",
        links=tmp_path / "lastfm" / "lastfm.link",
    )


def test_ids_beyond_ascii_are_counted_alike(tmp_path):
    text = "user,item\n" + "".join(
        f"{u},i{n}\n" for u in ("Ä", "ä") for n in range(8) if n != len(u) + ord(u) % 3
    )
    (tmp_path / "clicks.csv").write_text(text, encoding="utf-8")
    graph = "".join(f"i{n},like,i{n + 1}\n" for n in range(9))
    (tmp_path / "kg.csv").write_text("head,relation,tail\n" + graph)
    both(tmp_path, interactions=tmp_path / "clicks.csv", kg=tmp_path / "kg.csv")


# ---- what is refused -----------------------------------------------------------------------------


def refused(folder, **options):
    """The message of both ways."""
    with pytest.raises(DataError) as inside:
        import_dataset(folder / "out", **options)
    with pytest.raises(type(inside.value)) as outside:
        import_bounded_dataset(folder / "out", "300MB", **options)
    assert not (folder / "out").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert str(outside.value) == str(inside.value)
    return str(outside.value)


def edited(folder, name, old, new):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("buy.csv", "u1,sku-1,2,7", "u1,sku-1,many,7", "buy.csv, line 6: found stars 'many'"),
        ("buy.csv", "u1,sku-1,2,7", "u1,sku-1,7", "3 columns in"),
        ("kg.csv", "thing1,made by,", ",made by,", "kg.csv, line 3: found subject"),
        (
            "map.csv",
            "sku-3,thing3",
            "sku-2,thing3",
            "map.csv, line 5: found item sku-2 with entity",
        ),
    ],
)
def test_lines_are_named_as_in_memory(folder, name, old, new, message):
    edited(folder, name, old, new)
    assert message in refused(folder, **shop_of(folder))


def test_contradictions_are_named_as_in_memory(tmp_path):
    rows = ["a,x,1", "b,gone,1", "b,x,0", "a,y,1", "b,y,1", "b,x,1", "a,x,0"]
    (tmp_path / "clicks.csv").write_text("user,item,label\n" + "\n".join(rows) + "\n")
    (tmp_path / "kg.csv").write_text("head,relation,tail\nx,r,y\n")
    options = {"interactions": tmp_path / "clicks.csv", "kg": tmp_path / "kg.csv"}
    assert "clicks.csv, line 7: found label 1 for user b, item x" in refused(tmp_path, **options)
    assert "clicks.csv, line 7: found" in refused(tmp_path, **options, linked_only=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("thing", "Thing"),
        lambda text: text.replace("thing", "x:thing"),
        lambda text: text.replace("thing", "nothing"),
    ],
)
def test_what_cannot_meet_is_told_as_in_memory(folder, change):
    (folder / "map.csv").write_text(change(shop.files()["map.csv"]))
    assert "found no linked entity in the triples" in refused(folder, **shop_of(folder))


def test_stops_are_told_as_in_memory(folder):
    (folder / "names.csv").write_text("id,name\nU1,One\n")
    message = refused(folder, **shop_of(folder, users=folder / "names.csv"))
    assert "found no id of --users" in message and "upper and lower case" in message
    assert "ratings up to 5" in refused(folder, **shop_of(folder, threshold=9))
    few = "customer,sku\n" + "".join(f"u{n},sku-{n}\n" for n in range(4))
    (folder / "buy.csv").write_text(few)
    assert "more than one click" in refused(folder, **shop_of(folder))


def test_forced(folder):
    (folder / "names.csv").write_text("id,name\nU1,One\n")
    both(folder, **shop_of(folder, users=folder / "names.csv", force=True))


def test_rdf_and_json_need_memory(write):
    folder = write({**shop.files(), "kg.nt": shop.ntriples(), "buy.jsonl": '{"user": 1}\n'})
    for name, table in (("kg.nt", "kg"), ("buy.jsonl", "interactions")):
        with pytest.raises(
            ConfigError, match=r"--memory: found .* expected text tables or Parquet"
        ):
            import_bounded_dataset(
                folder / "out", "1GB", **shop_of(folder, **{table: folder / name})
            )


@pytest.mark.parametrize("text", ["", "4", "lots", "-1GB", "255MiB", "1GBB"])
def test_bounds_that_are_none(text):
    with pytest.raises(ConfigError, match="--memory: found"):
        bounded.bytes_of(text)


def test_bounds():
    assert bounded.bytes_of("4GB") == 4 * 10**9
    assert bounded.bytes_of(" 1.5 GiB") == 3 << 29
    assert bounded.bytes_of("500m") == 500 * 10**6


def test_too_little_disk_is_said_before_it_begins(folder, monkeypatch):
    usage = namedtuple("usage", "total used free")(0, 0, 1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    told = []
    with pytest.raises(ConfigError, match=r"found 0\.0 GB of free disk, expected 0\.1 GB"):
        import_bounded_dataset(folder / "out", "1GB", **shop_of(folder), on_stage=told.append)
    assert len(told) == 1 and told[0].startswith("needs up to 0.1 GB of disk at ")


def test_disk_is_told_from_what_files_are(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"user,item\n" + b"x" * 990)
    (tmp_path / "b").write_bytes(b"PAR1" + b"x" * 996)
    os.mkfifo(tmp_path / "pipe")
    rest = bounded.disk_needed([tmp_path / "pipe", tmp_path / "gone"])
    assert bounded.disk_needed([tmp_path / "a.csv"]) - rest == 4000
    assert bounded.disk_needed([tmp_path / "a.csv", tmp_path / "b"]) - rest == 15000


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no names of open files")
def test_a_pipe_is_read(folder):
    both(folder, **shop_of(folder))
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as file:
        file.write(shop.files()["kg.csv"])
    try:
        place = Path(f"/proc/self/fd/{reader}")
        found = import_bounded_dataset(folder / "piped", "1GB", **shop_of(folder, kg=place))
    finally:
        os.close(reader)
    assert found.counts["triples"] == len(shop.triples())
    piped, other = (load_dataset(str(folder / name)) for name in ("piped", "inside/out"))
    expect_equal(dataclasses.replace(piped, source=other.source), other)


# ---- the command ---------------------------------------------------------------------------------


def words(folder, *more):
    files = ["--interactions", folder / "buy.csv", "--links", folder / "map.csv"]
    return [str(w) for w in ("import", *files, "--kg", folder / "kg.csv", folder / "out", *more)]


def test_command(folder, capsys):
    assert main(words(folder, "--memory", "1GB")) == 0
    out, err = capsys.readouterr()
    assert "12 users, 9 items, 15 entities, 2 relations, 19 triples" in out
    stages = [line.split(" ", 1)[1] for line in err.splitlines()]
    assert stages[1:4] == ["reading buy.csv", "reading kg.csv", "reading map.csv"]
    assert stages[-1] == "writing"
    assert main(words(folder, "--memory", "1GB")) == 2  # taken
    assert main(words(folder, "--memory", "1GB", "--overwrite")) == 0
    assert main(words(folder, "--memory", "1GB", "--overwrite", "--lenient")) == 2


def test_the_engine_holds_nothing_while_the_graph_is_made(folder, monkeypatch):
    def write(*arguments):
        files = [
            os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
        ]
        assert not [file for file in files if "import.duckdb" in file]
        made.append(write_graph(*arguments))
        return made[-1]

    made, write_graph = [], imported.write_graph
    monkeypatch.setattr(imported, "write_graph", write)
    import_bounded_dataset(folder / "out", "1GB", **shop_of(folder))
    assert len(made) == 1


def test_unfit_data_are_reported(folder, capsys):
    (folder / "map.csv").write_text("sku,entity\nsku-1,nothing\n")
    with pytest.raises(UnfitDataError):
        import_bounded_dataset(folder / "out", "1GB", **shop_of(folder))
    assert main(words(folder, "--memory", "1GB")) == 2
    assert "found no linked entity" in capsys.readouterr().err


def test_a_killed_import_leaves_what_the_next_removes(folder):
    rows = "".join(
        f"u{n % 50},sku-{(n % 50 + n // 50 % 4) % 9},{n % 5 + 1},7\n" for n in range(200_000)
    )
    (folder / "buy.csv").write_text("customer,sku,stars,when\n" + rows)
    command = [sys.executable, "-m", "ekpnet_fast.data", *words(folder, "--memory", "1GB")]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    hidden = lambda: [p.name for p in folder.iterdir() if p.name.startswith(".")]  # noqa: E731
    while process.poll() is None and not hidden():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(hidden()) == 1 and not (folder / "out").exists()
    assert main(words(folder, "--memory", "1GB")) == 0
    assert hidden() == [] and (folder / "out" / "dataset.json").is_file()


def test_ctrl_c_leaves_nothing(folder, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bounded, "examine_tables", stop)
    before = sorted(folder.iterdir())
    with pytest.raises(KeyboardInterrupt):
        import_bounded_dataset(folder / "out", "1GB", **shop_of(folder))
    assert sorted(folder.iterdir()) == before
