"""Raw files, as RippleNet, MKR and KGCN preprocess them.

Ratings: ``ratings.dat`` (``user::item::rating::time``), ``ratings.csv``, ``BX-Book-Ratings.csv``
(``"user";"item";"rating"``, Latin-1), ``user_artists.dat`` (tab-separated, with a header). Graph:
``kg*.txt`` with rows ``head relation-name tail``, and ``item_index2entity_id*.txt`` with rows
``item entity``.

Differences from RippleNet's script: the first line of a ratings file without a header is a rating
and not skipped, and draws come from a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ekpnet_fast.data.formats.final import read_names
from ekpnet_fast.data.formats.mapping import (
    Graph,
    Links,
    Sheet,
    build_graph,
    collect_clicks,
    first_seen,
    index_of,
    link_items,
)
from ekpnet_fast.data.formats.parse import (
    Column,
    Kind,
    guess_separator,
    read_first_line,
    read_table,
    to_numpy,
)
from ekpnet_fast.data.tables import INT32_MAX, Dataset
from ekpnet_fast.errors import DataError

__all__ = ["has_raw", "load_raw"]


@dataclass(frozen=True, slots=True)
class _RatingFile:
    name: str
    separator: str
    threshold: float | None  # None: every interaction is a positive


_RATING_FILES = (
    _RatingFile("ratings.dat", "::", 4.0),
    _RatingFile("ratings.csv", ",", 4.0),
    _RatingFile("BX-Book-Ratings.csv", ";", None),
    _RatingFile("user_artists.dat", "\t", None),
)
_KG_FILES = (
    ("kg.txt",),
    ("kg_rehashed.txt",),
    ("kg_part1_rehashed.txt", "kg_part2_rehashed.txt"),
)
_LINK_FILES = ("item_index2entity_id.txt", "item_index2entity_id_rehashed.txt")
_BX_LINE = r'^"?([^";]*)"?;"?(.*?)"?;"?([^";]*)"?$'


def has_raw(folder: Path) -> bool:
    """Whether the folder or its ``raw`` folder holds a known ratings file."""
    return _rating_file(folder) is not None


def load_raw(folder: Path, name: str, threshold: float | None = None) -> Dataset:
    """Read raw ratings and a raw graph.

    Items are those that ``item_index2entity_id*.txt`` links to an entity; ratings of others are
    left out. Where the link file numbers the items' entities 0..I-1 and the graph's entities are
    dense numbers too, these numbers are kept. Else items are numbered by line of the link file and
    the other entities by first appearance in the graph. Users are numbered by their first
    positive; users without positives are dropped.

    Args:
        folder: of the files, or the parent of their ``raw`` folder.
        name: of the data set.
        threshold: smallest rating that is a positive; 4 for ``ratings.*``, else every interaction
            is one.

    Raises:
        DataError: a missing or broken file, with line and finding.
    """
    found = _rating_file(folder)
    if found is None:
        names = ", ".join(kind.name for kind in _RATING_FILES)
        raise DataError(f"{folder}: found none of {names}, expected one of them")
    rating_path, kind = found
    place = rating_path.parent
    kg_paths, link_path = _graph_files(place)
    if threshold is None:
        threshold = kind.threshold

    ratings = _read_bx(rating_path) if kind.separator == ";" else _read_ratings(rating_path, kind)
    numeric = _is_numeric(link_path, 1) and all(
        _is_numeric(path, 0) and _is_numeric(path, 2) for path in kg_paths
    )
    links = _read_link_file(link_path, numeric)
    triples = pl.concat([_read_kg(path, numeric) for path in kg_paths])
    graph, item_ids = _number(triples, links, numeric)
    users, clicks, dropped, _ = collect_clicks(
        ratings["user"], ratings["item"], ratings["rating"], threshold, item_ids
    )
    if not len(clicks):
        raise DataError.at(
            rating_path,
            None,
            f"no positive rating of the {len(item_ids)} items in {link_path.name}",
            "at least one",
        )
    unlinked = first_seen(ratings["item"])
    unlinked = unlinked.filter(~unlinked.is_in(item_ids.implode()))
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
        item_names=read_names(place / "item_names.txt", len(item_ids)),
        source="raw files: " + ", ".join(p.name for p in (rating_path, *kg_paths, link_path)),
        notes=(
            "positives: "
            + ("every interaction" if threshold is None else f"rating >= {threshold:g}"),
            f"users without positives, dropped: {dropped}",
            f"rated items without an entity, dropped: {len(unlinked)}",
            f"items whose entity an earlier item has, dropped: {links.shared}",
        ),
    )


def _rating_file(folder: Path) -> tuple[Path, _RatingFile] | None:
    for place in (folder, folder / "raw"):
        for kind in _RATING_FILES:
            if (place / kind.name).is_file():
                return place / kind.name, kind
    return None


def _graph_files(place: Path) -> tuple[list[Path], Path]:
    """Graph files and link file, preferably both rehashed or both not."""
    for names in _KG_FILES:
        if all((place / name).is_file() for name in names):
            order = sorted(_LINK_FILES, key=lambda n: ("rehashed" in n) != ("rehashed" in names[0]))
            for link in order:
                if (place / link).is_file():
                    return [place / name for name in names], place / link
            raise DataError(
                f"{place}: found none of {', '.join(_LINK_FILES)}, expected one of them"
            )
    wanted = ", ".join(" + ".join(names) for names in _KG_FILES)
    raise DataError(f"{place}: found none of {wanted}, expected one of them")


def _read_ratings(path: Path, kind: _RatingFile) -> pl.DataFrame:
    fields = read_first_line(path, encoding="latin-1").split(kind.separator)
    columns = [
        Column("user", "str"),
        Column("item", "str"),
        Column("rating", "float"),
        *(Column(f"column {n}", "str", optional=True) for n in range(4, len(fields) + 1)),
    ]
    header = len(fields) > 2 and not _is_number(fields[2])
    table = read_table(path, columns, separator=kind.separator, header=header)
    return table.select("user", "item", "rating")


def _read_bx(path: Path) -> pl.DataFrame:
    """Book-Crossing's semicolon-separated ratings; an ISBN may hold any character."""
    lines = path.read_bytes().decode("latin-1").split("\n")
    text = pl.Series("line", lines).str.strip_suffix("\r")
    frame = pl.DataFrame({"line": text}).with_row_index("number", offset=1)
    frame = frame.filter(pl.col("line").str.strip_chars() != "")
    groups = pl.col("line").str.extract_groups(_BX_LINE)
    frame = frame.with_columns(
        user=groups.struct[0],
        item=groups.struct[1],
        rating=groups.struct[2].cast(pl.Float64, strict=False),
    )
    if len(frame) and frame["rating"][0] is None:
        frame = frame.slice(1)
    if not len(frame):
        raise DataError.at(path, None, "no rows", 'rows of "user";"item";"rating"')
    broken = frame.filter(pl.col("rating").is_null() | (pl.col("user") == ""))
    if len(broken):
        raise DataError.at(path, broken["number"][0], broken["line"][0], '"user";"item";"rating"')
    return frame.select("user", "item", "rating")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_numeric(path: Path, index: int) -> bool:
    """Whether the field at ``index`` of the first line is a whole number."""
    fields = read_first_line(path).split(guess_separator(path))
    return len(fields) > index and fields[index].strip().isdecimal()


