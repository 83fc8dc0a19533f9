"""Imported data sets: the folder that ``data import`` writes.

``dataset.json``          format, version, name, counts, threshold, the report of the import, and
                          size and SHA-256 of the other files and of itself, which reading checks.
``interactions.parquet``  user, item (Int32) and label (Int8), or positive (Boolean) and, where
                          there are ratings, rating (Float64); time (Float64) where all rows have
                          one; part (UInt8) where the files were split: the sum of 1 for train, 2
                          for validation and 4 for test. How many lines repeated another one of
                          their file is in ``dataset.json`` then.
``triples.parquet``       head, relation, tail (Int32).
``users.parquet``, ``items.parquet``, ``entities.parquet``, ``relations.parquet``
                          id and name (String) of number 0, 1, 2, ... in this order; names are null
                          where there are none. Items are the first entities: entity i is item i
                          in the graph, its id "" for an item without an entity.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.formats.engine import session, write_table
from ekpnet_fast.data.formats.parquet import read_arrays, read_names, write_names
from ekpnet_fast.data.ids import IdMaps, Ids, id_maps
from ekpnet_fast.data.tables import Dataset, Examples, GivenSplit, Interactions
from ekpnet_fast.errors import ConfigError, DataError, EkpnetError, quote, reason
from ekpnet_fast.storage.parts import place_of, recover, replaced_folder
from ekpnet_fast.storage.seals import check_files, seal_files, sealed, text_hash

__all__ = [
    "expect_free",
    "has_imported",
    "is_imported_split",
    "load_imported",
    "read_ids",
    "write_folder",
    "write_imported",
]

MANIFEST = "dataset.json"
FORMAT, VERSION = "ekpnet_fast.dataset", 2
_KINDS = {"users": "user", "items": "item", "entities": "entity", "relations": "relation"}


FILES = (
    *("interactions.parquet", "triples.parquet"),
    *(f"{table}.parquet" for table in _KINDS),
    MANIFEST,
)
_WRITTEN = "what an import writes"
_KEYS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(_KINDS, (int,)),
    "threshold": (int, float, type(None)),
    "source": (str,),
    "notes": (list,),
    "sealed": (dict,),
}


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
            threshold = _write_tables(dataset, part)
        return {
            "name": dataset.name,
            "users": dataset.num_users,
            "items": dataset.num_items,
            "entities": dataset.num_entities,
            "relations": dataset.num_relations,
            "threshold": threshold,
            "source": dataset.source,
            "notes": list(dataset.notes),
            **({} if dataset.split is None else {"repeated": dataset.split.repeated}),
            **report,
        }

    write_folder(out, write, overwrite=overwrite)


def write_folder(out: Path, write: Callable[[Path], Mapping[str, Any]], *, overwrite: bool) -> None:
    """Write a folder of an import; it is whole or not there.

    Args:
        out: the folder.
        write: writes the Parquet files into the folder that it is given; returns what else the
            manifest says.
        overwrite: replace such a folder.

    Raises:
        ConfigError: the folder is taken, or cannot be written.
    """
    expect_free(out, overwrite=overwrite)
    try:
        with replaced_folder(place_of(out), FILES.__contains__) as part:
            manifest = {"format": FORMAT, "version": VERSION, **write(part)}
            manifest["sealed"] = seal_files(part, FILES[:-1])
            text = json.dumps(sealed(manifest), indent=2, ensure_ascii=False) + "\n"
            (part / MANIFEST).write_bytes(text.encode("utf-8", errors="replace"))
    except EkpnetError:
        raise
    except Exception as error:  # of the system, or of the library that writes
        raise ConfigError(f"{out} cannot be written ({reason(error)})") from error


def load_imported(folder: Path, name: str) -> Dataset:
    """Read a folder that an import wrote.

    Raises:
        DataError: a file is missing or damaged, or does not fit the others.
    """
    with session():
        return _load(folder, name)


def _load(folder: Path, name: str) -> Dataset:
    manifest = _manifest(folder)
    check_files(folder / MANIFEST, manifest["sealed"], FILES[:2])
    rows = clicks = None
    pairs_path, triples_path = folder / "interactions.parquet", folder / "triples.parquet"
    pairs = read_arrays(pairs_path, _WRITTEN)
    users, items = (_column(pairs_path, pairs, name, np.int32) for name in ("user", "item"))
    if "label" in pairs:
        rows = Examples(users, items, _column(pairs_path, pairs, "label", np.int8))
    elif "positive" in pairs:
        ratings = None
        if "rating" in pairs:
            ratings = _column(pairs_path, pairs, "rating", np.float64)
        positive = _column(pairs_path, pairs, "positive", np.bool_)
        clicks = Interactions(users, items, positive, ratings, manifest["threshold"])
    else:
        raise DataError.about(pairs_path, None, f"{list(pairs)}", "label or positive")
    triples = read_arrays(triples_path, _WRITTEN)
    heads, relations, tails = (
        _column(triples_path, triples, name, np.int32) for name in ("head", "relation", "tail")
    )
    ids = read_ids(folder)
    return Dataset(
        name=name,
        rows=rows,
        interactions=clicks,
        heads=heads,
        relations=relations,
        tails=tails,
        num_users=len(ids.users),
        num_items=len(ids.items),
        num_entities=len(ids.entities),
        num_relations=len(ids.relations),
        user_ids=ids.users.ids,
        item_ids=ids.items.ids,
        entity_ids=ids.entities.ids,
        relation_ids=ids.relations.ids,
        user_names=ids.users.names,
        item_names=ids.items.names,
        entity_names=ids.entities.names,
        relation_names=ids.relations.names or ids.relations.ids,
        source=manifest["source"],
        notes=tuple(manifest["notes"]),
        times=_column(pairs_path, pairs, "time", np.float64) if "time" in pairs else None,
        split=(
            GivenSplit(_column(pairs_path, pairs, "part", np.uint8), manifest["repeated"])
            if "part" in pairs
            else None
        ),
    )


def read_ids(folder: str | Path) -> IdMaps:
    """Ids and names of an imported data set, without its rows and triples.

    Raises:
        DataError: a file is missing or damaged, or does not fit the others.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    check_files(folder / MANIFEST, manifest["sealed"], FILES[2:-1])
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


