"""The ops of the torch library `ekpnet`: typed wrapper, fake, gradient. No other file names them.

Letters: U users, I items, E entities, R relations, T triples; G user groups and B pairs of a
batch; H hops, M slots of a ripple set, D width; C channels of a row (2 = v and gamma, 1 = v
alone); n table rows that a batch touches; K triples of a loss term. Ids are int32, row pointers
int64, reals float32 or float64. Ops raise RuntimeError, naming the argument, what was found and
what was expected.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ekpnet_fast.native.loading import load_ops

load_ops()

_ops = torch.ops.ekpnet


# ---- graph and ripple sets ---------------------------------------------------------------------


def build_csr(
    heads: Tensor,  # [T] int32
    relations: Tensor,  # [T] int32
    tails: Tensor,  # [T] int32
    num_entities: int,
    num_relations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Triples grouped by head: indptr [E + 1] int64, relations [T], tails [T] int32.

    Relations come in the smallest of uint8, int16, int32 that holds R. Within a head triples keep
    their order.
    """
    return tuple(_ops.build_csr.default(heads, relations, tails, num_entities, num_relations))


@torch.library.register_fake("ekpnet::build_csr")
def _(
    heads: Tensor, relations: Tensor, tails: Tensor, num_entities: int, num_relations: int
) -> Any:
    dtype = torch.int32
    if num_relations <= 1 << 15:
        dtype = torch.uint8 if num_relations <= 1 << 8 else torch.int16
    return (
        heads.new_empty(num_entities + 1, dtype=torch.int64),
        torch.empty_like(relations, dtype=dtype),
        torch.empty_like(tails),
    )


