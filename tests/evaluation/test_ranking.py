"""Full ranking against a loop over users, its memory bound, and the test protocol."""

from __future__ import annotations

import math
import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from ekpnet_fast.data.tables import Dataset, Examples, PreparedData
from ekpnet_fast.errors import ConfigError, DataError, TrainingError
from ekpnet_fast.evaluation import ranking
from ekpnet_fast.evaluation.lists import list_metrics
from ekpnet_fast.evaluation.metrics import DEFAULT_KS, TOPK_NAMES, topk_metrics
from ekpnet_fast.evaluation.ranking import (
    SameScores,
    evaluate_ranking,
    popularity_scores,
    rank_all,
    ranking_task,
    report_ranking,
)


class Table:
    """A score that looks rows up, and remembers the blocks it was asked for."""

    def __init__(self, scores):
        self.scores = torch.as_tensor(scores)
        self.blocks = []

    def __call__(self, users):
        assert users.dtype == np.int32
        assert not torch.is_grad_enabled()
        self.blocks.append(users.tolist())
        return self.scores[torch.from_numpy(users).long()]

    def asked(self):
        return [user for block in self.blocks for user in block]


def csr(lists):
    indptr = np.zeros(len(lists) + 1, dtype=np.int64)
    indptr[1:] = np.cumsum([len(x) for x in lists])
    return indptr, np.array([i for x in lists for i in x], dtype=np.int32)


def random_case(seed, num_users=37, num_items=23):
    """Scores with many ties, and items seen from none to all of them."""
    stream = np.random.default_rng(seed)
    scores = stream.integers(-3, 4, (num_users, num_items)).astype(np.float32)
    sizes = np.minimum(stream.integers(0, num_items + 5, num_users), num_items)
    return scores, [sorted(stream.permutation(num_items)[:size].tolist()) for size in sizes]


def rank_by_users(scores, seen, k):
    lists = []
    for row, left_out in zip(scores, seen, strict=True):
        items = [i for i in range(len(row)) if i not in left_out]
        items.sort(key=lambda i: (-row[i], i))
        lists.append((items + [-1] * k)[:k])
    return lists


