"""Scores of the items that can be among a user's best; the others' bounds rule them out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ekpnet_fast import ops

__all__ = ["Exact", "best_scores"]

Exact = Callable[[Tensor, Tensor], Tensor]
"""Scores [n] float32 of pairs of rows [n] int64, which do not fall, and items [n] int64."""


def best_scores(
    estimates: Tensor,  # [b, I] float32
    error: Tensor,  # [b] float64
    seen_indptr: Tensor,  # [b + 1] int64
    seen: Tensor,  # int32, sorted within a row
    k: int,
    exact: Exact,
) -> Tensor:
    """Scores [b, I] of the items that can be among the K best that are not seen, else -infinity.

    The K items with the highest estimates are scored first. The lowest of their scores is no higher
    than the K-th best of all, so an item whose estimate is lower by more than the error cannot be
    among the K best. Items as good as the K-th best are all scored, so ties are as they were.

    Args:
        estimates: of the scores.
        error: by which a row's scores differ from its estimates at most; where it is infinite or
            NaN, all items are scored.
        seen_indptr, seen: items that are left out.
        k: length of the lists.
        exact: gives scores.
    """
    scores = torch.full_like(estimates, -torch.inf)
    top = ops.top_items(estimates, seen_indptr, seen, k)
    there = top >= 0
    rows, items = there.nonzero()[:, 0], top[there].long()
    lowest = torch.full(top.shape, -torch.inf)
    lowest[there] = exact(rows, items)
    scores[rows, items] = lowest[there]
    bar = (lowest.amin(1).double() - error).float()
    bar = torch.nextafter(bar, torch.tensor(-torch.inf))
    left = ~(estimates < bar.unsqueeze(1))  # so that NaN is scored
    left[rows, items] = False
    left[torch.repeat_interleave(seen_indptr.diff()), seen.long()] = False
    rows, items = left.nonzero(as_tuple=True)
    scores[rows, items] = exact(rows, items)
    return scores
