"""Data sets by name: their folders and formats."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ekpnet_fast.data.synthetic.config import SyntheticConfig
from ekpnet_fast.data.synthetic.generator import make_synthetic
from ekpnet_fast.data.tables import Dataset
from ekpnet_fast.errors import ConfigError, DataError

__all__ = ["DATA_ROOT_VARIABLE", "check_dataset", "is_split", "load_dataset", "needs_engine"]

DATA_ROOT_VARIABLE = "EKPNET_DATA"
SYNTHETIC_NAME = "synthetic"
_SHOWN = 8  # files in an error


def load_dataset(
    name: str,
    data_root: str | Path | None = None,
    *,
    synthetic: SyntheticConfig | None = None,
    threshold: float | None = None,
) -> Dataset:
    """Load a data set.

    Args:
        name: "synthetic", a folder under the data root, or the path of a folder. Where a folder
            holds several formats, an imported data set wins, then the final format, then KGAT's;
            ``NAME/raw`` selects the raw files.
        data_root: folder of data sets; by default that of the environment variable EKPNET_DATA.
        synthetic: sizes for "synthetic"; its defaults without it.
        threshold: smallest rating that is a positive, for raw and RecBole files.

    Raises:
        ConfigError: an option that does not go with the format found.
        DataError: no such data set, or files that cannot be used, with file and line.
    """
    if name == SYNTHETIC_NAME:
        if threshold is not None:
            raise ConfigError("threshold: found a value, expected none: synthetic data have labels")
        return make_synthetic(synthetic if synthetic is not None else SyntheticConfig())
    if synthetic is not None:
        raise ConfigError(
            f"synthetic: found a configuration for {name!r}, expected it for 'synthetic'"
        )
    folder, label = _find(name, data_root)
    with needs_engine():
        from ekpnet_fast.data.formats.final import KG_FILES, RATING_FILES, has_final, load_final
        from ekpnet_fast.data.formats.imported import has_imported, load_imported
        from ekpnet_fast.data.formats.kgat import has_kgat, load_kgat
        from ekpnet_fast.data.formats.raw import has_raw, load_raw
        from ekpnet_fast.data.formats.recbole import has_recbole, load_recbole
    if has_imported(folder):
        if threshold is not None:
            raise ConfigError(
                f"threshold: found {threshold:g} for {folder}, which was imported with one or"
                " without; import it again"
            )
        return load_imported(folder, label)
    if has_kgat(folder):
        if threshold is not None:
            raise ConfigError(
                f"threshold: found {threshold:g} for {folder}, whose pairs are all positives"
            )
        return load_kgat(folder, label)
    if has_final(folder):
        if threshold is not None:
            raise ConfigError(f"threshold: found {threshold} for {folder}, whose rows have labels")
        return load_final(folder, label)
    if has_recbole(folder):
        return load_recbole(folder, label, threshold)
    if has_raw(folder):
        return load_raw(folder, label, threshold)
    files = sorted(path.name for path in folder.iterdir())
    shown = ", ".join(files[:_SHOWN]) + f" and {len(files) - _SHOWN} more" * (len(files) > _SHOWN)
    raise DataError(
        f"{folder}: found no data set in its files ({shown or 'none'}); looked for what"
        f" `python -m ekpnet_fast.data import` writes (dataset.json), for"
        f" {' | '.join(RATING_FILES)} with {' | '.join(KG_FILES)}, for train.txt and"
        " test.txt, for RecBole's *.inter, *.kg and *.link, and for ratings.dat,"
        " BX-Book-Ratings.csv or user_artists.dat with kg*.txt and item_index2entity_id*.txt;"
        " `ekpnet data import` takes other tables"
    )


def check_dataset(name: str, data_root: str | Path | None = None) -> None:
    """Compare the hashes of an imported data set's files, of which opening it leaves some out.

    Raises:
        DataError: a file is missing or damaged.
    """
    if name == SYNTHETIC_NAME:
        return
    folder, _ = _find(name, data_root)
    with needs_engine():
        from ekpnet_fast.data.formats.imported import check_hashes, has_imported
    if has_imported(folder):
        check_hashes(folder)


def is_split(name: str, data_root: str | Path | None = None) -> bool:
    """Whether the files of a data set are split, which `--protocol fixed` is for.

    Their names are looked at, and what an import wrote of them; False where there is no such data
    set.
    """
    if name == SYNTHETIC_NAME:
        return False
    try:
        folder, _ = _find(name, data_root)
    except DataError:
        return False
    with needs_engine():
        from ekpnet_fast.data.formats.final import has_final
        from ekpnet_fast.data.formats.imported import has_imported, is_imported_split
        from ekpnet_fast.data.formats.kgat import has_kgat
        from ekpnet_fast.data.formats.recbole import has_recbole_split
    if has_imported(folder):
        return is_imported_split(folder)
    return has_kgat(folder) or (not has_final(folder) and has_recbole_split(folder))


@contextmanager
def needs_engine() -> Iterator[None]:
    """Context for importing the readers and writers of files, which not every machine needs.

    Raises:
        DataError: the table engine is missing; says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "duckdb":
            raise
        raise DataError(
            f"reading and writing files needs duckdb ({error}); install it: pip install duckdb"
        ) from error


def _find(name: str, data_root: str | Path | None) -> tuple[Path, str]:
    """Folder and name of a data set."""
    root = None if data_root is None else Path(data_root)
    if root is None and os.environ.get(DATA_ROOT_VARIABLE):
        root = Path(os.environ[DATA_ROOT_VARIABLE])
    if root is not None and name and (root / name).is_dir():
        return root / name, name
    if name and Path(name).is_dir():
        return Path(name), Path(name).resolve().name
    hint = f"--data-root DIR or {DATA_ROOT_VARIABLE}"
    if root is None:
        raise DataError(
            f"unknown data set {name!r}: no data root is set ({hint}), and it is no folder;"
            f" without files there is {SYNTHETIC_NAME!r}"
        )
    if not root.is_dir():
        raise DataError(f"unknown data set {name!r}: the data root {root} is no folder; set {hint}")
    found = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    shown = ", ".join([SYNTHETIC_NAME, *found])
    raise DataError(f"unknown data set {name!r}: found {shown} under {root}; set {hint}")
