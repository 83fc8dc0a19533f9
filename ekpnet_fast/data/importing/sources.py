"""Readers of a user's own files: text tables, Parquet, JSON, RecBole's atomic files, RDF graphs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np

from ekpnet_fast.data.formats.engine import coded, column, session
from ekpnet_fast.data.formats.frames import Frame, Texts
from ekpnet_fast.data.formats.graphs import graph_form, read_graph
from ekpnet_fast.data.formats.mapping import LABEL, Part, Sheet
from ekpnet_fast.data.formats.opened import UTF8, Opened, as_text, expect_text, open_file
from ekpnet_fast.data.formats.parquet import load_parquet, parquet_types
from ekpnet_fast.data.formats.parse import Column, Form, Kind, read_text
from ekpnet_fast.data.formats.recbole import header_names
from ekpnet_fast.data.importing.columns import Match, match_columns
from ekpnet_fast.data.importing.sniff import Sniffed, find_form
from ekpnet_fast.errors import ConfigError, DataError, quote

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["Reading", "Wishes", "files_of", "join_readings", "read_source"]

_ATOMIC = (".inter", ".kg", ".link", ".user", ".item", ".entity")
_PACKED = (".gz", ".bz2", ".xz", ".zst")
_JSON = (".json", ".jsonl", ".ndjson")
_DEFAULT = "__HIVE_DEFAULT_PARTITION__"
_EXACT = {"FLOAT": 2**24, "DOUBLE": 2**53}  # whole numbers from here on are not told apart


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user says of all files.

    Attributes:
        separator: of text tables; found for each when None.
        encoding: of text.
        header: whether text tables have names in their first record; found when None.
        language: of the labels preferred in RDF.
        lenient: leave out what cannot be read in RDF.
    """

    separator: str | None = None
    encoding: str = UTF8
    header: bool | None = None
    language: str = "en"
    lenient: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """Table read from a file.

    Attributes:
        sheet: the columns that are used, named by their roles.
        matches: the role of each column, dropped ones too.
        form: the format that the file was read in, for display.
        labels: names by id, where the file names entities and relations itself.
        notes: what was left out or changed.
    """

    sheet: Sheet
    matches: tuple[Match, ...]
    form: str
    labels: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()


def files_of(path: Path, table: str) -> list[tuple[Path, dict[str, str]]]:
    """A file, or the files of a folder that holds one table, such as Spark writes.

    Returns:
        Files in the order of their names, with the columns that the names of folders say
        (``country=at``).

    Raises:
        DataError: there is nothing of this name, or nothing in the folder.
    """
    if not path.is_dir():
        if not path.exists():
            raise DataError.about(path, None, "no such file", f"a file of {table}")
        return [(path, {})]
    found: list[tuple[Path, dict[str, str]]] = []
    for inner in sorted(path.iterdir()):
        if inner.name.startswith((".", "_")):
            continue
        if not inner.is_dir():
            found.append((inner, {}))
            continue
        key, equals, value = inner.name.partition("=")
        if not equals:
            raise DataError.about(inner, None, "a folder", f"files of {table} alone")
        found += [
            (file, {unquote(key): unquote(value), **more}) for file, more in files_of(inner, table)
        ]
    if not found:
        raise DataError.about(path, None, "an empty folder", f"a file of {table}")
    return found


def join_readings(readings: Sequence[Reading]) -> Reading:
    """One table of several files.

    Raises:
        DataError: files with different columns.
    """
    first = readings[0]
    if len(readings) == 1:
        return first
    for other in readings[1:]:
        found, expected = other.sheet.frame.columns, first.sheet.frame.columns
        if {*found} != {*expected}:
            raise DataError.about(
                other.sheet.path,
                None,
                f"columns for {', '.join(found)}",
                f"{', '.join(expected)} as in {first.sheet.path.name}",
            )
    frame = Frame.stack([reading.sheet.frame for reading in readings])
    parts = tuple(part for reading in readings for part in reading.sheet.parts)
    return replace(first, sheet=Sheet(first.sheet.path, frame, parts))