def random_prepared(seed, num_users=40, num_items=30, n=900):
    """Distinct rows 3:1:1; some users end up without a test positive."""
    stream = np.random.default_rng(seed)
    keys = stream.permutation(num_users * num_items)[:n]
    labels = (stream.random(n) < 0.2 + 0.3 * (keys % 2)).astype(np.int8)
    rows = Examples(
        (keys // num_items).astype(np.int32), (keys % num_items).astype(np.int32), labels
    )
    train, valid, test = (
        rows.take(part) for part in np.split(np.arange(n), [3 * n // 5, 4 * n // 5])
    )
    return prepared_of(train, valid, test, num_users, num_items)


def prepared_of(train, valid, test, num_users, num_items):
    empty = np.zeros(0, dtype=np.int32)
    dataset = Dataset("tiny", train, None, empty, empty, empty, num_users, num_items, num_items, 1)
    found = positives(train)
    indptr, items = csr([sorted(found.get(user, ())) for user in range(num_users)])
    return PreparedData(dataset, 0, train, valid, test, None, indptr, items, 0, 0, "")


def rows_of(*triples):
    users, items, labels = np.array(triples).T
    return Examples(users.astype(np.int32), items.astype(np.int32), labels.astype(np.int8))


def positives(*parts):
    found = {}
    for part in parts:
        for user, item, label in zip(part.users, part.items, part.labels, strict=True):
            if label == 1:
                found.setdefault(int(user), set()).add(int(item))
    return found


def bound_for(users, num_items):
    """The smallest bound in MiB that holds the scores of so many users."""
    return users * num_items * 4 / 2**20


# ---- rank_all ----------------------------------------------------------------------------------


def test_ranking_by_hand():
    score = Table([[0.5, 2.0, 2.0, -1.0], [1.0, 1.0, 1.0, 1.0]])
    indptr, seen = csr([[1], [0, 1, 3]])
    ranked = rank_all(score, np.array([0, 1]), 4, indptr, seen, 3)
    assert ranked.dtype == np.int32
    assert ranked.tolist() == [[2, 0, 3], [2, -1, -1]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 5, 23, 40])
def test_ranking_is_a_sort_per_user(seed, k):
    scores, seen = random_case(seed)
    ranked = rank_all(Table(scores), np.arange(37), 23, *csr(seen), k)
    assert ranked.tolist() == rank_by_users(scores, seen, k)


@pytest.mark.parametrize("size", [1, 2, 5, 36, 37, 1000])
def test_blocks_keep_the_bound_and_change_nothing(size):
    scores, seen = random_case(7)
    whole = rank_all(Table(scores), np.arange(37), 23, *csr(seen), 10)
    spy = Table(scores)
    ranked = rank_all(spy, np.arange(37), 23, *csr(seen), 10, memory_mb=bound_for(size, 23))
    assert np.array_equal(ranked, whole)
    assert [len(block) for block in spy.blocks[:-1]] == [size] * (len(spy.blocks) - 1)
    assert 1 <= len(spy.blocks[-1]) <= size
    assert spy.asked() == list(range(37))


def test_blocks_are_the_same_at_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK_BYTES", 0)
    monkeypatch.setattr(ranking, "BLOCK_USERS", 5)
    scores, seen = random_case(7)
    given = np.arange(37), 23, *csr(seen), 10
    found = []
    for threads in (1, 2, 60):
        spy = Table(scores)
        found.append((rank_all(spy, *given, threads=threads).tolist(), sorted(spy.blocks)))
    assert len(found[0][1]) == 8
    assert found[1] == found[2] == found[0]


@pytest.mark.parametrize(("held", "most"), [(5, 1), (9, 1), (10, 2), (15, 3), (200, 4)])
def test_blocks_of_several_threads_keep_the_bound_together(monkeypatch, held, most):
    monkeypatch.setattr(ranking, "BLOCK_BYTES", 0)
    monkeypatch.setattr(ranking, "BLOCK_USERS", 5)
    scores, seen = random_case(7)
    meet, idents = threading.Barrier(most, timeout=60), set()
    table = Table(scores)

    def score(users):
        # The first block is ranked alone, before the others are shared.
        if 0 not in users and threading.get_ident() not in idents:
            idents.add(threading.get_ident())
            meet.wait()
        return table(users)

    rank_all(score, np.arange(37), 23, *csr(seen), 10, memory_mb=bound_for(held, 23), threads=4)
    assert len(idents) == most


def test_an_error_in_a_block_of_several_threads_comes_here(monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK_BYTES", 0)
    monkeypatch.setattr(ranking, "BLOCK_USERS", 2)
    scores = np.zeros((9, 4), dtype=np.float32)
    scores[5, 2] = np.nan
    with pytest.raises(TrainingError, match="found NaN for 1 of 2 users"):
        rank_all(Table(scores), np.arange(9), 4, *csr([[]] * 9), 2, threads=2)


def test_a_bound_between_two_sizes_takes_the_smaller():
    scores, seen = random_case(7)
    spy = Table(scores)
    rank_all(spy, np.arange(37), 23, *csr(seen), 10, memory_mb=bound_for(8, 23) * 0.999)
    assert max(len(block) for block in spy.blocks) == 7


def test_users_come_back_in_the_order_given():
    scores, seen = random_case(5)
    order = np.array([9, 3, 30, 3, 0], dtype=np.int64)
    table = csr([seen[user] for user in order])
    ranked = rank_all(Table(scores), order, 23, *table, 6, memory_mb=bound_for(2, 23))
    everyone = rank_by_users(scores, seen, 6)
    assert ranked.tolist() == [everyone[user] for user in order]


def test_no_users():
    spy = Table(np.zeros((1, 4), dtype=np.float32))
    assert rank_all(spy, np.array([], dtype=np.int32), 4, *csr([]), 3).shape == (0, 3)
    assert spy.blocks == []


def test_scores_may_be_views_with_autograd_and_tables_read_only():
    weight = torch.randn(4, 3, requires_grad=True, generator=torch.Generator().manual_seed(0))
    indptr, seen = csr([[1], [], [0]])
    for array in (indptr, seen):
        array.flags.writeable = False

    def score(users):
        return weight.T[torch.from_numpy(users).long()]

    ranked = rank_all(score, np.arange(3), 4, indptr, seen, 4)
    expected = rank_by_users(weight.detach().T.tolist(), [[1], [], [0]], 4)
    assert ranked.tolist() == expected


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"k": 0}, ConfigError, "k: found 0"),
        ({"memory_mb": 1e-6}, ConfigError, "memory_mb: found 1e-06, expected at least 1.53e-05"),
        ({"num_items": 0}, DataError, "num_items: found 0"),
        ({"num_items": 5}, DataError, r"found scores of shape \(2, 4\), expected \(2, 5\)"),
        (
            {"consumed_indptr": np.array([0, 3])},
            DataError,
            "consumed_indptr: found 2 entries for 2",
        ),
        ({"consumed_indptr": np.array([0, 1, 2])}, DataError, "expected 3 that rise from 0 to 3"),
        ({"consumed_indptr": np.array([0, 4, 3])}, DataError, "expected 3 that rise from 0 to 3"),
        ({"consumed_items": np.array([0, 2, 1])}, DataError, "out of order"),
        ({"consumed_items": np.array([0, 1, 4])}, DataError, "found 4, expected ids from 0 to 3"),
        ({"consumed_items": np.array([-1, 1, 2])}, DataError, "found -1, expected ids from 0 to 3"),
    ],
)
def test_what_cannot_be_ranked(change, error, text):
    arguments = {
        "score": Table(np.zeros((2, 4), dtype=np.float32)),
        "users": np.arange(2),
        "num_items": 4,
        "consumed_indptr": np.array([0, 1, 3]),
        "consumed_items": np.array([2, 1, 2]),
        "k": 2,
    }
    rank_all(**arguments)
    with pytest.raises(error, match=text):
        rank_all(**(arguments | change))


