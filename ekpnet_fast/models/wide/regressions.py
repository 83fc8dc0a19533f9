"""Regressions of items on other items: by clicks, and by clicks and graph at once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ekpnet_fast import ops
from ekpnet_fast.models.wide.matrices import (
    Matrix,
    by_columns,
    inverse,
    matrix_of,
    rows_of,
    scaled,
)

__all__ = ["regressions", "similar_items"]

# Items that each is regressed on, and clicks together that are known for all.
REGRESSED, GRAM = 200, 1 << 25


def similar_items(
    clicks: Matrix,  # [U, I]
    counts: NDArray[np.float64],  # [I] c
    count: int,
    *,
    turned: bool = False,
) -> ops.SparseRows:
    """Strongest similarities of items by clicks, s_ji = sum_u n_u^-0.5 / (c_j^0.5 c_i^0.3).

    Args:
        clicks: ones; or other rows below them, with what items share beside clicks.
        counts: of the items.
        count: kept of each row.
        turned: rows are those of i, columns those of j.
    """
    by_user = scaled(clicks, inverse(np.diff(clicks.indptr).astype(np.float64) ** 0.25), None)
    rows, columns = inverse(counts**0.5), inverse(counts**0.3)
    if turned:
        rows, columns = columns, rows
    left = scaled(by_user, None, rows).T.tocsr()
    return ops.strongest_products(
        rows_of(left), rows_of(scaled(by_user, None, columns)), clicks.shape[1], count
    )


def regressions(
    clicks: Matrix,  # [U, I]
    counts: NDArray[np.float64],  # [I]
    weight: float,
    match: Matrix | None = None,  # [I, K]
    share: float = 0.0,
) -> ops.SparseRows:
    """Coefficients [I, I] of the ridge regression of each item i on its neighbours j: row j.

    EASE^R (Steck, WWW 2019) with the coefficients of the `REGRESSED` most similar items alone.

    Args:
        clicks: ones.
        counts: of the items.
        weight: regularisation, in clicks.
        match: of the graph, rows of norm 1, whose columns stand below the clicks like further
            users, times the root of `share`.
        share: as many seem to have clicked both of two items of the same pairs.
    """
    from scipy import sparse

    I = clicks.shape[1]  # noqa: E741
    if match is not None:
        pairs = by_columns(match) * np.float32(share**0.5)
        clicks = sparse.vstack([clicks, pairs], format="csr")
        counts = np.maximum(counts, 1)  # what nobody clicked has its neighbours by the graph
    similar = similar_items(clicks, counts, REGRESSED + 1, turned=True)
    heads = torch.repeat_interleave(torch.arange(I), similar.indptr.diff())
    others = similar.columns != heads
    ends = torch.bincount(heads[others], minlength=I).cumsum(0)
    indptr, neighbours = torch.cat([ends.new_zeros(1), ends]), similar.columns[others].contiguous()
    most = min(I, max(GRAM // max(I, 1), REGRESSED))
    gram = ops.strongest_products(rows_of(clicks.T.tocsr()), rows_of(clicks), I, most)
    found = ops.local_ridge(gram, indptr, neighbours, weight)
    by_item = matrix_of(ops.SparseRows(indptr, neighbours, found), I).T.tocsr()
    by_item.sort_indices()
    return rows_of(by_item)
