"""Text and NumPy tables with errors that name the line.

Text goes through polars. Whatever polars refuses, or reads as missing or out of range, is read
again line by line in Python, because only that pass can say which line is wrong and why.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ekpnet_fast.data.tables import INT32_MAX, Int32
from ekpnet_fast.errors import DataError, quote

__all__ = [
    "Column",
    "Kind",
    "guess_separator",
    "line_of",
    "load_array",
    "read_first_line",
    "read_lines",
    "read_table",
    "to_numpy",
]

Kind = Literal["int", "float", "str"]

_DTYPES: dict[str, Any] = {"int": pl.Int32, "float": pl.Float64, "str": pl.String}
_INTEGER = re.compile(r"\+?[0-9]+")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a text table.

    Attributes:
        name: name in messages and in the frame.
        kind: "int" is a whole number 0..maximum held as int32; "float" a finite number; "str" any
            non-empty text.
        maximum: largest allowed integer.
        expected: what an error message asks for; by default said from kind and maximum.
        optional: the field may be empty (null in the frame).
    """

    name: str
    kind: Kind = "int"
    maximum: int = INT32_MAX
    expected: str = ""
    optional: bool = False


def read_table(
    path: Path,
    columns: Sequence[Column],
    *,
    separator: str | None = None,
    header: bool = False,
    encoding: str = "utf-8",
) -> pl.DataFrame:
    """Read a text table without quoting.

    Args:
        path: the file; LF or CRLF line ends, blank lines are skipped.
        columns: every column of the file, in order.
        separator: one character, or one character twice (``::``); guessed from the first line
            when None (tab, else blank, else comma).
        header: the first line holds names and is skipped.
        encoding: of the file.

    Returns:
        Frame with the given columns: Int32, Float64 or String.

    Raises:
        DataError: unreadable or empty file, or the first line that does not fit ``columns``.
    """
    if separator is None:
        separator = guess_separator(path)
    frame = _read_fast(path, columns, separator, header, encoding)
    if frame is None:
        frame = _read_slow(path, columns, separator, header, encoding)
    if len(frame) == 0:
        names = ", ".join(column.name for column in columns)
        raise DataError.at(path, None, "no rows", f"rows of {names}")
    return frame


def read_first_line(path: Path, encoding: str = "utf-8") -> str:
    """First line that is not blank, without its end; "" if there is none."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    return _decode(path, number, raw.rstrip(b"\r\n"), encoding)
    except OSError as error:
        raise _unreadable(path, error) from None
    return ""


def guess_separator(path: Path) -> str:
    """Tab, else blank, else comma, from the first line that is not blank."""
    first = read_first_line(path, encoding="latin-1").strip()
    return next((s for s in ("\t", " ", ",") if s in first), "\t")


def line_of(path: Path, row: int, *, header: bool = False) -> int:
    """1-based line of the 0-based data row of a text file, in which blank lines may occur."""
    filled = [number for number, raw in _raw_lines(path) if raw.strip()]
    return filled[row + header]


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Lines of a small text file without their ends; DataError names a line that is not text."""
    return [_decode(path, n, raw, encoding) for n, raw in _raw_lines(path)]


def load_array(path: Path, columns: Sequence[Column]) -> list[Int32]:
    """Read an integer ``.npy`` table [n, len(columns)] as contiguous int32 columns.

    Raises:
        DataError: not a NumPy file, wrong shape or dtype, or a value out of its column's range,
            with the row counted from 1 as a line.
    """
    expected = f"an integer array of shape [n, {len(columns)}]"
    try:
        table = np.load(path, allow_pickle=False)
    except OSError as error:
        raise _unreadable(path, error) from None
    except (ValueError, EOFError):
        raise DataError.at(path, None, "no NumPy array", expected) from None
    if not isinstance(table, np.ndarray):
        raise DataError.at(path, None, "an archive of arrays", expected)
    if table.ndim != 2 or table.shape[1] != len(columns):
        raise DataError.at(path, None, f"shape {list(table.shape)}", expected)
    if table.dtype.kind not in "iu":
        raise DataError.at(path, None, f"dtype {table.dtype}", expected)
    if len(table) == 0:
        raise DataError.at(path, None, "no rows", expected)
    result: list[Int32] = []
    for index, column in enumerate(columns):
        values = table[:, index]
        if int(values.min()) < 0 or int(values.max()) > column.maximum:
            row = int(np.argmax((values < 0) | (values > column.maximum)))
            raise DataError.at(path, row + 1, f"{column.name} {values[row]}", _expectation(column))
        result.append(np.ascontiguousarray(values, dtype=np.int32))
    return result


