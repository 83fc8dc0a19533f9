"""Metrics of click prediction and of top-K lists: AUC, ACC, GAUC, Precision, Recall, NDCG.

A label of 1 is a positive, every other value a negative. Sums over examples and users run in a
fixed order in int64 or float64, so equal input gives equal output to the last bit. A metric that
its input leaves undefined, such as the AUC of one class, is NaN rather than an error, because a
small slice of the examples may well hold one class only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.popularity import best_threshold, checked_positives, popularity
from ekpnet_fast.data.tables import Examples, PreparedData
from ekpnet_fast.errors import ConfigError, DataError

DEFAULT_KS = (1, 2, 5, 10, 20, 50, 100)
"""Lengths of the lists in Figures 4-6 of the paper."""

TOPK_NAMES = ("precision", "recall", "f1", "ndcg", "hit", "mrr", "map")
_TOPK_BLOCK = 1 << 20  # list entries looked up at a time: about 20 MB of temporary arrays

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


# ---- click prediction --------------------------------------------------------------------------


def auc(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative.

        AUC = sum over pairs of (positive, negative) of [s+ > s-] + [s+ = s-] / 2, over P N

    The Mann-Whitney U statistic (Hanley & McNeil 1982). Pairs are counted in whole numbers, so the
    result is the fraction correctly rounded.

    Args:
        labels: [n], 1 = positive.
        scores: [n], any real dtype; only their order counts.

    Returns:
        0 to 1; NaN where one of the two classes is absent.

    Raises:
        DataError: columns of different length.
        TrainingError: scores that are NaN; says how many.
    """
    positive = checked_positives(labels, scores)
    return _auc(positive, scores)


def accuracy(labels: NDArray[Any], probabilities: NDArray[Any], threshold: float = 0.5) -> float:
    """Share of examples where [probability >= threshold] is the label (ACC of the paper).

    Args:
        labels: [n], 1 = positive.
        probabilities: [n], or logits with a threshold of 0.
        threshold: from here on an example is called positive.

    Returns:
        0 to 1; NaN without examples.

    Raises:
        DataError: columns of different length.
        TrainingError: probabilities that are NaN; says how many.
    """
    positive = checked_positives(labels, probabilities)
    return _accuracy(positive, probabilities, threshold)


