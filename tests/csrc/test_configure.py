"""CMakeLists.txt: what it finds out before anything is compiled."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from support.places import ROOT
from support.programs import PATIENCE, tool

NVCC = shutil.which("nvcc")


def configured(folder, *switches, python=sys.executable, **environment):
    """CMake's process of configuring into a folder."""
    command = [
        *(tool("cmake"), "-S", ROOT, "-B", folder, "-G", "Ninja"),
        *(f"-DPython_EXECUTABLE={python}", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", *switches),
    ]
    return subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def compiled(folder, name):
    """Command that compiles a source file."""
    commands = json.loads((folder / "compile_commands.json").read_text())
    return next(x["command"] for x in commands if x["file"].endswith(name))


@pytest.mark.skipif(NVCC is None, reason="there is no nvcc")
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("8.0;9.0+PTX", ["compute_80: sm_80 sm_90 compute_80"]),
        ("Ampere Hopper", ["compute_80: sm_80 sm_86 sm_90 compute_80"]),
        ("9.0a;10.0", ["compute_90a: sm_90a", "compute_100: sm_100"]),
        ("9.0a+PTX", ["compute_90a: sm_90a compute_90a"]),
        (
            "8.0 9.0a 10.0f+PTX;12.0+PTX",
            [
                "compute_90a: sm_90a",
                "compute_100f: sm_100f compute_100f",
                "compute_80: sm_80 sm_120 compute_80",
            ],
        ),
    ],
)
def test_gpus_to_compile_for(tmp_path, asked, expected):
    done = configured(tmp_path, "-DEKPNET_CUDA=ON", TORCH_CUDA_ARCH_LIST=asked)
    assert done.returncode == 0, done.stderr
    command = compiled(tmp_path, "list_loss.cu")
    found = re.findall(r"-gencode=arch=(\w+),code=\[([\w,]+)\]", command)
    assert [f"{arch}: {code.replace(',', ' ')}" for arch, code in found] == expected
    # What nvcc would run; it refuses targets that do not go together.
    flags = [word for word in shlex.split(command) if word.startswith("-gencode")]
    source = ROOT / "csrc" / "cuda" / "list_loss.cu"
    plan = subprocess.run(
        [NVCC, "--dryrun", *flags, "-c", str(source)], capture_output=True, text=True, check=False
    )
    assert plan.returncode == 0, plan.stderr


@pytest.mark.skipif(NVCC is None, reason="there is no nvcc")
@pytest.mark.parametrize("asked", ["native", "9.0b", "8.0;Volta-ish"])
def test_gpus_that_are_none_are_refused(tmp_path, asked):
    done = configured(tmp_path, "-DEKPNET_CUDA=ON", TORCH_CUDA_ARCH_LIST=asked)
    assert done.returncode != 0
    assert f"TORCH_CUDA_ARCH_LIST has '{asked.split(';')[-1]}', expected" in done.stderr


def test_headers_of_torch_serve_where_pybind11_is_missing(tmp_path):
    # Python of an environment without it.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'pybind11' else find(name, *more)\n"
    )
    done = configured(tmp_path / "build", "-DEKPNET_CUDA=OFF", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    command = compiled(tmp_path / "build", "module.cpp")
    assert re.search(r"-isystem \S*/torch/include\b", command), command
    assert "/pybind11/include" not in command
