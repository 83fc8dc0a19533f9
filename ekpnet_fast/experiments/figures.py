"""Pictures of tables, as SVG with the same bytes for the same numbers."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from ekpnet_fast.experiments.tables import Column, Section
from ekpnet_fast.runs.plotting import COLOURS, MARKERS, RC

OURS, POPULARITY = "ekpnet", "popularity"


def svg(title: str, sections: Sequence[Section]) -> str:
    """Draw a panel per data set: curves where columns have an x, else the first column as points.

    Bars are standard deviations over seeds; hollow diamonds are the paper's values.
    """
    import matplotlib
    from matplotlib.figure import Figure

    curves = sections[0].columns[0].x is not None
    # The salt makes ids, and the missing date the header, the same in every run.
    with matplotlib.rc_context(RC):
        width = 4.6 * len(sections) + (1.6 if curves else 0.8)
        figure = Figure(figsize=(width, 4.2), layout="constrained")
        figure.suptitle(title.replace(" (", "\n("), fontsize="medium")
        axes = figure.subplots(1, len(sections), squeeze=False)[0]
        for axis, section in zip(axes, sections, strict=True):
            axis.set_title(section.dataset)
            axis.grid(alpha=0.3)
            if curves:
                _curves(axis, section)
            else:
                _points(axis, section, section.columns[0])
        if curves:
            entries: dict[str, Any] = {}
            for axis in axes:
                handles, labels = axis.get_legend_handles_labels()
                entries.update(zip(labels, handles, strict=True))
            figure.legend(entries.values(), entries.keys(), loc="outside right center")
        picture = io.StringIO()
        figure.savefig(picture, format="svg", metadata={"Date": None})
    return picture.getvalue()


def _curves(axis: Any, section: Section) -> None:
    """Draw every row as a curve over the columns' x."""
    label = section.columns[0].label
    for index, row in enumerate(section.rows):
        points = [
            (column.x, row.entries[column.key].mean, _bar(row.entries[column.key].spread))
            for column in section.columns
            if row.entries[column.key].known
        ]
        if not points:
            continue
        x, y, spread = zip(*points, strict=True)
        axis.errorbar(
            x,
            y,
            yerr=spread,
            label=row.label,
            marker=MARKERS[index % len(MARKERS)],
            markersize=4,
            capsize=2,
            **_style(row.key, index),
        )
    xs = [column.x for column in section.columns]
    if "@" in label:  # K goes from 1 to 100
        axis.set_xscale("log")
    axis.set_xticks(xs, [f"{x:g}" for x in xs])
    axis.minorticks_off()
    axis.set_xlabel("K" if "@" in label else "L, prediction layers")
    axis.set_ylabel(label.split("@")[0].split(",")[0])


def _points(axis: Any, section: Section, column: Column) -> None:
    """Draw the rows' values of one column, the first row on top."""
    printed_any = False
    for index, row in enumerate(section.rows):
        entry = row.entries[column.key]
        if entry.known:
            axis.errorbar(
                entry.mean,
                index,
                xerr=_bar(entry.spread),
                marker="o",
                capsize=3,
                **_style(row.key, 0),
            )
        if entry.paper is not None:
            # Stages are printed as a sum.
            value = sum(float(text) for text in entry.paper.split("+"))
            axis.plot(value, index, marker="D", color="none", markeredgecolor="black")
            printed_any = True
    axis.set_yticks(range(len(section.rows)), [row.label for row in section.rows])
    axis.set_ylim(len(section.rows) - 0.5, -0.5)
    if column.key == "seconds":
        axis.set_xscale("log")
    axis.set_xlabel(column.label + (" (hollow: the paper)" if printed_any else ""))


def _bar(spread: float) -> float:
    return spread if math.isfinite(spread) else 0.0


def _style(key: str, index: int) -> dict[str, Any]:
    if key == OURS:
        return {"color": "black", "linewidth": 2}
    if key == POPULARITY:
        return {"color": "#7F7F7F", "linestyle": "--", "linewidth": 1.2}
    return {"color": COLOURS[index % len(COLOURS)], "linewidth": 1.2}