def gauc(users: NDArray[Any], labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """AUC within each user, averaged over the users with both labels, weighted by their examples.

        GAUC = sum_u n_u AUC_u / sum_u n_u

    Scores of different users are never compared, so knowing which users click much does not help
    (Zhu et al. 2017, Optimized Cost per Click; weighted as in Zhou et al. 2018, Deep Interest
    Network).

    Args:
        users: [n] whole numbers, the user of each example, in any order.
        labels: [n], 1 = positive.
        scores: [n], any real dtype.

    Returns:
        0 to 1; NaN where no user has both labels.

    Raises:
        DataError: columns of different length.
        TrainingError: scores that are NaN; says how many.
    """
    positive = checked_positives(labels, scores)
    if len(users) != len(scores):
        raise DataError(f"users: found {len(users)} for {len(scores)} scores, expected as many")
    return _gauc(users, positive, scores)


def warm_mask(items: NDArray[Any], train_items_of_positives: NDArray[Any], num_items: int) -> Bool:
    """Mask [n] of the examples of warm items, which have a positive in train.

    Args:
        items: [n] item of each example.
        train_items_of_positives: [p] item of each train positive.
        num_items: I.

    Raises:
        DataError: a train item that is not below `num_items`.
    """
    mask: Bool = popularity(train_items_of_positives, num_items)[items] > 0
    return mask


def auc_warm(labels: NDArray[Any], scores: NDArray[Any], seen: Bool) -> float:
    """AUC over the examples of warm items, which have a positive in train ("AUC warm").

    Every item of the catalogue has a positive in one of the splits. An item without one in train
    must therefore have it in validation or test, and a model that notices is rewarded for an
    artefact of the split; on the examples kept here there is nothing to notice.

    Args:
        labels: [n], 1 = positive.
        scores: [n], any real dtype.
        seen: [n], of `warm_mask`.

    Raises:
        DataError: columns of different length.
        TrainingError: scores that are NaN, on any example; says how many.
    """
    positive = checked_positives(labels, scores)
    if len(seen) != len(scores):
        raise DataError(f"seen: found {len(seen)} for {len(scores)} scores, expected as many")
    return _auc(positive[seen], scores[seen])


@dataclass(frozen=True, slots=True)
class ClickMetrics:
    """Metrics of click prediction on one split; `auc_warm` is "AUC warm". NaN where undefined."""

    auc: float
    acc: float
    auc_warm: float
    gauc: float


def click_metrics(
    rows: Examples, logits: NDArray[Any], prepared: PreparedData, threshold: float = 0.0
) -> ClickMetrics:
    """All metrics of click prediction.

    Args:
        rows: the examples, such as `prepared.test`.
        logits: [n] score per example.
        prepared: says which items are warm.
        threshold: from this logit on an example is called positive; 0 is a probability of 0.5.

    Raises:
        DataError: `logits` and `rows` of different length.
        TrainingError: logits that are NaN; says how many.
    """
    positive = checked_positives(rows.labels, logits)
    seen = warm_mask(rows.items, prepared.history_items, prepared.dataset.num_items)
    return ClickMetrics(
        auc=_auc(positive, logits),
        acc=_accuracy(positive, logits, threshold),
        auc_warm=_auc(positive[seen], logits[seen]),
        gauc=_gauc(rows.users, positive, logits),
    )


def popularity_click_metrics(rows: Examples, prepared: PreparedData) -> ClickMetrics:
    """Metrics of popularity: each example's score is its item's count of train positives.

    A count is no probability, so ACC takes the count from which on validation accuracy is highest
    (`best_threshold`).
    """
    counts = popularity(prepared.history_items, prepared.dataset.num_items)
    valid = prepared.valid
    threshold = best_threshold(valid.labels, counts[valid.items])
    return click_metrics(rows, counts[rows.items], prepared, threshold)


# ---- top-K lists -------------------------------------------------------------------------------


def topk_metrics(
    ranked: NDArray[Any],
    relevant_indptr: Int64,
    relevant_items: NDArray[Any],
    ks: Sequence[int] = DEFAULT_KS,
) -> dict[int, dict[str, float]]:
    """Metrics of the first K entries of each user's list, averaged over users (`topk_values`).

    Args:
        ranked: [n, K] item ids by falling score, distinct within a row, -1 where the list ended.
        relevant_indptr: [n + 1] int64, relevant items of list u.
        relevant_items: [relevant_indptr[-1]] item ids, distinct within a user, in any order.
        ks: values of K, none above the width of `ranked`.

    Returns:
        `{K: {"precision": ..., "recall": ..., "f1": ..., "ndcg": ..., "hit": ..., "mrr": ...,
        "map": ...}}`, in the order of `ks`; NaN if no user has a relevant item.

    Raises:
        ConfigError: no K at all, or one that is not from 1 to the width of `ranked`.
        DataError: a table that does not fit the number of lists.
    """
    return averages(topk_values(ranked, relevant_indptr, relevant_items, ks), ks)


def averages(values: NDArray[np.float64], ks: Sequence[int]) -> dict[int, dict[str, float]]:
    """Averages over users of `topk_values`, by K and by the name of the metric."""
    means = values.mean(axis=2) if values.shape[2] else np.full(values.shape[:2], np.nan)
    return {
        int(k): dict(zip(TOPK_NAMES, row, strict=True))
        for k, row in zip(ks, means.tolist(), strict=True)
    }


def topk_values(
    ranked: NDArray[Any],
    relevant_indptr: Int64,
    relevant_items: NDArray[Any],
    ks: Sequence[int] = DEFAULT_KS,
) -> NDArray[np.float64]:
    """Metrics of the first K entries of the list of each user with a relevant item.

    With rel(j) = 1 where the item at position j (from 1) is relevant, hits = sum_{j<=K} rel(j)
    and r the number of the user's relevant items:

        precision = hits / K
        recall    = hits / r
        f1        = 2 precision recall / (precision + recall) = 2 hits / (K + r)
        ndcg      = sum_{j<=K} rel(j) / log2(j + 1)  /  sum_{j<=min(K, r)} 1 / log2(j + 1)
        hit       = [hits > 0]
        mrr       = 1 / (position of the first hit), 0 without one
        map       = sum_{j<=K} rel(j) precision at j  /  min(K, r)

    Every one of them is computed per user and then averaged; F1 in particular is not the harmonic
    mean of the averages. A list shorter than K counts as K long. NDCG is the binary one of Jarvelin
    & Kekalainen (2002).

    Args:
        ranked: [n, K] item ids by falling score, distinct within a row, -1 where the list ended.
        relevant_indptr: [n + 1] int64, relevant items of list u.
        relevant_items: [relevant_indptr[-1]] item ids, distinct within a user, in any order.
        ks: values of K, none above the width of `ranked`.

    Returns:
        [len(ks), len(TOPK_NAMES), users with a relevant item], users in the order of the lists.

    Raises:
        ConfigError: no K at all, or one that is not from 1 to the width of `ranked`.
        DataError: a table that does not fit the number of lists.
    """
    num_lists, width = ranked.shape
    check_ks(ks)
    if max(ks) > width:
        raise ConfigError(f"ks: found {max(ks)}, expected at most the {width} entries of a list")
    if len(relevant_indptr) != num_lists + 1 or relevant_indptr[-1] != len(relevant_items):
        raise DataError(
            f"relevant_indptr: found {len(relevant_indptr)} entries for {num_lists} lists and"
            f" {len(relevant_items)} relevant items, expected {num_lists + 1} that end in"
            f" {len(relevant_items)}"
        )
    num_relevant = np.diff(relevant_indptr)
    stride = 1 + max(int(column.max(initial=0)) for column in (ranked, relevant_items))
    owners = np.repeat(np.arange(num_lists, dtype=np.int64), num_relevant)
    relevant = np.sort(owners * stride + relevant_items)
    discount = 1.0 / np.log2(np.arange(2, max(ks) + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])

    users = np.flatnonzero(num_relevant)
    values = np.empty((len(ks), len(TOPK_NAMES), len(users)))
    step = max(1, _TOPK_BLOCK // max(ks))
    for begin in range(0, len(users), step):
        block = slice(begin, begin + step)
        hits = _is_relevant(ranked[users[block], : max(ks)], users[block], relevant, stride)
        counts = np.cumsum(hits, axis=1)
        # Summed in the order of `ideal`, so that a perfect list has exactly 1.
        gains = np.cumsum(hits * discount, axis=1)
        precisions = np.cumsum(hits * counts / np.arange(1, max(ks) + 1), axis=1)
        r = num_relevant[users[block]]
        first = np.where(counts[:, -1] > 0, hits.argmax(axis=1) + 1, max(ks) + 1)
        for row, k in enumerate(ks):
            count = counts[:, k - 1]
            values[row, :, block] = (
                count / k,
                count / r,
                2 * count / (k + r),
                gains[:, k - 1] / ideal[np.minimum(k, r)],
                count > 0,
                (first <= k) / first,
                precisions[:, k - 1] / np.minimum(k, r),
            )
    return values


def check_ks(ks: Sequence[int]) -> None:
    """Check the lengths of top-K lists.

    Raises:
        ConfigError: no K at all, or one below 1.
    """
    if not len(ks):
        raise ConfigError("ks: found none, expected at least one list length")
    if min(ks) < 1:
        raise ConfigError(f"ks: found {min(ks)}, expected list lengths from 1")


def _is_relevant(ranked: NDArray[Any], users: Int64, relevant: Int64, stride: int) -> Bool:
    """Whether list entries [b, K] are among the sorted keys user * stride + item; never for -1."""
    keys = users[:, None] * stride + ranked
    place = np.minimum(np.searchsorted(relevant, keys), len(relevant) - 1)
    found: Bool = (relevant[place] == keys) & (ranked >= 0)
    return found


def _auc(positive: Bool, scores: NDArray[Any]) -> float:
    above = np.sort(scores[positive])
    below = np.sort(scores[~positive])
    if not len(above) or not len(below):
        return float("nan")
    # Negatives that are lower, plus those not higher: a win counts 2, a tie 1.
    twice = int(np.searchsorted(below, above, side="left").sum(dtype=np.int64))
    twice += int(np.searchsorted(below, above, side="right").sum(dtype=np.int64))
    return twice / (2 * len(above) * len(below))


def _accuracy(positive: Bool, scores: NDArray[Any], threshold: float) -> float:
    if not len(scores):
        return float("nan")
    return int(np.count_nonzero((scores >= threshold) == positive)) / len(scores)


def _gauc(users: NDArray[Any], positive: Bool, scores: NDArray[Any]) -> float:
    if not len(scores):
        return float("nan")
    # One key per row, (user, rank of the score, label): sorting it is several times faster than a
    # lexsort of the columns.
    values, rank = np.unique(scores, return_inverse=True)
    keys = np.sort((users.astype(np.int64) * len(values) + rank) * 2 + positive)
    positive, keys = (keys & 1).astype(np.bool_), keys >> 1
    # Runs of equal user and score, and the first run of each user.
    run = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
    first = np.flatnonzero(np.diff(keys[run] // len(values), prepend=keys[0] // len(values) - 1))
    run_positives = np.add.reduceat(positive, run, dtype=np.int64)
    run_negatives = np.diff(run, append=len(keys)) - run_positives
    positives = np.add.reduceat(run_positives, first)
    negatives = np.add.reduceat(run_negatives, first)
    lower = np.cumsum(run_negatives) - run_negatives
    lower -= np.repeat(lower[first], np.diff(first, append=len(run)))
    twice = np.add.reduceat(run_positives * (2 * lower + run_negatives), first)
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return float("nan")
    value = twice[both] / (2 * positives[both] * negatives[both])
    rows = (positives + negatives)[both]
    return float((value * rows).sum() / rows.sum())
