"""Parquet files: columns of people's own, and tables of ids and names that this package writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ekpnet_fast.data.formats.engine import (
    column,
    first_line,
    literal,
    separate_session,
    session,
    write_table,
)
from ekpnet_fast.data.formats.opened import Opened, open_file, place
from ekpnet_fast.errors import DataError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = [
    "load_parquet",
    "parquet_types",
    "read_arrays",
    "read_metadata",
    "read_names",
    "read_texts",
    "write_names",
]


_TEXTS = 1 << 18  # that are read at a time


@contextmanager
def _told(path: Path, found: str, expected: str) -> Iterator[None]:
    """Context in which what the engine raises is said of the file."""
    import duckdb

    try:
        yield
    except (duckdb.Error, MemoryError, OverflowError, UnicodeError) as error:
        raise DataError.about(path, None, f"{found} ({first_line(error)})", expected) from None


def parquet_types(connection: DuckDBPyConnection, opened: Opened) -> dict[str, str]:
    """Type in SQL of each column, by name.

    Raises:
        DataError: no Parquet file.
    """
    with opened.on_disk() as file, _told(opened.path, "a damaged file", "a Parquet file"):
        found = connection.execute(f"DESCRIBE SELECT * FROM {_scan(place(file))}").fetchall()
    return {row[0]: row[1] for row in found}


def load_parquet(
    connection: DuckDBPyConnection, opened: Opened, columns: Mapping[str, str], table: str
) -> None:
    """Make a table in memory of some columns, by their new names.

    Raises:
        DataError: no Parquet file, or a damaged one.
    """
    chosen = ", ".join(f"{column(name)} AS {column(new)}" for name, new in columns.items())
    with opened.on_disk() as file, _told(opened.path, "a damaged file", "a Parquet file"):
        connection.execute(
            f"CREATE OR REPLACE TABLE {table} AS SELECT {chosen} FROM {_scan(place(file))}"
        )


def read_arrays(path: Path, expected: str) -> dict[str, Any]:
    """Columns of a file of ours as arrays, masked where a value is null.

    Raises:
        DataError: there is no such file, or it is damaged.
    """
    if not path.is_file():
        raise DataError.about(path, None, "no such file", expected)
    with (
        open_file(path) as opened,
        session() as connection,
        opened.on_disk() as file,
        _told(path, "a damaged file", f"{expected}; import again"),
    ):
        found: dict[str, Any] = connection.execute(
            f"SELECT * FROM {_scan(place(file))}"
        ).fetchnumpy()
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """Texts by name that a Parquet file keeps beside its rows.

    Raises:
        DataError: no Parquet file, or a damaged one.
    """
    with (
        path.open("rb") as file,
        session() as connection,
        _told(path, "a damaged file", "a Parquet file"),
    ):
        found = connection.execute(
            f"SELECT key, value FROM parquet_kv_metadata({literal(place(file))})"
        ).fetchall()
    return {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in found
    }


def read_texts(path: Path, name: str, expected: str) -> Iterator[list[str]]:
    """Texts of a column of a file by `write_names`, in blocks; "" where there is none.

    Raises:
        DataError: there is no such file, or it is damaged or another.
    """
    if not path.is_file():
        raise DataError.about(path, None, "no such file", expected)
    with open_file(path) as opened, opened.on_disk() as file, separate_session() as connection:
        with _told(path, "a damaged file", expected):
            types = connection.execute(f"DESCRIBE SELECT * FROM {_scan(place(file))}").fetchall()
        shown = {row[0]: row[1] for row in types}
        if shown != {"id": "VARCHAR", "name": "VARCHAR"}:
            raise DataError.about(path, None, f"columns {shown}", "texts id, name")
        with _told(path, "a damaged file", expected):
            rows = connection.execute(f"SELECT {column(name)} FROM {_scan(place(file))}")
        while True:
            with _told(path, "a damaged file", expected):
                block = rows.fetchmany(_TEXTS)
            if not block:
                return
            if name == "id" and (None,) in block:
                raise DataError.about(path, None, "an id that is missing", "texts id, name")
            yield [text or "" for (text,) in block]


def read_names(path: Path, expected: str) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Ids, and names or None where there are none, of a file by `write_names`.

    Raises:
        DataError: there is no such file, or it is damaged or another.
    """
    found = read_arrays(path, expected)
    if list(found) != ["id", "name"] or any(
        values.dtype != object for values in found.values() if not np.ma.getmaskarray(values).all()
    ):
        shown = {name: str(values.dtype) for name, values in found.items()}
        raise DataError.about(path, None, f"columns {shown}", "texts id, name")
    if np.ma.getmaskarray(found["id"]).any():
        raise DataError.about(path, None, "an id that is missing", "texts id, name")
    ids = tuple(np.ma.getdata(found["id"]).tolist())
    names = found["name"]
    if np.ma.getmaskarray(names).all():
        return ids, None
    return ids, tuple(np.ma.filled(names, "").tolist())


def write_names(path: Path, ids: Sequence[str], names: Sequence[str] | None) -> None:
    """Write ids and names, null where there is none; raises OSError."""
    shown = [None] * len(ids) if names is None else [name or None for name in names]
    write_table(path, {"id": ("VARCHAR", ids), "name": ("VARCHAR", shown)})


def _scan(name: str) -> str:
    return f"read_parquet({literal(name)}, hive_partitioning=false)"
