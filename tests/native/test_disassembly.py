"""The GPU's machine code: how its kernels reach memory, which ptxas does not report."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from ekpnet_fast import build_info
from support.places import PACKAGE
from support.programs import tool

INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")
# Of the propagation, stores of one value each to shared memory; four neighbours take one store.
SINGLE_STORES = {"ripple_attention_forward": 12, "ripple_attention_backward": 16}


def cuobjdump():
    """The toolkit's disassembler, or that of the package `nvidia-cuda-cuobjdump`."""
    found = importlib.util.find_spec("nvidia")
    for place in (found.submodule_search_locations or []) if found else []:
        for program in Path(place).glob("cu*/bin/cuobjdump"):
            return str(program)
    return tool("cuobjdump")


@pytest.fixture(scope="module")
def kernels():
    """How often each instruction is in a kernel of ours, by its mangled name and architecture."""
    archs = [arch for arch in build_info().cuda_archs if arch.startswith("sm_")]
    if not archs:
        pytest.skip(f"no CUDA library: {build_info().cuda_reason}")
    found: dict[tuple[str, str], Counter[str]] = {}
    # The last of them: the others are made from the same PTX.
    command = [cuobjdump(), "-sass", "-arch", archs[-1], str(PACKAGE / "libekpnet_cuda.so")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        counts: Counter[str] = Counter()
        for line in process.stdout:
            if "Function : " in line:
                counts = Counter()
                name = line.split("Function : ")[1].strip()
                if name.startswith("_ZN6ekpnet"):
                    found[name] = counts
            elif instruction := INSTRUCTION.match(line):
                counts[instruction[1]] += 1
    assert process.returncode == 0 and found
    return found


def total(counts, kind):
    """Instructions of a kind, with any suffix."""
    return sum(n for name, n in counts.items() if name.split(".")[0] == kind)


@pytest.mark.slow
def test_memory_is_reached_as_meant(kernels):
    for name, counts in kernels.items():
        # Arrays that are not in registers.
        assert total(counts, "LDL") == total(counts, "STL") == 0, name
        # Where the compiler does not know which memory it is.
        assert total(counts, "LD") == total(counts, "ST") == 0, name


@pytest.mark.slow
def test_four_neighbours_are_stored_at_once(kernels):
    checked = 0
    for name, counts in kernels.items():
        for step, most in SINGLE_STORES.items():
            if re.search(rf"{step}_kernelILi(4|8|16|32|64)ELi[14]E", name):
                checked += 1
                assert counts["STS"] <= most and counts["STS.128"] > counts["STS"], (name, counts)
    assert checked == 32  # both passes, two tiles: five widths of float32, three of bfloat16
