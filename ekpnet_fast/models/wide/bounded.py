"""Minimum of a quadratic function under bounds: what each round of Newton's method asks for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bounded_minimum"]

Float64 = NDArray[np.float64]

FLAT = 1e-12  # slope that is none, in those at 0


def bounded_minimum(
    H: Float64,  # [n, n] positive definite
    slope: Float64,  # [n]
    start: Float64,  # [n] within the bounds
    bounded: NDArray[np.bool_],  # [n]
) -> Float64:
    """Minimum of x H x / 2 - slope x over x [n], of which those that are bounded are at least 0.

    By active sets (Lawson & Hanson 1974) from those of `start` on: numbers that are 0 are let go
    one after the other, the one of the steepest slope first. Of our few hundred numbers at most
    it takes milliseconds; `scipy.optimize` has the like, and takes 0.3 s to import.
    """
    x = np.where(bounded, np.maximum(start, 0.0), start)
    free = ~bounded | (x > 0)
    flat = FLAT * max(float(np.abs(slope).max(initial=0.0)), 1e-30)
    for _ in range(3 * len(x) + 1):
        x, free = _minimum_of_free(H, slope, x, free, bounded)
        rise = np.where(free, -np.inf, slope - H @ x)
        steepest = int(rise.argmax())
        if not rise[steepest] > flat:
            break
        free[steepest] = True
    return x


def _minimum_of_free(
    H: Float64, slope: Float64, x: Float64, free: NDArray[np.bool_], bounded: NDArray[np.bool_]
) -> tuple[Float64, NDArray[np.bool_]]:
    """Minimum over the free numbers alone, of which those that would fall below 0 are held there.

    Returns:
        The minimum, and which numbers are still free.
    """
    free = free.copy()
    while True:
        at = np.flatnonzero(free)
        found = np.zeros_like(x)
        found[at] = np.linalg.solve(H[np.ix_(at, at)], slope[at])
        below = free & bounded & (found <= 0)
        if not below.any():
            return found, free
        # As far as all of them stay within the bounds; the first to meet its own is held there.
        shares = x[below] / (x[below] - found[below])
        x = x + shares.min() * (found - x)
        held = np.zeros_like(free)
        held[np.flatnonzero(below)[shares <= shares.min()]] = True
        x[held | ~free] = 0.0
        free &= ~held
