"""The table engine, DuckDB: text tables and Parquet read strictly, Parquet and CSV written.

Files are named to it by their descriptors, so that no name is a pattern. It never goes to a
network, and works in a database of its own in memory, so that a forked process can use it too.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ekpnet_fast.data.formats.frames import Texts
from ekpnet_fast.data.formats.opened import place
from ekpnet_fast.native.cpus import choose_threads
from ekpnet_fast.storage.columns import ColumnWriter

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = [
    "bounded_session",
    "coded",
    "column",
    "copy_rows",
    "csv_fault",
    "first_line",
    "join_tables",
    "literal",
    "separate_session",
    "session",
    "write_columns",
    "write_table",
]


_open = threading.local()
_LEAST = 512 << 20  # bytes for each thread of a bounded session
_ROWS = 1 << 22  # that are on their way out at a time


@contextmanager
def session() -> Iterator[DuckDBPyConnection]:
    """Context of a database in memory; within another one it is that of the other."""
    import duckdb

    outer: DuckDBPyConnection | None = getattr(_open, "connection", None)
    if outer is not None:
        yield outer
        return
    spill = os.path.join(tempfile.gettempdir(), f"ekpnet-{os.getpid()}")
    with duckdb.connect(config=_config(choose_threads().count, spill)) as connection:
        _open.connection = connection
        try:
            yield connection
        finally:
            _open.connection = None


@contextmanager
def separate_session() -> Iterator[DuckDBPyConnection]:
    """Context of a database of its own, for rows that are read one after the other meanwhile."""
    import duckdb

    spill = os.path.join(tempfile.gettempdir(), f"ekpnet-{os.getpid()}")
    with duckdb.connect(config=_config(1, spill)) as connection:
        yield connection


@contextmanager
def bounded_session(folder: Path, memory: int) -> Iterator[DuckDBPyConnection]:
    """Context of a database on disk that holds no more than so many bytes in memory.

    Args:
        folder: for the database and what does not fit into memory.
        memory: bytes.
    """
    import duckdb

    threads = max(1, min(choose_threads().count, memory // _LEAST))
    config = {
        **_config(threads, str(folder / "spill")),
        # The engine counts its own pages only: the rest is for rows on their way, and Python.
        "memory_limit": f"{memory * 3 // 4 // 2**20}MiB",
        "max_temp_directory_size": "1000TiB",  # all that is free
    }
    outer = getattr(_open, "connection", None)
    with duckdb.connect(str(folder / "import.duckdb"), config=config) as connection:
        _open.connection = connection
        try:
            yield connection
        finally:
            _open.connection = outer


def _config(threads: int, spill: str) -> dict[str, Any]:
    return {
        "threads": threads,
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "temp_directory": spill,
    }


def literal(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"


def column(name: str) -> str:
    """Name of a column in SQL."""
    return '"' + name.replace('"', '""') + '"'


def first_line(error: Exception) -> str:
    """What an error of the engine says first, without the kind of error before it."""
    line = (str(error).strip().splitlines() or ["an error"])[0]
    line = re.sub(r" *'?\"?/(?:proc/self|dev)/fd/[0-9]+'?\"?", "", line)
    return re.sub(r"^(?:[A-Z][A-Za-z-]* )+Error: ", "", line)


def csv_fault(error: Exception) -> tuple[int | None, str]:
    """Line and fault that an error of the engine's CSV reader names; no line for another error."""
    said = re.search(r"CSV Error on Line: (\d+)\nOriginal Line:.*\n(.+)", str(error))
    if said is None:
        return None, first_line(error)
    return int(said[1]), said[2].strip(" .")


