"""Metrics against hand-computed examples and against the definitions, written as loops."""

from __future__ import annotations

import math
from dataclasses import astuple
from fractions import Fraction

import numpy as np
import pytest

from ekpnet_fast.data import popularity
from ekpnet_fast.data.tables import Dataset, Examples, PreparedData
from ekpnet_fast.errors import ConfigError, DataError, TrainingError
from ekpnet_fast.evaluation import metrics

NAMES = ("precision", "recall", "f1", "ndcg", "hit", "mrr", "map")


def auc_by_pairs(labels, scores):
    above = [s for s, y in zip(scores, labels, strict=True) if y == 1]
    below = [s for s, y in zip(scores, labels, strict=True) if y != 1]
    if not above or not below:
        return math.nan
    won = sum(2 * (a > b) + (a == b) for a in above for b in below)
    return float(Fraction(won, 2 * len(above) * len(below)))


def gauc_by_users(users, labels, scores):
    total = weight = 0.0
    for user in set(users.tolist()):
        mine = users == user
        value = auc_by_pairs(labels[mine].tolist(), scores[mine].tolist())
        if not math.isnan(value):
            total += value * mine.sum()
            weight += mine.sum()
    return total / weight if weight else math.nan


def topk_by_users(lists, relevant, k):
    rows = []
    for ranked, wanted in zip(lists, relevant, strict=True):
        if not wanted:
            continue
        hit = [item in wanted and item >= 0 for item in ranked[:k]]
        precision, recall = sum(hit) / k, sum(hit) / len(wanted)
        f1 = 2 * precision * recall / (precision + recall) if any(hit) else 0.0
        dcg = sum(h / math.log2(j + 2) for j, h in enumerate(hit))
        ideal = sum(1 / math.log2(j + 2) for j in range(min(k, len(wanted))))
        mrr = 1 / (hit.index(True) + 1) if any(hit) else 0.0
        ap = sum(sum(hit[: j + 1]) / (j + 1) for j, h in enumerate(hit) if h)
        ap /= min(k, len(wanted))
        rows.append((precision, recall, f1, dcg / ideal, float(any(hit)), mrr, ap))
    return dict(zip(NAMES, np.mean(rows, axis=0), strict=True))


def random_rows(seed, n, num_users, levels):
    stream = np.random.default_rng(seed)
    return (
        stream.integers(0, num_users, n).astype(np.int32),
        stream.integers(0, 2, n).astype(np.int8),
        (stream.integers(-levels, levels, n) / 7).astype(np.float32),
    )


def csr(sets):
    indptr = np.zeros(len(sets) + 1, dtype=np.int64)
    indptr[1:] = np.cumsum([len(s) for s in sets])
    return indptr, np.array([i for s in sets for i in s], dtype=np.int32)


def rows_of(*triples):
    users, items, labels = zip(*triples, strict=True)
    return Examples(np.int32(users), np.int32(items), np.int8(labels))


@pytest.fixture
def prepared():
    """Three users, four items; items 0 and 1 have 2 and 1 train positives, 2 and 3 none."""
    train = rows_of((0, 0, 1), (1, 0, 1), (2, 1, 1), (0, 3, 0))
    valid = rows_of((0, 1, 1), (1, 2, 0), (2, 0, 1), (2, 3, 0))
    test = rows_of((0, 2, 1), (0, 1, 0), (1, 1, 1), (1, 3, 0), (2, 0, 1), (2, 1, 1))
    empty = np.zeros(0, dtype=np.int32)
    dataset = Dataset("tiny", train, None, empty, empty, empty, 3, 4, 4, 1)
    indptr, items = np.array([0, 1, 2, 3]), np.array([0, 0, 1], dtype=np.int32)
    return PreparedData(dataset, 0, train, valid, test, None, indptr, items, 0, 0, "")


# ---- AUC and ACC -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([1, 0], [2.0, 1.0], 1.0),
        ([1, 0], [1.0, 2.0], 0.0),
        ([1, 0], [1.0, 1.0], 0.5),
        ([1, 0], [0.0, -0.0], 0.5),
        ([1, 0], [-math.inf, -math.inf], 0.5),
        # Positives 3 and 1 against negatives 2 and 1: win, win, loss, tie.
        ([1, 1, 0, 0], [3.0, 1.0, 2.0, 1.0], 2.5 / 4),
        ([1, 0, 0, 0], [1, 1, 1, 2], 1 / 3),
    ],
)
def test_auc_by_hand(labels, scores, expected):
    assert metrics.auc(np.int8(labels), np.array(scores)) == expected


