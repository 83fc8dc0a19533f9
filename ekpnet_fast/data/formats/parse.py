"""Text and NumPy tables with errors that name the line.

Text goes through the table engine, strictly. What it refuses is read again record by record,
because only that pass knows the line of the file.
"""

from __future__ import annotations

import csv
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NoReturn, cast

import numpy as np

from ekpnet_fast.data.formats.engine import coded, csv_fault, literal, session
from ekpnet_fast.data.formats.frames import Frame
from ekpnet_fast.data.formats.opened import UTF8, PlainText, expect_text, open_text, place
from ekpnet_fast.data.formats.seconds import seconds_in_rows
from ekpnet_fast.data.tables import INT32_MAX, Int32
from ekpnet_fast.errors import DataError, quote

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = [
    "NUMBER",
    "Column",
    "Form",
    "Kind",
    "guess_separator",
    "line_of",
    "load_array",
    "load_text",
    "long_fields",
    "read_first_line",
    "read_lines",
    "read_table",
    "read_text",
    "records",
]

Kind = Literal["int", "label", "float", "str", "time"]

_INTEGER = "[+]?[0-9]+"
_LABEL = "[+]?0*[01]([.]0*)?"
NUMBER = r"[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?"
_LONGEST = 1 << 30  # bytes of a line


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a text table.

    Attributes:
        name: name in messages and in the frame.
        kind: "int" is a whole number 0..maximum held as int32; "label" 0 or 1, as it or as a
            fraction such as 1.0, held so too; "float" a finite number; "str" any
            non-empty text; "time" a number or a date, NaN where it is neither.
        maximum: largest allowed integer.
        expected: the expectation in error messages; by default made from kind and maximum.
        optional: the field may be empty.
    """

    name: str
    kind: Kind = "int"
    maximum: int = INT32_MAX
    expected: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """Form of a text table.

    Attributes:
        separator: up to four characters.
        header: the first record holds names and is no row.
        quoted: fields may be in double quotes, as in CSV.
        skip: lines before the first record.
    """

    separator: str
    header: bool = False
    quoted: bool = False
    skip: int = 0


def read_table(
    path: Path,
    columns: Sequence[Column],
    *,
    separator: str | None = None,
    header: bool = False,
    encoding: str = UTF8,
    quoted: bool = False,
    keep: Sequence[str] | None = None,
) -> Frame:
    """Read a text table, a packed one too.

    Args:
        path: the file; LF or CRLF line ends, blank lines are skipped.
        columns: every column of the file, in order.
        separator: up to four characters; guessed from the first line when None (tab, else blank,
            else comma). Between fields that blanks separate there may be several.
        header: the first line holds names and is skipped.
        encoding: of the file.
        quoted: fields may be in double quotes, as in CSV.
        keep: the columns wanted, all when None; the others cost no memory.

    Returns:
        Frame with the columns to keep: texts, int32 or float64.

    Raises:
        DataError: unreadable or empty file, or the first line that does not fit ``columns``.
    """
    with open_text(path, encoding) as text:
        if separator is None:
            separator = guess_separator(text)
        return read_text(text, columns, Form(separator, header, quoted), keep)


def read_text(
    text: PlainText, columns: Sequence[Column], form: Form, keep: Sequence[str] | None = None
) -> Frame:
    """Read a text table that is open; see `read_table`."""
    with session() as connection:
        plain = _plain_numbers(connection, text, columns, form, keep)
        if plain is not None:
            return plain
        places = load_text(connection, text, columns, form, keep)
        texts, numbers = {}, {}
        for column in columns:
            name = places.get(column.name)
            if name is None:
                continue
            if column.kind == "str":
                texts[column.name] = coded(connection, "rows", name)
            else:
                kind = "INTEGER" if column.kind in ("int", "label") else "DOUBLE"
                value = f"{name}::{'DOUBLE::' if column.kind == 'label' else ''}{kind}"
                if column.kind == "time":
                    value = f"coalesce({seconds_in_rows(connection, name)}, 'nan')"
                found = connection.execute(f"SELECT {value} AS value FROM rows").fetchnumpy()
                numbers[column.name] = np.ascontiguousarray(found["value"])
        return Frame(texts, numbers)


def _plain_numbers(
    connection: DuckDBPyConnection,
    text: PlainText,
    columns: Sequence[Column],
    form: Form,
    keep: Sequence[str] | None,
) -> Frame | None:
    """Frame of a table of nothing but digits and separators; None if it is another, or unfit.

    Most files of numbers are such tables, of which no value has to be looked at as a text.
    """
    import duckdb

    if form != Form(form.separator) or any(
        c.kind not in ("int", "label") or c.optional for c in columns
    ):
        return None
    plain = b"0123456789\n" + form.separator.encode()
    text.file.seek(0)
    while chunk := text.file.read(1 << 20):
        if chunk.translate(None, plain):
            return None
    select = _read_csv(text.place, columns, form, "INTEGER", 1 << 21)
    try:
        found = connection.execute(f"SELECT * FROM {select}").fetchnumpy()
    except duckdb.Error:
        return None
    numbers = {}
    for column, values in zip(columns, found.values(), strict=True):
        if not len(values) or np.ma.isMaskedArray(values) or values.max() > column.maximum:
            return None
        if keep is None or column.name in keep:
            numbers[column.name] = np.ascontiguousarray(values)
    return Frame({}, numbers)


def load_text(
    connection: DuckDBPyConnection,
    text: PlainText,
    columns: Sequence[Column],
    form: Form,
    keep: Sequence[str] | None = None,
) -> dict[str, str]:
    """Make the table `rows` of a text table that is open, each value checked; see `read_table`.

    Returns:
        Name in SQL of each column that is kept: texts, numbers too, empty ones null.
    """
    kept = [c for c in columns if keep is None or c.name in keep]
    cleaned = _load(connection, text, columns, kept, form)
    misfit = _first_misfit(connection, columns, kept)
    if misfit is not None and not cleaned:
        # It may be a line of nothing but separators that are blanks.
        _load(connection, text, columns, kept, form, clean=True)
        misfit = _first_misfit(connection, columns, kept)
    if not connection.execute("SELECT count(*) FROM rows").fetchall()[0][0]:
        names = ", ".join(column.name for column in kept)
        raise DataError.about(text.path, None, "no rows", f"rows of {names}")
    if form.header and len(kept) > 1:
        _expect_one_header(connection, text, columns, kept, form)
    if misfit is not None:
        _raise_misfit(connection, text, columns, kept, form, *misfit)
    return {column.name: _name(columns, column) for column in kept}


def _load(
    connection: DuckDBPyConnection,
    text: PlainText,
    columns: Sequence[Column],
    kept: Sequence[Column],
    form: Form,
    *,
    clean: bool = False,
) -> bool:
    """Make the table `rows` of the kept columns, all texts, empty ones null.

    Returns:
        Whether a cleaned copy was read.
    """
    import duckdb

    source, longest, cleaned = text.file, 1 << 21, False
    with tempfile.TemporaryFile() as copy:
        if clean or form.skip or _has_runs(text, form):
            source, cleaned = _clean(text, form, cast(IO[bytes], copy)), True
        while True:
            try:
                connection.execute(_select(place(source), columns, kept, form, longest))
                return cleaned
            except duckdb.Error as error:
                said = str(error)
                if "Maximum line size" in said and longest < _LONGEST:
                    longest = _LONGEST
                elif cleaned:
                    _raise_bad_record(text, columns, form)
                    line, fault = csv_fault(error)
                    number = None if line is None else line + form.skip
                    raise DataError.about(
                        text.path, number, fault, "a table that can be read"
                    ) from None
                else:
                    # It may be that blank lines hold blanks, or that line ends are mixed.
                    _raise_bad_record(text, columns, form)
                    source, cleaned = _clean(text, form, cast(IO[bytes], copy)), True


def _select(
    name: str, columns: Sequence[Column], kept: Sequence[Column], form: Form, longest: int
) -> str:
    """Statement that reads the rows."""
    wanted = [_name(columns, column) for column in kept]
    # A blank line of a table of one column is a row of nothing.
    filled = (
        " WHERE " + " OR ".join(f"{n} IS NOT NULL" for n in wanted) if len(columns) == 1 else ""
    )
    return (
        f"CREATE OR REPLACE TABLE rows AS SELECT {', '.join(wanted)}"
        f" FROM {_read_csv(name, columns, form, 'VARCHAR', longest)}"
        f"{filled}{f' OFFSET {int(form.header)}' if form.header else ''}"
    )


def _read_csv(name: str, columns: Sequence[Column], form: Form, kind: str, longest: int) -> str:
    """Function in SQL that gives every record, with columns of one type."""
    types = ", ".join(f"'c{place}': '{kind}'" for place in range(len(columns)))
    mark = "'\"'" if form.quoted else "''"
    return (
        f"read_csv({literal(name)}, columns={{{types}}}, auto_detect=false, header=false,"
        f" strict_mode=true, delim={literal(form.separator)}, quote={mark}, escape={mark},"
        f" nullstr='', compression='none', max_line_size={longest})"
    )


def _name(columns: Sequence[Column], column: Column) -> str:
    return f"c{columns.index(column)}"


def _expect_one_header(
    connection: DuckDBPyConnection,
    text: PlainText,
    columns: Sequence[Column],
    kept: Sequence[Column],
    form: Form,
) -> None:
    """Raise DataError at a row that is the header, as in files that were joined.

    Its names would pass for ids.
    """
    _, names = next(_all_records(text, form))
    places = [columns.index(column) for column in kept]
    same = " AND ".join(f"c{place} = {literal(names[place])}" for place in places)
    again = connection.execute(f"SELECT min(rowid) FROM rows WHERE {same}").fetchall()[0][0]
    if again is not None:
        line = next(line for row, (line, _) in enumerate(records(text, form)) if row == again)
        raise DataError.about(
            text.path, line, "the header once more", "rows; give each file by itself"
        )


def _raise_misfit(
    connection: DuckDBPyConnection,
    text: PlainText,
    columns: Sequence[Column],
    kept: Sequence[Column],
    form: Form,
    row: int,
    place: int,
) -> NoReturn:
    """Raise DataError at a value that does not fit its column."""
    column = kept[place]
    name = _name(columns, column)
    value = connection.execute(f"SELECT {name} FROM rows WHERE rowid = {row}").fetchall()[0][0]
    lines = (line for index, (line, _) in enumerate(records(text, form)) if index == row)
    line = next(lines, None)
    raise DataError.about(
        text.path, line, f"{column.name} {quote(value or '')}", _expectation(column)
    )


def _first_misfit(
    connection: DuckDBPyConnection, columns: Sequence[Column], kept: Sequence[Column]
) -> tuple[int, int] | None:
    """First row with a value that does not fit, and the place of its column; None for none."""
    firsts = ", ".join(f"min(rowid) FILTER (WHERE {_misfit(c, _name(columns, c))})" for c in kept)
    rows = connection.execute(f"SELECT {firsts} FROM rows").fetchall()[0]
    return min(((row, place) for place, row in enumerate(rows) if row is not None), default=None)


def _misfit(column: Column, name: str) -> str:
    """Condition in SQL that a field does not fit its column."""
    empty = f"({name} IS NULL OR trim({name}, ' \t') = '')"
    if column.kind == "time":
        return "false"
    if column.kind == "str":
        return "false" if column.optional else empty
    if column.kind == "int":
        # Nearly all numbers are written as they would be here, which is found out quickest.
        wrong = (
            f"({name} IS NULL OR NOT (try_cast({name} AS INTEGER)::VARCHAR = {name}"
            f" OR regexp_full_match(trim({name}), '{_INTEGER}')) IS TRUE"
            f" OR (try_cast({name} AS INTEGER) BETWEEN 0 AND {column.maximum}) IS NOT TRUE)"
        )
    elif column.kind == "label":
        wrong = f"regexp_full_match(trim({name}), '{_LABEL}') IS NOT TRUE"
    else:
        wrong = (
            f"(regexp_full_match(trim({name}), '{NUMBER}') AND"
            f" isfinite(try_cast({name} AS DOUBLE))) IS NOT TRUE"
        )
    return f"NOT {empty} AND {wrong}" if column.optional else wrong


def _expectation(column: Column) -> str:
    if column.expected:
        return column.expected
    if column.kind == "label":
        return "0 or 1"
    if column.kind == "int":
        return f"a whole number from 0 to {column.maximum}"
    return "a finite number" if column.kind == "float" else "text"


# ---- record by record, for what the engine refuses, and for lines ------------------------------


def records(text: PlainText, form: Form) -> Iterator[tuple[int, list[str]]]:
    """Line and fields of every row that is not blank.

    Raises:
        DataError: a line that is not UTF-8, or no CSV.
    """
    found = _all_records(text, form)
    return islice(found, int(form.header), None)


def _all_records(text: PlainText, form: Form) -> Iterator[tuple[int, list[str]]]:
    lines = (
        (number, expect_text(text.path, number, raw))
        for number, raw in text.lines()
        if number > form.skip
    )
    if not form.quoted or len(form.separator) > 1:
        for number, line in lines:
            if line.strip():
                yield number, line.split() if form.separator == " " else line.split(form.separator)
        return
    with long_fields():
        reader = csv.reader(
            (line + "\n" for _, line in lines), delimiter=form.separator, strict=True
        )
        start = form.skip + 1
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                found, expected = f"a row that is no CSV ({error})", "CSV"
                if "new-line" in str(error):
                    found, expected = "a CR inside of a line", "line ends that are all of one kind"
                raise DataError.about(text.path, start, found, expected) from None
            if any(field.strip() for field in fields) or len(fields) > 1:
                yield start, fields
            start = form.skip + reader.line_num + 1


@contextmanager
def long_fields() -> Iterator[None]:
    """Context in which the csv module takes fields of any length."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _raise_bad_record(text: PlainText, columns: Sequence[Column], form: Form) -> None:
    """Raise DataError at the first record that is none, or has not as many fields as columns."""
    for number, fields in _all_records(text, form):
        if len(fields) != len(columns):
            shown = quote(form.separator.join(fields))
            raise DataError.about(
                text.path,
                number,
                f"{len(fields)} column{'s' * (len(fields) != 1)} in {shown}",
                f"{len(columns)} ({', '.join(column.name for column in columns)})",
            )


