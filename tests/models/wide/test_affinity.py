"""Affinities between histories and items, against dense NumPy; and the regression on them."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import scipy.sparse
import torch

from ekpnet_fast.models.wide import (
    affinity,
    excess,
    graph_basis,
    graph_regression,
    sources,
    spectral,
)
from ekpnet_fast.models.wide import curves as curve_fits
from ekpnet_fast.models.wide.affinity import Affinities
from ekpnet_fast.models.wide.curves import curves, fit_curves, quantiles, ramps
from ekpnet_fast.models.wide.item_triples import ItemTripleFeatures
from ekpnet_fast.models.wide.signals import (
    LOG_EPS,
    SignalOptions,
    feature_names,
    source_names,
)
from ekpnet_fast.ops.threads import torch_on_one_thread
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from support.graphs import csr

USERS, ITEMS, ENTITIES = 30, 40, 60
MEDIAN = 4.0  # so that less is taken for chance, which clicks that are drawn blindly are
ALL = SignalOptions(ease=20.0, joint_ridge=2.0, p3alpha=True, user_knn=4)


@pytest.fixture(scope="module")
def problem():
    """Clicks (item 0 has none), a graph (item 1 has no triple, one triple stands twice)."""
    stream = np.random.default_rng(0)
    clicks = stream.random((USERS, ITEMS)) < 0.15
    clicks[:, 0] = False
    clicks[3] = False
    heads = stream.integers(2, ITEMS, 120)
    tails = stream.integers(ITEMS, ENTITIES, 120)
    relations = stream.integers(0, 3, 120)
    heads[1], tails[1], relations[1] = heads[0], tails[0], relations[0]
    graph = Graph.from_triples(
        heads.astype(np.int32), relations.astype(np.int32), tails.astype(np.int32), ENTITIES, 3
    )
    lists = [np.flatnonzero(row).tolist() for row in clicks]
    table = np.zeros((ITEMS, 3 * ENTITIES))
    table[heads, relations * ENTITIES + tails] = 1
    return clicks.astype(float), Histories(*csr(lists)), graph, table


def safe(x):
    return np.divide(1, x, out=np.zeros_like(x), where=x > 0)


def facts_of(table):
    """Items' facts by their idf [I, K], and the relation of each."""
    degree = table.sum(0)
    weighed = table[:, degree > 0] * np.log(ITEMS / degree[degree > 0])
    return weighed, np.repeat(np.arange(3), ENTITIES)[degree > 0]


