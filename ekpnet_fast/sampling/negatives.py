"""Training examples whose negatives are drawn anew for each epoch (protocols that rank)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast.data import Examples, PreparedData
from ekpnet_fast.data.negatives import items_of_ranks
from ekpnet_fast.data.pair_keys import Int64, is_in_sorted
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.sampling.examples import UserExamples

__all__ = ["RedrawnNegatives"]

ROUNDS = 8  # of draws by popularity, until the items that a user has are drawn again no more


class RedrawnNegatives:
    """Negatives of each train positive, among the items that the user has not in train.

    As RecBole draws (`train_neg_sample_args`: uniform or popularity), validation and test positives
    may be drawn. The draw is Philox4x64 of (seed, epoch) at the example's position, so epochs can
    be drawn in any order, and every number of threads gives the same bits.

    Args:
        prepared: the split data.
        seed: of the draws.
        count: negatives of a positive.
        by_popularity: an item is drawn by its train clicks plus one, else all are alike.

    Attributes:
        rows: a positive and `count` negatives per train positive; a negative holds its positive's
            item until drawn.
        chances: [I] float64, probability of each item.

    Raises:
        TrainingError: a user has every item in train; names how many do.
    """

    def __init__(
        self, prepared: PreparedData, seed: int, count: int = 1, *, by_popularity: bool = False
    ) -> None:
        positives, dataset = prepared.train, prepared.dataset
        self.seed = seed
        self.num_items = dataset.num_items
        clicks = np.ones(self.num_items)
        if by_popularity:
            clicks += np.bincount(positives.items, minlength=self.num_items)
        self.chances = clicks / clicks.sum()
        self._below = np.cumsum(self.chances) if by_popularity else None
        repeated = Examples(
            np.tile(positives.users, 1 + count),
            np.tile(positives.items, 1 + count),
            np.repeat(np.array([1] + [0] * count, dtype=np.int8), len(positives)),
        )
        self.rows = UserExamples.from_examples(repeated, dataset.num_users)
        self._negative = torch.nonzero(self.rows.labels == 0).squeeze(1)
        self._count = np.diff(prepared.history_indptr)
        users = np.arange(dataset.num_users, dtype=np.int64)
        self._seen = np.repeat(users, self._count) * self.num_items + prepared.history_items
        self._owners = np.repeat(users, self.rows.indptr.diff().numpy() // (1 + count) * count)
        full = int(np.count_nonzero(self._count == self.num_items))
        if full:
            raise TrainingError(
                f"{dataset.name}: {full} users have all {self.num_items} items in train,"
                " expected some left to draw negatives from"
            )

    def __call__(self, epoch: int) -> Tensor:
        """Items [N] int32 of `rows` in an epoch."""
        drawn = self._uniform(epoch) if self._below is None else self._by_popularity(epoch)
        items = self.rows.items.clone()
        items[self._negative] = torch.from_numpy(drawn.astype(np.int32))
        return items

    def _fractions(self, epoch: int, draw: int) -> NDArray[np.float64]:
        """Fraction [n] below 1 of 53 bits for each negative."""
        key = np.array([self.seed, (draw << 32) + epoch], dtype=np.uint64)
        raw = np.random.Philox(key=key).random_raw(len(self._owners))
        fractions: NDArray[np.float64] = (raw >> np.uint64(11)) * 2.0**-53
        return fractions

    def _uniform(self, epoch: int) -> Int64:
        free = self.num_items - self._count[self._owners]
        ranks = (self._fractions(epoch, 0) * free).astype(np.int64)
        keys = self._owners * self.num_items + ranks
        return items_of_ranks(keys, self._seen, self._count, self.num_items)

    def _by_popularity(self, epoch: int) -> Int64:
        """Draw until no item is in the user's train part; after some rounds, the rest uniformly."""
        assert self._below is not None
        drawn, missing = self._uniform(epoch), np.arange(len(self._owners))
        for draw in range(1, ROUNDS + 1):
            at = self._fractions(epoch, draw)[missing]
            items = np.searchsorted(self._below, at * self._below[-1], side="right")
            free = ~is_in_sorted(self._owners[missing] * self.num_items + items, self._seen)
            drawn[missing[free]] = items[free]
            missing = missing[~free]
            if not len(missing):
                break
        return drawn
