"""Import of a user's own files into a folder that can be trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from ekpnet_fast.data.formats.assemble import Assembled, assemble
from ekpnet_fast.data.formats.imported import expect_free, write_imported
from ekpnet_fast.data.formats.recbole import default_threshold
from ekpnet_fast.data.importing.checks import Stop, examine
from ekpnet_fast.data.importing.columns import TABLES
from ekpnet_fast.data.importing.sources import Reading, read_source
from ekpnet_fast.data.stats import Finding
from ekpnet_fast.data.tables import Dataset
from ekpnet_fast.errors import ConfigError, DataError

__all__ = ["ImportReport", "Imported", "UnfitDataError", "import_dataset"]


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


def import_dataset(
    out: str | Path,
    *,
    interactions: str | Path,
    kg: str | Path | Sequence[str | Path],
    links: str | Path | None = None,
    users: str | Path | None = None,
    items: str | Path | None = None,
    entities: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    threshold: float | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    language: str = "en",
    linked_only: bool = False,
    force: bool = False,
    overwrite: bool = False,
) -> Imported:
    """Read files, check them, and write a folder that ``load_dataset`` loads.

    Args:
        out: the folder to write.
        interactions: user, item and, if any, label (1 = clicked, 0 = not) or rating.
        kg: head, relation, tail, in one file or several; N-Triples have names as well.
        links: item, entity; without it an item is the entity of the same id.
        users: ids and names; their order is that of the numbers.
        items: the same, of items that belong to the catalogue, clicked or not.
        entities: the same.
        columns: column by option (user, item, label, rating, time, head, relation, tail,
            links_item, links_entity, users_id, users_name, ...): a name, or a place from 1. Others
            are guessed, and the report says how.
        threshold: smallest rating that is a positive. Without it all are, but 4 for RecBole files
            named ``ml-*`` or ``movielens*``, as when these are loaded directly.
        separator: of text tables; guessed for each when None.
        encoding: of text tables.
        language: of the labels preferred in N-Triples.
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
    paths = [Path(kg)] if isinstance(kg, str | Path) else [Path(path) for path in kg]
    if not paths:
        raise ConfigError("kg: found no file, expected one or more")
    read = partial(read_source, separator=separator, encoding=encoding, language=language)
    clicked = Path(interactions)
    if threshold is not None and "label" in told["interactions"]:
        raise ConfigError("--threshold: found it with --label, expected one of the two")
    skip = [] if threshold is None else ["label"]
    clicks = read(clicked, "interactions", told["interactions"], skip=skip)
    threshold = _threshold(clicks, threshold)
    graphs = [read(path, "kg", told["kg"]) for path in paths]
    optional: dict[str, Reading] = {}
    for table, path in (
        ("links", links),
        ("users", users),
        ("items", items),
        ("entities", entities),
    ):
        if path is not None:
            optional[table] = read(Path(path), table, told[table])
        elif told[table]:
            raise ConfigError(f"{_flag(table, told)}: found it without a file of --{table}")

    triples = pl.concat([graph.sheet.frame for graph in graphs])
    graph_sheet = replace(graphs[0].sheet, frame=triples)
    link_sheet = optional["links"].sheet if "links" in optional else None
    if linked_only:
        known = triples["head"].append(triples["tail"])
        clicks = _linked(clicks, known if link_sheet is None else link_sheet.frame["item"])
    named = {table: _names(optional.get(table)) for table in ("users", "items", "entities")}
    assembled = assemble(
        out.name,
        clicks.sheet,
        graph_sheet,
        link_sheet,
        threshold=threshold,
        **{table: None if frame is None else frame["id"] for table, frame in named.items()},
    )
    readings = [clicks, *graphs, *optional.values()]
    dataset = _described(assembled, named, graphs, readings, threshold)
    findings, stops = examine(assembled, clicks.sheet, graph_sheet, link_sheet)
    report = ImportReport(tuple(_as_dict(reading) for reading in readings), findings, stops)
    if any(not stop.forceable for stop in stops) or (stops and not force):
        raise UnfitDataError(report)
    write_imported(dataset, out, report.as_dict(), overwrite=overwrite)
    return Imported(dataset, report)


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
    path, columns = clicks.sheet.path, clicks.sheet.frame.columns
    if threshold is None:
        atomic = path.name.removesuffix(".gz").endswith(".inter")
        graded = "rating" in columns and "label" not in columns
        return default_threshold(path.name) if atomic and graded else None
    if "rating" not in columns:
        line = 1 if clicks.sheet.header else None
        shown = ", ".join(match.column for match in clicks.matches)
        raise DataError.about(
            path, line, f"columns {shown}", "one of ratings for --threshold: --rating COLUMN"
        )
    return threshold


def _linked(clicks: Reading, known: pl.Series) -> Reading:
    """Rows of known items."""
    frame = clicks.sheet.frame
    known = known.unique()
    kept = frame["item"].is_in(known.implode())
    if not kept.any():
        path, sample = clicks.sheet.path, frame["item"][0]
        found = f"no row of an item with a link (such as {sample!r}, where links have {known[0]!r})"
        raise DataError.about(path, None, found, "some")
    note = (
        f"items without a link, left out: {frame.filter(~kept)['item'].n_unique():,}"
        f" with {int((~kept).sum()):,} rows"
    )
    sheet = replace(clicks.sheet, frame=frame.filter(kept), places=kept.arg_true())
    return replace(clicks, sheet=sheet, notes=(*clicks.notes, note))


def _names(reading: Reading | None) -> pl.DataFrame | None:
    """Distinct ids with names (null where there is none), in order."""
    if reading is None:
        return None
    frame = reading.sheet.frame
    frame = frame.rename({frame.columns[0]: "id"})
    if "name" not in frame.columns:
        frame = frame.with_columns(name=pl.lit(None, pl.String))
    return frame.select("id", "name").unique("id", keep="first", maintain_order=True)


def _described(
    assembled: Assembled,
    named: Mapping[str, pl.DataFrame | None],
    graphs: Sequence[Reading],
    readings: Sequence[Reading],
    threshold: float | None,
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
    labelled = dataset.rows is not None
    positives = "label = 1" if labelled else "every interaction"
    if threshold is not None:
        positives = f"rating >= {threshold:g}"
    notes = (f"positives: {positives}", *(n for r in readings for n in r.notes))
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


def _joined(
    ids: tuple[str, ...] | None, tables: Sequence[pl.DataFrame | None]
) -> tuple[str, ...] | None:
    """Name of each id by the first table that has one, "" for none; None without any."""
    found = [table.drop_nulls("name") for table in tables if table is not None]
    if ids is None or not any(len(table) for table in found):
        return None
    table = pl.concat(found).unique("id", keep="first", maintain_order=True)
    column = pl.DataFrame({"id": pl.Series(ids, dtype=pl.String)})
    joined = column.join(table, on="id", how="left", maintain_order="left")["name"]
    return tuple(joined.fill_null("").to_list()) if joined.null_count() < len(joined) else None


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
