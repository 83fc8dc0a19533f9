"""GPU measurements, all of them on one device: `python -m benchmarks.gpu --output FILE.json`.

Needs no more than torch, NumPy and the package; the real data sets where `--data-root` names them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu import ops as op_benchmarks
from benchmarks.gpu import training
from benchmarks.gpu.facts import facts, facts_text
from benchmarks.gpu.goals import found_of
from benchmarks.gpu.parts import Parts, Record, Stopped, ended_by_signals
from benchmarks.gpu.timing import copy_bytes_per_second, float32_operations_per_second
from benchmarks.harness.datasets import power_law_graph
from ekpnet_fast.errors import EkpnetError
from ekpnet_fast.experiments.markdown import table
from ekpnet_fast.native.build import build_info
from ekpnet_fast.native.device import describe_device, resolve_device

Cell = Callable[[Record], str]
# Of measurements.
KINDS = (
    *("end_to_end", "steps", "kernels", "ranking", "attention", "layers", "row_adam", "scale"),
)


def measure(parts: Parts, device: torch.device, data_root: Path | None, quick: bool) -> None:
    """Measure everything, as plain values; what goals are about first, what takes long last."""
    found, name = parts.found, str(device)
    shapes = op_benchmarks.SMALL_SHAPES if quick else op_benchmarks.SHAPES
    sizes = [1000, 4000] if quick else [10**5, 10**6, 10**7]

    def ceiling(name: str, work: Callable[[], float]) -> None:
        parts.run(name, work, lambda rate: found["ceilings"].update({name: rate}))

    ceiling("copy_bytes_per_s", lambda: copy_bytes_per_second(device, 1 << (20 if quick else 30)))
    ceiling(
        "float32_operations_per_s",
        lambda: float32_operations_per_second(device, 256 if quick else 8192),
    )
    makers = (
        [lambda: training.tiny(name)]
        if quick
        else [
            lambda: training.movielens(name, data_root),
            lambda: training.book_crossing(name, data_root),
        ]
    )
    works: list[training.Workload] = []

    def run(number: int, make: Callable[[], training.Workload]) -> list[training.Workload]:
        made = len(works)
        parts.run(f"data set {number}", make, works.append)
        for w in works[made:]:
            end_to_end = partial(training.end_to_end, w)
            parts.run(f"run, {w.name}", end_to_end, found["end_to_end"].append)
        return works[made:]

    def step(w: training.Workload) -> None:
        work = partial(training.step, w, 1 if quick else 3)
        parts.run(f"step, {w.name}", work, found["steps"].extend)

    def attention(dtype: torch.dtype) -> None:
        for shape in shapes:
            parts.run(
                f"ripple_attention, {shape.name}, {dtype}",
                partial(op_benchmarks.attention, shape, device, dtype, found["ceilings"]),
                found["attention"].append,
            )

    run(1, makers[0])
    attention(torch.float32)
    for w in works:
        end_to_end = partial(training.end_to_end_of_plus, w)
        parts.run(f"run of EKPNet+, {w.name}", end_to_end, found["end_to_end"].append)
    for n in sizes:
        width, users = (8, 300) if quick else (64, 6000)
        work = partial(training.scale, device, n, width, power_law_graph, users)
        parts.run(f"step, {n} entities", work, found["scale"].append)
    for w in works:
        step(w)
    for number, make in enumerate(makers[1:], 2):
        for w in run(number, make):
            step(w)
    for w in works:
        parts.run(f"ranking, {w.name}", partial(training.rank, w), found["ranking"].append)
    for shape in shapes:
        layers = partial(op_benchmarks.layers, shape, device, found["ceilings"])
        parts.run(f"deep_score, {shape.name}", layers, found["layers"].append)
    if device.type == "cuda":
        attention(torch.bfloat16)
    for n in sizes if quick else [10**4, 182_011, 10**7]:
        for dtype in (torch.float32, torch.bfloat16):
            row_adam = partial(op_benchmarks.row_adam, device, n, min(n, 12_000), 16, dtype)
            parts.run(f"row_adam_, {n} rows, {dtype}", row_adam, found["row_adam"].append)
    for record in found["attention"]:
        shape = next(shape for shape in shapes if shape.name == record["shape"])
        if shape.compiled and record["dtype"] == "float32":
            parts.run(
                f"compiled torch, {shape.name}",
                partial(op_benchmarks.compiled, shape, device),
                record.update,
            )
    # After everything else: a profiler may leave every launch slower than it was.
    for w in works:
        for stage, deep in (("pretrain", False), ("train", True)):
            kernels = partial(training.kernels, w, deep=deep)
            parts.run(f"kernels, {w.name}, {stage}", kernels, found["kernels"].extend)


def render(found: Record) -> str:
    """Render the record as Markdown."""
    parts = [facts_text(found["facts"])]

    def add(
        title: str, records: Sequence[Record], columns: dict[str, Callable[[Record], str]]
    ) -> None:
        rows = [[cell(record) for cell in columns.values()] for record in records]
        parts.append(
            f"### {title}\n\n{table(list(columns), rows)}" if rows else f"### {title}\n\n-"
        )

    def text(key: str) -> Cell:
        return lambda r: str(r[key])

    def number(key: str, scale: float = 1.0, digits: int = 3) -> Cell:
        return lambda r: "-" if key not in r else f"{r[key] * scale:,.{digits}f}"

    def faster(key: str, step: str) -> Cell:
        name, ours = f"{key}_{step}_s", f"native_{step}_s"
        return lambda r: f"{r[name] / r[ours]:.1f}" if name in r else "-"

    ceilings = [
        f"{what} {found['ceilings'][key] / scale:,.1f} {unit}"
        for what, key, scale, unit in (
            ("copy", "copy_bytes_per_s", 1e9, "GB/s"),
            ("float32", "float32_operations_per_s", 1e12, "TFLOP/s"),
        )
        if key in found["ceilings"]
    ]
    parts.append(f"Ceilings measured in this run: {', '.join(ceilings) or '-'}.")
    rows = [
        [f"{goal.work}, {of}", goal.against or "-", goal.bound_text(), f"{value:.3g}{goal.unit}"]
        for goal, of, value in found_of(found)
    ]
    parts.append(
        "### Goals\n\n" + (table(["what", "against", "goal", "found"], rows) if rows else "-")
    )
    add(
        "Whole runs (sampling, both stages, validation)",
        found["end_to_end"],
        {
            "data": text("workload"),
            "model": text("model"),
            "source": text("source"),
            "epochs": text("epochs"),
            "seconds": number("seconds"),
            "of it the wide part": number("fit_features_s"),
            "of it training": number("train_s"),
            "first run in the process": number("first_s"),
            "validation AUC": number("valid_auc", digits=4),
        },
    )
    add(
        "Training step",
        found["steps"],
        {
            "data": text("workload"),
            "stage": text("stage"),
            "pairs": text("batch_size"),
            "ms": number("step_s", 1e3),
            "samples/s": number("samples_per_s", digits=0),
            "epoch, s": number("epoch_s"),
            "faster than eager": number("faster_than_eager", digits=1),
        },
    )
    add(
        "Kernels of a step",
        [record for record in found["kernels"] if record["us_per_step"] >= 0.5],
        {
            "data": text("workload"),
            "stage": text("stage"),
            "kernel": lambda r: f"`{r['kernel']}`",
            "per step": number("per_step", digits=2),
            "us per step": number("us_per_step", digits=1),
        },
    )
    add(
        "Top lists of all users",
        found["ranking"],
        {
            "data": text("workload"),
            "users": text("users"),
            "items": text("items"),
            "s": number("seconds"),
            "pairs/s": number("pairs_per_s", digits=0),
            "MiB above the tables": number("memory_above_tables_mb", digits=0),
        },
    )
    add(
        "ripple_attention",
        found["attention"],
        {
            "shape": text("shape"),
            "dtype": text("dtype"),
            "forward, ms": number("native_forward_s", 1e3),
            "backward, ms": number("native_backward_s", 1e3),
            "both, from Python, ms": number("native_both_launched_s", 1e3),
            "forward, share of floor": number("forward_share_of_floor", digits=2),
            "backward, share of floor": number("backward_share_of_floor", digits=2),
            "both, x eager": faster("eager", "both"),
            "both, x compiled": faster("compiled", "both"),
        },
    )
    add(
        "deep_score",
        found["layers"],
        {
            "shape": text("shape"),
            "pairs": text("pairs"),
            "K": text("K"),
            "forward, ms": number("native_forward_s", 1e3),
            "both, ms": number("native_both_s", 1e3),
            "both, share of floor": number("both_share_of_floor", digits=2),
            "both, x eager": faster("eager", "both"),
            "both, x eager in TF32": faster("tf32", "both"),
        },
    )
    add(
        "row_adam_",
        found["row_adam"],
        {
            "rows": text("rows"),
            "touched": text("touched"),
            "table": text("dtype"),
            "ms": number("row_adam_s", 1e3),
            "dense Adam, ms": number("dense_adam_s", 1e3),
            "GB/s": lambda r: f"{r['row_adam_bytes'] / r['row_adam_s'] / 1e9:,.0f}",
        },
    )
    smallest = min((r["step_s"] for r in found["scale"][:1]), default=float("nan"))
    add(
        "Step by size of the table",
        found["scale"],
        {
            "entities": text("entities"),
            "D": text("width"),
            "table, MiB": number("table_mb", digits=0),
            "ms": number("step_s", 1e3),
            "times the smallest": lambda r: f"{r['step_s'] / smallest:.2f}",
        },
    )
    if found["failed"]:
        lines = [f"- {name}: {why.splitlines()[-1]}" for name, why in found["failed"].items()]
        parts.append("### Failed\n\n" + "\n".join(lines))
    if found["left_out"]:
        parts.append(f"Left out, for want of time: {'; '.join(found['left_out'])}.")
    if found["stopped"]:
        parts.append(f"Stopped before the end: {found['stopped']}.")
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write record and tables after every part, print them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--output", type=Path, required=True, help="JSON file to write, with tables beside it (.md)"
    )
    parser.add_argument("--data-root", type=Path, help="folder of the real data sets")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="no part begins after so many"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the benchmark")
    options = parser.parse_args(arguments)
    try:
        device = resolve_device(options.device)
    except EkpnetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    environment = {
        "device": describe_device(device),
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "built": ", ".join(build_info().cuda_archs),
        "nvcc": build_info().cuda_compiler,
    }
    kinds: Record = {kind: [] for kind in KINDS}
    started = {"facts": facts("benchmarks.gpu", environment), **kinds}
    parts = Parts(options.output, device, started, render, options.seconds)
    try:
        with ended_by_signals():
            measure(parts, device, options.data_root, options.quick)
    except Stopped as why:
        parts.found["stopped"] = str(why)
    parts.write()
    print(render(parts.found))
    return 1 if parts.found["failed"] or parts.found["stopped"] else 0


if __name__ == "__main__":
    sys.exit(main())
