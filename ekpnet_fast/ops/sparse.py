"""Products of sparse matrices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, library

from ekpnet_fast.ops.torch_library import ekpnet

__all__ = ["SparseRows", "local_ridge", "sparse_product", "strongest_products"]


class SparseRows(NamedTuple):
    """Sparse matrix in compressed rows: row n holds entries indptr[n] to indptr[n + 1]."""

    indptr: Tensor  # [n + 1] int64
    columns: Tensor  # [indptr[-1]] int32
    values: Tensor  # [indptr[-1]] float32


def strongest_products(
    left: SparseRows,  # [n, K]
    right: SparseRows,  # [K, num_columns]
    num_columns: int,
    count: int,
    full: Tensor | None = None,  # [num_columns] int32
) -> SparseRows:
    """Strongest entries of left right [n, num_columns]: the `count` largest of each row at most.

    Of equal entries those of the lower columns are kept; columns rise within a row. A row's sums
    are made in the order of its entries, so the result does not depend on the threads. Memory is
    what is kept, and a row of the product for each thread.

    An entry that as many pairs of factors meet as `full` has for its column is left out before.
    """
    found = ekpnet.strongest_products.default(*left, *right, num_columns, count, full)
    return SparseRows(*found)


def sparse_product(
    left: SparseRows,  # [n, K]
    x: Tensor,  # [K, r] float32
) -> Tensor:
    """Product left x [n, r]; every entry is summed in the order of its row."""
    product: Tensor = ekpnet.sparse_product.default(*left, x)
    return product


def local_ridge(
    gram: SparseRows,  # [I, I], columns rising within a row
    indptr: Tensor,  # [I + 1] int64, neighbours of each item
    neighbours: Tensor,  # [indptr[-1]] int32, rising for an item, and not itself
    weight: float,
) -> Tensor:
    """Coefficients [indptr[-1]] of the ridge regression of each item i on its neighbours N.

    (G_NN + weight)^-1 G_Ni with the Gram matrix G of the items, whose missing entries are 0.
    """
    coefficients: Tensor = ekpnet.local_ridge.default(*gram, indptr, neighbours, weight)
    return coefficients


@library.register_fake("ekpnet::local_ridge")
def _(
    gram_indptr: Tensor,
    gram_items: Tensor,
    gram_values: Tensor,
    indptr: Tensor,
    neighbours: Tensor,
    weight: float,
) -> Tensor:
    return gram_values.new_empty(neighbours.size(0))


@library.register_fake("ekpnet::strongest_products")
def _(
    left_indptr: Tensor,
    left_columns: Tensor,
    left_values: Tensor,
    right_indptr: Tensor,
    right_columns: Tensor,
    right_values: Tensor,
    num_columns: int,
    count: int,
    full: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    kept = library.get_ctx().new_dynamic_size()
    return (
        torch.empty_like(left_indptr),
        left_columns.new_empty(kept),
        left_values.new_empty(kept),
    )


@library.register_fake("ekpnet::sparse_product")
def _(indptr: Tensor, columns: Tensor, values: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(indptr.size(0) - 1, x.size(1))
