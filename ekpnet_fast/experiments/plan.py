"""Plan of the runs that a table or figure needs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import Dataset
from ekpnet_fast.data.splits import RANKING
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models import MODELS
from ekpnet_fast.native.cpus import choose_threads
from ekpnet_fast.native.device import resolve_device
from ekpnet_fast.runs.resolve import resolve

__all__ = [
    "ABLATION",
    "ACTIVATIONS",
    "DATASETS",
    "DEPTHS",
    "EXPERIMENTS",
    "SYSTEMS",
    "TITLES",
    "Cell",
    "Plan",
    "Settings",
]

DATASETS = ("movielens-1m", "book-crossing", "last-fm")

TITLES = {
    "popularity": "item popularity",
    "mf": "MF",
    "cke": "CKE",
    "dkn": "DKN",
    "wide_deep": "Wide&Deep",
    "ripplenet": "RippleNet",
    "kgcn": "KGCN",
    "ripp_mkr": "Ripp-MKR",
    "kcan": "KCAN",
    "akupm": "AKUPM",
    "ekp_no": "EKP_no",
    "ekp_att": "EKP_att",
    "ekp_frame": "EKP_frame",
    "ekpnet": "EKPNet",
}
"""Every system that a table may list, and how it is called there."""

ABLATION = ("popularity", "ekp_no", "ekp_att", "ekp_frame", "ekpnet")
SYSTEMS = tuple(name for name in TITLES if name == "ekpnet" or name not in ABLATION[1:])

EXPERIMENTS = {
    "table1": "Statistics of the data sets",
    "table3": "Click prediction of all systems",
    "table4": "Click prediction of the variants of EKPNet",
    "table5": "Time of training",
    "figure4": "Precision of the K best items",
    "figure5": "Recall of the K best items",
    "figure6": "F1 of the K best items",
    "figure7": "EKPNet by activation and depth of the prediction layers",
}

ACTIVATIONS = ("relu", "sigmoid", "tanh")
DEPTHS = (1, 2, 3, 4, 5, 6)

QUICK_EPOCHS, QUICK_SEEDS, QUICK_DATASETS, QUICK_DEPTHS = 1, 2, ("last-fm",), (1, 4)


@dataclass(frozen=True)
class Settings:
    """Settings of all runs of a command.

    Attributes:
        output: the folder of results.
        data_root: folder of data sets, or None for $EKPNET_DATA.
        datasets: their names, in the order of the tables.
        models: those to show beside popularity; empty for all.
        seeds: runs per cell of a table, with seeds 0, 1, ...
        preset: of the options, for models that have it; the others take "default".
        protocol: of splitting the data and measuring.
        cut: where test begins, with protocol "temporal".
        threads: CPU threads of a run; as many as the process may use if None.
        device: "auto", "cpu" or "cuda".
        quick: one epoch per stage and two depths in Figure 7, to see that everything works.
    """

    output: Path
    data_root: Path | None = None
    datasets: tuple[str, ...] = DATASETS
    models: tuple[str, ...] = ()
    seeds: int = 3
    preset: str = "default"
    protocol: str = "ripplenet"
    cut: float | str | None = None
    threads: int | None = None
    device: str = "auto"
    quick: bool = False

    def __post_init__(self) -> None:
        """Check the settings that no run checks.

        Raises:
            ConfigError: no seed, or a model that cannot be run; names it.
        """
        if self.seeds < 1:
            raise ConfigError(f"--seeds is {self.seeds}, expected at least 1")
        if self.cut is not None and self.protocol != "temporal":
            raise ConfigError(
                f"--cut is {self.cut} with --protocol {self.protocol}, expected --protocol temporal"
            )
        known = [name for name in TITLES if name in MODELS]
        for name in self.models:
            if name in known:
                continue
            if name in TITLES:
                raise ConfigError(
                    f"--models: {name} is not built yet, expected some of {', '.join(known)}"
                )
            close = difflib.get_close_matches(name, TITLES, n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(
                f"--models: unknown model {name!r}, expected some of {', '.join(known)}{meant}"
            )

    @property
    def depths(self) -> tuple[int, ...]:
        """Depths of Figure 7."""
        return QUICK_DEPTHS if self.quick else DEPTHS

    def shows(self, model: str) -> bool:
        """Whether tables have a row for the model."""
        return not self.models or model == "popularity" or model in self.models


@dataclass(frozen=True)
class Cell:
    """Cell, a run: a data set, a model, a seed, and for Figure 7 what differs from the preset."""

    dataset: str
    model: str
    seed: int
    activation: str | None = None
    layers: int | None = None

    def __str__(self) -> str:
        """Text such as "last-fm ekpnet relu 4 layers, seed 0"."""
        varied = "" if self.layers is None else f" {self.activation} {self.layers} layers"
        return f"{self.dataset} {self.model}{varied}, seed {self.seed}"


class Plan:
    """Plan: the cells of tables and the options of their runs.

    Args:
        settings: of the command.
        datasets: those of the settings, loaded.
    """

    def __init__(self, settings: Settings, datasets: Sequence[Dataset] = ()) -> None:
        self.settings = settings
        # Needs of a model that a data set of the settings lacks, by data set and model.
        self.lacking = {
            (name, model): lacking
            for name, dataset in zip(settings.datasets, datasets, strict=False)
            for model, kind in MODELS.items()
            if settings.shows(model) and (lacking := kind.lacking(dataset))
        }
        self._configs: dict[tuple[str, str], RunConfig] = {}

    @cached_property
    def device(self) -> str:
        """Device of the runs, "auto" resolved."""
        return resolve_device(self.settings.device).type

    def cells(self, experiment: str) -> list[Cell]:
        """Cells of a table or figure, in the order of its rows."""
        if experiment == "table1":
            return []
        if experiment == "figure7":
            return list(dict.fromkeys(self._shape_cells()))
        rows = ABLATION if experiment == "table4" else SYSTEMS
        return [
            Cell(dataset, model, seed)
            for dataset in self.settings.datasets
            for model in self.trained(dataset, rows)
            for seed in range(self.settings.seeds)
        ]

    def trained(self, dataset: str, rows: Sequence[str]) -> list[str]:
        """Rows of a data set's table that runs must fill."""
        return [
            name
            for name in rows
            if name in MODELS and self.settings.shows(name) and (dataset, name) not in self.lacking
        ]

    def shape_cell(self, dataset: str, activation: str, layers: int, seed: int) -> Cell:
        """Cell of a point of Figure 7; the preset's own shape is the cell of the tables.

        A single layer is the output, which has no activation, so that all have the cell in common.
        """
        shape = self._base(dataset, "ekpnet").shape
        activation = shape.activation if layers == 1 else activation
        if (activation, layers) == (shape.activation, shape.layers):
            return Cell(dataset, "ekpnet", seed)
        return Cell(dataset, "ekpnet", seed, activation, layers)

    def config(self, cell: Cell) -> RunConfig:
        """Options of a cell's run, without its output.

        Raises:
            ConfigError: options that do not fit each other; names them.
        """
        base = self._base(cell.dataset, cell.model)
        config = replace(base, seed=cell.seed, ranking=self.is_ranked(cell))
        if cell.layers is not None:
            changes: dict[str, Any] = {"activation": cell.activation, "layers": cell.layers}
            config = replace(config, shape=replace(config.shape, **changes))
        return resolve(config)

    def is_ranked(self, cell: Cell) -> bool:
        """Whether a run also ranks all items: those of Figures 4-6 do, the rest saves the time."""
        if self.settings.protocol in RANKING:
            return True
        return cell.model in SYSTEMS and cell.layers is None

    def _base(self, dataset: str, model: str) -> RunConfig:
        key = dataset, model
        if key not in self._configs:
            settings = self.settings
            options: dict[str, object] = {
                "dataset": dataset,
                "data_root": settings.data_root,
                "model": model,
                "preset": settings.preset if settings.preset in MODELS[model].presets else None,
                # Named although it changes no metric, because seconds belong to a cell too.
                "threads": choose_threads(settings.threads).count,
                "device": self.device,
                "protocol": settings.protocol,
                "cut": settings.cut,
                "epochs": QUICK_EPOCHS if settings.quick else None,
            }
            given = {name: value for name, value in options.items() if value is not None}
            self._configs[key] = resolve(given)
        return self._configs[key]

    def _shape_cells(self) -> Iterable[Cell]:
        if not self.settings.shows("ekpnet"):
            return
        for dataset in self.settings.datasets:
            for seed in range(self.settings.seeds):
                yield Cell(dataset, "popularity", seed)
            for activation in ACTIVATIONS:
                for layers in self.settings.depths:
                    for seed in range(self.settings.seeds):
                        yield self.shape_cell(dataset, activation, layers, seed)
