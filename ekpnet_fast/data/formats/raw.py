"""Raw files, as RippleNet, MKR and KGCN preprocess them.

Ratings: ``ratings.dat`` (``user::item::rating::time``), ``ratings.csv``, ``BX-Book-Ratings.csv``
(``"user";"item";"rating"``, Latin-1), ``user_artists.dat`` (tab-separated, with a header). Graph:
``kg*.txt`` with rows ``head relation-name tail``, and ``item_index2entity_id*.txt`` with rows
``item entity``.

Differences from RippleNet's script: the first line of a ratings file without a header is a rating
and not skipped, and draws come from a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ekpnet_fast.data.formats.engine import coded, literal, session
from ekpnet_fast.data.formats.final import read_names
from ekpnet_fast.data.formats.frames import Frame, Texts
from ekpnet_fast.data.formats.mapping import (
    Graph,
    Links,
    Part,
    Sheet,
    build_graph,
    collect_clicks,
    link_items,
    no_triples,
    numbered,
)
from ekpnet_fast.data.formats.opened import open_text
from ekpnet_fast.data.formats.parse import (
    Column,
    Form,
    Kind,
    guess_separator,
    line_of,
    read_first_line,
    read_table,
    read_text,
)
from ekpnet_fast.data.formats.stars import default_threshold, told_threshold
from ekpnet_fast.data.formats.times import pair_times
from ekpnet_fast.data.tables import INT32_MAX, Dataset
from ekpnet_fast.errors import DataError

__all__ = ["has_raw", "load_raw"]


@dataclass(frozen=True, slots=True)
class _RatingFile:
    name: str
    separator: str
    graded: bool  # ratings, not counts or what also says that something was read


_RATING_FILES = (
    _RatingFile("ratings.dat", "::", True),
    _RatingFile("ratings.csv", ",", True),
    _RatingFile("BX-Book-Ratings.csv", ";", False),
    _RatingFile("user_artists.dat", "\t", False),
)
TIME = "column 4"  # of MovieLens' ratings
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
    the other entities by first appearance in the graph. With neither a link file nor a graph,
    items are those rated, by first appearance, and there are no triples. Users are numbered by
    their first positive; users without positives are dropped.

    Args:
        folder: of the files, or the parent of their ``raw`` folder.
        name: of the data set.
        threshold: smallest rating that is a positive; without it that which follows from the
            ratings of ``ratings.*`` (see `stars.default_threshold`), else every interaction is one.

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
    graph_paths = [*kg_paths, *([] if link_path is None else [link_path])]

    ratings = _read_bx(rating_path) if kind.separator == ";" else _read_ratings(rating_path, kind)
    given = threshold
    if threshold is None and kind.graded:
        threshold = default_threshold(ratings.numbers["rating"])
    user, item = ratings.texts["user"], ratings.texts["item"]
    links = Links((), (), 0)
    item_ids: Sequence[str] = item.seen()
    graph = build_graph(no_triples(rating_path).frame, links, item_ids)
    if link_path is not None:
        numeric = _is_numeric(link_path, 1) and all(
            _is_numeric(path, 0) and _is_numeric(path, 2) for path in kg_paths
        )
        links = _read_link_file(link_path, numeric)
        triples = Frame.stack([_read_kg(path, numeric) for path in kg_paths])
        graph, item_ids = _number(triples, links, numeric)
    users, clicks, dropped, _ = collect_clicks(
        user, item, ratings.numbers["rating"], threshold, item_ids
    )
    if not len(clicks):
        raise DataError.about(
            rating_path,
            None,
            f"no positive rating of the {len(item_ids)} items in {(link_path or rating_path).name}",
            "at least one",
        )
    unlinked = {*item.seen()} - {*item_ids}
    dataset = Dataset(
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
        user_ids=tuple(users),
        item_ids=tuple(item_ids),
        entity_ids=graph.entity_ids,
        relation_names=graph.relation_names,
        item_names=read_names(place / "item_names.txt", len(item_ids)),
        source="raw files: "
        + ", ".join(path.name for path in (rating_path, *graph_paths))
        + ("" if graph_paths else ", no graph"),
        notes=(
            f"positives: {told_threshold(threshold, given)}",
            f"users without positives, dropped: {dropped}",
            f"rated items without an entity, dropped: {len(unlinked)}",
            f"items whose entity an earlier item has, dropped: {links.shared}",
        ),
    )
    return replace(dataset, times=pair_times(dataset, ratings, TIME, threshold))


def _rating_file(folder: Path) -> tuple[Path, _RatingFile] | None:
    for place in (folder, folder / "raw"):
        for kind in _RATING_FILES:
            if (place / kind.name).is_file():
                return place / kind.name, kind
    return None


def _graph_files(place: Path) -> tuple[list[Path], Path | None]:
    """Graph files and link file, preferably both rehashed or both not; none where neither is."""
    known = (*_LINK_FILES, *(name for names in _KG_FILES for name in names))
    if not any((place / name).is_file() for name in known):
        return [], None
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


def _read_ratings(path: Path, kind: _RatingFile) -> Frame:
    fields = read_first_line(path, encoding="latin-1").split(kind.separator)
    columns = [
        Column("user", "str"),
        Column("item", "str"),
        Column("rating", "float"),
        *(
            Column(f"column {n}", "time" if n == 4 else "str", optional=True)
            for n in range(4, len(fields) + 1)
        ),
    ]
    header = len(fields) > 2 and not _is_number(fields[2])
    wanted = ["user", "item", "rating"] + [TIME] * (len(fields) > 3)
    return read_table(path, columns, separator=kind.separator, header=header, keep=wanted)


def _read_bx(path: Path) -> Frame:
    """Book-Crossing's semicolon-separated ratings; an ISBN may hold any character."""
    expected = '"user";"item";"rating"'
    with session() as connection:
        lines = read_table(
            path,
            [Column("line", "str", optional=True)],
            separator="\x01",  # a character that no line holds
            encoding="latin-1",
        ).texts["line"]
        connection.register("lines", {"line": np.array(lines.distinct, dtype=object)})
        connection.execute(
            "CREATE OR REPLACE TABLE parts AS SELECT line, part.user AS user, part.item AS item,"
            " CASE WHEN contains(part.rating, '_') THEN NULL"
            " ELSE try_cast(part.rating AS DOUBLE) END AS rating FROM (SELECT line,"
            f" regexp_extract(line, {literal(_BX_LINE)}, ['user', 'item', 'rating']) AS part"
            " FROM lines)"
        )
        users, items = (coded(connection, "parts", name) for name in ("user", "item"))
        ratings = connection.execute("SELECT rating FROM parts").fetchnumpy()["rating"]
    ratings = np.ma.filled(ratings.astype(np.float64), np.nan)
    good = np.isfinite(ratings) & (users.through([bool(text) for text in users.distinct]) == 1)
    codes = lines.codes
    if len(codes) and not np.isfinite(ratings[codes[0]]):
        codes = codes[1:]  # the names of the columns
    if not len(codes):
        raise DataError.about(path, None, "no rows", f"rows of {expected}")
    if not good[codes].all():
        row = int(np.argmin(good[codes])) + len(lines.codes) - len(codes)
        line = line_of(path, row, Form("\x01"), "latin-1")
        raise DataError.at(path, line, lines[row] or "", expected)
    return Frame({"user": users.take(codes), "item": items.take(codes)}, {"rating": ratings[codes]})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_numeric(path: Path, index: int) -> bool:
    """Whether the field at ``index`` of the first line is a whole number."""
    with open_text(path) as text:
        separator = guess_separator(text)
    fields = read_first_line(path).split(separator)
    return len(fields) > index and fields[index].strip().isdecimal()


