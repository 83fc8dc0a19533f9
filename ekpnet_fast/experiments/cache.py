"""Cache of finished runs in one folder, found by a hash of all that determines their numbers.

`experiments.json`                       the folder's format, the hashes of its data, and the runs
                                         that were stopped when their budget was spent
`lock`                                   held while a command works here
`cells/DATA/MODEL-sSEED-WHAT-CODE/`      a run as `ekpnet_fast.train --output` leaves it: WHAT is a
                                         hash of data and options, CODE one of the package
`PROTOCOL/table3.md` and so on           the results

A run writes `metrics.json` last and whole, so a cell is there or is not: a command that is killed
loses the run it was in, and nothing else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ekpnet_fast.config import WITHOUT_EFFECT, RunConfig
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.experiments.plan import Cell
from ekpnet_fast.native import build
from ekpnet_fast.runs import run_folder
from ekpnet_fast.storage.files import write_text

__all__ = ["Store", "code_version"]

FORMAT = "ekpnet_fast.experiments"
MARKER, LOCK, CELLS = "experiments.json", "lock", "cells"


@cache
def code_version() -> str:
    """Hash of the code that computes the numbers: torch's version, sources, native code.

    The sources of this sub-package are left out, because they only arrange numbers.
    """
    digest = hashlib.sha256(torch.__version__.encode())
    package = Path(__file__).parents[1]
    sources = (p for p in package.rglob("*.py") if Path(__file__).parent not in p.parents)
    for path in [*sorted(sources), *sorted(build.HERE.glob("libekpnet_*.so"))]:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


class Store:
    """Folder of results that a command has to itself; made by `Store.opened`."""

    def __init__(self, root: Path, marker: dict[str, Any]) -> None:
        self.root = root
        self._marker = marker

    @classmethod
    @contextmanager
    def opened(cls, root: Path) -> Iterator[Store]:
        """Open a folder of results, or make one.

        Raises:
            ConfigError: it cannot be written, holds something else, or another command works there.
        """
        try:
            root.mkdir(parents=True, exist_ok=True)
            marker = cls._read_marker(root)
            lock = (root / LOCK).open("w")
        except OSError as error:
            raise ConfigError(
                f"--output {root} cannot be written ({error.strerror}), expected a folder or a"
                " place to make one"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(
                    f"--output {root}: another experiments command works there; wait for it, or"
                    " choose another folder"
                ) from error
            yield cls(root, marker)

    @staticmethod
    def _read_marker(root: Path) -> dict[str, Any]:
        path = root / MARKER
        if not path.exists():
            foreign = sorted(entry.name for entry in root.iterdir() if entry.name != LOCK)
            if foreign:
                shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
                raise ConfigError(
                    f"--output {root} holds {shown} but no {MARKER}: found a folder of something"
                    " else, expected an empty one or one that this command made"
                )
            marker: dict[str, Any] = {"format": FORMAT, "data": {}}
            _write_json(path, marker)
            return marker
        try:
            marker = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path}: not valid JSON ({error})") from error
        found = marker.get("format") if isinstance(marker, dict) else None
        if found != FORMAT:
            raise ConfigError(f"{path}: found format {found!r}, expected {FORMAT!r}")
        return marker

    def keep_data_hashes(self, hashes: Mapping[str, str]) -> None:
        """Note which data the folder's results are about.

        Args:
            hashes: `PreparedData.hash` by data set, protocol and seed, in words.

        Raises:
            ConfigError: results here are about other data of the same name.
        """
        known: dict[str, str] = self._marker["data"]
        for what, found in hashes.items():
            if known.get(what, found) != found:
                raise ConfigError(
                    f"--output {self.root} has results of {what} with data hash {known[what]},"
                    f" found {found}: the files of the data set, or how they are read, have"
                    " changed; choose another folder"
                )
        if not hashes.keys() <= known.keys():
            self._marker["data"] = {**known, **hashes}
            _write_json(self.root / MARKER, self._marker)

    def folder(self, cell: Cell, config: RunConfig, data_hash: str) -> Path:
        """Folder of a cell's run, which need not be there yet."""
        options = {k: v for k, v in config.as_dict().items() if k not in WITHOUT_EFFECT}
        text = json.dumps([data_hash, options], sort_keys=True)
        what = hashlib.sha256(text.encode()).hexdigest()[:12]
        name = f"{cell.model}-s{cell.seed}-{what}-{code_version()}"
        return self.root / CELLS / _plain(cell.dataset) / name

    def spent(self, folder: Path) -> float | None:
        """Seconds after which a cell's run was stopped, or None."""
        found: float | None = self._marker.get("spent", {}).get(self._key(folder))
        return found

    def note_spent(self, folder: Path, seconds: float) -> None:
        """Note that a cell's run was stopped after its budget of seconds."""
        spent = {**self._marker.get("spent", {}), self._key(folder): seconds}
        self._marker["spent"] = spent
        _write_json(self.root / MARKER, self._marker)

    def _key(self, folder: Path) -> str:
        return str(folder.relative_to(self.root / CELLS))

    @staticmethod
    def load(folder: Path, cell: Cell, protocol: str, data_hash: str) -> dict[str, Any] | None:
        """Load a finished cell's metrics, or None.

        Raises:
            DataError: the folder holds something else under that name, such as a result of another
                protocol, which must not get into the same table.
        """
        if not (folder / run_folder.METRICS_FILE).exists():
            return None
        metrics = run_folder.load_metrics(folder)
        expected = {
            "model": cell.model,
            "protocol": protocol,
            "seed": cell.seed,
            "data_hash": data_hash,
        }
        for name, value in expected.items():
            if metrics.get(name) != value:
                raise DataError.about(
                    folder / run_folder.METRICS_FILE,
                    None,
                    f"{name} {metrics.get(name)!r}",
                    f"{name} {value!r}; remove the folder to run the cell again",
                )
        return metrics

    @staticmethod
    def has_other_code(folder: Path) -> bool:
        """Whether the same cell was finished by another version of the package."""
        stem = folder.name.removesuffix(code_version())
        return any(folder.parent.glob(f"{stem}*/{run_folder.METRICS_FILE}"))


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name.strip("/")) or "_"


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
