"""What clicks in train tell of tastes, by weighing every taste that a user can have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.programs import posterior_bound
from benchmarks.programs.posterior_bound import Posterior, Tastes, bounds
from ekpnet_fast.data import Examples, prepare
from ekpnet_fast.data.synthetic.config import SyntheticConfig
from ekpnet_fast.data.synthetic.generator import make_synthetic, plant
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.evaluation.metrics import auc

SMALL = SyntheticConfig(
    users=200, items=150, positives=12, attributes=12, parents=4, triples=775, latent=6
)


@pytest.fixture(scope="module")
def truth():
    return plant(SMALL)[0]


def test_every_taste_is_there_once(truth):
    tastes = Tastes(SMALL, truth, truth.item_vectors)
    assert len(tastes.vectors) == 12 * 13 // 2 * 4
    assert np.exp(tastes.log_prior).sum() == pytest.approx(1)
    nearest = np.abs(truth.tastes[:, None] - tastes.vectors).max(2).min(1)
    assert nearest.max() < 1e-9


def test_the_posterior_is_that_of_bayes(truth):
    """Of a user with two clicks, weighed one taste after the other."""
    tastes = Tastes(SMALL, truth, truth.item_vectors)
    train = Examples(
        np.zeros(3, np.int32), np.array([3, 9, 40], np.int32), np.array([1, 1, 0], np.int8)
    )
    asked = Examples(np.zeros(2, np.int32), np.array([5, 60], np.int32), np.zeros(2, np.int8))
    posterior = Posterior(tastes, truth.item_vectors, truth.bias, train, 2)
    weights = np.exp(tastes.vectors @ truth.item_vectors.T + truth.bias)
    shares = weights / weights.sum(1, keepdims=True)
    chance = np.exp(tastes.log_prior) * shares[:, 3] * shares[:, 9]
    expected = np.log(chance @ shares[:, [5, 60]] / chance.sum())
    assert posterior.scores(asked) == pytest.approx(expected, abs=1e-5)
    # Of a user without clicks the prior is left.
    nobody = replace(asked, users=np.ones(2, np.int32))
    expected = np.log(np.exp(tastes.log_prior) @ shares[:, [5, 60]])
    assert posterior.scores(nobody) == pytest.approx(expected, abs=1e-5)


def test_what_is_known_less_ranks_less_well(truth):
    prepared = prepare(make_synthetic(SMALL), 0)
    found = [value for _, value in bounds(SMALL, prepared)]
    clicks = np.bincount(prepared.train.items[prepared.train.labels == 1], minlength=SMALL.items)
    popularity = auc(prepared.test.labels, clicks[prepared.test.items])
    assert 1 > found[0] > found[1] > found[2] > popularity > 0.5


def test_more_tastes_than_can_be_weighed(truth, monkeypatch):
    monkeypatch.setattr(posterior_bound, "MOST_TASTES", 100)
    with pytest.raises(ConfigError, match="found 312 tastes, expected at most 100"):
        Tastes(SMALL, truth, truth.item_vectors)
