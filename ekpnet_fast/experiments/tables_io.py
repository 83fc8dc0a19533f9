"""Files of a table or figure: Markdown, CSV, and SVG where it can be drawn."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from ekpnet_fast.data import Dataset
from ekpnet_fast.data.stats import PAPER_TABLE_1, describe
from ekpnet_fast.experiments import figures, paper
from ekpnet_fast.experiments.cache import code_version
from ekpnet_fast.experiments.markdown import table
from ekpnet_fast.experiments.plan import EXPERIMENTS, QUICK_EPOCHS, TITLES, Cell, Plan, Settings
from ekpnet_fast.experiments.render import (
    LONG_HEADER,
    csv_text,
    long_rows,
    section_table,
)
from ekpnet_fast.experiments.significance import LEVEL
from ekpnet_fast.experiments.tables import TEST_OVER_TRAIN, Section
from ekpnet_fast.native.build import __version__
from ekpnet_fast.runs import plotting
from ekpnet_fast.storage.files import write_text

__all__ = ["PROTOCOLS", "write_statistics", "write_table"]

PROTOCOLS = {
    "ripplenet": "rows split 6:2:2 at random, users without a train positive left out, as many"
    " negatives as positives per user drawn once, epoch chosen on validation AUC; lists rank all"
    " items but the user's train and validation positives",
    "recbole": "each user's positives split 8:1:1 at random, one uniform negative per positive,"
    " drawn anew for each epoch, epoch chosen on validation MRR@10; lists rank all items but the"
    " user's train and validation positives",
}

NO_NUMBERS = "The paper gives this figure as a plot, without numbers."
OTHER_PROTOCOL = "The paper's numbers belong to the protocol ripplenet and are not shown."


def write_table(
    experiment: str,
    plan: Plan,
    sections: Sequence[Section],
    runs: Mapping[Cell, dict[str, Any]],
    failures: Mapping[Cell, str],
    dates: Sequence[date],
) -> list[Path]:
    """Write the files of a table or figure that runs fill; returns their paths.

    Args:
        experiment: such as "table3".
        plan: of the command.
        sections: the table, data set by data set.
        runs: the metrics of the cells that it shows.
        failures: of cells that it lacks.
        dates: when the cells were finished.
    """
    settings = plan.settings
    notes = [*_notes(experiment, settings, sections)]
    if experiment in ("table3", "table5", "figure4", "figure5", "figure6"):
        notes += [
            f"Not run: {TITLES[model]} on {dataset}, which has no {lacking}."
            for (dataset, model), lacking in plan.lacking.items()
        ]
    notes += [f"Failed and left out: {cell}: {error}" for cell, error in failures.items()]
    body = "\n\n".join(section_table(section) for section in sections)
    facts = _facts(settings, experiment, list(runs.values()), dates)
    files = {
        "md": _page(experiment, settings, body, notes, facts),
        "csv": csv_text(LONG_HEADER, long_rows(experiment, settings.protocol, sections)),
    }
    if plotting.has_matplotlib():
        files["svg"] = figures.svg(_title(experiment, settings), sections)
    return _write(experiment, settings, files)


def write_statistics(settings: Settings, datasets: Sequence[Dataset]) -> list[Path]:
    """Write Table 1, which needs no run and has no picture."""
    header = ["statistic"]
    columns: list[list[str]] = []
    lines: list[list[str]] = []
    notes = [*_notes("table1", settings, ())]
    for dataset in datasets:
        ours = describe(dataset).table()
        printed = PAPER_TABLE_1.get(dataset.name.split("/")[0], ())
        padded = [*printed, *[""] * (len(ours) - len(printed))]
        header.append(dataset.name)
        columns.append([value for _, value in ours])
        if printed:
            header.append("the paper")
            columns.append(padded)
        differ = []
        for (label, value), text in zip(ours, padded, strict=True):
            agrees = "" if not text else str(int(value == text))
            lines.append(["table1", settings.protocol, dataset.name, label, value, text, agrees])
            if agrees == "0":
                differ.append(f"{label} {value} (the paper: {text})")
        if differ:
            notes.append(f"{dataset.name} differs from the paper in {', '.join(differ)}.")
    labels = [label for label, _ in describe(datasets[0]).table()]
    body = table(header, list(zip(labels, *columns, strict=True)), left=1)
    csv_header = ("experiment", "protocol", "data", "statistic", "here", "paper", "agrees")
    facts = [f"ekpnet_fast {__version__}, code {code_version()}", _command("table1", settings)]
    files = {
        "md": _page("table1", settings, body, notes, facts),
        "csv": csv_text(csv_header, lines),
    }
    return _write("table1", settings, files)


# ---- text around a table -------------------------------------------------------------------------


def _title(experiment: str, settings: Settings) -> str:
    name = f"{experiment[:-1].capitalize()} {experiment[-1]}"
    quick = ", quick" if settings.quick else ""
    return f"{name}: {EXPERIMENTS[experiment]} (protocol {settings.protocol}{quick})"


def _page(
    experiment: str, settings: Settings, body: str, notes: Sequence[str], facts: Sequence[str]
) -> str:
    listed = "\n".join(f"- {line}" for line in [*notes, *facts])
    return f"## {_title(experiment, settings)}\n\n{body}\n\n{listed}\n"


def _notes(experiment: str, settings: Settings, sections: Sequence[Section]) -> list[str]:
    notes = []
    if settings.quick:
        notes.append(
            f"Quick mode: {QUICK_EPOCHS} epoch per stage. These numbers show that the command"
            " works, and nothing else."
        )
    if experiment == "table1":
        return notes
    notes.append(f"Protocol {settings.protocol}: {PROTOCOLS[settings.protocol]}.")
    seeds = settings.seeds
    preset = " the default presets"
    if settings.preset != "default":
        preset = f" preset {settings.preset} for the models that have it"
    notes.append(
        f"Mean ± standard deviation over {seeds} seeds (0 to {seeds - 1}), each with its own split,"
        f" initial values and ripple sets;{preset}."
        if seeds > 1
        else f"One seed (0);{preset}; no spread is known."
    )
    if settings.protocol != "ripplenet":
        notes.append(OTHER_PROTOCOL)
    elif experiment in ("figure4", "figure5", "figure6", "figure7"):
        notes.append(NO_NUMBERS)
    if experiment == "table5":
        notes.append(
            "One run at a time; training includes scoring the validation rows after each epoch, a"
            " whole run also loading and the test metrics. Times are not tested, so none is bold."
        )
        if settings.protocol == "ripplenet":
            notes.append(f"The paper's machine: {paper.TABLE_5_MACHINE}.")
    elif experiment == "figure7":
        notes.append("Nothing is tested here, so nothing is bold.")
    else:
        notes += _test_notes(settings, sections)
    below = [line for section in sections for line in _below(section)]
    if below:
        notes.append(f"Below the paper's value: {'; '.join(below)}.")
    return notes


def _test_notes(settings: Settings, sections: Sequence[Section]) -> list[str]:
    if settings.seeds < 2:
        return ["Nothing is bold, because one seed allows no test."]
    ratio = TEST_OVER_TRAIN[settings.protocol]
    few = " With so few seeds only large differences pass." if settings.seeds < 6 else ""
    notes = [
        f"Bold: best of its column and better than the runner-up at {LEVEL:.0%}, by the corrected"
        f" resampled t-test (Nadeau & Bengio 2003; two-sided, paired over {settings.seeds} seeds,"
        f" test/train = {ratio:.3g}; each column by itself).{few}"
    ]
    for section in sections:
        found = [
            f"{test.column.label} {test.best.label} over {test.second.label} by"
            f" {test.difference:.4f}, p = {test.p:.2g}"
            for test in section.tests
        ]
        if found:
            notes.append(f"{section.dataset}: {'; '.join(found)}.")
    return notes


def _below(section: Section) -> list[str]:
    """Metrics whose mean is below the paper's number, at the digits of the paper."""
    lines = []
    for row in section.rows:
        for column in section.columns:
            entry = row.entries[column.key]
            if entry.paper is None or not entry.known or not column.tested:
                continue
            digits = len(entry.paper.partition(".")[2])
            if round(entry.mean, digits) < float(entry.paper):
                lines.append(
                    f"{section.dataset} {row.label} {column.label}"
                    f" by {float(entry.paper) - entry.mean:.4f}"
                )
    return lines


