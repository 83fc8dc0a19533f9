"""Readers of a user's own tables: CSV, TSV, Parquet, RecBole's atomic files, N-Triples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ekpnet_fast.data.formats.mapping import LABEL, Sheet
from ekpnet_fast.data.formats.ntriples import read_ntriples
from ekpnet_fast.data.formats.parse import (
    Column,
    Kind,
    read_first_line,
    read_first_records,
    read_table,
)
from ekpnet_fast.data.formats.recbole import read_header
from ekpnet_fast.data.importing.columns import Match, has_header, match_columns
from ekpnet_fast.errors import ConfigError, DataError

__all__ = ["Reading", "read_source"]

_ATOMIC = (".inter", ".kg", ".link", ".user", ".item", ".entity")
_PARQUET = (".parquet", ".pq")
_NTRIPLES = (".nt", ".ntriples")
_OTHERS = {
    ".ttl": "N-Triples (rapper -i turtle -o ntriples FILE > FILE.nt)",
    ".rdf": "N-Triples (rapper -i rdfxml -o ntriples FILE > FILE.nt)",
    ".owl": "N-Triples (rapper -i rdfxml -o ntriples FILE > FILE.nt)",
    ".xlsx": "CSV",
    ".json": "CSV or Parquet",
    ".jsonl": "CSV or Parquet",
    ".zip": "an unpacked file, or one packed with gzip",
}
_SEPARATORS = ("\t", ",", ";", "|", "::")


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """Table read from a file.

    Attributes:
        sheet: the columns that are used, named by their roles.
        matches: the role of each column, dropped ones too.
        form: the format that the file was read in, for display.
        labels: columns id and name, where the file names entities and relations itself.
        notes: what was left out or changed.
    """

    sheet: Sheet
    matches: tuple[Match, ...]
    form: str
    labels: pl.DataFrame | None = None
    notes: tuple[str, ...] = ()


def read_source(
    path: Path,
    table: str,
    told: Mapping[str, str],
    *,
    skip: Sequence[str] = (),
    separator: str | None = None,
    encoding: str = "utf-8",
    language: str = "en",
) -> Reading:
    """Read a table; its format follows from the file's ending, ``.gz`` may follow.

    Args:
        path: the file.
        table: name in ``columns.TABLES``.
        told: column by role, a name or a place counted from 1.
        skip: roles that are not wanted.
        separator: of a text table; guessed from the first line when None.
        encoding: of a text table.
        language: of the labels preferred in N-Triples.

    Raises:
        DataError: a file that cannot be read or used, with line, column and finding.
        ConfigError: an option that does not go with the file.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise DataError.about(path, None, what, f"a file of {table}")
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in _OTHERS:
        raise DataError.about(path, None, f"a {suffix} file", _OTHERS[suffix])
    if suffix in _NTRIPLES:
        if table != "kg" or told:
            raise ConfigError(f"{path}: N-Triples hold a knowledge graph, and have no columns")
        return _read_triples(path, language)
    if suffix in _PARQUET:
        return _read_parquet(path, table, told, skip)
    return _read_text(path, table, told, skip, suffix, separator, encoding)


def _read_triples(path: Path, language: str) -> Reading:
    found = read_ntriples(path, language)
    notes = []
    if found.literals:
        notes.append(
            f"{found.literals:,} triples with a literal, left out;"
            f" {len(found.labels):,} names taken from them"
        )
    return Reading(Sheet(path, found.triples), (), "N-Triples", found.labels, tuple(notes))


def _read_text(
    path: Path,
    table: str,
    told: Mapping[str, str],
    skip: Sequence[str],
    suffix: str,
    separator: str | None,
    encoding: str,
) -> Reading:
    if suffix in _ATOMIC:
        separator, quoted, header = "\t", False, True
        names = read_header(path)
        form = "RecBole"
    else:
        separator = _guess_separator(path, encoding) if separator is None else separator
        # Tabs need no quotes, and files with tabs often hold bare ones.
        quoted = separator not in ("\t", "::")
        records = read_first_records(path, separator, count=2, encoding=encoding, quoted=quoted)
        if not records:
            raise DataError.about(path, None, "no rows", f"rows of {table}")
        header = has_header(table, records[0], records[-1], list(told.values()))
        names = [f"column {place}" for place in range(1, len(records[0]) + 1)]
        if header:
            names = [name.strip() or place for name, place in zip(records[0], names, strict=True)]
        form = f"text, separator {separator!r}, {'with' if header else 'no'} header"
    matches = match_columns(path, table, names, told, header=header)
    used = [match for match in matches if match.role not in (*skip, "time")]
    by_name = {match.column: match.role for match in used}
    columns = [_column(name, by_name.get(name)) for name in names]
    frame = read_table(
        path,
        columns,
        separator=separator,
        header=header,
        encoding=encoding,
        quoted=quoted,
        keep=list(by_name),
    )
    sheet = Sheet(path, _by_role(frame, used), header, separator if quoted else None)
    return Reading(sheet, matches, form, notes=_unused(matches, names, skip))


