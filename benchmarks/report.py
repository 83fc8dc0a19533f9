"""Markdown tables, and what a reader needs to know about the machine behind their numbers."""

from __future__ import annotations

import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from ekpnet_fast.experiments.markdown import mean_sd, table

__all__ = ["facts", "facts_text", "mean_sd", "table"]


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