def _read_link_file(path: Path, numeric: bool) -> Links:
    columns = [
        Column("item", "str"),
        Column("entity", "int" if numeric else "str", maximum=INT32_MAX - 1),
    ]
    table = read_table(path, columns)
    return link_items(Sheet(path, table))


def _read_kg(path: Path, numeric: bool) -> pl.DataFrame:
    kind: Kind = "int" if numeric else "str"
    columns = [
        Column("head", kind, maximum=INT32_MAX - 1),
        Column("relation", "str"),
        Column("tail", kind, maximum=INT32_MAX - 1),
    ]
    return read_table(path, columns)


def _number(triples: pl.DataFrame, links: Links, numeric: bool) -> tuple[Graph, pl.Series]:
    """Numbered graph, and item names by id."""
    if numeric:
        heads, tails = to_numpy(triples["head"]), to_numpy(triples["tail"])
        order = links.entities.arg_sort()
        entities = to_numpy(links.entities.gather(order))
        size = max(int(heads.max()), int(tails.max()), int(entities[-1])) + 1
        items_first = np.array_equal(entities, np.arange(len(entities)))
        if items_first and size <= 2 * (len(entities) + len(triples)):
            names = first_seen(triples["relation"])
            relations = to_numpy(index_of(triples["relation"], names))
            graph = Graph(heads, relations, tails, size, tuple(names.to_list()), None)
            return graph, links.items.gather(order)
    return build_graph(triples, links, links.items), links.items
