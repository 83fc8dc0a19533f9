"""Ratings by stars: which of them are positives where nobody says it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["POSITIVE_STARS", "are_stars", "default_threshold", "told_threshold"]

POSITIVE_STARS = 4.0
"""Smallest number of five stars that is a positive, as in RippleNet's MovieLens."""
_MOST = 5.0


def default_threshold(ratings: NDArray[np.float64] | None) -> float | None:
    """Smallest rating [n] that is a positive where none is given; None where all are.

    Of stars, one to five, it is 4, because fewer say that something was not liked. Counts, and
    ratings of other scales, are all positives; but counts whose largest is 5, such as plays of 1,
    1, 2 and 5, look like stars, and are taken for them. A threshold of 0 keeps all.
    """
    if ratings is None or not len(ratings):
        return None
    halves = bool((2 * ratings == np.round(2 * ratings)).all())
    return POSITIVE_STARS if are_stars(ratings.min(), ratings.max(), halves=halves) else None


def told_threshold(threshold: float | None, given: float | None) -> str:
    """Which interactions are positives, in words.

    Args:
        threshold: the smallest rating that is one; None where all are.
        given: what was asked for; None if the threshold follows from the ratings.
    """
    if threshold is None:
        return "every interaction"
    words = f"rating >= {threshold:g}"
    if given is None:
        words += (
            f" (taken for stars: those from {threshold:g} on are clicks; --threshold 0 keeps all)"
        )
    return words


def are_stars(low: float, high: float, *, halves: bool) -> bool:
    """Whether ratings are stars: whole or half ones, up to five, and not only those liked.

    Args:
        low, high: the smallest and the largest that occur.
        halves: whether all are multiples of one half.
    """
    return halves and 0 <= low < POSITIVE_STARS and high == _MOST
