"""Parquet files written and read by DuckDB itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb


def write(path: Path, select: str) -> None:
    """Write the rows of a statement."""
    duckdb.connect().execute(f"COPY ({select}) TO '{path}' (FORMAT parquet)")


def write_rows(path: Path, columns: dict[str, str], rows: list[tuple[Any, ...]]) -> None:
    """Write rows, of types by name."""
    with duckdb.connect() as connection:
        fields = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        connection.execute(f"CREATE TABLE t ({fields})")
        connection.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(columns))})", rows)
        connection.execute(f"COPY t TO '{path}' (FORMAT parquet)")


def read(path: Path) -> tuple[dict[str, str], list[tuple[Any, ...]]]:
    """Types by name, and rows."""
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT * FROM read_parquet('{path}')")
        types = {column[0]: str(column[1]) for column in found.description}
        return types, found.fetchall()
