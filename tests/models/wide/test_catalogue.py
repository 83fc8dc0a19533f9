"""Logits of all items, against the curves of their features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ekpnet_fast.models.wide import affinity, catalogue
from ekpnet_fast.models.wide.affinity import (
    Affinities,
    ItemTripleFeatures,
    SignalOptions,
    feature_names,
)
from ekpnet_fast.models.wide.catalogue import catalogue_logits
from ekpnet_fast.models.wide.curves import curves, quantiles
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from support.graphs import csr

USERS, ITEMS, ENTITIES, RELATIONS = 50, 40, 60, 3
OPTIONS = SignalOptions(seven_hop=True, relations=4)
NAMES = feature_names(OPTIONS)


@pytest.fixture(scope="module")
def problem():
    """Histories, one of which is empty, and a graph; few of its items share a triple."""
    stream = np.random.default_rng(1)
    clicks = stream.random((USERS, ITEMS)) < 0.1
    clicks[3] = False
    histories = Histories(*csr([np.flatnonzero(row).tolist() for row in clicks]))
    heads, tails = stream.integers(0, ITEMS, 60), stream.integers(ITEMS, ENTITIES, 60)
    relations = stream.integers(0, RELATIONS, 60)
    triples = (heads.astype(np.int32), relations.astype(np.int32), tails.astype(np.int32))
    return histories, Graph.from_triples(*triples, ENTITIES, RELATIONS)


def expected(affinities, histories, knots, weight):
    G = len(histories)
    items = np.tile(np.arange(ITEMS, dtype=np.int32), G)
    features = affinities.features(histories, np.arange(G + 1) * ITEMS, items)
    return curves(torch.from_numpy(features), knots, weight).view(G, ITEMS)


def curved(affinities, histories, draw):
    """Knots, and weights of which a third are 0."""
    G = len(histories)
    items = np.tile(np.arange(ITEMS, dtype=np.int32), G)
    features = affinities.features(histories, np.arange(G + 1) * ITEMS, items)
    knots = quantiles(torch.from_numpy(features), 3)
    weight = torch.rand(len(NAMES), 3, generator=draw)
    return knots, torch.where((weight < 0.33) | (knots.diff(dim=1) == 0), 0.0, weight)


@pytest.mark.parametrize("few_items", [True, False], ids=["products", "walks"])
@pytest.mark.parametrize("mostly_zero", [0.0, 0.5, 1.0])
def test_logits_are_the_sums_of_the_curves(problem, few_items, mostly_zero, monkeypatch):
    """Affinities as arrays and as sparse matrices, and parts of a block that are not full."""
    histories, graph = problem
    monkeypatch.setattr(affinity, "DENSE_CLICKS", 0 if few_items else 10**9)
    monkeypatch.setattr(catalogue, "MOSTLY_ZERO", mostly_zero)
    monkeypatch.setattr(catalogue, "HISTORIES_AT_ONCE", 16)
    monkeypatch.setattr(catalogue, "IN_CACHE", 3 * ITEMS)
    affinities = Affinities(histories, ItemTripleFeatures(graph, ITEMS), OPTIONS)
    assert (affinities.affinities[0].product is not None) == few_items
    knots, weight = curved(affinities, histories, torch.Generator().manual_seed(0))
    found = catalogue_logits(affinities, histories, knots, weight)
    torch.testing.assert_close(
        found, expected(affinities, histories, knots, weight), rtol=1e-4, atol=1e-4
    )


def test_every_feature_counts(problem):
    """Its own curve alone, so that none can hide behind another."""
    histories, graph = problem
    affinities = Affinities(histories, ItemTripleFeatures(graph, ITEMS), OPTIONS)
    knots, _ = curved(affinities, histories, torch.Generator().manual_seed(0))
    for feature in range(len(NAMES)):
        weight = torch.zeros(len(NAMES), 3)
        weight[feature] = torch.where(knots.diff(dim=1)[feature] > 0, 1.0, 0.0)
        found = catalogue_logits(affinities, histories, knots, weight)
        wanted = expected(affinities, histories, knots, weight)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4, msg=NAMES[feature])


def test_the_same_bits_at_any_number_of_threads(problem, monkeypatch):
    histories, graph = problem
    monkeypatch.setattr(catalogue, "HISTORIES_AT_ONCE", 8)
    affinities = Affinities(histories, ItemTripleFeatures(graph, ITEMS), OPTIONS)
    knots, weight = curved(affinities, histories, torch.Generator().manual_seed(0))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 8):
            torch.set_num_threads(threads)
            found.append(catalogue_logits(affinities, histories, knots, weight))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_no_histories(problem):
    histories, graph = problem
    affinities = Affinities(histories, ItemTripleFeatures(graph, ITEMS), OPTIONS)
    nobody = histories.of(torch.zeros(0, dtype=torch.int64))
    knots, weight = torch.zeros(len(NAMES), 4), torch.zeros(len(NAMES), 3)
    assert catalogue_logits(affinities, nobody, knots, weight).shape == (0, ITEMS)
