"""Table of EKPNet+: its parts, its options, and the models beside it.

Seeds start at `FIRST_SEED`: the options were chosen on validation examples of seeds 0 and 1, so
the splits that are shown here have decided nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import Dataset
from ekpnet_fast.data.splits import RANKING
from ekpnet_fast.evaluation import columns
from ekpnet_fast.experiments.cache import Store, code_version
from ekpnet_fast.experiments.markdown import mean_sd, table
from ekpnet_fast.experiments.plan import Cell, Plan, Settings
from ekpnet_fast.experiments.runner import Runner
from ekpnet_fast.models.wide.part import EASE_ITEMS
from ekpnet_fast.native.build import __version__
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.storage.files import write_text

__all__ = ["FIRST_SEED", "VARIANTS", "PlusPlan", "run_plus"]

FIRST_SEED = 10
CPU = "CPU s"


@dataclass(frozen=True)
class Variant:
    """Variant, a row: a model and what differs from its preset, for data of up to `max_items`.

    `drawn`: only where splits and their negatives are drawn, and not for lists, which need folds.
    """

    label: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    max_items: int = 1 << 31
    drawn: bool = False


VARIANTS = {
    "popularity": Variant("item popularity", "popularity"),
    "mf": Variant("MF", "mf"),
    "ekpnet": Variant("EKPNet", "ekpnet"),
    "ekpnet folds": Variant("EKPNet, cross-fitted", "ekpnet", {"folds": 5}),
    "linear": Variant("linear part alone", "linear"),
    "ekpnet_plus": Variant("EKPNet+", "ekpnet_plus"),
    "no folds": Variant("EKPNet+ without cross-fitting", "ekpnet_plus", {"folds": 1}, drawn=True),
    "no projections": Variant(
        "EKPNet+ without projections",
        "ekpnet_plus",
        {"ekpnet_plus.low_pass": (), "ekpnet_plus.joint_spectral": ()},
    ),
    "lines": Variant(
        "EKPNet+, straight lines in place of curves", "ekpnet_plus", {"ekpnet_plus.pieces": 1}
    ),
    "near": Variant("EKPNet+ without far co-click", "ekpnet_plus", {"ekpnet_plus.five_hop": False}),
    "no relations": Variant(
        "EKPNet+ without matches by relation", "ekpnet_plus", {"ekpnet_plus.relations": 0}
    ),
    "no walk": Variant(
        "EKPNet+ without the walk over graph and clicks",
        "ekpnet_plus",
        {"ekpnet_plus.kg_click_kg": False},
    ),
    "no regression": Variant(
        "EKPNet+ without the regression on the graph",
        "ekpnet_plus",
        {"ekpnet_plus.graph_regression": 0},
    ),
    "no graph": Variant(
        "EKPNet+, wide part without the graph but for matches",
        "ekpnet_plus",
        {
            "ekpnet_plus.graph_regression": 0,
            "ekpnet_plus.joint_spectral": (),
            "ekpnet_plus.kg_click_kg": False,
            "ekpnet_plus.relations": 0,
        },
    ),
    "no knn": Variant("EKPNet+ without item kNN", "ekpnet_plus", {"ekpnet_plus.knn": False}),
    "no ridge": Variant("EKPNet+ without ridge", "ekpnet_plus", {"ekpnet_plus.ridge": 0.0}),
    "ease": Variant("EKPNet+, EASE^R", "ekpnet_plus", {"ekpnet_plus.ease": 300}, EASE_ITEMS),
}


@dataclass(frozen=True)
class PlusCell(Cell):
    """Cell, a run of a row."""

    variant: str = ""

    def __str__(self) -> str:
        """Text such as "last-fm EKPNet+, seed 10"."""
        return f"{self.dataset} {VARIANTS[self.variant].label}, seed {self.seed}"


class PlusPlan(Plan):
    """Plan of the table's runs: of some rows of `VARIANTS`, or of all."""

    def __init__(
        self, settings: Settings, datasets: Sequence[Dataset], rows: Sequence[str]
    ) -> None:
        super().__init__(settings, datasets)
        loaded = zip(settings.datasets, datasets, strict=False)
        self.num_items = {name: dataset.num_items for name, dataset in loaded}
        self.rows = [name for name in VARIANTS if not rows or name in rows]

    def cells(self, experiment: str) -> list[Cell]:
        """Cells of every row, data set by data set; not of rows that leave the preset as it is."""
        seeds = range(FIRST_SEED, FIRST_SEED + self.settings.seeds)
        cells: list[Cell] = []
        for dataset in self.settings.datasets:
            for name in self.rows:
                variant = VARIANTS[name]
                row = [PlusCell(dataset, variant.model, seed, variant=name) for seed in seeds]
                fits = self.num_items.get(dataset, 0) <= variant.max_items
                fits = fits and not (variant.drawn and self.settings.protocol in RANKING)
                if fits and (not variant.options or self._differs(row[0])):
                    cells += row
        return cells

    def _differs(self, cell: PlusCell) -> bool:
        base = PlusCell(cell.dataset, cell.model, cell.seed, variant=cell.model)
        return self.config(cell) != self.config(base)

    def config(self, cell: Cell) -> RunConfig:
        """Options of a run, without its output."""
        assert isinstance(cell, PlusCell)
        base = self._base(cell.dataset, cell.model)
        given = {"dataset": cell.dataset, "model": cell.model}
        changed = resolve({**given, **VARIANTS[cell.variant].options})
        auto = tuple(name for name in base.auto if name in changed.auto)  # not those given here
        config = replace(base, folds=changed.folds, options=changed.options, auto=auto)
        return resolve(replace(config, seed=cell.seed))