def _has_runs(text: PlainText, form: Form) -> bool:
    """Whether blanks separate fields, and somewhere near the start there are several."""
    return form.separator == " " and re.search(rb"  | $|^ ", text.head, re.MULTILINE) is not None


def _clean(text: PlainText, form: Form, copy: IO[bytes]) -> IO[bytes]:
    """Copy of the records with LF line ends, nothing in blank lines, and one blank for several."""
    for number, line in text.lines():
        if number > form.skip:
            # A quoted table may have rows of nothing but separators.
            if not line.strip(b" " if form.quoted else None):
                line = b""
            elif form.separator == " ":
                line = b" ".join(line.split())
            copy.write(line + b"\n")
    copy.flush()
    return copy


def line_of(path: Path, row: int, form: Form, encoding: str = UTF8) -> int:
    """1-based line of the 0-based data row of a text file, in which blank lines may occur."""
    with open_text(path, encoding) as text:
        return next(line for index, (line, _) in enumerate(records(text, form)) if index == row)


def guess_separator(text: PlainText) -> str:
    """Tab, else blank, else comma, from the first line that is not blank."""
    first = next((line for line in text.head.splitlines() if line.strip()), b"").strip()
    return next((s for s in ("\t", " ", ",") if s.encode() in first), "\t")


