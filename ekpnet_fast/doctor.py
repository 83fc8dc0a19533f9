"""Diagnosis of an installation, with remedies: ``python -m ekpnet_fast.doctor``.

Every check is a line: well, not well but not needed, or broken; the last two give the remedy. The
exit status is 0 unless something is broken.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from ekpnet_fast.errors import EkpnetError
from ekpnet_fast.native.cpus import choose_threads
from ekpnet_fast.terminal import guarded, path_argument, say

__all__ = ["Check", "examine", "main"]

Status = Literal["ok", "note", "broken"]

# Purpose of each package; the first group comes with the package itself.
_CORE = {
    "numpy": "arrays",
    "scipy": "the wide part of EKPNet+",
    "safetensors": "weights on disk",
}
_COMMANDS = {
    "duckdb": "reading and writing data files",
    "pyoxigraph": "reading RDF",
    "jsonargparse": "the options of train and evaluate",
    "rich": "progress and tables",
    "yaml": "option files (package pyyaml)",
}
_EXTRAS = {
    "fetch": ("pooch", "downloading public data sets"),
    "serve": ("fastapi", "serving recommendations over HTTP"),
    "report": ("matplotlib", "drawing figures"),
    "track": ("tensorboard", "watching runs in TensorBoard"),
    "tune": ("optuna", "searching for options"),
    "torchrec": ("fbgemm_gpu_cpu", "tables shared by TorchRec"),
    "export": ("onnxruntime", "writing ONNX"),
    "test": ("pytest", "running the tests"),
    "bench": ("pytest_benchmark", "running the benchmarks"),
    "lint": ("ruff", "checking style"),
    "docs": ("mkdocs", "building the site of docs/"),
    "recbole": ("recbole", "comparing with RecBole"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """Check of one thing: a line of the report.

    Attributes:
        group: the part of the report that it belongs to.
        name: the thing that is checked.
        status: "ok", "note" (not well, but the core works without it) or "broken".
        found: the finding.
        remedy: the remedy; empty where it is well.
    """

    group: str
    name: str
    status: Status
    found: str
    remedy: str = ""


@guarded
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; returns 1 where the core is broken."""
    parser = argparse.ArgumentParser(
        prog="python -m ekpnet_fast.doctor", description="What works here, and why not."
    )
    parser.add_argument(
        "--data-root", type=path_argument, help="of data sets (default: $EKPNET_DATA)"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    checks = examine(options.data_root)
    healthy = all(check.status != "broken" for check in checks)
    if options.json:
        say(json.dumps({"healthy": healthy, "checks": [asdict(c) for c in checks]}, indent=2))
    else:
        _print(checks)
        say("the core works" if healthy else "the core does not work: see what is broken above")
    return 0 if healthy else 1


def examine(data_root: Path | None = None) -> list[Check]:
    """Make all checks, without those that cannot be made because something else is broken.

    Args:
        data_root: folder of data sets; the environment variable EKPNET_DATA otherwise.
    """
    checks = [*_packages(), *_build()]
    if all(check.status != "broken" for check in checks):
        checks += [*_machine(), _self_check()]
    return [*checks, *_data(data_root), *_extras()]


def _packages() -> list[Check]:
    checks = [
        Check("packages", "Python", "ok", f"{platform.python_version()} at {sys.executable}"),
        _package("torch", "tensors and training", "broken"),
    ]
    checks += [_package(name, purpose, "broken") for name, purpose in _CORE.items()]
    return checks + [_package(name, purpose, "note") for name, purpose in _COMMANDS.items()]


def _package(name: str, purpose: str, missing: Status) -> Check:
    distribution = {"yaml": "pyyaml"}.get(name, name)
    try:
        importlib.import_module(name)
        return Check("packages", name, "ok", f"{metadata.version(distribution)}, for {purpose}")
    except Exception as error:  # a broken package can raise anything when it is imported
        found = f"cannot be imported ({_one_line(error)}); it is for {purpose}"
        return Check("packages", name, missing, found, f"pip install {distribution}")


def _build() -> list[Check]:
    try:
        from ekpnet_fast.native.build import build_info

        info = build_info()
    except Exception as error:  # anything that a foreign or damaged binary raises
        remedy = "" if isinstance(error, EkpnetError) else "pip install . in the source folder"
        return [Check("build", "native code", "broken", _one_line(error), remedy)]
    sanitizers = f", sanitizers {info.sanitizers}" if info.sanitizers else ""
    checks = [
        Check("build", "version", "ok", f"{info.version}, {info.compiler}{sanitizers}"),
        Check(
            "build",
            "instruction sets",
            "ok",
            f"{', '.join(info.isas_built)}; this processor runs {', '.join(info.isas_supported)};"
            f" in use {info.isa}",
        ),
    ]
    if info.cuda_archs:
        archs = f"{', '.join(info.cuda_archs)}, nvcc {info.cuda_compiler}"
        checks.append(Check("build", "CUDA", "ok", archs))
    else:
        remedy = "for a GPU: put nvcc on PATH and pip install --no-build-isolation ."
        checks.append(Check("build", "CUDA", "note", f"none: {info.cuda_reason}", remedy))
    versions = f"built for torch {info.built_for_torch}, running {info.running_torch}"
    try:
        importlib.import_module("ekpnet_fast.ops")
        checks.append(Check("build", "ops", "ok", f"loaded; {versions}"))
    except Exception as error:  # torch itself may fail to import
        checks.append(
            Check(
                "build",
                "ops",
                "broken",
                _one_line(error),
                "pip install --no-build-isolation . in the source folder",
            )
        )
    return checks


def _machine() -> list[Check]:
    import torch

    from ekpnet_fast.native.device import describe_device, why_no_cuda

    checks = [_threads(), _memory()]
    reason = why_no_cuda()
    if reason is None:
        device = torch.device("cuda", torch.cuda.current_device())
        checks.append(Check("machine", "GPU", "ok", describe_device(device)))
    else:
        found, _, remedy = reason.partition(";")
        checks.append(
            Check("machine", "GPU", "note", found, remedy.strip() or "training runs on the CPU")
        )
    return checks


def _threads() -> Check:
    """Threads of the commands; torch's own default, which a program has, knows no quota."""
    import torch

    threads, of_torch = choose_threads(), torch.get_num_threads()
    if of_torch <= threads.count:
        return Check("machine", "threads", "ok", str(threads))
    found = f"{threads}; in a program of your own torch starts {of_torch}"
    remedy = f"there: torch.set_num_threads({threads.count})"
    return Check("machine", "threads", "note", found, remedy)


def _memory() -> Check:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if " kB" in line}
        total, free = (kilobytes[key] / 2**20 for key in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError) as error:
        return Check("machine", "memory", "note", f"unknown ({_one_line(error)})", "see free -h")
    if free < 1:
        found = f"{free:.1f} of {total:.1f} GiB available"
        return Check("machine", "memory", "note", found, "end other programs before training")
    return Check("machine", "memory", "ok", f"{free:.1f} of {total:.1f} GiB available")


