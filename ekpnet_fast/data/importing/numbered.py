"""Import of tables whose ids are numbered already, as a cluster's engine writes them.

A folder has one table each, a folder of Parquet files that are read in the order of their names:

    users, items, entities, relations   number, id, perhaps name
    interactions                        user, item, label or positive, perhaps time
    triples                             head, relation, tail

Numbers run from 0. Entities are numbered as in an imported data set: item i is entity i, with the
id "" where the graph does not know it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ekpnet_fast.data.formats.engine import (
    bounded_session,
    column,
    copy_rows,
    first_line,
    literal,
    write_columns,
)
from ekpnet_fast.data.formats.imported import (
    PAIR_COLUMNS,
    TRIPLE_COLUMNS,
    column_file,
    expect_free,
    write_folder,
)
from ekpnet_fast.data.formats.opened import place
from ekpnet_fast.data.importing.bounded import bytes_of, work_on_disk
from ekpnet_fast.data.importing.checks import times_note
from ekpnet_fast.data.importing.sources import files_of
from ekpnet_fast.errors import DataError
from ekpnet_fast.storage.parts import beside, place_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["import_numbered"]

_TEXTS = ("users", "items", "entities", "relations")
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
_KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(("user", "item", "head", "relation", "tail"), ("INTEGER", _INTEGERS)),
    "number": ("INTEGER", _INTEGERS),
    "label": ("TINYINT", _INTEGERS),
    "positive": ("BOOLEAN", ("BOOLEAN",)),
    "time": ("DOUBLE", ("DOUBLE", *_INTEGERS)),
    "id": ("VARCHAR", ("VARCHAR",)),
    "name": ("VARCHAR", ("VARCHAR",)),
}
"""Type that a column is kept in, and those that it may have in a file."""


def import_numbered(
    source: str | Path,
    out: str | Path,
    memory: str = "4GB",
    *,
    overwrite: bool = False,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Mapping[str, int]:
    """Import numbered tables within a bound of memory; what they say of each other is checked.

    Args:
        source: the folder of tables.
        out: the folder to write; beside it is what does not fit into memory.
        memory: such as "4GB".
        overwrite: replace a data set that was imported to `out` before.
        on_stage: called with what is done next, in words.

    Returns:
        Counts of users, items, entities, relations and triples.

    Raises:
        ConfigError: a folder that cannot be written, or too little memory.
        DataError: tables that cannot be read, or that do not fit each other; names the table.
    """

    source, out, bound = Path(source), Path(out), bytes_of(memory)
    expect_free(out, overwrite=overwrite)
    with work_on_disk(out):
        taken = place_of(out)
        taken.parent.mkdir(parents=True, exist_ok=True)
        with beside(taken) as folder, bounded_session(folder, bound) as connection:
            for table in _TEXTS:
                on_stage(f"reading {table}")
                _load(connection, source, table, ("number", "id"), ("name",))
            on_stage("reading interactions")
            found = _load(
                connection, source, "interactions", ("user", "item"), ("label", "positive", "time")
            )
            if ("label" in found) == ("positive" in found):
                raise DataError.about(
                    source / "interactions", None, ", ".join(found), "one of label and positive"
                )
            on_stage("reading triples")
            _load(connection, source, "triples", ("head", "relation", "tail"), ())
            on_stage("checking")
            counts = _checked(connection, source, found)
            on_stage("writing")

            def write(part: Path) -> Mapping[str, Any]:
                facts = {
                    "name": out.name,
                    **{table: counts[table] for table in _TEXTS},
                    "threshold": None,
                    "named": _write(connection, found, part),
                    "source": f"numbered tables of {source.name}",
                    "notes": _notes(connection, found),
                }
                connection.close()  # because the graph is made after this, and needs the memory
                return facts

            write_folder(out, write, overwrite=overwrite, memory=bound // 4)
            return counts


def _load(
    connection: DuckDBPyConnection,
    source: Path,
    table: str,
    needed: tuple[str, ...],
    optional: tuple[str, ...],
) -> tuple[str, ...]:
    """Make a table of a folder's files; returns its columns."""
    import duckdb

    kept: tuple[str, ...] = ()
    for path, _ in files_of(source / table, table):
        try:
            with path.open("rb") as file:
                scan = f"read_parquet({literal(place(file))}, hive_partitioning=false)"
                described = connection.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall()
                types = {row[0]: row[1] for row in described}
                columns = (*needed, *(name for name in optional if name in types))
                for name in columns:
                    if types.get(name) not in _KINDS[name][1]:
                        shown = ", ".join(f"{key} {kind}" for key, kind in types.items())
                        expected = f"{name} of type {' or '.join(_KINDS[name][1])}"
                        raise DataError.about(path, None, f"columns {shown}", expected)
                if not kept:
                    kept = columns
                    made = ", ".join(f"{column(name)} {_KINDS[name][0]}" for name in columns)
                    connection.execute(f"CREATE TABLE {table} ({made})")
                elif columns != kept:
                    expected = f"{', '.join(kept)} as in the first file"
                    raise DataError.about(path, None, f"columns {', '.join(columns)}", expected)
                connection.execute(
                    f"INSERT INTO {table} SELECT {', '.join(map(column, kept))} FROM {scan}"
                )
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise DataError.about(path, None, first_line(error), "a Parquet file") from None
    for name in kept:
        if name != "name":
            _refuse(connection, source, table, f"{column(name)} IS NULL", f"{name} in every row")
    return kept


