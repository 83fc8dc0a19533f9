"""Arithmetic in plain torch that gives the same bits at any number of threads.

Torch splits sums over a batch, and elementwise work on more than 32768 elements, over its threads;
the order of a sum, and the last bit of a transcendental function at the edge of a share, then
depend on their number. Here the pieces are fixed instead.

On a GPU torch's own sums and products repeat themselves, and every piece would be a launch, so all
is one piece there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

UNSPLIT = 1 << 14  # elements that torch leaves to one thread

# Matrix products are cut into so many pieces at least, of so few rows each, that a library gives
# every thread whole pieces and splits none.
_PIECES, _ROWS = 64, 32


def fixed_order_sum(x: Tensor) -> Tensor:
    """Sum of all elements in pieces that torch does not split over threads."""
    if x.numel() <= UNSPLIT or x.device.type != "cpu":
        return x.sum()
    return torch.stack([piece.sum() for piece in torch.split(x.flatten(), UNSPLIT)]).sum()


def in_pieces(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply an elementwise function, such as `torch.sigmoid`, in fixed pieces."""
    if x.numel() <= UNSPLIT or x.device.type != "cpu":
        return function(x)
    pieces = [function(piece) for piece in torch.split(x.flatten(), UNSPLIT)]
    return torch.cat(pieces).view(x.shape)


def linear(
    x: Tensor,  # [..., J]
    weight: Tensor,  # [J, K]
    bias: Tensor | None = None,  # [K]
) -> Tensor:
    """x W + b, [..., K], with gradients summed over the batch in fixed pieces."""
    flat = x.reshape(-1, x.shape[-1])
    if x.device.type != "cpu":
        y = flat @ weight if bias is None else torch.addmm(bias, flat, weight)
        return y.view(*x.shape[:-1], weight.shape[1])
    n, J = flat.shape
    pieces = max(_PIECES, -(-n // _ROWS))
    padded = torch.cat([flat, flat.new_zeros(pieces * _ROWS - n, J)]).view(pieces, _ROWS, J)
    ones = padded.new_ones(pieces, _ROWS, 1)
    # The bias is one more row of the weight, so that its gradient is summed like the others.
    if bias is not None:
        padded = torch.cat([padded, ones], dim=2)
        weight = torch.cat([weight, bias.unsqueeze(0)])
    y = torch.bmm(padded, weight.expand(pieces, *weight.shape))
    return y.view(pieces * _ROWS, -1)[:n].view(*x.shape[:-1], weight.shape[1])


def gather(
    table: Tensor,  # [n, ...]
    ids: Tensor,  # [...] integers
) -> Tensor:
    """table[ids], with the gradient of a row summed in the order of the ids.

    Plain indexing adds them in any order.
    """
    rows = functional.embedding(ids, table.flatten(1))
    return rows.view(*ids.shape, *table.shape[1:])


def repeat_row(
    row: Tensor,  # [D]
    n: int,
) -> Tensor:
    """Row repeated n times, [n, D]: a bias whose gradient is summed in order where it is added."""
    return gather(row.unsqueeze(0), torch.zeros(n, dtype=torch.int64, device=row.device))


def linear_by_relation(
    x: Tensor,  # [N, J]
    matrices: Tensor,  # [R, J, K]
    relations: Tensor,  # [N] integers
) -> Tensor:
    """y_n = x_n W_{r_n}, [N, K], with gradients summed in fixed pieces.

    Rows of one relation are put side by side, so that they are one matrix product and no matrix is
    copied per row. A GPU gets as many pieces as there can be: nobody waits for their number.
    """
    n, R, P = len(relations), len(matrices), _ROWS
    in_order, order = torch.sort(relations.long(), stable=True)
    # Where the rows of each relation begin in that order, and the end.
    bounds = torch.searchsorted(in_order, torch.arange(R + 1, device=x.device))
    ends = ((bounds.diff() + P - 1) // P).cumsum(0)  # of each relation's pieces
    most = n // P + min(n, R) if x.device.type != "cpu" else int(ends[-1])
    count = max(most, _PIECES)
    # Relation of each piece; those beyond the last are of any, and of rows that are 0.
    used = torch.searchsorted(ends, torch.arange(count, device=x.device), right=True)
    used = used.masked_fill(used == R, 0)
    first = torch.cat([ends.new_zeros(1), ends[:-1]]) * P - bounds[:-1]
    ranks = torch.arange(n, device=x.device)
    at = torch.empty_like(order).scatter_(0, order, first[in_order] + ranks)
    padded = x.new_zeros(count * P, x.shape[1]).index_copy(0, at, x)
    y = torch.bmm(padded.view(count, P, -1), matrices.index_select(0, used))
    return gather(y.flatten(0, 1), at)


@contextmanager
def one_thread() -> Iterator[None]:
    """Context of torch on one thread, for sums and factorisations whose bits depend on threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
