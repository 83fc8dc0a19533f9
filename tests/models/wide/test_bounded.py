"""Minimum of a quadratic function under bounds, by the conditions that it alone meets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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
