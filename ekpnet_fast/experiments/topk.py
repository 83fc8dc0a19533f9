"""Table of ranked catalogues: every system on data that come split, beside published numbers.

Each run is a process of its own, so that its memory is known and it can be stopped when its budget
of time is spent. Options and epochs are chosen on validation, the model is trained again on all of
train, and test is read once.
"""

from __future__ import annotations

import csv
import io
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import Dataset, PreparedData, prepare
from ekpnet_fast.data.splits import TEMPORAL
from ekpnet_fast.errors import ConfigError, TrainingError
from ekpnet_fast.evaluation import columns
from ekpnet_fast.experiments.cache import Store, code_version
from ekpnet_fast.experiments.markdown import mean_sd, table
from ekpnet_fast.experiments.plan import Cell, Plan, Settings
from ekpnet_fast.experiments.published import PUBLISHED, Benchmark, Published
from ekpnet_fast.experiments.runner import Runner, duration
from ekpnet_fast.native.build import __version__
from ekpnet_fast.runs import run_folder
from ekpnet_fast.runs.places import lasting
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.storage.files import write_text
from ekpnet_fast.training.progress import Progress

__all__ = ["BUDGET", "DATASETS", "PROTOCOLS", "ROWS", "BudgetRunner", "TopKPlan", "run_topk"]

PROTOCOLS = ("fixed", *TEMPORAL)
DATASETS = ("alibaba-ifashion", "last-fm-kgat")
BUDGET = 3600.0  # seconds of a run
USERS = 10_000  # of test for whom `SAMPLED` rank
GRACE = 20.0  # seconds that a run gets to stop by itself
NAMES = ("recall", "ndcg")

ROWS = {
    "popularity": "item popularity",
    "mf": "MF",
    "item_knn": "ItemKNN",
    "user_knn": "UserKNN",
    "p3alpha": "P3alpha",
    "local_ridge": "local ridge (a sparse EASE^R)",
    "cke": "CKE",
    "dkn": "DKN",
    "wide_deep": "Wide&Deep",
    "ripplenet": "RippleNet",
    "kgcn": "KGCN",
    "ripp_mkr": "Ripp-MKR",
    "kcan": "KCAN",
    "akupm": "AKUPM",
    "ekpnet": "EKPNet",
    "linear": "linear part of EKPNet+",
    "ekpnet_plus": "EKPNet+",
}
"""Rows of the table, by model."""

WITHOUT_DRAWS = ("popularity", "item_knn", "user_knn", "p3alpha", "local_ridge")
"""Models whose refitted lists are the same for every seed; they are run once."""


SAMPLED = ("dkn", "wide_deep", "ripplenet", "kgcn", "ripp_mkr", "kcan", "akupm", "ekpnet")
"""Models that score all but every pair of user and item: their lists are of some users, by seed."""


class TopKPlan(Plan):
    """Plan of the table's runs.

    Args:
        settings: of the command.
        datasets: those of the settings, loaded.
        rows: some of `ROWS`; empty for all.
        users: of test for whom `SAMPLED` rank.

    Raises:
        ConfigError: a protocol of another table.
    """

    def __init__(
        self,
        settings: Settings,
        datasets: Sequence[Dataset],
        rows: Sequence[str] = (),
        users: int = USERS,
    ) -> None:
        if settings.protocol not in PROTOCOLS:
            raise ConfigError(
                f"--protocol is {settings.protocol}, expected {' or '.join(PROTOCOLS)}: topk ranks"
                " all items on a split that is not drawn at random"
            )
        super().__init__(settings, datasets)
        self.rows = [name for name in ROWS if not rows or name in rows]
        self.users = users

    def cells(self, experiment: str) -> list[Cell]:
        """Cells of every row, data set by data set."""
        return [
            Cell(dataset, model, seed)
            for dataset in self.settings.datasets
            for model in self.trained(dataset, self.rows)
            for seed in range(1 if model in WITHOUT_DRAWS else self.settings.seeds)
        ]

    def config(self, cell: Cell) -> RunConfig:
        """Options of a run, without its output."""
        base = self._base(cell.dataset, cell.model)
        users = self.users if cell.model in SAMPLED else None
        return resolve(replace(base, seed=cell.seed, ranking=True, refit=True, ranked_users=users))


