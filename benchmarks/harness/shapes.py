"""Shapes of generated batches, for measurements that need no data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ekpnet_fast.ops import Propagation


@dataclass(frozen=True)
class Shape:
    """Shape of a batch: G groups of `pairs` pairs each, over a table of n rows."""

    name: str
    groups: int
    pairs: int
    hops: int
    slots: int
    width: int
    rows: int
    relations: int = 24
    compiled: bool = False  # whether torch.compile is a peer: it takes half a minute per shape


MOVIELENS_STEP = Shape("movielens step", 128, 64, 2, 32, 16, 12_000)
BOOK_CROSSING_STEP = Shape("book-crossing step", 1640, 5, 3, 32, 4, 40_000)


def problem(shape: Shape, device: torch.device, dtype: torch.dtype) -> Propagation:
    """Problem of a propagation; every slot valid, rows drawn uniformly."""
    draw = torch.Generator(device="cpu").manual_seed(0)
    G, H, M, D = shape.groups, shape.hops, shape.slots, shape.width

    def reals(*size: int) -> Tensor:
        return (torch.randn(size, generator=draw) * D**-0.5).to(device, dtype)

    def ids(limit: int, *size: int) -> Tensor:
        return torch.randint(limit, size, generator=draw, dtype=torch.int32).to(device)

    return Propagation(
        reals(shape.rows, 2, D),
        reals(shape.relations, 2, D),
        reals(D, D),
        reals(D),
        ids(shape.rows, G, H, M),
        ids(shape.relations, G, H, M),
        ids(shape.rows, G, H, M),
        torch.full((G, H), M, dtype=torch.int32, device=device),
        torch.arange(G + 1, device=device) * shape.pairs,
        ids(shape.rows, G * shape.pairs),
    )


def flat(op: Callable[..., Any]) -> Callable[..., Any]:
    """Call a module's `ripple_attention` with its tensors one by one, as other ops take theirs."""
    return lambda *tensors: op(Propagation(*tensors))


def layers_problem(shape: Shape, layers: int = 3) -> list[Tensor]:
    """Arguments of `ops.deep_score` on the CPU for the pairs of a shape."""
    draw = torch.Generator().manual_seed(1)
    B, K = shape.groups * shape.pairs, (shape.hops + 1) * shape.width
    return [
        torch.randn(size, generator=draw) * scale
        for size, scale in (
            ((B, K), 0.5),
            ((layers - 1, K, K), K**-0.5),
            ((layers - 1, K), 0.1),
            ((K,), K**-0.5),
            ((1,), 0.1),
        )
    ]
