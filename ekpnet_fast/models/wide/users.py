"""Users near a history: those whose clicks are the most like it."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.models.wide.matrices import Matrix, inverse, matrix_of, rows_of, scaled, sums
from ekpnet_fast.sampling.histories import Histories

__all__ = ["NEAR_USERS", "UserNeighbours"]

NEAR_USERS = 1000  # of a history, unless another number is asked for


class UserNeighbours:
    """Users near a history h, and what they clicked: item i gets sum_v s_hv A_vi d_i^-c.

    A are the clicks, d_i those of item i, n_v those of user v. The similarity s_hv = n_v^-b times
    the sum of d_j^-a over the items j that both have; the sum is over the `count` most similar v.
    A user whose clicks are all in the history says nothing of other items and is none of them. So
    is the user whose history it is, and no click speaks for itself.

    Args:
        clicks: [U, I] A, ones.
        count: users near a history.
        history_power, user_power, item_power: a, b, c.

    Attributes:
        rows: [U, I], A_vi d_i^-c.
        means: [U] float32, mean over i of `rows`.
    """

    def __init__(
        self,
        clicks: Matrix,
        count: int = NEAR_USERS,
        history_power: float = 0.5,
        user_power: float = 0.5,
        item_power: float = 0.0,
    ) -> None:
        counts, lengths = sums(clicks, 0), sums(clicks, 1)
        self.count = count
        self.by_item = rows_of(
            scaled(clicks, inverse(lengths**user_power), inverse(counts**history_power)).T.tocsr()
        )
        self.rows = rows_of(scaled(clicks, None, inverse(counts**item_power)))
        self._full = torch.from_numpy(lengths.astype(np.int32))
        ones = torch.full((clicks.shape[1], 1), 1 / max(clicks.shape[1], 1))
        self.means = ops.sparse_product(self.rows, ones).view(-1)

    def of(self, histories: Histories) -> ops.SparseRows:
        """Similarities [G, U] of the users near some histories."""
        ones = torch.ones(len(histories.items))
        given = ops.SparseRows(histories.indptr, histories.items, ones)
        U = len(self._full)
        return ops.strongest_products(
            given, self.by_item, U, min(self.count, max(U, 1)), self._full
        )

    def scores(self, histories: Histories) -> NDArray[np.float32]:
        """Scores [G, I] of all items."""
        near = matrix_of(self.of(histories), len(self._full))
        return np.asarray((near @ self._rows).toarray(), dtype=np.float32)

    def shares(
        self,
        history: Tensor,  # [n] int32, distinct
        item: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Shares [n] of a history's items in the score of an item, and in the mean over all items.

        An item's share is what users near the history add by having it.
        """
        rising = Histories(torch.tensor([0, len(history)]), history.sort().values.int())
        users = self.of(rising).columns.numpy()
        of_items = self._by_item[history.numpy()][:, users]
        has = self._rows[users][:, [item]].toarray().ravel().astype(np.float64)
        return of_items @ has, of_items @ self.means.numpy()[users].astype(np.float64)

    def wider(self, num_items: int) -> UserNeighbours:
        """Copy for a catalogue with further items, which nobody has clicked."""
        other = copy.copy(self)
        indptr = self.by_item.indptr
        more = indptr[-1:].expand(num_items + 1 - len(indptr))
        other.by_item = self.by_item._replace(indptr=torch.cat([indptr, more]))
        return other

    @property
    def _by_item(self) -> Matrix:
        return matrix_of(self.by_item, len(self._full))

    @property
    def _rows(self) -> Matrix:
        return matrix_of(self.rows, len(self.by_item.indptr) - 1)
