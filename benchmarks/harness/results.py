"""Stored results: one JSON file per suite and kind of machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "results"

# In the order of the page. Each is a file `suites/bench_SUITE.py`.
SUITES = (
    "step",
    "epoch",
    "contention",
    "recbole",
    "sampler",
    "ranking",
    "answers",
    "serve",
    "start",
    "loading",
    "floor",
    "ops",
    "isa",
    "scale",
)

_STATS = ("min", "max", "median", "iqr", "rounds")
_KEPT = ("group", "name", "params", "extra_info")

Result = dict[str, Any]


def store(folder: Path, suite: str, machine: str, found: Result) -> Path:
    """Write the results of pytest-benchmark, stripped; returns the file."""
    content = {
        "suite": suite,
        "datetime": found["datetime"],
        "machine_info": found["machine_info"],
        "benchmarks": [
            {
                **{key: entry[key] for key in _KEPT},
                "stats": {key: entry["stats"][key] for key in _STATS},
            }
            for entry in found["benchmarks"]
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{suite}-{machine}.json"
    text = json.dumps(_rounded(content), indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
    return path


def newest(folder: Path) -> dict[str, Result]:
    """Newest result of each suite that has one, in the order of the page.

    Raises:
        ValueError: a file that is no result; names it.
    """
    found: dict[str, Result] = {}
    for suite in SUITES:
        for path in sorted(folder.glob(f"{suite}-*.json")):
            try:
                result = json.loads(path.read_text(encoding="utf-8"))
                newer = suite not in found or result["datetime"] > found[suite]["datetime"]
                if result["suite"] != suite:
                    raise ValueError(f"it holds the suite {result['suite']!r}")
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}: found {error!r}, expected a result stored by benchmarks.run"
                ) from error
            if newer:
                found[suite] = result
    return found


def _rounded(value: Any) -> Any:
    """Round floats to six digits: those beyond are noise."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
