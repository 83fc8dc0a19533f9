"""Import within a bound of memory: the engine's tables on disk in place of arrays.

The folder that it writes is that of `importer.import_dataset`, row by row. Everything but the
result is in one folder beside it, which goes when the import ends, however it ends; what a killed
process leaves, the next import to the same place removes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ekpnet_fast.data.formats.engine import bounded_session, copy_rows, first_line, write_columns
from ekpnet_fast.data.formats.frames import Frame
from ekpnet_fast.data.formats.imported import (
    PAIR_COLUMNS,
    TRIPLE_COLUMNS,
    column_file,
    write_folder,
)
from ekpnet_fast.data.formats.mapping import NO_RELATION, Sheet
from ekpnet_fast.data.formats.split import PARTS
from ekpnet_fast.data.formats.stars import threshold_of_scale, told_threshold
from ekpnet_fast.data.importing import statements
from ekpnet_fast.data.importing.bounded_checks import Sources, examine_tables
from ekpnet_fast.data.importing.checks import NO_TIME, Stop, times_note
from ekpnet_fast.data.importing.loading import Loaded, load_file
from ekpnet_fast.data.importing.sources import Wishes, files_of
from ekpnet_fast.data.stats import Finding
from ekpnet_fast.errors import ConfigError, DataError, reason
from ekpnet_fast.storage.parts import beside, place_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["BoundedImport", "Request", "bytes_of", "disk_needed", "import_bounded", "work_on_disk"]

_PART_TABLES = {"train": "interactions", "valid": "valid", "test": "test"}
LEAST_MEMORY = 256 << 20
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{unit}I": 1 << 10 * power for power, unit in enumerate("KMGT", 1)}
# Bytes for one of the files, the result among them: of text its columns are kept, and spilled at
# most twice when they are joined and sorted; what is packed, or Parquet, is unpacked before.
_TEXT, _PACKED = 4.0, 11.0

Stage = Callable[[str], None]


class AsDict(Protocol):
    """Report of an import."""

    def as_dict(self) -> dict[str, Any]:
        """Report as plain JSON values."""


Report = TypeVar("Report", bound=AsDict)


@dataclass(frozen=True, slots=True)
class Request:
    """What to import.

    Attributes:
        files: paths by table, folders too; those of `valid` and `test` are interactions.
        told: column by table and role.
        wishes: what the user says of all files.
        threshold: smallest rating that is a positive.
        linked_only: leave out items that the links do not know.
        memory: bytes.
    """

    files: Mapping[str, Sequence[Path]]
    told: Mapping[str, Mapping[str, str]]
    wishes: Wishes
    threshold: float | None
    linked_only: bool
    memory: int


@dataclass(frozen=True, slots=True)
class BoundedImport:
    """What an import wrote.

    Attributes:
        counts: of users, items, entities, relations and triples, by name.
        notes: of the data set; the first says what a positive is.
    """

    counts: Mapping[str, int]
    notes: tuple[str, ...]


def bytes_of(text: str) -> int:
    """Bytes that such as "4GB", "500 MB" or "1.5GiB" says.

    Raises:
        ConfigError: no such text, or less than 256 MiB.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]I?)?B?\s*", str(text).upper())
    found = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if not LEAST_MEMORY <= found < 1 << 60:
        raise ConfigError(f"--memory: found {text!r}, expected such as 4GB, at least 256MiB")
    return found


