"""Tables as data: the entry of every cell, the paper's number beside it, and the bold ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, stdev
from typing import Any

from ekpnet_fast.evaluation import columns
from ekpnet_fast.evaluation.metrics import DEFAULT_KS
from ekpnet_fast.experiments import paper
from ekpnet_fast.experiments.plan import (
    ABLATION,
    ACTIVATIONS,
    SYSTEMS,
    TITLES,
    Cell,
    Plan,
)
from ekpnet_fast.experiments.significance import LEVEL, corrected_t_test

__all__ = ["Column", "Entry", "Row", "Section", "Test", "sections_of"]

Metrics = dict[str, Any]
Found = Mapping[Cell, Metrics]

TEST_OVER_TRAIN = {"ripplenet": 2 / 6, "recbole": 1 / 8}


@dataclass(frozen=True)
class Column:
    """Column of a table.

    Attributes:
        key: name of the metric in CSV files.
        label: heading.
        digits: after the point.
        tested: whether larger is better and the best may be set in bold.
        x: position in a plot, for columns that form a curve.
    """

    key: str
    label: str
    digits: int = 4
    tested: bool = True
    x: float | None = None


@dataclass(frozen=True)
class Entry:
    """Entry of a cell: a value per seed, NaN where a run failed, and the paper's as printed."""

    values: tuple[float, ...] = ()
    paper: str | None = None
    bold: bool = False

    @property
    def known(self) -> list[float]:
        """Values that are there."""
        return [value for value in self.values if math.isfinite(value)]

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN of none."""
        return mean(self.known) if self.known else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; NaN of fewer than two."""
        return stdev(self.known) if len(self.known) > 1 else math.nan


@dataclass(frozen=True)
class Row:
    """Row of a table: a system, or an activation in Figure 7."""

    key: str
    label: str
    entries: dict[str, Entry]  # by Column.key


@dataclass(frozen=True)
class Test:
    """Test of the best row of a column against the runner-up."""

    column: Column
    best: Row
    second: Row
    difference: float
    p: float


@dataclass(frozen=True)
class Section:
    """Section of a table: one data set's part."""

    dataset: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    tests: tuple[Test, ...] = field(default=())


COLUMNS = {
    "table5": (
        Column("seconds", "training, s", digits=1, tested=False),
        Column("first_stage", "first stage, s", digits=1, tested=False),
        Column("second_stage", "second stage, s", digits=1, tested=False),
        Column("epochs", "epochs", digits=1, tested=False),
        Column("samples_per_second", "samples/s", digits=0, tested=False),
        Column("total", "whole run, s", digits=1, tested=False),
    ),
    **{
        figure: tuple(Column(f"{name}@{k}", f"{label}@{k}", x=k) for k in DEFAULT_KS)
        for figure, name, label in (
            ("figure4", "precision", "Precision"),
            ("figure5", "recall", "Recall"),
            ("figure6", "f1", "F1"),
        )
    },
}


def columns_of(experiment: str, plan: Plan) -> tuple[Column, ...]:
    """Columns of a table or figure."""
    measured = reported(plan.settings.protocol)
    if experiment == "figure7":
        first = measured[0]
        return tuple(
            Column(f"{first.key}, {n}", f"{first.label}, L = {n}", tested=False, x=n)
            for n in plan.settings.depths
        )
    if experiment == "table4" and plan.settings.protocol == "ripplenet":
        return tuple(column for column in measured if "@" not in column.key)
    return measured if experiment in ("table3", "table4") else COLUMNS[experiment]


def reported(protocol: str) -> tuple[Column, ...]:
    """Columns that a protocol measures; models are chosen by, and drawn at, the first."""
    return tuple(Column(key, label) for label, key in columns.COLUMNS[protocol].items())


def sections_of(experiment: str, plan: Plan, found: Found) -> list[Section]:
    """Sections of a table or figure, data set by data set, from the runs that are there."""
    columns = columns_of(experiment, plan)
    sections = []
    for dataset in plan.settings.datasets:
        if experiment == "figure7":
            rows = _shape_rows(dataset, plan, found)
        else:
            models = ABLATION if experiment == "table4" else SYSTEMS
            rows = _model_rows(experiment, dataset, models, plan, found)
        section = Section(dataset, columns, tuple(rows))
        sections.append(_tested(section, TEST_OVER_TRAIN[plan.settings.protocol]))
    return sections


# ---- rows ----------------------------------------------------------------------------------------


def _model_rows(
    experiment: str, dataset: str, models: Sequence[str], plan: Plan, found: Found
) -> list[Row]:
    columns = columns_of(experiment, plan)
    rows = []
    for model in models:
        if not plan.settings.shows(model):
            continue
        # The paper's numbers belong to its own protocol.
        own = plan.settings.protocol == "ripplenet"
        printed = _printed(experiment, dataset, model) if own else {}
        runs = _runs(dataset, model, plan, found)
        if not runs and not printed:
            continue
        entries = {
            column.key: Entry(
                tuple(_value(metrics, column.key) for metrics in runs), printed.get(column.key)
            )
            for column in columns
        }
        rows.append(Row(model, TITLES[model], entries))
    return rows


