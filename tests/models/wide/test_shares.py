"""Shares of the wide part's logit: they add up to what the ops compute, and are divided rightly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ekpnet_fast.models.wide import graph_regression, sources
from ekpnet_fast.models.wide.curves import quantiles
from ekpnet_fast.models.wide.part import LinearOptions, LinearPart
from ekpnet_fast.models.wide.shares import kind_of
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.pairs import TrainContext
from support.graphs import csr

USERS, ITEMS, ENTITIES, RELATIONS = 30, 40, 60, 3
NEW = (0, 1, 7, 11, 30)  # items 0 and 1 have no click and no triple


@pytest.fixture(autouse=True)
def less_is_chance(monkeypatch):
    """Clicks that are drawn blindly tell little but chance; some of it is to be told here."""
    monkeypatch.setattr(graph_regression, "MEDIAN", 5.0)


def drawn_part(**options):
    """Part whose curves are drawn, over drawn clicks and triples; and the train histories."""
    stream = np.random.default_rng(0)
    clicks = stream.random((USERS, ITEMS)) < 0.15
    clicks[:, 0] = False
    lists = [np.flatnonzero(row).tolist() for row in clicks]
    triples = [
        stream.integers(low, high, 160).astype(np.int32)
        for low, high in ((2, ITEMS), (0, RELATIONS), (ITEMS, ENTITIES))
    ]
    graph = Graph.from_triples(*triples, ENTITIES, RELATIONS)
    given = LinearOptions(ease=20.0, joint_ridge=2.0, p3alpha=True, user_knn=7, **options)
    part = LinearPart(given, TrainContext(graph, USERS, ITEMS, *csr(lists), seed=0))
    histories = Histories(*csr(lists))
    ends = torch.arange(USERS + 1) * ITEMS
    every = torch.arange(ITEMS, dtype=torch.int32).repeat(USERS)
    part.knots.copy_(quantiles(part.affinities.features(histories, ends, every), given.pieces))
    drawn = torch.from_numpy(stream.random(part.weight.shape)).float()
    part.weight.copy_(drawn * (part.knots.diff(dim=1) > 0))
    part.bias.fill_(-1.5)
    return part, lists


@pytest.fixture(params=["squares", "neighbours", "few neighbours"])
def problem(request, monkeypatch):
    if request.param != "squares":
        monkeypatch.setattr(sources, "MOSTLY_FULL", 1.0)
    if request.param == "few neighbours":
        monkeypatch.setattr(sources, "MOSTLY_FULL", 1.0)
        return drawn_part(neighbours=4)
    return drawn_part()


def test_shares_add_up_to_the_logit(problem):
    """Of known and new histories, whole, and masked as the ops compute it without an item."""
    part, lists = problem
    assert (part.affinities.sources.indptrs[0].numel() == 0) == (
        len(part.affinities.sources.values[0].shape) == 2
    )
    histories = [lists[3], NEW, []]
    logits = part._logits(part.affinities, Histories(*csr([list(h) for h in histories])))
    bases = set()
    for history, wanted in zip(histories, logits.tolist(), strict=True):
        for item in range(ITEMS):
            found = part.shares(torch.tensor(history, dtype=torch.int32), item)
            total = found.base + sum(found.alone.values()) + found.by_item().sum()
            assert total == pytest.approx(wanted[item], abs=2e-5)
            assert found.logit == pytest.approx(wanted[item], abs=2e-5)
            assert found.by_affinity().sum() == pytest.approx(found.by_item().sum())
            signed = [found.features.index("graph regression")]
            assert (np.delete(found.rises(), signed) >= 0).all()
            bases.add(round(found.base, 9))
    assert len(bases) == 1


def test_shares_add_up_after_changes(problem):
    """Of the graph and the catalogue: items with other facts, with new ones, and a new item."""
    part, lists = problem
    stream = np.random.default_rng(4)
    heads = np.append(stream.integers(2, ITEMS, 150), [5, ENTITIES, ENTITIES, ENTITIES])
    tails = np.append(stream.integers(ITEMS, ENTITIES, 150), [ENTITIES + 1, ENTITIES + 1, 45, 50])
    relations = np.append(stream.integers(0, RELATIONS, 150), [0, 0, 1, 2])
    triples = (x.astype(np.int32) for x in (heads, relations, tails))
    graph = Graph.from_triples(*triples, ENTITIES + 2, RELATIONS)
    catalogue = torch.tensor([*range(ITEMS), ENTITIES], dtype=torch.int32)
    source = TrainContext(graph, USERS, ITEMS + 1, *csr(lists), seed=0, catalogue=catalogue)
    now = part.following(source)
    histories = [lists[3], [2, 5, 11]]
    logits = now._logits(now.affinities, Histories(*csr(histories)))
    speaks = 0
    for history, wanted in zip(histories, logits.tolist(), strict=True):
        for item in range(ITEMS + 1):
            entity = int(catalogue[item])
            found = now.shares(torch.tensor(history, dtype=torch.int32), entity)
            total = found.base + sum(found.alone.values()) + found.by_item().sum()
            assert total == pytest.approx(wanted[item], abs=2e-5)
            effects = found.by_affinity()[found.names.index("graph regression")]
            for place in range(len(history)):
                told = found.triples(place, "taste")
                assert sum(t.effect for t in told) == pytest.approx(effects[place], abs=1e-6)
                speaks += item == ITEMS and bool(told)
    assert speaks  # the new item's known facts


def test_an_item_that_shares_nothing_has_the_base(problem):
    """Item 0 has neither clicks nor triples; the other curves start at affinity 0."""
    part, _ = problem
    part.weight[part.names.index("EASE over the user's mean")] = 0  # knows all items
    for name in part.names:  # noise of projections is above 0
        if name.startswith(("low-pass", "joint")):
            part.weight[part.names.index(name)] = 0
    found = part.shares(torch.tensor([7, 11], dtype=torch.int32), 0)
    assert found.logit == pytest.approx(found.base)
    assert list(found.alone.values()) == pytest.approx([0, 0], abs=1e-6)


def test_shares_are_in_proportion_to_the_entries(problem):
    part, lists = problem
    found = part.shares(torch.tensor(lists[3], dtype=torch.int32), 9)
    by_item, of = found.by_item(), found.affinities.sources.responses[:, 0].tolist()
    rises = found.rises()
    checked = 0
    for feature, a in enumerate(of):
        total = found.entries[a].sum()
        signed = found.features[feature] == "graph regression"
        if total <= 0 and not signed:
            assert rises[feature] == 0 and not by_item[feature].any()
            continue
        wanted = rises[feature] * found.entries[a] / total
        np.testing.assert_allclose(by_item[feature], wanted)
        checked += 1
    assert checked > 5


def test_masked_entries_are_a_shorter_sum(problem):
    """Of a feature over the user's mean, worked out here."""
    part, lists = problem
    found = part.shares(torch.tensor(lists[3], dtype=torch.int32), 9)
    kept = np.ones_like(found.entries, dtype=bool)
    kept[:, 0] = False
    n = len(lists[3])
    feature = list(part.names).index("co-click over the user's mean") - 2
    _, smoothing = part.affinities.sources.constants[feature].tolist()
    for counted in (None, kept):
        S = found.entries[0, 1:].sum() / math.sqrt(n)
        M = found.means[0, 0 if counted is None else 1 :].sum() / math.sqrt(n)
        x = math.log(S / (M + smoothing) + 0.5)
        knots, weight = found.knots[feature].tolist(), found.weight[feature].tolist()

        def curve(x, knots=knots, weight=weight):
            total = 0.0
            for p, w in enumerate(weight):
                low = x if p == 0 else max(x, knots[p])
                end = low if p == len(weight) - 1 else min(low, knots[p + 1])
                total += w * (end - knots[p]) / (knots[p + 1] - knots[p]) if w else 0.0
            return total

        wanted = curve(x) - curve(math.log(0.5))
        assert found.rises(kept, counted)[feature] == pytest.approx(wanted, abs=1e-6)


