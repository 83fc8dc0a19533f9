"""Executable specification: every differentiable op in plain torch, in any float dtype.

`sample_neighbors` is here too, in plain Python.

Signatures, shapes and results are those of `ekpnet_fast.ops`; nothing falls back to this module
silently. Tests compare the native ops with it in float64, benchmarks time it, and
`backend="reference"` trains with it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ekpnet_fast.ops.arguments import Propagation, RippleBatch
from ekpnet_fast.ops.list_losses import list_loss, pair_lists


def psi(rows: Tensor, relation: Tensor) -> Tensor:
    """Semantic transformation of entities (eq. 8).

    Args:
        rows: [..., C, D] entity rows, (v, gamma) if C = 2, v alone if C = 1.
        relation: [..., C, D] rows of the relations of the same triples.

    Returns:
        [..., D]: gamma (gamma_r . v) if C = 2, v if C = 1.
    """
    v = rows[..., 0, :]
    if rows.shape[-2] == 1:
        return v
    gamma, gamma_r = rows[..., 1, :], relation[..., 1, :]
    return gamma * (gamma_r * v).sum(-1, keepdim=True)


def _group_of_pairs(group_indptr: Tensor, items: Tensor) -> Tensor:
    """Group [B] of each pair; of a single group without an op that ONNX does not have."""
    if group_indptr.shape[0] == 2:
        return torch.zeros_like(items, dtype=torch.int64)
    return torch.repeat_interleave(group_indptr.diff(), output_size=items.shape[0])


def _propagate(
    propagation: Propagation,
    replace: bool,
    seen: Tensor | None = None,  # [B, H, M] bool, slots that a pair sees; None: all
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute z [B, (H + 1) D], match [B] and alpha [B, H, M]."""
    entity, relation, W_e, b_e, heads, relations, tails, counts, group_indptr, items = propagation
    num_hops, slots = heads.shape[1:]
    group = _group_of_pairs(group_indptr, items)
    valid = torch.arange(slots, device=heads.device) < counts.unsqueeze(-1)  # [G, H, M]
    r = relation[relations.long()]  # [G, H, M, C, D]
    key = psi(entity[heads.long()], r) + r[..., 0, :]  # [G, H, M, D]
    value = psi(entity[tails.long()], r)

    v_o = entity[items.long()][:, 0]
    o, xi = v_o, torch.zeros_like(v_o)
    blocks, alphas = [], []
    for p in range(num_hops):
        mask = valid[group, p] if seen is None else valid[group, p] & seen[:, p]
        score = torch.einsum("bmd,bd->bm", key[group, p], o)  # eq. 9
        score = score.masked_fill(~mask, -torch.inf)
        empty = ~mask.any(-1, keepdim=True)
        alpha = torch.softmax(score.masked_fill(empty, 0.0), -1).masked_fill(~mask, 0.0)  # eq. 10
        rho = torch.einsum("bm,bmd->bd", alpha, value[group, p])  # eq. 11
        xi = xi + rho  # eq. 14
        o = (torch.where(empty, o, rho) if replace else o + rho) @ W_e + b_e  # eq. 12
        blocks.append(xi)
        alphas.append(alpha)
    z = torch.cat([*blocks, o], dim=1)  # eq. 16
    match = (xi * v_o).sum(-1)  # eq. 15
    return z, match, torch.stack(alphas, dim=1)


def ripple_attention(propagation: Propagation, replace: bool = False) -> tuple[Tensor, Tensor]:
    """Specification of `ekpnet_fast.ops.ripple_attention` (eq. 6-16)."""
    z, match, _ = _propagate(propagation, replace)
    return z, match


def ripple_attention_weights(propagation: Propagation, replace: bool = False) -> Tensor:
    """Specification of `ekpnet_fast.ops.ripple_attention_weights` (eq. 10)."""
    return _propagate(propagation, replace)[2]


def deep_score(
    z: Tensor,
    weights: Tensor,
    biases: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    activation: str = "tanh",
) -> Tensor:
    """Specification of `ekpnet_fast.ops.deep_score` (eq. 17, 18)."""
    for W, b in zip(weights, biases, strict=True):
        z = getattr(torch, activation)(z @ W + b)
    return z @ w_out + b_out


def triple_loss(
    entity: Tensor,
    relation: Tensor,
    heads: Tensor,
    relations: Tensor,
    tails: Tensor,
    labels: Tensor,
) -> Tensor:
    """Specification of `ekpnet_fast.ops.triple_loss` (eq. 22)."""
    v, v_r = entity[:, 0], relation[:, 0]
    distance = v[heads.long()] + v_r[relations.long()] - v[tails.long()]
    return (labels.to(entity.dtype).unsqueeze(-1) - torch.sigmoid(distance)).square().sum()


