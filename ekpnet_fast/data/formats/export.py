"""Export of any data set as RecBole's atomic files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.formats.split import PARTS
from ekpnet_fast.data.formats.stars import default_threshold
from ekpnet_fast.data.ids import Ids, id_maps
from ekpnet_fast.data.tables import Dataset, Int32
from ekpnet_fast.errors import ConfigError, DataError

__all__ = ["ENDINGS", "export_recbole", "needed_threshold"]

_OF_PARTS = {f".{part}.inter": part for part in PARTS}
ENDINGS = (".inter", *_OF_PARTS, ".kg", ".link", ".user", ".item", ".entity")


def export_recbole(dataset: Dataset, out: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
    """Write ``NAME.inter``, ``.kg``, ``.link``, ``.user``, ``.item`` and ``.entity``.

    ``.inter`` holds labels where the data set has labelled rows, else ratings where it has any
    (``rating:float``, 1 for a positive and 0 for the others where only that is known), and times
    where it has them. Of a data set that came split ``.train.inter``, ``.test.inter`` and, if it
    has rows of validation, ``.valid.inter`` take its place. Without triples there is neither
    ``.kg`` nor ``.link``. ``.user``, ``.item`` and ``.entity`` list all ids in the order of their
    numbers, with names where there are some; RecBole reads the first two on demand and the third
    not at all.

    Importing ``.inter``, ``.kg`` and ``.link`` with ``.user``, ``.item`` and ``.entity`` as the
    tables of users, items and entities gives the same numbers back, and so the same prepared data,
    with one exception: relations are numbered by first appearance in ``.kg``. Read as a folder,
    the files give the same data with users and items numbered by ``.inter``.

    Args:
        dataset: the data set.
        out: the folder; its last part names the files.
        overwrite: replace such files.

    Returns:
        The files written.

    Raises:
        ConfigError: the files are there already, or cannot be written.
        DataError: an id with a tab or a line end in it.
    """
    out = out.resolve()
    paths = {ending: out / f"{out.name}{ending}" for ending in ENDINGS}
    there = [path.name for path in paths.values() if path.exists()]
    if there and not overwrite:
        raise ConfigError(f"{out} holds {', '.join(there)}; add --overwrite to replace them")
    others = [p.name for p in _files(out) if p.suffix in ENDINGS and p not in paths.values()]
    if others or (out / "dataset.json").exists():
        raise ConfigError(
            f"{out}: found {', '.join(others) or 'an imported data set'}, expected a folder of its"
            " own, because a folder holds one data set"
        )
    maps = id_maps(dataset)
    for ids in (maps.users, maps.items, maps.entities, maps.relations):
        _expect_plain(ids)
    tables: dict[str, dict[str, Sequence[Any]]] = {
        **_interactions(dataset, maps.users, maps.items),
        ".user": _table(maps.users, "user_id", "user_name"),
        ".item": _table(maps.items, "item_id", "item_name"),
        ".entity": _table(maps.entities, "entity_id", "entity_name"),
    }
    if dataset.num_triples:
        tables[".kg"] = {
            "head_id:token": _taken(maps.entities, dataset.heads),
            "relation_id:token": _taken(maps.relations, dataset.relations),
            "tail_id:token": _taken(maps.entities, dataset.tails),
        }
        tables[".link"] = _links(maps.items, maps.entities)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for ending in paths.keys() - tables.keys():
            paths[ending].unlink(missing_ok=True)  # of a data set with a graph, replaced
        for ending, columns in tables.items():
            with paths[ending].open("w", encoding="utf-8", newline="\n") as file:
                file.write("\t".join(columns) + "\n")
                file.writelines(
                    "\t".join(row) + "\n" for row in zip(*columns.values(), strict=True)
                )
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror or error})") from error
    return tuple(path for ending, path in paths.items() if ending in tables)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def needed_threshold(dataset: Dataset) -> float | None:
    """Threshold with which loading the files gives the same positives, None for none."""
    clicks = dataset.interactions
    if clicks is None:
        return None
    if clicks.ratings is None:
        return None if clicks.positive.all() else 1.0
    if clicks.threshold == default_threshold(clicks.ratings):
        return None
    return float(clicks.ratings.min()) if clicks.threshold is None else clicks.threshold


def _interactions(dataset: Dataset, users: Ids, items: Ids) -> dict[str, dict[str, Sequence[Any]]]:
    """Columns of the file of interactions, or of those of a split, by ending."""
    columns = _rows(dataset, users, items)
    if dataset.split is None:
        return {".inter": columns}
    found: dict[str, dict[str, Sequence[Any]]] = {}
    for ending, part in _OF_PARTS.items():
        places = np.flatnonzero(dataset.split.files & PARTS[part]).tolist()
        if places or part != "valid":
            found[ending] = {
                name: [values[place] for place in places] for name, values in columns.items()
            }
    return found


def _rows(dataset: Dataset, users: Ids, items: Ids) -> dict[str, Sequence[Any]]:
    pairs = dataset.rows if dataset.rows is not None else dataset.interactions
    assert pairs is not None
    columns: dict[str, Sequence[Any]] = {
        "user_id:token": _taken(users, pairs.users),
        "item_id:token": _taken(items, pairs.items),
    }
    clicks = dataset.interactions
    if dataset.rows is not None:
        columns["label:float"] = list(map(str, dataset.rows.labels.tolist()))
    elif clicks is not None and clicks.ratings is not None:
        columns["rating:float"] = _short(clicks.ratings)
    elif clicks is not None and not clicks.positive.all():
        columns["rating:float"] = list(map(str, clicks.positive.astype(np.int8).tolist()))
    if dataset.times is not None:
        columns["timestamp:float"] = _short(dataset.times)
    return columns


def _short(values: NDArray[np.float64]) -> list[str]:
    """Ratings or times as numbers, whole ones without a point."""
    whole = (values == values.round()).all() and np.abs(values).max(initial=0) < 2**53
    return list(map(str, (values.astype(np.int64) if whole else values).tolist()))


def _links(items: Ids, entities: Ids) -> dict[str, Sequence[Any]]:
    linked = [place for place in range(len(items)) if entities.ids[place]]
    return {
        "item_id:token": [items.ids[place] for place in linked],
        "entity_id:token": [entities.ids[place] for place in linked],
    }


def _table(ids: Ids, key: str, name: str) -> dict[str, Sequence[Any]]:
    """Ids and names of what has an id."""
    there = [place for place, text in enumerate(ids.ids) if text or ids.kind != "entity"]
    columns = {f"{key}:token": [ids.ids[place] for place in there]}
    if ids.names is not None:
        shown = [re.sub(r"[\t\r\n]+", " ", ids.names[place]) for place in there]
        columns[f"{name}:token_seq"] = shown
    return {**columns}


def _taken(ids: Ids, numbers: Int32) -> list[str]:
    return [ids.ids[number] for number in numbers.tolist()]


def _expect_plain(ids: Ids) -> None:
    bad = next((text for text in ids.ids if re.search(r"[\t\r\n]", text)), None)
    if bad is not None:
        raise DataError(
            f"{ids.kind}: found id {bad!r}, expected one without tabs and line"
            " ends, which atomic files cannot hold"
        )
    seen: set[str] = set()
    for text in ids.ids:
        if text and text in seen:
            raise DataError(f"{ids.kind}: found {text!r} twice, expected distinct ids")
        seen.add(text)
