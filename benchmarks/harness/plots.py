"""Plots of stored results as SVG; the same results give the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.harness.goals import GOALS
from benchmarks.harness.results import Result
from benchmarks.harness.series import goals_found, grouped, growth, label_of, peers_of

STYLE = {
    "svg.hashsalt": "ekpnet_fast",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "figure.facecolor": "white",
}
COLORS = ("#1b6ca8", "#d9822b", "#4a9d5b", "#8a4fa0")
REACHED, MISSED = "#4a9d5b", "#c0392b"


def draw(found: dict[str, Result], folder: Path) -> dict[str, str]:
    """Write the plots; returns their paths relative to the folder's parent, by suite."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, str] = {}
    with matplotlib.rc_context(STYLE):
        figures = {"goals": _goals(found)}
        for suite, result in found.items():
            figures[suite] = _scale(result) if suite == "scale" else _peers(result)
        for name, figure in figures.items():
            path = folder / f"{name}.svg"
            if figure is None:
                path.unlink(missing_ok=True)
                continue
            figure.savefig(path, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
            pyplot.close(figure)
            drawn[name] = f"{folder.name}/{name}.svg"
    return drawn


def _goals(found: dict[str, Result]) -> Any | None:
    """Plot measured over goal, per goal, on a logarithmic axis."""
    shares, labels = [], []
    for key, entry in goals_found(found).items():
        goal = GOALS[key]
        share = goal.bound / entry["value"] if goal.at_most else entry["value"] / goal.bound
        shares.append(share)
        labels.append(f"{goal.work}\nagainst {goal.against}" if goal.against != "-" else goal.work)
    if not shares:
        return None
    figure, axes = pyplot.subplots(figsize=(8, 0.55 * len(shares) + 1))
    at = range(len(shares))
    colors = [REACHED if share >= 1 else MISSED for share in shares]
    # From 1, so that a goal that is missed points to the left.
    axes.barh(at, [share - 1 for share in shares], left=1, color=colors, height=0.6)
    axes.set_xlim(min(0.5, 0.8 * min(shares)), max(2.0, 1.2 * max(shares)))
    _horizontal(axes, labels, "measured over goal (1 = reached)")
    axes.axvline(1, color="black", linewidth=1)
    return figure


def _peers(result: Result) -> Any | None:
    """Plot the speed-up over each peer per benchmark, with the range over the rounds."""
    groups = {
        group: [entry for entry in entries if entry["extra_info"].get("peers")]
        for group, entries in grouped(result).items()
    }
    groups = {group: entries for group, entries in groups.items() if entries}
    if not groups:
        return None
    heights = [0.28 * sum(len(_named(e)) for e in entries) + 0.6 for entries in groups.values()]
    figure, grid = pyplot.subplots(
        len(groups),
        1,
        figsize=(8, sum(heights) + 0.6 * len(groups)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axes, (group, entries) in zip(grid[:, 0], groups.items(), strict=True):
        names = peers_of(entries)
        ticks, texts, y = [], [], 0.0
        for entry in entries:
            first = y
            for name, peer in _named(entry).items():
                low, high = peer["range"]
                ratio = peer["ratio"]
                error = [[max(0.0, ratio - low)], [max(0.0, high - ratio)]]
                axes.barh(
                    y,
                    ratio - 1,  # from 1, so that a slower one points to the left
                    left=1,
                    height=0.9,
                    color=COLORS[names.index(name) % len(COLORS)],
                    xerr=error,
                    error_kw={"linewidth": 0.8},
                    label=name,
                )
                y += 1
            ticks.append((first + y - 1) / 2)
            threads = entry["extra_info"].get("threads")
            suffix = "" if threads is None else f", {threads} thread{'s' * (threads > 1)}"
            texts.append(label_of(entry) + suffix)
            y += 0.6
        _horizontal(axes, texts, "times faster than the peer", ticks)
        axes.axvline(1, color="black", linewidth=1)
        axes.set_title(group, loc="left")
        handles, labels = axes.get_legend_handles_labels()
        one_each = dict(zip(labels, handles, strict=True))
        axes.legend(
            one_each.values(),
            one_each.keys(),
            loc="upper left",
            bbox_to_anchor=(1, 1),
            frameon=False,
            fontsize=8,
        )
    return figure


def _named(entry: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = entry["extra_info"]["peers"]
    return found


def _horizontal(axes: Axes, labels: list[str], title: str, ticks: Any = None) -> None:
    """Draw a logarithmic axis of ratios below bars, the first bar on top."""
    axes.set_yticks(range(len(labels)) if ticks is None else ticks, labels)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(title)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 1e3 else (1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _scale(result: Result) -> Any | None:
    """Plot time per call and peak memory against the number of entities and of triples."""
    series = growth(result)
    if not series:
        return None
    figure, grid = pyplot.subplots(
        len(series), 2, figsize=(8, 3 * len(series)), squeeze=False, layout="constrained"
    )
    for row, (unit, lines) in zip(grid, series.items(), strict=True):
        for column, title in enumerate(("median time of a call, ms", "peak memory, MB")):
            axes = row[column]
            for color, (name, points) in zip(COLORS, lines.items(), strict=False):
                x, *ys = zip(*points, strict=True)
                axes.plot(x, ys[column], marker="o", color=color, label=name)
            axes.set_xscale("log")
            axes.set_ylim(bottom=0)
            axes.set_xlabel(f"number of {unit}")
            axes.set_ylabel(title)
            axes.legend(fontsize=8)
    return figure