def _self_check() -> Check:
    """Draw ripple sets and propagate over a small graph, natively and by the specification."""
    try:
        difference = _difference()
    except Exception as error:  # any error at all is the finding
        return Check("self-check", "ops", "broken", _one_line(error), "build again: pip install .")
    found = f"native and reference propagation differ by {difference:.1e} at most"
    if not difference <= 1e-4:
        from ekpnet_fast.native.build import build_info

        return Check(
            "self-check",
            "ops",
            "broken",
            f"{found}, expected 1e-4 or less",
            f"EKPNET_CPU_ISA={build_info().isas_built[0]} has the plainest instructions; please"
            " report it",
        )
    return Check("self-check", "ops", "ok", found)


def _difference() -> float:
    import torch

    from ekpnet_fast import ops
    from ekpnet_fast.ops import reference

    draw = torch.Generator().manual_seed(0)
    heads = torch.arange(12, dtype=torch.int64).repeat_interleave(3)
    indptr = torch.arange(13, dtype=torch.int64) * 3  # 12 entities with 3 triples each
    relations = torch.randint(2, heads.shape, generator=draw, dtype=torch.int32)
    tails = torch.randint(12, heads.shape, generator=draw, dtype=torch.int32)
    seed_indptr = torch.tensor([0, 2, 3], dtype=torch.int64)
    seeds = torch.tensor([0, 5, 7], dtype=torch.int32)
    ripple = ops.sample_ripple_sets(
        indptr, relations, tails, seed_indptr, seeds, hops=2, slots=4, seed=0
    )
    entity = torch.rand(12, 2, 8, generator=draw)
    relation = torch.rand(2, 2, 8, generator=draw)
    weight, bias = torch.rand(8, 8, generator=draw) / 8, torch.rand(8, generator=draw)
    group_indptr = torch.tensor([0, 3, 5], dtype=torch.int64)
    items = torch.tensor([1, 2, 3, 4, 5], dtype=torch.int32)
    given = ops.Propagation(entity, relation, weight, bias, *ripple, group_indptr, items)
    found, expected = ops.ripple_attention(given), reference.ripple_attention(given)
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


def _data(data_root: Path | None) -> list[Check]:
    root = data_root
    if root is None and os.environ.get("EKPNET_DATA"):
        root = Path(os.environ["EKPNET_DATA"])
    if root is None:
        return [
            Check(
                "data",
                "data root",
                "note",
                "none is set",
                "export EKPNET_DATA=DIR, or bring your own: python -m ekpnet_fast.data import",
            )
        ]
    if not root.is_dir():
        return [Check("data", "data root", "note", f"{root} is no folder", "set EKPNET_DATA=DIR")]
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    checks = [Check("data", "data root", "ok", f"{root}, {len(folders)} folders")]
    return checks + [_data_set(folder, root) for folder in folders]


def _data_set(folder: Path, root: Path) -> Check:
    try:
        from ekpnet_fast.data import load_dataset

        data = load_dataset(folder.name, root)
    except EkpnetError as error:
        remedy = f"mend it or move {folder} elsewhere"
        return Check("data", folder.name, "note", str(error), remedy)
    except ImportError as error:
        return Check("data", folder.name, "note", _one_line(error), "mend what is broken above")
    rows = data.rows if data.rows is not None else data.interactions
    assert rows is not None
    found = (
        f"{len(rows):,} rows, {data.num_users:,} users, {data.num_items:,} items,"
        f" {data.num_triples:,} triples; {data.source}"
    )
    return Check("data", folder.name, "ok", found)


def _extras() -> list[Check]:
    checks = []
    for extra, (module, purpose) in _EXTRAS.items():
        distribution = module.replace("_", "-")
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            remedy = f"pip install 'ekpnet_fast[{extra}]'"
            checks.append(Check("extras", extra, "note", f"not installed, for {purpose}", remedy))
        else:
            found = f"{distribution} {version}, for {purpose}"
            checks.append(Check("extras", extra, "ok", found))
    return checks


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _print(checks: Sequence[Check]) -> None:
    width = max(len(check.name) for check in checks)
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            say(group)
        mark = {"ok": "ok    ", "note": "note  ", "broken": "BROKEN"}[check.status]
        say(f"  {mark}  {check.name.ljust(width)}  {check.found}")
        if check.remedy:
            say(f"{' ' * (width + 12)}-> {check.remedy}")


if __name__ == "__main__":
    sys.exit(main())
