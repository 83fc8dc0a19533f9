"""Atomic files of RecBole: tab-separated, with a header of ``name:type`` fields.

Read are ``*.inter``, ``*.kg``, ``*.link`` and, if present, ``*.item``. Where the data are split,
``*.train.inter``, ``*.test.inter`` and, if present, ``*.valid.inter`` take the place of ``*.inter``
(RecBole's ``benchmark_filename``). Items are those with an
interaction. The whole ``.kg`` is kept: an item that ``.link`` ties to an entity takes that entity's
triples, an item without a link stays without triples, and a link of an item without interactions
leaves its entity an ordinary one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from ekpnet_fast.data.formats.assemble import assemble
from ekpnet_fast.data.formats.mapping import LABEL, Sheet, index_of
from ekpnet_fast.data.formats.parse import Column, read_first_line, read_table
from ekpnet_fast.data.formats.split import PARTS, given_split
from ekpnet_fast.data.tables import Dataset, GivenSplit
from ekpnet_fast.errors import DataError

__all__ = [
    "default_threshold",
    "has_recbole",
    "has_recbole_split",
    "load_recbole",
    "read_header",
]

_TYPES = ("token", "token_seq", "float", "float_seq")
_DEFAULT_THRESHOLDS = {"ml-": 4.0, "movielens": 4.0}


def has_recbole(folder: Path) -> bool:
    """Whether the folder holds a ``.inter`` file."""
    return any(folder.glob("*.inter"))


def has_recbole_split(folder: Path) -> bool:
    """Whether the folder holds a ``.train.inter`` file."""
    return any(folder.glob("*.train.inter"))


def load_recbole(folder: Path, name: str, threshold: float | None = None) -> Dataset:
    """Read a folder of atomic files.

    Users and items are numbered by first appearance in ``.inter``; the remaining entities by first
    appearance in ``.kg``. Users without positives are dropped.

    Args:
        folder: of the files.
        name: of the data set.
        threshold: smallest rating that is a positive; 4 for files named ``ml-*`` or
            ``movielens*``, else every interaction is one. Needs a ``rating`` column. Where there
            is a ``label`` column (1 or 0), rows are labelled by it and no threshold applies.

    Raises:
        DataError: a missing or broken file, with line and finding.
    """
    inter_files = _interaction_files(folder)
    inter_file = inter_files["train"]
    kg_file, link_file = (_only(folder, end) for end in (".kg", ".link"))
    stem = inter_file.name.removesuffix(".inter").removesuffix(".train")
    header = read_header(inter_file)
    labelled = "label" in header
    if labelled and threshold is not None:
        raise DataError.at(inter_file, 1, "a label column", "none, because a threshold is given")
    if "rating" not in header and threshold is not None:
        raise DataError.at(inter_file, 1, "no rating column", "one, because a threshold is given")
    if "rating" in header and not labelled and threshold is None:
        threshold = default_threshold(stem)
    graded = "rating" in header and not labelled
    wanted = ["user_id", "item_id"] + ["label"] * labelled + ["rating"] * graded
    sheets = {part: _sheet(path, wanted) for part, path in inter_files.items()}
    interactions = _joined(sheets)
    kg = _sheet(kg_file, ["head_id", "relation_id", "tail_id"])
    links = _sheet(link_file, ["item_id", "entity_id"])
    built = assemble(name, interactions, kg, links, threshold=threshold)
    note = "every interaction" if threshold is None else f"rating >= {threshold:g}"
    item_ids = interactions.frame["item"].unique(maintain_order=True)
    linked = item_ids.is_in(built.links.items.implode()).sum()
    return replace(
        built.dataset,
        item_names=_titles(folder / f"{stem}.item", item_ids),
        source="RecBole atomic files: "
        + ", ".join(path.name for path in (*inter_files.values(), kg_file, link_file)),
        notes=(
            f"positives: {'label = 1' if labelled else note}",
            f"users without positives, dropped: {built.dropped_users}",
            f"items without a link: {len(item_ids) - linked}",
            f"items whose entity an earlier item has: {built.links.shared}",
        ),
        split=_split(built.dataset, sheets) if len(sheets) > 1 else None,
    )


def default_threshold(stem: str) -> float | None:
    """Smallest rating that is usually a positive in a data set with this file name."""
    name = stem.lower()
    return next((v for k, v in _DEFAULT_THRESHOLDS.items() if name.startswith(k)), None)


def _interaction_files(folder: Path) -> dict[str, Path]:
    """Files of interactions by part; all are in "train" where the data are not split."""
    if not has_recbole_split(folder):
        return {"train": _only(folder, ".inter")}
    return {
        part: _only(folder, f".{part}.inter")
        for part in PARTS
        if part != "valid" or any(folder.glob("*.valid.inter"))
    }


@dataclass(frozen=True, slots=True, eq=False)
class _JoinedSheet(Sheet):
    """Rows of several sheets, one after the other."""

    sheets: tuple[Sheet, ...] = ()

    def error(self, row: int, found: str, expected: str) -> DataError:
        """An error at a 0-based row, in the file that it came from."""
        for sheet in self.sheets[:-1]:
            if row < len(sheet.frame):
                return sheet.error(row, found, expected)
            row -= len(sheet.frame)
        return self.sheets[-1].error(row, found, expected)


def _joined(sheets: Mapping[str, Sheet]) -> Sheet:
    if len(sheets) == 1:
        return sheets["train"]
    found = tuple(sheets.values())
    frame = pl.concat([sheet.frame for sheet in found])
    return _JoinedSheet(found[0].path, frame, header=True, sheets=found)


def _split(dataset: Dataset, sheets: Mapping[str, Sheet]) -> GivenSplit:
    """Parts of a data set's rows, by the files that have them."""
    pairs = dataset.rows if dataset.rows is not None else dataset.interactions
    assert pairs is not None and dataset.user_ids is not None and dataset.item_ids is not None
    users, items = pl.Series(dataset.user_ids), pl.Series(dataset.item_ids)
    keys = {}
    for part, sheet in sheets.items():
        numbers = pl.DataFrame(
            {
                "user": index_of(sheet.frame["user"], users),
                "item": index_of(sheet.frame["item"], items),
            }
        ).drop_nulls()
        u, i = (numbers[name].to_numpy().astype(np.int64) for name in ("user", "item"))
        keys[part] = u * dataset.num_items + i
    all_pairs = pairs.users.astype(np.int64) * dataset.num_items + pairs.items
    return given_split(all_pairs, keys)


