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
from ekpnet_fast.sampling.histories import Histories

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
        hard_share: probability that a negative is a nominee of its user, all of which are alike,
            where there are some.
        nominees: [U], items that are in no train part of their user; with `hard_share` above 0.

    Attributes:
        rows: a positive and `count` negatives per train positive; a negative holds its positive's
            item until drawn.
        chances: [I] float64, probability of each item where a negative is no nominee.

    Raises:
        TrainingError: a user has every item in train; names how many do.
    """

    def __init__(
        self,
        prepared: PreparedData,
        seed: int,
        count: int = 1,
        *,
        by_popularity: bool = False,
        hard_share: float = 0.0,
        nominees: Histories | None = None,
    ) -> None:
        positives, dataset = prepared.train, prepared.dataset
        self.seed = seed
        self.num_items = dataset.num_items
        clicks = np.ones(self.num_items)
        if by_popularity:
            clicks += np.bincount(positives.items, minlength=self.num_items)
        self.chances = clicks / clicks.sum()
        self._corrections = torch.from_numpy((-np.log(self.chances)).astype(np.float32))
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
        lengths = self.rows.indptr.diff().numpy()
        self._owners = np.repeat(users, lengths // (1 + count) * count)
        self._row_owners = np.repeat(users.astype(np.int32), lengths)
        self.hard_share, self._nominees, self._nominated = 0.0, nominees, np.empty(0, np.int64)
        if nominees is not None:
            self.hard_share = hard_share
            owners = np.repeat(users, nominees.indptr.diff().numpy())
            self._nominated = owners * self.num_items + nominees.items.numpy()
        full = int(np.count_nonzero(self._count == self.num_items))
        if full:
            raise TrainingError(
                f"{dataset.name}: {full} users have all {self.num_items} items in train,"
                " expected some left to draw negatives from"
            )

    def __call__(self, epoch: int) -> Tensor:
        """Items [N] int32 of `rows` in an epoch."""
        return self._placed(self._hard(epoch, self._plain(epoch)))

    def plain(self, epoch: int) -> Tensor:
        """Items [N] int32 of `rows` in an epoch if no nominee were drawn."""
        return self._placed(self._plain(epoch))

    def corrections(
        self,
        items: Tensor,  # [n] int32
        rows: Tensor,  # [n] int64, positions in `rows`
    ) -> Tensor:
        """Minus the logarithm [n] float32 of the probability that a draw takes each item.

        0 for positives.
        """
        if self._nominees is None:
            of_items = self._corrections.index_select(0, items)
            return of_items.mul_(self.rows.labels.index_select(0, rows) == 0)
        negative = (self.rows.labels[rows] == 0).numpy()
        drawn, found = items.numpy()[negative], np.zeros(len(items), dtype=np.float32)
        owners = self._row_owners[rows.numpy()[negative]].astype(np.int64)
        counts = self._nominees.indptr.diff().numpy()[owners]
        hard = is_in_sorted(owners * self.num_items + drawn, self._nominated)
        chances = self.chances[drawn]
        mixed = (1 - self.hard_share) * chances + self.hard_share * hard / np.maximum(counts, 1)
        found[negative] = -np.log(np.where(counts > 0, mixed, chances))
        return torch.from_numpy(found)

    def _placed(self, drawn: Int64) -> Tensor:
        items = self.rows.items.clone()
        items[self._negative] = torch.from_numpy(drawn.astype(np.int32))
        return items

    def _plain(self, epoch: int) -> Int64:
        return self._uniform(epoch) if self._below is None else self._by_popularity(epoch)

    def _hard(self, epoch: int, drawn: Int64) -> Int64:
        """Put nominees in the place of their share of what was drawn [n]."""
        if self._nominees is None:
            return drawn
        indptr = self._nominees.indptr.numpy()
        # Below the share it is hard, and then the same fraction, stretched, says which nominee.
        fraction = self._fractions(epoch, ROUNDS + 1)
        counts = np.diff(indptr)[self._owners]
        hard = np.flatnonzero((fraction < self.hard_share) & (counts > 0))
        places = (fraction[hard] / self.hard_share * counts[hard]).astype(np.int64)
        at = indptr[self._owners[hard]] + np.minimum(places, counts[hard] - 1)
        drawn[hard] = self._nominees.items.numpy()[at]
        return drawn

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
