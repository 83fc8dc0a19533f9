"""Imported data sets: the folder that ``data import`` writes.

``dataset.json``          format, version, name, counts, threshold, which ids have names, the report
                          of the import, and size and SHA-256 of the other files and of itself.
``interactions.*.npy``    columns of the rows: user, item (int32) and label (int8), or positive
                          (bool) and, where there are ratings, rating (float64); time (float64)
                          where all rows have one; part (uint8) where the files were split: the
                          sum of 1 for train, 2 for validation and 4 for test. How many lines
                          repeated another one of their file is in ``dataset.json`` then.
``triples.*.npy``         head, relation, tail (int32).
``graph.*.npy``           the same triples by head, see `csr_files`.
``users.parquet``, ``items.parquet``, ``entities.parquet``, ``relations.parquet``
                          id and name (String) of number 0, 1, 2, ... in this order; names are null
                          where there are none. Items are the first entities: entity i is item i
                          in the graph, its id "" for an item without an entity.

Columns are mapped, and texts are read when somebody asks for them, so that a data set of any size
is opened in milliseconds. Sizes are always checked; hashes of files up to `HASHED` bytes when the
data set is opened, those of larger ones by `check_hashes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.formats.csr_files import GRAPH_FILES, map_graph, write_graph
from ekpnet_fast.data.formats.engine import session
from ekpnet_fast.data.formats.parquet import read_names, write_names
from ekpnet_fast.data.formats.stored_texts import StoredTexts
from ekpnet_fast.data.ids import IdMaps, Ids, id_maps
from ekpnet_fast.data.tables import Dataset, Examples, GivenSplit, Interactions
from ekpnet_fast.errors import ConfigError, DataError, EkpnetError, quote, reason
from ekpnet_fast.storage.columns import map_column, write_column
from ekpnet_fast.storage.parts import place_of, recover, replaced_folder
from ekpnet_fast.storage.seals import check_files, seal_files, sealed, text_hash

__all__ = [
    "PAIR_COLUMNS",
    "TRIPLE_COLUMNS",
    "check_hashes",
    "column_file",
    "expect_free",
    "has_imported",
    "is_imported_split",
    "load_imported",
    "read_ids",
    "write_folder",
    "write_imported",
]

MANIFEST = "dataset.json"
FORMAT, VERSION = "ekpnet_fast.dataset", 3
HASHED = 64 << 20
"""Bytes up to which a file's hash is checked whenever its data set is opened."""

_KINDS = {"users": "user", "items": "item", "entities": "entity", "relations": "relation"}

PAIR_COLUMNS: dict[str, Any] = {
    "user": np.int32,
    "item": np.int32,
    "label": np.int8,
    "positive": np.bool_,
    "rating": np.float64,
    "time": np.float64,
    "part": np.uint8,
}
"""Columns of interactions and their types; user, item, and label or positive are always there."""

TRIPLE_COLUMNS: dict[str, Any] = dict.fromkeys(("head", "relation", "tail"), np.int32)
"""Columns of triples and their types."""


def column_file(table: str, column: str) -> str:
    """Name of the file of a column."""
    return f"{table}.{column}.npy"


_PAIRS = tuple(column_file("interactions", column) for column in PAIR_COLUMNS)
_TRIPLES = tuple(column_file("triples", column) for column in TRIPLE_COLUMNS)
_TEXTS = tuple(f"{table}.parquet" for table in _KINDS)
FILES = (*_PAIRS, *_TRIPLES, *GRAPH_FILES, *_TEXTS, MANIFEST)
_OLD = ("interactions.parquet", "triples.parquet")  # of version 2
_WRITTEN = "what an import writes"
_KEYS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(_KINDS, (int,)),
    "threshold": (int, float, type(None)),
    "named": (list,),
    "inverse": (bool,),
    "source": (str,),
    "notes": (list,),
    "sealed": (dict,),
}
_MEMORY = 1 << 30  # bytes for the graph of an import without a bound


def has_imported(folder: Path) -> bool:
    """Whether the folder was written by an import."""
    if not folder.exists():
        recover(folder)
    return (folder / MANIFEST).is_file()


def is_imported_split(folder: Path) -> bool:
    """Whether the files of an import were split.

    Raises:
        DataError: the manifest is damaged.
    """
    return "repeated" in _manifest(folder)


