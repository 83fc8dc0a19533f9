"""Items that a signal of the wide part puts first for each user, none of which the user clicked.

They are what hard negatives are drawn from. The signal is item kNN, a sum over the clicked items:
of the signals that lists are made of it costs least, it needs no graph, and no fit.
"""

from __future__ import annotations

import numpy as np
import torch

from ekpnet_fast import ops
from ekpnet_fast.data.pair_keys import positions_within
from ekpnet_fast.models.wide.affinity import neighbours_kept
from ekpnet_fast.models.wide.matrices import clicks_of, rows_of, sums
from ekpnet_fast.models.wide.regressions import similar_items
from ekpnet_fast.models.wide.signals import SignalOptions
from ekpnet_fast.sampling.histories import Histories

__all__ = ["nominees"]

# Nominees of all users, 64 MiB as keys, and of one user, at most; of one user at least one.
NOMINATED, OF_USER = 1 << 23, 100
AT_ONCE = 1 << 21  # entries of the product in memory at a time, about


def nominees(histories: Histories, num_items: int) -> Histories:
    """Items that are most alike what each user clicked: `OF_USER` of each, or fewer.

    Those of the largest sums of similarities (`regressions.similar_items`) to the clicked items,
    of equal ones the lower items. A user whose clicks have no neighbours has none. Draws nothing,
    and gives the same with any number of threads.

    Args:
        histories: [U], train clicks.
        num_items: I.

    Returns:
        [U] items, sorted within a user.
    """
    U, clicks = len(histories), clicks_of(histories, num_items)
    kept = neighbours_kept(SignalOptions(), num_items)
    similar = similar_items(clicks, sums(clicks, 0), kept)
    most = min(max(NOMINATED // max(U, 1), 1), OF_USER)
    lengths = np.diff(clicks.indptr)
    # Users with histories of about a length are asked together, as a row keeps the user's own too.
    order = np.argsort(lengths, kind="stable")
    owners, items = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int32)]
    first = int(np.count_nonzero(lengths == 0))
    while first < U:
        last = min(first + max(AT_ONCE // (most + int(lengths[order[first]])), 1), U)
        users = order[first:last]
        longest = int(lengths[users[-1]])
        found = ops.strongest_products(
            rows_of(clicks[users]), similar, num_items, min(most + longest, num_items)
        )
        counts = found.indptr.diff().numpy()
        of_row, columns = users.repeat(counts), found.columns.numpy()
        mine = np.isin(
            of_row.astype(np.int64) * num_items + columns,
            users.repeat(lengths[users]).astype(np.int64) * num_items + clicks[users].indices,
        )
        rows = np.repeat(np.arange(len(users)), counts)[~mine]
        of_row, columns, values = of_row[~mine], columns[~mine], found.values.numpy()[~mine]
        by_value = np.lexsort((columns, -values, rows))
        ranks = positions_within(np.bincount(rows, minlength=len(users)))
        best = by_value[ranks < most]
        owners.append(of_row[best])
        items.append(columns[best])
        first = last
    owner, item = np.concatenate(owners), np.concatenate(items)
    by_user = np.lexsort((item, owner))
    indptr = np.zeros(U + 1, dtype=np.int64)
    np.cumsum(np.bincount(owner, minlength=U), out=indptr[1:])
    return Histories(torch.from_numpy(indptr), torch.from_numpy(item[by_user].astype(np.int32)))