def read_first_line(path: Path, encoding: str = UTF8) -> str:
    """First line that is not blank, without its end; "" if there is none."""
    with open_text(path, encoding) as text:
        found = ((n, raw) for n, raw in text.lines() if raw.strip())
        return next((expect_text(path, number, raw) for number, raw in found), "")


def read_lines(path: Path, encoding: str = UTF8) -> list[str]:
    """Lines of a small text file without their ends; DataError names a line that is not text."""
    with open_text(path, encoding) as text:
        return [expect_text(path, number, raw) for number, raw in text.lines()]


def load_array(path: Path, columns: Sequence[Column]) -> list[Int32]:
    """Read an integer ``.npy`` table [n, len(columns)] as contiguous int32 columns.

    Raises:
        DataError: not a NumPy file, wrong shape or dtype, or a value out of its column's range,
            with the row counted from 1 as a line.
    """
    expected = f"an integer array of shape [n, {len(columns)}]"
    try:
        # Mapped, because a header may claim any size, and a map is not larger than its file.
        table: Any = np.load(path, allow_pickle=False, mmap_mode="r")
    except OSError as error:
        raise DataError.about(
            path, None, error.strerror or str(error) or "an error", "a file that can be read"
        ) from None
    except Exception:  # of what a header claims: a name, a syntax, a shape that is none
        raise DataError.about(path, None, "no NumPy array", expected) from None
    if not isinstance(table, np.ndarray):
        raise DataError.about(path, None, "an archive of arrays", expected)
    if table.ndim != 2 or table.shape[1] != len(columns):
        raise DataError.about(path, None, f"shape {list(table.shape)}", expected)
    if table.dtype.kind not in "iu":
        raise DataError.about(path, None, f"dtype {table.dtype}", expected)
    if len(table) == 0:
        raise DataError.about(path, None, "no rows", expected)
    result: list[Int32] = []
    for index, column in enumerate(columns):
        values = table[:, index]
        if int(values.min()) < 0 or int(values.max()) > column.maximum:
            row = int(np.argmax((values < 0) | (values > column.maximum)))
            raise DataError.about(
                path, row + 1, f"{column.name} {values[row]}", _expectation(column)
            )
        result.append(np.array(values, dtype=np.int32, order="C"))
    return result
