"""Random problems for the model's ops: their arguments, at any size."""

from __future__ import annotations

import torch
from torch import Tensor

from ekpnet_fast.ops import Propagation


def flat(op):
    """Call `ops.ripple_attention`, or its like, with its tensors one by one."""
    count = len(Propagation._fields)
    return lambda *arguments, **options: op(
        Propagation(*arguments[:count]), *arguments[count:], **options
    )


def valid_slots(problem):
    """Mask [B, H, M] of the valid slots of each pair of a propagation."""
    groups = torch.repeat_interleave(problem.group_indptr.diff())
    return torch.arange(problem.heads.shape[2]) < problem.counts[groups].unsqueeze(-1)


def attention_problem(
    seed=0,
    *,
    pairs=64,
    groups=9,
    hops=2,
    slots=32,
    width=16,
    channels=2,
    rows=40,
    relations=5,
    scale=None,
    dtype=torch.float32,
):
    """Propagation: unequal groups, some without pairs; hops with 0 to M slots; repeated tails.

    Reals are N(0, 1 / sqrt(D)), a trained table's scale, unless `scale` gives the deviation. They
    are drawn in float32, so that a float64 problem holds the same numbers.
    """
    stream = torch.Generator().manual_seed(seed)
    scale = width**-0.5 if scale is None else scale

    def reals(*shape):
        return (torch.randn(shape, generator=stream) * scale).to(dtype)

    def ids(limit, *shape):
        return torch.randint(limit, shape, generator=stream, dtype=torch.int32)

    counts = ids(slots + 1, groups, hops)
    counts.view(-1)[:1] = slots
    counts.view(-1)[3:4] = 0
    # Squaring makes early groups large; the first and the last stay without pairs.
    share = torch.rand(pairs, generator=stream).square()
    inner = range(1, groups - 1) if groups > 2 else range(groups)
    of_pair = (inner.start + share * len(inner)).long() if pairs else share.long()
    group_indptr = torch.zeros(groups + 1, dtype=torch.int64)
    group_indptr[1:] = torch.bincount(of_pair, minlength=groups).cumsum(0)
    tails = ids(rows, groups, hops, slots)
    tails[:, :, 1::3] = tails[:, :, :1]
    return Propagation(
        entity=reals(rows, channels, width),
        relation=reals(relations, channels, width),
        W_e=reals(width, width),
        b_e=reals(width),
        heads=ids(rows, groups, hops, slots),
        relations=ids(relations, groups, hops, slots),
        tails=tails,
        counts=counts,
        group_indptr=group_indptr,
        items=ids(rows, pairs),
    )


def deep_problem(
    *, pairs=64, layers=2, width=16, activation="tanh", dtype=torch.float32, scale=1.0, seed=0
):
    """Arguments of `ops.deep_score`: inputs N(0, scale), parameters N(0, 1 / sqrt(K))."""
    stream = torch.Generator().manual_seed(seed)

    def reals(deviation, *shape):
        return (torch.randn(shape, generator=stream) * deviation).to(dtype)

    deviation = width**-0.5
    return [
        reals(scale, pairs, width),
        reals(deviation, layers - 1, width, width),
        reals(deviation, layers - 1, width),
        reals(deviation, width),
        reals(deviation, 1),
        activation,
    ]


def triple_problem(
    *,
    triples=64,
    width=16,
    channels=2,
    rows=20,
    relations=4,
    scale=None,
    dtype=torch.float32,
    seed=0,
):
    """Arguments of `ops.triple_loss`: reals N(0, 1 / sqrt(D)) unless `scale` says otherwise."""
    stream = torch.Generator().manual_seed(seed)
    scale = width**-0.5 if scale is None else scale

    def reals(n):
        x = torch.randn((n, channels, width), generator=stream) * scale
        return x.to(dtype)

    def ids(limit, kind=torch.int32):
        return torch.randint(limit, (triples,), generator=stream, dtype=kind)

    return [
        reals(rows),
        reals(relations),
        ids(rows),
        ids(relations),
        ids(rows),
        ids(2, torch.int8),
    ]


def to_float64(inputs):
    """Copy of the problem in float64."""
    found = [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
    return inputs._make(found) if hasattr(inputs, "_make") else found


def differentiable(inputs):
    """Copies of the inputs, of which the real ones require gradients."""
    return [
        x.detach().clone().requires_grad_(x.is_floating_point()) if isinstance(x, Tensor) else x
        for x in inputs
    ]