def expect_free(out: Path, *, overwrite: bool) -> None:
    """Check that a folder can be written.

    Raises:
        ConfigError: it holds a data set and ``overwrite`` is not set, or anything else.
    """
    if out.is_dir() and any(out.iterdir()):
        if not has_imported(out):
            raise ConfigError(f"{out}: found a folder with other files, expected a new folder")
        if not overwrite:
            raise ConfigError(f"{out} holds an imported data set; add --overwrite to replace it")
    elif out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: found a file, expected a new folder")


def write_imported(dataset: Dataset, out: Path, report: dict[str, Any], *, overwrite: bool) -> None:
    """Write a data set with its ids; the folder is whole or not there.

    Raises:
        ConfigError: the folder is taken, or cannot be written.
    """

    def write(part: Path) -> dict[str, Any]:
        with session():
            threshold, named = _write_tables(dataset, part)
        return {
            "name": dataset.name,
            "users": dataset.num_users,
            "items": dataset.num_items,
            "entities": dataset.num_entities,
            "relations": dataset.num_relations,
            "threshold": threshold,
            "named": named,
            "source": dataset.source,
            "notes": list(dataset.notes),
            **({} if dataset.split is None else {"repeated": dataset.split.repeated}),
            **report,
        }

    write_folder(out, write, overwrite=overwrite)


def write_folder(
    out: Path,
    write: Callable[[Path], Mapping[str, Any]],
    *,
    overwrite: bool,
    memory: int = _MEMORY,
) -> None:
    """Write a folder of an import; it is whole or not there.

    Args:
        out: the folder.
        write: writes all files but the graph's into the folder that it is given; returns what else
            the manifest says.
        overwrite: replace such a folder.
        memory: bytes for making the graph.

    Raises:
        ConfigError: the folder is taken, or cannot be written.
    """
    expect_free(out, overwrite=overwrite)
    try:
        with replaced_folder(place_of(out), {*FILES, *_OLD}.__contains__) as part:
            manifest = {"format": FORMAT, "version": VERSION, **write(part)}
            manifest["inverse"] = write_graph(
                part, _triples(part), manifest["entities"], manifest["relations"], memory
            )
            manifest["sealed"] = seal_files(part, FILES[:-1])
            text = json.dumps(sealed(manifest), indent=2, ensure_ascii=False) + "\n"
            (part / MANIFEST).write_bytes(text.encode("utf-8", errors="replace"))
    except EkpnetError:
        raise
    except Exception as error:  # of the system, or of the library that writes
        raise ConfigError(f"{out} cannot be written ({reason(error)})") from error


def load_imported(folder: Path, name: str) -> Dataset:
    """Open a folder that an import wrote; see the module on what is read when.

    Raises:
        DataError: a file is missing or damaged, or does not fit the others.
    """
    manifest = _manifest(folder)
    path, seals = folder / MANIFEST, manifest["sealed"]
    pair_files = [file for file in _PAIRS if file in seals]
    check_files(path, seals, [*pair_files, *_TRIPLES, *GRAPH_FILES, *_TEXTS], hashed=HASHED)
    pairs = {
        column: map_column(folder / column_file("interactions", column), kind)
        for column, kind in PAIR_COLUMNS.items()
        if column_file("interactions", column) in seals
    }
    if not {"user", "item"} <= {*pairs} or ("label" in pairs) == ("positive" in pairs):
        raise DataError.about(
            path, None, f"interactions of {', '.join(pairs)}", "user, item, and label or positive"
        )
    users, items = pairs["user"], pairs["item"]
    rows = clicks = None
    if "label" in pairs:
        rows = Examples(users, items, pairs["label"])
    else:
        ratings, threshold = pairs.get("rating"), manifest["threshold"]
        clicks = Interactions(users, items, pairs["positive"], ratings, threshold)
    heads, relations, tails = _triples(folder)
    num_entities, num_relations = manifest["entities"], manifest["relations"]

    def texts(table: str, column: str) -> StoredTexts | None:
        if column == "name" and table not in manifest["named"]:
            return None
        return StoredTexts(path, seals, f"{table}.parquet", column, manifest[table])

    return Dataset(
        name=name,
        rows=rows,
        interactions=clicks,
        heads=heads,
        relations=relations,
        tails=tails,
        num_users=manifest["users"],
        num_items=manifest["items"],
        num_entities=num_entities,
        num_relations=num_relations,
        user_ids=texts("users", "id"),
        item_ids=texts("items", "id"),
        entity_ids=texts("entities", "id"),
        relation_ids=texts("relations", "id"),
        user_names=texts("users", "name"),
        item_names=texts("items", "name"),
        entity_names=texts("entities", "name"),
        relation_names=texts("relations", "name") or texts("relations", "id"),
        source=manifest["source"],
        notes=tuple(manifest["notes"]),
        times=pairs.get("time"),
        split=GivenSplit(pairs["part"], manifest["repeated"]) if "part" in pairs else None,
        graph=map_graph(folder, num_entities, num_relations, inverse=manifest["inverse"]),
    )


