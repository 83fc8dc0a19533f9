"""Text and NumPy tables with errors that name the line.

Text goes through polars. A table that polars refuses, or reads as missing or out of range, is read
again line by line in Python, because only that pass can say which line is wrong and why.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

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
    "numbered_lines",
    "read_first_line",
    "read_first_records",
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
        expected: the expectation in error messages; by default made from kind and maximum.
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
    quoted: bool = False,
    keep: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Read a text table, a ``.gz`` one too.

    Args:
        path: the file; LF or CRLF line ends, blank lines are skipped.
        columns: every column of the file, in order.
        separator: one character, or one character twice (``::``); guessed from the first line
            when None (tab, else blank, else comma).
        header: the first line holds names and is skipped.
        encoding: of the file.
        quoted: fields may be in double quotes, as in CSV.
        keep: the columns wanted, all when None; the others cost no memory.

    Returns:
        Frame with the columns to keep: Int32, Float64 or String.

    Raises:
        DataError: unreadable or empty file, or the first line that does not fit ``columns``.
    """
    if separator is None:
        separator = guess_separator(path)
    form = _Form(separator, header, encoding, quoted)
    kept = [c for c in columns if keep is None or c.name in keep]
    frame = _read_fast(path, columns, kept, form)
    if frame is None:
        frame = _read_slow(path, columns, kept, form)
    if len(frame) == 0:
        names = ", ".join(column.name for column in kept)
        raise DataError.at(path, None, "no rows", f"rows of {names}")
    return frame


def read_first_line(path: Path, encoding: str = "utf-8") -> str:
    """First line that is not blank, without its end; "" if there is none."""
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    return _decode(path, number, raw.rstrip(b"\r\n"), encoding)
    except (OSError, EOFError) as error:
        raise _unreadable(path, error) from None
    return ""


def read_first_records(
    path: Path, separator: str, *, count: int, encoding: str = "utf-8", quoted: bool = False
) -> list[list[str]]:
    """Fields of the first rows that are not blank, at most ``count`` of them."""
    form = _Form(separator, False, encoding, quoted)
    return [fields for _, fields in islice(_records(path, form), count)]


def guess_separator(path: Path) -> str:
    """Tab, else blank, else comma, from the first line that is not blank."""
    first = read_first_line(path, encoding="latin-1").strip()
    return next((s for s in ("\t", " ", ",") if s in first), "\t")


def line_of(path: Path, row: int, *, header: bool = False, quoted_by: str | None = None) -> int:
    """1-based line of the 0-based data row of a text file, in which blank lines may occur.

    Args:
        path: the file.
        row: the data row.
        header: the first line that is not blank holds names.
        quoted_by: the separator where fields may be quoted, and so span lines.
    """
    form = _Form(quoted_by or "\0", False, "latin-1", quoted_by is not None)
    lines = (number for number, _ in _records(path, form))
    return next(line for index, line in enumerate(lines) if index == row + header)


def numbered_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Number and text of every line; DataError names a line that is not text."""
    return ((n, _decode(path, n, raw, encoding)) for n, raw in _raw_lines(path))


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Lines of a small text file without their ends; DataError names a line that is not text."""
    return [line for _, line in numbered_lines(path, encoding)]


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


@dataclass(frozen=True, slots=True)
class _Form:
    """Format of a text table."""

    separator: str
    header: bool
    encoding: str
    quoted: bool