def _write_tables(dataset: Dataset, folder: Path) -> float | None:
    """Write the Parquet files; returns the threshold."""
    threshold = None
    pairs: dict[str, tuple[str, Any]]
    if dataset.rows is not None:
        rows = dataset.rows
        pairs = {"label": ("TINYINT", rows.labels)}
        users, items = rows.users, rows.items
    else:
        clicks = dataset.interactions
        assert clicks is not None
        threshold = clicks.threshold
        pairs = {"positive": ("BOOLEAN", clicks.positive)}
        if clicks.ratings is not None:
            pairs["rating"] = ("DOUBLE", clicks.ratings)
        users, items = clicks.users, clicks.items
    if dataset.times is not None:
        pairs["time"] = ("DOUBLE", dataset.times)
    if dataset.split is not None:
        pairs["part"] = ("UTINYINT", dataset.split.files)
    write_table(
        folder / "interactions.parquet",
        {"user": ("INTEGER", users), "item": ("INTEGER", items), **pairs},
    )
    triples = {"head": dataset.heads, "relation": dataset.relations, "tail": dataset.tails}
    write_table(
        folder / "triples.parquet", {name: ("INTEGER", values) for name, values in triples.items()}
    )
    maps = id_maps(dataset)
    for table, kind in _KINDS.items():
        ids: Ids = getattr(maps, table)
        assert ids.kind == kind
        write_names(folder / f"{table}.parquet", ids.ids, ids.names)
    return threshold


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
        if not isinstance(value, kinds) or isinstance(value, bool):
            shown = "nothing" if value is ... else quote(str(value))
            raise DataError.about(path, None, f"{shown} for {key!r}", f"{_WRITTEN}; import again")
    if manifest.pop("sha256", None) != text_hash(manifest):
        raise DataError.about(
            path, None, "other text than was written", f"{_WRITTEN}; import again"
        )
    return manifest


def _column(path: Path, columns: dict[str, Any], name: str, kind: type[Any]) -> NDArray[Any]:
    """Contiguous column that must have this type and no null."""
    values = columns.get(name)
    if values is None or values.dtype != kind or np.ma.getmaskarray(values).any():
        shown = {key: str(column.dtype) for key, column in columns.items()}
        expected = f"{np.dtype(kind)} {name} in every row; import again"
        raise DataError.about(path, None, f"columns {shown}", expected)
    return np.ascontiguousarray(np.ma.getdata(values))