def disk_needed(files: Sequence[Path]) -> int:
    """Bytes of disk that an import of such files may need, an estimate from above."""
    total = 0.0
    for path in files:
        if not path.is_file():
            continue  # a pipe, of which nothing may be read twice
        try:
            with path.open("rb") as file:
                head = file.read(6)
        except OSError:
            continue  # whoever reads it says why
        packed = head.startswith((b"PAR1", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
        total += path.stat().st_size * (_PACKED if packed else _TEXT)
    return int(total) + (64 << 20)


@contextmanager
def work_on_disk(out: Path) -> Iterator[None]:
    """Context of an import within a bound, which ends in words where memory or disk are too little.

    Args:
        out: the folder that is written.

    Raises:
        ConfigError: instead of what the engine or the system raises.
    """
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise ConfigError(
            f"--memory: found too little for this ({first_line(error)}), expected more"
        ) from None
    except (OSError, duckdb.IOException) as error:
        said = first_line(error) if isinstance(error, duckdb.Error) else reason(error)
        raise ConfigError(f"{out} cannot be written ({said})") from error


def import_bounded(
    request: Request,
    out: Path,
    check: Callable[[tuple[dict[str, Any], ...], tuple[Finding, ...], tuple[Stop, ...]], Report],
    *,
    overwrite: bool,
    tell: Stage,
) -> tuple[BoundedImport, Report]:
    """Import within a bound of memory.

    Args:
        request: what.
        out: the folder to write.
        check: makes the report of files, findings and stops, and raises where it stops.
        overwrite: replace a data set that was imported to `out` before.
        tell: called with what is done next, in words.

    Raises:
        ConfigError: too little disk, a format that is not read so, or a folder that cannot be
            written.
        DataError: files that cannot be read, with line, column and finding.
    """
    files = {
        table: [found for path in paths for found in files_of(path, table)]
        for table, paths in request.files.items()
    }
    parts = {
        part: files.pop(table) for part, table in _PART_TABLES.items() if table in request.files
    }
    files = {"interactions": [one for several in parts.values() for one in several], **files}
    place = place_of(out)
    with work_on_disk(out):
        place.parent.mkdir(parents=True, exist_ok=True)
        needed = disk_needed([path for some in files.values() for path, _ in some])
        free = shutil.disk_usage(place.parent).free
        tell(
            f"needs up to {needed / 1e9:,.1f} GB of disk at {place.parent}, {free / 1e9:,.1f} free"
        )
        if needed > free:
            raise ConfigError(
                f"{place.parent}: found {free / 1e9:,.1f} GB of free disk, expected"
                f" {needed / 1e9:,.1f} GB for the import"
            )
        with beside(place) as folder, bounded_session(folder, request.memory) as connection:
            ends = {part: len(several) for part, several in parts.items()}
            work = _Work(connection, request, files, ends, tell)
            work.load()
            work.number()
            tell("checking")
            sources = work.sources()
            findings, stops = examine_tables(connection, sources)
            report = check(tuple(each.as_dict() for each in work.loaded()), findings, stops)
            facts, counts = work.facts(out.name), work.counts()
            tell("writing")

            def write(part: Path) -> Mapping[str, Any]:
                named = work.write(part)
                connection.close()  # because the graph is made after this, and needs the memory
                return {**facts, "named": named, **report.as_dict()}

            write_folder(out, write, overwrite=overwrite, memory=request.memory // 4)
            return BoundedImport(counts, tuple(facts["notes"])), report


class _Work:
    """Tables of one import."""

    def __init__(
        self,
        connection: DuckDBPyConnection,
        request: Request,
        files: Mapping[str, Sequence[tuple[Path, dict[str, str]]]],
        parts: Mapping[str, int],
        tell: Stage,
    ) -> None:
        """Hold what is to be imported; `parts` has the number of interactions' files by part."""
        self._connection = connection
        self._request = request
        self._files = files
        self._parts = parts
        self._tell = tell
        self._loaded: dict[str, list[Loaded]] = {}
        self._threshold = request.threshold
        self._more: tuple[str, ...] = ()
        self._timed = False

    def _ask(self, select: str) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self._connection.execute(select).fetchall()[0]
        return found

    def _do(self, *scripts: str) -> None:
        for script in scripts:
            self._connection.execute(script)

    # ---- reading -----------------------------------------------------------------------------

    def load(self) -> None:
        """Read all files."""
        request = self._request
        for table, files in self._files.items():
            into = table if table in ("interactions", "kg", "links") else f"given_{table}"
            skip = ["label"] if table == "interactions" and request.threshold is not None else []
            done: list[Loaded] = []
            for path, constants in files:
                self._tell(f"reading {path.name}")
                done.append(
                    load_file(
                        self._connection,
                        path,
                        table,
                        request.told[table],
                        into=into,
                        roles=done[-1].roles if done else None,
                        skip=skip,
                        wishes=request.wishes,
                        constants=constants,
                    )
                )
            self._loaded[table] = done
            if table == "interactions":
                self._choose_threshold()
                self._expect_times()
        for table in ("users", "items", "entities"):
            if table in self._files:
                roles = self._loaded[table][0].roles
                key = next(role for role in roles if role != "name")
                if key != "id":
                    self._do(f'ALTER TABLE given_{table} RENAME COLUMN "{key}" TO id')
                name = "name" if "name" in roles else "NULL::VARCHAR"
                self._do(statements.DISTINCT_NAMES.format(table=table, name=name))
            else:
                self._do(f"CREATE TABLE {table} (id VARCHAR, name VARCHAR)")
        if "kg" not in self._files:
            self._do("CREATE TABLE kg (head VARCHAR, relation VARCHAR, tail VARCHAR)")
        if request.linked_only:
            self._leave_out()

    def loaded(self) -> list[Loaded]:
        """Files in the order of the report."""
        return [each for several in self._loaded.values() for each in several]

    def _choose_threshold(self) -> None:
        first = self._loaded["interactions"][0]
        roles, path = first.roles, first.part.path
        if self._threshold is None:
            if "rating" in roles and "label" not in roles:
                low, high, halves, whole = self._ask(
                    "SELECT min(rating), max(rating), bool_and(2 * rating = round(2 * rating)),"
                    " bool_and(rating = round(rating)) FROM interactions"
                )
                self._threshold = threshold_of_scale(low, high, halves=halves, whole=whole)
        elif "rating" not in roles:
            form = first.part.form
            shown = ", ".join(match.column for match in first.matches)
            raise DataError.about(
                path,
                1 if form is not None and form.header else None,
                f"columns {shown}",
                "one of ratings for --threshold: --rating COLUMN",
            )

    def _expect_times(self) -> None:
        """Raise where a row has no time, and the user says which column has them."""
        if not self._with_times or "time" not in self._request.told["interactions"]:
            return
        row = self._ask("SELECT min(rowid) FROM interactions WHERE time IS NULL")[0]
        if row is not None:
            raise self._error("interactions", row, *NO_TIME)

    def _leave_out(self) -> None:
        """Keep the rows of known items only."""
        known = "SELECT item FROM links"
        if "links" not in self._files:
            known = "SELECT head AS item FROM kg UNION ALL SELECT tail FROM kg"
        rows, items = self._ask(
            "SELECT count(*), count(DISTINCT item) FROM interactions"
            f" ANTI JOIN ({known}) USING (item)"
        )
        path = self._loaded["interactions"][0].part.path
        if rows == self._ask("SELECT count(*) FROM interactions")[0]:
            item, other = self._ask(
                "SELECT (SELECT item FROM interactions LIMIT 1),"
                f" (SELECT item FROM ({known}) LIMIT 1)"
            )
            found = f"no row of an item with a link (such as {item!r}, where links have {other!r})"
            raise DataError.about(path, None, found, "some")
        self._do(
            f"CREATE TABLE kept AS SELECT *, rowid AS place FROM interactions"
            f" SEMI JOIN ({known}) USING (item) ORDER BY place",
            "DROP TABLE interactions",
            "ALTER TABLE kept RENAME TO interactions",
        )
        self._more = (f"items without a link, left out: {items:,} with {rows:,} rows",)

    @property
    def _labelled(self) -> bool:
        return "label" in self._loaded["interactions"][0].roles

    @property
    def _graded(self) -> bool:
        return "rating" in self._loaded["interactions"][0].roles and not self._labelled

    @property
    def _with_times(self) -> bool:
        return "time" in self._loaded["interactions"][-1].roles

    @property
    def _split(self) -> bool:
        return "test" in self._parts

    def _part(self) -> str:
        """Part of a row of interactions in SQL, which its place tells."""
        if not self._split:
            return "1"
        place = "i.place" if self._more else "i.rowid"
        loaded, shown, first, end = self._loaded["interactions"], "", 0, 0
        for part, count in self._parts.items():
            end += sum(each.part.rows for each in loaded[first : first + count])
            first += count
            shown += f" WHEN {place} < {end} THEN {PARTS[part]}"
        return f"CASE{shown} END"

    def sources(self) -> Sources:
        """Paths, and what is asked for."""
        return Sources(
            {table: several[0].part.path for table, several in self._loaded.items()},
            graded=self._graded,
            labelled=self._labelled,
            with_times=self._with_times,
            threshold=self._threshold,
        )

    # ---- numbering ---------------------------------------------------------------------------

    def number(self) -> None:
        """Number users, items, entities and relations, and all rows with them."""
        self._tell("numbering items and users")
        self._do(statements.ITEM_NUMBERS)
        positive = "true"
        if self._graded and self._threshold is not None:
            positive = f"rating >= {self._threshold!r}"
        if self._labelled:
            self._expect_consistent()
        self._do(statements.USER_NUMBERS.format(positive=positive))
        if not self._ask("SELECT count(*) FROM user_number")[0]:
            high = self._ask("SELECT max(rating) FROM interactions")[0]
            path = self._loaded["interactions"][0].part.path
            raise DataError.about(
                path, None, f"ratings up to {high:g}", f"some >= {self._threshold:g}"
            )
        self._tell("numbering interactions")
        if self._with_times:
            self._timed = self._ask("SELECT count(*) = count(time) FROM interactions")[0]
        time = "time" if self._timed else "NULL::DOUBLE"
        part = self._part()
        if self._labelled:
            self._do(statements.LABELLED_PAIRS.format(time=time, part=part))
        else:
            rating = "rating" if self._graded else "NULL::DOUBLE"
            self._do(
                statements.PAIRS.format(rating=rating, time=time, positive=positive, part=part)
            )
        self._tell("numbering entities")
        self._do(statements.ENTITY_TEXTS)
        if "links" in self._files:
            self._expect_one_entity()
            self._do(statements.FIRST_LINKS)
        else:
            self._do(statements.ITEMS_AS_LINKS)
        self._do(
            statements.LINKED,
            statements.OTHER_ENTITIES,
            statements.ENTITY_NUMBERS,
            statements.RELATION_NUMBERS,
        )
        if not self._ask("SELECT count(*) FROM relation_number")[0]:
            self._do(f"INSERT INTO relation_number VALUES ('{NO_RELATION}')")
        self._tell("numbering triples")
        self._do(statements.TRIPLES)

    def _expect_consistent(self) -> None:
        """Raise where a row labels a (user, item) otherwise than an earlier one."""
        clash = self._connection.execute(
            'SELECT i.rowid, i.label, i."user", i.item FROM interactions i JOIN'
            ' (SELECT "user", item, arg_min(label, rowid) AS label FROM interactions'
            ' GROUP BY "user", item HAVING min(label) <> max(label)) f'
            ' ON i."user" = f."user" AND i.item = f.item WHERE i.label <> f.label'
            " ORDER BY i.rowid LIMIT 1"
        ).fetchall()
        if clash:
            row, label, user, item = clash[0]
            raise self._error(
                "interactions",
                row,
                f"label {label} for user {user}, item {item}",
                f"{1 - label} as in an earlier line",
            )

    def _expect_one_entity(self) -> None:
        """Raise where an item is linked to two entities."""
        again = self._connection.execute(
            "SELECT l.rowid, l.item, l.entity, f.entity FROM links l JOIN"
            " (SELECT item, arg_min(entity, rowid) AS entity FROM links GROUP BY item) f"
            " ON l.item = f.item WHERE l.entity <> f.entity ORDER BY l.rowid LIMIT 1"
        ).fetchall()
        if again:
            row, item, entity, kept = again[0]
            raise self._error(
                "links",
                row,
                f"item {item} with entity {entity}",
                f"entity {kept} as in an earlier line",
            )

    def _error(self, table: str, row: int, found: str, expected: str) -> DataError:
        if table == "interactions" and self._more:  # rows were left out
            row = self._ask(f"SELECT place FROM interactions WHERE rowid = {row}")[0]
        parts = tuple(each.part for each in self._loaded[table])
        return Sheet(parts[0].path, Frame({}, {}), parts).error(row, found, expected)

    # ---- writing -----------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Counts by name."""
        users, items, others, relations, triples = self._ask(
            "SELECT (SELECT count(*) FROM user_number), (SELECT count(*) FROM item_number),"
            " (SELECT count(*) FROM other_entity), (SELECT count(*) FROM relation_number),"
            " (SELECT count(*) FROM triple)"
        )
        return {
            "users": users,
            "items": items,
            "entities": items + others,
            "relations": relations,
            "triples": triples,
        }

    def facts(self, name: str) -> dict[str, Any]:
        """Manifest without format and report."""
        positives = "label = 1"
        if not self._labelled:
            positives = told_threshold(self._threshold, self._request.threshold)
        notes = [f"positives: {positives}", self._times()]
        notes += [note for each in self.loaded() for note in each.notes]
        counts = self.counts()
        return {
            "name": name,
            **{table: counts[table] for table in ("users", "items", "entities", "relations")},
            "threshold": None if self._labelled else self._threshold,
            "source": "imported from " + ", ".join(e.part.path.name for e in self.loaded()),
            "notes": [*notes, *self._more],
            **({"repeated": self._repeated()} if self._split else {}),
        }

    def _repeated(self) -> int:
        return int(self._ask(statements.REPEATED.format(part=self._part()))[0])

    def _times(self) -> str:
        low = high = None
        if self._timed:
            low, high = self._ask("SELECT min(time), max(time) FROM pair")
        return times_note(low, high)

    def write(self, folder: Path) -> list[str]:
        """Write all files of the data set but the graph's; returns the tables that have names."""
        pairs = {"user": '"user"', "item": "item", "label": "label"}
        if not self._labelled:
            del pairs["label"]
            pairs["positive"] = (
                "true" if self._threshold is None else f"rating >= {self._threshold!r}"
            )
            if self._graded:
                pairs["rating"] = "rating"
        if self._timed:
            pairs["time"] = "time"
        if self._split:
            pairs["part"] = "part"
        triples = {column: column for column in TRIPLE_COLUMNS}
        for table, file, columns, kinds in (
            ("pair", "interactions", pairs, PAIR_COLUMNS),
            ("triple", "triples", triples, TRIPLE_COLUMNS),
        ):
            paths = {name: folder / column_file(file, name) for name in columns}
            write_columns(self._connection, table, columns, kinds, paths)
        items = "SELECT rowid AS number, text FROM item_number"
        named = "SELECT {} FROM ({}) a LEFT JOIN {} b ON a.text = b.id{} ORDER BY a.number"
        id_name = "text AS id, nullif(name, '') AS name"
        entities = (
            "SELECT n.rowid AS number, coalesce(l.text, '') AS text FROM item_number n"
            " LEFT JOIN linked l ON l.number = n.rowid UNION ALL"
            " SELECT (SELECT count(*) FROM item_number) + rowid, text FROM other_entity"
        )
        # An item without a name of its own shows its entity's.
        own = "a.text AS id, coalesce(nullif(b.name, ''), nullif(e.name, '')) AS name"
        entity_of = (
            " LEFT JOIN linked l ON l.number = a.number LEFT JOIN entities e ON e.id = l.text"
        )
        tables_with_names = []
        for file, select in (
            ("items", named.format(own, items, "items", entity_of)),
            (
                "users",
                named.format(id_name, "SELECT rowid AS number, text FROM user_number", "users", ""),
            ),
            ("entities", named.format(id_name, entities, "entities", "")),
            (
                "relations",
                "SELECT text AS id, text AS name FROM relation_number ORDER BY rowid",
            ),
        ):
            copy_rows(self._connection, select, folder / f"{file}.parquet")
            if self._ask(f"SELECT count(name) FROM ({select})")[0]:
                tables_with_names.append(file)
        return tables_with_names