def check_hashes(folder: Path) -> None:
    """Read all files of a data set once, and check that they are as they were written.

    Raises:
        DataError: one is not; names it.
    """
    seals = _manifest(folder)["sealed"]
    check_files(folder / MANIFEST, seals, [*seals])


def _triples(folder: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Heads, relations and tails [T] of a data set."""
    heads, relations, tails = (
        map_column(folder / column_file("triples", column), kind)
        for column, kind in TRIPLE_COLUMNS.items()
    )
    return heads, relations, tails


def read_ids(folder: str | Path) -> IdMaps:
    """Ids and names of an imported data set, without its rows and triples.

    Raises:
        DataError: a file is missing or damaged, or does not fit the others.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    check_files(folder / MANIFEST, manifest["sealed"], _TEXTS)
    maps = []
    with session():
        for table, kind in _KINDS.items():
            path = folder / f"{table}.parquet"
            ids, names = read_names(path, _WRITTEN)
            if len(ids) != manifest[table]:
                expected = f"{manifest[table]} as in {MANIFEST}"
                raise DataError.about(path, None, f"{len(ids)} rows", expected)
            maps.append(Ids(kind, ids, names))
    return IdMaps(*maps)


def _write_tables(dataset: Dataset, folder: Path) -> tuple[float | None, list[str]]:
    """Write all files but the graph's; returns the threshold, and the tables that have names."""
    threshold = None
    pairs: dict[str, NDArray[Any]]
    if dataset.rows is not None:
        rows = dataset.rows
        pairs = {"user": rows.users, "item": rows.items, "label": rows.labels}
    else:
        clicks = dataset.interactions
        assert clicks is not None
        threshold = clicks.threshold
        pairs = {"user": clicks.users, "item": clicks.items, "positive": clicks.positive}
        if clicks.ratings is not None:
            pairs["rating"] = clicks.ratings
    if dataset.times is not None:
        pairs["time"] = dataset.times
    if dataset.split is not None:
        pairs["part"] = dataset.split.files
    triples = {"head": dataset.heads, "relation": dataset.relations, "tail": dataset.tails}
    for table, columns, kinds in (
        ("interactions", pairs, PAIR_COLUMNS),
        ("triples", triples, TRIPLE_COLUMNS),
    ):
        for column, values in columns.items():
            write_column(folder / column_file(table, column), kinds[column], len(values), [values])
    maps, named = id_maps(dataset), []
    for table, kind in _KINDS.items():
        ids: Ids = getattr(maps, table)
        assert ids.kind == kind
        write_names(folder / f"{table}.parquet", ids.ids, ids.names)
        if ids.names is not None and any(ids.names):
            named.append(table)
    return threshold, named


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError.about(path, None, "no such file", "the folder of an import") from None
    except OSError as error:
        said = error.strerror or "an error"
        raise DataError.about(path, None, said, "a file that can be read") from None
    except (ValueError, RecursionError) as error:
        raise DataError.about(path, None, f"no JSON ({error})", _WRITTEN) from None
    if not isinstance(manifest, dict):
        raise DataError.about(path, None, f"a {type(manifest).__name__}", _WRITTEN)
    found = (manifest.get("format"), manifest.get("version"))
    if found != (FORMAT, VERSION):
        shown = f"format {quote(str(found[0]))}, version {quote(str(found[1]))}"
        raise DataError.about(path, None, shown, f"{FORMAT!r}, {VERSION}; import again")
    for key, kinds in _KEYS.items():
        value = manifest.get(key, ...)
        if not isinstance(value, kinds) or isinstance(value, bool) != (kinds == (bool,)):
            shown = "nothing" if value is ... else quote(str(value))
            raise DataError.about(path, None, f"{shown} for {key!r}", f"{_WRITTEN}; import again")
    if manifest.pop("sha256", None) != text_hash(manifest):
        raise DataError.about(
            path, None, "other text than was written", f"{_WRITTEN}; import again"
        )
    return manifest
