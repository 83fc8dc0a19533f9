"""Runner of the missing cells, with a bar and the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from ekpnet_fast.errors import EkpnetError
from ekpnet_fast.evaluation import columns
from ekpnet_fast.experiments.cache import Store
from ekpnet_fast.experiments.plan import Cell, Plan
from ekpnet_fast.experiments.tables import reported
from ekpnet_fast.runs import evaluate, runner
from ekpnet_fast.training.progress import Progress

__all__ = ["Runner", "duration", "expected_seconds"]


class Runner:
    """Runner for metrics of cells: read where a run is finished, run where it is not.

    A run that fails has a line, is missing in the tables, and does not stop the others.

    Attributes:
        found: metrics of the finished cells.
        failures: error messages by cell.
    """

    def __init__(self, plan: Plan, store: Store, console: Console) -> None:
        self.plan = plan
        self.store = store
        self.console = console
        self.found: dict[Cell, dict[str, Any]] = {}
        self.failures: dict[Cell, str] = {}
        self._hashes: dict[tuple[str, int], str] = {}
        self._todo: list[Cell] = []

    def check(self, cells: Sequence[Cell]) -> None:
        """Check options and data of all cells before any of them runs, and find finished ones.

        Raises:
            EkpnetError: options that cannot be used, data that are missing or have changed.
        """
        configs = {cell: self.plan.config(cell) for cell in cells}
        for cell, config in configs.items():
            key = cell.dataset, cell.seed
            if key not in self._hashes:
                _, prepared, _ = evaluate.load(config, evaluate.Stopwatch())
                self._hashes[key] = prepared.hash
        protocol = self.plan.settings.protocol
        self.store.keep_data_hashes(
            {f"{d}, {protocol}, seed {s}": value for (d, s), value in self._hashes.items()}
        )
        other = 0
        for cell in configs:
            folder = self.folder(cell)
            metrics = self._load(folder, cell)
            if metrics is not None:
                self.found[cell] = metrics
            else:
                other += self.store.has_other_code(folder)
        self._todo = [cell for cell in configs if cell not in self.found]
        line = f"{len(configs)} runs: {len(self.found)} are there, {len(self._todo)} to do"
        if other:
            line += f", {other} of them were done by another version of the package"
        self.console.print(line)

    def _load(self, folder: Path, cell: Cell) -> dict[str, Any] | None:
        data_hash = self._hashes[cell.dataset, cell.seed]
        return self.store.load(folder, cell, self.plan.settings.protocol, data_hash)

    def folder(self, cell: Cell) -> Path:
        """Folder of a cell's run, after `check`."""
        data_hash = self._hashes[cell.dataset, cell.seed]
        return self.store.folder(cell, self.plan.config(cell), data_hash)

    def run(self, cells: Iterable[Cell]) -> None:
        """Run the missing ones of the cells, one at a time, after `check`."""
        todo = [cell for cell in cells if cell not in self.found and cell not in self.failures]
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
        )
        total = len(self._todo)
        with Bar(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as bar:
            task = bar.add_task("", total=total, left="")
            for cell in dict.fromkeys(todo):
                bar.update(task, description=str(cell), completed=self._done(), left=self._left())

                def on_progress(progress: Progress, cell: Cell = cell) -> None:
                    done = f"{progress.stage} {progress.epoch}/{progress.epochs}"
                    bar.update(task, description=f"{cell}: {done}")

                found = self._run(cell, on_progress)
                line = f"{self._done()}/{total}  {found}  {self._left()}"
                self.console.print(line.rstrip())

    def _run(self, cell: Cell, on_progress: Callable[[Progress], None]) -> str:
        """Run a cell; returns a line about it."""
        folder = self.folder(cell)
        try:
            self.train(cell, folder, on_progress)
            metrics = self._load(folder, cell)
            assert metrics is not None
        except EkpnetError as error:
            self.failures[cell] = str(error)
            return f"{cell}: failed: {error}"
        self.found[cell] = metrics
        first = reported(self.plan.settings.protocol)[0]
        score = columns.metric(first.key, metrics["test"], metrics["ranking"])
        return f"{cell}: {first.label} {score:.4f}, {metrics['seconds']['total']:.1f} s"

    def train(self, cell: Cell, folder: Path, on_progress: Callable[[Progress], None]) -> None:
        """Run a cell into a folder."""
        runner.run(replace(self.plan.config(cell), output=folder, overwrite=True), on_progress)

    def _done(self) -> int:
        return sum(cell in self.found or cell in self.failures for cell in self._todo)

    def _left(self) -> str:
        waiting = [c for c in self._todo if c not in self.found and c not in self.failures]
        seconds = expected_seconds(waiting, self.found)
        return f"about {duration(seconds)} left" if waiting and seconds is not None else ""


def expected_seconds(cells: Iterable[Cell], found: dict[Cell, dict[str, Any]]) -> float | None:
    """Time that cells will take: each as long as its like did on average; None if nothing is known.

    Its like are runs of the same data set and model, else of the same data set, else all.
    """
    if not found:
        return None
    known: dict[tuple[str, ...], list[float]] = {}
    for cell, metrics in found.items():
        for key in ((cell.dataset, cell.model), (cell.dataset,), ()):
            known.setdefault(key, []).append(metrics["seconds"]["total"])
    means = {key: mean(values) for key, values in known.items()}
    total = 0.0
    for cell in cells:
        keys = ((cell.dataset, cell.model), (cell.dataset,), ())
        total += next(means[key] for key in keys if key in means)
    return total


def duration(seconds: float) -> str:
    """Text such as "45 s", "3 min" or "1 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
