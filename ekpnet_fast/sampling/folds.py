"""Cross-fitting: a training row sees what it would see if its own fold had not been clicked.

Train rows are cut into F folds. User u and fold k make the *virtual user* u * F + k, whose history
is u's train positives outside fold k, and who owns u's rows of fold k; ripple sets, counts and
whatever else a row is described by are built from such histories. Validation, test and serving see
all train positives: they are rows whose own click is in no history anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast.sampling.examples import UserExamples
from ekpnet_fast.sampling.histories import Histories, fold_of, virtual_histories


@dataclass(frozen=True)
class Folds:
    """Labelled rows by virtual user.

    Attributes:
        count: F.
        histories: [U * F] of the virtual users.
        rows: the rows by virtual user; those whose virtual user has no history are left out, as
            the protocol leaves out users without one.
        kept: [N] int64, where each of them stands in the rows that were cut.
    """

    count: int
    histories: Histories
    rows: UserExamples
    kept: Tensor

    @classmethod
    def cut(cls, rows: UserExamples, count: int, seed: int) -> Folds:
        """Cut rows into folds by a hash of (seed, user, item); see `histories.fold_of`."""
        num_users = len(rows.indptr) - 1
        users = np.repeat(np.arange(num_users, dtype=np.int64), rows.indptr.diff().numpy())
        items, clicked = rows.items.numpy(), rows.labels.numpy() == 1
        folds = fold_of(users, items, count, seed)
        histories = virtual_histories(
            users[clicked], items[clicked], folds[clicked], num_users, count
        )
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
        return cls(count, histories, by_owner, kept)
