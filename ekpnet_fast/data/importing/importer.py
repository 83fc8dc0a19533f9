"""Import of a user's own files into a folder that can be trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ekpnet_fast.data.formats.assemble import Assembled, assemble
from ekpnet_fast.data.formats.engine import session
from ekpnet_fast.data.formats.frames import Frame
from ekpnet_fast.data.formats.imported import expect_free, write_imported
from ekpnet_fast.data.formats.mapping import no_triples
from ekpnet_fast.data.formats.opened import check_encoding
from ekpnet_fast.data.formats.split import PARTS, split_of_rows
from ekpnet_fast.data.formats.stars import default_threshold, told_threshold
from ekpnet_fast.data.formats.times import pair_times
from ekpnet_fast.data.importing.checks import NO_TIME, Stop, examine, times_note
from ekpnet_fast.data.importing.columns import TABLES
from ekpnet_fast.data.importing.sniff import check_separator
from ekpnet_fast.data.importing.sources import (
    Reading,
    Wishes,
    files_of,
    join_readings,
    read_source,
)
from ekpnet_fast.data.stats import Finding
from ekpnet_fast.data.tables import Dataset, GivenSplit
from ekpnet_fast.errors import ConfigError, DataError

Names: TypeAlias = Mapping[str, str | None]
"""Names by id, in the order of the file; None where there is none."""

Files: TypeAlias = str | Path | Sequence[str | Path]
"""A file of a table, a folder of such, or several."""

__all__ = [
    "BoundedImported",
    "ImportReport",
    "Imported",
    "UnfitDataError",
    "import_bounded_dataset",
    "import_dataset",
]


@dataclass(frozen=True, slots=True)
class ImportReport:
    """Report of an import: how files were read, and findings in them.

    Attributes:
        files: per file: path, rows, form, columns (role, column, how it was found), notes.
        findings: worth knowing.
        stops: reasons not to train on it.
    """

    files: tuple[dict[str, Any], ...]
    findings: tuple[Finding, ...]
    stops: tuple[Stop, ...]

    def as_dict(self) -> dict[str, Any]:
        """Report as plain JSON values."""
        return {
            "files": list(self.files),
            "findings": [
                {"name": f.name, "count": f.count, "meaning": f.meaning} for f in self.findings
            ],
            "forced": [stop.message for stop in self.stops],
        }


class UnfitDataError(DataError):
    """Data that can be read but not sensibly trained on; carries the report."""

    def __init__(self, report: ImportReport) -> None:
        """Make the message of all reasons, and note whether they can be overridden."""
        super().__init__("; ".join(stop.message for stop in report.stops))
        self.report = report
        self.forceable = all(stop.forceable for stop in report.stops)


@dataclass(frozen=True, slots=True)
class Imported:
    """Imported data set, with the report of its import."""

    dataset: Dataset
    report: ImportReport


@dataclass(frozen=True, slots=True)
class BoundedImported:
    """Data set imported within a bound of memory, which is not in it, with the report.

    Attributes:
        counts: of users, items, entities, relations and triples.
        notes: of the data set; the first says what a positive is.
        report: of the import.
    """

    counts: Mapping[str, int]
    notes: tuple[str, ...]
    report: ImportReport


def import_bounded_dataset(
    out: str | Path,
    memory: str,
    *,
    interactions: Files,
    kg: Files | None = None,
    links: Files | None = None,
    users: Files | None = None,
    items: Files | None = None,
    entities: Files | None = None,
    valid: Files | None = None,
    test: Files | None = None,
    columns: Mapping[str, str] | None = None,
    threshold: float | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    header: bool | None = None,
    linked_only: bool = False,
    force: bool = False,
    overwrite: bool = False,
    on_stage: Callable[[str], None] | None = None,
) -> BoundedImported:
    """Import as `import_dataset` does, within a bound of memory, text tables and Parquet only.

    Args:
        out: the folder to write; beside it is what does not fit into memory.
        memory: such as "4GB".
        interactions, kg, links, users, items, entities, valid, test, columns, threshold, separator,
            encoding, header, linked_only, force, overwrite: as `import_dataset` takes them.
        on_stage: called with what is done next, in words.

    Raises:
        ConfigError, UnfitDataError, DataError: as `import_dataset`; too little disk or memory.
    """
    from ekpnet_fast.data.importing.bounded import Request, bytes_of, import_bounded

    out, bound = Path(out), bytes_of(memory)
    expect_free(out, overwrite=overwrite)
    told = _told(columns or {})
    wishes = _wishes(separator, encoding, header)
    files: dict[str, list[Path]] = {}
    for table, given in (
        ("interactions", interactions),
        ("valid", valid),
        ("test", test),
        ("kg", kg),
        ("links", links),
        ("users", users),
        ("items", items),
        ("entities", entities),
    ):
        if given is not None:
            files[table] = [Path(path) for path in _several(table, given)]
        elif told.get(table):
            raise ConfigError(f"{_flag(table, told)}: found it without a file of --{table}")
    _expect_one_of(threshold, told)
    _expect_test(valid, test)
    _expect_graph(kg, links, linked_only)

    def check(
        read: tuple[dict[str, Any], ...], findings: tuple[Finding, ...], stops: tuple[Stop, ...]
    ) -> ImportReport:
        report = ImportReport(read, findings, stops)
        _expect_fit(report, force=force)
        return report

    request = Request(files, told, wishes, threshold, linked_only, bound)
    done, report = import_bounded(
        request, out, check, overwrite=overwrite, tell=on_stage or (lambda stage: None)
    )
    return BoundedImported(done.counts, done.notes, report)


def import_dataset(
    out: str | Path,
    *,
    interactions: Files,
    kg: Files | None = None,
    links: Files | None = None,
    users: Files | None = None,
    items: Files | None = None,
    entities: Files | None = None,
    valid: Files | None = None,
    test: Files | None = None,
    columns: Mapping[str, str] | None = None,
    threshold: float | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    header: bool | None = None,
    language: str = "en",
    lenient: bool = False,
    linked_only: bool = False,
    force: bool = False,
    overwrite: bool = False,
) -> Imported:
    """Read files, check them, and write a folder that ``load_dataset`` loads.

    Args:
        out: the folder to write.
        interactions: user, item and, if any, label (1 = clicked, 0 = not) or rating, and time;
            as every table one file, several, or a folder of such.
        kg: head, relation, tail; RDF (N-Triples, N-Quads, Turtle, TriG, RDF/XML, JSON-LD) has names
            as well. None for no graph.
        links: item, entity; without it an item is the entity of the same id.
        users: ids and names; their order is that of the numbers.
        items: the same, of items that belong to the catalogue, clicked or not.
        entities: the same.
        valid, test: interactions to choose on and to test on, of data that are split already; those
            of ``interactions`` are the train part then. ``valid`` is not needed.
        columns: column by option (user, item, label, rating, time, head, relation, tail,
            links_item, links_entity, users_id, users_name, ...): a name, or a place from 1, which
            a number always is. Others are guessed, and the report says how.
        threshold: smallest rating that is a positive. Without it 4 of five stars, and all ratings
            on other scales (see `stars.default_threshold`).
        separator: of text tables; guessed for each when None.
        encoding: of text tables, unless a byte order mark says otherwise.
        header: whether text tables have names in their first record; found for each when None.
        language: of the labels preferred in RDF.
        lenient: take IRIs in RDF as they are, and leave out what cannot be read, with a count.
        linked_only: leave out items that the links (without links, the triples) do not know, with
            their rows.
        force: go on where a check says that training makes little sense.
        overwrite: replace a data set that was imported to ``out`` before.

    Raises:
        ConfigError: options that do not go together, or a folder that cannot be written.
        UnfitDataError: data that would make training meaningless.
        DataError: files that cannot be read, with line, column and finding.
    """
    out = Path(out)
    expect_free(out, overwrite=overwrite)
    told = _told(columns or {})
    wishes = replace(_wishes(separator, encoding, header), language=language, lenient=lenient)

    def read(table: str, files: Files, skip: Sequence[str] = ()) -> list[Reading]:
        paths = _several(table, files)
        with session():
            return [
                read_source(path, table, told[table], skip=skip, wishes=wishes, constants=constants)
                for given in paths
                for path, constants in files_of(Path(given), table)
            ]

    _expect_one_of(threshold, told)
    _expect_test(valid, test)
    skip = [] if threshold is None else ["label"]
    parts = {
        part: read("interactions", files, skip)
        for part, files in (("train", interactions), ("valid", valid), ("test", test))
        if files is not None
    }
    click_files = [reading for several in parts.values() for reading in several]
    clicks = join_readings(click_files)
    if test is not None:
        clicks = _with_parts(clicks, parts)
    asked, threshold = threshold, _threshold(clicks, threshold)
    _expect_graph(kg, links, linked_only)
    optional: dict[str, list[Reading]] = {}
    for table, files in (
        ("kg", kg),
        ("links", links),
        ("users", users),
        ("items", items),
        ("entities", entities),
    ):
        if files is not None:
            optional[table] = read(table, files)
        elif told[table]:
            raise ConfigError(f"{_flag(table, told)}: found it without a file of --{table}")

    graphs = optional.pop("kg", [])
    graph_sheet = join_readings(graphs).sheet if graphs else no_triples(clicks.sheet.path)
    link_sheet = join_readings(optional["links"]).sheet if "links" in optional else None
    _expect_times(clicks, told["interactions"])
    if linked_only:
        known = (
            [graph_sheet.frame.texts[end] for end in ("head", "tail")]
            if link_sheet is None
            else [link_sheet.frame.texts["item"]]
        )
        clicks = _linked(clicks, {text: None for column in known for text in column.seen()})
    named = {table: _names(optional.get(table)) for table in ("users", "items", "entities")}
    assembled = assemble(
        out.name,
        clicks.sheet,
        graph_sheet,
        link_sheet,
        threshold=threshold,
        **{table: None if names is None else list(names) for table, names in named.items()},
    )
    readings = [*click_files, *graphs, *(r for several in optional.values() for r in several)]
    notes = tuple(note for note in clicks.notes if note not in click_files[0].notes)
    times = pair_times(assembled.dataset, clicks.sheet.frame, "time", threshold)
    split = _split(assembled.dataset, clicks.sheet.frame, parts) if test is not None else None
    assembled = replace(assembled, dataset=replace(assembled.dataset, times=times, split=split))
    labelled = assembled.dataset.rows is not None
    positives = "label = 1" if labelled else told_threshold(threshold, asked)
    dataset = _described(assembled, named, graphs, readings, positives, notes)
    given = {
        table: (optional[table][0].sheet.path, names)
        for table, names in named.items()
        if names is not None
    }
    findings, stops = examine(assembled, clicks.sheet, graph_sheet, link_sheet, given)
    report = ImportReport(tuple(_as_dict(reading) for reading in readings), findings, stops)
    _expect_fit(report, force=force)
    write_imported(dataset, out, report.as_dict(), overwrite=overwrite)
    return Imported(dataset, report)


def _wishes(separator: str | None, encoding: str, header: bool | None) -> Wishes:
    checked = None if separator is None else check_separator(separator)
    return Wishes(checked, check_encoding(encoding), header)


def _several(table: str, files: Files) -> Sequence[str | Path]:
    paths = [files] if isinstance(files, str | Path) else files
    if not paths:
        raise ConfigError(f"{table}: found no file, expected one or more")
    return paths


def _expect_one_of(threshold: float | None, told: Mapping[str, Mapping[str, str]]) -> None:
    if threshold is not None and not math.isfinite(threshold):
        raise ConfigError(f"--threshold: found {threshold}, expected a finite number")
    if threshold is not None and "label" in told["interactions"]:
        raise ConfigError("--threshold: found it with --label, expected one of the two")


def _expect_test(valid: Files | None, test: Files | None) -> None:
    if valid is not None and test is None:
        raise ConfigError("--valid: found it without a file of --test, expected both, or --test")


def _expect_graph(kg: Files | None, links: Files | None, linked_only: bool) -> None:
    """Raise where something is said about a graph that is not there."""
    for flag, given in (("--links", links is not None), ("--linked-only", linked_only)):
        if kg is None and given:
            raise ConfigError(f"{flag}: found it without a file of --kg, expected both or neither")


def _with_parts(clicks: Reading, parts: Mapping[str, Sequence[Reading]]) -> Reading:
    """Interactions with the part of each row in a column `part`."""
    sheet = clicks.sheet
    rows = [sum(len(r.sheet.frame) for r in several) for several in parts.values()]
    column = np.repeat([PARTS[part] for part in parts], rows)
    frame = Frame(sheet.frame.texts, {**sheet.frame.numbers, "part": column})
    return replace(clicks, sheet=replace(sheet, frame=frame))


def _split(dataset: Dataset, clicks: Frame, parts: Iterable[str]) -> GivenSplit:
    part = clicks.numbers["part"]
    return split_of_rows(dataset, {name: clicks.take(part == PARTS[name]) for name in parts})


def _expect_fit(report: ImportReport, *, force: bool) -> None:
    """Raise UnfitDataError where the checks stop an import."""
    if any(not stop.forceable for stop in report.stops) or (report.stops and not force):
        raise UnfitDataError(report)


def _told(columns: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Columns by table and role."""
    roles = {role.option: (table, role.name) for table, rs in TABLES.items() for role in rs}
    told: dict[str, dict[str, str]] = {table: {} for table in TABLES}
    for option, column in columns.items():
        if option not in roles:
            raise ConfigError(f"columns: found {option!r}, expected one of {', '.join(roles)}")
        table, role = roles[option]
        told[table][role] = column
    return told


