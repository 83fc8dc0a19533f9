"""Training examples, by user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast.data import Examples
from ekpnet_fast.sampling.histories import Histories


@dataclass(frozen=True)
class UserExamples:
    """Examples grouped by user: those of user u are indptr[u] .. indptr[u + 1]."""

    indptr: Tensor  # [U + 1] int64
    items: Tensor  # [N] int32
    labels: Tensor  # [N] float32
    order: Tensor  # [N] int64, position of each example in the table it came from

    @classmethod
    def from_examples(cls, rows: Examples, num_users: int) -> UserExamples:
        """Group examples; within a user they keep their order."""
        order = np.argsort(rows.users, kind="stable")
        indptr = np.zeros(num_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows.users, minlength=num_users), out=indptr[1:])
        return cls(
            torch.from_numpy(indptr),
            torch.from_numpy(rows.items[order].astype(np.int32)),
            torch.from_numpy(rows.labels[order].astype(np.float32)),
            torch.from_numpy(order),
        )


@dataclass(frozen=True)
class TrainingExamples:
    """Training examples and histories, as a model may fit features to them before it is trained.

    Attributes:
        rows: the examples by user, or by (user, fold) pair where there are folds.
        histories: [U], or [U * folds] of the (user, fold) pairs.
        folds: F.
        redraw: gives the items [N] of `rows` in an epoch, where they differ by epoch.
        draws: epochs 1 to `draws` have items of their own, which those after them have again.
        plain: [N] int32, items of the first draw without hard negatives; None where there are none.
    """

    rows: UserExamples
    histories: Histories
    folds: int = 1
    redraw: Callable[[int], Tensor] | None = None
    draws: int = 1
    plain: Tensor | None = None

    @property
    def items_by_draw(self) -> Tensor:
        """Items [N, draws] int32 of the epochs' draws."""
        if self.redraw is None:
            return self.rows.items.unsqueeze(1)
        return torch.stack([self.redraw(epoch) for epoch in range(1, self.draws + 1)], 1)
