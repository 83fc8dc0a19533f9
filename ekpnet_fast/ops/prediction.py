"""Prediction layers, translation loss, and the gradients of EKPNet's whole loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, library

from ekpnet_fast.ops.arguments import RippleBatch
from ekpnet_fast.ops.list_losses import LOSSES
from ekpnet_fast.ops.torch_library import ekpnet

# ---- the prediction layers ---------------------------------------------------------------------

ACTIVATIONS = ("tanh", "relu", "sigmoid")


def deep_score(
    z: Tensor,  # [B, K]
    weights: Tensor,  # [L - 1, K, K]
    biases: Tensor,  # [L - 1, K]
    w_out: Tensor,  # [K]
    b_out: Tensor,  # [1]
    activation: str = "tanh",
) -> Tensor:
    """Logits [B] of the prediction layers (eq. 17, 18 before its sigmoid).

    z_l = a(z_{l-1} W_l + b_l) for the L - 1 hidden layers, all of the input's width, then
    z_{L-1} w_out + b_out. Differentiable in every tensor; gradients are summed in a fixed order at
    any number of threads. `activation` is one of ACTIVATIONS.
    """
    if activation not in ACTIVATIONS:
        raise RuntimeError(f"activation is {activation!r}, expected one of {ACTIVATIONS}")
    layers = (z, weights, biases, w_out, b_out)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in layers)
    logit: Tensor = ekpnet.deep_score.default(*layers, ACTIVATIONS.index(activation), keep)[0]
    return logit


@library.register_fake("ekpnet::deep_score")
def _(
    z: Tensor,
    weights: Tensor,
    biases: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    activation: int,
    keep: bool,
) -> Any:
    kept = z.size(0) if keep and z.device.type == "cpu" else 0
    return z.new_empty(z.size(0)), z.new_empty(kept, weights.size(0), z.size(1))


@library.register_fake("ekpnet::deep_score_backward")
def _(
    dlogit: Tensor,
    hidden: Tensor,
    z: Tensor,
    weights: Tensor,
    biases: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    activation: int,
) -> Any:
    return tuple(torch.empty_like(x) for x in (z, weights, biases, w_out, b_out))


def _deep_score_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.activation, _ = inputs
    hidden = output[1]
    ctx.mark_non_differentiable(hidden)
    ctx.set_materialize_grads(False)  # or `hidden` would get a gradient of zeros
    ctx.save_for_backward(hidden, *tensors)


def _deep_score_backward(ctx: Any, dlogit: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if dlogit is None:
        return (None,) * 7
    grads = ekpnet.deep_score_backward.default(
        dlogit.contiguous(), *ctx.saved_tensors, ctx.activation
    )
    return (*grads, None, None)


library.register_autograd(
    "ekpnet::deep_score", _deep_score_backward, setup_context=_deep_score_setup_context
)


# ---- the translation loss ----------------------------------------------------------------------


def triple_loss(
    entity: Tensor,  # [n, C, D]
    relation: Tensor,  # [R, C, D]
    heads: Tensor,  # [K] int32, rows of entity
    relations: Tensor,  # [K] int32
    tails: Tensor,  # [K] int32, rows of entity
    labels: Tensor,  # [K] int8, 1 = true, 0 = corrupted
) -> Tensor:
    """Sum over K triples of || I - sigmoid(v_h + v_r - v_t) ||^2 (eq. 22), a scalar.

    Only channel 0 (v) takes part. Differentiable in entity and relation.
    """
    loss: Tensor = ekpnet.triple_loss.default(entity, relation, heads, relations, tails, labels)
    return loss


@library.register_fake("ekpnet::triple_loss")
def _(
    entity: Tensor,
    relation: Tensor,
    heads: Tensor,
    relations: Tensor,
    tails: Tensor,
    labels: Tensor,
) -> Any:
    return entity.new_empty(())


@library.register_fake("ekpnet::triple_loss_backward")
def _(grad: Tensor, entity: Tensor, relation: Tensor, *batch: Tensor) -> Any:
    return torch.empty_like(entity), torch.empty_like(relation)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _triple_loss_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = ekpnet.triple_loss_backward.default(grad, *ctx.saved_tensors)
    return (*grads, None, None, None, None)


library.register_autograd("ekpnet::triple_loss", _triple_loss_backward, setup_context=_save_inputs)


# ---- losses of lists ---------------------------------------------------------------------------


def list_loss(
    logits: Tensor,  # [B]
    labels: Tensor,  # [B], 1 = positive, 0 = negative
    lists: Tensor,  # [L + 1] int64, pairs of each list, at most `LIST_PAIRS`
    loss: str,
) -> Tensor:
    """Loss of lists summed over their positives, a scalar; differentiable in logits.

    "bpr" or "softmax", as the specification, `list_losses.list_loss`, says.
    """
    logits = logits.contiguous()
    total: Tensor = ekpnet.list_loss.default(logits, labels, lists, LOSSES.index(loss))[0]
    return total


def list_loss_gradient(
    logits: Tensor,  # [B]
    labels: Tensor,  # [B], 1 = positive, 0 = negative
    lists: Tensor,  # [L + 1] int64, pairs of each list, at most `LIST_PAIRS`
    loss: str,
) -> tuple[Tensor, Tensor]:
    """Loss of lists as `list_loss`, and the gradient [B] of its B-th part; not differentiable."""
    logits = logits.detach().contiguous()
    return tuple(ekpnet.list_loss.default(logits, labels, lists, LOSSES.index(loss)))


@library.register_fake("ekpnet::list_loss")
def _(logits: Tensor, labels: Tensor, lists: Tensor, loss: int) -> Any:
    return logits.new_empty(()), torch.empty_like(logits)


def _list_loss_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    dlogits = output[1]
    ctx.mark_non_differentiable(dlogits)
    ctx.set_materialize_grads(False)  # or `dlogits` would get a gradient of zeros
    ctx.save_for_backward(dlogits)


def _list_loss_backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 4
    (dlogits,) = ctx.saved_tensors
    return dlogits * (grad * len(dlogits)), None, None, None


library.register_autograd(
    "ekpnet::list_loss", _list_loss_backward, setup_context=_list_loss_setup_context
)


# ---- the whole loss ----------------------------------------------------------------------------


def ekpnet_gradients(
    table: Tensor,  # [E, C, D], may be bfloat16 where the others are float32
    relation: Tensor,  # [R, C, D]
    W_e: Tensor,  # [D, D]
    b_e: Tensor,  # [D]
    layers: tuple[Tensor, Tensor, Tensor, Tensor] | None,  # as deep_score takes them
    batch: RippleBatch,
    *,
    activation: str = "tanh",
    loss: str = "bce",
    lambda1: float,
    lambda2: float,
    lambda3: float,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Loss of a mini-batch (eq. 24) per pair, and its gradients, in one pass over the pairs.

    That of `ripple_attention`, `deep_score` and `triple_loss`, but nothing is computed twice and no
    hidden layer is written out. Without `layers` the prediction is that of eq. 15. With
    `batch.slot_folds` a pair attends to the slots that its fold sees, as if there were no others.

    `loss` is one of LOSSES: the binary cross-entropy of each pair or, of the positives of each list
    (`pair_lists`), BPR against its negatives or the sampled softmax (`list_losses.list_loss`).

    Returns terms [4] float64 (pairs, kg, l2_weights, l2_rows, each weighted and divided by B); the
    gradient [n, C, D] of the touched rows but for their decay lambda3 / B, which `row_adam_` adds;
    and the gradients of relation (decay lambda3 / B where the batch names it), W_e, b_e and the
    layers' tensors (decay lambda2 / B). Sums are in a fixed order at any number of threads. On a
    GPU nobody waits.
    """
    if activation not in ACTIVATIONS:
        raise RuntimeError(f"activation is {activation!r}, expected one of {ACTIVATIONS}")
    if loss not in LOSSES:
        raise RuntimeError(f"loss is {loss!r}, expected one of {LOSSES}")
    terms, drows, *dense = ekpnet.ekpnet_gradients.default(
        *(table, relation, W_e, b_e),
        *((None,) * 4 if layers is None else layers),
        *batch,
        *(ACTIVATIONS.index(activation), LOSSES.index(loss), lambda1, lambda2, lambda3),
    )
    return terms, drows, dense[: 3 if layers is None else 7]


@library.register_fake("ekpnet::ekpnet_gradients")
def _(
    table: Tensor,
    relation: Tensor,
    W_e: Tensor,
    b_e: Tensor,
    weights: Tensor | None,
    biases: Tensor | None,
    w_out: Tensor | None,
    b_out: Tensor | None,
    rows: Tensor,
    *batch: Tensor | int | float | None,
) -> Any:
    shared = [torch.empty_like(x) for x in (relation, W_e, b_e)]
    if weights is None or biases is None or w_out is None or b_out is None:
        K = (batch[0].size(1) + 1) * W_e.size(0)  # type: ignore[union-attr]
        layers = [W_e.new_empty(size) for size in ((0, K, K), (0, K), (0,), (0,))]
    else:
        layers = [torch.empty_like(x) for x in (weights, biases, w_out, b_out)]
    terms = table.new_empty(4, dtype=torch.float64)
    return (terms, relation.new_empty(rows.size(0), *table.shape[1:]), *shared, *layers)
