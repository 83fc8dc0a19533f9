"""Ratings by stars: which of them are positives where nobody says it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["POSITIVE_STARS", "are_stars", "default_threshold"]

POSITIVE_STARS = 4.0
"""Smallest number of five stars that is a positive, as in RippleNet's MovieLens."""
_MOST = 5.0


def default_threshold(ratings: NDArray[np.float64] | None) -> float | None:
    """Smallest rating [n] that is a positive where none is given; None where all are.

    Of stars, one to five, it is 4, because fewer say that something was not liked. Counts, and
    ratings of other scales, are all positives.
    """
    if ratings is None or not len(ratings):
        return None
    halves = bool((2 * ratings == np.round(2 * ratings)).all())
    return POSITIVE_STARS if are_stars(ratings.min(), ratings.max(), halves=halves) else None


def are_stars(low: float, high: float, *, halves: bool) -> bool:
    """Whether ratings are stars: whole or half ones, up to five, and not only those liked.

    Args:
        low, high: the smallest and the largest that occur.
        halves: whether all are multiples of one half.
    """
    return halves and 0 <= low < POSITIVE_STARS and high == _MOST
