"""Ranking of the whole catalogue for every user, a block of users at a time.

The scores of n users for I items do not fit memory on large data, so a model scores as many users
as fit a bound, their K best items are taken, and the scores are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.data.popularity import popularity
from ekpnet_fast.data.streams import RANKED, drawn_order, random_stream
from ekpnet_fast.data.tables import Examples, Int32, PreparedData
from ekpnet_fast.errors import ConfigError, DataError, TrainingError
from ekpnet_fast.evaluation.lists import bootstrap_intervals, list_metrics
from ekpnet_fast.evaluation.metrics import (
    DEFAULT_KS,
    TOPK_NAMES,
    averages,
    check_ks,
    topk_metrics,
    topk_values,
)
from ekpnet_fast.evaluation.shares import all_shares, share_of
from ekpnet_fast.native.processes import ALONE, Processes
from ekpnet_fast.ops.threads import share
from ekpnet_fast.sampling.histories import distinct_keys

__all__ = [
    "RankingTask",
    "SameScores",
    "Score",
    "ScoresBest",
    "evaluate_ranking",
    "popularity_scores",
    "rank_all",
    "ranking_task",
    "report_ranking",
]

Int64 = NDArray[np.int64]

# A block has at most so many bytes, or scores of so many users. Of larger ones there would be few
# to share, and the memory of one would not be used again by the next, but mapped anew page by page.
BLOCK_BYTES, BLOCK_USERS = 1 << 22, 32

# Bytes that ranking takes for each place of a list, and for each consumed item, where all users
# have the same scores.
LIST_BYTES, CONSUMED_BYTES = 8, 64
MOST_ON_GPU = 4096  # K that `ops.top_items` takes there

Score = Callable[[Int32], Tensor]
"""Scores [b, I] float32 of all items for users [b] int32, on any device."""


@runtime_checkable
class ScoresBest(Protocol):
    """Score that need not score items that cannot be among the best."""

    def best(self, users: Int32, seen_indptr: Tensor, seen: Tensor, k: int) -> Tensor:
        """Scores [b, I] as a `Score` gives them, but -infinity for items that are not wanted.

        Wanted are the `k` best of each user that are not among `seen` [seen_indptr[-1]].
        """
        ...


@dataclass(frozen=True, eq=False)
class SameScores:
    """Score of which all users have the same, by which they are ranked at once."""

    row: Tensor  # [I] float32

    def __call__(self, users: Int32) -> Tensor:
        """Scores [b, I]."""
        return self.row.expand(len(users), -1)


@dataclass(frozen=True, slots=True, eq=False)
class RankingTask:
    """Users to rank for, their consumed items, and their relevant items."""

    users: Int32  # [n], rising, distinct
    consumed_indptr: Int64  # [n + 1]
    consumed_items: Int32  # [consumed_indptr[-1]], sorted and distinct within a user
    relevant_indptr: Int64  # [n + 1]
    relevant_items: Int32  # [relevant_indptr[-1]], sorted and distinct within a user


@torch.no_grad()
def rank_all(
    score: Score | ScoresBest,
    users: NDArray[np.integer],
    num_items: int,
    consumed_indptr: NDArray[np.integer],
    consumed_items: NDArray[np.integer],
    k: int,
    memory_mb: float = 256,
    threads: int = 1,
) -> Int32:
    """K best items of each user among items 0..num_items-1 without those consumed.

    Order is by falling score, ties by rising item id. The result does not depend on the memory
    bound if `score` gives a user the same scores in any block.

    Args:
        score: gives the scores [b, I] of a block of users, or of those that can be among its
            best; runs without autograd.
        users: [n] user ids, in the order wanted, repeats allowed.
        num_items: I.
        consumed_indptr: [n + 1], items that are left out for `users[i]`: row i, not row `users[i]`.
        consumed_items: [consumed_indptr[-1]] item ids, sorted within a user.
        k: length of the lists, which may exceed I.
        memory_mb: bound in MiB on the scores in memory, or on what lists are made of where all
            users have the same. What `score` needs to compute them, and the result, come on top.
        threads: Python threads that rank a block each, at most, if `score` may be called by several
            at a time.

    Returns:
        [n, K] int32 item ids; -1 fills up where fewer than K items are left.

    Raises:
        ConfigError: `k` below 1, or a bound too small for the scores of one user.
        DataError: a table of consumed items that does not fit, or scores of a wrong shape.
        TrainingError: scores that are NaN.
    """
    if k < 1:
        raise ConfigError(f"k: found {k}, expected a list length from 1")
    if num_items < 1:
        raise DataError(f"num_items: found {num_items}, expected at least 1")
    user_bytes = num_items * torch.float32.itemsize
    fit = int(memory_mb * 2**20 // user_bytes)
    if fit < 1:
        raise ConfigError(
            f"memory_mb: found {memory_mb}, expected at least {user_bytes / 2**20:.3g}"
            f" for one user's scores of {num_items} items"
        )
    _check_consumed(consumed_indptr, consumed_items, len(users), num_items)
    if isinstance(score, SameScores):
        return _rank_alike(score.row, num_items, consumed_indptr, consumed_items, k, memory_mb)
    # Blocks are the same at any number of threads, because bits of scores may depend on them.
    step = min(fit, max(BLOCK_BYTES // user_bytes, BLOCK_USERS))
    ids: Int32 = users.astype(np.int32)
    ranked = np.empty((len(users), k), dtype=np.int32)

    def rank(number: int) -> None:
        begin = number * step
        block = ids[begin : begin + step]
        # Copies, because torch warns about arrays that cannot be written, such as mapped files.
        indptr = np.array(consumed_indptr[begin : begin + len(block) + 1], dtype=np.int64)
        seen = np.array(consumed_items[indptr[0] : indptr[-1]], dtype=np.int32)
        indptr -= indptr[0]
        ends, left_out = torch.from_numpy(indptr), torch.from_numpy(seen)
        if isinstance(score, ScoresBest):
            found = score.best(block, ends, left_out, k)
        else:
            found = score(block)
        scores = _checked(found, len(block), num_items)
        if k > MOST_ON_GPU:
            scores = scores.cpu()
        device = scores.device
        top = ops.top_items(scores, ends.to(device), left_out.to(device), k)
        ranked[begin : begin + len(block)] = top.cpu().numpy()

    count = -(-len(users) // step)
    if count:
        rank(0)  # alone, because `score` may learn from the first users how to go on
    share(lambda number: rank(number + 1), count - 1, min(threads, fit // step))
    return ranked


def _rank_alike(
    row: Tensor,  # [I]
    num_items: int,
    consumed_indptr: NDArray[np.integer],
    consumed_items: NDArray[np.integer],
    k: int,
    memory_mb: float,
) -> Int32:
    """Lists of `rank_all` by scores that all users share."""
    num_users = len(consumed_indptr) - 1
    scores = _checked(row.unsqueeze(0), 1, num_items)[0].cpu().numpy()
    # Places beyond the last item are those of no item.
    order = np.append(np.argsort(-scores, kind="stable"), -1).astype(np.int32)
    places = np.empty(num_items, dtype=np.int64)
    places[order[:-1]] = np.arange(num_items)
    ranked = np.empty((num_users, k), dtype=np.int32)

    def rank(first: int, last: int) -> None:
        indptr = consumed_indptr[first : last + 1].astype(np.int64)
        lengths = np.diff(indptr)
        owners = np.repeat(np.arange(len(lengths)), lengths)
        at = places[consumed_items[indptr[0] : indptr[-1]]]
        near = at < k + lengths[owners]  # others are behind every list
        keys = owners[near] * num_items + at[near]
        users, at = np.divmod(distinct_keys(keys), num_items)
        # The first place of a list that an item which is left out moves on by one.
        moved = at - np.arange(len(at)) + np.searchsorted(users, np.arange(len(lengths)))[users]
        within = moved < k
        counts = np.bincount(users[within] * k + moved[within], minlength=len(lengths) * k)
        found = counts.reshape(-1, k)
        found.cumsum(axis=1, out=found)
        found += np.arange(k)
        order.take(found, out=ranked[first:last], mode="clip")

    needed = consumed_indptr.astype(np.int64) * CONSUMED_BYTES
    needed += np.arange(num_users + 1) * (k * LIST_BYTES)
    room, last = min(memory_mb * 2**20, BLOCK_BYTES), 0
    while last < num_users:
        first = last
        fit = int(np.searchsorted(needed, needed[first] + room, side="right")) - 1
        last = max(first + 1, fit)
        rank(first, last)
    return ranked


def evaluate_ranking(
    score: Score | ScoresBest,
    prepared: PreparedData,
    ks: Sequence[int] = DEFAULT_KS,
    memory_mb: float = 256,
    split: Literal["valid", "test"] = "test",
    together: Processes = ALONE,
    users: int | None = None,
    threads: int = 1,
) -> dict[int, dict[str, float]]:
    """Top-K metrics over full ranking, averaged over users with a positive in the split.

    Args:
        score: gives the scores [b, I] of a block of users.
        prepared: the source of users, consumed and relevant items, see `ranking_task`.
        ks: values of K; one that exceeds I is fine.
        memory_mb: bound in MiB on the scores in memory, see `rank_all`.
        split: whose positives are relevant.
        together: the processes that rank, each for a share of the users.
        users: to rank for, see `ranking_task`.
        threads: see `rank_all`.

    Returns:
        `{K: {"precision", "recall", "f1", "ndcg", "hit", "mrr", "map"}}` of `topk_metrics`; NaN if
        no user has a positive there.

    Raises:
        ConfigError, DataError, TrainingError: as `rank_all` and `topk_metrics`.
    """
    check_ks(ks)
    task = ranking_task(prepared, split, users)
    ranked = _rank(score, prepared, task, max(ks), memory_mb, together, threads)
    return topk_metrics(ranked, task.relevant_indptr, task.relevant_items, ks)


def report_ranking(
    score: Score | ScoresBest,
    prepared: PreparedData,
    ks: Sequence[int] = DEFAULT_KS,
    memory_mb: float = 256,
    together: Processes = ALONE,
    users: int | None = None,
    threads: int = 1,
) -> dict[int, dict[str, float]]:
    """Top-K metrics on test, how sure they are, and what the lists are like.

    Args:
        score: gives the scores [b, I] of a block of users.
        prepared: the source of users, consumed and relevant items, see `ranking_task`.
        ks: values of K; one that exceeds I is fine.
        memory_mb: bound in MiB on the scores in memory, see `rank_all`.
        together: the processes that rank, each for a share of the users.
        users: to rank for, see `ranking_task`.
        threads: see `rank_all`.

    Returns:
        By K what `evaluate_ranking` gives, averages over users, "coverage", "gini" and "novelty" of
        `list_metrics`, which are none, and for each average, such as "recall", "recall_low" and
        "recall_high", the interval in which it is with 95 % confidence (`bootstrap_intervals`).

    Raises:
        ConfigError, DataError, TrainingError: as `rank_all` and `topk_metrics`.
    """
    check_ks(ks)
    task = ranking_task(prepared, users=users)
    ranked = _rank(score, prepared, task, max(ks), memory_mb, together, threads)
    values = topk_values(ranked, task.relevant_indptr, task.relevant_items, ks)
    found = averages(values, ks)
    num_items = prepared.dataset.num_items
    clicks = popularity(prepared.history_items, num_items)
    known = int(np.count_nonzero(np.diff(prepared.history_indptr)))
    intervals = bootstrap_intervals(values, prepared.seed)
    for k, of_metrics in zip(ks, intervals.tolist(), strict=True):
        found[k] |= list_metrics(ranked[:, :k], clicks, known)
        for name, (low, high) in zip(TOPK_NAMES, of_metrics, strict=True):
            found[k] |= {f"{name}_low": low, f"{name}_high": high}
    return found


def _rank(
    score: Score | ScoresBest,
    prepared: PreparedData,
    task: RankingTask,
    k: int,
    memory_mb: float,
    together: Processes,
    threads: int,
) -> Int32:
    """Lists [n, K] of a task's users."""
    users, size = len(task.users), together.size
    each = np.arange(users + 1, dtype=np.int64)  # a user costs what another one does
    shares = [share_of(each, rank, size) for rank in range(size)]
    mine = shares[together.rank]
    indptr = task.consumed_indptr[mine.start : mine.stop + 1]
    ranked = rank_all(
        score,
        task.users[mine],
        prepared.dataset.num_items,
        indptr - indptr[0],
        task.consumed_items[indptr[0] : indptr[-1]],
        k,
        memory_mb,
        threads,
    )
    counts = [share.stop - share.start for share in shares]
    found: Int32 = all_shares(torch.from_numpy(ranked), counts, together).numpy()
    return found


