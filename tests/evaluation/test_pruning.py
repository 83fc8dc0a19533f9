"""Lists without scoring every item: the same lists, and few scores where bounds are narrow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.config import ModelConfig, RunConfig
from ekpnet_fast.data import SyntheticConfig, load_dataset, make_synthetic, prepare
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.evaluation import scoring
from ekpnet_fast.evaluation.pruning import best_scores
from ekpnet_fast.evaluation.ranking import rank_all, ranking_task
from ekpnet_fast.models import MODELS, build
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.training import loop

# ---- which items are scored ----------------------------------------------------------------------


def pruned(scores, estimates, error, seen=(), k=2):
    """Result for one row, and the items that were scored."""
    asked = []

    def exact(rows, items):
        assert (rows == 0).all()
        asked.extend(items.tolist())
        return torch.tensor(scores)[items]

    indptr = torch.tensor([0, len(seen)])
    found = best_scores(
        torch.tensor([estimates]), torch.tensor([error], dtype=torch.float64),
        indptr, torch.tensor(seen, dtype=torch.int32), k, exact,
    )  # fmt: skip
    return found[0].tolist(), asked


def test_what_cannot_enter_is_not_scored():
    """The best two estimates, 5 and 4, score 4.5 and 4.25: below 4.25 - 0.5 nothing can enter."""
    inf = float("inf")
    scores = [1.0, 4.25, 4.0, 4.5, 3.0]
    found, asked = pruned(scores, [1.0, 4.0, 3.75, 5.0, 3.5], 0.5)
    assert asked == [3, 1, 2]
    assert found == [-inf, 4.25, 4.0, 4.5, -inf]


def test_items_as_good_as_the_last_are_scored():
    """Estimates too low by all of the error: a tie goes to the lower id, which must be there."""
    found, asked = pruned([3.0, 5.0, 3.0], [2.0, 5.0, 3.0], 1.0)
    assert asked == [1, 2, 0]
    assert found == [3.0, 5.0, 3.0]


def test_seen_items_are_neither_scored_nor_do_they_raise_the_bar():
    inf = float("inf")
    found, asked = pruned([9.0, 8.0, 2.0, 1.0, 0.0], [9.0, 8.0, 2.0, 1.0, 0.0], 0.5, seen=[0, 1])
    assert asked == [2, 3]
    assert found == [-inf, -inf, 2.0, 1.0, -inf]


@pytest.mark.parametrize("error", [float("inf"), float("nan")])
def test_without_bounds_all_are_scored(error):
    found, asked = pruned([1.0, 2.0, 3.0, 4.0], [0.0, 9.0, 0.0, 9.0], error, seen=[2])
    assert sorted(asked) == [0, 1, 3]
    assert found == [1.0, 2.0, -float("inf"), 4.0]


def test_of_too_few_items_all_are_scored():
    found, asked = pruned([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 0.0, seen=[2], k=3)
    assert sorted(asked) == [0, 1]
    assert found == [1.0, 2.0, -float("inf")]


@pytest.mark.parametrize("seed", range(20))
def test_lists_are_those_of_all_scores(seed):
    """Scores on a coarse grid, so that many tie, and estimates as wrong as they may be."""
    stream = np.random.default_rng(seed)
    scores = torch.from_numpy(stream.integers(0, 12, (7, 40)).astype(np.float32))
    error = torch.from_numpy(stream.choice([0.0, 0.5, 2.0, 50.0], 7))
    signs = torch.from_numpy(stream.choice([-1.0, 0.0, 1.0], (7, 40)))
    estimates = (scores + signs * error[:, None]).float()
    lists = [np.sort(stream.choice(40, stream.integers(0, 38), replace=False)) for _ in range(7)]
    indptr = torch.from_numpy(np.cumsum([0, *map(len, lists)]))
    seen = torch.from_numpy(np.concatenate(lists).astype(np.int32))
    found = best_scores(estimates, error, indptr, seen, 5, lambda rows, items: scores[rows, items])
    expected = ops.top_items(scores, indptr, seen, 5)
    assert torch.equal(ops.top_items(found, indptr, seen, 5), expected)


# ---- models --------------------------------------------------------------------------------------

CONFIG = RunConfig(
    folds=5,
    epochs=1,
    shape=ModelConfig(width=4, hops=2, slots=6, layers=3),
    synthetic=SyntheticConfig(
        users=50, items=300, positives=10, attributes=16, parents=4, triples=1530, item_links=4
    ),
)
PRODUCTS = ("mf", "cke")  # of a user's vector and an item's
models = pytest.mark.parametrize("model", ["ekpnet", "ekpnet_plus", "ekp_frame"])


def trained(model, activation="tanh"):
    config = resolve(
        replace(
            CONFIG,
            model=model,
            folds=1 if model in PRODUCTS else CONFIG.folds,
            options=None,
            shape=replace(CONFIG.shape, activation=activation),
        )
    )
    prepared = prepare(make_synthetic(config.synthetic), config.seed)
    graph = Graph.from_dataset(make_synthetic(config.synthetic), inverse=config.sampling.inverse)
    # Not validated, so that EKPNet+ is not the wide part alone.
    outcome = loop.train(config, prepared, graph, validate=False)
    ripple = build.sample_ripple_sets(config, graph, prepared)
    items = prepared.dataset.num_items
    return scoring.catalogue_scorer(ops, outcome.model, ripple, items, stage="train"), prepared


def both_lists(scorer, prepared, k, monkeypatch):
    """Lists with and without pruning, and the share of all pairs that the first scored."""
    task = ranking_task(prepared)
    asked = 0
    exact = scoring.CatalogueScorer._exact

    def counted(self, users, given, rows, items):
        nonlocal asked
        asked += len(items)
        return exact(self, users, given, rows, items)

    monkeypatch.setattr(scoring.CatalogueScorer, "_exact", counted)
    rest = (task.users, scorer.num_items, task.consumed_indptr, task.consumed_items, k)
    lists = rank_all(scorer, *rest), rank_all(lambda users: scorer(users), *rest)
    return *lists, asked / (len(task.users) * scorer.num_items)


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
@models
def test_lists_of_a_model_are_those_of_all_its_scores(model, activation, monkeypatch):
    scorer, prepared = trained(model, activation)
    for k in (1, 10, 149, 150):
        scorer = replace(scorer, _found=set())
        ours, full, share = both_lists(scorer, prepared, k, monkeypatch)
        assert np.array_equal(ours, full)
        # From half the catalogue on there is nothing to gain.
        assert (share == 0) == (k == 150)


@pytest.mark.parametrize("user_bias", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("model", PRODUCTS)
def test_of_products_little_more_than_the_list_is_scored(model, scale, user_bias, monkeypatch):
    scorer, prepared = trained(model)
    scored = scorer.scorer.model
    for name in scored.tables:
        scored.table(name).mul_(scale)
    if user_bias and model == "mf":
        scored.options = replace(scored.options, user_bias=True)
        scored.user_bias.normal_(0, scale, generator=torch.Generator().manual_seed(0))
    ours, full, share = both_lists(scorer, prepared, 10, monkeypatch)
    assert np.array_equal(ours, full)
    assert share < 0.05  # of 300 items a list has 10


def test_few_items_are_scored_where_the_wide_part_decides(monkeypatch):
    scorer, prepared = trained("ekpnet_plus")
    assert both_lists(scorer, prepared, 10, monkeypatch)[2] < 0.2


def test_bounds_that_rule_little_out_are_not_computed_again(monkeypatch):
    scorer, prepared = trained("ekpnet")
    scorer.scorer.model.weights.data.mul_(30)
    counted, bounds = [], scoring.Scorer.linear_bounds

    def count(self, *given):
        counted.append(given)
        return bounds(self, *given)

    monkeypatch.setattr(scoring.Scorer, "linear_bounds", count)
    monkeypatch.setattr(scoring, "SCORED_PAIRS", {"cpu": 1})  # a user at a time
    monkeypatch.setattr(scoring, "PARTS_AT_ONCE", 1)
    ours, full, _ = both_lists(scorer, prepared, 10, monkeypatch)
    assert np.array_equal(ours, full)
    assert len(counted) == 1 < len(ours)


@models
def test_large_weights_rule_nothing_out_and_change_nothing(model, monkeypatch):
    scorer, prepared = trained(model)
    for name in ("weights", "w_out", "W_e"):
        getattr(scorer.scorer.model, name).data.mul_(30)
    ours, full, share = both_lists(scorer, prepared, 10, monkeypatch)
    assert np.array_equal(ours, full)
    assert share > 0.8


@models
def test_items_with_the_same_score_keep_their_order(model, monkeypatch):
    """Vectors of three kinds, so that most scores of EKPNet tie."""
    scorer, prepared = trained(model)
    entity = scorer.scorer.model.entity
    entity[: scorer.num_items, 0] = entity[:3, 0].repeat(scorer.num_items // 3, 1)
    ours, full, _ = both_lists(scorer, prepared, 10, monkeypatch)
    assert np.array_equal(ours, full)


@models
def test_nan_is_found_though_few_items_are_scored(model):
    scorer, prepared = trained(model)
    scorer.scorer.model.entity[7, 0, 1] = float("nan")
    task = ranking_task(prepared)
    with pytest.raises(TrainingError, match="score: found NaN for"):
        rank_all(
            scorer, task.users, scorer.num_items, task.consumed_indptr, task.consumed_items, 10
        )


@pytest.mark.parametrize("count", [1, 2, 8])
def test_scores_have_the_same_bits_with_any_threads_and_in_any_block(count, threads, monkeypatch):
    """Where an item is scored it is as among all, whatever is scored beside it."""
    threads(count)
    monkeypatch.setitem(scoring.SCORED_PAIRS, "cpu", 700)
    scorer, prepared = trained("ekpnet_plus")
    users = ranking_task(prepared).users
    nobody = torch.zeros(len(users) + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int32)
    some, all_of_them = scorer.best(users, *nobody, 10), scorer(users)
    scored = some > -torch.inf
    assert 10 * len(users) <= int(scored.sum()) < scored.numel() / 4
    assert torch.equal(some[scored], all_of_them[scored])


def test_the_stage_of_eq_15_and_other_models_have_no_bounds():
    scorer, _ = trained("ekpnet")
    groups = scoring.UserGroups.of(scorer.ripple, np.arange(2))
    items = torch.arange(5, dtype=torch.int32)
    assert scorer.scorer.linear_bounds(groups, items) is not None
    earlier = replace(scorer.scorer, stage="pretrain")
    assert earlier.linear_bounds(groups, items) is None
    assert MODELS["kgcn"].linear_bounds(scorer.scorer.model, {}, None, stage="train") is None


@pytest.mark.slow
@pytest.mark.data
def test_lists_on_real_data(data_root, monkeypatch):
    config = resolve(
        RunConfig(dataset="last-fm", data_root=data_root, model="ekpnet_plus", epochs=2)
    )
    prepared = prepare(load_dataset("last-fm", data_root), 0)
    graph = Graph.from_dataset(prepared.dataset, inverse=config.sampling.inverse)
    model = loop.train(config, prepared, graph).model
    ripple = build.sample_ripple_sets(config, graph, prepared)
    scorer = scoring.catalogue_scorer(ops, model, ripple, prepared.dataset.num_items, stage="train")
    ours, full, share = both_lists(scorer, prepared, 100, monkeypatch)
    assert np.array_equal(ours, full)
    assert share < 0.2
