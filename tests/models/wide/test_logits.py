"""Logits of the wide part's pairs and catalogues, against the curves of its features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ekpnet_fast.models.wide import affinity, sources
from ekpnet_fast.models.wide.affinity import Affinities
from ekpnet_fast.models.wide.curves import curves, quantiles
from ekpnet_fast.models.wide.item_triples import ItemTripleFeatures
from ekpnet_fast.models.wide.signals import SignalOptions, feature_names
from ekpnet_fast.ops.threads import torch_on_one_thread
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from support.graphs import csr

# More items than meet a vector at a time, more histories than are scored at a time.
USERS, ITEMS, ENTITIES, RELATIONS = 70, 300, 350, 3
OPTIONS = SignalOptions(joint_ridge=3.0, p3alpha=True, user_knn=6)
NAMES = feature_names(OPTIONS)


@pytest.fixture(scope="module")
def problem():
    """Histories, one of which is empty, and a graph; few of its items share a triple."""
    stream = np.random.default_rng(1)
    clicks = stream.random((USERS, ITEMS)) < 0.03
    clicks[3] = False
    histories = Histories(*csr([np.flatnonzero(row).tolist() for row in clicks]))
    heads, tails = stream.integers(0, ITEMS, 400), stream.integers(ITEMS, ENTITIES, 400)
    relations = stream.integers(0, RELATIONS, 400)
    triples = (heads.astype(np.int32), relations.astype(np.int32), tails.astype(np.int32))
    return histories, Graph.from_triples(*triples, ENTITIES, RELATIONS)


def described(problem, count=ITEMS):
    histories, graph = problem
    return histories, Affinities(histories, ItemTripleFeatures(graph, ITEMS, count), OPTIONS)


def every_pair(groups):
    return torch.arange(groups + 1) * ITEMS, torch.arange(ITEMS, dtype=torch.int32).repeat(groups)


def curved(features):
    """Knots, and weights of which a third are 0."""
    draw = torch.Generator().manual_seed(0)
    knots = quantiles(features, 3)
    weight = torch.rand(len(NAMES), 3, generator=draw)
    return knots, torch.where((weight < 0.33) | (knots.diff(dim=1) == 0), 0.0, weight)


def expected(features, knots, weight, bias):
    return curves(features, knots, weight) + bias


@pytest.mark.parametrize("full", [0.0, 1.0], ids=["squares", "neighbours"])
@pytest.mark.parametrize("count", [ITEMS, 4])
def test_logits_are_the_sums_of_the_curves(problem, full, count, monkeypatch):
    """Of all items, few of which are reached through few neighbours, and of some pairs."""
    monkeypatch.setattr(sources, "MOSTLY_FULL", full)
    histories, affinities = described(problem, count)
    features = affinities.features(histories, *every_pair(USERS))
    knots, weight = curved(features)
    wanted = expected(features, knots, weight, 0.3).view(USERS, ITEMS)
    found = affinities.logits(histories, knots, weight, 0.3)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    by_pair = affinities.logits(histories, knots, weight, 0.3, *every_pair(USERS))
    torch.testing.assert_close(by_pair.view(USERS, ITEMS), wanted, rtol=1e-4, atol=1e-4)
    ids, items = torch.tensor([5, 3, 5]), torch.tensor([7, 299, 0, 7], dtype=torch.int32)
    some = affinities.logits(
        histories.of(ids), knots, weight, 0.3, torch.tensor([0, 2, 3, 4]), items
    )
    of_some = wanted[[5, 5, 3, 5], items.long()]
    torch.testing.assert_close(some, of_some, rtol=1e-4, atol=1e-4)


def test_every_feature_counts(problem):
    """Its own curve alone, so that none can hide behind another."""
    histories, affinities = described(problem)
    features = affinities.features(histories, *every_pair(USERS))
    knots, _ = curved(features)
    for feature in range(len(NAMES)):
        weight = torch.zeros(len(NAMES), 3)
        weight[feature] = torch.where(knots.diff(dim=1)[feature] > 0, 1.0, 0.0)
        wanted = expected(features, knots, weight, 0.0).view(USERS, ITEMS)
        found = affinities.logits(histories, knots, weight, 0.0)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4, msg=NAMES[feature])


def test_a_history_has_the_same_logits_alone_and_among_others(problem):
    histories, affinities = described(problem, 20)
    knots, weight = curved(affinities.features(histories, *every_pair(USERS)))
    every = affinities.logits(histories, knots, weight, 0.0)
    for user in (0, 3, USERS - 1):
        alone = affinities.logits(histories.of(torch.tensor([user])), knots, weight, 0.0)
        assert torch.equal(alone[0], every[user])


def test_histories_some_at_a_time(problem, monkeypatch):
    """The users near them take memory; what they give is the same."""
    histories, affinities = described(problem, 20)
    ids = torch.arange(USERS - 3)
    asked, (ends, items) = histories.of(ids), every_pair(len(ids))
    ends, items = (
        torch.cat([ends[:5], ends[5:] - 7]),
        torch.cat([items[: 5 * ITEMS - 7], items[5 * ITEMS :]]),
    )
    features = affinities.features(asked, ends, items)
    knots, weight = curved(features)
    found = [affinities.logits(asked, knots, weight, 0.0, *pairs) for pairs in ((), (ends, items))]
    monkeypatch.setattr(affinity, "BLOCK", 9)
    again = [affinities.logits(asked, knots, weight, 0.0, *pairs) for pairs in ((), (ends, items))]
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert torch.equal(affinities.features(asked, ends, items), features)


def test_the_same_bits_at_any_number_of_threads(problem):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 8):
            torch.set_num_threads(threads)
            with torch_on_one_thread():  # as where the part is fitted
                histories, affinities = described(problem, 20)
            features = affinities.features(histories, *every_pair(USERS))
            knots, weight = curved(features)
            found.append([features, affinities.logits(histories, knots, weight, 0.0)])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_no_histories(problem):
    histories, affinities = described(problem)
    nobody = histories.of(torch.zeros(0, dtype=torch.int64))
    knots, weight = torch.zeros(len(NAMES), 4), torch.zeros(len(NAMES), 3)
    assert affinities.logits(nobody, knots, weight, 0.0).shape == (0, ITEMS)
