"""Imported data sets: the folder that ``data import`` writes.

``dataset.json``          format, version, name, counts, threshold, and the report of the import.
``interactions.parquet``  user, item (Int32) and label (Int8), or positive (Boolean) and, where
                          there are ratings, rating (Float64).
``triples.parquet``       head, relation, tail (Int32).
``users.parquet``, ``items.parquet``, ``entities.parquet``, ``relations.parquet``
                          id and name (String) of number 0, 1, 2, ... in this order; names are null
                          where there are none. Items are the first entities: entity i is item i
                          in the graph, its id "" for an item without an entity.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ekpnet_fast.data.formats.parse import to_numpy
from ekpnet_fast.data.ids import IdMaps, Ids, id_maps
from ekpnet_fast.data.tables import Dataset, Examples, Int32, Interactions
from ekpnet_fast.errors import ConfigError, DataError

__all__ = ["expect_free", "has_imported", "load_imported", "read_ids", "write_imported"]

MANIFEST = "dataset.json"
FORMAT, VERSION = "ekpnet_fast.dataset", 1
_KINDS = {"users": "user", "items": "item", "entities": "entity", "relations": "relation"}


def has_imported(folder: Path) -> bool:
    """Whether the folder was written by an import."""
    return (folder / MANIFEST).is_file()


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
    expect_free(out, overwrite=overwrite)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        threshold = _write_tables(dataset, part)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "name": dataset.name,
            "users": dataset.num_users,
            "items": dataset.num_items,
            "entities": dataset.num_entities,
            "relations": dataset.num_relations,
            "threshold": threshold,
            "source": dataset.source,
            "notes": list(dataset.notes),
            **report,
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (part / MANIFEST).write_text(text, encoding="utf-8")
        if out.is_dir():
            shutil.rmtree(out)
        part.replace(out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load_imported(folder: Path, name: str) -> Dataset:
    """Read a folder that an import wrote.

    Raises:
        DataError: a file is missing or damaged, or does not fit the others.
    """
    manifest = _manifest(folder)
    rows = clicks = None
    pairs = _table(folder, "interactions")
    users, items = _int32(folder, pairs, "user"), _int32(folder, pairs, "item")
    if "label" in pairs.columns:
        rows = Examples(users, items, to_numpy(pairs["label"].cast(pl.Int8)))
    elif "positive" in pairs.columns:
        ratings = to_numpy(pairs["rating"]) if "rating" in pairs.columns else None
        clicks = Interactions(
            users, items, to_numpy(pairs["positive"]), ratings, manifest["threshold"]
        )
    else:
        raise DataError.about(
            folder / "interactions.parquet", None, f"{pairs.columns}", "label or positive"
        )
    triples = _table(folder, "triples")
    heads, relations, tails = (_int32(folder, triples, c) for c in ("head", "relation", "tail"))
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
    )


def read_ids(folder: str | Path) -> IdMaps:
    """Ids and names of an imported data set, without its rows and triples.

    Raises:
        DataError: a file is missing or damaged, or does not fit the others.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    maps = []
    for table, kind in _KINDS.items():
        frame = _table(folder, table)
        path = folder / f"{table}.parquet"
        if frame.schema != {"id": pl.String, "name": pl.String} or frame["id"].null_count():
            raise DataError.about(path, None, f"columns {dict(frame.schema)}", "texts id, name")
        if len(frame) != manifest[table]:
            expected = f"{manifest[table]} as in {MANIFEST}"
            raise DataError.about(path, None, f"{len(frame)} rows", expected)
        named = frame["name"].null_count() < len(frame)
        names = tuple(frame["name"].fill_null("").to_list()) if named else None
        maps.append(Ids(kind, tuple(frame["id"].to_list()), names))
    return IdMaps(*maps)


def _write_tables(dataset: Dataset, folder: Path) -> float | None:
    """Write the Parquet files; returns the threshold."""
    threshold = None
    if dataset.rows is not None:
        rows = dataset.rows
        pairs: dict[str, Any] = {"user": rows.users, "item": rows.items, "label": rows.labels}
    else:
        clicks = dataset.interactions
        assert clicks is not None
        threshold = clicks.threshold
        pairs = {"user": clicks.users, "item": clicks.items, "positive": clicks.positive}
        if clicks.ratings is not None:
            pairs["rating"] = clicks.ratings
    triples = {"head": dataset.heads, "relation": dataset.relations, "tail": dataset.tails}
    frames = {"interactions": pl.DataFrame(pairs), "triples": pl.DataFrame(triples)}
    maps = id_maps(dataset)
    for table, kind in _KINDS.items():
        ids: Ids = getattr(maps, table)
        assert ids.kind == kind
        names = [None] * len(ids) if ids.names is None else [name or None for name in ids.names]
        frames[table] = pl.DataFrame(
            {
                "id": pl.Series(ids.ids, dtype=pl.String),
                "name": pl.Series(names, dtype=pl.String),
            }
        )
    for table, frame in frames.items():
        frame.write_parquet(folder / f"{table}.parquet")
    return threshold


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError.about(path, None, "no such file", "the folder of an import") from None
    except ValueError as error:
        raise DataError.about(path, None, f"no JSON ({error})", "what an import writes") from None
    found = (manifest.get("format"), manifest.get("version"))
    if found != (FORMAT, VERSION):
        shown = f"format {found[0]!r}, version {found[1]!r}"
        raise DataError.about(path, None, shown, f"{FORMAT!r}, {VERSION}; import again")
    return manifest


def _table(folder: Path, name: str) -> pl.DataFrame:
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise DataError.about(path, None, "no such file", "what an import writes")
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        found = f"a damaged file ({str(error).splitlines()[0]})"
        raise DataError.about(path, None, found, "what an import writes; import again") from None


def _int32(folder: Path, frame: pl.DataFrame, column: str) -> Int32:
    if frame.schema.get(column) != pl.Int32 or frame[column].null_count():
        path = folder / f"{'triples' if 'head' in frame.columns else 'interactions'}.parquet"
        raise DataError.about(
            path, None, f"columns {dict(frame.schema)}", f"whole numbers {column}"
        )
    return np.ascontiguousarray(to_numpy(frame[column]), dtype=np.int32)