def _read_fast(
    path: Path, columns: Sequence[Column], kept: Sequence[Column], form: _Form
) -> pl.DataFrame | None:
    """Table read by polars, or None where only the slow pass can name the wrong line."""
    schema: dict[str, Any] = {}
    between: list[str] = []
    for column in columns:
        if schema and len(form.separator) == 2:
            between.append(f"between {len(schema)}")
            schema[between[-1]] = pl.String
        schema[column.name] = _DTYPES[column.kind]
    try:
        source = path if form.encoding == "utf-8" else BytesIO(_read_bytes(path, form.encoding))
        frame = (
            pl.scan_csv(
                source,
                separator=form.separator[0],
                has_header=False,
                skip_rows=int(form.header),
                schema=schema,
                quote_char='"' if form.quoted else None,
            )
            .select([*(column.name for column in kept), *between])
            # Pushed down to the reader, the choice of columns would let rows with too many pass.
            .collect(engine="streaming", optimizations=pl.QueryOptFlags(projection_pushdown=False))
        )
    except OSError as error:
        raise _unreadable(path, error) from None
    except pl.exceptions.PolarsError:
        return None
    if any(frame[name].null_count() != len(frame) for name in between):
        return None
    frame = frame.drop(between)
    if any(frame[column.name].null_count() for column in kept if not column.optional):
        filled = frame.filter(~pl.all_horizontal(pl.all().is_null()))
        blank = sum(not raw.strip() for _, raw in _raw_lines(path))
        if len(frame) - len(filled) != blank:
            return None
        frame = filled
    for column in kept:
        values = frame[column.name]
        if not column.optional and values.null_count():
            return None
        if column.kind == "int" and len(values):
            low, high = values.min(), values.max()
            assert isinstance(low, int) and isinstance(high, int)
            if low < 0 or high > column.maximum:
                return None
        elif column.kind == "float":
            if not values.is_finite().all():
                return None
        elif column.kind == "str" and not column.optional and (values == "").any():
            return None
    return frame


def _read_slow(
    path: Path, columns: Sequence[Column], kept: Sequence[Column], form: _Form
) -> pl.DataFrame:
    """Table read line by line; raises DataError at the first line that does not fit."""
    values: dict[str, list[Any]] = {column.name: [] for column in kept}
    names = ", ".join(column.name for column in columns)
    skip = form.header
    for number, fields in _records(path, form):
        if skip:
            skip = False
            continue
        if len(fields) != len(columns):
            shown = quote(form.separator.join(fields))
            raise DataError.at(
                path,
                number,
                f"{len(fields)} column{'s' * (len(fields) != 1)} in {shown}",
                f"{len(columns)} ({names})",
            )
        for column, field in zip(columns, fields, strict=True):
            try:
                value = _convert(column, field)
            except ValueError:
                raise DataError.at(
                    path, number, f"{column.name} {quote(field)}", _expectation(column)
                ) from None
            if column.name in values:
                values[column.name].append(value)
    return pl.DataFrame(
        {
            column.name: pl.Series(column.name, values[column.name], dtype=_DTYPES[column.kind])
            for column in kept
        }
    )


def _records(path: Path, form: _Form) -> Iterator[tuple[int, list[str]]]:
    """Line and fields of every row that is not blank, the header's too."""
    lines = numbered_lines(path, form.encoding)
    if not form.quoted:
        for number, line in lines:
            if line.strip():
                yield number, line.split() if form.separator == " " else line.split(form.separator)
        return
    reader = csv.reader((line + "\n" for _, line in lines), delimiter=form.separator, strict=True)
    start = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError.at(path, start, f"a row that is no CSV ({error})", "CSV") from None
        if any(field.strip() for field in fields) or len(fields) > 1:
            yield start, fields
        start = reader.line_num + 1


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


def _open(path: Path) -> gzip.GzipFile | IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and content of every line, without its end."""
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, start=1):
                yield number, raw.removesuffix(b"\n").removesuffix(b"\r")
    except (OSError, EOFError) as error:
        raise _unreadable(path, error) from None


def _decode(path: Path, number: int, raw: bytes, encoding: str) -> str:
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        raise DataError.at(path, number, raw, f"{encoding.upper()} text") from None
    return text.removeprefix("\ufeff") if number == 1 else text


def _read_bytes(path: Path, encoding: str) -> bytes:
    with _open(path) as file:
        return file.read().decode(encoding).encode()


def _unreadable(path: Path, error: OSError | EOFError) -> DataError:
    found = getattr(error, "strerror", None) or str(error) or "an error"
    return DataError.at(path, None, found, "a file that can be read")


def to_numpy(values: pl.Series) -> NDArray[Any]:
    """Contiguous, writable copy-or-view of a column without nulls."""
    return np.ascontiguousarray(values.to_numpy())