def _read_fast(
    path: Path, columns: Sequence[Column], separator: str, header: bool, encoding: str
) -> pl.DataFrame | None:
    """The table by polars, or None when a line has to be looked for."""
    schema: dict[str, Any] = {}
    for column in columns:
        if schema and len(separator) == 2:
            schema[f"between {len(schema)}"] = pl.String
        schema[column.name] = _DTYPES[column.kind]
    try:
        source = path if encoding == "utf-8" else BytesIO(_read_bytes(path, encoding))
        frame = pl.read_csv(
            source,
            separator=separator[0],
            has_header=False,
            skip_rows=int(header),
            schema=schema,
            quote_char=None,
        )
    except OSError as error:
        raise _unreadable(path, error) from None
    except pl.exceptions.PolarsError:
        return None
    if len(separator) == 2:
        between = [name for name in schema if name.startswith("between ")]
        if any(frame[name].null_count() != len(frame) for name in between):
            return None
        frame = frame.drop(between)
    for column in columns:
        values = frame[column.name]
        if not column.optional and values.null_count():
            return None
        if column.kind == "int" and len(values):
            low, high = values.min(), values.max()
            assert isinstance(low, int) and isinstance(high, int)
            if low < 0 or high > column.maximum:
                return None
        elif column.kind == "float" and not values.is_finite().all():
            return None
    return frame


def _read_slow(
    path: Path, columns: Sequence[Column], separator: str, header: bool, encoding: str
) -> pl.DataFrame:
    """The table line by line; raises DataError at the first line that does not fit."""
    values: list[list[Any]] = [[] for _ in columns]
    names = ", ".join(column.name for column in columns)
    skip = header
    for number, raw in _raw_lines(path):
        if skip:
            skip = False
            continue
        line = _decode(path, number, raw, encoding)
        if not line.strip():
            continue
        fields = line.split() if separator == " " else line.split(separator)
        if len(fields) != len(columns):
            raise DataError.at(
                path,
                number,
                f"{len(fields)} column{'s' * (len(fields) != 1)} in {quote(line)}",
                f"{len(columns)} ({names})",
            )
        for column, field, out in zip(columns, fields, values, strict=True):
            try:
                out.append(_convert(column, field))
            except ValueError:
                raise DataError.at(
                    path, number, f"{column.name} {quote(field)}", _expectation(column)
                ) from None
    return pl.DataFrame(
        {
            column.name: pl.Series(column.name, out, dtype=_DTYPES[column.kind])
            for column, out in zip(columns, values, strict=True)
        }
    )


def _convert(column: Column, field: str) -> int | float | str | None:
    if not field.strip():
        if column.optional:
            return None
        raise ValueError
    if column.kind == "str":
        return field
    if column.kind == "float":
        number = float(field)
        if not np.isfinite(number):
            raise ValueError
        return number
    if not _INTEGER.fullmatch(field.strip()) or int(field) > column.maximum:
        raise ValueError
    return int(field)


def _expectation(column: Column) -> str:
    if column.expected:
        return column.expected
    if column.kind == "int":
        return f"a whole number from 0 to {column.maximum}"
    return "a finite number" if column.kind == "float" else "text"


def _raw_lines(path: Path) -> list[tuple[int, bytes]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    return [(n, line.removesuffix(b"\r")) for n, line in enumerate(content.split(b"\n"), start=1)]


def _decode(path: Path, number: int, raw: bytes, encoding: str) -> str:
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        raise DataError.at(path, number, raw, f"{encoding.upper()} text") from None
    return text.removeprefix("\ufeff") if number == 1 else text


def _read_bytes(path: Path, encoding: str) -> bytes:
    return path.read_bytes().decode(encoding).encode()


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError.at(path, None, error.strerror or "an error", "a file that can be read")


def to_numpy(values: pl.Series) -> NDArray[Any]:
    """Contiguous, writable copy-or-view of a column without nulls."""
    return np.ascontiguousarray(values.to_numpy())
