"""Text of tables: Markdown for readers, CSV for programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from ekpnet_fast.experiments.markdown import mean_sd, table
from ekpnet_fast.experiments.tables import Column, Entry, Section

__all__ = ["LONG_HEADER", "csv_text", "long_rows", "section_table"]

LONG_HEADER = (
    *("experiment", "protocol", "data", "row", "metric", "mean", "sd", "seeds", "values"),
    *("paper", "p_of_best", "bold"),
)


def section_table(section: Section) -> str:
    """Markdown of a section; the paper's column is right of ours, where it has one."""
    header = [section.dataset]
    shown: list[tuple[Column, bool]] = []
    for column in section.columns:
        header.append(column.label)
        shown.append((column, False))
        if any(row.entries[column.key].paper for row in section.rows):
            header.append(f"{column.label}, the paper")
            shown.append((column, True))
    rows = []
    for row in section.rows:
        cells = [row.label]
        for column, is_paper in shown:
            entry = row.entries[column.key]
            cells.append((entry.paper or "") if is_paper else _ours(entry, column.digits))
        rows.append(cells)
    return table(header, rows, left=1)


def _ours(entry: Entry, digits: int) -> str:
    text = mean_sd(entry.values, digits)
    return f"**{text}**" if entry.bold else text


def long_rows(experiment: str, protocol: str, sections: Sequence[Section]) -> list[list[str]]:
    """Lines of a table in long form, one per number, as in `LONG_HEADER`."""
    lines = []
    for section in sections:
        p_values = {(test.column.key, test.best.key): test.p for test in section.tests}
        for row in section.rows:
            for column in section.columns:
                entry = row.entries[column.key]
                p = p_values.get((column.key, row.key))
                lines.append(
                    [
                        *(experiment, protocol, section.dataset, row.key, column.key),
                        *(_number(entry.mean), _number(entry.spread), str(len(entry.known))),
                        " ".join(map(_number, entry.values)),
                        entry.paper or "",
                        "" if p is None else _number(p),
                        "1" if entry.bold else "0",
                    ]
                )
    return lines


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""


def csv_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of comma-separated values."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()