@pytest.mark.parametrize("levels", [1, 2, 30, 10**6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_auc_counts_every_pair(levels, dtype):
    _, labels, scores = random_rows(levels, 301, 1, levels)
    scores = (scores * 7).astype(dtype)
    assert metrics.auc(labels, scores) == auc_by_pairs(labels.tolist(), scores.tolist())


def test_auc_depends_on_the_order_of_scores_only():
    _, labels, scores = random_rows(3, 500, 1, 40)
    shuffle = np.random.default_rng(1).permutation(500)
    value = metrics.auc(labels, scores)
    assert metrics.auc(labels[shuffle], scores[shuffle]) == value
    assert metrics.auc(labels, np.exp(scores.astype(np.float64))) == value
    assert metrics.auc(1 - labels, -scores) == value


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0], []])
def test_one_class_has_no_auc(labels):
    labels, scores = np.int8(labels), np.arange(len(labels), dtype=np.float32)
    assert math.isnan(metrics.auc(labels, scores))
    assert math.isnan(metrics.gauc(np.zeros(len(labels), np.int32), labels, scores))


def test_nan_scores_are_counted():
    users, labels, scores = random_rows(5, 20, 3, 4)
    scores[[2, 7, 9]] = np.nan
    everything = np.ones(20, dtype=np.bool_)
    for call in (
        lambda: metrics.auc(labels, scores),
        lambda: metrics.accuracy(labels, scores),
        lambda: metrics.gauc(users, labels, scores),
        lambda: metrics.auc_warm(labels, scores, everything),
        lambda: popularity.best_threshold(labels, scores),
    ):
        with pytest.raises(TrainingError, match="found 3 NaN among 20 scores"):
            call()


def test_columns_of_different_length():
    labels, scores = np.int8([1, 0, 1]), np.float32([1, 2])
    with pytest.raises(DataError, match="one length"):
        metrics.auc(labels, scores)
    with pytest.raises(DataError, match="one length"):
        metrics.auc(labels[:, None], np.float32([1, 2, 3]))
    with pytest.raises(DataError, match="users: found 2 for 3"):
        metrics.gauc(np.int32([0, 0]), labels, np.float32([1, 2, 3]))
    with pytest.raises(DataError, match="seen: found 2 for 3"):
        metrics.auc_warm(labels, np.float32([1, 2, 3]), np.array([True, False]))


def test_accuracy_calls_the_threshold_positive():
    labels = np.int8([1, 1, 0, 0])
    assert metrics.accuracy(labels, np.float32([0.5, 0.4, 0.5, 0.1])) == 0.5
    assert metrics.accuracy(labels, np.float32([0.5, 0.4, 0.5, 0.1]), threshold=0.4) == 0.75
    assert math.isnan(metrics.accuracy(labels[:0], np.float32([])))


def test_best_threshold_by_hand():
    labels = np.int8([0, 1, 0, 1, 1])
    assert popularity.best_threshold(labels, np.array([0, 1, 2, 3, 4])) == 1
    # All scores equal: calling every row positive is right on the majority.
    assert popularity.best_threshold(np.int8([1, 1, 0]), np.array([5, 5, 5])) == 5
    # Negatives score highest and are the majority, so nothing should be called positive.
    assert popularity.best_threshold(np.int8([1, 0, 0]), np.array([0, 1, 1])) == math.inf
    assert popularity.best_threshold(np.int8([]), np.array([])) == math.inf


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_beats_the_best(seed):
    _, labels, scores = random_rows(seed, 60, 1, 9)
    best = popularity.best_threshold(labels, scores)
    tried = [*np.unique(scores).tolist(), math.inf]
    reached = [metrics.accuracy(labels, scores, t) for t in tried]
    assert best == tried[int(np.argmax(reached))]


# ---- GAUC --------------------------------------------------------------------------------------


def test_gauc_by_hand():
    # User 7: AUC 1 over 2 rows. User 2: positive 5 against 4 and 6, AUC 1/2 over 3 rows. User 4
    # has no negative and is left out, however high its scores.
    users = np.int32([7, 2, 4, 2, 7, 2])
    labels = np.int8([1, 1, 1, 0, 0, 0])
    scores = np.float32([1, 5, 99, 4, 0, 6])
    assert metrics.gauc(users, labels, scores) == (2 * 1 + 3 * 0.5) / 5


