"""Neighbour models against dense NumPy and SciPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from ekpnet_fast.config import RunConfig
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models import MODELS
from ekpnet_fast.models.neighbours import (
    ItemKNNOptions,
    LocalRidgeOptions,
    P3AlphaOptions,
    UserKNNOptions,
)
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.pairs import PairRequest, TrainContext
from ekpnet_fast.training import loop
from support.small_training import CONFIG, load

OPTIONS = {
    "item_knn": ItemKNNOptions(user_power=0.7, history_power=0.4, item_power=0.2),
    "p3alpha": P3AlphaOptions(alpha=1.3, beta=0.4),
    "local_ridge": LocalRidgeOptions(weight=3.0),
    "user_knn": UserKNNOptions(neighbours=9, item_power=0.3),
}
every = pytest.mark.parametrize("name", OPTIONS)
of_items = pytest.mark.parametrize("name", [name for name in OPTIONS if name != "user_knn"])


def clicks(users=40, items=15, seed=0):
    """Clicks [U, I]: the first user has none, nor has the last item."""
    found = (np.random.default_rng(seed).random((users, items)) < 0.25).astype(float)
    found[0], found[:, -1] = 0, 0
    return found


def built(name, A, options=None):
    """Model of a data set with the clicks A and one triple."""
    rows = sparse.csr_matrix(A)
    rows.sort_indices()
    U, I = A.shape  # noqa: E741
    graph = Graph.from_triples(
        np.int32([0]), np.int32([0]), np.int32([I]), num_entities=I + 1, num_relations=1
    )
    source = TrainContext(
        graph,
        U,
        I,
        torch.from_numpy(rows.indptr.astype(np.int64)),
        torch.from_numpy(rows.indices.astype(np.int32)),
        seed=0,
    )
    config = resolve(RunConfig(model=name, options=options or OPTIONS[name]))
    return MODELS[name](config, source)


def expected(name, A, options):
    """Similarities [I, I], all of them, from the formulas."""
    d, n, G = A.sum(0), A.sum(1), A.T @ A
    with np.errstate(divide="ignore", invalid="ignore"):
        if name == "item_knn":
            G = A.T @ np.diag(np.where(n > 0, n**-options.user_power, 0)) @ A
            S = G * d[:, None] ** -options.history_power * d**-options.item_power
        elif name == "p3alpha":
            to_user = (A / d).T ** options.alpha
            to_item = np.nan_to_num(A / n[:, None]) ** options.alpha
            S = to_user @ to_item / d**options.beta
        else:
            S = np.zeros_like(G)
            for i in range(len(G)):
                near = [j for j in np.flatnonzero(G[:, i]) if j != i]
                ridge = G[np.ix_(near, near)] + options.weight * np.eye(len(near))
                S[near, i] = np.linalg.solve(ridge, G[near, i])
    S = np.nan_to_num(S, posinf=0)
    np.fill_diagonal(S, 0)
    return S


@of_items
def test_similarities_are_those_of_the_formula(name):
    A = clicks()
    found = built(name, A).similar.toarray()
    assert found == pytest.approx(expected(name, A, OPTIONS[name]), rel=1e-4, abs=1e-6)
    assert (found != 0).sum() > 60


@pytest.mark.parametrize("name", ["item_knn", "p3alpha"])
def test_each_item_keeps_its_strongest(name):
    A, options = clicks(), replace(OPTIONS[name], neighbours=3)
    every, found = expected(name, A, options), built(name, A, options).similar.toarray()
    if name == "item_knn":  # which an item keeps of those that speak for it
        every, found = every.T, found.T
    for whole, kept in zip(every, found, strict=True):
        # The diagonal takes the fourth place, if it is among the four strongest.
        count = int((kept > 0).sum())
        assert count in (3, 4) or not whole.any()
        assert np.sort(kept)[::-1][:count] == pytest.approx(np.sort(whole)[::-1][:count], rel=1e-5)


def test_ridge_with_few_neighbours_is_that_of_the_most_similar():
    A, options = clicks(), LocalRidgeOptions(neighbours=2, weight=3.0)
    knn = expected("item_knn", A, ItemKNNOptions())
    G, found = A.T @ A, built("local_ridge", A, options).similar.toarray()
    for i in range(A.shape[1] - 1):
        kept = np.flatnonzero(found[:, i])
        assert len(kept) in (2, 3)
        assert set(kept) == set(np.argsort(-knn[:, i])[: len(kept)])
        solved = np.linalg.solve(G[np.ix_(kept, kept)] + 3 * np.eye(len(kept)), G[kept, i])
        assert found[kept, i] == pytest.approx(solved, rel=1e-4)


@of_items
def test_scores_are_sums_over_the_history(name, monkeypatch):
    A = clicks()
    model = built(name, A)
    model.threshold.fill_(0.25)
    request = PairRequest(
        torch.tensor([3, 0, 7], dtype=torch.int32),
        torch.tensor([0, 2, 3, 5]),
        torch.tensor([4, 1, 2, 14, 4], dtype=torch.int32),
        epoch=0,
    )
    S = model.similar.toarray()
    sums = [A[u] @ S[:, i] for u, i in zip([3, 3, 0, 7, 7], [4, 1, 2, 14, 4], strict=True)]
    found = model.inputs(request)["score"]
    assert found.tolist() == pytest.approx(sums, rel=1e-5, abs=1e-7)
    assert found[2] == 0 and found[3] == 0
    monkeypatch.setattr("ekpnet_fast.models.neighbours.SCORES", 1)
    assert torch.equal(model.inputs(request)["score"], found)
    # A history that was not in training, of items 2 and 5.
    given = Histories(torch.tensor([0, 2]), torch.tensor([2, 5], dtype=torch.int32))
    new = PairRequest(
        torch.tensor([0], dtype=torch.int32),
        torch.tensor([0, 1]),
        torch.tensor([4], dtype=torch.int32),
        epoch=0,
        histories=given,
        ids=torch.tensor([0], dtype=torch.int32),
    )
    assert float(model.inputs(new)["score"]) == pytest.approx(S[2, 4] + S[5, 4], rel=1e-5)


def test_users_near_a_history_speak():
    """Of a known user and of a new one, by the formula; and refreshed by other clicks."""
    A, later = clicks(), clicks(seed=1)
    model, again = built("user_knn", A), built("user_knn", later)
    model.threshold.fill_(0.5)
    fresh = model.refreshed(again.source, None)
    assert float(fresh.threshold) == 0.5
    users = torch.tensor([7, 3], dtype=torch.int32)
    request = PairRequest(
        users, torch.tensor([0, 15, 30]), torch.arange(15, dtype=torch.int32).repeat(2), epoch=0
    )
    for found, B in ((model, A), (fresh, later)):
        d, n = B.sum(0), B.sum(1)
        with np.errstate(divide="ignore"):
            by_item, by_user = np.where(d > 0, d**-0.5, 0), np.where(n > 0, n**-0.5, 0)
            less = np.where(d > 0, d**-0.3, 0)
        scores = found.inputs(request)["score"].view(2, 15).numpy()
        for row, u in zip(scores, (7, 3), strict=True):
            near = (B * by_item) @ B[u] * by_user
            near[B @ B[u] == n] = 0
            near[np.argsort(-near, kind="stable")[9:]] = 0
            assert (near > 0).sum() == 9 and near[u] == 0
            assert row == pytest.approx(near @ B * less, rel=1e-4, abs=1e-6)
    assert not np.array_equal(
        model.inputs(request)["score"].numpy(), fresh.inputs(request)["score"].numpy()
    )


@every
def test_threshold_divides_validation_best(name):
    config = resolve(replace(CONFIG, model=name))
    prepared, graph = load(config)
    model = loop.train(config, prepared, graph).model
    valid = prepared.valid
    request = PairRequest(
        torch.from_numpy(valid.users),
        torch.arange(len(valid) + 1),
        torch.from_numpy(valid.items),
        epoch=0,
    )
    scores = model.inputs(request)["score"].numpy()
    right = [((scores >= t) == (valid.labels == 1)).mean() for t in np.unique(scores)]
    found = ((scores >= float(model.threshold)) == (valid.labels == 1)).mean()
    assert found == max(right) > 0.5


@of_items
def test_refreshed_follows_the_histories(name):
    A, later = clicks(seed=0), clicks(seed=1)
    model, other = built(name, A), built(name, later)
    model.threshold.fill_(0.5)
    before = model.similar.toarray()
    again = model.refreshed(other.source, None)
    assert np.array_equal(again.similar.toarray(), other.similar.toarray())
    assert float(again.threshold) == 0.5
    assert np.array_equal(model.similar.toarray(), before)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("item_knn", {"neighbours": -1}, r"--item_knn.neighbours is -1, expected at least 0"),
        ("item_knn", {"item_power": 3.0}, r"--item_knn.item_power is 3.0, expected 0 to 2"),
        ("p3alpha", {"alpha": float("inf")}, r"--p3alpha.alpha is inf, expected 0 to 4"),
        ("p3alpha", {"beta": -0.5}, r"--p3alpha.beta is -0.5, expected 0 to 2"),
        ("user_knn", {"neighbours": 0}, r"--user_knn.neighbours is 0, expected at least 1"),
        ("user_knn", {"user_power": -1.0}, r"--user_knn.user_power is -1.0, expected 0 to 2"),
        ("local_ridge", {"neighbours": 0}, r"--local_ridge.neighbours is 0, expected 1 to 2048"),
        ("local_ridge", {"weight": 0.0}, r"--local_ridge.weight is 0.0, expected more than 0"),
    ],
)
def test_refuses_options_out_of_range(name, change, message):
    with pytest.raises(ConfigError, match=message):
        resolve(RunConfig(model=name, options=replace(OPTIONS[name], **change)))


@every
def test_refuses_folds(name):
    with pytest.raises(ConfigError, match=rf"--folds is 5, expected 1: {name} does not learn"):
        resolve(RunConfig(model=name, folds=5))
