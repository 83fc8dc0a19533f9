"""Affinities after a change of the graph, against a plain reference with the fitted weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ekpnet_fast.models.wide import graph_regression, sources
from ekpnet_fast.models.wide.affinity import Affinities
from ekpnet_fast.models.wide.item_triples import MAX_ITEMS_PER_PAIR, ItemTripleFeatures
from ekpnet_fast.models.wide.live import FittedTriples, items_first, with_graph
from ekpnet_fast.models.wide.signals import SignalOptions, feature_names, source_names
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories

ITEMS, NEW, ENTITIES, RELATIONS, USERS = 30, 3, 70, 3, 25
OPTIONS = SignalOptions(
    low_pass=(3,),
    joint_spectral=(2, 5),
    relations=4,
    ease=2.0,
    p3alpha=True,
    user_knn=5,
    joint_ridge=3.0,
)


@pytest.fixture(autouse=True)
def less_is_chance(monkeypatch):
    """Clicks that are drawn blindly tell little but chance; some of it is to be told here."""
    monkeypatch.setattr(graph_regression, "MEDIAN", 5.0)


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Triples [T, 3] of items and others, and clicks [U, I]."""
    rng = np.random.default_rng(seed)
    triples = np.stack(
        [
            rng.integers(0, ITEMS, 90),
            rng.integers(0, RELATIONS, 90),
            ITEMS + np.minimum(rng.geometric(0.08, 90), ENTITIES - ITEMS - 1),
        ],
        1,
    )
    return triples, rng.random((USERS, ITEMS)) < 0.15


def changed(triples: np.ndarray, seed: int) -> np.ndarray:
    """Triples without some, with others, and with those of new items and of new entities."""
    rng = np.random.default_rng([seed, 1])
    kept = triples[rng.random(len(triples)) < 0.93]
    once = [t for t in triples if (triples[:, 1:] == t[1:]).all(1).sum() == 1][:2]
    more = [
        [4, 0, ENTITIES + NEW],  # a pair that nobody had, and then two have
        [ENTITIES, 0, ENTITIES + NEW],
        [ENTITIES, 1, triples[0, 2]],
        *([ENTITIES + 1, r, t] for _, r, t in once),  # what a single item had
        [7, 2, triples[3, 2]],
    ]
    return np.concatenate([kept, more])


def graph_of(triples: np.ndarray, entities: int) -> Graph:
    h, r, t = triples.astype(np.int32).T.copy()
    return Graph.from_triples(h, r, t, entities, RELATIONS, inverse=True)


def sets_of(graph: Graph, catalogue: np.ndarray) -> list[set[tuple[int, int]]]:
    ends = graph.indptr.tolist()
    pairs = list(zip(graph.relations.tolist(), graph.tails.tolist(), strict=True))
    return [set(pairs[ends[e] : ends[e + 1]]) for e in catalogue.tolist()]


def unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