def read_source(
    path: Path,
    table: str,
    told: Mapping[str, str],
    *,
    skip: Sequence[str] = (),
    wishes: Wishes | None = None,
    constants: Mapping[str, str] | None = None,
) -> Reading:
    """Read a table; its format follows from the file's ending and from its content.

    Args:
        path: the file, packed or not.
        table: name in ``columns.TABLES``.
        told: column by role, a name or a place counted from 1.
        skip: roles that are not wanted.
        wishes: what the user says of all files.
        constants: columns with one value, of Parquet.

    Raises:
        DataError: a file that cannot be read or used, with line, column and finding.
        ConfigError: an option that does not go with the file.
    """
    wishes = wishes or Wishes()
    with open_file(path) as opened:
        suffix = _suffix(path)
        form = graph_form(path, opened.head) if opened.content == "text" else None
        if form == "JSON-LD" or (form is not None and table == "kg" and suffix not in _ATOMIC):
            if table != "kg" or told:
                raise ConfigError(f"{path}: {form} holds a knowledge graph, and has no columns")
            return _read_triples(opened, form, wishes)
        if form is not None and suffix not in _ATOMIC:
            raise ConfigError(f"{path}: {form} holds a knowledge graph, which --kg takes")
        if opened.content == "Parquet":
            return _read_parquet(opened, table, told, skip, constants or {})
        if suffix in (".parquet", ".pq") and opened.content == "text":
            raise DataError.about(path, None, "another file", "a Parquet file")
        if opened.content == "text" and suffix in _JSON:
            return _read_json(opened, table, told, skip, wishes)
        return _read_text(opened, table, told, skip, suffix, wishes)