def test_nan_scores_are_refused():
    scores = np.zeros((3, 4), dtype=np.float32)
    scores[1, 2] = np.nan
    with pytest.raises(TrainingError, match="found NaN for 1 of 3 users"):
        rank_all(Table(scores), np.arange(3), 4, *csr([[]] * 3), 2)


# ---- the protocol ------------------------------------------------------------------------------


def test_task_by_hand():
    train = rows_of((0, 3, 1), (0, 0, 0), (1, 1, 1), (3, 2, 1))
    valid = rows_of((0, 1, 1), (1, 2, 0))
    # User 1 has no test positive; user 3's is in train as well, so it has none to find.
    test = rows_of((3, 2, 1), (0, 4, 1), (0, 2, 1), (1, 4, 0), (2, 0, 1), (0, 4, 1))
    task = ranking_task(prepared_of(train, valid, test, 4, 5))
    assert task.users.tolist() == [0, 2]
    assert task.consumed_indptr.tolist() == [0, 2, 2]
    assert task.consumed_items.tolist() == [1, 3]
    assert task.relevant_indptr.tolist() == [0, 2, 3]
    assert task.relevant_items.tolist() == [2, 4, 0]
    assert {task.users.dtype, task.consumed_items.dtype, task.relevant_items.dtype} == {
        np.dtype(np.int32)
    }


def test_task_on_validation_by_hand():
    """What is sought on validation may be recommended there, and so may test positives."""
    train = rows_of((0, 3, 1), (1, 1, 1))
    valid = rows_of((0, 1, 1), (0, 4, 1), (1, 2, 0))
    test = rows_of((0, 2, 1), (1, 0, 1))
    task = ranking_task(prepared_of(train, valid, test, 2, 5), "valid")
    assert task.users.tolist() == [0]
    assert task.consumed_items.tolist() == [3]
    assert task.relevant_items.tolist() == [1, 4]


def test_some_users_are_drawn_by_the_seed():
    prepared = random_prepared(3)
    everyone = ranking_task(prepared)
    few = ranking_task(prepared, users=9)
    assert len(few.users) == 9 and (np.diff(few.users) > 0).all()
    for name in ("consumed", "relevant"):
        for row, user in enumerate(few.users):
            at = int(np.flatnonzero(everyone.users == user)[0])
            lists = []
            for task, place in ((few, row), (everyone, at)):
                mine = slice(*getattr(task, f"{name}_indptr")[place : place + 2])
                lists.append(getattr(task, f"{name}_items")[mine].tolist())
            assert lists[0] == lists[1]
    assert np.array_equal(ranking_task(prepared, users=9).users, few.users)
    other = ranking_task(replace(prepared, seed=1), users=9)
    assert not np.array_equal(other.users, few.users)
    enough = ranking_task(prepared, users=len(everyone.users))
    assert np.array_equal(enough.users, everyone.users)
    scores = np.random.default_rng(0).random((40, 30), dtype=np.float32)
    spy = Table(scores)
    for measure in (evaluate_ranking, report_ranking):
        measure(spy, prepared, ks=(5,), users=9)
    assert spy.asked() == [*few.users, *few.users]