def _flag(table: str, told: Mapping[str, Mapping[str, str]]) -> str:
    return next(role.flag for role in TABLES[table] if role.name in told[table])


def _threshold(clicks: Reading, threshold: float | None) -> float | None:
    sheet = clicks.sheet
    path, columns = sheet.path, sheet.frame.columns
    if threshold is None:
        graded = "rating" in columns and "label" not in columns
        return default_threshold(sheet.frame.numbers["rating"]) if graded else None
    if "rating" not in columns:
        form = sheet.parts[0].form
        line = 1 if form is not None and form.header else None
        shown = ", ".join(match.column for match in clicks.matches)
        raise DataError.about(
            path, line, f"columns {shown}", "one of ratings for --threshold: --rating COLUMN"
        )
    return threshold


def _expect_times(clicks: Reading, told: Mapping[str, str]) -> None:
    """Raise where a row has no time, and the user says which column has them."""
    times = clicks.sheet.frame.numbers.get("time")
    if times is not None and "time" in told and np.isnan(times).any():
        raise clicks.sheet.error(int(np.isnan(times).argmax()), *NO_TIME)


def _linked(clicks: Reading, known: Mapping[str, None]) -> Reading:
    """Rows of known items."""
    frame = clicks.sheet.frame
    items = frame.texts["item"]
    kept = items.through([text in known for text in items.distinct]) == 1
    if not kept.any():
        path, other = clicks.sheet.path, next(iter(known))
        found = f"no row of an item with a link (such as {items[0]!r}, where links have {other!r})"
        raise DataError.about(path, None, found, "some")
    note = (
        f"items without a link, left out: {len(items.take(~kept).order()):,}"
        f" with {int((~kept).sum()):,} rows"
    )
    sheet = replace(clicks.sheet, frame=frame.take(kept), places=np.flatnonzero(kept))
    return replace(clicks, sheet=sheet, notes=(*clicks.notes, note))