def run_plus(
    settings: Settings, datasets: Sequence[Dataset], rows: Sequence[str], console: Console
) -> int:
    """Run the missing cells and write plus.md and plus.csv; returns how many runs failed."""
    plan = PlusPlan(settings, datasets, rows)
    with Store.opened(settings.output) as store:
        runner = Runner(plan, store, console)
        cells = plan.cells("plus")
        runner.check(cells)
        runner.run(cells)
        for path in write_plus(plan, runner.found, runner):
            console.print(f"Written: {path}")
        return len(runner.failures)


def write_plus(plan: PlusPlan, found: Mapping[Cell, dict[str, Any]], runner: Runner) -> list[Path]:
    """Write the table from the runs that are there."""
    settings = plan.settings
    keys = {**columns.COLUMNS[settings.protocol], CPU: CPU}
    pages, lines = [], ["data,row,metric,values"]
    for dataset in settings.datasets:
        body = []
        for name in plan.rows:
            runs = [
                metrics
                for cell, metrics in found.items()
                if isinstance(cell, PlusCell) and (cell.dataset, cell.variant) == (dataset, name)
            ]
            if not runs:
                continue
            values = {label: [_value(run, key) for run in runs] for label, key in keys.items()}
            body.append(
                [
                    VARIANTS[name].label,
                    *(mean_sd(x, 1 if label == CPU else 4) for label, x in values.items()),
                ]
            )
            lines += [
                f'{dataset},"{VARIANTS[name].label}",{label},{" ".join(f"{v:.6g}" for v in x)}'
                for label, x in values.items()
            ]
        pages.append(table([dataset, *keys], body, left=1))
    folder = settings.output / settings.protocol
    folder.mkdir(exist_ok=True)
    stem = "plus" + (".quick" if settings.quick else "")
    notes = [
        f"Mean ± standard deviation over {settings.seeds} seeds, from {FIRST_SEED} on, each with"
        " its own split, initial values and ripple sets; options were chosen on validation rows of"
        " other seeds, epochs on those of the run. CPU seconds are of whole runs, ranking included,"
        " and of all threads.",
        *(f"Failed and left out: {cell}: {error}" for cell, error in runner.failures.items()),
        *sorted(
            {
                f"Machine: {run['environment']['processor']} ({run['environment']['isa']}),"
                f" {run['environment']['threads']} threads, torch {run['environment']['torch']}"
                for run in found.values()
            }
        ),
        f"Written on {date.today().isoformat()}; ekpnet_fast {__version__}, code {code_version()}",
    ]
    title = f"## EKPNet+ (protocol {settings.protocol})"
    listed = "\n".join(f"- {note}" for note in notes)
    body_text = "\n\n".join(pages)
    paths = [folder / f"{stem}.md", folder / f"{stem}.csv"]
    write_text(paths[0], f"{title}\n\n{body_text}\n\n{listed}\n")
    write_text(paths[1], "\n".join(lines) + "\n")
    return paths


def _value(metrics: dict[str, Any], key: str) -> float:
    if key == CPU:
        return float(metrics["cpu_seconds"])
    return columns.metric(key, metrics["test"], metrics["ranking"])