def ranking_task(
    prepared: PreparedData, split: Literal["valid", "test"] = "test", users: int | None = None
) -> RankingTask:
    """Protocol of full ranking on test, or on validation.

    Users are those with a positive in the split, candidates all items but the user's positives in
    the splits before it, relevant items the positives in the split. A positive that a file repeats
    in several splits is consumed, hence no candidate, hence not relevant: no model could find it.

    Args:
        prepared: the split data.
        split: whose positives are relevant.
        users: number of them that are drawn by the data's seed; all if it is None or not smaller.
    """
    num_items = prepared.dataset.num_items
    before = (prepared.train, prepared.valid) if split == "test" else (prepared.train,)
    sought = prepared.test if split == "test" else prepared.valid
    seen = distinct_keys(np.concatenate([_positive_keys(part, num_items) for part in before]))
    wanted = distinct_keys(_positive_keys(sought, num_items))
    relevant = wanted[~np.isin(wanted, seen, assume_unique=True, kind="sort")]
    ids = distinct_keys(relevant // num_items)
    if users is not None and users < len(ids):
        stream = random_stream(prepared.seed, RANKED)
        order = drawn_order(stream, len(ids))
        ids = ids[np.sort(order[:users])]
    return RankingTask(
        ids.astype(np.int32),
        *_csr(seen, ids, num_items),
        *_csr(relevant, ids, num_items),
    )


def popularity_scores(prepared: PreparedData) -> SameScores:
    """Popularity: every user's score of an item is its train positives."""
    counts = popularity(prepared.history_items, prepared.dataset.num_items)
    return SameScores(torch.from_numpy(counts.astype(np.float32)))


def _positive_keys(rows: Examples, num_items: int) -> Int64:
    """Keys user * I + item of the positives; they sort by user, then item."""
    positive = rows.labels == 1
    keys: Int64 = rows.users[positive].astype(np.int64) * num_items + rows.items[positive]
    return keys


def _csr(keys: Int64, users: Int64, num_items: int) -> tuple[Int64, Int32]:
    """Items of `users` [n] (rising) from sorted keys: indptr [n + 1] and items."""
    owners = keys // num_items
    kept = np.isin(owners, users)
    indptr = np.zeros(len(users) + 1, dtype=np.int64)
    indptr[1:] = np.searchsorted(owners[kept], users, side="right")
    return indptr, (keys - owners * num_items)[kept].astype(np.int32)


def _check_consumed(
    indptr: NDArray[np.integer], items: NDArray[np.integer], num_users: int, num_items: int
) -> None:
    """Check order and range, because an item out of order would be recommended again."""
    if (
        len(indptr) != num_users + 1
        or indptr[0] != 0
        or indptr[-1] != len(items)
        or (np.diff(indptr) < 0).any()
    ):
        raise DataError(
            f"consumed_indptr: found {len(indptr)} entries for {num_users} users and"
            f" {len(items)} seen items, expected {num_users + 1} that rise from 0 to {len(items)}"
        )
    if not len(items):
        return
    if items.min() < 0 or items.max() >= num_items:
        found = items.min() if items.min() < 0 else items.max()
        raise DataError(f"consumed_items: found {found}, expected ids from 0 to {num_items - 1}")
    falls = np.flatnonzero(items[1:] < items[:-1]) + 1
    if not np.isin(falls, indptr).all():
        raise DataError(
            "consumed_items: found ids out of order, expected them sorted within a user"
        )


def _checked(scores: Tensor, num_users: int, num_items: int) -> Tensor:
    if tuple(scores.shape) != (num_users, num_items):
        raise DataError(
            f"score: found scores of shape {tuple(scores.shape)}, expected {(num_users, num_items)}"
        )
    # The maximum carries a NaN along, and needs no second array of the block's size.
    bad = int(scores.amax(dim=1).isnan().sum())
    if bad:
        raise TrainingError(f"score: found NaN for {bad} of {num_users} users")
    return scores.detach().float().contiguous()
