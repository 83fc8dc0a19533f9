"""EKPNet+ and its linear part: what they see, what they must not gain from, what they say."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from ekpnet_fast import ops
from ekpnet_fast.config import ModelConfig, RunConfig, StageConfig
from ekpnet_fast.data import Dataset, Examples, SyntheticConfig, make_synthetic, popularity, prepare
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.evaluation import metrics, scoring
from ekpnet_fast.models import MODELS, build
from ekpnet_fast.models.wide.affinity import Affinities
from ekpnet_fast.runs.display import weights_text
from ekpnet_fast.runs.fit import fit_run
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.examples import TrainingExamples
from ekpnet_fast.sampling.folds import Folds
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.pairs import PairRequest, TrainContext
from ekpnet_fast.training import loop

STAGE = StageConfig(epochs=2, batch_size=64, group_size=8, triples=16, lr=0.01)
CONFIG = RunConfig(
    folds=5,
    shape=ModelConfig(width=4, hops=2, slots=6, layers=2),
    pretrain=STAGE,
    train=STAGE,
    synthetic=SyntheticConfig(
        users=60, items=80, positives=10, attributes=16, parents=4, triples=435, item_links=4
    ),
)

both = pytest.mark.parametrize("model", ["linear", "ekpnet_plus"])


def load():
    dataset = make_synthetic(CONFIG.synthetic)
    return prepare(dataset, CONFIG.seed), Graph.from_dataset(dataset, inverse=True)


def with_options(model, **changes):
    kind = MODELS[model].Options
    return resolve(replace(CONFIG, model=model, options=kind(**changes)))


@pytest.fixture(scope="module")
def fitted():
    """A linear model, and the rows that it was fitted to."""
    prepared, graph = load()
    config = with_options("linear")
    model = build.build_model(config, prepared, graph)
    folds = Folds.cut(scoring.examples_by_user(prepared.train, prepared), 5, config.seed)
    model.linear.fit(TrainingExamples(folds.rows, folds.histories, 5))
    return model, prepared, graph, folds


# ---- what rows see -------------------------------------------------------------------------------


def test_a_training_row_is_described_without_its_fold(fitted):
    """As if the clicks of its fold, of all users, had never been made.

    But for what each relation of the graph counts, a number that all clicks tell.
    """
    model, prepared, graph, folds = fitted
    owners = torch.repeat_interleave(folds.rows.indptr.diff())
    for fold in (0, 3):
        ids = torch.arange(fold, len(folds.histories), 5)
        left = folds.histories.of(ids)
        source = replace(
            TrainContext.of(prepared, graph, 0),
            history_indptr=left.indptr,
            history_items=left.items,
        )
        other = MODELS["linear"](with_options("linear"), source)
        # Counts are of four fifths of the clicks, so they are raised by as much.
        other.linear.affinities = Affinities(
            left,
            model.linear.knowledge,
            model.linear.options,
            1.25,
            model.linear.affinities.graph.basis,
        )
        other.linear.load_state_dict(model.linear.state_dict())
        rows = torch.nonzero(owners % 5 == fold).squeeze(1)[:50]
        users, items = (owners[rows] // 5).int(), folds.rows.items[rows]
        request = PairRequest(users, torch.arange(len(rows) + 1), items, epoch=0)
        asked = replace(
            request, histories=folds.histories, ids=owners[rows].int(), folds=5, rows=rows
        )
        found = model.linear.of(asked, folds.histories, asked.ids)
        expected = other.linear.of(request, left, users)
        assert torch.allclose(found, expected, atol=1e-4)


def test_epochs_take_the_draws_of_negatives_in_turn(fitted):
    """Each draw is described as if it were the only one; the first is what is fitted to."""
    model, prepared, graph, folds = fitted
    again = build.build_model(with_options("linear"), prepared, graph)
    first = folds.rows.items
    draws = [first, first.flip(0), (first + 1) % prepared.dataset.num_items]
    again.linear.fit(
        TrainingExamples(
            folds.rows, folds.histories, 5, redraw=lambda epoch: draws[epoch - 1], draws=3
        )
    )
    assert torch.equal(again.linear.weight, model.linear.weight)
    ids = torch.nonzero(folds.rows.indptr.diff()).squeeze(1)[:40]
    n = folds.rows.indptr.diff()[ids]
    indptr = torch.cat([n.new_zeros(1), n.cumsum(0)])
    rows = torch.cat([torch.arange(*folds.rows.indptr[i : i + 2].tolist()) for i in ids])
    request = PairRequest(
        (ids // 5).int(), indptr, first[rows], 1, histories=folds.histories, ids=ids.int(),
        folds=5, rows=rows,
    )  # fmt: skip
    for epoch in range(1, 8):
        asked = replace(request, items=draws[(epoch - 1) % 3][rows], epoch=epoch)
        found = again.inputs(asked)["linear"]
        if epoch % 3 == 1:
            assert torch.allclose(found, model.inputs(request)["linear"], atol=1e-5)
        else:
            assert not torch.allclose(found, model.inputs(request)["linear"], atol=1e-2)
        if epoch > 3:
            earlier = replace(asked, epoch=epoch - 3)
            assert torch.equal(found, again.inputs(earlier)["linear"])


@both
def test_a_new_user_is_scored_as_a_known_one_with_the_same_history(model):
    prepared, graph = load()
    outcome = loop.train(with_options(model), prepared, graph)
    source = outcome.model.source
    known = torch.tensor([5, 2], dtype=torch.int32)
    history = source.histories.of(known)
    new = outcome.model.with_context(
        replace(source, num_users=2, history_indptr=history.indptr, history_items=history.items)
    )
    I = source.num_items  # noqa: E741
    items, ends = torch.arange(I, dtype=torch.int32).repeat(2), torch.arange(3) * I
    theirs = outcome.model.inputs(PairRequest(known, ends, items, 0))["linear"]
    ours = new.inputs(PairRequest(torch.arange(2, dtype=torch.int32), ends, items, 0))["linear"]
    brought = outcome.model.inputs(
        PairRequest(
            known, ends, items, 0, histories=history, ids=torch.arange(2, dtype=torch.int32)
        )
    )["linear"]
    assert torch.equal(ours, theirs) and torch.equal(brought, theirs)
    assert theirs.std() > 0.1


@both
def test_train_negatives_of_a_user_describe_nobody(model):
    """Only the rows themselves change where negatives do; features look at histories."""
    prepared, graph = load()
    built = build.build_model(with_options(model), prepared, graph)
    train = prepared.train
    moved = Examples(train.users, np.where(train.labels == 1, train.items, 0), train.labels)
    other = build.build_model(with_options(model), replace(prepared, train=moved), graph)
    ids = torch.arange(10, dtype=torch.int32)
    ends, items = torch.arange(11) * 8, torch.arange(80, dtype=torch.int32)
    found = [
        x.linear.affinities.features(x.source.histories.of(ids), ends, items)
        for x in (built, other)
    ]
    assert torch.equal(*found)


# ---- what a split gives away ---------------------------------------------------------------------


def planted(seed=0, users=1500, items=1200):
    """Clicks that only popularity explains, every item clicked at least once, a graph of noise.

    As in the public data sets: a user has as many negatives, uniform over the items that it did not
    click, as clicks; so an item that nobody clicked in train was clicked in another split.
    """
    stream = np.random.default_rng(seed)
    weight = 1 / (np.arange(items) + 20.0)
    clicked = [
        stream.choice(items, size=1 + stream.poisson(1.5), replace=False, p=weight / weight.sum())
        for _ in range(users)
    ]
    lone = np.setdiff1d(np.arange(items), np.concatenate(clicked))
    for item in lone:
        user = stream.integers(users)
        clicked[user] = np.append(clicked[user], item)
    rows = []
    for user, chosen in enumerate(clicked):
        free = np.setdiff1d(np.arange(items), chosen)
        rows += [(user, item, 1) for item in chosen]
        rows += [(user, item, 0) for item in stream.choice(free, len(chosen), replace=False)]
    u, i, y = np.array(rows).T
    heads = np.repeat(np.arange(items, dtype=np.int32), 3)
    return Dataset(
        name="planted",
        num_users=users,
        num_items=items,
        num_entities=items + 150,
        num_relations=2,
        rows=Examples(u.astype(np.int32), i.astype(np.int32), y.astype(np.int8)),
        interactions=None,
        heads=heads,
        relations=stream.integers(0, 2, len(heads)).astype(np.int32),
        tails=(items + stream.integers(0, 150, len(heads))).astype(np.int32),
    )


@both
def test_artefacts_of_the_split_are_not_learned(model):
    """A look-up of the label rate by count gains from them, and that is what is not gained here."""
    prepared = prepare(planted(), 0)
    graph = Graph.from_dataset(prepared.dataset, inverse=True)
    counts = popularity.popularity(prepared.history_items, prepared.dataset.num_items)
    valid, test = prepared.valid, prepared.test
    # The artefact is there: nothing but counts is looked at, and rates are learned on validation.
    rate = np.array(
        [valid.labels[np.minimum(counts[valid.items], 9) == count].mean() for count in range(10)]
    )
    looked_up = metrics.auc(test.labels, rate[np.minimum(counts[test.items], 9)])
    by_count = metrics.popularity_click_metrics(test, prepared)
    assert rate[0] > rate[1] + 0.1 and looked_up > by_count.auc + 0.01

    quick = replace(STAGE, epochs=4, batch_size=256, lr=5e-3)
    config = replace(with_options(model), pretrain=quick, train=quick)
    outcome = loop.train(config, prepared, graph)
    scores = scoring.score_examples(
        ops,
        outcome.model,
        build.sample_ripple_sets(config, graph, prepared),
        scoring.examples_by_user(test, prepared),
        stage=outcome.stage,
    )
    found = metrics.click_metrics(test, scores, prepared)
    never = counts[test.items] == 0
    assert never.sum() > 200
    # The graph is noise, so it explains nothing of the items that nobody clicked.
    assert metrics.auc(test.labels[never], scores[never]) < 0.56
    # They are not raised above those that were clicked once, as their label rate is.
    once = counts[test.items] == 1
    assert np.median(scores[never]) <= np.median(scores[once]) + 1e-3
    as_once = metrics.auc(test.labels, np.maximum(counts[test.items], 1))
    assert found.auc < as_once + 0.01 < looked_up
    assert found.auc_warm == pytest.approx(by_count.auc_warm, abs=0.03)
    assert found.auc_warm > 0.6


@both
def test_the_response_to_popularity_never_falls(model, fitted):
    _, prepared, graph, _ = fitted
    outcome = loop.train(with_options(model, ease=10.0), prepared, graph)
    weights = outcome.model.weights_by_name()
    assert len(weights) == len(outcome.model.linear.names)
    assert min(weights.values()) >= 0 and max(weights.values()) > 0
    assert list(weights.values()) == sorted(weights.values(), reverse=True)


# ---- EKPNet+ itself ------------------------------------------------------------------------------


def test_untrained_prediction_is_the_linear_part_s_and_ekpnet_s(fitted):
    _, prepared, graph, folds = fitted
    plus = build.build_model(with_options("ekpnet_plus"), prepared, graph)
    plus.fit_features(TrainingExamples(folds.rows, folds.histories, 5))
    config = resolve(replace(CONFIG, folds=1, model="ekpnet"))
    plain = MODELS["ekpnet"](config, plus.source)
    plain.load_state_dict(
        {name: value for name, value in plus.state_dict().items() if name in plain.state_dict()}
    )
    sets = build.sample_ripple_sets(config, graph, prepared)
    users, ends = np.arange(4, dtype=np.int32), torch.arange(5) * 3
    items = torch.arange(12, dtype=torch.int32)
    groups = scoring.UserGroups.of(sets, users)
    for stage in ("pretrain", "train"):
        scorers = [scoring.Scorer.of(ops, each, stage, sets.heads.device) for each in (plus, plain)]
        ours, theirs = (each.logits(each.pairs(groups, ends, items)) for each in scorers)
        part = plus.inputs(PairRequest(torch.from_numpy(users), ends, items, 0))["linear"]
        assert torch.allclose(ours, part + theirs, atol=1e-6)


def test_straight_lines_train():
    prepared, graph = load()
    default = loop.train(with_options("ekpnet_plus"), prepared, graph)
    outcome = loop.train(with_options("ekpnet_plus", pieces=1), prepared, graph)
    assert all(np.isfinite(record.loss) for record in outcome.records if record.epoch)
    assert outcome.records[-1].loss != default.records[-1].loss


def test_the_wide_part_alone_is_kept_where_no_epoch_is_better():
    """As with a stage of no epochs, and with what EKPNet learns made of no use to validation."""
    prepared, graph = load()
    config = with_options("ekpnet_plus")
    config = replace(config, pretrain=replace(config.pretrain, epochs=0))
    bad = replace(config, train=replace(config.train, lr=10.0))
    outcome = loop.train(bad, prepared, graph)
    first, *others = outcome.records
    assert first.epoch == 0 and math.isnan(first.loss) and first.seconds == 0
    assert max(record.valid for record in others) < first.valid
    none = loop.train(replace(config, train=replace(config.train, epochs=0)), prepared, graph)
    for found in (outcome, none):
        model = found.model
        assert found.stage == "train" and not model.w_out.any() and not model.b_out.any()
        ripple = build.sample_ripple_sets(config, graph, prepared)
        scorer = scoring.catalogue_scorer(ops, model, ripple, model.source.num_items, stage="train")
        wide = scoring.catalogue_scorer(
            ops, linear_alone(model, config, prepared, graph), ripple, model.source.num_items,
            stage="",
        )  # fmt: skip
        users = np.arange(5, dtype=np.int32)
        assert torch.equal(scorer(users), wide(users))
    assert (
        fit_run(replace(bad, refit=True), prepared, graph).outcome.model.w_out.any().item() is False
    )


def linear_alone(model, config, prepared, graph):
    """The wide part of a model as a model of its own."""
    other = build.build_model(with_options("linear"), prepared, graph)
    other.linear.load_state_dict(model.linear.state_dict())
    return other


@both
def test_options_are_checked(model):
    with pytest.raises(ConfigError, match=f"--{model}.low_pass has 0, expected ranks of 1 to 1024"):
        with_options(model, low_pass=(0,))
    with pytest.raises(ConfigError, match=f"--{model}.ease is -1, expected at least 0"):
        with_options(model, ease=-1)
    for rank in (2000, 1, -1):
        told = f"--{model}.graph_regression is {rank}, expected 0 or 2 to 1024"
        with pytest.raises(ConfigError, match=told):
            with_options(model, graph_regression=rank)
    with pytest.raises(ConfigError, match=f"--{model}.relations is 65, expected 0 to 64"):
        with_options(model, relations=65)
    with pytest.raises(ConfigError, match=f"--{model}.pieces is 0, expected 1 to 64"):
        with_options(model, pieces=0)


def test_ease_is_refused_where_it_takes_too_much_memory(fitted, monkeypatch):
    _, prepared, graph, _ = fitted
    monkeypatch.setattr("ekpnet_fast.models.wide.part.EASE_ITEMS", 79)
    with pytest.raises(
        ConfigError, match=r"ease is 5.0, expected 0 for 80 items: it holds them all"
    ):
        build.build_model(with_options("linear", ease=5.0), prepared, graph)


def test_weights_are_shown_by_name():
    text = weights_text({"popularity": 0.75, "KG match": 0.25, "EASE": 0.0})
    assert text == (
        "The logit rises over each feature by: popularity 0.750; KG match 0.250; 1 more do not."
    )
    shown = io.StringIO()
    Console(file=shown, width=200).print(text, highlight=False, markup=False)
    assert "popularity 0.750" in shown.getvalue()


@both
def test_the_recbole_protocol_is_trained_with_folds(model):
    dataset = make_synthetic(CONFIG.synthetic)
    prepared = prepare(dataset, 0, "recbole")
    graph = Graph.from_dataset(dataset, inverse=True)
    outcome = loop.train(resolve(replace(with_options(model), protocol="recbole")), prepared, graph)
    assert max(outcome.model.weights_by_name().values()) > 0
    assert all(np.isfinite(record.loss) for record in outcome.records if record.epoch)
    scorer = scoring.catalogue_scorer(
        ops, outcome.model, build.sample_ripple_sets(with_options(model), graph, prepared),
        dataset.num_items, stage=outcome.stage,
    )  # fmt: skip
    assert scorer(np.array([0, 1], dtype=np.int32)).isfinite().all()


def test_histories_are_never_empty_lists_of_the_wrong_user(fitted):
    """A user without a history is told apart from others: by the graph and clicks, nothing."""
    model, prepared, _, _ = fitted
    nobody = Histories(torch.zeros(2, dtype=torch.int64), torch.zeros(0, dtype=torch.int32))
    I = prepared.dataset.num_items  # noqa: E741
    request = PairRequest(
        torch.zeros(1, dtype=torch.int32), torch.tensor([0, I]), torch.arange(I).int(), 0,
        histories=nobody, ids=torch.zeros(1, dtype=torch.int32),
    )  # fmt: skip
    logits = model.inputs(request)["linear"].numpy()
    counts = popularity.popularity(prepared.history_items, I)
    popular = model.linear.weights()["popularity"]
    assert np.isfinite(logits).all()
    if popular > 0:
        assert logits[counts.argmax()] > logits[counts.argmin()]
