"""Export of any data set as RecBole's atomic files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ekpnet_fast.data.formats.recbole import default_threshold
from ekpnet_fast.data.ids import Ids, id_maps
from ekpnet_fast.data.tables import Dataset
from ekpnet_fast.errors import ConfigError, DataError

__all__ = ["ENDINGS", "export_recbole", "needed_threshold"]

ENDINGS = (".inter", ".kg", ".link", ".user", ".item", ".entity")


def export_recbole(dataset: Dataset, out: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
    """Write ``NAME.inter``, ``.kg``, ``.link``, ``.user``, ``.item`` and ``.entity``.

    ``.inter`` holds labels where the data set has labelled rows, else ratings where it has any
    (``rating:float``, 1 for a positive and 0 for the others where only that is known). ``.user``,
    ``.item`` and ``.entity`` list all ids in the order of their numbers, with names where there are
    some; RecBole reads the first two on demand and the third not at all.

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
    others = [p.name for p in out.glob("*.*") if p.suffix in ENDINGS and p not in paths.values()]
    if others or (out / "dataset.json").exists():
        raise ConfigError(
            f"{out}: found {', '.join(others) or 'an imported data set'}, expected a folder of its"
            " own, because a folder holds one data set"
        )
    maps = id_maps(dataset)
    for ids in (maps.users, maps.items, maps.entities, maps.relations):
        _expect_plain(ids)
    frames = {
        ".inter": _interactions(dataset, maps.users, maps.items),
        ".kg": pl.DataFrame(
            {
                "head_id:token": _taken(maps.entities, dataset.heads),
                "relation_id:token": _taken(maps.relations, dataset.relations),
                "tail_id:token": _taken(maps.entities, dataset.tails),
            }
        ),
        ".link": _links(maps.items, maps.entities),
        ".user": _table(maps.users, "user_id", "user_name"),
        ".item": _table(maps.items, "item_id", "item_name"),
        ".entity": _table(maps.entities, "entity_id", "entity_name").filter(
            pl.col("entity_id:token") != ""
        ),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for ending, frame in frames.items():
            frame.write_csv(paths[ending], separator="\t", quote_style="never")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror or error})") from error
    return tuple(paths.values())


def needed_threshold(dataset: Dataset, out: Path) -> float | None:
    """Threshold with which loading the files gives the same positives, None for none."""
    clicks = dataset.interactions
    if clicks is None:
        return None
    if clicks.ratings is None:
        return None if clicks.positive.all() else 1.0
    if clicks.threshold == default_threshold(out.name):
        return None
    return float(clicks.ratings.min()) if clicks.threshold is None else clicks.threshold


def _interactions(dataset: Dataset, users: Ids, items: Ids) -> pl.DataFrame:
    pairs = dataset.rows if dataset.rows is not None else dataset.interactions
    assert pairs is not None
    columns: dict[str, Any] = {
        "user_id:token": _taken(users, pairs.users),
        "item_id:token": _taken(items, pairs.items),
    }
    clicks = dataset.interactions
    if dataset.rows is not None:
        columns["label:float"] = pl.Series(dataset.rows.labels)
    elif clicks is not None and clicks.ratings is not None:
        columns["rating:float"] = _short(clicks.ratings)
    elif clicks is not None and not clicks.positive.all():
        columns["rating:float"] = pl.Series(clicks.positive).cast(pl.Int8)
    return pl.DataFrame(columns)


def _short(ratings: Any) -> pl.Series:
    """Ratings as numbers, whole ones without a point."""
    values = pl.Series(ratings)
    return values.cast(pl.Int64) if (values == values.round()).all() else values


def _links(items: Ids, entities: Ids) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "item_id:token": pl.Series(items.ids, dtype=pl.String),
            "entity_id:token": pl.Series(entities.ids[: len(items)], dtype=pl.String),
        }
    )
    return frame.filter(pl.col("entity_id:token") != "")


def _table(ids: Ids, key: str, name: str) -> pl.DataFrame:
    columns: Mapping[str, pl.Series] = {f"{key}:token": pl.Series(ids.ids, dtype=pl.String)}
    if ids.names is None:
        return pl.DataFrame(columns)
    names = pl.Series(ids.names, dtype=pl.String).str.replace_all(r"[\t\r\n]+", " ")
    return pl.DataFrame({**columns, f"{name}:token_seq": names})


def _taken(ids: Ids, numbers: Any) -> pl.Series:
    return pl.Series(ids.ids, dtype=pl.String).gather(pl.Series(numbers))


def _expect_plain(ids: Ids) -> None:
    values = pl.Series(ids.ids, dtype=pl.String)
    bad = values.str.contains(r"[\t\r\n]")
    if bad.any():
        raise DataError(
            f"{ids.kind}: found id {values.filter(bad)[0]!r}, expected one without tabs and line"
            " ends, which atomic files cannot hold"
        )
    again = values.filter((values != "") & ~values.is_first_distinct())
    if len(again):
        raise DataError(f"{ids.kind}: found {again[0]!r} twice, expected distinct ids")
