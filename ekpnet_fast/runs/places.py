"""Places of a run's data set: kept so that they hold elsewhere, and found where it was moved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data.datasets import DATA_ROOT_VARIABLE

__all__ = ["lasting", "moved"]


def lasting(config: RunConfig) -> RunConfig:
    """Configuration whose folder of data sets, and data set where it is a path, are absolute.

    A run's folder keeps this one, so that the run can be evaluated and resumed from anywhere.
    """
    root = None if config.data_root is None else config.data_root.absolute()
    name = config.dataset
    inside = root is not None and (root / name).is_dir()
    # A bare name is a folder of the data root first, also where the environment names that root.
    known = name == "synthetic" or inside
    if not known and Path(name).is_dir() and not _under_root(name):
        name = str(Path(name).resolve())
    return replace(config, data_root=root, dataset=name)


def moved(options: Mapping[str, Any], data_root: Path | None) -> dict[str, Any]:
    """Options of a stored run whose data set now lies under another folder of data sets.

    Args:
        options: of the run, nested.
        data_root: the folder now, None where it is not said.
    """
    if data_root is None:
        return dict(options)
    dataset = str(options.get("dataset", RunConfig.dataset))
    parts = Path(dataset).parts
    if not (data_root / dataset).is_dir() or Path(dataset).is_absolute():
        # A path, of which the last part is the name; of raw files the last two.
        for count in (2, 1) if parts[-1:] == ("raw",) else (1,):
            name = str(Path(*parts[-count:])) if parts else ""
            if name and (data_root / name).is_dir():
                dataset = name
                break
    return {**options, "dataset": dataset, "data_root": data_root}


def _under_root(name: str) -> bool:
    root = os.environ.get(DATA_ROOT_VARIABLE)
    return bool(root) and (Path(str(root)) / name).is_dir()