def _checked(
    connection: DuckDBPyConnection, source: Path, found: tuple[str, ...]
) -> dict[str, int]:
    """Counts of the tables, which fit each other.

    Raises:
        DataError: they do not.
    """

    def ask(select: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] = connection.execute(select).fetchall()[0]
        return row

    counts = {}
    for table in _TEXTS:
        rows, least, most, distinct = ask(
            f"SELECT count(*), min(number), max(number), count(DISTINCT number) FROM {table}"
        )
        counts[table] = rows
        if rows == 0 or (least, most, distinct) != (0, rows - 1, rows):
            shown = f"{rows} rows with {distinct} numbers from {least} to {most}"
            raise DataError.about(source / table, None, shown, "numbers 0, 1, 2, ... once each")
        again, empty = ask(
            f"SELECT count(id) FILTER (id <> '') - count(DISTINCT id) FILTER (id <> ''),"
            f" count(*) FILTER (id = '') FROM {table}"
        )
        if again or (empty and table != "entities"):
            shown = f"{again} ids that come again and {empty} empty ones"
            raise DataError.about(source / table, None, shown, "an id of its own for each number")
    users, items, entities, relations = (counts[table] for table in _TEXTS)
    if items > entities:
        shown = f"{entities} rows for {items} items"
        raise DataError.about(source / "entities", None, shown, "an entity for each item")
    for table, name, limit in (
        ("interactions", "user", users),
        ("interactions", "item", items),
        ("triples", "head", entities),
        ("triples", "relation", relations),
        ("triples", "tail", entities),
    ):
        outside = f"{column(name)} NOT BETWEEN 0 AND {limit - 1}"
        _refuse(connection, source, table, outside, f"{name} from 0 to {limit - 1}")
    if "label" in found:
        _refuse(connection, source, "interactions", "label NOT IN (0, 1)", "label 0 or 1")
    pairs, distinct = ask(
        'SELECT count(*), count(DISTINCT "user"::BIGINT << 32 | item) FROM interactions'
    )
    if pairs != distinct:
        shown = f"{pairs - distinct} pairs that come again"
        raise DataError.about(source / "interactions", None, shown, "each pair once")
    counts["triples"] = ask("SELECT count(*) FROM triples")[0]
    for table, rows in (("interactions", pairs), ("triples", counts["triples"])):
        if not rows:
            raise DataError.about(source / table, None, "no row", "some")
    return counts


def _refuse(
    connection: DuckDBPyConnection, source: Path, table: str, wrong: str, expected: str
) -> None:
    """Raise DataError where a row is wrong; names the first one."""
    row = connection.execute(f"SELECT min(rowid) FROM {table} WHERE {wrong}").fetchall()[0][0]
    if row is None:
        return
    shown = connection.execute(f"SELECT * FROM {table} WHERE rowid = {row}").fetchall()[0]
    raise DataError.about(source / table, None, f"{shown} in row {row + 1}", expected)


def _notes(connection: DuckDBPyConnection, found: tuple[str, ...]) -> list[str]:
    low = high = None
    if "time" in found:
        low, high = connection.execute("SELECT min(time), max(time) FROM interactions").fetchall()[
            0
        ]
    positives = "label = 1" if "label" in found else "those that the tables say"
    return [f"positives: {positives}", times_note(low, high)]


def _write(connection: DuckDBPyConnection, found: tuple[str, ...], folder: Path) -> list[str]:
    """Write all files but the graph's; returns the tables that have names."""
    for table, columns, kinds in (
        ("interactions", found, PAIR_COLUMNS),
        ("triples", tuple(TRIPLE_COLUMNS), TRIPLE_COLUMNS),
    ):
        paths = {name: folder / column_file(table, name) for name in columns}
        write_columns(connection, table, {name: column(name) for name in columns}, kinds, paths)
    named = []
    for table in _TEXTS:
        types = [row[0] for row in connection.execute(f"DESCRIBE {table}").fetchall()]
        name = "nullif(name, '')" if "name" in types else "NULL::VARCHAR"
        select = f"SELECT id, {name} AS name FROM {table} ORDER BY number"
        copy_rows(connection, select, folder / f"{table}.parquet")
        if connection.execute(f"SELECT count({name}) FROM {table}").fetchall()[0][0]:
            named.append(table)
    return named