@pytest.mark.parametrize("num_users", [1, 3, 40, 400])
@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_gauc_is_the_mean_over_users(num_users, levels):
    users, labels, scores = random_rows(num_users + levels, 400, num_users, levels)
    expected = gauc_by_users(users, labels, scores)
    assert metrics.gauc(users, labels, scores) == pytest.approx(expected, rel=1e-13)


def test_gauc_of_one_user_is_the_auc():
    _, labels, scores = random_rows(0, 100, 1, 20)
    value = metrics.gauc(np.full(100, 2**31 - 1, dtype=np.int32), labels, scores)
    assert value == metrics.auc(labels, scores)


def test_gauc_ignores_an_offset_per_user():
    users, labels, scores = random_rows(9, 300, 20, 5)
    shifted = scores * 7 + 1000 * users
    assert metrics.gauc(users, labels, shifted) == metrics.gauc(users, labels, scores)


def test_no_user_with_both_labels():
    value = metrics.gauc(np.int32([0, 0, 1]), np.int8([1, 1, 0]), np.float32([3, 2, 1]))
    assert math.isnan(value)


# ---- popularity --------------------------------------------------------------------------------


def test_popularity_counts_train_positives():
    counts = popularity.popularity(np.int32([0, 3, 3, 1, 3]), 6)
    assert counts.dtype == np.int64
    assert counts.tolist() == [1, 1, 0, 3, 0, 0]
    assert popularity.popularity(np.int32([]), 2).tolist() == [0, 0]


@pytest.mark.parametrize("item", [-1, 6])
def test_popularity_refuses_an_item_out_of_range(item):
    with pytest.raises(DataError, match=f"found item {item}, expected ids from 0 to 5"):
        popularity.popularity(np.int32([2, item]), 6)


def test_auc_warm_keeps_examples_with_a_train_positive():
    seen = metrics.warm_mask(np.int32([3, 0, 1, 2]), np.int32([0, 0, 3]), 4)
    assert seen.tolist() == [True, True, False, False]
    labels, scores = np.int8([1, 0, 1, 0]), np.float32([2, 1, 0, 9])
    assert metrics.auc_warm(labels, scores, seen) == 1.0
    assert metrics.auc(labels, scores) == 0.25
    assert math.isnan(metrics.auc_warm(labels, scores, np.zeros(4, dtype=np.bool_)))


def test_click_metrics_by_hand(prepared):
    # Test rows in order: items 2, 1, 1, 3, 0, 1 with labels 1, 0, 1, 0, 1, 1.
    logits = np.float32([1, -1, 2, 3, 0, -2])
    found = metrics.click_metrics(prepared.test, logits, prepared)
    # Against -1: 1, 2, 0 win and -2 loses; against 3 all four lose.
    assert found.auc == 3 / 8
    assert found.acc == 4 / 6
    # Examples of items 0 and 1: the negative -1 against 2, 0 and -2.
    assert found.auc_warm == 2 / 3
    # User 0: 1 > -1. User 1: 2 < 3. User 2 has no negative.
    assert found.gauc == 0.5


def test_popularity_row_by_hand(prepared):
    found = metrics.popularity_click_metrics(prepared.test, prepared)
    # On validation the counts 1, 0, 2, 0 with labels 1, 0, 1, 0 are split best from 1 on. On test
    # the positives have counts 0, 1, 2, 1 and the negatives 1, 0.
    assert found.auc == (0.5 + 1 + 0.5 + 1 + 1 + 1 + 0.5 + 0) / 8
    assert found.acc == 4 / 6
    assert found.auc_warm == (0.5 + 1 + 0.5) / 3
    assert found.gauc == (2 * 0 + 2 * 1) / 4


def test_click_metrics_agree_with_their_parts(prepared):
    users, labels, logits = random_rows(2, 200, 3, 10)
    items = np.random.default_rng(2).integers(0, 4, 200).astype(np.int32)
    found = metrics.click_metrics(Examples(users, items, labels), logits, prepared)
    seen = metrics.warm_mask(items, prepared.history_items, 4)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert astuple(found) == (
        metrics.auc(labels, logits),
        metrics.accuracy(labels, probabilities),
        metrics.auc_warm(labels, logits, seen),
        metrics.gauc(users, labels, logits),
    )


# ---- top-K -------------------------------------------------------------------------------------


