"""Users near a history, against dense NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from ekpnet_fast.models.wide.users import UserNeighbours
from ekpnet_fast.sampling.histories import Histories
from support.graphs import csr

USERS, ITEMS = 50, 20
POWERS = {"history_power": 0.4, "user_power": 0.7, "item_power": 0.2}


def clicks():
    """Clicks [U, I]: user 0 has none, user 1 has some of user 2's, item 19 is nobody's."""
    A = (np.random.default_rng(0).random((USERS, ITEMS)) < 0.2).astype(float)
    A[0], A[:, 19], A[2, :6] = 0, 0, 1
    A[1], A[1, [0, 3]] = 0, 1
    return A


def similarities(A, history, count):
    """Similarities [U] to a history by the formula, of the `count` nearest."""
    d, n = A.sum(0), A.sum(1)
    h = np.isin(np.arange(ITEMS), history)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(d > 0, d ** -POWERS["history_power"], 0)
        found = np.where(n > 0, A @ (h * weights) * n ** -POWERS["user_power"], 0)
    found[A @ h == n] = 0
    found[np.argsort(-found, kind="stable")[count:]] = 0
    return found


HISTORIES = [[0, 1, 2, 3, 4, 5], [3], [], [0, 7, 19]]


@pytest.mark.parametrize("count", [5, USERS])
def test_similarities_and_scores_are_those_of_the_formula(count):
    A = clicks()
    users = UserNeighbours(sparse.csr_matrix(A.astype(np.float32)), count, **POWERS)
    histories = Histories(*csr(HISTORIES))
    near, scores = users.of(histories), users.scores(histories)
    by_popularity = np.where(A.sum(0) > 0, np.maximum(A.sum(0), 1) ** -POWERS["item_power"], 0)
    for g, history in enumerate(HISTORIES):
        wanted = similarities(A, history, count)
        begin, end = near.indptr[g : g + 2].tolist()
        assert near.columns[begin:end].tolist() == np.flatnonzero(wanted).tolist()
        assert near.values[begin:end].numpy() == pytest.approx(wanted[wanted > 0], rel=1e-5)
        assert scores[g] == pytest.approx(wanted @ A * by_popularity, rel=1e-5)
    assert near.indptr.diff()[:2].min() == min(count, 5) or count == USERS


def test_who_clicked_nothing_else_says_nothing():
    """Neither the user himself nor one with a part of his clicks; of users 1 and 2."""
    A = clicks()
    users = UserNeighbours(sparse.csr_matrix(A.astype(np.float32)))
    own = np.flatnonzero(A[2]).tolist()
    assert {1, 2} & set(users.of(Histories(*csr([own]))).columns.tolist()) == set()
    assert {1, 2} <= set(users.of(Histories(*csr([[0]]))).columns.tolist())


@pytest.mark.parametrize("history", [[5, 0, 3], [7, 19], [19], []])
def test_shares_add_up(history):
    """To the score and the mean; an item's share is what it brings the users near the history."""
    A = clicks()
    users = UserNeighbours(sparse.csr_matrix(A.astype(np.float32)), 6)
    scores = users.scores(Histories(*csr([sorted(history)])))[0]
    near = users.of(Histories(*csr([sorted(history)]))).columns.numpy()
    for item in range(ITEMS):
        found, mean = users.shares(torch.tensor(history, dtype=torch.int64), item)
        assert found.sum() == pytest.approx(scores[item], rel=1e-5, abs=1e-7)
        assert mean.sum() == pytest.approx(scores.mean(), rel=1e-5, abs=1e-7)
        for j, share in zip(history, found, strict=True):
            both = [v for v in near if A[v, j] and A[v, item]]
            wanted = sum((A[v].sum() * A[:, j].sum()) ** -0.5 for v in both)
            assert share == pytest.approx(wanted, rel=1e-5, abs=1e-9)


def test_the_same_bits_at_any_number_of_threads():
    users = UserNeighbours(sparse.csr_matrix(clicks().astype(np.float32)), 4)
    many = Histories(*csr(HISTORIES * 60))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 8):
            torch.set_num_threads(threads)
            found.append(users.of(many))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_further_items_are_nobodys():
    users = UserNeighbours(sparse.csr_matrix(clicks().astype(np.float32)), 4)
    wider = users.wider(ITEMS + 3)
    asked = Histories(*csr([[0, 7]]))
    with_new = Histories(*csr([[0, 7, ITEMS + 2]]))
    assert all(torch.equal(a, b) for a, b in zip(users.of(asked), wider.of(with_new), strict=True))
    found = wider.scores(with_new)
    assert found.shape == (1, ITEMS + 3) and not found[0, ITEMS:].any()
    assert np.array_equal(found[:, :ITEMS], users.scores(asked))
