"""Folds for cross-fitting: every example's features are computed without its own fold's clicks.

Training examples are cut into F folds. User u and fold k make the *(user, fold) pair* u * F + k,
whose history is u's train positives outside fold k, and who owns u's examples of fold k; ripple
sets, counts and all other features are built from such histories. The ripple sets of a user's F
pairs may be one set, in which each slot knows the folds that see it. Validation, test and serving
use all train positives: their own click is in no history anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast.sampling.examples import UserExamples
from ekpnet_fast.sampling.histories import Histories, fold_histories, fold_of, histories_of


@dataclass(frozen=True)
class Folds:
    """Examples by (user, fold) pair.

    Attributes:
        count: F.
        histories: [U * F] of the (user, fold) pairs.
        clicks: [U], the train positives of the users.
        click_folds: int32, fold of each item of `clicks`.
        rows: the examples by (user, fold) pair; those of a pair without history are left out, as
            the protocol leaves out users without one.
        kept: [N] int64, position of each of them in the examples that were cut.
    """

    count: int
    histories: Histories
    clicks: Histories
    click_folds: Tensor
    rows: UserExamples
    kept: Tensor

    @classmethod
    def cut(cls, rows: UserExamples, count: int, seed: int) -> Folds:
        """Cut examples into folds by a hash of (seed, user, item); see `histories.fold_of`."""
        num_users = len(rows.indptr) - 1
        users = np.repeat(np.arange(num_users, dtype=np.int64), rows.indptr.diff().numpy())
        items, clicked = rows.items.numpy(), rows.labels.numpy() == 1
        folds = fold_of(users, items, count, seed)
        histories = fold_histories(users[clicked], items[clicked], folds[clicked], num_users, count)
        clicks = histories_of(users[clicked], items[clicked], num_users)
        clickers = np.repeat(np.arange(num_users, dtype=np.int64), clicks.indptr.diff().numpy())
        click_folds = fold_of(clickers, clicks.items.numpy(), count, seed).astype(np.int32)
        owners = users * count + folds
        order = np.argsort(owners, kind="stable")
        order = order[histories.indptr.diff().numpy()[owners[order]] > 0]
        indptr = np.zeros(num_users * count + 1, dtype=np.int64)
        np.cumsum(np.bincount(owners[order], minlength=num_users * count), out=indptr[1:])
        kept = torch.from_numpy(order)
        by_owner = replace(
            rows,
            indptr=torch.from_numpy(indptr),
            items=rows.items[kept],
            labels=rows.labels[kept],
            order=rows.order[kept],
        )
        return cls(count, histories, clicks, torch.from_numpy(click_folds), by_owner, kept)

    @property
    def row_owners(self) -> Tensor:
        """(user, fold) pair [N] int32 of each row."""
        owners = torch.arange(len(self.histories), dtype=torch.int32)
        return torch.repeat_interleave(owners, self.rows.indptr.diff())
