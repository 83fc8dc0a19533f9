"""Series of stored results: goals, groups, peers, labels, times, and growth with size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.harness.results import Result

Entry = dict[str, Any]
Point = tuple[float, float, float]  # size, median time in ms, peak memory in MB

NAMES = {"movielens": "MovieLens", "book_crossing": "Book-Crossing"}  # of data sets
SIZES = ("triples", "entities")


def goals_found(found: dict[str, Result]) -> dict[str, Entry]:
    """Measured value of each goal that some benchmark states."""
    return {
        key: entry
        for result in found.values()
        for benchmark in result["benchmarks"]
        for key, entry in benchmark["extra_info"].get("goals", {}).items()
    }


def grouped(result: Result) -> dict[str, list[Entry]]:
    """Benchmarks by group, in the order of measuring."""
    groups: dict[str, list[Entry]] = {}
    for entry in result["benchmarks"]:
        groups.setdefault(entry["group"] or result["suite"], []).append(entry)
    return groups


def peers_of(entries: Iterable[Entry]) -> list[str]:
    """Peers of some benchmarks, in order of first appearance."""
    return list(dict.fromkeys(p for entry in entries for p in entry["extra_info"].get("peers", {})))


def label_of(entry: Entry) -> str:
    """Label of a benchmark: its parameters, less the number of threads, which has a column."""
    params = entry["params"] or {}
    shown = [str(v) for k, v in params.items() if not k.endswith("threads")]
    return ", ".join(NAMES.get(x, x) for x in shown) if shown else "all"


def seconds_of(entry: Entry) -> float:
    """Median time of a call, where a round was several calls too."""
    return float(entry["extra_info"].get("seconds", entry["stats"]["median"]))


def growth(result: Result) -> dict[str, dict[str, list[Point]]]:
    """Growth of time and memory by unit (entities, triples) and by line, points by rising size.

    Benchmarks without a size, or without their peak memory, have no point.
    """
    found: dict[str, dict[str, list[Point]]] = {}
    for entry in result["benchmarks"]:
        info = entry["extra_info"]
        unit = next((unit for unit in SIZES if unit in info), None)
        if unit is None or info.get("peak_mb") is None:
            continue
        clicked = (entry["params"] or {}).get("clicked")
        line = "training step" if clicked is None else f"ripple sets, users click {clicked}"
        point = (info[unit], seconds_of(entry) * 1e3, info["peak_mb"])
        found.setdefault(unit, {}).setdefault(line, []).append(point)
    return {
        unit: {line: sorted(points) for line, points in sorted(lines.items())}
        for unit, lines in sorted(found.items())
    }
