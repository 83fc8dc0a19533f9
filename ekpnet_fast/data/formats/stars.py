"""Ratings by stars or thumbs: which of them are positives where nobody says it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["default_threshold", "threshold_of_scale", "told_threshold"]

_STARS, _MOST_STARS = 4.0, 5.0  # the first as in RippleNet's MovieLens
_THUMB_UP = 1.0


def default_threshold(ratings: NDArray[np.float64] | None) -> float | None:
    """Smallest rating [n] that is a positive where none is given; None where all are.

    Of stars, one to five, it is 4, because fewer say that something was not liked; where ratings
    are but 1 and 0 or -1, it is 1. Counts, and ratings of other scales, are all positives; but
    counts whose largest is 5, such as plays of 1, 1, 2 and 5, look like stars, and are taken for
    them.
    """
    if ratings is None or not len(ratings):
        return None
    whole = bool((ratings == np.round(ratings)).all())
    halves = whole or bool((2 * ratings == np.round(2 * ratings)).all())
    return threshold_of_scale(ratings.min(), ratings.max(), halves=halves, whole=whole)


def threshold_of_scale(low: float, high: float, *, halves: bool, whole: bool) -> float | None:
    """Smallest rating that is a positive on a scale; None where all are.

    Args:
        low, high: the smallest and the largest rating that occur.
        halves: whether all are multiples of one half.
        whole: whether all are whole numbers.
    """
    if halves and 0 <= low < _STARS and high == _MOST_STARS:
        return _STARS
    if whole and -1 <= low < _THUMB_UP and high == _THUMB_UP:
        return _THUMB_UP
    return None


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
        scale = "stars" if threshold == _STARS else "likes and dislikes"
        words += (
            f" (taken for {scale}: those from {threshold:g} on are clicks; --threshold"
            f" {min(0, threshold - 2):g} keeps all)"
        )
    return words
