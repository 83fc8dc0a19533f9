"""Parquet files of people's own, whose values have types: their columns in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ekpnet_fast.data.formats.engine import column
from ekpnet_fast.data.formats.mapping import LABEL
from ekpnet_fast.data.formats.opened import Opened
from ekpnet_fast.data.formats.parquet import load_parquet, parquet_types
from ekpnet_fast.data.importing.columns import Match, match_columns, unused
from ekpnet_fast.errors import DataError, quote

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["MISSING", "ParquetPlan", "expect", "number_column", "plan_parquet", "text_column"]

MISSING = "__HIVE_DEFAULT_PARTITION__"  # the name of a folder of rows without a value
_EXACT = {"FLOAT": 2**24, "DOUBLE": 2**53}  # whole numbers from here on are not told apart


@dataclass(frozen=True, slots=True)
class ParquetPlan:
    """Columns of a Parquet file, those that are stored in the table `rows` under their roles.

    Attributes:
        types: type in SQL by name, of columns that are stored.
        matches, used: the role of each column, and of each that is wanted.
        rows: their number.
        notes: what was left out.
    """

    types: Mapping[str, str]
    matches: tuple[Match, ...]
    used: Sequence[Match]
    rows: int
    notes: tuple[str, ...]


def plan_parquet(
    connection: DuckDBPyConnection,
    opened: Opened,
    table: str,
    told: Mapping[str, str],
    skip: Sequence[str],
    constants: Mapping[str, str],
) -> ParquetPlan:
    """Make the table `rows` of the columns that are wanted.

    Raises:
        DataError: a damaged file, one without rows, or columns that cannot be used.
    """
    path = opened.path
    types = parquet_types(connection, opened)
    names = [*types, *(name for name in constants if name not in types)]
    matches = match_columns(path, table, names, told, header=True)
    used = [match for match in matches if match.role not in skip]
    for match in used:
        if match.role != "time":  # of which a row may have none
            _expect_plain(path, match, types.get(match.column, "VARCHAR"))
    stored = {match.column: match.role for match in used if match.column in types}
    load_parquet(connection, opened, stored, "rows")
    rows = connection.execute("SELECT count(*) FROM rows").fetchall()[0][0]
    if not rows:
        raise DataError.about(path, None, "no rows", f"rows of {table}")
    return ParquetPlan(types, matches, used, rows, unused(matches, names, skip))


def _expect_plain(path: Path, match: Match, kind: str) -> None:
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION", "BLOB")):
        expected = {"rating": "a finite number", "label": "0 or 1"}.get(
            match.role, "text or a number"
        )
        raise DataError.about(path, None, f"column {match.column} of {kind}", expected)


def text_column(
    connection: DuckDBPyConnection, path: Path, match: Match, kind: str
) -> tuple[str, str]:
    """A column of ids or names in SQL, and a note if it was changed.

    Raises:
        DataError: numbers that are no ids.
    """
    note, shown = "", column(match.role)
    if kind in _EXACT or kind.startswith("DECIMAL"):
        # pandas stores whole numbers beside missing ones as floats.
        most = _EXACT.get(kind)
        wrong = (
            f"isfinite({shown}) AND {shown} = trunc({shown})"
            if most
            else f"{shown} = trunc({shown})"
        )
        expect(connection, path, match, f"({wrong}) IS NOT FALSE", "ids, whole numbers or text")
        if most:
            where = f"coalesce(abs({shown}) < {most}, true)"
            expect(
                connection,
                path,
                match,
                where,
                f"ids below {most:,}, from where {kind} cannot tell whole numbers apart: write them"
                " as whole numbers or text",
            )
        shown = f"{shown}::HUGEINT"
        note = f"column {match.column}: whole numbers held as {kind}, taken as such"
    return shown, note


def number_column(connection: DuckDBPyConnection, path: Path, match: Match, kind: str) -> str:
    """A column of ratings or labels in SQL.

    Raises:
        DataError: a rating that is no number, or a label that is neither 0 nor 1.
    """
    shown = column(match.role)
    number = f"try_cast({shown} AS DOUBLE)"
    if match.role == "rating":
        good = f"isfinite({number})"
        if kind == "VARCHAR":
            good += f" AND NOT contains({shown}, '_')"
        expect(connection, path, match, f"({good}) IS TRUE", "a finite number")
        return f"{shown}::DOUBLE"
    expect(connection, path, match, f"({number} IN (0, 1)) IS TRUE", LABEL.expected)
    return f"{number}::INTEGER"


def expect(
    connection: DuckDBPyConnection, path: Path, match: Match, good: str, expected: str
) -> None:
    """Raise DataError at the first row of which a condition in SQL is not true."""
    row = connection.execute(f"SELECT min(rowid) FROM rows WHERE NOT ({good})").fetchall()[0][0]
    if row is not None:
        value = connection.execute(
            f"SELECT {column(match.role)}::VARCHAR FROM rows WHERE rowid = {row}"
        ).fetchall()[0][0]
        shown = value if value is None else quote(str(value)).strip("'")
        raise DataError.about(path, row + 1, f"{match.column} {shown}", expected)
