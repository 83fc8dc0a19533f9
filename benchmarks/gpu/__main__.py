"""GPU measurements, all of them on one device: `python -m benchmarks.gpu --output FILE.json`.

Needs no more than torch, NumPy and the package; the real data sets where `--data-root` names them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import ops as op_benchmarks
from benchmarks.gpu import training
from benchmarks.gpu.facts import facts, facts_text
from benchmarks.gpu.timing import copy_bytes_per_second, float32_operations_per_second
from benchmarks.harness.datasets import power_law_graph
from ekpnet_fast.errors import EkpnetError
from ekpnet_fast.experiments.markdown import table
from ekpnet_fast.native.build import build_info
from ekpnet_fast.native.device import describe_device, resolve_device

Record = dict[str, Any]
Cell = Callable[[Record], str]


def measure(device: torch.device, data_root: Path | None, quick: bool) -> Record:
    """Measure everything, as plain values; a part that fails is named and stops no other."""
    started, failed = time.perf_counter(), {}

    def part(name: str, work: Callable[[], Any], otherwise: Any) -> Any:
        print(f"[{time.perf_counter() - started:5.0f} s] {name}", file=sys.stderr, flush=True)
        try:
            return work()
        except (RuntimeError, EkpnetError) as error:  # out of memory is a RuntimeError too
            failed[name] = str(error).splitlines()[0]
            return otherwise
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()

    name = str(device)
    ceilings = {
        "copy_bytes_per_s": copy_bytes_per_second(device, 1 << (20 if quick else 30)),
        "float32_operations_per_s": float32_operations_per_second(device, 256 if quick else 8192),
    }
    if quick:
        works = [training.tiny(name)]
    else:
        works = [training.movielens(name, data_root), training.book_crossing(name, data_root)]
    shapes = op_benchmarks.SMALL_SHAPES if quick else op_benchmarks.SHAPES
    sizes = [1000, 4000] if quick else [10**5, 10**6, 10**7]
    found: Record = {"ceilings": ceilings}
    # The measurements of the goals come first.
    found["end_to_end"] = [
        part(f"run, {w.name}", lambda w=w: training.end_to_end(w), None) for w in works
    ]
    found["steps"] = [
        record
        for w in works
        for record in part(f"step, {w.name}", lambda w=w: training.step(w, 3), [])
    ]
    found["ranking"] = [
        part(f"ranking, {w.name}", lambda w=w: training.rank(w), None) for w in works
    ]
    found["attention"] = [
        part(
            f"ripple_attention, {shape.name}, {dtype}",
            lambda shape=shape, dtype=dtype: op_benchmarks.attention(
                shape, device, dtype, ceilings
            ),
            None,
        )
        for shape in shapes
        for dtype in (torch.float32, torch.bfloat16)
        if dtype == torch.float32 or device.type == "cuda"
    ]
    found["row_adam"] = [
        part(
            f"row_adam_, {n} rows",
            lambda n=n: op_benchmarks.row_adam(device, n, min(n, 12_000), 16),
            None,
        )
        for n in (sizes if quick else [10**4, 182_011, 10**7])
    ]
    found["scale"] = [
        part(
            f"step, {n} entities",
            lambda n=n: training.scale(device, n, 8 if quick else 64, power_law_graph),
            None,
        )
        for n in sizes
    ]
    found = {
        key: [r for r in value if r is not None] if isinstance(value, list) else value
        for key, value in found.items()
    }
    return {**found, "failed": failed, "seconds": time.perf_counter() - started}


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

    ceilings = found["ceilings"]
    parts.append(
        f"Ceilings measured in this run: copy {ceilings['copy_bytes_per_s'] / 1e9:,.0f} GB/s,"
        f" float32 {ceilings['float32_operations_per_s'] / 1e12:,.1f} TFLOP/s."
    )
    add(
        "Whole runs (sampling, both stages, validation)",
        found["end_to_end"],
        {
            "data": text("workload"),
            "source": text("source"),
            "epochs": text("epochs"),
            "seconds": number("seconds"),
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
        "row_adam_",
        found["row_adam"],
        {
            "rows": text("rows"),
            "touched": text("touched"),
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
        lines = [f"- {name}: {why}" for name, why in found["failed"].items()]
        parts.append("### Failed\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the record; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--data-root", type=Path, help="folder of the real data sets")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the benchmark")
    options = parser.parse_args(arguments)
    try:
        device = resolve_device(options.device)
    except EkpnetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.output.parent.mkdir(parents=True, exist_ok=True)
    found = measure(device, options.data_root, options.quick)
    environment = {
        "device": describe_device(device),
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "built": ", ".join(build_info().cuda_archs),
        "nvcc": build_info().cuda_compiler,
    }
    found = {"facts": facts("benchmarks.gpu", environment), **found}
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(render(found))
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
