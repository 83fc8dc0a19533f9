"""Fused propagation for models with keys and values of their own."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ekpnet_fast.ops import Propagation


def attend(
    backend: ModuleType,
    keys: Tensor,  # [G, H, M, D]
    values: Tensor,  # [G, H, M, D]
    counts: Tensor,  # [G, H] int32, valid slots
    group_indptr: Tensor,  # [G + 1] int64, pairs of group g
    items: Tensor,  # [B, D], o^0 of each pair
    W: Tensor,  # [D, D]
    b: Tensor,  # [D]
    *,
    replace: bool = False,
) -> tuple[Tensor, Tensor]:
    """Attention over given slots, hop by hop, with the item updated in between.

        alpha = softmax_m(key_m . o^{p-1}),  rho^p = sum_m alpha_m value_m,
        o^p = (o^{p-1} + rho^p) W + b, or rho^p W + b if `replace`

    Returns rho [B, H, D], the answer of each hop, and o^H [B, D]. Differentiable in every real
    tensor. It is `ops.ripple_attention` with psi the identity and one relation that adds nothing:
    keys, values and items are the rows of a table of the batch, named by their positions.
    """
    B, H, D = len(items), keys.shape[1], keys.shape[3]
    z, _ = backend.ripple_attention(
        _of_slots(keys, values, counts, group_indptr, items, W, b), replace
    )
    *xi, o = z.view(B, H + 1, D).unbind(1)
    before = [torch.zeros_like(o), *xi[:-1]]
    return torch.stack([x - y for x, y in zip(xi, before, strict=True)], dim=1), o


def attention_weights(
    backend: ModuleType,
    keys: Tensor,  # [G, H, M, D]
    values: Tensor,  # [G, H, M, D]
    counts: Tensor,  # [G, H] int32, valid slots
    group_indptr: Tensor,  # [G + 1] int64, pairs of group g
    items: Tensor,  # [B, D], o^0 of each pair
    W: Tensor,  # [D, D]
    b: Tensor,  # [D]
    *,
    replace: bool = False,
) -> Tensor:
    """Attention weights alpha [B, H, M] of `attend`; 0 where masked."""
    alpha: Tensor = backend.ripple_attention_weights(
        _of_slots(keys, values, counts, group_indptr, items, W, b), replace
    )
    return alpha


def _of_slots(
    keys: Tensor,
    values: Tensor,
    counts: Tensor,
    group_indptr: Tensor,
    items: Tensor,
    W: Tensor,
    b: Tensor,
) -> Propagation:
    """Propagation over the rows of a table of the batch, named by their positions."""
    G, H, M, D = keys.shape
    slots, B = G * H * M, len(items)
    table = torch.cat([keys.reshape(slots, D), values.reshape(slots, D), items]).unsqueeze(1)
    at = torch.arange(slots, dtype=torch.int32, device=keys.device).view(G, H, M)
    # Masked slots hold 0 in every id.
    masked = torch.arange(M, device=keys.device) >= counts.unsqueeze(-1)
    return Propagation(
        table,
        table.new_zeros(1, 1, D),
        W,
        b,
        at.masked_fill(masked, 0),
        torch.zeros_like(at),
        (at + slots).masked_fill(masked, 0),
        counts,
        group_indptr,
        torch.arange(2 * slots, 2 * slots + B, dtype=torch.int32, device=keys.device),
    )
