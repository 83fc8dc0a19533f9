"""Sources of affinities, as the ops take them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.models.wide.matrices import matrix_of, row_means

__all__ = ["KEPT", "Source"]

KEPT = 1 << 23  # neighbours that all items keep together in an affinity, 64 MiB
MOSTLY_FULL = 0.25  # share of all entries from which on they are stored as a square


class Source(NamedTuple):
    """Source of affinities: rows of neighbours or users, all items by all, or vectors.

    Attributes:
        rows: of neighbours or users; None where `values` are of all items or vectors.
        values: [I, I] or [I, r]; those of `rows`.
        ends: of the columns of each affinity, which begin with the first.
        of_users: whether rows are of users.
    """

    rows: ops.SparseRows | None
    values: Tensor
    ends: tuple[int, ...] = (0,)
    of_users: bool = False

    @classmethod
    def of_rows(cls, rows: ops.SparseRows) -> Source:
        """Neighbours; where most items are, a square of all."""
        I = len(rows.indptr) - 1  # noqa: E741
        if I * I <= 2 * KEPT and len(rows.values) > MOSTLY_FULL * I * I:
            return cls(None, torch.from_numpy(matrix_of(rows, I).toarray()))
        return cls(rows, rows.values)

    @property
    def transposed(self) -> Tensor:
        """Vectors once more, [r, I]; nothing for other sources."""
        if self.ends == (0,):
            return self.values.new_zeros(0)
        return self.values.T.contiguous()

    def means(self, num_items: int) -> list[Tensor]:
        """Mean [I] over all items of their affinity to each, for every affinity of the source.

        0 for rows of users, which have means of their own.
        """
        if self.of_users and self.rows is not None:
            return [self.rows.values.new_zeros(num_items)]
        if self.rows is not None:
            return [row_means(self.rows)]
        if self.ends == (0,):
            return [self.values.mean(1)]
        mean = self.values.mean(0)
        return [self.values[:, :end] @ mean[:end] for end in self.ends]