def _facts(
    settings: Settings, experiment: str, runs: Sequence[dict[str, Any]], dates: Sequence[date]
) -> list[str]:
    facts = []
    if dates:
        first, last = min(dates).isoformat(), max(dates).isoformat()
        facts.append(f"Run on {first}" if first == last else f"Run from {first} to {last}")
    for environment in _distinct([run["environment"] for run in runs]):
        facts.append(
            f"Machine: {environment['processor']} ({environment['isa']}),"
            f" {environment['threads']} threads, device {environment['device']},"
            f" torch {environment['torch']}, Python {environment['python']}"
        )
    facts.append(f"ekpnet_fast {__version__}, code {code_version()}")
    facts.append(_command(experiment, settings))
    return facts


def _distinct(values: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _command(experiment: str, settings: Settings) -> str:
    words = ["python", "-m", "ekpnet_fast.experiments", experiment, "--data-root", "DIR"]
    words += ["--datasets", *settings.datasets, "--seeds", str(settings.seeds)]
    words += ["--preset", settings.preset, "--protocol", settings.protocol]
    if settings.models:
        words += ["--models", *settings.models]
    if settings.threads is not None:
        words += ["--threads", str(settings.threads)]
    if settings.quick:
        words.append("--quick")
    return f"`{shlex.join(words)}`"


def _write(experiment: str, settings: Settings, files: Mapping[str, str]) -> list[Path]:
    """Write PROTOCOL/EXPERIMENT.KIND; quick results have names of their own."""
    folder = settings.output / settings.protocol
    folder.mkdir(exist_ok=True)
    stem = experiment + (".quick" if settings.quick else "")
    paths = []
    for kind, text in files.items():
        path = folder / f"{stem}.{kind}"
        write_text(path, text)
        paths.append(path)
    return paths
