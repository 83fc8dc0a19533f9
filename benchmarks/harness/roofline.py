"""Roofline of this machine: its peak rates, and an op's matrix products alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from benchmarks.harness.shapes import Shape
from ekpnet_fast.ops import Propagation

MATRIX = 1024  # rows and columns of the matrix product that gives the ceiling
COPIED = 1 << 28  # bytes of the copy that gives the ceiling: no cache holds them
ROUNDS = 7


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Ceilings: operations of a large float32 product and bytes of a large copy, per second."""

    operations_per_s: float
    bytes_per_s: float


@cache
def ceilings(threads: int) -> Ceilings:
    """Ceilings of this machine with so many threads; measured once, the best of some rounds."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
        product = torch.empty(MATRIX, MATRIX)
        source = torch.ones(COPIED // 4)
        target = torch.empty_like(source)
        return Ceilings(
            2 * MATRIX**3 / _best(lambda: torch.mm(a, b, out=product)),
            2 * COPIED / _best(lambda: target.copy_(source)),
        )
    finally:
        torch.set_num_threads(before)


def _best(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


Chain = Callable[[], None]


def product_chain(shape: Shape, *, per_group: bool) -> Chain:
    """Matrix products of a propagation, forward and backward, and nothing else.

    Per hop a batch of B pairs multiplies into its keys (eq. 9), its values (eq. 11) and W_e
    (eq. 12); each product has two in the backward pass. With `per_group` each group of pairs has
    its own keys and values, as in the model, and a batched product runs over the groups; else one
    product serves all pairs, which spares the library the change of operands.
    """
    G, P, H, M, D = shape.groups, shape.pairs, shape.hops, shape.slots, shape.width
    B = G * P
    lead = (G,) if per_group else ()
    rows = P if per_group else B
    o, alpha = torch.randn(*lead, rows, D), torch.randn(*lead, rows, M)
    key, value = torch.randn(*lead, M, D), torch.randn(*lead, M, D)
    W, flat = torch.randn(D, D), o.reshape(B, D)
    product = torch.bmm if per_group else torch.mm
    wide, narrow, slots = torch.empty_like(alpha), torch.empty_like(o), torch.empty_like(key)
    out, square = torch.empty_like(flat), torch.empty_like(W)

    def t(x: Tensor) -> Tensor:
        return x.transpose(-1, -2)

    def chain() -> None:
        for _ in range(H):
            product(o, t(key), out=wide)  # scores
            product(alpha, value, out=narrow)  # rho
            torch.mm(flat, W, out=out)
        for _ in range(H):
            torch.mm(flat, W.T, out=out)
            torch.mm(flat.T, flat, out=square)
            product(o, t(value), out=wide)  # gradient of alpha
            product(t(alpha), o, out=slots)  # of the values
            product(alpha, key, out=narrow)  # of o
            product(t(alpha), o, out=slots)  # of the keys

    return chain


def gather_chain(propagation: Propagation) -> Chain:
    """Copies of all rows that a propagation names, once, in the order in which it names them."""
    rows = propagation.entity.flatten(1)
    ids = torch.cat(
        [x.flatten() for x in (propagation.heads, propagation.tails, propagation.items)]
    )
    out = rows.new_empty(len(ids), rows.shape[1])

    def chain() -> None:
        torch.index_select(rows, 0, ids, out=out)

    return chain


def layers_chain(num_pairs: int, width: int, layers: int) -> Chain:
    """Matrix products of the hidden prediction layers, forward and backward (eq. 17)."""
    z, W = torch.randn(num_pairs, width), torch.randn(width, width)
    out, square = torch.empty_like(z), torch.empty_like(W)

    def chain() -> None:
        for _ in range(layers):
            torch.mm(z, W, out=out)
        for _ in range(layers):
            torch.mm(z, W.T, out=out)
            torch.mm(z.T, z, out=square)

    return chain