def _suffix(path: Path) -> str:
    """Ending of the name in lower case, that of packing left out."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in _PACKED), "")


def _read_triples(opened: Opened, form: str, wishes: Wishes) -> Reading:
    found = read_graph(opened, form, wishes.language, lenient=wishes.lenient)
    notes = []
    if found.literals:
        notes.append(
            f"{found.literals:,} triples with a literal, left out;"
            f" {len(found.labels):,} names taken from them"
        )
    if found.nested:
        notes.append(f"{found.nested:,} statements about statements, left out")
    if found.skipped:
        notes.append(f"{found.skipped:,} places that could not be read, left out, such as")
        notes += found.reasons
    sheet = Sheet(opened.path, found.triples, (Part(opened.path, len(found.triples)),))
    return Reading(sheet, (), form, found.labels, tuple(notes))


def _read_text(
    opened: Opened,
    table: str,
    told: Mapping[str, str],
    skip: Sequence[str],
    suffix: str,
    wishes: Wishes,
) -> Reading:
    path = opened.path
    with as_text(opened, wishes.encoding) as text:
        if suffix in _ATOMIC:
            found = (n_line for n_line in text.lines() if n_line[1].strip())
            number, raw = next(found, (1, b""))
            names = tuple(header_names(path, expect_text(path, number, raw)))
            sniffed = Sniffed(Form("\t", header=True), names, ())
            shown = "RecBole"
        else:
            sniffed = find_form(
                text,
                table,
                list(told.values()),
                suffix,
                separator=wishes.separator,
                header=wishes.header,
            )
            form = sniffed.form
            shown = (
                f"text, separator {form.separator!r}, {'with' if form.header else 'no'} header"
                f"{', in quotes' if form.quoted and form.separator not in ',;|' else ''}"
            )
        names, form = sniffed.names, sniffed.form
        matches = match_columns(path, table, names, told, header=form.header)
        used = [match for match in matches if match.role not in (*skip, "time")]
        roles = {match.index: match.role for match in used}
        columns = [_column(name, roles.get(place)) for place, name in enumerate(names)]
        frame = read_text(text, columns, form, [match.column for match in used])
        notes = (*text.notes, *sniffed.notes, *_unused(matches, names, skip))
    part = Part(path, len(frame), form, wishes.encoding)
    frame = frame.named({match.column: match.role for match in used})
    return Reading(Sheet(path, frame, (part,)), matches, shown, notes=notes)


def _column(name: str, role: str | None) -> Column:
    if role == "label":
        return Column(name, LABEL.kind, LABEL.maximum, LABEL.expected)
    kind: Kind = "float" if role == "rating" else "str"
    return Column(name, kind, optional=role in (None, "name"))


# ---- Parquet and JSON, whose values have types -------------------------------------------------


def _read_parquet(
    opened: Opened,
    table: str,
    told: Mapping[str, str],
    skip: Sequence[str],
    constants: Mapping[str, str],
) -> Reading:
    path = opened.path
    with session() as connection:
        types = parquet_types(connection, opened)
        names = [*types, *(name for name in constants if name not in types)]
        matches = match_columns(path, table, names, told, header=True)
        used = [match for match in matches if match.role not in (*skip, "time")]
        for match in used:
            _expect_plain(path, match, types.get(match.column, "VARCHAR"))
        stored = {match.column: match.role for match in used if match.column in types}
        load_parquet(connection, opened, stored, "rows")
        rows = connection.execute("SELECT count(*) FROM rows").fetchall()[0][0]
        if not rows:
            raise DataError.about(path, None, "no rows", f"rows of {table}")
        texts: dict[str, Texts] = {}
        numbers: dict[str, Any] = {}
        notes = list(_unused(matches, names, skip))
        for match in used:
            if match.column not in types:
                value = constants[match.column]
                if match.role in ("rating", "label"):
                    number = _field(path, 1, match, _Digits(value))
                    kind = np.float64 if match.role == "rating" else np.int32
                    numbers[match.role] = np.full(rows, number, dtype=kind)
                else:
                    there = -1 if value == _DEFAULT else 0
                    texts[match.role] = Texts(np.full(rows, there, dtype=np.int32), [value])
            elif match.role in ("rating", "label"):
                numbers[match.role] = _numbers(connection, path, match, types[match.column])
            else:
                texts[match.role], note = _texts(connection, path, match, types[match.column])
                notes += [note] if note else []
    frame = Frame(texts, numbers)
    return Reading(Sheet(path, frame, (Part(path, rows),)), matches, "Parquet", notes=tuple(notes))


def _expect_plain(path: Path, match: Match, kind: str) -> None:
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION", "BLOB")):
        expected = {"rating": "a finite number", "label": "0 or 1"}.get(
            match.role, "text or a number"
        )
        raise DataError.about(path, None, f"column {match.column} of {kind}", expected)


def _texts(
    connection: DuckDBPyConnection, path: Path, match: Match, kind: str
) -> tuple[Texts, str]:
    """A column of ids or names, and a note if it was changed."""
    name, note, shown = match.column, "", column(match.role)
    if kind in _EXACT or kind.startswith("DECIMAL"):
        # pandas stores whole numbers beside missing ones as floats.
        most = _EXACT.get(kind)
        wrong = (
            f"isfinite({shown}) AND {shown} = trunc({shown})"
            if most
            else f"{shown} = trunc({shown})"
        )
        _expect(connection, path, match, f"({wrong}) IS NOT FALSE", "ids, whole numbers or text")
        if most:
            where = f"coalesce(abs({shown}) < {most}, true)"
            _expect(
                connection,
                path,
                match,
                where,
                f"ids below {most:,}, from where {kind} cannot tell whole numbers apart: write them"
                " as whole numbers or text",
            )
        shown = f"{shown}::HUGEINT"
        note = f"column {name}: whole numbers held as {kind}, taken as such"
    values = coded(connection, "rows", shown)
    if match.role != "name":
        empty = np.array([not text.strip() for text in values.distinct] + [True])
        bad = empty[values.codes]
        if bad.any():
            row = int(bad.argmax())
            raise DataError.about(path, row + 1, f"{name} {values[row]!r}", "text or a number")
    return values, note


def _numbers(connection: DuckDBPyConnection, path: Path, match: Match, kind: str) -> Any:
    """A column of ratings or labels."""
    shown = column(match.role)
    number = f"try_cast({shown} AS DOUBLE)"
    if match.role == "rating":
        good = f"isfinite({number})"
        if kind == "VARCHAR":
            good += f" AND NOT contains({shown}, '_')"
        _expect(connection, path, match, f"({good}) IS TRUE", "a finite number")
        wanted = "DOUBLE"
    else:
        _expect(connection, path, match, f"({number} IN (0, 1)) IS TRUE", LABEL.expected)
        wanted, shown = "INTEGER", number
    found = connection.execute(f"SELECT {shown}::{wanted} AS value FROM rows").fetchnumpy()
    return np.ascontiguousarray(np.ma.getdata(found["value"]))


def _expect(
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


def _read_json(
    opened: Opened,
    table: str,
    told: Mapping[str, str],
    skip: Sequence[str],
    wishes: Wishes,
) -> Reading:
    """Read JSON lines, or a list of objects; numbers keep the digits that they are written with."""
    path = opened.path
    rows: list[tuple[int, dict[str, Any]]] = []
    with as_text(opened, wishes.encoding) as text:
        listed = text.head.lstrip().startswith(b"[")
        pieces = [(1, b"".join(raw for _, raw in text.lines()))] if listed else text.lines()
        for number, raw in pieces:
            if not raw.strip():
                continue
            try:
                found = json.loads(
                    expect_text(path, number, raw), parse_int=_Digits, parse_float=_Digits
                )
            except (ValueError, RecursionError) as error:
                if isinstance(error, DataError):
                    raise
                raise DataError.about(
                    path, number, f"no JSON ({error})", "an object a line"
                ) from None
            _expect_unicode(path, number, raw, found)
            rows += enumerate(found, 1) if isinstance(found, list) else [(number, found)]
    for number, row in rows:
        if not isinstance(row, dict):
            raise DataError.about(path, number, _KINDS.get(type(row), "null"), "an object")
    if not rows:
        raise DataError.about(path, None, "no rows", f"rows of {table}")
    names = list(dict.fromkeys(key for _, row in rows for key in row))
    matches = match_columns(path, table, names, told, header=True)
    used = [match for match in matches if match.role not in (*skip, "time")]
    texts: dict[str, Texts] = {}
    numbers: dict[str, Any] = {}
    for match in used:
        values = [_field(path, number, match, row.get(match.column)) for number, row in rows]
        if match.role == "rating":
            numbers["rating"] = np.array(values, dtype=np.float64)
        elif match.role == "label":
            numbers["label"] = np.array(values, dtype=np.int32)
        else:
            texts[match.role] = Texts.of(values)
    notes = (*text.notes, *_unused(matches, names, skip))
    sheet = Sheet(path, Frame(texts, numbers), (Part(path, len(rows)),))
    return Reading(sheet, matches, "JSON", notes=notes)


class _Digits(str):
    """Number as it is written."""

    __slots__ = ()


_KINDS = {_Digits: "a number", str: "a text", bool: "a truth value", list: "a list"}


def _expect_unicode(path: Path, number: int, raw: bytes, found: Any) -> None:
    """Raise DataError for half of a surrogate pair: an escape can write it, no file can hold it."""
    if rb"\ud" not in raw.lower():
        return
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"half of a surrogate pair (\\u{ord(error.object[error.start]):04x})"
        raise DataError.about(path, number, half, "Unicode text") from None


def _field(path: Path, number: int, match: Match, value: Any) -> Any:
    """A value of JSON as its role needs it."""
    role, shown = match.role, "nothing" if value is None else quote(str(value))
    if role in ("rating", "label"):
        text = str(int(value)) if isinstance(value, bool) else value
        try:
            found = float(text) if isinstance(text, str) and "_" not in text else np.nan
        except ValueError:
            found = np.nan
        if role == "label" and found not in (0, 1):
            raise DataError.about(path, number, f"{match.column} {shown}", LABEL.expected)
        if not np.isfinite(found):
            raise DataError.about(path, number, f"{match.column} {shown}", "a finite number")
        return found
    if isinstance(value, _Digits) and not re.fullmatch("-?[0-9]+", value):
        if not re.fullmatch(r"-?[0-9]{1,15}[.]0", value):
            raise DataError.about(path, number, f"{match.column} {shown}", "text or a whole number")
        value = value[:-2]
    if role == "name" and (value is None or value == ""):
        return None
    if isinstance(value, bool) or not isinstance(value, str) or not value.strip():
        raise DataError.about(path, number, f"{match.column} {shown}", "text or a whole number")
    return str(value)


def _unused(matches: Sequence[Match], names: Sequence[str], skip: Sequence[str]) -> tuple[str, ...]:
    reasons = {"time": "the split is random, so times are not used"}
    known = {match.column for match in matches}
    others = [name for name in names if name not in known]
    notes = [f"columns not used: {', '.join(others)}"] if others else []
    return tuple(notes) + tuple(
        f"column {match.column} ({match.role}), dropped:"
        f" {reasons.get(match.role, 'another column decides what is a positive')}"
        for match in matches
        if match.role in (*skip, "time")
    )
