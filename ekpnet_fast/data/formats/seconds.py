"""Times in columns of files, as SQL for the table engine.

A time is a number, or a date by ISO 8601, which becomes Unix seconds; without a zone it is of UTC.
The first row of a column decides which of the two all are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.formats.engine import session

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["seconds_in_rows", "seconds_of"]

_NUMBER = r"[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?"
_ZONE = r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)"
_DATE = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    rf"([T ][0-9]{{2}}:[0-9]{{2}}(:[0-9]{{2}}([.][0-9]+)?)?{_ZONE}?)?"
)
_NUMERIC = (
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"),
    *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"),
    *("DECIMAL", "FLOAT", "DOUBLE"),
)


def seconds_in_rows(connection: DuckDBPyConnection, column: str, kind: str = "VARCHAR") -> str:
    """Column of the table `rows` as times, in SQL; null where a row has none.

    Args:
        connection: the database.
        column: in SQL.
        kind: its type in SQL.
    """
    if kind == "DATE" or kind.startswith("TIMESTAMP"):
        return f"epoch({column})"
    if kind.startswith(_NUMERIC) and not kind.endswith("]"):
        return f"CASE WHEN isfinite({column}::DOUBLE) THEN {column}::DOUBLE END"
    if kind != "VARCHAR":
        return "NULL::DOUBLE"
    first = connection.execute(f"SELECT {column} FROM rows WHERE rowid = 0").fetchall()[0][0]
    return _of_texts(connection, first, column)


def _of_texts(connection: DuckDBPyConnection, first: str | None, column: str) -> str:
    (numbers,) = connection.execute(
        f"SELECT {_number('t')} IS NOT NULL FROM (SELECT ?::VARCHAR AS t)", [first]
    ).fetchall()[0]
    return _number(column) if numbers else _date(column)


def seconds_of(values: Sequence[str | None]) -> NDArray[np.float64]:
    """Times [n] of texts; NaN where there is none, or one of another form."""
    with session() as connection:
        shown = _of_texts(connection, values[0] if values else None, "t")
        found = connection.execute(
            f"SELECT coalesce({shown}, 'nan') AS t FROM (SELECT unnest(?::VARCHAR[]) AS t)",
            [list(values)],
        ).fetchnumpy()["t"]
    return np.ascontiguousarray(found, dtype=np.float64)


def _number(column: str) -> str:
    text = f"trim({column})"
    number = f"try_cast({text} AS DOUBLE)"
    good = f"regexp_full_match({text}, '{_NUMBER}') AND isfinite({number})"
    return f"CASE WHEN {good} THEN {number} END"


def _date(column: str) -> str:
    text = f"trim({column})"
    zoned = (
        f"CASE WHEN NOT contains({text}, ':') THEN {text} || ' 00:00:00+00'"
        f" WHEN regexp_matches({text}, '{_ZONE}$') THEN {text} ELSE {text} || '+00' END"
    )
    date = f"epoch(try_cast({zoned} AS TIMESTAMPTZ))"
    return f"CASE WHEN regexp_full_match({text}, '{_DATE}') THEN {date} END"
