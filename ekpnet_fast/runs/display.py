"""Output of a run: a progress bar and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from ekpnet_fast.evaluation.columns import COLUMNS, metric
from ekpnet_fast.training.progress import Progress


class Display:
    """Display of training as it goes; a context manager whose value takes `progress.Progress`."""

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
            measures = (
                ("AUC", record.valid_auc),
                ("MRR@10", record.valid_mrr),
                ("NDCG@20", record.valid_ndcg),
            )
            users = progress.validated_users
            of = "" if users is None else f" of {users:,} users"
            known = [f"  valid {name} {x:.4f}{of}" for name, x in measures if not math.isnan(x)]
            valid = "".join(known)
            made = (
                f"  loss {record.loss:.4f}{valid}  {record.samples_per_second:,.0f} samples/s"
                if record.epoch
                else f"{valid}  before it is trained"
            )
            self.console.print(f"{progress.stage:8} {record.epoch:3}/{progress.epochs}{made}")
            if progress.warning is not None:
                self.console.print(f"warning: {progress.warning}")
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
    """Table of test metrics; item popularity is first because uniform negatives flatter it."""
    protocol = metrics["protocol"]
    named = "" if protocol == "ripplenet" else f", protocol {protocol}"
    table = Table(title=f"Test, {metrics['dataset']} (data {metrics['data_hash']}{named})")
    table.add_column("")
    columns = {
        title: key
        for title, key in COLUMNS[protocol].items()
        if "@" not in key or metrics["ranking"] is not None
    }
    for title in columns:
        table.add_column(title, justify="right")
    oracle = {"auc": metrics["oracle_auc"]}
    for name, clicks, ranking in (
        ("item popularity", metrics["popularity"], metrics["popularity_ranking"]),
        (metrics["model"], metrics["test"], metrics["ranking"]),
        *([("best possible", oracle, None)] if metrics["oracle_auc"] is not None else []),
    ):
        table.add_row(name, *(_number(metric(key, clicks, ranking)) for key in columns.values()))
    return table


def weights_text(weights: dict[str, float]) -> str:
    """Rises of the linear part's curves on one line, largest first; flat ones are counted."""
    shown = [f"{name} {value:.3f}" for name, value in weights.items() if value]
    unused = len(weights) - len(shown)
    rest = f"; {unused} more do not" if unused else ""
    return f"The logit rises over each feature by: {'; '.join(shown)}{rest}."


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else ""