class Reference:
    """Everything by dense matrices, with weights of the fitted graph."""

    def __init__(
        self, before: list[set], after: list[set], fitted: Affinities, fitted_codes: np.ndarray
    ) -> None:
        pairs = sorted(set().union(*before, *after))
        self.old, self.now = (
            np.array([[float(p in own) for p in pairs] for own in sets]) for sets in (before, after)
        )
        degree, degree_now = self.old.sum(0), self.now.sum(0)
        idf = np.log(ITEMS / np.maximum(degree, 1))
        relation = np.array([r for r, _ in pairs])
        match = unit(self.now * idf)
        self.sources = {"KG match": match @ match.T}
        with_relation = {
            r: (self.old[:, relation == r].sum(1) > 0).sum()
            for r in sorted({r for own in before for r, _ in own})
        }
        ranked = sorted(with_relation, key=lambda r: (-with_relation[r], r))
        for rank, r in enumerate(ranked[:4], 1):
            rows = unit((self.now * idf)[:, relation == r])
            self.sources[f"KG match by relation of rank {rank}"] = rows @ rows.T
        few = (degree > 1) & (degree < MAX_ITEMS_PER_PAIR)
        new = (degree <= 1) & (degree_now > 1)
        assert new.sum() >= 2
        near_old = self.near(self.old, few, degree)
        near = self.near(self.now, few | new, np.where(new, degree_now, degree))
        alike = near @ near.T
        places, n = source_names(OPTIONS), len(after)
        clicks = np.zeros((n, n))
        clicks[:ITEMS, :ITEMS] = dense(fitted, places["co-click"])
        self.sources["KG-click-KG"] = alike @ clicks @ alike
        X = fitted.sources.values[places["joint"]].double().numpy()
        values = (X**2).sum(0)
        of_pairs = np.where(new[:, None], near[:ITEMS].T @ X, near_old.T @ X)
        padded = np.concatenate([near_old, np.zeros((n - ITEMS, len(pairs)))])
        self.joint = np.concatenate([X, np.zeros((n - ITEMS, X.shape[1]))])
        self.joint += (near - padded) @ of_pairs / values
        regressed = fitted.graph
        every = np.arange(len(fitted_codes))
        basis = regressed.of_facts(every, 0 * every).numpy() / regressed.basis.by_relation[0]
        codes = {(int(c) >> 32, int(c) & 0xFFFFFFFF): k for k, c in enumerate(fitted_codes)}
        loadings = np.array([basis[codes[p]] if p in codes else 0 * basis[0] for p in pairs])
        by_relation = regressed.basis.weights(relation)
        self.graph = unit(self.now * idf * by_relation) @ loadings
        norms = np.linalg.norm(self.graph, axis=1)
        self.graph *= np.sqrt(fitted.graph.norm / np.where(norms > 0, norms, np.inf))[:, None]
        counts = np.append(fitted.counts, np.zeros(n - ITEMS))
        shared = self.now * (few | new)
        among = shared @ shared.T
        np.fill_diagonal(among, 0)
        self.neighbours = np.log((among @ counts + fitted.counts.mean()) / (among.sum(1) + 1))

    @staticmethod
    def near(table: np.ndarray, chosen: np.ndarray, degree: np.ndarray) -> np.ndarray:
        rows = table * chosen
        return rows / np.sqrt(np.maximum(rows.sum(1, keepdims=True), 1) * np.maximum(degree, 1))


def dense(affinities: Affinities, s: int) -> np.ndarray:
    values, indptr = affinities.sources.values[s], affinities.sources.indptrs[s]
    if not len(indptr):
        return values.double().numpy()
    n = len(indptr) - 1
    square = torch.zeros(n, n, dtype=torch.float64)
    heads = torch.repeat_interleave(torch.arange(n), indptr.diff())
    square[heads, affinities.sources.neighbours[s].long()] = values.double()
    return square.numpy()


def fitted_to(graph: Graph, clicks: np.ndarray) -> FittedTriples:
    items = np.nonzero(clicks)[1]
    indptr = np.append(0, np.cumsum(clicks.sum(1)))
    histories = Histories(torch.from_numpy(indptr), torch.from_numpy(items.astype(np.int32)))
    first = items_first(graph, torch.arange(ITEMS))
    knowledge = ItemTripleFeatures(first, ITEMS, ITEMS)
    return FittedTriples(Affinities(histories, knowledge, OPTIONS), first)


@pytest.fixture(params=["squares", "neighbours"])
def form(request, monkeypatch):
    """All items by all, or neighbours."""
    monkeypatch.setattr(sources, "MOSTLY_FULL", 0.0 if request.param == "squares" else 2.0)


CATALOGUE = np.append(np.arange(ITEMS), ENTITIES + np.arange(NEW))