def dense_affinities(A, table, options):
    """[I, I] by name: a(history, i) = sum over j in the history of the entry (j, i)."""
    scaled = safe(np.sqrt(A.sum(1)))[:, None] * A * safe(np.sqrt(A.sum(0)))
    C = scaled.T @ scaled
    by_relation = table.reshape(ITEMS, 3, ENTITIES)
    ranked = sorted(range(3), key=lambda r: (-(by_relation[:, r].sum(1) > 0).sum(), r))
    degree = table.sum(0)
    relation_of = np.repeat(np.arange(3), ENTITIES)[degree > 0]
    table, degree = table[:, degree > 0], degree[degree > 0]
    weighed = table * np.log(ITEMS / degree)
    match = weighed * safe(np.linalg.norm(weighed, axis=1))[:, None]
    chosen = (degree > 1) & (degree < 60)
    near = table[:, chosen] * safe(np.sqrt(table[:, chosen].sum(1)))[:, None]
    near /= np.sqrt(degree[chosen])
    N = near @ near.T
    found = {"co-click": C, "KG match": match @ match.T, "KG-click-KG": N @ C @ N}
    for rank in options.low_pass:
        values, vectors = np.linalg.eigh(C)
        # At most a quarter of the items, and of the users with a click.
        kept = min(rank, ITEMS // 4, int((A.sum(1) > 0).sum()) // 4)
        V = vectors[:, ::-1][:, :kept]
        found[f"low-pass {rank}"] = V @ V.T
    for rank in options.joint_spectral:
        values, vectors = np.linalg.eigh(C + N)
        kept = min(rank, ITEMS // 4)
        V, s = vectors[:, ::-1][:, :kept], values[::-1][:kept]
        found[f"joint {rank}"] = V @ np.diag(s) @ V.T
    V, _ = dense_graph_vectors(A, weighed, relation_of, options.graph_regression)
    found["graph regression"] = V @ V.T
    P = np.linalg.inv(A.T @ A + options.ease * np.eye(ITEMS))
    B = -P / np.diag(P)
    np.fill_diagonal(B, 0)
    found["EASE"] = B
    found["far co-click"] = C @ C
    by_user = safe(A.sum(1) ** 0.25)[:, None] * A
    G = by_user.T @ by_user
    found["item kNN"] = G * safe(A.sum(0) ** 0.5)[:, None] * safe(A.sum(0) ** 0.3)
    found["ridge"] = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        near = [j for j in range(ITEMS) if j != item and G[j, item] > 0]
        gram = A[:, near].T @ A[:, near] + options.ridge * np.eye(len(near))
        found["ridge"][near, item] = np.linalg.solve(gram, A[:, near].T @ A[:, item])
    both = A.T @ A + options.joint_ridge * match @ match.T
    found["joint ridge"] = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        near = [j for j in range(ITEMS) if j != item and both[j, item] > 0]
        gram = both[np.ix_(near, near)] + affinity.JOINT_WEIGHT * np.eye(len(near))
        found["joint ridge"][near, item] = np.linalg.solve(gram, both[near, item])
    found["P3alpha"] = (safe(A.sum(0)) * A).T @ (safe(A.sum(1))[:, None] * A)
    for rank in range(1, options.relations + 1):
        own = weighed[:, relation_of == ranked[rank - 1]] if rank <= 3 else np.zeros((ITEMS, 1))
        own = own * safe(np.linalg.norm(own, axis=1))[:, None]
        found[f"KG match by relation of rank {rank}"] = own @ own.T
    return found, table[:, chosen]


def dense_basis(weighed, weights, rank):
    """Vectors f [I, r] of the items' facts, and their rows scaled to norm 1."""
    match = weighed * weights
    match = match * safe(np.linalg.norm(match, axis=1))[:, None]
    U, S, _ = np.linalg.svd(match)
    kept = min(rank, ITEMS // 4, weighed.shape[1] // 2)
    return U[:, :kept] * S[:kept] ** 0.5, match


def residuals(A, counts):
    """Clicks beyond chance, over the root of chance but for a constant."""
    n = A.sum(1)
    by_chance = np.outer(n, counts) / counts.sum()
    return (A - by_chance) * np.outer(safe(np.sqrt(n)), safe(np.sqrt(counts)))


def dense_relation_weights(A, weighed, relations, rank):
    """Root of the agreement of halves of users and items, for each relation."""
    f, match = dense_basis(weighed, np.ones(len(relations)), rank)
    G = f.T @ f
    values, turn = np.linalg.eigh(G)
    alike = f @ turn / np.sqrt(values + graph_basis.FLOOR * values.mean())

    def of_facts(users, items):
        half, x = A[users::2], match[items::2]
        n, t = half.sum(1), residuals(half, A.sum(0))
        beside = (safe(np.sqrt(n))[:, None] * half).T @ (t @ alike)
        for u, j in np.argwhere(half):
            beside[j] -= alike[j] / n[u] / np.sqrt(A[:, j].sum())
        gram = x.T @ x + graph_basis.RIDGE * np.eye(len(relations))
        return np.linalg.solve(gram, x.T @ beside[items::2])

    size = np.sqrt((match[0::2] ** 2).sum(0) * (match[1::2] ** 2).sum(0))[:, None]
    found = []
    for r in range(relations.max() + 1):
        of, both, one, other = relations == r, 0.0, 0.0, 0.0
        for items in (0, 1):
            a, b = of_facts(0, items)[of], of_facts(1, 1 - items)[of]
            both += (size[of] * a * b).sum()
            one += (size[of] * a * a).sum()
            other += (size[of] * b * b).sum()
        found.append(np.sqrt(max(both / np.sqrt(one * other), graph_basis.LEAST)))
    return np.array(found)


def dense_graph_vectors(A, weighed, relations, rank):
    """Vectors [I, k] of the regression on the graph, by its equations; and the mean norm."""
    weights = dense_relation_weights(A, weighed, relations, rank)
    f, _ = dense_basis(weighed, weights[relations], rank)
    n, c = A.sum(1), A.sum(0)
    p = safe(np.sqrt(n))[:, None] * (A @ f)
    R = p.T @ residuals(A, c) @ f
    for u, i in np.argwhere(A):  # what a click adds to itself
        R -= np.outer(f[i], f[i]) / n[u] / np.sqrt(c[i])
    raised = []
    for gram in (p.T @ p, f.T @ f):
        more = gram + graph_basis.FLOOR * np.trace(gram) / len(gram) * np.eye(len(gram))
        values, turn = np.linalg.eigh(more)
        raised.append(turn @ np.diag(values**-0.5) @ turn.T)
    U, s, V = np.linalg.svd(raised[0] @ R @ raised[1])
    chance = 2 * np.sort(s)[(len(s) - 1) // 2] / MEDIAN
    s = np.sqrt(np.maximum(s**2 - chance**2, 0))
    M = raised[0] @ (U * s) @ V @ raised[1]
    strength, turn = np.linalg.eigh((M + M.T) / 2)
    V = f @ (turn * np.sqrt(np.maximum(strength, 0)))
    norms = np.linalg.norm(V, axis=1)
    V *= np.sqrt(safe(norms / norms[norms > 0].mean()))[:, None]
    q = safe(np.sqrt(n))[:, None] * (A @ V)
    return V, np.linalg.norm(q, axis=1)[n > 0].mean()


def dense_features(A, table, options, history, item, scale=1.0):
    """The features of one pair, by name."""
    affinities, shared = dense_affinities(A, table, options)
    counts = A.sum(0)
    found = {"popularity": np.log(counts[item] * scale + 0.5)}
    others = [j for j in range(ITEMS) if j != item]
    common = shared[others] @ shared[item]
    clicked = (common * counts[others]).sum() * scale
    found["KG neighbours' clicks"] = np.log((clicked + counts.mean()) / (common.sum() + 1))
    n = max(len(history), 1)
    means = {
        name: np.maximum((A @ x).mean(1) * safe(np.sqrt(A.sum(1))), 0)[A.sum(1) > 0].mean()
        for name, x in affinities.items()
    }
    for name, x in affinities.items():
        value = max(x[history, item].sum(), 0) / np.sqrt(n)
        own = max(x[history].sum(0).mean(), 0) / np.sqrt(n)
        if name == "graph regression":  # the diagonal of V V^T has the norms
            norm = np.sqrt(max(x[np.ix_(history, history)].sum(), 0)) / np.sqrt(n)
            _, typical = dense_graph_vectors(A, *facts_of(table), options.graph_regression)
            found[name] = x[history, item].sum() / np.sqrt(n) / np.sqrt(norm + 0.1 * typical)
            continue
        if name in LOG_EPS:
            whole = value * (1 if name == "co-click" else np.sqrt(n))
            found[name] = np.log(whole + LOG_EPS[name])
        typical = max(means[name], 1e-12)
        found[f"{name} over the user's mean"] = np.log(value / (own + 0.05 * typical) + 0.5)
    if options.user_knn:
        scores = user_scores(A, options.user_knn, A[:1] * 0 + np.isin(np.arange(ITEMS), history))[0]
        every = np.maximum(user_scores(A, options.user_knn, A).mean(1) * safe(np.sqrt(A.sum(1))), 0)
        own = scores.mean() / np.sqrt(n) + 0.05 * every[A.sum(1) > 0].mean()
        found["user kNN over the user's mean"] = np.log(scores[item] / np.sqrt(n) / own + 0.5)
    return found


def user_scores(A, count, H):
    """Scores [G, I] by the users most similar to histories H [G, I], but for those all in it."""
    similar = (H * safe(np.sqrt(A.sum(0)))) @ A.T * safe(np.sqrt(A.sum(1)))
    similar[A.sum(1) == H @ A.T] = 0
    for row in similar:
        row[np.argsort(-row, kind="stable")[count:]] = 0
    return similar @ A


def every_pair(groups):
    return torch.arange(groups + 1) * ITEMS, torch.arange(ITEMS, dtype=torch.int32).repeat(groups)


@pytest.mark.parametrize("square", [True, False])
def test_features_are_what_dense_matrices_give(problem, square, monkeypatch):
    """From squares of all items, and from rows of neighbours; all items at once, and pairs."""
    A, histories, graph, table = problem
    monkeypatch.setattr(sources, "MOSTLY_FULL", 0.0 if square else 1.0)
    iterate = functools.partial(spectral.leading_eigenvectors, rounds=60)  # small gaps between them
    monkeypatch.setattr(affinity, "leading_eigenvectors", iterate)
    monkeypatch.setattr(graph_basis, "ROUNDS", 60)
    monkeypatch.setattr(graph_regression, "MEDIAN", MEDIAN)
    monkeypatch.setattr(graph_basis, "COLUMNS", 3)
    monkeypatch.setattr(graph_basis, "STEPS", 100)
    monkeypatch.setattr(excess, "BLOCK", 7)
    found = Affinities(histories, ItemTripleFeatures(graph, ITEMS, ITEMS), ALL, scale=1.25)
    assert (found.sources.indptrs[0].numel() == 0) == square
    ids = torch.tensor([4, 3, 0, 7, 4])
    asked = [[0, 1, 5], [2, 0], [], [8, 8, 39, 1], [11]]
    ends = torch.tensor([0, *map(len, asked)]).cumsum(0)
    items = torch.tensor([i for some in asked for i in some], dtype=torch.int32)
    pairs = found.features(histories.of(ids), ends, items).T.numpy()
    every = found.features(histories.of(ids), *every_pair(5)).T.view(5, ITEMS, -1).numpy()
    names = feature_names(ALL)
    assert pairs.shape == (len(items), len(names)) and pairs.dtype == np.float32
    for group, some in enumerate(asked):
        history = np.flatnonzero(A[ids[group]])
        for place, item in enumerate(some):
            expected = dense_features(A, table, ALL, history, item, 1.25)
            assert set(expected) == set(names)
            row = [expected[name] for name in names]
            assert pairs[ends[group] + place] == pytest.approx(row, rel=2e-3, abs=2e-3)
            assert every[group, item] == pytest.approx(row, rel=2e-3, abs=2e-3)


def test_few_users_are_projected_on_few_vectors(problem):
    """Of 9 users with a click 2 vectors, by the clicks alone; the graph has enough of its own."""
    _, histories, graph, _ = problem
    options = SignalOptions(low_pass=(1, 32), joint_spectral=(32,))
    few = histories.of(torch.arange(10))  # one of them is empty
    found = Affinities(few, ItemTripleFeatures(graph, ITEMS, ITEMS), options)
    places = source_names(options)
    widths = [found.sources.values[places[name]].shape[1] for name in ("low-pass", "joint")]
    assert widths == [2, ITEMS // 4]
    ends = [found.sources.affinities[options.names.index(f"low-pass {r}"), 2] for r in (1, 32)]
    assert ends == [1, 2]


def test_no_more_eigenvectors_than_there_are_directions():
    """Of 2 columns by 40 items: (0, 3, 4) and (2) at other items, squares 25 and 4."""
    columns = np.zeros((40, 2), dtype=np.float32)
    columns[1:3, 0], columns[7, 1] = (3, 4), 2
    vectors, values = spectral.leading_eigenvectors([scipy.sparse.csr_matrix(columns)], 8)
    assert values.tolist() == pytest.approx([25, 4])
    assert (vectors * vectors.sum(0).sign())[[1, 2, 7]].flatten().tolist() == pytest.approx(
        [0.6, 0, 0.8, 0, 0, 1], abs=1e-6
    )


@pytest.mark.parametrize("alike", [False, True])
def test_a_basis_of_columns(alike):
    """By Cholesky where columns are apart but for their norms, else by reflections."""
    draw = torch.Generator().manual_seed(0)
    x = torch.linalg.qr(torch.randn(3000, 12, generator=draw))[0] * torch.logspace(0, 3, 12)
    if alike:  # all are mostly the last one
        x = x @ torch.randn(12, 12, generator=draw)
    basis = spectral.orthonormal(x)
    torch.testing.assert_close(basis.T @ basis, torch.eye(12), rtol=0, atol=1e-5)
    by_reflections = torch.linalg.qr(x)[0]
    signs = (basis * by_reflections).sum(0).sign()
    torch.testing.assert_close(basis * signs, by_reflections, rtol=0, atol=1e-3)


@pytest.mark.parametrize("triples", [0, 1])
def test_a_graph_that_says_nothing(triples):
    """Without triples, or with one that no two items share, nothing is regressed on."""
    heads, relations, tails = np.zeros((3, triples), dtype=np.int32)
    graph = Graph.from_triples(heads, relations, tails + ITEMS, ENTITIES, 1)
    histories = Histories(*csr([[0, 1], [2], []]))
    knowledge = ItemTripleFeatures(graph, ITEMS, ITEMS)
    found = Affinities(histories, knowledge, SignalOptions())
    row = feature_names(SignalOptions()).index("graph regression")
    features = found.features(histories, *every_pair(3))[row].view(3, ITEMS)
    assert features.isfinite().all() and not features[:, 1:].any() and not features[2].any()


def test_an_item_keeps_its_strongest_neighbours(problem):
    """Co-click with 5 neighbours each, by hand: the 5 largest entries of each row of C."""
    A, histories, graph, table = problem
    options = SignalOptions(
        kg_click_kg=False, low_pass=(), joint_spectral=(), ease=1.0, relations=0
    )
    found = Affinities(histories, ItemTripleFeatures(graph, ITEMS, 5), options)
    C = dense_affinities(A, table, options)[0]["co-click"]
    indptr, neighbours = found.sources.indptrs[0], found.sources.neighbours[0]
    assert int(indptr.diff().max()) == 5
    for item in range(ITEMS):
        kept = neighbours[indptr[item] : indptr[item + 1]].tolist()
        others = sorted(set(range(ITEMS)) - set(kept))
        assert kept == sorted(kept) and (C[item, kept] > 0).all()
        if len(kept) == 5:
            assert C[item, others].max() <= C[item, kept].min() + 1e-6


def test_nothing_is_below_an_item_that_nobody_clicked(problem):
    """Item 0 has no click, so by every affinity of clicks alone it is among the lowest."""
    _, histories, graph, _ = problem
    found = Affinities(histories, ItemTripleFeatures(graph, ITEMS, ITEMS), ALL)
    every = found.features(histories, *every_pair(USERS)).T.view(USERS, ITEMS, -1)
    for column, name in enumerate(feature_names(ALL)):
        if name == "popularity" or name.startswith(
            ("co-click", "low-pass", "EASE", "far", "item", "ridge", "P3alpha", "user")
        ):
            lowest = every[:, :, column].amin(1)
            assert (every[:, 0, column] <= lowest + 1e-3).all(), name


def test_names_follow_the_options():
    options = SignalOptions(
        kg_click_kg=False,
        low_pass=(),
        joint_spectral=(),
        graph_regression=0,
        five_hop=False,
        knn=False,
        ridge=0,
        relations=0,
    )
    assert feature_names(options) == (
        "popularity",
        "KG neighbours' clicks",
        "co-click",
        "KG match",
        "co-click over the user's mean",
        "KG match over the user's mean",
    )


# ---- the regression ------------------------------------------------------------------------------


@pytest.mark.parametrize("sampled", [1500, 4000])
@pytest.mark.parametrize("pieces", [1, 3])
def test_regression_meets_the_conditions_of_its_optimum(pieces, sampled, monkeypatch):
    monkeypatch.setattr(curve_fits, "SAMPLED", sampled)
    stream = np.random.default_rng(1)
    x = stream.normal(size=(5, 4000)).astype(np.float32)
    x[4] = x[0] + 0.01 * x[4]
    logit = 1.5 * x[0] + 0.5 * x[1] - 2.0 * x[2] + 0.3
    y = (stream.random(4000) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    features, labels = torch.from_numpy(x), torch.from_numpy(y)
    knots = quantiles(features, pieces)
    w, bias = fit_curves(features, knots, labels, l2=1e-3)
    design = ramps(features, knots).flatten(0, 1).double().numpy()
    p = 1 / (1 + np.exp(-(w.flatten() @ design + bias)))
    gradient = (design @ (p - y) / len(y) + 1e-3 * w.flatten()).reshape(w.shape)
    assert (w >= 0).all() and not w[2].any() and w[[0, 4]].sum() > 2 * w[1].sum() > 0
    assert abs((p - y).mean()) < 1e-5
    assert np.abs(gradient[w > 0]).max() < 1e-5 and gradient[w == 0].min() > -1e-5


def test_threads_share_the_examples_of_a_regression(monkeypatch):
    """The same bits, though two threads take a half each."""
    monkeypatch.setattr(curve_fits, "AT_ONCE", 100)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 1050, generator=draw)
    y = (x[0] + torch.randn(1050, generator=draw) > 0).float()
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with torch_on_one_thread():
                found.append(fit_curves(x, quantiles(x, 4), y))
    finally:
        torch.set_num_threads(before)
    assert (found[0][0] == found[1][0]).all() and found[0][1] == found[1][1]
    assert found[0][0][0].sum() > 1


def test_curves_are_sums_of_ramps_that_go_on_outside():
    """A response by hand: 1 over [0, 2], 4 over [2, 3], 0 over [3, 6] and 3 over [6, 7]."""
    knots = torch.tensor([[0.0, 2.0, 3.0, 6.0, 7.0]])
    weight = torch.tensor([[1.0, 4.0, 0.0, 3.0]])
    x = torch.tensor([[-2.0, 0.0, 1.0, 2.5, 5.0, 6.0, 6.5, 8.0]])
    expected = torch.tensor([-1.0, 0.0, 0.5, 3.0, 5.0, 5.0, 6.5, 11.0])
    assert torch.allclose(curves(x, knots, weight), expected, atol=1e-6)
    by_ramps = (weight.unsqueeze(2) * ramps(x, knots)).sum((0, 1))
    assert torch.allclose(by_ramps, expected, atol=1e-6)
    many = torch.randn(3, 20000, generator=torch.Generator().manual_seed(0)) * 3
    knots, weight = quantiles(many, 4), torch.rand(3, 4)
    by_ramps = (weight.unsqueeze(2) * ramps(many, knots)).sum((0, 1))
    assert torch.allclose(curves(many, knots, weight), by_ramps, atol=1e-4)


def test_curves_follow_what_is_not_a_line():
    stream = np.random.default_rng(2)
    x = stream.random((1, 20000)).astype(np.float32)
    y = (stream.random(20000) < np.where(x[0] > 0.75, 0.9, 0.3)).astype(np.float32)
    features, labels = torch.from_numpy(x), torch.from_numpy(y)
    knots = quantiles(features, 8)
    w, _ = fit_curves(features, knots, labels)
    logit_of_step = math.log(9) - math.log(3 / 7)
    assert w.sum() == pytest.approx(logit_of_step, rel=0.25) and w[0, 5:7].sum() > 0.7 * w.sum()


def test_regression_survives_columns_that_tell_everything_or_nothing():
    x = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, -1.0], [0.0, -2.0]]).repeat(50, 1).T
    y = (x[1] > 0).float()
    knots = quantiles(x, 4)
    w, bias = fit_curves(x.contiguous(), knots, y)
    assert not w[0].any() and 1 < w[1].sum() < 100
    scores = curves(x.contiguous(), knots, torch.from_numpy(w).float()) + bias
    assert ((scores > 0) == (y > 0)).all()