def test_shares_of_the_graph_are_divided_among_triples(problem):
    """Matches by the triples that both items have, in proportion to the squares of their idf."""
    part, lists = problem
    knowledge, graph = part.knowledge, part.knowledge.weighed
    history = torch.tensor(lists[3], dtype=torch.int32)
    divided = {"match": 0, "walk": 0, "taste": 0}
    for item in range(ITEMS):
        found = part.shares(history, item)
        effects = found.by_affinity()
        for place, j in enumerate(lists[3]):
            for kind in divided:
                triples = found.triples(place, kind)
                of_kind = [a for a, name in enumerate(found.names) if kind_of(name) == kind]
                assert sum(t.effect for t in triples) == pytest.approx(
                    effects[of_kind, place].sum()
                )
                divided[kind] += bool(triples)
            # Where the neighbour is left out of the matches, some relation's alone may have it.
            common = {knowledge.pair(c) for c in {*graph[j].indices} & {*graph[item].indices}}
            told = {t[:2] for t in found.triples(place, "match")}
            whole = found.entries[found.names.index("KG match"), place] > 0
            assert told == common if whole else told <= common
            told = {t[:2] for t in found.triples(place, "taste")}
            assert told <= {knowledge.pair(c) for c in graph[item].indices}
            assert found.triples(place, "clicks") == []
    assert divided["match"] > 20 and divided["walk"] > 20 and divided["taste"] > 20


