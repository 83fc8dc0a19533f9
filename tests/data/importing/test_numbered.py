"""Import of tables whose ids a cluster has numbered."""

from __future__ import annotations

import shutil

import pytest

from ekpnet_fast.data import load_dataset, prepare
from ekpnet_fast.data.__main__ import main
from ekpnet_fast.data.importing.importer import import_dataset
from ekpnet_fast.data.importing.numbered import import_numbered
from ekpnet_fast.errors import ConfigError, DataError
from support import parquet, shop

TEXTS = {"users": "user", "items": "item", "entities": "entity", "relations": "relation"}


def columns(*arrays):
    return list(zip(*(array.tolist() for array in arrays), strict=True))


def rows_of(data):
    """Tables of a data set by name: types, and rows."""
    clicks = data.interactions
    found = {
        "interactions": (
            {"user": "INTEGER", "item": "BIGINT", "positive": "BOOLEAN"},
            columns(clicks.users, clicks.items, clicks.positive),
        ),
        "triples": (
            {"head": "INTEGER", "relation": "SMALLINT", "tail": "BIGINT"},
            columns(data.heads, data.relations, data.tails),
        ),
    }
    for table, kind in TEXTS.items():
        ids, names = getattr(data, f"{kind}_ids"), getattr(data, f"{kind}_names")
        rows = enumerate(zip(ids, names or [None] * len(ids), strict=True))
        types = {"number": "INTEGER", "id": "VARCHAR", "name": "VARCHAR"}
        found[table] = types, [(number, *texts) for number, texts in rows]
    return found


def write_tables(folder, tables, parts=3):
    """Write tables as Spark does, each of them as a folder of parts."""
    for table, (types, rows) in tables.items():
        place = folder / table
        place.mkdir(parents=True)
        (place / "_SUCCESS").write_text("")
        step = max(1, len(rows) // parts)
        for part in range(-(-len(rows) // step)):
            some = rows[part * step : (part + 1) * step]
            parquet.write_rows(place / f"part-{part:05d}.parquet", types, some)
    return folder


@pytest.fixture
def shop_data(write):
    folder = write(shop.files())
    names = {"interactions": "buy.csv", "kg": "kg.csv", "links": "map.csv"}
    import_dataset(folder / "direct", **{key: folder / name for key, name in names.items()})
    data = load_dataset(str(folder / "direct"))
    ratings = folder / "direct" / "interactions.rating.npy"
    return folder, data, ratings.is_file()


def test_the_shop(shop_data):
    folder, data, _ = shop_data
    source = write_tables(folder / "numbered", rows_of(data))
    assert main(["import-numbered", str(source), str(folder / "out"), "--memory", "300MB"]) == 0
    found = load_dataset(str(folder / "out"))
    for file in (folder / "direct").glob("*.npy"):
        if file.name not in ("interactions.rating.npy", "interactions.time.npy"):
            assert (folder / "out" / file.name).read_bytes() == file.read_bytes(), file.name
    for kind in TEXTS.values():
        for what in ("ids", "names"):
            name = f"{kind}_{what}"
            assert getattr(found, name) == getattr(data, name), name
    assert prepare(found, 0).hash == prepare(data, 0).hash
    with pytest.raises(ConfigError, match="add --overwrite"):
        import_numbered(source, folder / "out")
    counts = import_numbered(source, folder / "out", overwrite=True)
    assert counts["triples"] == data.num_triples


def labelled(tables):
    types, rows = tables["interactions"]
    types = {**types, "positive": "TINYINT", "time": "BIGINT"}
    types = {"label" if key == "positive" else key: kind for key, kind in types.items()}
    rows = [(user, item, n % 2, n) for n, (user, item, _) in enumerate(rows)]
    return {**tables, "interactions": (types, rows)}


def test_labels_and_times(shop_data):
    folder, data, _ = shop_data
    import_numbered(write_tables(folder / "numbered", labelled(rows_of(data))), folder / "out")
    found = load_dataset(str(folder / "out"))
    assert found.rows.labels.tolist() == [n % 2 for n in range(len(found.rows))]
    assert found.times.tolist() == list(range(len(found.rows)))


def changed(table, at, row):
    def change(tables):
        types, rows = tables[table]
        return {**tables, table: (types, [*rows[:at], row, *rows[at + 1 :]])}

    return change


def of_types(table, **kinds):
    def change(tables):
        types, rows = tables[table]
        return {**tables, table: ({**types, **kinds}, rows)}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("users", 0, (7, "u0", None)), r"users: found 12 rows with 11 numbers from 1 to"),
        (changed("users", 0, (0, "", None)), r"users: found 0 ids that come again and 1 empty"),
        (changed("items", 0, (None, "x", None)), r"items: found \(None, 'x', None\) in row 1"),
        (changed("triples", 1, (0, 99, 0)), r"triples: found \(0, 99, 0\) in row 2.*relation from"),
        (changed("triples", 1, (-1, 0, 0)), r"triples: found \(-1, 0, 0\) in row 2.*head from 0"),
        (
            changed("interactions", 3, (99, 0, True)),
            r"interactions: found \(99, 0, True\) in row 4",
        ),
        (of_types("triples", head="DOUBLE"), r"part-00000.parquet: found columns head DOUBLE"),
        (of_types("triples", head="VARCHAR"), r"expected head of type TINYINT or"),
    ],
)
def test_tables_that_do_not_fit_are_refused(shop_data, change, message):
    folder, data, _ = shop_data
    source = write_tables(folder / "numbered", change(rows_of(data)))
    with pytest.raises(DataError, match=message):
        import_numbered(source, folder / "out")
    assert not (folder / "out").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_pairs_come_once(shop_data):
    folder, data, _ = shop_data
    tables = rows_of(data)
    types, rows = tables["interactions"]
    tables["interactions"] = (types, [*rows, rows[0]])
    with pytest.raises(DataError, match="interactions: found 1 pairs that come again"):
        import_numbered(write_tables(folder / "numbered", tables), folder / "out")


def test_missing_tables_and_columns(shop_data):
    folder, data, _ = shop_data
    source = write_tables(folder / "numbered", rows_of(data))
    (source / "triples" / "part-00001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"part-00001.parquet: found .*expected a Parquet file"):
        import_numbered(source, folder / "out")
    shutil.rmtree(source / "relations")
    with pytest.raises(DataError, match="relations: found no such file"):
        import_numbered(source, folder / "out")