def _read_link_file(path: Path, numeric: bool) -> Links:
    columns = [
        Column("item", "str"),
        Column("entity", "int" if numeric else "str", maximum=INT32_MAX - 1),
    ]
    with open_text(path) as text:
        form = Form(guess_separator(text))
        table = read_text(text, columns, form)
    if numeric:
        table = Frame({**table.texts, "entity": Texts.of_numbers(table.numbers["entity"])}, {})
    return link_items(Sheet(path, table, (Part(path, len(table), form),)))


def _read_kg(path: Path, numeric: bool) -> Frame:
    kind: Kind = "int" if numeric else "str"
    columns = [
        Column("head", kind, maximum=INT32_MAX - 1),
        Column("relation", "str"),
        Column("tail", kind, maximum=INT32_MAX - 1),
    ]
    return read_table(path, columns)


def _number(triples: Frame, links: Links, numeric: bool) -> tuple[Graph, Sequence[str]]:
    """Numbered graph, and item names by id."""
    if numeric:
        heads, tails = triples.numbers["head"], triples.numbers["tail"]
        entities = np.array([int(entity) for entity in links.entities])
        order = np.argsort(entities)
        size = max(int(heads.max()), int(tails.max()), int(entities.max())) + 1
        items_first = np.array_equal(entities[order], np.arange(len(entities)))
        if items_first and size <= 2 * (len(entities) + len(triples)):
            names = triples.texts["relation"].seen()
            relations = triples.texts["relation"].index_in(numbered(names))
            graph = Graph(heads, relations, tails, size, tuple(names), None)
            return graph, [links.items[place] for place in order.tolist()]
        ends = {end: Texts.of_numbers(triples.numbers[end]) for end in ("head", "tail")}
        triples = Frame({**triples.texts, **ends}, {})
    return build_graph(triples, links, links.items), links.items
