"""What ptxas says each kernel needs: registers, stack, spills, static shared memory.

As a compiler launcher (`report_resources.py NVCC ARGUMENTS`) it runs nvcc with `-Xptxas=-v` in the
arguments and keeps the facts beside the object file. `report_resources.py --merge REPORT OBJECT..`
joins them to one JSON list.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
OURS = "_ZN6ekpnet"  # not the library kernels that ours call
SHARED = re.compile(r"(\d+) bytes smem")


def parse(text: str) -> list[dict[str, str | int]]:
    """The kernels that a log of `ptxas -v` names."""
    kernels: list[dict[str, str | int]] = []
    entry, stack = None, (0, 0, 0)
    for line in text.splitlines():
        if found := ENTRY.search(line):
            entry = found.groups()
        elif found := STACK.search(line):
            stack = tuple(int(number) for number in found.groups())
        elif entry is not None and entry[0].startswith(OURS) and (found := USED.search(line)):
            shared = SHARED.search(line)
            kernels.append(
                {
                    "kernel": entry[0],
                    "arch": entry[1],
                    "registers": int(found[1]),
                    "stack_bytes": stack[0],
                    "spill_bytes": stack[1] + stack[2],
                    "shared_bytes": int(shared[1]) if shared else 0,
                }
            )
            entry = None
    return kernels


def demangled(kernels: list[dict[str, str | int]]) -> list[dict[str, str | int]]:
    """With readable names, where there is a tool for that."""
    tool = shutil.which("c++filt") or shutil.which("cu++filt")
    if tool is None or not kernels:
        return kernels
    names = "\n".join(str(kernel["kernel"]) for kernel in kernels)
    done = subprocess.run([tool], input=names, capture_output=True, text=True, check=True)
    for kernel, name in zip(kernels, done.stdout.splitlines(), strict=True):
        name = name.replace("(anonymous namespace)::", "").replace("ekpnet::", "")
        kernel["kernel"] = without_arguments(name.removeprefix("void "))
    return kernels


def without_arguments(name: str) -> str:
    """A function's name up to its arguments; template arguments may have parentheses."""
    depth = 0
    for at, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:at]
    return name


def facts_of(target: Path) -> Path:
    """Where the facts of an object file are kept."""
    return target.with_name(target.name + ".resources")


def compile_and_keep(command: list[str]) -> int:
    """Run the compiler; ptxas's log goes to a file, everything else to the terminal."""
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    noise = re.compile(r"^ptxas info|^    \d+ bytes stack frame|^\s*$")
    rest = [line for line in done.stderr.splitlines() if not noise.search(line)]
    if rest:
        print("\n".join(rest), file=sys.stderr)
    if done.returncode == 0 and "-o" in command:
        target = Path(command[command.index("-o") + 1])
        facts_of(target).write_text(json.dumps(parse(done.stderr)))
    return done.returncode


def merge(report: Path, objects: list[Path]) -> None:
    """One list of all objects' kernels, sorted; objects without kernels of ours have no facts."""
    kernels = [
        kernel
        for path in objects
        if facts_of(path).exists()
        for kernel in json.loads(facts_of(path).read_text())
    ]
    kernels = sorted(demangled(kernels), key=lambda kernel: (kernel["kernel"], kernel["arch"]))
    lines = ",\n".join(json.dumps(kernel) for kernel in kernels)
    report.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    if sys.argv[1] == "--merge":
        merge(Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
    else:
        sys.exit(compile_and_keep(sys.argv[1:]))
