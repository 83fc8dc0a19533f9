"""Weights fitted to lists: candidates, the loss against its formula, and what the runs take."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ekpnet_fast.data import load_dataset
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models.build import build_model
from ekpnet_fast.models.wide import lists
from ekpnet_fast.models.wide.affinity import Affinities
from ekpnet_fast.models.wide.curves import quantiles, ramps
from ekpnet_fast.models.wide.item_triples import ItemTripleFeatures
from ekpnet_fast.models.wide.lists import CandidateRows, candidate_rows, fit_lists, logistic_line
from ekpnet_fast.models.wide.signals import SignalOptions, feature_names
from ekpnet_fast.recommender import Recommender
from ekpnet_fast.runs.evaluate import prepare_run
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.training.data import TrainingData
from support.graphs import csr
from support.small_training import SYNTHETIC

USERS, ITEMS = 40, 60


@pytest.fixture(scope="module")
def problem():
    """Histories, clicks held out of them, and affinities by the histories."""
    stream = np.random.default_rng(2)
    taste = stream.integers(0, 3, USERS)
    wanted = [stream.choice(np.arange(20) + 20 * kind, 9, replace=False) for kind in taste]
    histories = Histories(*csr([sorted(items[3:].tolist()) for items in wanted]))
    held_out = [sorted(items[:3].tolist()) for items in wanted]
    held_out[5] = []
    clicks = Histories(*csr(held_out))
    every = np.arange(ITEMS, dtype=np.int32)
    graph = Graph.from_triples(every, 0 * every, ITEMS + every // 7, ITEMS + 9, 1)
    knowledge = ItemTripleFeatures(graph, ITEMS, ITEMS)
    return histories, clicks, Affinities(histories, knowledge, SignalOptions())


def test_without_triples_the_graph_puts_nothing_forward(problem):
    histories, _, affinities = problem
    none = np.zeros(0, dtype=np.int32)
    empty = ItemTripleFeatures(Graph.from_triples(none, none, none, ITEMS, 1), ITEMS, ITEMS)
    without = Affinities(histories, empty, SignalOptions())
    assert len(lists._nominating(without)) == len(lists._nominating(affinities)) - 1


def of_user(table, user):
    first, last = table.indptr[user : user + 2].tolist()
    return table.items[first:last].tolist()


def test_candidates_are_other_items_with_the_clicks_among_them(problem, monkeypatch):
    monkeypatch.setattr(lists, "CANDIDATES", 5)
    histories, clicks, affinities = problem
    rows = candidate_rows(affinities, histories, clicks, 1 << 20)
    every = torch.arange(USERS + 1) * ITEMS
    items = torch.arange(ITEMS, dtype=torch.int32).repeat(USERS)
    features = affinities.features(histories, every, items).view(-1, USERS, ITEMS)
    first_by_mean = len(feature_names(SignalOptions())) - len(SignalOptions().names)
    nominating = [
        first_by_mean + SignalOptions().names.index(name)
        for name in ("co-click", "KG match", "low-pass 128", "far co-click", "item kNN", "ridge")
    ]
    expected_features, expected_clicks, lengths = [], [], []
    for user in range(USERS):
        seen, candidates = of_user(histories, user), set()
        for feature in nominating:
            order = np.lexsort((np.arange(ITEMS), -features[feature, user].numpy()))
            candidates |= set([i for i in order if i not in seen][:5])
        clicked = sorted(candidates & set(of_user(clicks, user)))
        if not clicked:
            continue
        found = torch.tensor(sorted(candidates))
        expected_features.append(features[:, user, found])
        expected_clicks += [i in clicked for i in found.tolist()]
        lengths.append(len(found))
    assert 0 < len(lengths) < USERS
    assert rows.indptr.diff().tolist() == lengths
    assert torch.equal(rows.features, torch.cat(expected_features, 1))
    assert rows.clicked.tolist() == expected_clicks


def test_of_many_users_some_are_taken_all_along(problem):
    histories, clicks, affinities = problem
    every = candidate_rows(affinities, histories, clicks, 1 << 20)
    some = candidate_rows(affinities, histories, clicks, len(every) // 3)
    assert len(some) < len(every) / 2
    assert len(some.indptr) > 2


def test_nothing_held_out_gives_no_rows(problem):
    histories, _, affinities = problem
    nothing = Histories(torch.zeros(USERS + 1, dtype=torch.int64), torch.zeros(0).int())
    rows = candidate_rows(affinities, histories, nothing, 1 << 20)
    assert len(rows) == 0 and rows.features.shape == (len(feature_names(SignalOptions())), 0)


def drawn_rows(seed, features=3, users=300):
    """Rows of which the first feature tells the clicks, the second the same and something else."""
    stream = np.random.default_rng(seed)
    indptr, x, clicked = [0], [], []
    for _ in range(users):
        n = int(stream.integers(4, 12))
        z = stream.normal(size=(features, n))
        z[1] += z[0]
        chance = np.exp(2 * z[0] - z[1])
        at = stream.choice(n, stream.integers(1, 3), replace=False, p=chance / chance.sum())
        x.append(z)
        clicked.append(np.isin(np.arange(n), at))
        indptr.append(indptr[-1] + n)
    return CandidateRows(
        torch.from_numpy(np.concatenate(x, 1)).float(),
        torch.tensor(indptr),
        torch.from_numpy(np.concatenate(clicked)),
    )


def loss_by_the_formula(rows, knots, weight):
    """Loss and penalty, click by click, in float64."""
    design = ramps(rows.features.double(), knots.double())
    scores = (design * weight.unsqueeze(2)).sum((0, 1))
    total = torch.zeros((), dtype=torch.float64)
    for user in range(len(rows.indptr) - 1):
        part = slice(int(rows.indptr[user]), int(rows.indptr[user + 1]))
        s, clicked = scores[part], rows.clicked[part]
        others = s[~clicked]
        for score in s[clicked]:
            chance = torch.logsumexp(torch.cat([score.view(1), others]), 0) - score
            total = total + chance / float(clicked.sum()) ** 0.5
    spread = design.std(2, correction=0)
    return total / (len(rows.indptr) - 1) + lists.L2 / 2 * (weight * spread).square().sum()


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("block", [1 << 15, 64])
def test_weights_are_where_the_loss_of_the_formula_is_least(pieces, block, monkeypatch):
    monkeypatch.setattr(lists, "AT_ONCE", block)
    rows = drawn_rows(0)
    knots = quantiles(rows.features, pieces)
    weight = torch.from_numpy(fit_lists(rows, knots)).requires_grad_()
    loss = loss_by_the_formula(rows, knots, weight)
    (slope,) = torch.autograd.grad(loss, weight)
    assert float(slope.abs().max()) < 1e-3
    at_zero = torch.zeros_like(weight).requires_grad_()
    (first,) = torch.autograd.grad(loss_by_the_formula(rows, knots, at_zero), at_zero)
    assert float(first.abs().max()) > 0.1


def test_a_signal_that_counts_twice_gets_a_negative_weight():
    rows = drawn_rows(1)
    knots = quantiles(rows.features, 1)
    weight = fit_lists(rows, knots)
    per_unit = weight[:, 0] / knots.diff(dim=1)[:, 0].numpy()
    assert per_unit[0] == pytest.approx(2, abs=0.4)
    assert per_unit[1] == pytest.approx(-1, abs=0.3)
    assert abs(per_unit[2]) < 0.2


def test_a_feature_that_is_the_same_everywhere_has_no_weight():
    rows = drawn_rows(2)
    rows.features[2] = 0.25
    assert fit_lists(rows, quantiles(rows.features, 2))[2].tolist() == [0, 0]


def rows_of_few(users, common, seed):
    """Rows of few users, with more weights than clicks; most of a feature is common to a list."""
    stream = np.random.default_rng(seed)
    n, features = 60, 20
    z = stream.normal(size=(features, users * n)) * (stream.random((features, users * n)) < 0.3)
    z += common * np.repeat(stream.normal(size=(features, users)), n, axis=1)
    z[1] = z[0] + 1e-3 * stream.normal(size=users * n)
    clicked = np.zeros(users * n, dtype=np.bool_)
    clicked[np.arange(users) * n + stream.integers(0, n, users)] = True
    return CandidateRows(
        torch.from_numpy(z).float(), torch.arange(users + 1) * n, torch.from_numpy(clicked)
    )


@pytest.mark.parametrize("common", [0, 1, 10, 100])
@pytest.mark.parametrize("users", [1, 2, 4, 20])
def test_few_users_have_weights_where_the_loss_is_least(users, common):
    for seed in range(5):
        rows = rows_of_few(users, common, seed)
        knots = quantiles(rows.features, 4)
        weight = torch.from_numpy(fit_lists(rows, knots)).requires_grad_()
        (slope,) = torch.autograd.grad(loss_by_the_formula(rows, knots, weight), weight)
        assert float(slope.abs().max()) < 2e-3


@pytest.mark.parametrize("distance", [1, 1e4])
def test_slopes_are_those_of_the_loss(distance):
    """Gradient and Hessian by autograd; however far a click is above or below the others."""
    rows = drawn_rows(3, users=8)
    knots = torch.tensor([[-3.0, 3.0]]).repeat(3, 1)
    blocks = list(lists._blocks(rows, knots))
    w = distance * torch.tensor([0.7, -0.4, 0.1], dtype=torch.float64)

    def loss(weight):
        return (len(rows.indptr) - 1) * (
            loss_by_the_formula(rows, knots, weight.view(3, 1)) - penalty(weight)
        )

    def penalty(weight):
        spread = ramps(rows.features.double(), knots.double()).std(2, correction=0)[:, 0]
        return lists.L2 / 2 * (weight * spread).square().sum()

    found = lists._slope(blocks, w)
    asked = w.clone().requires_grad_()
    close = {"rtol": 1e-3, "atol": 1e-3}
    assert torch.allclose(found[0], torch.autograd.functional.jacobian(loss, asked), **close)
    assert torch.allclose(found[1], torch.autograd.functional.hessian(loss, asked), **close)
    assert lists._loss(blocks, w) == pytest.approx(float(loss(w)), rel=1e-4)


def test_the_line_is_the_logistic_regression():
    stream = np.random.default_rng(0)
    x = stream.normal(3, 2, 20_000)
    labels = stream.random(20_000) < 1 / (1 + np.exp(-(0.7 * x - 2)))
    slope, height = logistic_line(torch.from_numpy(x).float(), torch.from_numpy(labels).float())
    assert slope == pytest.approx(0.7, abs=0.05)
    assert height == pytest.approx(-2, abs=0.15)


def test_lists_need_folds():
    with pytest.raises(ConfigError, match=r"--linear\.objective is list with --folds 1"):
        resolve({"model": "linear", "linear.objective": "list", "folds": 1})


@pytest.mark.parametrize(("protocol", "objective"), [("ripplenet", "click"), ("recbole", "list")])
def test_the_objective_follows_from_what_is_measured(protocol, objective):
    options = {"protocol": protocol, **{f"synthetic.{k}": x for k, x in vars(SYNTHETIC).items()}}
    fitted = Recommender.fit("synthetic", model="linear", options=options)
    assert fitted._state.config.options.objective == objective
    weight = fitted._state.model.linear.weight
    assert bool((weight < 0).any()) == (objective == "list")
    explained = fitted.explain(user=0, item=0)
    assert explained is not None


def test_without_a_history_a_list_is_by_popularity():
    options = {"protocol": "recbole", **{f"synthetic.{k}": x for k, x in vars(SYNTHETIC).items()}}
    part = Recommender.fit("synthetic", model="linear", options=options)._state.model.linear
    height, slope = part.without_history.tolist()
    popularity = part.affinities.item_features[0]
    I = len(popularity)  # noqa: E741
    assert slope > 0.1
    histories = Histories(*csr([[], [1, 2], []]))
    logits = part._logits(part.affinities, histories)
    assert torch.equal(logits[0], height + slope * popularity) and torch.equal(logits[0], logits[2])
    assert not torch.allclose(logits[1], logits[0], atol=0.1)
    pairs = part._logits(
        part.affinities,
        histories,
        torch.arange(4) * I,
        torch.arange(I, dtype=torch.int32).repeat(3),
    )
    assert torch.allclose(pairs.view(3, I), logits, atol=1e-5)
    shares = part.shares(torch.zeros(0, dtype=torch.int32), 7)
    assert shares.logit == pytest.approx(float(logits[0, 7]), abs=1e-5)
    assert {name for name, share in shares.alone.items() if share} == {"popularity"}


@pytest.mark.data
@pytest.mark.parametrize("model", ["linear", "ekpnet_plus"])
def test_weights_of_twenty_users(data_root, model, tmp_path):
    """Those of Last.FM by whose clicks rounding made the Hessian indefinite."""
    folder = data_root / "last-fm"
    rows = np.loadtxt(folder / "ratings_final.txt", dtype=np.int64)
    clicks = rows[rows[:, 2] == 1, :2]
    some = np.random.default_rng(3).choice(np.unique(clicks[:, 0]), 20, replace=False)
    clicks = clicks[np.isin(clicks[:, 0], some)]
    users = np.unique(clicks[:, 0], return_inverse=True)[1]
    known, items = np.unique(clicks[:, 1], return_inverse=True)
    pairs = np.stack([users, items, np.ones_like(users)], 1)
    number = {item: n for n, item in enumerate(known.tolist())}
    triples = []
    for head, relation, tail in np.loadtxt(folder / "kg_final.txt", dtype=np.int64).tolist():
        if number.get(head, len(known)) < len(known):
            triples.append((number[head], relation, number.setdefault(tail, len(number))))
    relations = np.unique([triple[1] for triple in triples], return_inverse=True)[1]
    triples = [(head, r, tail) for (head, _, tail), r in zip(triples, relations, strict=True)]
    np.savetxt(tmp_path / "ratings_final.txt", pairs, fmt="%d", delimiter="\t")
    np.savetxt(tmp_path / "kg_final.txt", np.array(triples), fmt="%d", delimiter="\t")
    options = {"model": model, "protocol": "recbole", "ranking": True, "seed": 3}
    config, prepared, graph = prepare_run(resolve(options), load_dataset(str(tmp_path)))
    data = TrainingData(config, prepared, graph)
    built = build_model(config, prepared, graph)
    built.fit_features(data.training_examples)
    assert built.linear.weight.isfinite().all() and bool((built.linear.weight != 0).any())