@pytest.mark.parametrize("seed", range(4))
def test_is_what_the_graph_says_by_the_fitted_weights(form, seed):
    triples, clicks = drawn(seed)
    graph = graph_of(triples, ENTITIES)
    after = graph_of(changed(triples, seed), ENTITIES + NEW + 1)
    fitted = fitted_to(graph, clicks)
    found = with_graph(fitted, items_first(after, torch.from_numpy(CATALOGUE)))
    expected = Reference(
        sets_of(graph, np.arange(ITEMS)),
        sets_of(after, CATALOGUE),
        fitted.affinities,
        fitted.codes,
    )
    places = source_names(OPTIONS)
    for name, square in expected.sources.items():
        np.testing.assert_allclose(dense(found, places[name]), square, atol=2e-6, err_msg=name)
    np.testing.assert_allclose(dense(found, places["joint"]), expected.joint, atol=2e-5)
    regressed = dense(found, places["graph regression"])
    np.testing.assert_allclose(regressed, expected.graph, atol=2e-5)
    assert np.abs(regressed[ITEMS:]).max() > 0.01
    np.testing.assert_allclose(found.neighbours, expected.neighbours, rtol=1e-9)
    assert found.popularity[ITEMS:].tolist() == [np.log(0.5)] * NEW
    for name in (
        "co-click",
        "low-pass",
        "EASE",
        "far co-click",
        "item kNN",
        "ridge",
        "P3alpha",
        "joint ridge",
    ):
        old, now = dense(fitted.affinities, places[name]), dense(found, places[name])
        assert (now[:ITEMS, : old.shape[1]] == old).all()
        assert not now[ITEMS:].any() and not now[:, old.shape[1] :].any()
    asked = Histories(torch.tensor([0, 2, 4]), torch.tensor([2, 9, 2, 9], dtype=torch.int32))
    every = torch.tensor([0, 0, ITEMS]), torch.arange(ITEMS, dtype=torch.int32)
    known, now = (x.features(asked, *every) for x in (fitted.affinities, found))
    row = feature_names(OPTIONS).index("user kNN over the user's mean")
    assert torch.equal(known[row], now[row]) and len(known[row].unique()) > 1
    of_new = Histories(torch.tensor([0, 3]), torch.tensor([2, 9, ITEMS], dtype=torch.int32))
    near = found.users.of(of_new)  # a new item is nobody's
    assert torch.equal(near.values, found.users.of(asked.of(torch.tensor([0]))).values)
    for name in ("low-pass", "joint", "graph regression"):
        s = places[name]
        assert torch.equal(found.sources.transposed[s], found.sources.values[s].T)
    rows = found.sources.affinities.tolist()
    for a, (s, begin, end) in enumerate(rows):
        if s == found.sources.of_users:
            assert not found.sources.means[a].any()
            continue
        mean = dense(found, s).sum(1) / ITEMS
        if end:
            X = dense(fitted.affinities, s)[:, begin:end]
            mean = dense(found, s)[:, begin:end] @ X.mean(0)
        np.testing.assert_allclose(found.sources.means[a].numpy(), mean, atol=2e-6)


def same(a: Affinities, b: Affinities) -> bool:
    pairs = [(a.popularity, b.popularity), (a.neighbours, b.neighbours)]
    for x, y in zip(a.sources, b.sources, strict=True):
        pairs += zip(x, y, strict=True) if isinstance(x, list) else [(x, y)]
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)


def test_what_was_changed_back_is_as_before(form):
    triples, clicks = drawn(0)
    fitted = fitted_to(graph_of(triples, ENTITIES), clicks)
    shuffled = graph_of(triples[::-1], ENTITIES)
    assert with_graph(fitted, items_first(shuffled, torch.arange(ITEMS))) is fitted.affinities


def test_does_not_depend_on_the_way(form):
    """The same graph and catalogue give the same bits, in whatever order triples came."""
    triples, clicks = drawn(1)
    after = changed(triples, 1)
    fitted = fitted_to(graph_of(triples, ENTITIES), clicks)
    catalogue = torch.from_numpy(CATALOGUE)
    found = [
        with_graph(fitted, items_first(graph_of(rows, ENTITIES + NEW + 1), catalogue))
        for rows in (after, after[::-1])
    ]
    assert same(*found) and not same(found[0], fitted.affinities)
    with_graph(fitted, items_first(graph_of(triples[5:], ENTITIES), torch.arange(ITEMS)))
    again = with_graph(fitted, items_first(graph_of(after, ENTITIES + NEW + 1), catalogue))
    assert same(again, found[0])


def test_keeps_no_more_neighbours_than_fitted(monkeypatch):
    monkeypatch.setattr(sources, "MOSTLY_FULL", 2.0)
    triples, clicks = drawn(2)
    graph = graph_of(triples, ENTITIES)
    every = fitted_to(graph, clicks)
    knowledge = ItemTripleFeatures(every.graph, ITEMS, 4)
    items = np.nonzero(clicks)[1]
    indptr = np.append(0, np.cumsum(clicks.sum(1)))
    histories = Histories(torch.from_numpy(indptr), torch.from_numpy(items.astype(np.int32)))
    fitted = FittedTriples(Affinities(histories, knowledge, OPTIONS), every.graph)
    after = items_first(
        graph_of(changed(triples, 2), ENTITIES + NEW + 1), torch.from_numpy(CATALOGUE)
    )
    found, exact = with_graph(fitted, after), with_graph(every, after)
    for name in ("KG match", "KG-click-KG", "KG match by relation of rank 1"):
        s = source_names(OPTIONS)[name]
        assert int(found.sources.indptrs[s].diff().max()) == 4
        if name == "KG-click-KG":
            continue
        kept = dense(found, s)
        assert (kept == np.where(kept > 0, dense(exact, s), 0)).all()
        # An item whose pairs changed has its strongest neighbours.
        strongest = -np.sort(-dense(exact, s)[ITEMS:], 1)[:, :4]
        assert (-np.sort(-kept[ITEMS:], 1)[:, :4] == strongest).all()
