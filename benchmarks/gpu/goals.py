"""Goals of the GPU path, and what a measurement found of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.harness.goals import Goal

Record = dict[str, Any]

GOALS = {
    "run": Goal("both stages, 20 epochs, after start-up", "", 0.5, " s", at_most=True),
    "plus": Goal("EKPNet+, beyond the wide part", "", 2, " s", at_most=True),
    "eager": Goal("propagation, forward and backward", "eager torch", 20),
    "compiled": Goal("propagation, forward and backward", "compiled torch", 5),
    "share": Goal("propagation, forward and backward", "the binding ceiling", 0.5, ""),
    "scale": Goal("step", "", 1.5, at_most=True),
}


def found_of(found: Record) -> Iterator[tuple[Goal, str, float]]:
    """Goals that parts of a measurement tell of: the goal, of what data or shape, the value.

    Args:
        found: the record of `parts.Parts`.
    """
    for record in found["end_to_end"]:
        if record["model"] == "ekpnet_plus":
            beyond = record["seconds"] - record["fit_features_s"]
            yield GOALS["plus"], record["workload"], beyond
        else:
            yield GOALS["run"], record["workload"], record["seconds"]
    for record in found["attention"]:
        if record["dtype"] != "float32":
            continue
        shape, ours = record["shape"], record["native_both_s"]
        for peer in ("eager", "compiled"):
            if f"{peer}_both_s" in record:
                yield GOALS[peer], shape, record[f"{peer}_both_s"] / ours
        if "forward_floor_s" in record:
            floor = record["forward_floor_s"] + record["backward_floor_s"]
            yield GOALS["share"], shape, floor / ours
    first = found["scale"][:1]
    for record in found["scale"][1:]:
        what = f"{record['entities']:,} entities against {first[0]['entities']:,}"
        yield GOALS["scale"], what, record["step_s"] / first[0]["step_s"]
