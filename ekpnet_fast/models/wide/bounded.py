"""Minimum of a quadratic function under bounds: what each round of Newton's method asks for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ekpnet_fast.ops.threads import torch_on_one_thread

__all__ = ["bounded_minimum"]

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

EPSILON = float(np.finfo(np.float64).eps)


def bounded_minimum(
    H: Float64,  # [n, n] positive definite
    slope: Float64,  # [n]
    start: Float64,  # [n] within the bounds
    bounded: Bool,  # [n]
) -> Float64:
    """Minimum of x H x / 2 - slope x over x [n], of which those that are bounded are at least 0.

    By active sets (Lawson & Hanson 1974) from those of `start` on: numbers that are 0 are let go
    one after the other, the one of the steepest slope first. Each lowers the minimum over those
    that are free, so that no set of free numbers comes twice; where one does, the slope was of
    rounding alone, and the number stays at 0 until others have moved. Hence it ends. From
    zeros on it takes 8 ms for 60 numbers, 0.3 s for 300; `scipy.optimize` has the like, and takes
    0.3 s to import.

    Same bits at any number of threads, for which torch solves the systems: NumPy's BLAS has threads
    of its own, on whose number its bits depend from about a hundred numbers on.

    Raises:
        torch.linalg.LinAlgError: H is singular.
    """
    with torch_on_one_thread():
        x = np.where(bounded, np.maximum(start, 0.0), start)
        x, free = _minimum_of_free(H, slope, x, ~bounded | (x > 0), bounded)
        had = {free.tobytes()}
        open_to = ~free  # those that may be let go
        while True:
            # What the sum of n + 1 terms may be off by.
            rounding = EPSILON * (len(x) + 1) * (np.abs(slope) + _product(np.abs(H), np.abs(x)))
            rise = np.where(open_to, slope - _product(H, x) - rounding, 0.0)
            if not (rise > 0).any():
                return x
            steepest = int(rise.argmax())
            tried = free.copy()
            tried[steepest] = True
            found, tried = _minimum_of_free(H, slope, x, tried, bounded)
            if tried.tobytes() in had:
                open_to[steepest] = False
                continue
            x, free = found, tried
            had.add(free.tobytes())
            open_to = ~free


def _minimum_of_free(
    H: Float64, slope: Float64, x: Float64, free: Bool, bounded: Bool
) -> tuple[Float64, Bool]:
    """Minimum over the free numbers alone, of which those that would fall below 0 are held there.

    Returns:
        The minimum, and which numbers are still free.
    """
    free = free.copy()
    while True:
        at = np.flatnonzero(free)
        found = np.zeros_like(x)
        found[at] = _solution(H[np.ix_(at, at)], slope[at])
        below = free & bounded & (found <= 0)
        if not below.any():
            return found, free
        # As far as all of them stay within the bounds; the first to meet its own is held there.
        # One that is at 0 already, such as the one just let go, has no way at all.
        here, there = x[below], found[below]
        shares = np.divide(here, here - there, out=np.zeros_like(here), where=here > 0)
        share = shares.min()
        x = x + share * (found - x)
        x[bounded] = x[bounded].clip(min=0)
        held = np.flatnonzero(below)[shares <= share]
        free[held] = False
        x[held] = 0.0


def _product(H: Float64, x: Float64) -> Float64:
    made: Float64 = (torch.from_numpy(H) @ torch.from_numpy(x)).numpy()
    return made


def _solution(H: Float64, slope: Float64) -> Float64:
    solved: Float64 = torch.linalg.solve(torch.from_numpy(H), torch.from_numpy(slope)).numpy()
    return solved