def _column(name: str, role: str | None) -> Column:
    if role == "label":
        return Column(name, LABEL.kind, LABEL.maximum, LABEL.expected)
    kind: Kind = "float" if role == "rating" else "str"
    return Column(name, kind, optional=role in (None, "name"))


def _guess_separator(path: Path, encoding: str) -> str:
    """The separator that the first line holds most often; a blank where there is no other."""
    first = read_first_line(path, encoding)
    outside = "".join(first.split('"')[::2])
    best = max(_SEPARATORS, key=lambda mark: outside.count(mark) * len(mark))
    if outside.count(best):
        return best
    if " " in outside.strip():
        return " "
    raise DataError.at(
        path, 1, first, "columns between tabs, commas, ';', '|', '::' or blanks, or --separator"
    )


def _read_parquet(path: Path, table: str, told: Mapping[str, str], skip: Sequence[str]) -> Reading:
    try:
        scan = pl.scan_parquet(path)
        schema = scan.collect_schema()
        matches = match_columns(path, table, schema.names(), told, header=True)
        used = [match for match in matches if match.role not in (*skip, "time")]
        frame = scan.select(match.column for match in used).collect(engine="streaming")
    except OSError as error:
        raise DataError.about(path, None, error.strerror or "an error", "a readable file") from None
    except pl.exceptions.PolarsError as error:
        raise DataError.about(path, None, str(error).splitlines()[0], "a Parquet file") from None
    if not len(frame):
        raise DataError.about(path, None, "no rows", f"rows of {table}")
    notes = list(_unused(matches, schema.names(), skip))
    columns = []
    for match in used:
        values, note = _values(path, frame[match.column], match)
        columns.append(values)
        notes += [note] if note else []
    sheet = Sheet(path, _by_role(pl.DataFrame(columns), used), text=False)
    return Reading(sheet, matches, "Parquet", notes=tuple(notes))


def _values(path: Path, values: pl.Series, match: Match) -> tuple[pl.Series, str]:
    """A Parquet column as its role needs it, and a note if it was changed."""
    name, kind, note = match.column, values.dtype, ""
    wanted: Any = {"rating": pl.Float64, "label": pl.Int32}.get(match.role, pl.String)
    expected = {"rating": "a finite number", "label": "0 or 1"}.get(match.role, "text or a number")
    if kind.is_nested() or kind == pl.Binary:
        raise DataError.about(path, None, f"column {name} of {kind}", expected)
    if wanted == pl.String and kind.is_float():
        # pandas stores whole numbers beside missing ones as floats.
        if not ((values == values.round()) | values.is_null()).all():
            raise DataError.about(path, None, f"column {name} of fractions", "ids")
        values = values.cast(pl.Int64)
        note = f"column {name}: whole numbers held as {kind}, taken as {pl.Int64}"
    values = values.cast(wanted, strict=False)
    bad = pl.repeat(False, len(values), eager=True) if match.role == "name" else values.is_null()
    if match.role == "rating":
        bad = bad | ~values.is_finite().fill_null(False)
    elif match.role == "label":
        bad = bad | ~values.is_in([0, 1])
    elif match.role != "name":
        bad = bad | (values == "").fill_null(False)
    if bad.any():
        row = bad.arg_max()
        assert row is not None
        raise DataError.about(path, row + 1, f"{name} {values[row]!r}", expected)
    return values, note


def _by_role(frame: pl.DataFrame, used: Sequence[Match]) -> pl.DataFrame:
    return frame.select(pl.col(match.column).alias(match.role) for match in used)


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
