"""Item popularity, and the threshold that turns a score into a click."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.errors import DataError, TrainingError


def popularity(items_of_train_positives: NDArray[Any], num_items: int) -> NDArray[np.int64]:
    """Train positives per item [I]: the score of the popularity baseline.

    Args:
        items_of_train_positives: [p] item of each train positive.
        num_items: I.

    Raises:
        DataError: an item that is not from 0 to `num_items` - 1.
    """
    items = items_of_train_positives
    if len(items) and (items.min() < 0 or items.max() >= num_items):
        found = items.min() if items.min() < 0 else items.max()
        raise DataError(f"found item {found}, expected ids from 0 to {num_items - 1}")
    return np.bincount(items, minlength=num_items).astype(np.int64, copy=False)


def best_threshold(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """Threshold of the highest accuracy; the lowest one where several do.

    Tried are the scores themselves and infinity (nothing positive): with `score >= threshold`
    nothing in between makes a difference. Choose it on validation examples, never on test.

    Args:
        labels: [n], 1 = positive.
        scores: [n], any real dtype.

    Raises:
        DataError: columns of different length.
        TrainingError: scores that are NaN; says how many.
    """
    positive = checked_positives(labels, scores)
    values, group = np.unique(scores, return_inverse=True)
    positives = np.bincount(group[positive], minlength=len(values) + 1)
    negatives = np.bincount(group[~positive], minlength=len(values) + 1)
    # Correct at threshold values[j]: positives from j on, and negatives before j.
    before = np.cumsum(negatives) - negatives
    from_here = np.cumsum(positives[::-1])[::-1]
    best = int(np.argmax(before + from_here))
    return float(values[best]) if best < len(values) else float("inf")


# ---- the arithmetic, on checked columns --------------------------------------------------------


def check_no_nan(bad: int, count: int) -> None:
    """Refuse scores of which some are NaN."""
    if bad:
        raise TrainingError(f"found {bad} NaN among {count} scores, expected numbers")


def checked_positives(labels: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.bool_]:
    """Mask [n] of the positives, after the checks that all click metrics share."""
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise DataError(
            f"found labels of shape {labels.shape} and scores of shape {scores.shape},"
            " expected two columns of one length"
        )
    check_no_nan(int(np.count_nonzero(np.isnan(scores))), len(scores))
    positive: NDArray[np.bool_] = labels == 1
    return positive