def _runs(dataset: str, model: str, plan: Plan, found: Found) -> list[Metrics | None]:
    """Metrics of a model by seed, None where a run failed; empty for a model that is not run."""
    if not plan.trained(dataset, (model,)):
        return []
    return [found.get(Cell(dataset, model, seed)) for seed in range(plan.settings.seeds)]


def _shape_rows(dataset: str, plan: Plan, found: Found) -> list[Row]:
    seeds = range(plan.settings.seeds)
    columns, first = columns_of("figure7", plan), reported(plan.settings.protocol)[0].key
    level = tuple(_value(run, first) for run in _runs(dataset, "popularity", plan, found))
    rows = [
        Row("popularity", TITLES["popularity"], {column.key: Entry(level) for column in columns})
    ]
    for activation in ACTIVATIONS:
        entries = {}
        for column, layers in zip(columns, plan.settings.depths, strict=True):
            cells = [plan.shape_cell(dataset, activation, layers, seed) for seed in seeds]
            entries[column.key] = Entry(tuple(_value(found.get(cell), first) for cell in cells))
        rows.append(Row(activation, f"EKPNet, {activation}", entries))
    return rows


def _printed(experiment: str, dataset: str, model: str) -> dict[str, str]:
    """Numbers of the paper for a row, by column, as printed."""
    name = dataset.rstrip("/").rsplit("/", 1)[-1]
    if experiment == "table3":
        pair = paper.TABLE_3.get(name, {}).get(model, ())
        return {key: text for key, text in zip(("auc", "acc"), pair, strict=False) if text}
    if experiment == "table4":
        text = paper.TABLE_4.get(name, {}).get(model)
        return {"auc": text} if text else {}
    if experiment == "table5":
        stages = paper.TABLE_5.get(name, {}).get(model)
        return {"seconds": " + ".join(stages)} if stages else {}
    return {}


# ---- values --------------------------------------------------------------------------------------


def _value(metrics: Metrics | None, key: str) -> float:
    """Metric of a run; NaN where the run or the metric is not there."""
    if metrics is None:
        return math.nan
    if key in _TIMES:
        value = _TIMES[key](metrics)
        return math.nan if value is None else float(value)
    return columns.metric(key, metrics["test"], metrics["ranking"])


def _stages(metrics: Metrics) -> list[float]:
    """Seconds of each stage of training, validation included."""
    names = dict.fromkeys(record["stage"] for record in metrics["epochs"])
    return [metrics["seconds"][name] for name in names]


def _stage(metrics: Metrics, index: int) -> float:
    stages = _stages(metrics)
    return stages[index] if index < len(stages) else math.nan


_TIMES: dict[str, Callable[[Metrics], float | None]] = {
    "seconds": lambda metrics: sum(_stages(metrics)),
    "first_stage": lambda metrics: _stage(metrics, 0),
    "second_stage": lambda metrics: _stage(metrics, 1),
    "epochs": lambda metrics: sum(record["epoch"] > 0 for record in metrics["epochs"]),
    "samples_per_second": lambda metrics: metrics["samples_per_second"],
    "total": lambda metrics: metrics["seconds"]["total"],
}


# ---- bold ----------------------------------------------------------------------------------------


def _tested(section: Section, test_over_train: float) -> Section:
    """Copy of a section with tests, and in bold the entries that they allow."""
    found = (_test(section, column, test_over_train) for column in section.columns)
    tests = [test for test in found if test is not None]
    bold = {(test.column.key, test.best.key) for test in tests if test.p < LEVEL}
    rows = [
        replace(
            row,
            entries={
                key: replace(entry, bold=(key, row.key) in bold)
                for key, entry in row.entries.items()
            },
        )
        for row in section.rows
    ]
    return replace(section, rows=tuple(rows), tests=tuple(tests))


def _test(section: Section, column: Column, test_over_train: float) -> Test | None:
    """Test of best against runner-up, among rows with a value for every seed."""
    if not column.tested:
        return None

    def values(row: Row) -> tuple[float, ...]:
        return row.entries[column.key].values

    whole = [
        row
        for row in section.rows
        if len(values(row)) > 1 and all(math.isfinite(value) for value in values(row))
    ]
    whole.sort(key=lambda row: -row.entries[column.key].mean)
    if len(whole) < 2:
        return None
    best, second = whole[:2]
    difference = best.entries[column.key].mean - second.entries[column.key].mean
    p = corrected_t_test(values(best), values(second), test_over_train)
    return Test(column, best, second, difference, p)
