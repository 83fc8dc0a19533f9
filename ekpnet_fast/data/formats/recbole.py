"""Atomic files of RecBole: tab-separated, with a header of ``name:type`` fields.

Read are ``*.inter`` and, if present, ``*.kg`` with ``*.link``, and ``*.item``. Where the data are
split, ``*.train.inter``, ``*.test.inter`` and, if present, ``*.valid.inter`` take the place of
``*.inter`` (RecBole's ``benchmark_filename``). Items are those with an interaction. The whole
``.kg`` is kept: an item that ``.link`` ties to an entity takes that entity's triples, an item
without a link stays without triples, and a link of an item without interactions leaves its entity
an ordinary one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ekpnet_fast.data.formats.assemble import assemble
from ekpnet_fast.data.formats.frames import Frame
from ekpnet_fast.data.formats.mapping import LABEL, Part, Sheet, no_triples
from ekpnet_fast.data.formats.opened import ENDINGS, packed_or_not
from ekpnet_fast.data.formats.parse import Column, Form, Kind, read_first_line, read_table
from ekpnet_fast.data.formats.split import PARTS, split_of_rows
from ekpnet_fast.data.formats.stars import default_threshold, told_threshold
from ekpnet_fast.data.formats.times import pair_times
from ekpnet_fast.data.tables import Dataset
from ekpnet_fast.errors import DataError

__all__ = [
    "has_recbole",
    "has_recbole_split",
    "header_names",
    "load_recbole",
    "read_header",
]

_TYPES = ("token", "token_seq", "float", "float_seq")
_COLUMN_KINDS: dict[str, Kind] = {"rating": "float", "timestamp": "time"}


def has_recbole(folder: Path) -> bool:
    """Whether the folder holds a ``.inter`` file."""
    return any(_all(folder, ".inter"))


def has_recbole_split(folder: Path) -> bool:
    """Whether the folder holds a ``.train.inter`` file."""
    return bool(_all(folder, ".train.inter"))


def load_recbole(folder: Path, name: str, threshold: float | None = None) -> Dataset:
    """Read a folder of atomic files.

    Users and items are numbered by first appearance in ``.inter``; the remaining entities by first
    appearance in ``.kg``. Users without positives are dropped.

    Args:
        folder: of the files.
        name: of the data set.
        threshold: smallest rating that is a positive; without it 4 of five stars, and every
            interaction on other scales (see `stars.default_threshold`). Needs a ``rating`` column.
            Where there is a ``label`` column (1 or 0), rows are labelled by it and no threshold
            applies.

    Raises:
        DataError: a missing or broken file, with line and finding.
    """
    inter_files = _interaction_files(folder)
    inter_file = inter_files["train"]
    graph_files = [_only(folder, end) for end in (".kg", ".link")] if _has_graph(folder) else []
    stem = inter_file.name.rpartition(".inter")[0].removesuffix(".train")
    header = read_header(inter_file)
    labelled = "label" in header
    if labelled and threshold is not None:
        raise DataError.about(inter_file, 1, "a label column", "none beside a threshold")
    if "rating" not in header and threshold is not None:
        raise DataError.about(inter_file, 1, "no rating column", "one for the threshold given")
    graded = "rating" in header and not labelled
    wanted = ["user_id", "item_id"] + ["label"] * labelled + ["rating"] * graded
    if all("timestamp" in read_header(path) for path in inter_files.values()):
        wanted.append("timestamp")
    sheets = {part: _sheet(path, wanted) for part, path in inter_files.items()}
    interactions = _joined(sheets)
    given = threshold
    if graded and threshold is None:
        threshold = default_threshold(interactions.frame.numbers["rating"])
    kg, links = no_triples(inter_file), None
    if graph_files:
        kg = _sheet(graph_files[0], ["head_id", "relation_id", "tail_id"])
        links = _sheet(graph_files[1], ["item_id", "entity_id"])
    built = assemble(name, interactions, kg, links, threshold=threshold)
    item_ids = interactions.frame.texts["item"].seen()
    linked = len({*item_ids} & {*built.links.items})
    return replace(
        built.dataset,
        item_names=_titles(packed_or_not(folder, f"{stem}.item"), item_ids),
        source="RecBole atomic files: "
        + ", ".join(path.name for path in (*inter_files.values(), *graph_files))
        + ("" if graph_files else ", no graph"),
        notes=(
            f"positives: {'label = 1' if labelled else told_threshold(threshold, given)}",
            f"users without positives, dropped: {built.dropped_users}",
            f"items without a link: {len(item_ids) - linked}",
            f"items whose entity an earlier item has: {built.links.shared}",
            *(
                f"{path.name}, not used: the data are split"
                for path in _all(folder, ".inter")
                if path not in inter_files.values()
            ),
        ),
        split=(
            split_of_rows(built.dataset, {part: sheet.frame for part, sheet in sheets.items()})
            if len(sheets) > 1
            else None
        ),
        times=pair_times(built.dataset, interactions.frame, "timestamp", threshold),
    )


def _interaction_files(folder: Path) -> dict[str, Path]:
    """Files of interactions by part; all are in "train" where the data are not split."""
    if not has_recbole_split(folder):
        return {"train": _only(folder, ".inter")}
    return {
        part: _only(folder, f".{part}.inter")
        for part in PARTS
        if part != "valid" or _all(folder, ".valid.inter")
    }


def _joined(sheets: Mapping[str, Sheet]) -> Sheet:
    """Rows of several sheets, one after the other."""
    found = tuple(sheets.values())
    frame = Frame.stack([sheet.frame for sheet in found])
    return Sheet(found[0].path, frame, tuple(part for sheet in found for part in sheet.parts))


def _has_graph(folder: Path) -> bool:
    return bool(_all(folder, ".kg") or _all(folder, ".link"))


def _only(folder: Path, ending: str) -> Path:
    found = _all(folder, ending)
    if len(found) != 1:
        shown = ", ".join(path.name for path in found) or f"no *{ending}"
        raise DataError(f"{folder}: found {shown}, expected one *{ending} file")
    return found[0]


def _all(folder: Path, ending: str) -> list[Path]:
    found = (path for packed in ENDINGS for path in folder.glob(f"*{ending}{packed}"))
    return sorted(path for path in found if path.is_file())


def read_header(path: Path) -> list[str]:
    """Field names from ``name:type``."""
    return header_names(path, read_first_line(path))


def header_names(path: Path, line: str) -> list[str]:
    """Field names from a first line with ``name:type``."""
    names = []
    for field in line.split("\t"):
        name, colon, kind = field.partition(":")
        if not colon or kind not in _TYPES:
            raise DataError.at(path, 1, field, f"name:type with a type of {', '.join(_TYPES)}")
        if name in names:
            raise DataError.about(path, 1, f"column {name!r} twice", "distinct column names")
        names.append(name)
    return names


def _sheet(path: Path, wanted: Sequence[str]) -> Sheet:
    """Columns to keep, named without ``_id``."""
    header = _header_with(path, wanted)
    columns = [
        LABEL
        if name == "label" and name in wanted
        else Column(
            name,
            _COLUMN_KINDS.get(name, "str"),
            optional=name not in wanted,
        )
        for name in header
    ]
    form = Form("\t", header=True)
    frame = read_table(path, columns, separator="\t", header=True, keep=wanted)
    frame = frame.named({name: name.removesuffix("_id") for name in wanted})
    return Sheet(path, frame, (Part(path, len(frame), form),))


def _header_with(path: Path, wanted: Sequence[str]) -> list[str]:
    """Field names of a file that must have these."""
    header = read_header(path)
    missing = [name for name in wanted if name not in header]
    if missing:
        other = "; `ekpnet data import` takes tables whose columns have other names"
        raise DataError.about(
            path,
            1,
            f"no column {missing[0]} in the header",
            ", ".join(wanted) + (other if path.name.count(".inter") else ""),
        )
    return header


def _titles(path: Path, item_ids: Sequence[str]) -> tuple[str, ...] | None:
    """Titles by item from the first column whose name holds "title" or "name", if any."""
    if not path.is_file():
        return None
    header = _header_with(path, ["item_id"])
    title = next((name for name in header if "title" in name or "name" in name), None)
    if title is None:
        return None
    columns = [Column(name, "str", optional=name != "item_id") for name in header]
    table = read_table(path, columns, separator="\t", header=True, keep=("item_id", title))
    keys = table.texts["item_id"].to_list()
    titles = table.texts[title].to_list()
    # Backwards, so that of several the first one stays.
    named = dict(zip(reversed(keys), reversed(titles), strict=True))
    return tuple(named.get(item) or "" for item in item_ids)
