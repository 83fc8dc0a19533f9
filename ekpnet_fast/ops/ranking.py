"""Top-K items of whole rows of scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, library

from ekpnet_fast.ops.torch_library import ekpnet


def top_items(
    scores: Tensor,  # [n, I] float32
    seen_indptr: Tensor,  # [n + 1] int64
    seen: Tensor,  # [seen_indptr[-1]] int32, consumed items: left out, sorted within a user
    k: int,
) -> Tensor:
    """K best items per user [n, K] int32, by falling score, ties by rising item id.

    -1 fills up where fewer than K items are left; NaN ranks last.
    """
    items: Tensor = ekpnet.top_items.default(scores, seen_indptr, seen, k)
    return items


@library.register_fake("ekpnet::top_items")
def _(scores: Tensor, seen_indptr: Tensor, seen: Tensor, k: int) -> Any:
    return scores.new_empty(scores.size(0), k, dtype=torch.int32)
