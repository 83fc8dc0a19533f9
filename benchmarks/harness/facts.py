"""Facts behind the numbers: processor, software, commit, date, load."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import numpy
import torch

from ekpnet_fast.native.build import build_info

LOAD = round(os.getloadavg()[0], 2)  # before the measurements make one of their own


def machine() -> dict[str, Any]:
    """Facts of the machine: processor, software, commit, date, and its load."""
    info = build_info()
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "isa": info.isa,
        "compiler": info.compiler,
        "torch": torch.__version__,
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "load": LOAD,
        "commit": commit(),
        "date": date.today().isoformat(),
    }


def processor() -> str:
    """Name and generation: servers often hide the model's number behind the family's name."""
    found = {}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    text = found.get("model name", platform.machine())
    if "cpu family" in found and "model" in found:
        text += f", family {found['cpu family']} model {found['model']}"
    return text


def machine_kind() -> str:
    """Kind of machine, for file names: the processor and its number of cores."""
    name = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
    return f"{name}-{len(os.sched_getaffinity(0))}-cores"


def commit() -> str | None:
    """Commit as a short hash, with a + where tracked files differ; None outside a repository.

    Results and the page made from them do not count as a difference.
    """

    def git(*arguments: str) -> str:
        here = Path(__file__).parents[1]  # benchmarks/, which the paths below start from
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    made = [":(exclude)results", ":(exclude)plots", ":(exclude)README.md"]
    try:
        found = git("rev-parse", "--short", "HEAD")
        top = git("rev-parse", "--show-toplevel")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", top, *made)
    except OSError:
        return None
    return (found + ("+" if changed else "")) or None
