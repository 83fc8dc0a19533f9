"""Items that item kNN puts first for each user, against dense NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ekpnet_fast.models.wide import nominees as module
from ekpnet_fast.models.wide.nominees import nominees
from ekpnet_fast.sampling.histories import Histories
from support.graphs import csr

USERS, ITEMS, MOST = 300, 60, 7


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(module, "OF_USER", MOST)
    monkeypatch.setattr(module, "AT_ONCE", 200)  # a few users at a time


def clicks():
    """Clicks [U, I]: user 0 has none, item 59 is user 1's alone, who has nothing else."""
    draw = np.random.default_rng(0)
    A = (draw.random((USERS, ITEMS)) < draw.random((USERS, 1)) ** 3).astype(float)
    A[:2], A[:, 59] = 0, 0
    A[1, 59] = 1
    return A


def scores(A):
    """Scores [U, I] by the formula, -infinity for what a user clicked."""
    n, c = A.sum(1, keepdims=True), A.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_user = np.where(n > 0, n**-0.5, 0) * A
        similar = np.where(np.outer(c, c) > 0, np.outer(c**-0.5, c**-0.3), 0) * (A.T @ by_user)
    return np.where(A > 0, -np.inf, A @ similar)


def of(A):
    return nominees(Histories(*csr([np.flatnonzero(row) for row in A])), A.shape[1])


def test_they_are_what_the_signal_puts_first(few):
    A = clicks()
    found, expected = of(A), scores(A)
    assert found.indptr.dtype == torch.int64 and found.items.dtype == torch.int32
    lengths = found.indptr.diff().tolist()
    assert lengths == np.minimum((expected > 0).sum(1), MOST).tolist()
    assert lengths[:2] == [0, 0] and max(lengths) == MOST
    for user, length in enumerate(lengths):
        items = found.items[found.indptr[user] :][:length].numpy()
        assert (np.diff(items) > 0).all() and not A[user, items].any()
        if length:
            others = np.delete(expected[user], items)
            assert expected[user, items].min() >= others.max() * (1 - 1e-5)


def test_same_bits_with_any_threads_and_blocks(few, threads, monkeypatch):
    A, found = clicks(), []
    for count, at_once in ((1, 200), (8, 200), (2, 1 << 21)):
        threads(count)
        monkeypatch.setattr(module, "AT_ONCE", at_once)
        found.append(of(A))
    for other in found[1:]:
        assert torch.equal(other.indptr, found[0].indptr)
        assert torch.equal(other.items, found[0].items)


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "NOMINATED", 2 * USERS + 5)
    assert of(clicks()).indptr.diff().max() == 2
    monkeypatch.setattr(module, "NOMINATED", 5)
    assert of(clicks()).indptr.diff().max() == 1


def test_without_clicks_there_are_none():
    assert of(np.zeros((3, 5))).indptr.tolist() == [0, 0, 0, 0]