def _names(readings: Sequence[Reading] | None) -> Names | None:
    """Names by id, in order; the first row of an id counts."""
    if readings is None:
        return None
    named: dict[str, str | None] = {}
    for reading in readings:
        texts = reading.sheet.frame.texts
        key = next(iter(role for role in texts if role != "name"))
        names = texts["name"].to_list() if "name" in texts else [None] * len(texts[key])
        for text, name in zip(texts[key].to_list(), names, strict=True):
            if text is not None:
                named.setdefault(text, name)
    return named


def _described(
    assembled: Assembled,
    named: Mapping[str, Names | None],
    graphs: Sequence[Reading],
    readings: Sequence[Reading],
    positives: str,
    more: Sequence[str],
) -> Dataset:
    """Data set with names for display, source and notes."""
    dataset = assembled.dataset
    assert dataset.entity_ids is not None
    labels = [named["entities"], *(graph.labels for graph in graphs)]
    entity_names = _joined(dataset.entity_ids, labels)
    item_names = _joined(dataset.item_ids, [named["items"]])
    if entity_names is not None:
        # An item without a name of its own shows its entity's.
        own = item_names or ("",) * dataset.num_items
        item_names = tuple(a or b for a, b in zip(own, entity_names, strict=False))
    times = dataset.times
    ends = (None, None) if times is None else (float(times.min()), float(times.max()))
    read = (note for reading in readings for note in reading.notes)
    notes = (f"positives: {positives}", times_note(*ends), *read, *more)
    return replace(
        dataset,
        relation_ids=dataset.relation_names,
        user_names=_joined(dataset.user_ids, [named["users"]]),
        item_names=item_names if item_names is not None and any(item_names) else None,
        entity_names=entity_names,
        relation_names=tuple(
            name or key
            for name, key in zip(
                _joined(dataset.relation_names, labels[1:]) or dataset.relation_names or (),
                dataset.relation_names or (),
                strict=True,
            )
        ),
        source="imported from " + ", ".join(r.sheet.path.name for r in readings),
        notes=notes,
    )


def _joined(ids: Sequence[str] | None, tables: Sequence[Names | None]) -> tuple[str, ...] | None:
    """Name of each id by the first table that has one, "" for none; None without any."""
    found = [table for table in tables if table]
    if ids is None or not found:
        return None
    names = tuple(next((name for t in found if (name := t.get(key))), "") for key in ids)
    return names if any(names) else None


def _as_dict(reading: Reading) -> dict[str, Any]:
    return {
        "path": str(reading.sheet.path),
        "rows": len(reading.sheet.frame),
        "form": reading.form,
        "columns": [
            {"role": match.role, "column": match.column, "how": match.how}
            for match in reading.matches
        ],
        "notes": list(reading.notes),
    }
