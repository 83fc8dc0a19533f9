"""What a run shows: a progress bar and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from ekpnet_fast.training import Progress


class Display:
    """Shows training as it goes; a context manager whose value takes `training.Progress`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Display:
        """Open the bar, on a terminal."""
        if self.console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[shown]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show a batch or an epoch."""
        record = progress.record
        if record is not None:
            valid = "" if math.isnan(record.valid_auc) else f"  valid AUC {record.valid_auc:.4f}"
            self.console.print(
                f"{record.stage:8} {record.epoch:3}/{progress.epochs}  loss {record.loss:.4f}"
                f"{valid}  {record.samples_per_second:,.0f} samples/s",
                highlight=False,
            )
        if self._bar is None:
            return
        if record is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
                self._task = None
            return
        shown = f"loss {progress.loss:.4f}  {progress.samples_per_second:,.0f} samples/s"
        name = f"{progress.stage} {progress.epoch}/{progress.epochs}"
        if self._task is None:
            self._task = self._bar.add_task(name, total=progress.total_pairs, shown=shown)
        self._bar.update(self._task, completed=progress.pairs, shown=shown)


def result_table(metrics: dict[str, Any]) -> Table:
    """Test metrics; item popularity stands first because uniform negatives flatter it."""
    table = Table(title=f"Test, {metrics['dataset']} (data {metrics['data_hash']})")
    table.add_column("")
    columns = [("AUC", "auc"), ("ACC", "acc"), ("AUC c>=1", "auc_seen"), ("GAUC", "gauc")]
    ranked = metrics["ranking"] is not None
    for title in [*(title for title, _ in columns), *(["NDCG@10", "Recall@20"] if ranked else [])]:
        table.add_column(title, justify="right")

    def row(name: str, clicks: dict[str, float], ranking: dict[Any, Any] | None) -> None:
        cells = [_number(clicks.get(key)) for _, key in columns]
        if ranked:
            by_k = {int(k): values for k, values in (ranking or {}).items()}
            cells += [
                _number(by_k.get(10, {}).get("ndcg")),
                _number(by_k.get(20, {}).get("recall")),
            ]
        table.add_row(name, *cells)

    row("item popularity", metrics["popularity"], metrics["popularity_ranking"])
    row(metrics["model"], metrics["test"], metrics["ranking"])
    if metrics["oracle_auc"] is not None:
        row("best possible", {"auc": metrics["oracle_auc"]}, None)
    return table


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.4f}"