def ekpnet_gradients(
    table: Tensor,
    relation: Tensor,
    W_e: Tensor,
    b_e: Tensor,
    layers: tuple[Tensor, Tensor, Tensor, Tensor] | None,
    batch: RippleBatch,
    *,
    activation: str = "tanh",
    loss: str = "bce",
    lambda1: float,
    lambda2: float,
    lambda3: float,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Specification of `ekpnet_fast.ops.ekpnet_gradients` (eq. 24)."""
    rows, heads, relations, tails, counts, group_indptr, items, labels, offset = batch[:9]
    triples, seen = batch[9:13], None
    if batch.slot_folds is not None and batch.pair_folds is not None:
        of_pairs = batch.slot_folds[_group_of_pairs(group_indptr, items)]
        seen = (of_pairs >> batch.pair_folds.long()[:, None, None]) & 1 == 1
    with torch.enable_grad():
        entity = table.detach()[rows.clamp(min=0).long()].to(relation.dtype)
        entity = entity.masked_fill((rows < 0)[:, None, None], 0.0).requires_grad_()
        dense = [x.detach().requires_grad_() for x in (relation, W_e, b_e, *(layers or ()))]
        relation, *shared = dense
        sets = (heads, relations, tails, counts, group_indptr, items)
        propagation = Propagation(entity, relation, shared[0], shared[1], *sets)
        z, logit, _ = _propagate(propagation, replace=False, seen=seen)
        if layers is not None:
            weights, biases, w_out, b_out = shared[2:]
            logit = deep_score(z, weights, biases, w_out, b_out, activation)
        if offset is not None:
            logit = logit + offset
        if loss == "bce":
            pairs = functional.binary_cross_entropy_with_logits(
                logit, labels, batch.real, reduction="sum"
            )
        else:
            pairs = list_loss(logit, labels, pair_lists(group_indptr), loss, batch.real)
        valid = torch.arange(heads.shape[2]) < counts.unsqueeze(-1)
        named = torch.zeros(len(relation), dtype=torch.bool)
        named[torch.cat([relations[valid], batch.triple_relations]).long()] = True
        terms = [
            pairs,
            lambda1 / 2 * triple_loss(entity, relation, *triples),
            lambda2 / 2 * torch.stack([x.square().sum() for x in shared]).sum(),
            lambda3 / 2 * relation[named].square().sum(),
        ]
        size = len(labels) if batch.real_pairs is None else batch.real_pairs
        total = torch.stack(terms).sum() / size
        drows, *gradients = torch.autograd.grad(total, [entity, *dense])
    values = torch.stack([x.detach() for x in terms]).double()
    values[3] += lambda3 / 2 * entity.detach().double().square().sum()
    return values / size, drows, gradients


def row_adam_(
    table: Tensor,
    m: Tensor,
    v: Tensor,
    rows: Tensor,
    grad: Tensor,
    *,
    step: int | Tensor,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    l2: float | Tensor = 0.0,
    seed: int = 0,
) -> None:
    """Specification of `ekpnet_fast.ops.row_adam_` (Kingma & Ba 2015, Algorithm 1)."""
    number = int(step)
    if isinstance(step, Tensor):
        step = step.double()
    kept = rows >= 0
    at = rows[kept].long()
    x = table[at].to(m.dtype)
    g = grad[kept] + l2 * x
    m[at] = beta1 * m[at] + (1 - beta1) * g
    v[at] = beta2 * v[at] + (1 - beta2) * g * g
    m_hat, v_hat = m[at] / (1 - beta1**step), v[at] / (1 - beta2**step)
    x = x - lr * m_hat / (v_hat.sqrt() + eps)
    if table.dtype == torch.bfloat16:
        places = torch.arange(table.numel()).view(table.shape)[at]
        x = _rounded_at_random(x, _rounding_bits(seed, number, places))
    table[at] = x.to(table.dtype)


def _rounded_at_random(x: Tensor, random: Tensor) -> Tensor:
    """bfloat16 numbers beside float32 `x`: away from zero where 16 random bits carry, else towards.

    Gupta et al. 2015: the mean over all bits is x.
    """
    bits = x.view(torch.int32)
    there = (bits + random.int()) & ~0xFFFF
    return torch.where(x.isfinite(), there.view(torch.float32), x).bfloat16()


def _rounding_bits(seed: int, step: int, places: Tensor) -> Tensor:
    """16 random bits per element of a table by its place, for a step."""
    draws = [
        _random_bits((seed, step, 0, 0), at // 4) >> (at % 4 * 16) & 0xFFFF
        for at in places.flatten().tolist()
    ]
    return torch.tensor(draws, dtype=torch.int64).view(places.shape)


_WORD, _GOLDEN = (1 << 64) - 1, 0x9E3779B97F4A7C15


def _mix64(x: int) -> int:
    """Finaliser of SplitMix64 (Steele et al. 2014)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _WORD
    return x ^ (x >> 31)


def _random_bits(counters: tuple[int, int, int, int], i: int) -> int:
    """The i-th 64 bits of the stream that (seed, a, b, c) keys."""
    key = 0
    for n, counter in enumerate(counters):
        key = _mix64(key ^ ((counter + max(n, 1) * _GOLDEN) & _WORD))
    return _mix64((key + (i + 1) * _GOLDEN) & _WORD)


def sample_neighbors(
    indptr: Tensor,
    relations: Tensor,
    tails: Tensor,
    nodes: Tensor,
    count: int,
    *,
    seed: int,
    epoch: int = 0,
    repeat: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Specification of `ekpnet_fast.ops.sample_neighbors`."""
    n = len(nodes)
    out_relations = torch.zeros(n, count, dtype=torch.int32)
    out_tails, counts = torch.zeros_like(out_relations), torch.zeros(n, dtype=torch.int32)
    for i, node in enumerate(nodes.tolist()):
        first, degree = int(indptr[node]), int(indptr[node + 1] - indptr[node])

        def below(k: int, limit: int, node: int = node) -> int:
            return (_random_bits((seed, epoch, node, 4), k) * limit) >> 64

        if degree > count:  # Floyd's algorithm
            drawn: list[int] = []
            for k in range(count):
                top = degree - count + k
                at = below(k, top + 1)
                drawn.append(top if at in drawn else at)
        elif repeat and 0 < degree < count:
            drawn = [below(k, degree) for k in range(count)]
        else:
            drawn = list(range(degree))
        counts[i] = len(drawn)
        for k, at in enumerate(drawn):
            out_relations[i, k] = int(relations[first + at])
            out_tails[i, k] = tails[first + at]
    return out_relations, out_tails, counts
