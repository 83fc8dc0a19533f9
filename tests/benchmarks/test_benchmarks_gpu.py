"""The GPU measurements, tried at tiny sizes on the CPU, with nothing installed that a bare GPU
machine may lack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ekpnet_fast
from support.places import ROOT
from support.programs import PATIENCE

# Modules that only reading files, options and progress need.
BLOCKED = "import sys; sys.modules.update(dict.fromkeys(['duckdb', 'jsonargparse', 'rich']));"


def run(code, *arguments):
    path = os.pathsep.join([str(ROOT), str(Path(ekpnet_fast.__file__).parents[1])])
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code, *arguments],
        # Tiny sizes are not worth a second thread.
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_everything_is_measured(tmp_path):
    output = tmp_path / "gpu.json"
    done = run(
        "from benchmarks.gpu.__main__ import main; sys.exit(main(sys.argv[1:]))",
        *("--device", "cpu", "--quick", "--output", str(output)),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert not found["failed"]
    assert {r["stage"] for r in found["steps"]} == {"pretrain", "train"}
    assert [r["epochs"] for r in found["end_to_end"]] == [2]
    for key in ("ranking", "attention", "row_adam", "scale"):
        assert found[key] and f"{found[key][0]}"
    for record in found["attention"]:
        assert record["forward_share_of_floor"] > 0
    for title in ("Whole runs", "Training step", "Top lists", "ripple_attention", "row_adam_"):
        assert f"### {title}" in done.stdout
    assert f"- device: cpu\n- torch: {found['facts']['torch']}" in done.stdout


def test_tests_of_the_gpu_can_be_collected():
    tests = ROOT / "tests"
    others = [tests / "training", tests / "models" / "test_every_model.py"]
    files = [tests / "ops", *others]
    done = run(
        "import pytest; sys.exit(pytest.main(sys.argv[1:]))",
        *("--collect-only", "-q", "-m", "cuda", "-p", "no:cacheprovider"),
        *(f"--rootdir={ROOT}", f"-c{ROOT / 'pyproject.toml'}"),
        *map(str, files),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_compute_sanitizer[memcheck]" in done.stdout
    assert "test_every_model.py" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_script_says_what_is_missing(tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path / "out")],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "finds no GPU" in done.stderr
