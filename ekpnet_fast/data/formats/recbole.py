"""Atomic files of RecBole: tab-separated, with a header of ``name:type`` fields.

Read are ``*.inter``, ``*.kg``, ``*.link`` and, if present, ``*.item``. Items are those with an
interaction. The whole ``.kg`` is kept: an item that ``.link`` ties to an entity takes that entity's
triples, an item without a link stays without triples, and a link of an item without interactions
leaves its entity an ordinary one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from ekpnet_fast.data.formats.assemble import assemble
from ekpnet_fast.data.formats.mapping import LABEL, Sheet
from ekpnet_fast.data.formats.parse import Column, read_first_line, read_table
from ekpnet_fast.data.tables import Dataset
from ekpnet_fast.errors import DataError

__all__ = ["default_threshold", "has_recbole", "load_recbole", "read_header"]

_TYPES = ("token", "token_seq", "float", "float_seq")
_DEFAULT_THRESHOLDS = {"ml-": 4.0, "movielens": 4.0}


def has_recbole(folder: Path) -> bool:
    """Whether the folder holds a ``.inter`` file."""
    return any(folder.glob("*.inter"))


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
    stem = _only(folder, ".inter").stem
    inter_file, kg_file, link_file = (_only(folder, end) for end in (".inter", ".kg", ".link"))
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
    interactions = _sheet(inter_file, wanted)
    kg = _sheet(kg_file, ["head_id", "relation_id", "tail_id"])
    links = _sheet(link_file, ["item_id", "entity_id"])
    built = assemble(name, interactions, kg, links, threshold=threshold)
    note = "every interaction" if threshold is None else f"rating >= {threshold:g}"
    item_ids = interactions.frame["item"].unique(maintain_order=True)
    linked = item_ids.is_in(built.links.items.implode()).sum()
    return replace(
        built.dataset,
        item_names=_titles(folder / f"{stem}.item", item_ids),
        source=f"RecBole atomic files: {inter_file.name}, {kg_file.name}, {link_file.name}",
        notes=(
            f"positives: {'label = 1' if labelled else note}",
            f"users without positives, dropped: {built.dropped_users}",
            f"items without a link: {len(item_ids) - linked}",
            f"items whose entity an earlier item has: {built.links.shared}",
        ),
    )


def default_threshold(stem: str) -> float | None:
    """Smallest rating that is usually a positive in a data set with this file name."""
    name = stem.lower()
    return next((v for k, v in _DEFAULT_THRESHOLDS.items() if name.startswith(k)), None)


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
