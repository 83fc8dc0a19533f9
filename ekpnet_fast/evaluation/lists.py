"""Lists of many users together: what is in them, and how sure averages over users are."""

from __future__ import annotations

from math import nan

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.streams import BOOTSTRAP, random_stream

__all__ = ["bootstrap_intervals", "list_metrics"]

_ROUNDS = 1000
_ENDS = (0.025, 0.975)
_DRAWN = 1 << 22  # users drawn at a time: 32 MiB


def list_metrics(
    ranked: NDArray[np.integer], clicks: NDArray[np.integer], num_users: int
) -> dict[str, float]:
    """Metrics of what lists recommend, whether right or wrong.

    With n_i the number of lists that item i is in, rising in i, and c_i its train positives:

        coverage = share of the I items with n_i > 0
        gini     = sum_i (2 i - I - 1) n_i / (I sum_i n_i), 0 where every item is in as many lists
        novelty  = mean over the entries of log2((U + 1) / (c_i + 1)): bits by which they surprise

    Args:
        ranked: [n, K] item ids, -1 where a list ended.
        clicks: [I], c_i.
        num_users: U, users with a train positive.

    Returns:
        "coverage", "gini" and "novelty"; NaN but for coverage where no list has an entry.
    """
    num_items = len(clicks)
    shown = np.bincount(ranked[ranked >= 0], minlength=num_items)
    entries = int(shown.sum())
    places = 2 * np.arange(1, num_items + 1) - num_items - 1
    surprise = np.log2((num_users + 1) / (clicks + 1))
    return {
        "coverage": int(np.count_nonzero(shown)) / num_items,
        "gini": int((places * np.sort(shown)).sum()) / (num_items * entries) if entries else nan,
        "novelty": float((shown * surprise).sum()) / entries if entries else nan,
    }


def bootstrap_intervals(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Intervals that averages over users are in with 95 % confidence, by the percentile bootstrap.

    The users are drawn 1,000 times, as many as there are, with replacement (Efron 1979); the ends
    are the 2.5 % and 97.5 % quantiles of the averages. This is the spread by users alone, not that
    by seeds of training.

    Args:
        values: [..., n] value of each user.
        seed: of the draws.

    Returns:
        [..., 2]; NaN without users.
    """
    from scipy.sparse import csr_array

    users = values.shape[-1]
    if not users:
        return np.full((*values.shape[:-1], 2), np.nan)
    # Most users have nothing right in a short list. By a sparse matrix, and not by a dense product,
    # whose sums depend on the number of threads.
    flat = csr_array(values.reshape(-1, users))
    stream = random_stream(seed, BOOTSTRAP)
    sums = np.empty((flat.shape[0], _ROUNDS))
    together = max(_DRAWN // users, 1)
    for first in range(0, _ROUNDS, together):
        rounds = slice(first, min(first + together, _ROUNDS))
        times = np.empty((users, rounds.stop - first))
        for drawn in times.T:
            drawn[:] = np.bincount(stream.integers(0, users, users), minlength=users)
        sums[:, rounds] = flat @ times
    ends = np.quantile(sums / users, _ENDS, axis=1)
    intervals: NDArray[np.float64] = ends.T.reshape(*values.shape[:-1], 2)
    return intervals