def test_full_ranking_by_hand():
    """Every number that RecBole reports, on three users and six items."""
    train = rows_of((0, 0, 1), (1, 1, 1), (2, 2, 1))
    valid = rows_of((0, 1, 1), (1, 0, 1))
    test = rows_of((0, 2, 1), (0, 5, 1), (1, 4, 1), (2, 0, 1))
    scores = np.array(
        [
            [9, 8, 1, 5, 4, 3],  # 0 and 1 are seen; 3, 4, 5, 2 remain: hits at 3 and 4
            [9, 9, 1, 2, 8, 0],  # 0 and 1 are seen; 4, 3, 2, 5 remain: a hit at 1
            [1, 5, 9, 4, 3, 2],  # 2 is seen; 1, 3, 4, 5, 0 remain: a hit at 5
        ],
        dtype=np.float32,
    )
    found = evaluate_ranking(Table(scores), prepared_of(train, valid, test, 3, 6), ks=(3, 10))
    assert found[3] == pytest.approx(
        {
            "precision": (1 / 3 + 1 / 3 + 0) / 3,
            "recall": (1 / 2 + 1 + 0) / 3,
            "f1": (2 / 5 + 2 / 4 + 0) / 3,
            "ndcg": ((1 / 2) / (1 + 1 / math.log2(3)) + 1 + 0) / 3,
            "hit": 2 / 3,
            "mrr": (1 / 3 + 1 + 0) / 3,
            "map": ((1 / 3) / 2 + 1 + 0) / 3,
        }
    )
    first = (1 / 2 + 1 / math.log2(5)) / (1 + 1 / math.log2(3))
    assert found[10] == pytest.approx(
        {
            "precision": (2 + 1 + 1) / 30,
            "recall": 1.0,
            "f1": (4 / 12 + 2 / 11 + 2 / 11) / 3,
            "ndcg": (first + 1 + 1 / math.log2(6)) / 3,
            "hit": 1.0,
            "mrr": (1 / 3 + 1 + 1 / 5) / 3,
            "map": ((1 / 3 + 2 / 4) / 2 + 1 + 1 / 5) / 3,
        }
    )


def test_a_report_is_the_evaluation_and_more():
    prepared = random_prepared(5)
    scores = np.random.default_rng(5).random((40, 30), dtype=np.float32)
    ks = (2, 10, 20)
    found = report_ranking(Table(scores), prepared, ks)
    plain = evaluate_ranking(Table(scores), prepared, ks)
    task = ranking_task(prepared)
    ranked = rank_all(
        Table(scores), task.users, 30, task.consumed_indptr, task.consumed_items, max(ks)
    )
    clicks = np.bincount(prepared.history_items, minlength=30)
    users = int((np.diff(prepared.history_indptr) > 0).sum())
    assert list(found) == list(ks)
    for k in ks:
        assert plain[k].items() <= found[k].items()
        assert list_metrics(ranked[:, :k], clicks, users).items() <= found[k].items()
        for name in TOPK_NAMES:
            assert found[k][f"{name}_low"] < found[k][name] < found[k][f"{name}_high"]