def sample_ripple_sets(
    indptr: Tensor,  # [E + 1] int64
    relations: Tensor,  # [T] uint8, int16 or int32
    tails: Tensor,  # [T] int32
    seed_indptr: Tensor,  # [U + 1] int64
    seeds: Tensor,  # [history] int32, entity ids
    *,
    hops: int,
    slots: int,
    seed: int,
    epoch: int = 0,
    users: Tensor | None = None,  # [U] int32, ids that key the draw; 0 .. U - 1 if None
    repeat: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ripple sets of U histories (eq. 3-5): heads, relations, tails [U, H, M], counts [U, H].

    At each hop M triples are drawn uniformly without replacement from those whose head is in the
    set before; with fewer, each is kept once and `counts` says how many slots are valid (masked
    slots hold 0). An entity stays in the set where it first appeared; the next hop starts from the
    drawn tails. `repeat=True` follows RippleNet's code instead: heads with multiplicity, short
    hops filled by drawing with replacement, an empty hop copies the one before.

    A draw is a hash of (seed, epoch, user, hop, slot): the same at any number of threads and in
    any order of users.
    """
    return tuple(
        _ops.sample_ripple_sets.default(
            indptr, relations, tails, seed_indptr, seeds, users, hops, slots, seed, epoch, repeat
        )
    )


@torch.library.register_fake("ekpnet::sample_ripple_sets")
def _(
    indptr: Tensor,
    relations: Tensor,
    tails: Tensor,
    seed_indptr: Tensor,
    seeds: Tensor,
    users: Tensor | None,
    hops: int,
    slots: int,
    seed: int,
    epoch: int,
    repeat: bool,
) -> Any:
    num_users = seed_indptr.size(0) - 1
    sets = [tails.new_empty(num_users, hops, slots) for _ in range(3)]
    return (*sets, tails.new_empty(num_users, hops))


def sample_neighbors(
    indptr: Tensor,  # [E + 1] int64
    relations: Tensor,  # [T] uint8, int16 or int32
    tails: Tensor,  # [T] int32
    nodes: Tensor,  # [n] int32, entity ids
    count: int,
    *,
    seed: int,
    epoch: int = 0,
    repeat: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """`count` = K of each node's triples: relations, tails [n, K], counts [n], int32.

    K are drawn uniformly without replacement where the node has as many. With fewer each is kept
    once and `counts` says how many slots are valid (masked slots hold 0); `repeat=True` draws K
    with replacement instead, as KGCN does. A node without triples has count 0 in either case.
    K 1..1024.

    A draw is a hash of (seed, epoch, node, slot): equal nodes get equal neighbours within an epoch,
    at any number of threads.
    """
    return tuple(
        _ops.sample_neighbors.default(indptr, relations, tails, nodes, count, seed, epoch, repeat)
    )


@torch.library.register_fake("ekpnet::sample_neighbors")
def _(
    indptr: Tensor,
    relations: Tensor,
    tails: Tensor,
    nodes: Tensor,
    count: int,
    seed: int,
    epoch: int,
    repeat: bool,
) -> Any:
    n = nodes.size(0)
    return tails.new_empty(n, count), tails.new_empty(n, count), tails.new_empty(n)


def sample_triples(
    indptr: Tensor,  # [E + 1] int64
    relations: Tensor,  # [T] uint8, int16 or int32
    tails: Tensor,  # [T] int32
    count: int,
    *,
    seed: int,
    step: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`count` true triples, then as many corrupted: heads, relations, tails [2 count] int32.

    True triples are uniform with replacement; a corrupted one has its head or its tail, by even
    chance, replaced by a uniform entity. The draw is a hash of (seed, step, position).
    """
    return tuple(_ops.sample_triples.default(indptr, relations, tails, count, seed, step))


@torch.library.register_fake("ekpnet::sample_triples")
def _(indptr: Tensor, relations: Tensor, tails: Tensor, count: int, seed: int, step: int) -> Any:
    return tuple(tails.new_empty(2 * count) for _ in range(3))


# ---- mini-batches of user groups ---------------------------------------------------------------


def group_pairs(
    user_indptr: Tensor,  # [U + 1] int64, pairs of user u
    group_size: int,
    *,
    seed: int,
    epoch: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """One epoch's order: order [N] int64, group_indptr [G + 1] int64, group_users [G] int32.

    Each user's pairs are shuffled and cut into groups of at most `group_size`, then the groups are
    shuffled. A batch is a run of groups; `order[group_indptr[g]:group_indptr[g + 1]]` are the pair
    ids of group g.
    """
    return tuple(_ops.group_pairs.default(user_indptr, group_size, seed, epoch))


@torch.library.register_fake("ekpnet::group_pairs")
def _(user_indptr: Tensor, group_size: int, seed: int, epoch: int) -> Any:
    context = torch.library.get_ctx()
    num_pairs, num_groups = context.new_dynamic_size(), context.new_dynamic_size()
    return (
        user_indptr.new_empty(num_pairs),
        user_indptr.new_empty(num_groups + 1),
        user_indptr.new_empty(num_groups, dtype=torch.int32),
    )


def localize_batch(
    heads: Tensor,  # [U, H, M] int32
    relations: Tensor,  # [U, H, M] int32
    tails: Tensor,  # [U, H, M] int32
    counts: Tensor,  # [U, H] int32
    group_users: Tensor,  # [G] int32
    items: Tensor,  # [B] int32, entity ids
    extra: Tensor,  # [X] int32, further entity ids
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The table rows that a batch touches, and the batch in terms of them.

    Returns rows [n] (distinct, in order of first appearance), then heads, relations, tails
    [G, H, M], counts [G, H], items [B], extra [X] with entity ids replaced by positions in `rows`;
    all int32. Time is proportional to the batch, not to the tables.
    """
    return tuple(
        _ops.localize_batch.default(heads, relations, tails, counts, group_users, items, extra)
    )


@torch.library.register_fake("ekpnet::localize_batch")
def _(
    heads: Tensor,
    relations: Tensor,
    tails: Tensor,
    counts: Tensor,
    group_users: Tensor,
    items: Tensor,
    extra: Tensor,
) -> Any:
    rows = items.new_empty(torch.library.get_ctx().new_dynamic_size())
    shape = (group_users.size(0), *heads.shape[1:])
    sets = [heads.new_empty(shape) for _ in range(3)]
    return (
        rows,
        *sets,
        counts.new_empty(shape[:2]),
        torch.empty_like(items),
        torch.empty_like(extra),
    )


# ---- the fused propagation ---------------------------------------------------------------------


def ripple_attention(
    entity: Tensor,  # [n, C, D]
    relation: Tensor,  # [R, C, D]
    W_e: Tensor,  # [D, D]
    b_e: Tensor,  # [D]
    heads: Tensor,  # [G, H, M] int32, rows of entity
    relations: Tensor,  # [G, H, M] int32
    tails: Tensor,  # [G, H, M] int32, rows of entity
    counts: Tensor,  # [G, H] int32, valid slots
    group_indptr: Tensor,  # [G + 1] int64, pairs of group g
    items: Tensor,  # [B] int32, rows of entity
    replace: bool = False,
) -> tuple[Tensor, Tensor]:
    """The whole multi-hop propagation for user groups (eq. 6-16).

    Returns z [B, (H + 1) D] = [xi^1 || ... || xi^H || o^H] (eq. 16) and match [B] = xi^H . v_o, the
    logit of eq. 15. C = 2: rank-1 semantic attention (eq. 8); C = 1: psi is the identity.
    `replace` has o^p = rho^p W_e + b_e in place of eq. 12 where the hop has a valid slot.
    D 1..128, M 1..64, H 1..4. Differentiable in entity, relation, W_e and b_e; gradients are
    summed in a fixed order at any number of threads.
    """
    z, match = _ops.ripple_attention.default(
        entity, relation, W_e, b_e, heads, relations, tails, counts, group_indptr, items, replace
    )
    return z, match


@torch.library.register_fake("ekpnet::ripple_attention")
def _(
    entity: Tensor,
    relation: Tensor,
    W_e: Tensor,
    b_e: Tensor,
    heads: Tensor,
    relations: Tensor,
    tails: Tensor,
    counts: Tensor,
    group_indptr: Tensor,
    items: Tensor,
    replace: bool = False,
) -> Any:
    num_pairs, hops, width = items.size(0), heads.size(1), W_e.size(0)
    return entity.new_empty(num_pairs, (hops + 1) * width), entity.new_empty(num_pairs)


@torch.library.register_fake("ekpnet::ripple_attention_backward")
def _(
    dz: Tensor,
    dmatch: Tensor,
    entity: Tensor,
    relation: Tensor,
    W_e: Tensor,
    b_e: Tensor,
    *batch: Tensor | bool,
) -> Any:
    return tuple(torch.empty_like(x) for x in (entity, relation, W_e, b_e))


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _save_attention_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.replace = inputs
    ctx.save_for_backward(*tensors)


def _attention_backward(ctx: Any, dz: Tensor, dmatch: Tensor) -> tuple[Tensor | None, ...]:
    grads = _ops.ripple_attention_backward.default(
        dz.contiguous(), dmatch.contiguous(), *ctx.saved_tensors, ctx.replace
    )
    return (*grads, None, None, None, None, None, None, None)


torch.library.register_autograd(
    "ekpnet::ripple_attention", _attention_backward, setup_context=_save_attention_inputs
)


def ripple_attention_weights(
    entity: Tensor,  # [n, C, D]
    relation: Tensor,  # [R, C, D]
    W_e: Tensor,  # [D, D]
    b_e: Tensor,  # [D]
    heads: Tensor,  # [G, H, M] int32, rows of entity
    relations: Tensor,  # [G, H, M] int32
    tails: Tensor,  # [G, H, M] int32, rows of entity
    counts: Tensor,  # [G, H] int32, valid slots
    group_indptr: Tensor,  # [G + 1] int64, pairs of group g
    items: Tensor,  # [B] int32, rows of entity
    replace: bool = False,
) -> Tensor:
    """Attention weights alpha [B, H, M] (eq. 10) of `ripple_attention`; 0 where masked."""
    alpha: Tensor = _ops.ripple_attention_weights.default(
        entity, relation, W_e, b_e, heads, relations, tails, counts, group_indptr, items, replace
    )
    return alpha


@torch.library.register_fake("ekpnet::ripple_attention_weights")
def _(
    entity: Tensor,
    relation: Tensor,
    W_e: Tensor,
    b_e: Tensor,
    heads: Tensor,
    relations: Tensor,
    tails: Tensor,
    counts: Tensor,
    group_indptr: Tensor,
    items: Tensor,
    replace: bool = False,
) -> Any:
    return entity.new_empty(items.size(0), heads.size(1), heads.size(2))


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
    logit: Tensor = _ops.deep_score.default(*layers, ACTIVATIONS.index(activation), keep)[0]
    return logit


@torch.library.register_fake("ekpnet::deep_score")
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


@torch.library.register_fake("ekpnet::deep_score_backward")
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
    grads = _ops.deep_score_backward.default(
        dlogit.contiguous(), *ctx.saved_tensors, ctx.activation
    )
    return (*grads, None, None)


torch.library.register_autograd(
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
    loss: Tensor = _ops.triple_loss.default(entity, relation, heads, relations, tails, labels)
    return loss


@torch.library.register_fake("ekpnet::triple_loss")
def _(
    entity: Tensor,
    relation: Tensor,
    heads: Tensor,
    relations: Tensor,
    tails: Tensor,
    labels: Tensor,
) -> Any:
    return entity.new_empty(())


@torch.library.register_fake("ekpnet::triple_loss_backward")
def _(grad: Tensor, entity: Tensor, relation: Tensor, *batch: Tensor) -> Any:
    return torch.empty_like(entity), torch.empty_like(relation)


def _triple_loss_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = _ops.triple_loss_backward.default(grad, *ctx.saved_tensors)
    return (*grads, None, None, None, None)


torch.library.register_autograd(
    "ekpnet::triple_loss", _triple_loss_backward, setup_context=_save_inputs
)


# ---- the whole loss ----------------------------------------------------------------------------


def ekpnet_gradients(
    table: Tensor,  # [E, C, D]
    relation: Tensor,  # [R, C, D]
    W_e: Tensor,  # [D, D]
    b_e: Tensor,  # [D]
    layers: tuple[Tensor, Tensor, Tensor, Tensor] | None,  # as deep_score takes them
    rows: Tensor,  # [n] int32, rows of table
    heads: Tensor,  # [G, H, M] int32, positions in rows
    relations: Tensor,  # [G, H, M] int32
    tails: Tensor,  # [G, H, M] int32, positions in rows
    counts: Tensor,  # [G, H] int32, valid slots
    group_indptr: Tensor,  # [G + 1] int64, pairs of group g
    items: Tensor,  # [B] int32, positions in rows; B > 0
    labels: Tensor,  # [B]
    triple_heads: Tensor,  # [K] int32, positions in rows
    triple_relations: Tensor,  # [K] int32
    triple_tails: Tensor,  # [K] int32, positions in rows
    triple_labels: Tensor,  # [K] int8, 1 = true, 0 = corrupted
    *,
    offset: Tensor | None = None,  # [B], added to the logits
    activation: str = "tanh",
    lambda1: float,
    lambda2: float,
    lambda3: float,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The loss of a mini-batch (eq. 24) per pair, and its gradients, in one pass over the pairs.

    That of `ripple_attention`, `deep_score` and `triple_loss`, but nothing is computed twice and no
    hidden layer is written out. Without `layers` the prediction is that of eq. 15.

    Returns terms [4] float64 (bce, kg, weights, rows, each weighted and divided by B); the gradient
    [n, C, D] of the touched rows but for their decay lambda3 / B, which `row_adam_` adds; and the
    gradients of relation (decay lambda3 / B where the batch names it), W_e, b_e and the layers'
    tensors (decay lambda2 / B). Sums are in a fixed order at any number of threads. On a CPU only.
    """
    if activation not in ACTIVATIONS:
        raise RuntimeError(f"activation is {activation!r}, expected one of {ACTIVATIONS}")
    terms, drows, *dense = _ops.ekpnet_gradients.default(
        *(table, relation, W_e, b_e),
        *((None,) * 4 if layers is None else layers),
        *(rows, heads, relations, tails, counts, group_indptr, items, labels, offset),
        *(triple_heads, triple_relations, triple_tails, triple_labels),
        *(ACTIVATIONS.index(activation), lambda1, lambda2, lambda3),
    )
    return terms, drows, dense[: 3 if layers is None else 7]


@torch.library.register_fake("ekpnet::ekpnet_gradients")
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
    return (terms, table.new_empty(rows.size(0), *table.shape[1:]), *shared, *layers)


# ---- optimizer and ranking ---------------------------------------------------------------------


def row_adam_(
    table: Tensor,  # [E, ...], changed in place
    m: Tensor,  # like table, first moment, changed in place
    v: Tensor,  # like table, second moment, changed in place
    rows: Tensor,  # [n] int32, distinct, or -1 for a row that is skipped
    grad: Tensor,  # [n, ...]
    *,
    step: int | Tensor,  # [] int64 on the table's device
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    l2: float | Tensor = 0.0,  # [] float64 on the table's device
) -> None:
    """One Adam step (Kingma & Ba 2015) on the touched rows of a table.

    The gradient is grad + l2 * table[rows]. Moments of untouched rows do not decay; bias
    correction uses `step` (from 1), the number of the optimizer's step. As tensors, `step` and `l2`
    may change between replays of a captured graph. On a GPU the table may be bfloat16, with
    float32 moments.
    """
    if not isinstance(step, Tensor):
        step = torch.tensor(step, dtype=torch.int64, device=table.device)
    if not isinstance(l2, Tensor):
        l2 = torch.tensor(l2, dtype=torch.float64, device=table.device)
    _ops.row_adam_.default(table, m, v, rows, grad, step, l2, lr, beta1, beta2, eps)


@torch.library.register_fake("ekpnet::row_adam_")
def _(
    table: Tensor,
    m: Tensor,
    v: Tensor,
    rows: Tensor,
    grad: Tensor,
    step: Tensor,
    l2: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    return None


def top_items(
    scores: Tensor,  # [n, I] float32
    seen_indptr: Tensor,  # [n + 1] int64
    seen: Tensor,  # [seen] int32, item ids that are left out, sorted within a user
    k: int,
) -> Tensor:
    """The K best items per user [n, K] int32, by falling score, ties by rising item id.

    -1 fills up where fewer than K items are left; NaN ranks last.
    """
    items: Tensor = _ops.top_items.default(scores, seen_indptr, seen, k)
    return items


@torch.library.register_fake("ekpnet::top_items")
def _(scores: Tensor, seen_indptr: Tensor, seen: Tensor, k: int) -> Any:
    return scores.new_empty(scores.size(0), k, dtype=torch.int32)
