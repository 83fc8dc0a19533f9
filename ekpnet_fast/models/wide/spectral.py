"""Leading eigenvectors of what items share by clicks and by the graph."""

from __future__ import annotations

import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.models.wide.matrices import Matrix, rows_of

__all__ = ["leading_eigenvectors"]

OVERSAMPLED, ROUNDS = 16, 3  # of the subspace iteration (Halko et al. 2011)
APART = 0.1  # sine of the angle between a column and those before it, at least
ROWS = 1024  # whose products are summed in float32


def leading_eigenvectors(
    factors: list[Matrix],  # each [I, K]
    rank: int,
    rounds: int = ROUNDS,
) -> tuple[Tensor, Tensor]:
    """Leading eigenvectors [I, r] and values [r] of the sum of factor factor^T.

    By subspace iteration from a fixed start; at most a quarter of the items, because all of them
    would project every history on itself, and no more than the factors have columns.
    """
    I = factors[0].shape[0]  # noqa: E741
    width = max(1, min(rank, I // 4, sum(factor.shape[1] for factor in factors)))
    generator = torch.Generator().manual_seed(0)
    Q = torch.randn(I, min(width + OVERSAMPLED, I), generator=generator)
    both_ways = [(rows_of(factor), rows_of(factor.T.tocsr())) for factor in factors]

    def apply(x: Tensor) -> Tensor:
        of_factors = [ops.sparse_product(a, ops.sparse_product(b, x)) for a, b in both_ways]
        return of_factors[0] if len(of_factors) == 1 else of_factors[0] + of_factors[1]

    for _ in range(rounds):
        # Twice between two orthogonalisations, which take longer.
        Q = orthonormal(apply(apply(Q)))
    values, vectors = torch.linalg.eigh(Q.T @ apply(Q))
    leading = (Q @ vectors.flip(1))[:, :width].contiguous()
    return leading, values.flip(0)[:width].clamp(min=0)


def orthonormal(
    x: Tensor,  # [I, r]
) -> Tensor:
    """Orthonormal basis [I, r] of the columns, the first k of it of the first k.

    By the Cholesky factor of the columns' products, which takes a third of the time of reflections.
    Columns of an iteration are soon as good as orthogonal but for their norms, so that float32 is
    enough; where they are not, as after the first round, it is reflections.
    """
    x = x / x.norm(dim=0).clamp(min=1e-30)
    gram = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for some in torch.split(x, ROWS):
        gram += (some.T @ some).double()
    factor, failed = torch.linalg.cholesky_ex(gram, upper=True)
    found: Tensor
    if int(failed) or float(factor.diagonal().min()) < APART:
        found = torch.linalg.qr(x)[0].contiguous()
        return found
    eye = torch.eye(len(gram), dtype=torch.float64)
    found = x @ torch.linalg.solve_triangular(factor, eye, upper=True).float()
    return found
