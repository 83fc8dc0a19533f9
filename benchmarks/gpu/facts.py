"""Facts behind a GPU measurement: environment, commit, date and command."""

from __future__ import annotations

import shlex
import sys
from datetime import date
from typing import Any

from benchmarks.harness.facts import commit


def facts(module: str, environment: dict[str, Any]) -> dict[str, Any]:
    """Facts: the environment that a run's metrics name, the commit, the date and the command."""
    command = ["python", "-m", module, *sys.argv[1:]]
    return {
        **environment,
        "commit": commit(),
        "date": date.today().isoformat(),
        "command": shlex.join(command),
    }


def facts_text(found: dict[str, Any]) -> str:
    """Markdown list of the facts."""
    return "\n".join(f"- {name}: {value}" for name, value in found.items() if value is not None)
