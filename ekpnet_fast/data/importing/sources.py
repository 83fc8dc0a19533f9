"""Readers of a user's own files: text tables, Parquet, JSON, RecBole's atomic files, RDF graphs."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from ekpnet_fast.data.formats.engine import coded, column, session
from ekpnet_fast.data.formats.frames import Frame, Texts
from ekpnet_fast.data.formats.graphs import graph_form, read_graph
from ekpnet_fast.data.formats.mapping import LABEL, Part, Sheet
from ekpnet_fast.data.formats.opened import UTF8, Opened, PlainText, as_text, expect_text, open_file
from ekpnet_fast.data.formats.parse import NUMBER, Column, Form, Kind, read_text, records
from ekpnet_fast.data.formats.recbole import header_names
from ekpnet_fast.data.formats.seconds import seconds_in_rows, seconds_of
from ekpnet_fast.data.importing.columns import Match, match_columns, unused
from ekpnet_fast.data.importing.sniff import Sniffed, find_form
from ekpnet_fast.data.importing.typed import MISSING, number_column, plan_parquet, text_column
from ekpnet_fast.data.temporal import is_moment
from ekpnet_fast.errors import ConfigError, DataError, quote, reason
from ekpnet_fast.storage.json_objects import NamedTwiceError, object_of

__all__ = [
    "ATOMIC",
    "Reading",
    "TextPlan",
    "Wishes",
    "constant_number",
    "ending",
    "files_of",
    "is_json",
    "join_readings",
    "plan_text",
    "read_source",
]

ATOMIC = (".inter", ".kg", ".link", ".user", ".item", ".entity")
_PACKED = (".gz", ".bz2", ".xz", ".zst")
_JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
_LONGEST_OBJECT = 1 << 16  # bytes of a first line that is looked at
_TIMES_SEEN = 100  # rows of which a column must hold times to be taken for them


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
    try:
        folder, there = path.is_dir(), path.exists()
    except OSError as error:  # such as a name that is too long
        raise DataError.about(path, None, reason(error), f"a file of {table}") from None
    if not folder:
        if not there:
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
    if any("time" in reading.sheet.frame for reading in readings):
        readings = [_with_times(reading) for reading in readings]
        first = readings[0]
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


def _with_times(reading: Reading) -> Reading:
    """Reading with a column of times, of which its rows have none where it has no such column."""
    sheet, frame = reading.sheet, reading.sheet.frame
    if "time" in frame:
        return reading
    times = np.full(len(frame), np.nan)
    frame = Frame(frame.texts, {**frame.numbers, "time": times})
    return replace(reading, sheet=replace(sheet, frame=frame))


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
        suffix = ending(path)
        form = graph_form(path, opened.head) if opened.content == "text" else None
        if form == "JSON-LD" or (form is not None and table == "kg" and suffix not in ATOMIC):
            if table != "kg" or told:
                raise ConfigError(f"{path}: {form} holds a knowledge graph, and has no columns")
            return _read_triples(opened, form, wishes)
        if form is not None and suffix not in ATOMIC:
            raise ConfigError(f"{path}: {form} holds a knowledge graph, which --kg takes")
        if opened.content == "Parquet":
            return _read_parquet(opened, table, told, skip, constants or {})
        if suffix in (".parquet", ".pq") and opened.content == "text":
            raise DataError.about(path, None, "another file", "a Parquet file")
        if is_json(opened, suffix):
            return _read_json(opened, table, told, skip, wishes)
        return _read_text(opened, table, told, skip, suffix, wishes)


def is_json(opened: Opened, suffix: str) -> bool:
    """Whether a file holds JSON, by its ending, or because its first line does."""
    if opened.content != "text" or suffix in _JSON_ENDINGS:
        return opened.content == "text"
    head = opened.head.removeprefix(codecs.BOM_UTF8).lstrip()
    if re.match(rb'\[\s*\{\s*"', head):
        return True
    try:
        return isinstance(json.loads(head[:_LONGEST_OBJECT].partition(b"\n")[0]), dict)
    except (ValueError, RecursionError):
        return False


def ending(path: Path) -> str:
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
    with as_text(opened, wishes.encoding) as text:
        plan = plan_text(text, table, told, skip, suffix, wishes)
        used = plan.used
        frame = read_text(text, plan.columns, plan.form, [match.column for match in used])
    part = Part(opened.path, len(frame), plan.form, wishes.encoding)
    frame = frame.named({match.column: match.role for match in used})
    if plan.relation is not None:
        relations = Texts(np.zeros(len(frame), dtype=np.int32), [plan.relation])
        head, tail = frame.texts["head"], frame.texts["tail"]
        frame = Frame({"head": head, "relation": relations, "tail": tail}, frame.numbers)
    return Reading(Sheet(opened.path, frame, (part,)), plan.matches, plan.shown, notes=plan.notes)


@dataclass(frozen=True, slots=True)
class TextPlan:
    """How a text table is to be read.

    Attributes:
        form, columns: of the file.
        matches, used: the role of each column, and of each that is wanted.
        shown: the form in words.
        notes: what was left out or changed.
        relation: of all triples, of which the file has heads and tails alone: its name.
    """

    form: Form
    columns: Sequence[Column]
    matches: tuple[Match, ...]
    used: Sequence[Match]
    shown: str
    notes: tuple[str, ...]
    relation: str | None = None


def plan_text(
    text: PlainText,
    table: str,
    told: Mapping[str, str],
    skip: Sequence[str],
    suffix: str,
    wishes: Wishes,
) -> TextPlan:
    """How a text table is to be read, by what the user says and by its first lines.

    Raises:
        DataError: no rows, or no columns for the table's roles.
    """
    path = text.path
    if suffix in ATOMIC:
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
    edges = table == "kg" and suffix not in ATOMIC
    matches = match_columns(path, table, names, told, header=form.header, edges=edges)
    if table == "interactions" and not form.header:
        matches = _with_moments(text, form, names, matches)
    used = [match for match in matches if match.role not in skip]
    roles = {match.index: match.role for match in used}
    columns = [_column(name, roles.get(place)) for place, name in enumerate(names)]
    notes = (*text.notes, *sniffed.notes, *unused(matches, names, skip))
    if not edges or any(match.role == "relation" for match in matches):
        return TextPlan(form, columns, matches, used, shown, notes)
    relation = _stem(path)
    by_file = Match("relation", len(names), relation, "by the file's name")
    return TextPlan(form, columns, (*matches, by_file), used, shown, notes, relation)


def _stem(path: Path) -> str:
    """Name of a file without its ending and that of packing."""
    name = path.name
    for _ in range(2):
        inner, dot, last = name.rpartition(".")
        if not inner or not dot:
            break
        name = inner
        if f".{last.lower()}" not in _PACKED:
            break
    return name


def _with_moments(
    text: PlainText, form: Form, names: Sequence[str], matches: tuple[Match, ...]
) -> tuple[Match, ...]:
    """Matches of a table without names, and of its column of times, where one can be told.

    It is the only column left, or what was taken for ratings by its place, whose first values look
    like Unix seconds or milliseconds, as in MovieLens' files.
    """
    taken = {match.index for match in matches}
    left = [index for index in range(len(names)) if index not in taken]
    guessed = [m for m in matches if m.role == "rating" and m.how == "by its place"]
    places = left or [match.index for match in guessed]
    if len(places) != 1 or any(match.role == "time" for match in matches):
        return matches
    (index,) = places
    rows = [fields for _, fields in islice(records(text, form), _TIMES_SEEN)]
    values = [fields[index].strip() for fields in rows if len(fields) == len(names)]
    if not values or not all(value.isdecimal() and is_moment(float(value)) for value in values):
        return matches
    others = tuple(match for match in matches if match.index != index)
    return (*others, Match("time", index, names[index], "by its values"))


def _column(name: str, role: str | None) -> Column:
    if role == "label":
        return Column(name, LABEL.kind, LABEL.maximum, LABEL.expected)
    kinds: dict[str | None, Kind] = {"rating": "float", "time": "time"}
    return Column(name, kinds.get(role, "str"), optional=role in (None, "name"))


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
        plan = plan_parquet(connection, opened, table, told, skip, constants)
        texts: dict[str, Texts] = {}
        numbers: dict[str, Any] = {}
        notes = list(plan.notes)
        for match in plan.used:
            graded = match.role in ("rating", "label")
            if match.column not in plan.types:
                value = constants[match.column]
                if match.role == "time":
                    numbers["time"] = np.full(plan.rows, seconds_of([value])[0])
                elif graded:
                    kind = np.float64 if match.role == "rating" else np.int32
                    number = constant_number(path, match, value)
                    numbers[match.role] = np.full(plan.rows, number, dtype=kind)
                else:
                    there = -1 if value == MISSING else 0
                    texts[match.role] = Texts(np.full(plan.rows, there, dtype=np.int32), [value])
            elif match.role == "time":
                shown = seconds_in_rows(connection, column("time"), plan.types[match.column])
                shown = f"coalesce({shown}, 'nan')"
                found = connection.execute(f"SELECT {shown} AS value FROM rows").fetchnumpy()
                numbers["time"] = np.ascontiguousarray(found["value"])
            elif graded:
                shown = number_column(connection, path, match, plan.types[match.column])
                found = connection.execute(f"SELECT {shown} AS value FROM rows").fetchnumpy()
                numbers[match.role] = np.ascontiguousarray(np.ma.getdata(found["value"]))
            else:
                shown, note = text_column(connection, path, match, plan.types[match.column])
                texts[match.role] = coded(connection, "rows", shown)
                _expect_filled(path, match, texts[match.role])
                notes += [note] if note else []
    sheet = Sheet(path, Frame(texts, numbers), (Part(path, plan.rows),))
    return Reading(sheet, plan.matches, "Parquet", notes=tuple(notes))


def constant_number(path: Path, match: Match, value: str) -> Any:
    """Rating or label that the name of a folder says.

    Raises:
        DataError: no number.
    """
    return _field(path, 1, match, _Digits(value))


def _expect_filled(path: Path, match: Match, values: Texts) -> None:
    if match.role != "name":
        empty = np.array([not text.strip() for text in values.distinct] + [True])
        bad = empty[values.codes]
        if bad.any():
            row = int(bad.argmax())
            found = f"{match.column} {values[row]!r}"
            raise DataError.about(path, row + 1, found, "text or a number")


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
                    expect_text(path, number, raw),
                    parse_int=_Digits,
                    parse_float=_Digits,
                    object_pairs_hook=object_of,
                )
            except DataError:
                raise
            except NamedTwiceError as error:
                raise DataError.about(path, number, f"{error} twice", "distinct names") from None
            except (ValueError, RecursionError) as error:
                raise DataError.about(
                    path, number, f"no JSON ({reason(error)})", "an object a line"
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
    used = [match for match in matches if match.role not in skip]
    texts: dict[str, Texts] = {}
    numbers: dict[str, Any] = {}
    for match in used:
        if match.role == "time":
            given = [row.get(match.column) for _, row in rows]
            numbers["time"] = seconds_of([v if isinstance(v, str) else None for v in given])
            continue
        values = [_field(path, number, match, row.get(match.column)) for number, row in rows]
        if match.role == "rating":
            numbers["rating"] = np.array(values, dtype=np.float64)
        elif match.role == "label":
            numbers["label"] = np.array(values, dtype=np.int32)
        else:
            texts[match.role] = Texts.of(values)
    notes = (*text.notes, *unused(matches, names, skip))
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
        plain = isinstance(text, str) and re.fullmatch(NUMBER, text.strip(" "))
        found = float(text) if plain else np.nan
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
