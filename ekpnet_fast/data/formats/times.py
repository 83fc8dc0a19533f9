"""Times of a data set's pairs, from those of a file's rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.formats.frames import Frame
from ekpnet_fast.data.formats.mapping import numbered
from ekpnet_fast.data.tables import Dataset, Examples
from ekpnet_fast.data.temporal import first_times

__all__ = ["pair_times"]


def pair_times(
    dataset: Dataset, frame: Frame, time: str, threshold: float | None = None
) -> NDArray[np.float64] | None:
    """Time [n] of each row or interaction of a data set: the earliest of the file's rows.

    Of a positive only its positive rows count. None where the file has no such column, or a row
    without a time.

    Args:
        dataset: made of the file, with the ids of users and items.
        frame: texts user and item; and numbers rating and, if any, the time.
        time: name of that column.
        threshold: smallest rating that is a positive.
    """
    times = frame.numbers.get(time)
    pairs = dataset.rows if dataset.rows is not None else dataset.interactions
    if times is None or np.isnan(times).any() or pairs is None:
        return None
    if dataset.user_ids is None or dataset.item_ids is None:
        return None
    user = frame.texts["user"].index_in(numbered(dataset.user_ids)).astype(np.int64)
    item = frame.texts["item"].index_in(numbered(dataset.item_ids))
    positive = np.ones(len(user), dtype=np.bool_)
    of_pairs = positive[:0]
    if not isinstance(pairs, Examples):
        of_pairs = pairs.positive
        if threshold is not None:
            positive = frame.numbers["rating"] >= threshold
    known = (user >= 0) & (item >= 0)
    codes = ((user * dataset.num_items + item) * 2 + positive)[known]
    codes, earliest = first_times(codes, times[known])
    wanted = (pairs.users.astype(np.int64) * dataset.num_items + pairs.items) * 2
    wanted += of_pairs if len(of_pairs) else 1
    return earliest[np.searchsorted(codes, wanted)]
