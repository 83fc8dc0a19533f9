"""The program that measures training by parts, and by it what processes hold."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.places import ROOT

ENTITIES = 500_000
TABLE = ENTITIES * 2 * 16 * 4 / 2**20  # MiB


@pytest.mark.slow
def test_a_process_holds_its_share_of_table_and_moments():
    cases = ["2:1:1024", "2:2:1024"]
    words = ["--entities", str(ENTITIES), "--users", "2000", "--rounds", "1", "--steps", "3"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.programs.parts_training", *cases, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [line[0] for line in lines] == cases
    for processes, line in enumerate(lines, 1):
        share = 3 * TABLE / processes
        assert share < float(line[-3]) < 1.05 * share + 40, line
