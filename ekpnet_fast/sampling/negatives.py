"""Training examples whose negatives are drawn anew for each epoch (protocols that rank)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast.data import Examples, PreparedData
from ekpnet_fast.data.negatives import items_of_ranks
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.sampling.examples import UserExamples

__all__ = ["RedrawnNegatives"]


class RedrawnNegatives:
    """One negative per train positive: uniform over the items that the user has not in train.

    As RecBole draws (`train_neg_sample_args`: uniform, 1), validation and test positives may be
    drawn. The draw is Philox4x64 of (seed, epoch) at the example's position, so epochs can be drawn
    in any order, and every number of threads gives the same bits.

    Attributes:
        rows: two examples per train positive; a negative holds its positive's item until drawn.

    Raises:
        TrainingError: a user has every item in train; names how many do.
    """

    def __init__(self, prepared: PreparedData, seed: int) -> None:
        positives, dataset = prepared.train, prepared.dataset
        self.seed = seed
        self.num_items = dataset.num_items
        doubled = Examples(
            np.tile(positives.users, 2),
            np.tile(positives.items, 2),
            np.repeat(np.array([1, 0], dtype=np.int8), len(positives)),
        )
        self.rows = UserExamples.from_examples(doubled, dataset.num_users)
        self._negative = torch.nonzero(self.rows.labels == 0).squeeze(1)
        self._count = np.diff(prepared.history_indptr)
        users = np.arange(dataset.num_users, dtype=np.int64)
        self._seen = np.repeat(users, self._count) * self.num_items + prepared.history_items
        self._owners = np.repeat(users, self.rows.indptr.diff().numpy() // 2)
        full = int(np.count_nonzero(self._count == self.num_items))
        if full:
            raise TrainingError(
                f"{dataset.name}: {full} users have all {self.num_items} items in train,"
                " expected some left to draw negatives from"
            )

    def __call__(self, epoch: int) -> Tensor:
        """Items [N] int32 of `rows` in an epoch."""
        key = np.array([self.seed, epoch], dtype=np.uint64)
        raw = np.random.Philox(key=key).random_raw(len(self._owners))
        free = self.num_items - self._count[self._owners]
        # 53 bits of each draw, as a fraction of the user's free items.
        ranks = ((raw >> np.uint64(11)) * 2.0**-53 * free).astype(np.int64)
        keys = self._owners * self.num_items + ranks
        drawn = items_of_ranks(keys, self._seen, self._count, self.num_items)
        items = self.rows.items.clone()
        items[self._negative] = torch.from_numpy(drawn.astype(np.int32))
        return items
