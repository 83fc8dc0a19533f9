"""The emulated GPU: faults that are planted in kernels are told, or change what they compute."""

from __future__ import annotations

import os
import subprocess

import pytest

SEEDS = range(1, 6)


@pytest.fixture
def results(emulated):
    """What a kernel of `planted_faults.cpp` computed or said, by seed."""
    program = emulated.path.with_name("planted_faults")

    def run(kernel):
        return [
            subprocess.run(
                [program, kernel],
                env={**os.environ, "EKPNET_EMULATION_SEED": str(seed)},
                capture_output=True,
                text=True,
                check=False,
            )
            for seed in SEEDS
        ]

    return run


@pytest.mark.parametrize(
    ("fault", "right"),
    [("shuffle as a barrier", "shuffle and a barrier"), ("no barrier", "barrier")],
)
def test_race_changes_with_the_seed(results, fault, right):
    (expected,) = {x.stdout for x in results(right)}
    found = {x.stdout for x in results(fault)}
    assert "nan" not in expected and len(found) == len(SEEDS)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("misaligned access", "a misaligned access to four neighbours"),
        ("barrier in a branch", "threads of a block wait at different barriers"),
        ("shuffle in a branch", "a shuffle from a lane that has ended"),
        ("write past the end", "a write past the end of shared memory"),
        ("id outside", "an id outside of its table"),
    ],
)
def test_fault_is_told(results, fault, message):
    for seed, done in zip(SEEDS, results(fault), strict=True):
        assert done.returncode < 0  # aborted
        assert done.stderr.startswith("emulated GPU: block 0 of 1, thread ")
        assert done.stderr.endswith(f", seed {seed}: {message}\n")