def test_triples_of_a_match_by_hand():
    """Items 2 and 3 share a rare tail and a common one: log(I / 2)^2 against log(I / 4)^2."""
    heads = np.array([2, 3, 2, 3, 4, 5], dtype=np.int32)
    relations = np.array([0, 0, 1, 1, 1, 1], dtype=np.int32)
    tails = np.array([8, 8, 9, 9, 9, 9], dtype=np.int32)
    graph = Graph.from_triples(heads, relations, tails, 10, 2)
    source = TrainContext(graph, 2, 8, *csr([[2, 4], [3, 5]]), seed=0)
    part = LinearPart(LinearOptions(pieces=1, relations=1), source)
    part.knots.copy_(torch.tensor([0.0, 1.0]).repeat(len(part.names), 1))
    part.weight[part.names.index("KG match")] = 1.0
    found = part.shares(torch.tensor([2], dtype=torch.int32), 3)
    rare, common = math.log(4) ** 2, math.log(2) ** 2
    rise = math.log(1 + 1e-2) - math.log(1e-2)  # the items are alike: a cosine of 1
    assert found.logit - found.base == pytest.approx(rise, abs=1e-6)
    assert [t[:2] for t in found.triples(0, "match")] == [(0, 8), (1, 9)]
    assert [t.effect for t in found.triples(0, "match")] == pytest.approx(
        [rise * rare / (rare + common), rise * common / (rare + common)], abs=1e-5
    )
    part.weight.zero_()
    # Of the relation that most items have: the common tail alone.
    part.weight[part.names.index("KG match by relation of rank 1 over the user's mean")] = 1.0
    found = part.shares(torch.tensor([2], dtype=torch.int32), 3)
    assert [t[:2] for t in found.triples(0, "match")] == [(1, 9)]


def test_every_affinity_has_a_kind():
    names = LinearOptions(ease=1.0, joint_ridge=2.0, p3alpha=True, user_knn=1).names
    assert {kind_of(name) for name in names} == {"clicks", "joint", "walk", "taste", "match"}
    with pytest.raises(KeyError, match="no such affinity"):
        kind_of("no such affinity")