def test_a_block_is_no_larger_than_pays(monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK_BYTES", 8 * 23 * 4)
    monkeypatch.setattr(ranking, "BLOCK_USERS", 3)
    scores, seen = random_case(7)
    spy = Table(scores)
    ranked = rank_all(spy, np.arange(37), 23, *csr(seen), 10)
    assert max(len(block) for block in spy.blocks) == 8
    monkeypatch.setattr(ranking, "BLOCK_BYTES", 1)
    few = Table(scores)
    assert np.array_equal(rank_all(few, np.arange(37), 23, *csr(seen), 10), ranked)
    assert max(len(block) for block in few.blocks) == 3


@pytest.mark.parametrize("seed", range(4))
def test_task_holds_the_positives(seed):
    prepared = random_prepared(seed)
    task = ranking_task(prepared)
    relevant = positives(prepared.test)
    seen = positives(prepared.train, prepared.valid)
    assert 0 < len(relevant) < 40
    assert task.users.tolist() == sorted(relevant)
    for row, user in enumerate(task.users.tolist()):
        mine = slice(*task.consumed_indptr[row : row + 2])
        assert task.consumed_items[mine].tolist() == sorted(seen.get(user, ()))
        mine = slice(*task.relevant_indptr[row : row + 2])
        assert task.relevant_items[mine].tolist() == sorted(relevant[user])


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_evaluation_is_ranking_and_metrics(size):
    prepared = random_prepared(11)
    scores = np.random.default_rng(0).integers(0, 9, (40, 30)).astype(np.float32)
    spy = Table(scores)
    found = evaluate_ranking(spy, prepared, memory_mb=bound_for(size, 30))
    users = sorted(positives(prepared.test))
    seen = positives(prepared.train, prepared.valid)
    lists = rank_by_users(scores[users], [seen.get(user, ()) for user in users], 100)
    relevant = [sorted(positives(prepared.test)[user]) for user in users]
    assert found == topk_metrics(np.array(lists), *csr(relevant))
    assert tuple(found) == DEFAULT_KS
    assert spy.asked() == users
    assert max(len(block) for block in spy.blocks) <= size


def test_an_oracle_ranks_perfectly():
    prepared = random_prepared(3)
    scores = np.zeros((40, 30), dtype=np.float32)
    for user, items in positives(prepared.test).items():
        scores[user, list(items)] = 1
    # The best possible scores for what is seen must not matter.
    for user, items in positives(prepared.train, prepared.valid).items():
        scores[user, list(items)] = 2
    found = evaluate_ranking(Table(scores), prepared, ks=(1, 30, 50))
    assert found[1]["precision"] == found[1]["hit"] == 1
    assert found[30]["recall"] == found[50]["recall"] == 1
    assert {values["ndcg"] for values in found.values()} == {1.0}


def test_nobody_to_rank_for():
    rows = rows_of((0, 0, 1), (1, 1, 1))
    prepared = prepared_of(rows, rows.take(slice(0, 0)), rows_of((0, 1, 0)), 2, 3)
    found = evaluate_ranking(popularity_scores(prepared), prepared, ks=(1, 5))
    assert all(math.isnan(value) for values in found.values() for value in values.values())


@pytest.mark.parametrize("ks", [(), (0, 1)])
def test_ks_are_checked_before_scoring(ks):
    with pytest.raises(ConfigError, match="ks: found"):
        evaluate_ranking(Table(np.zeros((1, 1))), random_prepared(0), ks=ks)


def test_popularity_ranks_by_train_positives():
    train = rows_of((0, 2, 1), (1, 2, 1), (2, 2, 1), (1, 0, 1), (2, 0, 1), (0, 1, 0), (0, 3, 1))
    valid = rows_of((2, 1, 1), (0, 1, 0))
    test = rows_of((0, 0, 1), (1, 1, 1), (2, 3, 1))
    prepared = prepared_of(train, valid, test, 3, 5)
    score = popularity_scores(prepared)
    assert score(np.array([2, 0], dtype=np.int32)).tolist() == [[2, 0, 3, 1, 0]] * 2
    task = ranking_task(prepared)
    ranked = rank_all(score, task.users, 5, task.consumed_indptr, task.consumed_items, 3)
    assert ranked.tolist() == [[0, 1, 4], [3, 1, 4], [3, 4, -1]]
    assert evaluate_ranking(score, prepared, ks=(1, 2))[1]["hit"] == 2 / 3
    assert evaluate_ranking(score, prepared, ks=(1, 2))[2]["hit"] == 1


@pytest.mark.parametrize("k", [1, 7, 30])
@pytest.mark.parametrize("seed", range(3))
def test_users_of_the_same_scores_are_ranked_at_once(k, seed):
    """Lists are those that a score gives that could be another one for every user."""
    scores, seen = random_case(seed)
    row = torch.from_numpy(scores[0])
    given = (np.arange(len(scores)), scores.shape[1], *csr(seen), k)
    found = rank_all(SameScores(row), *given)
    one_by_one = rank_all(lambda users: row.expand(len(users), -1), *given)
    assert found.dtype == np.int32 and found.tolist() == one_by_one.tolist()
    for memory_mb in (1e-4, 5e-3):  # one user at a time, and some
        assert np.array_equal(rank_all(SameScores(row), *given, memory_mb=memory_mb), found)


@pytest.mark.parametrize("k, consumed", [(2000, 0), (10, 1000)])
def test_memory_of_the_same_scores_is_bounded(k, consumed):
    users, items, memory_mb = 1000, 3000, 1
    seen = csr([range(1, consumed + 1)] * users)
    tracemalloc.start()
    try:
        found = rank_all(
            SameScores(torch.ones(items)), np.arange(users), items, *seen, k, memory_mb=memory_mb
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    alone = 64 * (users + items)  # of places in the catalogue, and what blocks need
    assert found[-1, :2].tolist() == [0, consumed + 1]
    assert peak < found.nbytes + memory_mb * 2**20 + alone


def test_same_scores_that_are_nan_are_refused():
    with pytest.raises(TrainingError, match="NaN"):
        rank_all(SameScores(torch.tensor([1.0, math.nan])), np.arange(1), 2, *csr([[]]), 1)


def test_same_scores_of_another_number_of_items_are_refused():
    """The item that has no score may be one that the user consumed."""
    for num_items in (2, 5):
        with pytest.raises(DataError, match=rf"shape \(1, 3\), expected \(1, {num_items}\)"):
            rank_all(SameScores(torch.ones(3)), np.arange(1), num_items, *csr([[num_items - 1]]), 4)