def _only(folder: Path, ending: str) -> Path:
    found = sorted(folder.glob(f"*{ending}"))
    if len(found) != 1:
        shown = ", ".join(path.name for path in found) or f"no *{ending}"
        raise DataError(f"{folder}: found {shown}, expected one *{ending} file")
    return found[0]


def read_header(path: Path) -> list[str]:
    """Field names from ``name:type``."""
    names = []
    for field in read_first_line(path).split("\t"):
        name, colon, kind = field.partition(":")
        if not colon or kind not in _TYPES:
            raise DataError.at(path, 1, field, f"name:type with a type of {', '.join(_TYPES)}")
        names.append(name)
    return names


def _sheet(path: Path, wanted: Sequence[str]) -> Sheet:
    """Columns to keep, named without ``_id``."""
    header = read_header(path)
    missing = [name for name in wanted if name not in header]
    if missing:
        raise DataError.at(path, 1, f"no column {missing[0]} in the header", ", ".join(wanted))
    columns = [
        LABEL
        if name == "label" and name in wanted
        else Column(name, "float" if name == "rating" else "str", optional=name not in wanted)
        for name in header
    ]
    frame = read_table(path, columns, separator="\t", header=True, keep=wanted).select(wanted)
    return Sheet(path, frame.rename(lambda name: name.removesuffix("_id")), header=True)


def _titles(path: Path, item_ids: pl.Series) -> tuple[str, ...] | None:
    """Titles by item from the first column whose name holds "title" or "name", if any."""
    if not path.is_file():
        return None
    header = read_header(path)
    title = next((name for name in header if "title" in name or "name" in name), None)
    if title is None:
        return None
    columns = [Column(name, "str", optional=name != "item_id") for name in header]
    table = read_table(path, columns, separator="\t", header=True)
    table = table.select(item="item_id", title=title).unique("item", keep="first")
    items = pl.DataFrame({"item": item_ids})
    named = items.join(table, on="item", how="left", maintain_order="left")
    return tuple(named["title"].fill_null("").to_list())
