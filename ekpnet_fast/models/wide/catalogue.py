"""Logits of the wide part for all items of some histories, feature by feature.

By pair only the sum is kept: an affinity goes through logarithm and curve while it is in a cache,
and items that it does not reach share one value.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast.models.wide.affinity import Affinities, Response
from ekpnet_fast.models.wide.curves import curves
from ekpnet_fast.ops.threads import num_threads
from ekpnet_fast.sampling.histories import Histories

__all__ = ["catalogue_logits"]

HISTORIES_AT_ONCE = 64  # fixed, because matrix products may round by the number of their rows
IN_CACHE = 1 << 17  # values of an affinity between product and sum
MOSTLY_ZERO = 0.25  # share of items up to which those reached are handled by themselves


def catalogue_logits(
    affinities: Affinities,
    histories: Histories,  # [G]
    knots: Tensor,  # [F, P + 1]
    weight: Tensor,  # [F, P]
) -> Tensor:
    """Sums of the responses [G, I] for all items; the same at any number of threads."""
    G = len(histories)
    total = torch.empty(G, affinities.knowledge.num_items)

    def fill(first: int) -> None:
        ids = torch.arange(first, min(first + HISTORIES_AT_ONCE, G))
        _fill(total[first : first + len(ids)], affinities, histories.of(ids), knots, weight)

    blocks = range(0, G, HISTORIES_AT_ONCE)
    threads = min(num_threads(), len(blocks))
    if threads <= 1:
        for first in blocks:
            fill(first)
        return total
    with ThreadPoolExecutor(threads, "catalogue", torch.set_num_threads, (1,)) as pool:
        list(pool.map(fill, blocks))
    return total


def _fill(
    total: Tensor,  # [G, I]
    affinities: Affinities,
    histories: Histories,
    knots: Tensor,
    weight: Tensor,
) -> None:
    """Write the sums for a few histories."""
    of_items = torch.from_numpy(affinities.item_features)
    total.copy_(curves(of_items, knots[:2], weight[:2]))
    needed = (weight > 0).any(1).numpy()
    for found, responses in affinities.of_all_items(histories, needed):
        few = not isinstance(found, np.ndarray) and found.nnz <= MOSTLY_ZERO * total.numel()
        dense = None if few else torch.from_numpy(_dense(found))
        for response in responses:
            curve = slice(response.feature, response.feature + 1)
            if few:
                _add_reached(total, found, response, knots[curve], weight[curve])
                continue
            assert dense is not None
            rows = max(1, IN_CACHE // total.shape[1])
            for first in range(0, len(total), rows):
                x = _logarithm(dense[first : first + rows], response, slice(first, first + rows))
                risen = curves(x.view(1, -1), knots[curve], weight[curve])
                total[first : first + rows] += risen.view(x.shape)


def _logarithm(a: Tensor, response: Response, rows: slice) -> Tensor:
    factor = torch.from_numpy(response.factor[rows])[:, None]
    return (a * factor).add_(response.added).log_()


def _add_reached(
    total: Tensor,  # [G, I]
    found: Any,  # [G, I] sparse
    response: Response,
    knots: Tensor,  # [1, P + 1]
    weight: Tensor,  # [1, P]
) -> None:
    """Add the response to zero everywhere, and where items are reached what theirs is above it."""
    rows = np.repeat(np.arange(len(total)), np.diff(found.indptr))
    data = np.maximum(found.data, 0) * response.factor[rows] + np.float32(response.added)
    x = torch.from_numpy(np.append(data, np.float32(response.added))).log_()
    risen = curves(x[None], knots, weight)
    total += risen[-1]
    at = torch.from_numpy(rows * total.shape[1] + found.indices)
    flat = total.view(-1)
    flat[at] += risen[:-1] - risen[-1]


def _dense(found: Any) -> Any:
    return np.maximum(found if isinstance(found, np.ndarray) else found.toarray(), 0)