def test_topk_by_hand():
    ranked = np.int32([[4, 0, 2], [1, 3, -1]])
    found = metrics.topk_metrics(ranked, *csr([{0, 2, 5}, {1}]), ks=(1, 3))
    assert list(found) == [1, 3]
    assert found[1] == dict.fromkeys(NAMES, 0.5)
    # List 0 hits at positions 2 and 3 of an ideal 1, 2, 3; list 1 at position 1.
    ndcg = (1 / math.log2(3) + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2)
    expected = {
        "precision": (2 / 3 + 1 / 3) / 2,
        "recall": (2 / 3 + 1) / 2,
        "f1": (2 / 3 + 1 / 2) / 2,
        "ndcg": (ndcg + 1) / 2,
        "hit": 1.0,
        "mrr": (1 / 2 + 1) / 2,
        "map": ((1 / 2 + 2 / 3) / 3 + 1) / 2,
    }
    assert found[3] == pytest.approx(expected, rel=1e-15)


def random_lists(seed, num_users, num_items, width):
    stream = np.random.default_rng(seed)
    lists = np.full((num_users, width), -1, dtype=np.int32)
    for row in lists:
        length = int(stream.integers(0, min(width, num_items) + 1))
        row[:length] = stream.permutation(num_items)[:length]
    sizes = stream.integers(0, num_items + 1, num_users) * stream.integers(0, 2, num_users)
    return lists, [set(stream.permutation(num_items)[:size].tolist()) for size in sizes]


@pytest.mark.parametrize("num_items", [1, 8, 60])
@pytest.mark.parametrize("block", [1, 300, 1 << 20])
def test_topk_is_the_mean_over_users(monkeypatch, num_items, block):
    monkeypatch.setattr(metrics, "_TOPK_BLOCK", block)
    lists, relevant = random_lists(num_items, 70, num_items, 100)
    found = metrics.topk_metrics(lists, *csr(relevant))
    assert tuple(found) == metrics.DEFAULT_KS
    for k, values in found.items():
        assert values == pytest.approx(topk_by_users(lists.tolist(), relevant, k), rel=1e-12)


def test_a_perfect_list_has_ndcg_one():
    for size in range(1, 101):
        ranked = np.arange(100, dtype=np.int32)[None]
        found = metrics.topk_metrics(ranked, *csr([list(range(size))]))
        assert {values["ndcg"] for values in found.values()} == {1.0}


def test_relevant_items_may_come_in_any_order():
    lists, relevant = random_lists(4, 30, 20, 10)
    forward = metrics.topk_metrics(lists, *csr([sorted(s) for s in relevant]), ks=(3, 10))
    backward = metrics.topk_metrics(lists, *csr([sorted(s)[::-1] for s in relevant]), ks=(3, 10))
    assert forward == backward


def test_users_without_relevant_items_do_not_count():
    lists, relevant = random_lists(6, 40, 20, 10)
    kept = [u for u, wanted in enumerate(relevant) if wanted]
    assert 0 < len(kept) < 40
    short = metrics.topk_metrics(lists[kept], *csr([relevant[u] for u in kept]), ks=(2, 10))
    assert metrics.topk_metrics(lists, *csr(relevant), ks=(2, 10)) == short


@pytest.mark.parametrize("num_users", [0, 3])
def test_nobody_has_a_relevant_item(num_users):
    ranked = np.zeros((num_users, 5), dtype=np.int32)
    found = metrics.topk_metrics(ranked, *csr([set()] * num_users), ks=(5,))
    assert all(math.isnan(value) for value in found[5].values())


def test_the_filler_is_never_a_hit():
    # The key of user 1's filler is the key of user 0's item 9.
    ranked = np.int32([[9, 3], [-1, -1]])
    found = metrics.topk_metrics(ranked, *csr([{9}, {9}]), ks=(2,))
    assert found[2]["hit"] == 0.5


@pytest.mark.parametrize(
    ("ks", "text"), [((), "found none"), ((1, 0), "found 0"), ((1, 6), "found 6, expected at most")]
)
def test_ks_out_of_range(ks, text):
    with pytest.raises(ConfigError, match=text):
        metrics.topk_metrics(np.zeros((1, 5), np.int32), *csr([{1}]), ks=ks)


def test_relevant_table_of_the_wrong_length():
    with pytest.raises(DataError, match="relevant_indptr: found 3 entries for 1 lists"):
        metrics.topk_metrics(np.zeros((1, 5), np.int32), *csr([{1}, {2}]), ks=(1,))