def coded(connection: DuckDBPyConnection, table: str, expression: str) -> Texts:
    """Column of a table in memory as texts, numbered by first appearance; null is no text.

    Args:
        connection: the database.
        table: name of a table that no row was deleted from.
        expression: the column in SQL; it is turned into text, one distinct value at a time.
    """
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE distinct_values AS SELECT value,"
        f" (row_number() OVER (ORDER BY first) - 1)::INTEGER AS code FROM"
        f" (SELECT {expression} AS value, min(rowid) AS first FROM {table}"
        f" WHERE {expression} IS NOT NULL GROUP BY ALL)"
    )
    texts = connection.execute(
        "SELECT value::VARCHAR AS value FROM distinct_values ORDER BY code"
    ).fetchnumpy()["value"]
    count = connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]
    codes = np.full(count, -1, dtype=np.int32)
    # The order of a join is not that of the rows, so each code is put where it belongs.
    found = connection.execute(
        f"SELECT {table}.rowid::UINTEGER AS place, code FROM {table}"
        f" JOIN distinct_values ON {expression} = value"
    ).fetchnumpy()
    codes[found["place"]] = found["code"]
    connection.execute("DROP TABLE distinct_values")
    return Texts(codes, texts.tolist())


def write_table(
    path: Path, columns: Mapping[str, tuple[str, Sequence[Any] | NDArray[Any]]]
) -> None:
    """Write a table as Parquet, or as CSV where the name ends with ``.csv``.

    Args:
        path: the file, which is replaced.
        columns: type in SQL and values by name; a value of None is null.

    Raises:
        OSError: it cannot be written.
    """
    arrays = {}
    for name, (_, values) in columns.items():
        arrays[name] = values if isinstance(values, np.ndarray) else _objects(values)
    chosen = ", ".join(f"{column(n)}::{kind} AS {column(n)}" for n, (kind, _) in columns.items())
    with session() as connection:
        connection.register("written", arrays)
        try:
            copy_rows(connection, f"SELECT {chosen} FROM written", path)
        finally:
            connection.unregister("written")


def join_tables(path: Path, parts: Sequence[Path], metadata: Mapping[str, str]) -> None:
    """Write the rows of Parquet files, in order, as one, or as CSV where the name ends so.

    Args:
        path: the file, which is replaced.
        parts: files with the same columns, whose names are no patterns.
        metadata: texts by name, which a Parquet file keeps beside its rows.

    Raises:
        OSError: it cannot be written.
    """
    names = ", ".join(literal(str(part)) for part in parts)
    with session() as connection:
        copy_rows(connection, f"SELECT * FROM read_parquet([{names}])", path, metadata)


def copy_rows(
    connection: DuckDBPyConnection,
    select: str,
    path: Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the rows of a statement; raises OSError."""
    import duckdb

    form = "FORMAT csv, HEADER"
    if path.suffix.lower() != ".csv":
        pairs = ", ".join(f"{column(k)}: {literal(v)}" for k, v in (metadata or {}).items())
        form = "FORMAT parquet" + (f", KV_METADATA {{{pairs}}}" if pairs else "")
    # Opened here, because the engine would take some names for more than a name.
    with path.open("wb") as file:
        try:
            connection.execute(
                f"COPY ({select}) TO {literal(place(file))} ({form}, USE_TMP_FILE false)"
            )
        except duckdb.IOException as error:
            raise OSError(0, first_line(error)) from None


def write_columns(
    connection: DuckDBPyConnection,
    table: str,
    columns: Mapping[str, str],
    kinds: Mapping[str, DTypeLike],
    paths: Mapping[str, Path],
) -> None:
    """Write columns of a table of numbers as .npy files, in the order of its rows.

    Args:
        connection: the database.
        table: name of a table that no row was deleted from.
        columns: expression in SQL by name.
        kinds: type by name.
        paths: file by name.

    Raises:
        OSError: one cannot be written.
    """
    count = connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]
    chosen = ", ".join(f"{value} AS {column(name)}" for name, value in columns.items())
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(ColumnWriter(paths[name], kinds[name], count))
            for name in columns
        }
        for start in range(0, count, _ROWS):
            block = connection.execute(
                f"SELECT {chosen} FROM {table} WHERE rowid >= {start} AND"
                f" rowid < {start + _ROWS} ORDER BY rowid"
            ).fetchnumpy()
            for name, writer in writers.items():
                writer.add(block[name])


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
