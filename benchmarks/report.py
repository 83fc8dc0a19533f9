"""Markdown tables, and what a reader needs to know about the machine behind their numbers."""

from __future__ import annotations

import math
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns after the first two are right-aligned."""
    rule = ["---"] * 2 + ["---:"] * (len(header) - 2)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def mean_sd(values: Sequence[float | None], digits: int) -> str:
    """`mean ± sd` of the values that are there; the mean alone of one, a dash of none."""
    found = [x for x in values if x is not None and math.isfinite(x)]
    if not found:
        return "-"
    text = f"{mean(found):.{digits}f}"
    return text if len(found) == 1 else f"{text} ± {stdev(found):.{digits}f}"


def facts(module: str, environment: dict[str, Any]) -> dict[str, Any]:
    """The environment that a run's metrics name, the commit, the date and the command."""
    command = ["python", "-m", module, *sys.argv[1:]]
    return {
        **environment,
        "commit": _commit(),
        "date": date.today().isoformat(),
        "command": shlex.join(command),
    }


def facts_text(found: dict[str, Any]) -> str:
    """The facts as a Markdown list."""
    return "\n".join(f"- {name}: {value}" for name, value in found.items() if value is not None)


def _commit() -> str | None:
    """Short hash, with a + where tracked files differ from it; None outside a repository."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except OSError:
        return None
    return (commit + ("+" if changed else "")) or None
