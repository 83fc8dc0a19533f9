"""Fused propagation: `ripple_attention`, its gradient, its attention weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, library

from ekpnet_fast.ops.arguments import Propagation
from ekpnet_fast.ops.torch_library import ekpnet


def ripple_attention(propagation: Propagation, replace: bool = False) -> tuple[Tensor, Tensor]:
    """Whole multi-hop propagation for user groups (eq. 6-16).

    Returns z [B, (H + 1) D] = [xi^1 || ... || xi^H || o^H] (eq. 16) and match [B] = xi^H . v_o, the
    logit of eq. 15. C = 2: rank-1 semantic attention (eq. 8); C = 1: psi is the identity.
    `replace` has o^p = rho^p W_e + b_e in place of eq. 12 where the hop has a valid slot.
    D 1..128, M 1..64, H 1..4. Differentiable in entity, relation, W_e and b_e; gradients are
    summed in a fixed order at any number of threads.
    """
    z, match = ekpnet.ripple_attention.default(*propagation, replace)
    return z, match


@library.register_fake("ekpnet::ripple_attention")
def _(*arguments: Any) -> Any:
    p = _propagation(arguments)
    num_pairs, hops, width = p.items.size(0), p.heads.size(1), p.W_e.size(0)
    return p.entity.new_empty(num_pairs, (hops + 1) * width), p.entity.new_empty(num_pairs)


@library.register_fake("ekpnet::ripple_attention_backward")
def _(dz: Tensor, dmatch: Tensor, *arguments: Any) -> Any:
    entity, relation, W_e, b_e, *_ = arguments
    return tuple(torch.empty_like(x) for x in (entity, relation, W_e, b_e))


def _save_attention_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.replace = inputs
    ctx.save_for_backward(*tensors)


def _attention_backward(ctx: Any, dz: Tensor, dmatch: Tensor) -> tuple[Tensor | None, ...]:
    grads = ekpnet.ripple_attention_backward.default(
        dz.contiguous(), dmatch.contiguous(), *ctx.saved_tensors, ctx.replace
    )
    return (*grads, None, None, None, None, None, None, None)


library.register_autograd(
    "ekpnet::ripple_attention", _attention_backward, setup_context=_save_attention_inputs
)


def ripple_attention_weights(propagation: Propagation, replace: bool = False) -> Tensor:
    """Attention weights alpha [B, H, M] (eq. 10) of `ripple_attention`; 0 where masked."""
    alpha: Tensor = ekpnet.ripple_attention_weights.default(*propagation, replace)
    return alpha


@library.register_fake("ekpnet::ripple_attention_weights")
def _(*arguments: Any) -> Any:
    p = _propagation(arguments)
    return p.entity.new_empty(p.items.size(0), p.heads.size(1), p.heads.size(2))


def _propagation(arguments: tuple[Any, ...]) -> Propagation:
    """Tensors among an op's arguments, which `replace` may follow."""
    return Propagation(*arguments[: len(Propagation._fields)])
