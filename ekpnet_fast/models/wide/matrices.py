"""Sparse matrices of clicks and of the graph, as the wide part scales and multiplies them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.sampling.histories import Histories

__all__ = [
    "by_columns",
    "clicks_of",
    "inverse",
    "matrix_of",
    "products",
    "row_means",
    "rows_of",
    "scaled",
    "sparse",
    "strongest",
    "sums",
    "unit_rows",
    "walk_factors",
]

Matrix = Any  # scipy.sparse.csr_matrix

# Products of entries that a row of one matrix and a column of the other make, per entry, at most.
PRODUCTS_PER_ENTRY = 2048


def sparse(data: Any, rows: Any, columns: Any, shape: tuple[int, int]) -> Matrix:
    """Matrix in compressed rows of entries."""
    from scipy import sparse  # here, because models without a wide part need none

    return sparse.csr_matrix((data.astype(np.float32), (rows, columns)), shape=shape)


def clicks_of(histories: Histories, num_items: int) -> Matrix:
    """Histories as a matrix [U, I] of ones."""
    from scipy import sparse

    items = histories.items.numpy()
    return sparse.csr_matrix(
        (np.ones(len(items), dtype=np.float32), items, histories.indptr.numpy()),
        shape=(len(histories), num_items),
    )


def sums(matrix: Matrix, axis: int) -> NDArray[np.float64]:
    """Sums over an axis."""
    return np.asarray(matrix.sum(axis=axis, dtype=np.float64)).ravel()


def inverse(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse 1 / x, and 0 for 0."""
    return np.divide(1, x, out=np.zeros_like(x), where=x > 0)


def scaled(
    matrix: Matrix, rows: NDArray[np.float64] | None, columns: NDArray[np.float64] | None
) -> Matrix:
    """Matrix with rows and columns multiplied by numbers."""
    found = matrix.copy()
    if rows is not None:
        found.data *= np.repeat(rows, np.diff(found.indptr))
    if columns is not None:
        found.data *= columns[found.indices]
    return found


def unit_rows(matrix: Matrix) -> Matrix:
    """Matrix with every row scaled to norm 1."""
    return scaled(matrix, inverse(np.sqrt(sums(matrix.multiply(matrix), 1))), None)


def rows_of(matrix: Matrix) -> ops.SparseRows:
    """Matrix as the ops take it."""
    return ops.SparseRows(
        torch.from_numpy(matrix.indptr.astype(np.int64)),
        torch.from_numpy(matrix.indices.astype(np.int32)),
        torch.from_numpy(matrix.data),
    )


def matrix_of(rows: ops.SparseRows, num_columns: int) -> Matrix:
    """Rows as a matrix [n, num_columns]; the arrays are not copied."""
    from scipy import sparse

    return sparse.csr_matrix(
        (rows.values.numpy(), rows.columns.numpy(), rows.indptr.numpy()),
        shape=(len(rows.indptr) - 1, num_columns),
    )


def by_columns(factor: Matrix) -> Matrix:
    """Columns [K, I] of a factor [I, K] whose rows are multiplied by each other.

    The work is bounded by the entries: columns with the most entries, which say least about those
    that share them, are left out as long as there would be more than `PRODUCTS_PER_ENTRY` products
    for each entry.
    """
    by_column = factor.T.tocsr()
    lengths = np.diff(by_column.indptr).astype(np.int64)
    order = np.argsort(lengths, kind="stable")
    within = np.cumsum(lengths[order] ** 2) <= PRODUCTS_PER_ENTRY * max(factor.nnz, 1)
    if not within.all():
        kept = np.zeros(len(lengths), dtype=np.float64)
        kept[order[within]] = 1
        by_column = scaled(by_column, kept, None)
        by_column.eliminate_zeros()
    return by_column


def walk_factors(
    clicks: Matrix,  # [U, I]
    alpha: float = 1.0,
    beta: float = 0.0,
) -> tuple[Matrix, Matrix]:
    """Factors [I, U] and [U, I] of P3alpha: steps from an item to its users, and on to their items.

    A step goes to any neighbour in the graph of clicks, with 1 over their number to the power
    `alpha`; what arrives at an item is divided by its clicks to the power `beta` (RP3beta).
    """
    counts = sums(clicks, 0)
    to_user = scaled(clicks, None, inverse(counts**alpha)).T.tocsr()
    to_item = scaled(clicks, inverse(sums(clicks, 1) ** alpha), inverse(counts**beta))
    return to_user, to_item


def products(
    factor: Matrix,  # [I, K]
    count: int,
) -> ops.SparseRows:
    """Strongest `count` entries in each row of factor factor^T [I, I], by `by_columns`."""
    by_column = by_columns(factor)
    left = rows_of(factor if by_column.nnz == factor.nnz else by_column.T.tocsr())
    return ops.strongest_products(left, rows_of(by_column), factor.shape[0], count)


def strongest(
    rows: ops.SparseRows,  # [I, I]
    count: int,
) -> ops.SparseRows:
    """Strongest `count` entries of each row."""
    n = len(rows.indptr) - 1
    if not n or int(rows.indptr.diff().max()) <= count:
        return rows
    identity = ops.SparseRows(
        torch.arange(n + 1), torch.arange(n, dtype=torch.int32), torch.ones(n)
    )
    return ops.strongest_products(rows, identity, n, count)


def row_means(rows: ops.SparseRows) -> Tensor:
    """Sum of each row over the number of rows, of a square matrix [I, I]; [I] float32."""
    n = len(rows.indptr) - 1
    return ops.sparse_product(rows, torch.full((n, 1), 1 / max(n, 1))).view(-1)