class BudgetRunner(Runner):
    """Runner that gives each run a process of its own, and so many seconds.

    Attributes:
        budget: seconds of a run.
    """

    def __init__(self, plan: Plan, store: Store, console: Console, budget: float) -> None:
        super().__init__(plan, store, console)
        self.budget = budget

    def train(self, cell: Cell, folder: Path, on_progress: Callable[[Progress], None]) -> None:
        """Run a cell in a process.

        Raises:
            TrainingError: it failed, or its budget is spent, now or in a run before.
        """
        spent = self.store.spent(folder)
        if spent is not None and spent >= self.budget:
            raise TrainingError(_stopped(spent))
        config = lasting(replace(self.plan.config(cell), overwrite=True))
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        with tempfile.TemporaryDirectory() as place:
            run_folder.save_config(Path(place), config)
            words = ["--config", str(Path(place) / run_folder.CONFIG_FILE), "--output", str(folder)]
            process = subprocess.Popen(
                [sys.executable, "-m", "ekpnet_fast.train", *words],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=env,
            )
            try:
                _, said = process.communicate(timeout=self.budget)
            except subprocess.TimeoutExpired:
                self.store.note_spent(folder, self.budget)
                raise TrainingError(_stopped(self.budget)) from None
            finally:
                _end(process)
        if process.returncode:
            lines = said.strip().splitlines() or [f"ended with code {process.returncode}"]
            raise TrainingError(lines[-1].removeprefix("error: "))


def _stopped(seconds: float) -> str:
    return f"stopped after {duration(seconds)}, its budget"


