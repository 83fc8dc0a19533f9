"""Losses of lists in plain torch: a user's positives against negatives of the same list."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ekpnet_fast.ops.deterministic import UNSPLIT, gather

__all__ = ["LIST_PAIRS", "LOSSES", "list_loss", "pair_lists"]

LOSSES = ("bce", "bpr", "softmax")
"""Losses over pairs: binary cross-entropy of each, and those of lists."""
LIST_PAIRS = 16


def pair_lists(group_indptr: Tensor) -> Tensor:
    """Lists of a user's pairs, [L + 1] int64 row pointers.

    Each group is cut evenly into as few lists as `LIST_PAIRS` pairs at most allow.

    Args:
        group_indptr: [G + 1] int64, pairs of each group.
    """
    lengths = group_indptr.diff()
    parts = (lengths + LIST_PAIRS - 1) // LIST_PAIRS
    groups = torch.repeat_interleave(parts)
    part = torch.arange(len(groups), device=groups.device) - (parts.cumsum(0) - parts)[groups]
    begins = group_indptr[groups] + lengths[groups] * part // parts[groups]
    return torch.cat([begins, group_indptr[-1:]])


def list_loss(
    logits: Tensor, labels: Tensor, lists: Tensor, loss: str, real: Tensor | None = None
) -> Tensor:
    """Loss of lists summed over their positives, the same bits for any number of threads.

    "bpr": -log sigmoid(positive - negative), by the mean over the list's N negatives (Rendle et al.
    2009). "softmax": the cross-entropy of the positive against the negatives (sampled softmax,
    Jean et al. 2015), -log(e^positive / (e^positive + sum of e^negative / N)), where the logits of
    negatives lack the logarithm of the probability that one draw takes them. A list without either
    has no loss.

    Args:
        logits: [B].
        labels: [B], 1 = positive, 0 = negative.
        lists: [L + 1] int64, pairs of each list, at most `LIST_PAIRS`.
        loss: "bpr" or "softmax".
        real: [B], 1, or 0 for pairs that belong to no list; None where all do.
    """
    at = lists[:-1, None] + torch.arange(LIST_PAIRS, device=lists.device)
    inside = at < lists[1:, None]
    if real is not None:
        inside &= functional.pad(real, (0, 1))[torch.where(inside, at, len(logits))] != 0
    at = torch.where(inside, at, len(logits))
    positive = inside & (functional.pad(labels, (0, 1))[at] == 1)
    negative = inside & ~positive
    both = positive.any(1) & negative.any(1)
    at, positive, negative = at[both], positive[both], negative[both]
    table = functional.pad(logits, (0, 1)).unsqueeze(1)
    x = gather(table, at).squeeze(2)
    size = UNSPLIT // LIST_PAIRS ** (2 if loss == "bpr" else 1)
    pieces = zip(*(torch.split(t, size) for t in (x, positive, negative)), strict=True)
    sums = [_bpr(*piece) if loss == "bpr" else _softmax(*piece) for piece in pieces]
    return torch.stack(sums).sum() if sums else logits.new_zeros(())


def _bpr(x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    falls = -functional.logsigmoid(x.unsqueeze(2) - x.unsqueeze(1))  # [L, positive, negative]
    both = positive.unsqueeze(2) & negative.unsqueeze(1)
    return ((falls * both).sum((1, 2)) / negative.sum(1)).sum()


def _softmax(x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    rest = x.masked_fill(~negative, -torch.inf).logsumexp(1) - negative.sum(1).to(x.dtype).log()
    return -(functional.logsigmoid(x - rest.unsqueeze(1)) * positive).sum()
