"""Clicks of synthetic users: by sums of weights as by all weights, and by the planted law."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from ekpnet_fast.data import SyntheticConfig, make_synthetic
from ekpnet_fast.data.synthetic import clicks
from support.places import ROOT

ITEMS = 150  # two whole parts of 64 and one that is not


def drawn(tastes, vectors, bias, counts, seed=0):
    stream = np.random.default_rng(seed)
    items, normaliser = clicks.draw_positives(tastes, vectors, bias, counts, stream)
    return np.split(items, np.cumsum(counts)[:-1]), normaliser


@pytest.fixture
def by_sums(monkeypatch):
    """Even small sizes are drawn by sums of weights."""
    monkeypatch.setattr(clicks, "DENSE_CELLS", 0)


@pytest.fixture
def problem():
    """Tastes of 300 users, vectors and biases of the items, and how many each user takes."""
    draw = np.random.default_rng(1)
    vectors = draw.standard_normal((ITEMS, 4))
    return draw.standard_normal((300, 4)), vectors, draw.standard_normal(ITEMS), np.full(300, 9)


def test_normaliser(problem, by_sums):
    tastes, vectors, bias, _ = problem
    _, found = drawn(*problem)
    expected = np.log(np.exp(tastes @ vectors.T + bias).sum(axis=1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_every_user_has_its_number_of_different_items(problem, by_sums):
    counts = np.arange(300) % (ITEMS // 2) + 1
    items, _ = drawn(*problem[:3], counts)
    assert [len(np.unique(of)) for of in items] == counts.tolist()
    assert min(map(min, items)) >= 0 and max(map(max, items)) < ITEMS
    again, _ = drawn(*problem[:3], counts)
    assert all((a == b).all() for a, b in zip(items, again, strict=True))


@pytest.mark.parametrize("place", [0, 1])
def test_the_law(place, by_sums):
    """First and second item of many users of one taste, beside their exact probabilities."""
    users = 40_000
    draw = np.random.default_rng(2)
    vectors, bias = draw.standard_normal((ITEMS, 2)), draw.standard_normal(ITEMS)
    taste = np.array([0.7, -0.4])
    items, _ = drawn(np.tile(taste, (users, 1)), vectors, bias, np.full(users, 2))
    p = np.exp(vectors @ taste + bias)
    p /= p.sum()
    if place:  # sum over the first one, j != i, of p_j p_i / (1 - p_j)
        p = p * ((p / (1 - p)).sum() - p / (1 - p))
    found = np.bincount(np.array(items)[:, place], minlength=ITEMS)
    chi_square = ((found - users * p) ** 2 / (users * p)).sum()
    assert chi_square < ITEMS + 5 * np.sqrt(2 * ITEMS)


def test_few_items_with_all_weight(by_sums):
    """Draws by the sums would give two items again and again; the others come all the same."""
    bias = np.zeros(ITEMS)
    bias[[3, 140]] = 50.0
    items, normaliser = drawn(np.zeros((5, 1)), np.zeros((ITEMS, 1)), bias, np.full(5, 6))
    assert all({3, 140} < set(of.tolist()) and len(set(of.tolist())) == 6 for of in items)
    np.testing.assert_allclose(normaliser, 50 + np.log(2), atol=1e-4)


def test_sharp_tastes_do_not_overflow(problem, by_sums):
    tastes, vectors, bias, counts = problem
    items, normaliser = drawn(50 * tastes, vectors, bias, counts)
    weights = 50 * tastes @ vectors.T + bias
    top = weights.max(axis=1)
    exact = top + np.log(np.exp(weights - top[:, None]).sum(axis=1))
    assert np.isfinite(normaliser).all() and len(items) == 300
    np.testing.assert_allclose(normaliser, exact, rtol=1e-5)


def test_which_sizes_are_drawn_by_sums(monkeypatch):
    """All presets keep their bits, which are those of a number for every pair."""
    for config in (
        SyntheticConfig(),
        SyntheticConfig.movielens_1m(),
        SyntheticConfig.book_crossing(),
        SyntheticConfig.large(),
    ):
        assert config.users * config.items <= clicks.DENSE_CELLS
    monkeypatch.setattr(clicks, "_draw_by_sums", None)
    sizes = {"users": 60, "items": 80, "positives": 10, "attributes": 16, "parents": 4}
    make_synthetic(SyntheticConfig(**sizes, triples=435))


def test_the_oracle_beside_items_drawn_by_sums(by_sums):
    data = make_synthetic(SyntheticConfig(users=500))
    positive = data.rows.labels == 1
    assert np.isfinite(data.oracle).all() and data.oracle.max() < 0
    assert data.oracle[positive].mean() > data.oracle[~positive].mean() + 1


@pytest.mark.parametrize("latent", [4, 200])
def test_sums_do_not_depend_on_the_threads_of_numpy(latent):
    """Its threads are chosen when it is imported."""
    script = (
        "import hashlib, numpy as np; from ekpnet_fast.data.synthetic import clicks;"
        f"draw = np.random.default_rng(0); vectors = draw.standard_normal((20_000, {latent}));"
        "parts = clicks._parts(vectors, draw.standard_normal(20_000));"
        f"rows = np.float32(draw.standard_normal((128, {latent + 1})) / {latent});"
        "print(hashlib.sha256(clicks._sums(rows, parts)).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(found) == 1 and "" not in found
