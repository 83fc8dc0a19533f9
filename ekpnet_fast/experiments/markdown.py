"""Markdown tables and the numbers in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev

__all__ = ["mean_sd", "table"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 2) -> str:
    """Markdown table; columns after the first `left` are right-aligned."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def mean_sd(values: Sequence[float | None], digits: int) -> str:
    """Text `mean ± sd` of the values that are there; the mean alone of one, a dash of none."""
    found = [x for x in values if x is not None and math.isfinite(x)]
    if not found:
        return "-"
    text = f"{mean(found):.{digits}f}"
    return text if len(found) == 1 else f"{text} ± {stdev(found):.{digits}f}"
