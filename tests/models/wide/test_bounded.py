"""Minimum of a quadratic function under bounds, by the conditions that it alone meets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from ekpnet_fast.models.wide.bounded import bounded_minimum


def function(seed, n, rank):
    """Positive definite H, as good as of a lower rank, and a slope."""
    stream = np.random.default_rng(seed)
    columns = stream.normal(size=(n, rank))
    return columns @ columns.T / n + 1e-5 * np.eye(n), stream.normal(size=n)


@pytest.mark.parametrize("rank", [40, 5])
@pytest.mark.parametrize("seed", range(5))
def test_minimum_meets_its_conditions_from_any_start(seed, rank):
    n = 40
    H, slope = function(seed, n, rank)
    bounded = np.arange(n) < n - 1
    stream = np.random.default_rng(seed + 100)
    starts = [np.zeros(n), stream.normal(size=n).clip(min=0), np.ones(n)]
    found = [bounded_minimum(H, slope, start, bounded) for start in starts]
    for x in found:
        rise = slope - H @ x
        assert (x[bounded] >= 0).all() and (x == 0).sum() > 5
        assert np.abs(rise[x != 0]).max() < 1e-8 * np.abs(slope).max()
        assert rise[x == 0].max() < 1e-8 * np.abs(slope).max()
        np.testing.assert_allclose(x, found[0], rtol=1e-4, atol=1e-4)


def test_without_bounds_it_is_the_solution_of_a_system():
    H, slope = function(0, 12, 12)
    found = bounded_minimum(H, slope, np.zeros(12), np.zeros(12, dtype=np.bool_))
    expected = torch.linalg.solve(torch.from_numpy(H), torch.from_numpy(slope))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-8)


def test_numbers_that_nothing_asks_for_stay_at_zero():
    """Those of pieces without width, of which the function is as good as flat."""
    H, slope = np.diag([1.0, 1e-8, 1.0]), np.array([2.0, 0.0, -3.0])
    found = bounded_minimum(H, slope, np.ones(3), np.array([True, True, False]))
    assert found.tolist() == [2.0, 0.0, -3.0]


def design(kind, seed, n):
    """Columns, and what is added to the diagonal of their products."""
    stream = np.random.default_rng(seed)
    A = stream.normal(size=(2 * n, n))
    if kind == "duplicated columns":
        A[:, n // 2 :] = A[:, : n - n // 2]
    if kind == "columns of zeros":
        A[:, ::3] = 0
    if kind == "nearly singular":
        return A * 10.0 ** np.linspace(0, -6, n), 0.0
    if kind == "sums":  # as those of curves, of which neighbours are much alike
        return np.abs(A).cumsum(axis=1) / n, 1e-8
    return A, 1e-8


KINDS = ["any", "duplicated columns", "columns of zeros", "nearly singular", "sums"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [7, 50])
@pytest.mark.parametrize("seed", range(4))
def test_least_squares_are_those_of_scipy(kind, n, seed):
    A, ridge = design(kind, seed, n)
    stream = np.random.default_rng(seed + 100)
    y = stream.normal(size=len(A))
    H, slope = A.T @ A + ridge * np.eye(n), A.T @ y
    with_ridge = np.concatenate([A, ridge**0.5 * np.eye(n)]), np.append(y, np.zeros(n))
    distance = nnls(*with_ridge)[1]
    for start in (np.zeros(n), np.ones(n), stream.normal(size=n).clip(min=0)):
        x = bounded_minimum(H, slope, start, np.ones(n, dtype=np.bool_))
        rise = slope - H @ x
        terms = np.abs(slope) + np.abs(H) @ np.abs(x)
        assert (x >= 0).all()
        assert (np.abs(rise) < 1e-12 * terms.max())[x > 0].all()
        assert (rise < 1e-12 * terms.max())[x == 0].all()
        found = np.linalg.norm(with_ridge[0] @ x - with_ridge[1])
        assert found == pytest.approx(distance, rel=1e-12)


def test_numbers_that_rounding_alone_lets_go_keep_no_other_from_it():
    """The last number has nothing to do with the others, of which the slopes are mostly rounding.

    One of them falls below 0 at once where it is let go, which says nothing of the last.
    """
    n = 8
    for seed in range(40):
        stream = np.random.default_rng(seed)
        A = stream.normal(size=(n, n)) * 10.0 ** np.linspace(0, -6.5, n)
        A = A @ np.linalg.qr(stream.normal(size=(n, n)))[0]
        H = np.zeros((n + 1, n + 1))
        H[:n, :n], H[n, n] = A.T @ A, 1
        slope = np.append(stream.normal(size=n), 1e-7)
        found = bounded_minimum(H, slope, np.zeros(n + 1), np.arange(n + 1) >= n - 3)
        assert found[n] == slope[n]


def test_number_too_small_to_tell_from_zero_stays_there():
    """Its minimum is exactly where it was let go."""
    H, slope = np.diag([1e300, 1.0]), np.array([1e-30, 1e-31])
    found = bounded_minimum(H, slope, np.zeros(2), np.ones(2, dtype=np.bool_))
    assert found.tolist() == [0.0, 1e-31]


BITS = """
import hashlib
import numpy as np
from ekpnet_fast.models.wide.bounded import bounded_minimum
made = hashlib.sha256()
for n in (101, 125, 201):
    stream = np.random.default_rng(n)
    A = stream.normal(size=(n, n))
    H = np.einsum("ij,kj->ik", A, A) / n + 1e-5 * np.eye(n)
    made.update(bounded_minimum(H, stream.normal(size=n), np.ones(n), np.arange(n) < n // 8))
print(made.hexdigest())
"""


def test_the_same_bits_at_any_number_of_threads():
    """BLAS reads the number as it is loaded, hence processes."""
    root = Path(__file__).parents[3]
    found = [
        subprocess.run(
            [sys.executable, "-c", BITS],
            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for threads in ("1", "2")
    ]
    assert found[0] == found[1]