def _end(process: subprocess.Popen[str]) -> None:
    """Stop a process, if it runs, and wait for its end."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def benchmark_of(prepared: PreparedData) -> Benchmark:
    """Counts of split data."""
    dataset, counts = prepared.dataset, prepared.counts
    assert counts is not None  # of every protocol that this table takes
    return Benchmark(dataset.num_users, dataset.num_items, counts.train + counts.valid, counts.test)


def run_topk(
    settings: Settings,
    datasets: Sequence[Dataset],
    rows: Sequence[str],
    budget: float,
    users: int,
    console: Console,
) -> int:
    """Run the missing cells and write topk.md and topk.csv; returns how many runs failed.

    A run whose budget is spent has not failed.

    Raises:
        ConfigError: a budget that is no time, data that are not split, or a wrong protocol.
    """
    if not 0 < budget < math.inf:
        raise ConfigError(f"--budget is {budget:g}, expected seconds, more than 0")
    plan = TopKPlan(settings, datasets, rows, users)
    benchmarks = {
        name: benchmark_of(prepare(dataset, 0, settings.protocol, settings.cut))
        for name, dataset in zip(settings.datasets, datasets, strict=True)
    }
    with Store.opened(settings.output) as store:
        runner = BudgetRunner(plan, store, console, budget)
        cells = plan.cells("topk")
        runner.check(cells)
        runner.run(cells)
        for path in write_topk(plan, benchmarks, runner):
            console.print(f"Written: {path}")
        stopped = [cell for cell in runner.failures if store.spent(runner.folder(cell)) is not None]
        return len(runner.failures) - len(stopped)


# ---- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """Line of the table: a model's runs, by seed.

    Attributes:
        model: of `ROWS`.
        runs: metrics of the finished ones.
    """

    model: str
    runs: Sequence[Mapping[str, Any]]

    def values(self, name: str) -> list[float]:
        """Values of a metric at 20, or of "recall_low" and so on, by seed."""
        return [columns.metric(f"{name}@20", None, run["ranking"]) for run in self.runs]

    def text(self, name: str, bold: bool) -> str:
        """Text such as 0.1234 ± 0.0005 [0.1210, 0.1258]."""
        low, high = (mean(self.values(f"{name}_{end}")) for end in ("low", "high"))
        found = mean_sd(self.values(name), 4)
        return f"{f'**{found}**' if bold else found} [{low:.4f}, {high:.4f}]"


def _best(lines: Sequence[Line], name: str) -> str | None:
    """Model whose interval lies above that of every other one; None if there is none."""
    if len(lines) < 2:
        return None
    first, *others = sorted(lines, key=lambda line: -mean(line.values(name)))
    low = mean(first.values(f"{name}_low"))
    if all(mean(line.values(f"{name}_high")) < low for line in others):
        return first.model
    return None


def write_topk(
    plan: TopKPlan, benchmarks: Mapping[str, Benchmark], runner: BudgetRunner
) -> list[Path]:
    """Write the table from the runs that are there."""
    settings = plan.settings
    sections, lines = [], []
    for dataset in settings.datasets:
        found = [
            Line(model, runs)
            for model in plan.rows
            if (
                runs := [
                    metrics
                    for cell, metrics in runner.found.items()
                    if (cell.dataset, cell.model) == (dataset, model)
                ]
            )
        ]
        known = PUBLISHED.get(benchmarks[dataset], ())
        sections.append(_section(dataset, found, known))
        lines += _records(dataset, found, known)
    folder = settings.output / settings.protocol
    folder.mkdir(exist_ok=True)
    stem = "topk" + (".quick" if settings.quick else "")
    cut = "" if settings.cut is None else f", cut {settings.cut}"
    title = f"## Ranked catalogues (protocol {settings.protocol}{cut})"
    notes = "\n".join(f"- {note}" for note in _notes(plan, runner))
    paths = [folder / f"{stem}.md", folder / f"{stem}.csv"]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *lines])
    write_text(paths[0], "\n\n".join([title, *sections, notes]) + "\n")
    write_text(paths[1], text.getvalue())
    return paths


HEADER = ("protocol", "data", "data_hashes", "row", "origin", "recall@20", "ndcg@20",
          "recall_low", "recall_high", "ndcg_low", "ndcg_high", "seconds", "cpu_seconds",
          "peak_rss_mb", "users", "seeds", "differs")  # fmt: skip


def _records(dataset: str, lines: Sequence[Line], known: Sequence[Published]) -> list[list[str]]:
    records = []
    for line in lines:
        names = (*NAMES, "recall_low", "recall_high", "ndcg_low", "ndcg_high")
        first = line.runs[0]
        records.append([
            first["protocol"], dataset, " ".join(run["data_hash"] for run in line.runs),
            line.model, "here",
            *(f"{mean(line.values(name)):.6g}" for name in names),
            f"{mean(run['seconds']['total'] for run in line.runs):.6g}",
            f"{mean(run['cpu_seconds'] for run in line.runs):.6g}",
            f"{max(run['peak_rss_mb'] for run in line.runs):.6g}",
            str(first["ranked_users"]), str(len(line.runs)), "",
        ])  # fmt: skip
    records += [
        ["", dataset, "", row.model, row.source.cited, row.recall, row.ndcg, *[""] * 9,
         row.source.differs]
        for row in known
    ]  # fmt: skip
    return records


def _section(dataset: str, lines: Sequence[Line], known: Sequence[Published]) -> str:
    best = {name: _best(lines, name) for name in NAMES}
    body = [
        [
            ROWS[line.model],
            *(line.text(name, best[name] == line.model) for name in NAMES),
            mean_sd([run["seconds"]["total"] for run in line.runs], 1),
            mean_sd([run["cpu_seconds"] for run in line.runs], 1),
            f"{max(run['peak_rss_mb'] for run in line.runs):,.0f}",
            f"{line.runs[0]['ranked_users']:,}",
        ]
        for line in lines
    ]
    header = [dataset, "Recall@20", "NDCG@20", "seconds", "CPU s", "memory, MiB", "users"]
    parts = [table(header, body, left=1)]
    if known:
        sources = list(dict.fromkeys(row.source for row in known))
        rows = [
            [row.model, row.recall, row.ndcg, str(sources.index(row.source) + 1)] for row in known
        ]
        parts += [
            table([f"{dataset}, published", "Recall@20", "NDCG@20", "source"], rows, left=1),
            "\n".join(
                f"{n}. {source.cited}; differs: {source.differs}."
                for n, source in enumerate(sources, 1)
            ),
        ]
    return "\n\n".join(parts)


def _notes(plan: TopKPlan, runner: BudgetRunner) -> list[str]:
    settings = plan.settings
    notes = []
    if settings.quick:
        notes.append("Quick: one epoch a stage. These numbers show that the command works.")
    notes += [
        f"Protocol {settings.protocol}: all items ranked but the user's train items; options by"
        " default, epochs chosen on validation, then trained again on train and validation; test"
        " read once. NDCG divides by the best that min(20, relevant items) can give.",
        f"Mean ± standard deviation over {settings.seeds} seeds where something is drawn, in"
        " brackets the interval of 95 % by draws of users. Bold: best of its column, and its"
        " interval lies above those of all others, which asks for more than a paired test would.",
        "Seconds are of whole runs, reading and ranking included, by the clock and of all threads'"
        " CPU time, which other programs on the machine disturb less; memory is the largest"
        f" resident one of the process; at most {duration(runner.budget)} a run.",
        f"Where users are fewer, they are {plan.users:,} drawn by the seed, because the model"
        " scores (all but) every pair of user and item. Epochs are chosen by the lists of some"
        " users of validation, the same in every epoch.",
        "Users with no other test positives than those of train are left out here; published"
        " averages may count them as misses.",
        *(
            f"Not run: {ROWS[model]} on {dataset}, which has no {lacking}."
            for (dataset, model), lacking in plan.lacking.items()
            if model in plan.rows
        ),
        *(f"Left out: {cell}: {error}." for cell, error in runner.failures.items()),
        *sorted(
            {
                f"Machine: {run['environment']['processor']} ({run['environment']['isa']}),"
                f" {run['environment']['threads']} threads, torch {run['environment']['torch']}"
                for run in runner.found.values()
            }
        ),
        f"Written on {date.today().isoformat()}; ekpnet_fast {__version__}, code {code_version()}",
    ]
    return notes
