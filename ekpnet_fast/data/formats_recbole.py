"""RecBole's atomic files: tab-separated, with a header of ``name:type`` fields.

Read are ``*.inter``, ``*.kg``, ``*.link`` and, if present, ``*.item``. Items are those with an
interaction. The whole ``.kg`` is kept: an item that ``.link`` ties to an entity takes that entity's
triples, an item without a link stays without triples, and a link of an item that nobody touched
leaves its entity an ordinary one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ekpnet_fast.data.mapping import build_graph, collect_clicks, first_seen, read_links
from ekpnet_fast.data.parse import Column, read_first_line, read_table
from ekpnet_fast.data.tables import Dataset
from ekpnet_fast.errors import DataError

__all__ = ["has_recbole", "load_recbole"]

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
        folder: where the files are.
        name: of the data set.
        threshold: smallest rating that is a positive; 4 for files named ``ml-*`` or
            ``movielens*``, else every interaction is one. Needs a ``rating`` column.

    Raises:
        DataError: a missing or broken file, with line and finding.
    """
    stem = _only(folder, ".inter").stem
    inter_file, kg_file, link_file = (_only(folder, end) for end in (".inter", ".kg", ".link"))
    header = _header(inter_file)
    wanted = ["user_id", "item_id"] + ["rating"] * ("rating" in header)
    inter = _read(inter_file, header, wanted, floats=["rating"])
    if "rating" in header:
        if threshold is None:
            threshold = next(
                (v for k, v in _DEFAULT_THRESHOLDS.items() if stem.lower().startswith(k)), None
            )
    elif threshold is not None:
        raise DataError.at(inter_file, 1, "no rating column", "one, because a threshold is given")
    positive = (
        pl.repeat(True, len(inter), eager=True)
        if threshold is None
        else inter["rating"] >= threshold
    )
    note = "every interaction" if threshold is None else f"rating >= {threshold:g}"

    item_ids = first_seen(inter["item_id"])
    users, clicks, dropped = collect_clicks(inter["user_id"], inter["item_id"], positive, item_ids)
    kg = _read(kg_file, _header(kg_file), ["head_id", "relation_id", "tail_id"])
    link = _read(link_file, _header(link_file), ["item_id", "entity_id"])
    links = read_links(link_file, link["item_id"], link["entity_id"], header=True)
    graph = build_graph(kg, links, item_ids)
    linked = item_ids.is_in(links.items.implode()).sum()
    return Dataset(
        name=name,
        rows=None,
        interactions=clicks,
        heads=graph.heads,
        relations=graph.relations,
        tails=graph.tails,
        num_users=len(users),
        num_items=len(item_ids),
        num_entities=graph.num_entities,
        num_relations=len(graph.relation_names),
        user_ids=tuple(users.to_list()),
        item_ids=tuple(item_ids.to_list()),
        entity_ids=graph.entity_ids,
        relation_names=graph.relation_names,
        item_names=_titles(folder / f"{stem}.item", item_ids),
        source=f"RecBole atomic files: {inter_file.name}, {kg_file.name}, {link_file.name}",
        notes=(
            f"positives: {note}",
            f"users without positives, dropped: {dropped}",
            f"items without a link: {len(item_ids) - linked}",
            f"items whose entity an earlier item has: {links.shared}",
        ),
    )


def _only(folder: Path, ending: str) -> Path:
    found = sorted(folder.glob(f"*{ending}"))
    if len(found) != 1:
        shown = ", ".join(path.name for path in found) or f"no *{ending}"
        raise DataError(f"{folder}: found {shown}, expected one *{ending} file")
    return found[0]


def _header(path: Path) -> list[str]:
    """Field names from ``name:type``."""
    names = []
    for field in read_first_line(path).split("\t"):
        name, colon, kind = field.partition(":")
        if not colon or kind not in _TYPES:
            raise DataError.at(path, 1, field, f"name:type with a type of {', '.join(_TYPES)}")
        names.append(name)
    return names


def _read(
    path: Path, header: list[str], wanted: Sequence[str], floats: Sequence[str] = ()
) -> pl.DataFrame:
    missing = [name for name in wanted if name not in header]
    if missing:
        raise DataError.at(path, 1, f"no column {missing[0]} in the header", ", ".join(wanted))
    columns = [
        Column(name, "float" if name in floats else "str", optional=name not in wanted)
        for name in header
    ]
    return read_table(path, columns, separator="\t", header=True).select(wanted)


def _titles(path: Path, item_ids: pl.Series) -> tuple[str, ...] | None:
    """Titles by item from the first column whose name holds "title" or "name", if any."""
    if not path.is_file():
        return None
    header = _header(path)
    title = next((name for name in header if "title" in name or "name" in name), None)
    if title is None:
        return None
    columns = [Column(name, "str", optional=name != "item_id") for name in header]
    table = read_table(path, columns, separator="\t", header=True)
    table = table.select(item="item_id", title=title).unique("item", keep="first")
    items = pl.DataFrame({"item": item_ids})
    named = items.join(table, on="item", how="left", maintain_order="left")
    return tuple(named["title"].fill_null("").to_list())
