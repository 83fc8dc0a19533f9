"""Tables of people's files in a database on disk, read as strictly as those in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ekpnet_fast.data.formats.engine import column, literal
from ekpnet_fast.data.formats.graphs import graph_form
from ekpnet_fast.data.formats.mapping import Part
from ekpnet_fast.data.formats.opened import Opened, as_text, open_file
from ekpnet_fast.data.formats.parse import load_text
from ekpnet_fast.data.formats.seconds import seconds_in_rows, seconds_of
from ekpnet_fast.data.importing.columns import Match
from ekpnet_fast.data.importing.sources import (
    ATOMIC,
    Wishes,
    constant_number,
    ending,
    is_json,
    plan_text,
)
from ekpnet_fast.data.importing.typed import (
    MISSING,
    expect,
    number_column,
    plan_parquet,
    text_column,
)
from ekpnet_fast.errors import ConfigError, DataError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["Loaded", "load_file"]

_NUMBERS = {"rating": "DOUBLE", "label": "INTEGER", "time": "DOUBLE"}  # the other roles are texts


@dataclass(frozen=True, slots=True)
class Loaded:
    """File whose rows are in the database.

    Attributes:
        part: path, rows and form.
        matches: the role of each column, dropped ones too.
        roles: those that are in the database.
        form: the format that the file was read in, for display.
        notes: what was left out or changed.
    """

    part: Part
    matches: tuple[Match, ...]
    roles: tuple[str, ...]
    form: str
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """File as an import reports it."""
        return {
            "path": str(self.part.path),
            "rows": self.part.rows,
            "form": self.form,
            "columns": [
                {"role": match.role, "column": match.column, "how": match.how}
                for match in self.matches
            ],
            "notes": list(self.notes),
        }


def load_file(
    connection: DuckDBPyConnection,
    path: Path,
    table: str,
    told: Mapping[str, str],
    *,
    into: str,
    roles: Sequence[str] | None,
    skip: Sequence[str] = (),
    wishes: Wishes,
    constants: Mapping[str, str],
) -> Loaded:
    """Append the rows of a file to a table, whose columns are named by their roles.

    Args:
        connection: the database.
        path: the file, packed or not: a text table or Parquet.
        table: name in ``columns.TABLES``.
        told: column by role.
        into: name of the table in the database, made by the first file.
        roles: of the files before; None for the first.
        skip: roles that are not wanted.
        wishes: what the user says of all files.
        constants: columns with one value, of Parquet.

    Raises:
        DataError: a file that cannot be read or used, with line, column and finding.
        ConfigError: a format that only an import in memory reads.
    """
    with open_file(path) as opened:
        suffix = ending(path)
        form = graph_form(path, opened.head) if opened.content == "text" else None
        if (form is not None and suffix not in ATOMIC) or is_json(opened, suffix):
            raise ConfigError(
                f"--memory: found {form or 'JSON'} in {path}, expected text tables or Parquet; the"
                " others are read without it"
            )
        if suffix in (".parquet", ".pq") and opened.content == "text":
            raise DataError.about(path, None, "another file", "a Parquet file")
        if opened.content == "Parquet":
            found, chosen = _parquet(connection, opened, table, told, skip, constants)
        else:
            found, chosen = _text(connection, opened, table, told, skip, suffix, wishes)
    if roles is not None and "time" in roles and "time" not in chosen:
        chosen["time"] = "NULL"
    elif roles is not None and "time" in chosen and "time" not in roles:
        connection.execute(f'ALTER TABLE {into} ADD COLUMN "time" DOUBLE')
        roles = (*roles, "time")
    if roles is not None and {*roles} != {*chosen}:
        raise DataError.about(
            path,
            None,
            f"columns for {', '.join(chosen)}",
            f"{', '.join(roles)} as in the first file",
        )
    kinds = {role: _NUMBERS.get(role, "VARCHAR") for role in roles or chosen}
    if roles is None and _as_they_are(connection, kinds, chosen):
        # Of large tables a copy would be a good part of the import.
        for role in kinds:
            if chosen[role] != column(role):
                connection.execute(
                    f"ALTER TABLE rows RENAME COLUMN {chosen[role]} TO {column(role)}"
                )
        connection.execute(f"ALTER TABLE rows RENAME TO {into}")
        return found
    values = ", ".join(f"{chosen[role]}::{kind} AS {column(role)}" for role, kind in kinds.items())
    make = f"CREATE TABLE {into} AS" if roles is None else f"INSERT INTO {into}"
    connection.execute(f"{make} SELECT {values} FROM rows")
    connection.execute("DROP TABLE rows")
    return replace(found, roles=tuple(kinds))


def _as_they_are(
    connection: DuckDBPyConnection, kinds: Mapping[str, str], chosen: Mapping[str, str]
) -> bool:
    """Whether the columns of `rows` are those that are wanted but for their names."""
    types = {column(row[0]): row[1] for row in connection.execute("DESCRIBE rows").fetchall()}
    names = [chosen[role] if chosen[role][0] == '"' else column(chosen[role]) for role in kinds]
    wanted = dict(zip(names, kinds.values(), strict=True))
    return types == wanted and len(wanted) == len(names)


def _text(
    connection: DuckDBPyConnection,
    opened: Opened,
    table: str,
    told: Mapping[str, str],
    skip: Sequence[str],
    suffix: str,
    wishes: Wishes,
) -> tuple[Loaded, dict[str, str]]:
    with as_text(opened, wishes.encoding) as text:
        plan = plan_text(text, table, told, skip, suffix, wishes)
        names = load_text(
            connection, text, plan.columns, plan.form, [match.column for match in plan.used]
        )
    rows = connection.execute("SELECT count(*) FROM rows").fetchall()[0][0]
    part = Part(opened.path, rows, plan.form, wishes.encoding)
    chosen = {match.role: names[match.column] for match in plan.used}
    if plan.relation is not None:
        chosen = {
            "head": chosen["head"],
            "relation": literal(plan.relation),
            "tail": chosen["tail"],
        }
    if "time" in chosen:
        chosen["time"] = seconds_in_rows(connection, chosen["time"])
    return Loaded(part, plan.matches, tuple(chosen), plan.shown, plan.notes), chosen


def _parquet(
    connection: DuckDBPyConnection,
    opened: Opened,
    table: str,
    told: Mapping[str, str],
    skip: Sequence[str],
    constants: Mapping[str, str],
) -> tuple[Loaded, dict[str, str]]:
    path = opened.path
    plan = plan_parquet(connection, opened, table, told, skip, constants)
    chosen: dict[str, str] = {}
    notes = list(plan.notes)
    for match in plan.used:
        if match.column not in plan.types:
            value = constants[match.column]
            if match.role == "time":
                chosen["time"] = f"nullif('{seconds_of([value])[0]}'::DOUBLE, 'nan')"
            elif match.role in _NUMBERS:
                chosen[match.role] = str(constant_number(path, match, value))
            elif value != MISSING:
                chosen[match.role] = literal(value)
            elif match.role == "name":
                chosen[match.role] = "NULL"
            else:
                raise DataError.about(path, 1, f"{match.column} None", "text or a number")
        elif match.role == "time":
            kind = plan.types[match.column]
            chosen["time"] = seconds_in_rows(connection, column(match.role), kind)
        elif match.role in _NUMBERS:
            chosen[match.role] = number_column(connection, path, match, plan.types[match.column])
        else:
            shown, note = text_column(connection, path, match, plan.types[match.column])
            if match.role != "name":
                # Nearly all ids begin with a letter or a digit, which is found out quickest.
                of = f"{shown}::VARCHAR"
                filled = rf"coalesce({of} BETWEEN '!' AND '~' OR regexp_matches({of}, '\S'), false)"
                expect(connection, path, match, filled, "text or a number")
            chosen[match.role] = shown
            notes += [note] if note else []
    loaded = Loaded(Part(path, plan.rows), plan.matches, tuple(chosen), "Parquet", tuple(notes))
    return loaded, chosen
