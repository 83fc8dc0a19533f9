"""The training loop: its loss, its steps, when it stops, what it leaves alone, what it learns."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from ekpnet_fast import ops
from ekpnet_fast.config import ModelConfig, RunConfig, SamplingConfig, StageConfig
from ekpnet_fast.data import SyntheticConfig
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.evaluation import scoring
from ekpnet_fast.models import build
from ekpnet_fast.ops import deterministic, reference
from ekpnet_fast.runs import evaluate
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.examples import UserExamples
from ekpnet_fast.training import epochs, loop, losses, step, validation
from ekpnet_fast.training.validation import Validation
from support.small_training import CONFIG, STAGE, SYNTHETIC, load, start, train

VARIANTS = ["ekpnet", "ekp_att", "ekp_frame", "ekp_no"]


@pytest.fixture(autouse=True)
def one_thread(threads):
    """These problems are too small to share; tests that compare numbers of threads set them."""
    threads(1)


def batches(stream, ripple, count):
    """The first batches, over as many epochs as they take."""
    found, epoch = [], 0
    while len(found) < count:
        epoch += 1
        found += list(stream.epoch(epoch, ripple))
    return found[:count]


def equal_states(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# ---- native ops and the reference ----------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True], ids=["pretrain", "train"])
def test_native_and_reference_losses_agree(deep):
    losses = []
    for backend in (ops, reference):
        trainer, stream, ripple = start(CONFIG, deep, backend)
        losses.append([trainer.step(batch) for batch in batches(stream, ripple, 20)])
    for native, plain in zip(*losses, strict=True):
        assert native.keys() == plain.keys() == {"pairs", "kg", "l2_weights", "l2_rows"}
        assert native == pytest.approx(plain, rel=1e-4, abs=1e-7)


def test_backends_train_to_the_same_validation_auc():
    found = [
        [record.valid_auc for record in train(replace(CONFIG, backend=backend)).records]
        for backend in ("native", "reference")
    ]
    assert found[0] == pytest.approx(found[1], abs=2e-3)


# ---- determinism ---------------------------------------------------------------------------------


def test_threads_do_not_change_a_bit(threads):
    # Torch splits what has more than 32768 elements, so a batch has more pairs than that.
    stage = replace(STAGE, epochs=2, batch_size=40_000, group_size=16, triples=2048)
    config = replace(
        CONFIG,
        shape=ModelConfig(width=8, hops=2, slots=16, layers=3),
        pretrain=stage,
        train=stage,
        synthetic=SyntheticConfig(users=1300, items=800, attributes=40, parents=8, triples=4150),
    )
    data = load(config)
    assert len(data[0].train) > stage.batch_size
    outcomes = []
    for count in (1, 2, 8):
        threads(count)
        outcomes.append(loop.train(config, *data))
    for other in outcomes[1:]:
        assert equal_states(outcomes[0].model, other.model)
        assert [r.loss for r in other.records] == [r.loss for r in outcomes[0].records]
        assert [r.valid_auc for r in other.records] == [r.valid_auc for r in outcomes[0].records]


@pytest.mark.parametrize("n", [1, 100, (1 << 14) + 1, 40_001])
def test_cross_entropy_sum(n, threads):
    draw = torch.Generator().manual_seed(n)
    logits = 5 * torch.randn(n, generator=draw)
    labels = (torch.rand(n, generator=draw) < 0.5).float()
    found = []
    for count in (1, 2, 8):
        threads(count)
        x = logits.clone().requires_grad_()
        total = losses.cross_entropy_sum(x, labels)
        total.backward()
        found.append((float(total.detach()), x.grad))
    for value, grad in found:
        assert value == found[0][0]
        assert torch.equal(grad, found[0][1])
    signed = torch.where(labels == 1, logits, -logits).double()
    assert found[0][0] == pytest.approx(float(-functional.logsigmoid(signed).sum()), rel=1e-5)
    expected = torch.sigmoid(logits.double()) - labels
    assert torch.allclose(found[0][1].double(), expected, rtol=0, atol=1e-6)


def test_seed_decides():
    first, again, other = (train(replace(CONFIG, seed=seed)) for seed in (3, 3, 4))
    assert equal_states(first.model, again.model)
    assert not equal_states(first.model, other.model)


# ---- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name):
    config = replace(
        CONFIG,
        model=name,
        pretrain=replace(STAGE, epochs=4),
        train=replace(STAGE, epochs=3),
    )
    outcome = train(config)
    attention, deep = name in ("ekpnet", "ekp_att"), name in ("ekpnet", "ekp_frame")
    channels, D, K = (2 if attention else 1), 6, 18
    shapes = {key: tuple(value.shape) for key, value in outcome.model.state_dict().items()}
    expected = {
        "entity": (100, channels, D),
        "relation": (2 * SYNTHETIC.relations, channels, D),
        "W_e": (D, D),
        "b_e": (D,),
    }
    if deep:
        expected |= {"weights": (2, K, K), "biases": (2, K), "w_out": (K,), "b_out": (1,)}
    assert shapes == expected
    assert outcome.stage == ("train" if deep else "pretrain")
    losses = {}
    for record in outcome.records:
        losses.setdefault(record.stage, []).append(record.pairs)
    assert list(losses) == (["pretrain", "train"] if deep else ["pretrain"])
    for values in losses.values():
        assert values[-1] < values[0]
        assert values[-1] < math.log(2)


@pytest.mark.parametrize("deep", [False, True], ids=["pretrain", "train"])
def test_a_step_changes_the_touched_rows_only(deep):
    trainer, stream, ripple = start(replace(CONFIG, pretrain=replace(STAGE, batch_size=8)), deep)
    model = trainer.model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    (batch,) = batches(stream, ripple, 1)
    trainer.step(batch)
    touched = torch.zeros(len(model.entity), dtype=torch.bool)
    touched[batch.rows.long()] = True
    assert touched.any() and not touched.all()
    changed = (model.entity != before["entity"]).flatten(1).any(1)
    assert torch.equal(changed, touched)
    assert (
        not trainer.state.m["entity"][~touched].any()
        and not trainer.state.v["entity"][~touched].any()
    )
    for key in ("weights", "biases", "w_out", "b_out"):
        assert torch.equal(model.state_dict()[key], before[key]) != deep


# ---- the loss ------------------------------------------------------------------------------------


def by_definition(model, batch, ripple, stage, deep):
    """The weighted terms of eq. 24 per pair, from whole tables, pair by pair."""
    entity, relation = model.entity.double(), model.relation.detach().double()
    W_e, b_e = model.W_e.detach().double(), model.b_e.detach().double()
    rows = batch.rows.long()
    seen_entities, seen_relations = set(), set()
    bce = 0.0
    for g, (first, last) in enumerate(
        zip(batch.group_indptr, batch.group_indptr[1:], strict=False)
    ):
        slots = []  # (head, relation, tail) of each hop
        for p, count in enumerate(batch.counts[g].tolist()):
            h, r, t = (x[g, p, :count].long() for x in (batch.heads, batch.relations, batch.tails))
            slots.append((rows[h], r, rows[t]))
            seen_entities |= {*rows[h].tolist(), *rows[t].tolist()}
            seen_relations |= set(r.tolist())
        for b in range(int(first), int(last)):
            item = int(rows[int(batch.items[b])])
            seen_entities.add(item)
            v_o = o = entity[item, 0]
            xi, blocks = torch.zeros_like(v_o), []
            for h, r, t in slots:
                gamma_r = relation[r, 1]
                key = entity[h, 1] * (gamma_r * entity[h, 0]).sum(1, keepdim=True) + relation[r, 0]
                value = entity[t, 1] * (gamma_r * entity[t, 0]).sum(1, keepdim=True)
                rho = torch.softmax(key @ o, 0) @ value
                xi = xi + rho
                blocks.append(xi)
                o = (o + rho) @ W_e + b_e
            logit = xi @ v_o
            if deep:
                x = torch.cat([*blocks, o])
                for W, bias in zip(model.weights, model.biases, strict=True):
                    x = torch.tanh(x @ W.detach().double() + bias.detach().double())
                logit = x @ model.w_out.detach().double() + model.b_out.detach().double()[0]
            y = torch.sigmoid(logit)
            bce -= float(torch.log(y if batch.labels[b] == 1 else 1 - y))
    kg = 0.0
    triples = (batch.triple_heads, batch.triple_relations, batch.triple_tails, batch.triple_labels)
    for h, r, t, label in zip(*(x.tolist() for x in triples), strict=True):
        head, tail = int(rows[h]), int(rows[t])
        seen_entities |= {head, tail}
        seen_relations.add(r)
        score = torch.sigmoid(entity[head, 0] + relation[r, 0] - entity[tail, 0])
        kg += float((label - score).square().sum())
    dense = [model.W_e, model.b_e]
    dense += [model.weights, model.biases, model.w_out, model.b_out] if deep else []
    weights = sum(float(w.detach().double().square().sum()) for w in dense)
    norms = float(entity[sorted(seen_entities)].square().sum())
    norms += float(relation[sorted(seen_relations)].square().sum())
    B = batch.num_pairs
    terms = {
        "pairs": bce / B,
        "kg": stage.lambda1 / 2 * kg / B,
        "l2_weights": stage.lambda2 / 2 * weights / B,
        "l2_rows": stage.lambda3 / 2 * norms / B,
    }
    return terms, seen_entities, seen_relations


@pytest.mark.parametrize("deep", [False, True], ids=["pretrain", "train"])
@pytest.mark.parametrize("backend", [ops, reference], ids=["native", "reference"])
def test_loss_is_equation_24(backend, deep):
    # The longer batch leaves entities and relations untouched, whose norms must not count.
    stage = replace(
        STAGE, batch_size=12, group_size=4, triples=3, lambda1=0.3, lambda2=0.2, lambda3=0.1
    )
    shape = replace(CONFIG.shape, init="normal", slots=3)
    config = replace(
        CONFIG, shape=shape, pretrain=stage, train=stage, sampling=SamplingConfig(inverse=False)
    )
    trainer, stream, ripple = start(config, deep, backend)
    for batch in batches(stream, ripple, 3):
        expected, entities, relations = by_definition(trainer.model, batch, ripple, stage, deep)
        assert set(batch.rows.tolist()) == entities
        assert batch.relation_touched.nonzero().flatten().tolist() == sorted(relations)
        assert len(entities) < SYNTHETIC.num_entities
        assert all(value > 0 for value in expected.values())
        assert trainer.step(batch) == pytest.approx(expected, rel=2e-5)


def test_terms_without_weight_are_left_out():
    stage = replace(STAGE, lambda1=0.0, lambda2=0.0, lambda3=0.0)
    trainer, stream, ripple = start(replace(CONFIG, pretrain=stage), deep=False)
    (batch,) = batches(stream, ripple, 1)
    assert batch.triple_heads.numel() == 0
    assert trainer.step(batch).keys() == {"pairs"}


def test_gradient_of_a_step_is_that_of_the_whole_loss():
    # Also the rows' share of the norm, which the optimizer adds by itself.
    trainer, stream, ripple = start(CONFIG, deep=True)
    (batch,) = batches(stream, ripple, 1)
    model, stage = trainer.model, CONFIG.train
    rows = model.entity[batch.rows.long()].double().requires_grad_()
    plain = build.build_model(CONFIG, *load(CONFIG)).double()
    touched = {"relation_touched": batch.relation_touched.double()}
    in_double = replace(batch, labels=batch.labels.double(), known=touched)
    terms = losses.loss_terms(reference, plain, {"entity": rows}, in_double, stage, name="train")
    norm = rows.square().sum() * stage.lambda3 / 2 / batch.num_pairs
    (sum(terms.values()) + norm).backward()
    trainer.step(batch)
    # After the first step Adam's first moment is a tenth of the gradient.
    found = 10 * trainer.state.m["entity"][batch.rows.long()].double()
    assert torch.allclose(found, rows.grad, rtol=1e-4, atol=1e-8)
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("n", [1, 100, (1 << 14) + 1, 100_000])
def test_fixed_order_sum(n, threads):
    x = torch.randn(n, generator=torch.Generator().manual_seed(n))
    found = []
    for count in (1, 2, 8):
        threads(count)
        found.append(float(deterministic.fixed_order_sum(x)))
    assert found[0] == found[1] == found[2]
    assert found[0] == pytest.approx(float(x.double().sum()), abs=1e-2)


# ---- stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "name"), [("ripplenet", "auc"), ("recbole", "mrr")])
def test_early_stopping_keeps_the_best_epoch(monkeypatch, protocol, name):
    scripted = {"pretrain": [0.5, 0.7, 0.6, 0.7, 0.9], "train": [0.9, 0.8, 0.7, 0.95]}
    stage = replace(STAGE, epochs=5, patience=2)
    config = replace(CONFIG, pretrain=stage, train=stage, protocol=protocol)
    states = []

    def valid(validation, stage):
        done = sum(name == stage for name, _ in states)
        states.append((stage, {k: v.clone() for k, v in validation.model.state_dict().items()}))
        return scripted[stage][done]

    monkeypatch.setattr(Validation, "score", valid)
    outcome = train(config)
    # An equal value is no better one: patience runs out after epoch 4 and 3.
    assert [(r.stage, r.epoch) for r in outcome.records] == [
        *[("pretrain", epoch) for epoch in (1, 2, 3, 4)],
        *[("train", epoch) for epoch in (1, 2, 3)],
    ]
    expected = scripted["pretrain"][:4] + scripted["train"][:3]
    assert [getattr(r, f"valid_{name}") for r in outcome.records] == expected
    other = {"auc": "mrr", "mrr": "auc"}[name]
    assert all(math.isnan(getattr(r, f"valid_{other}")) for r in outcome.records)
    kept = outcome.model.state_dict()
    best, last = states[4][1], states[-1][1]
    assert all(torch.equal(kept[key], best[key]) for key in kept)
    assert not torch.equal(kept["entity"], last["entity"])
    assert outcome.stage == "train"


def test_second_stage_starts_from_the_best_of_the_first(monkeypatch):
    aucs = iter([0.9, 0.5, 0.5])
    monkeypatch.setattr(Validation, "score", lambda validation, stage: next(aucs))
    short = train(
        replace(CONFIG, pretrain=replace(STAGE, epochs=1), train=replace(STAGE, epochs=0))
    )
    started = []

    class Trainer(step.StageTrainer):
        def __init__(self, model, *arguments, **options):
            super().__init__(model, *arguments, **options)
            started.append({k: v.clone() for k, v in model.state_dict().items()})

    aucs = iter([0.9, 0.5, 0.5])
    monkeypatch.setattr(epochs, "StageTrainer", Trainer)
    train(replace(CONFIG, pretrain=replace(STAGE, epochs=2), train=replace(STAGE, epochs=1)))
    assert len(started) == 2
    expected = short.model.state_dict()
    assert all(torch.equal(started[1][key], expected[key]) for key in expected)
    assert not torch.equal(started[0]["entity"], expected["entity"])


@pytest.mark.parametrize(("term", "field"), [("pairs", "entity"), ("l2_weights", "b_e")])
def test_loss_that_is_not_finite_names_term_and_step(term, field):
    trainer, stream, ripple = start(CONFIG, deep=False)
    ahead = batches(stream, ripple, 3)
    trainer.step(ahead[0])
    trainer.step(ahead[1])
    if field == "entity":
        trainer.model.entity[ahead[2].rows[0].long()] = math.nan
    else:
        # Large but finite, so that the other terms stay so, too.
        trainer.model.b_e.data.fill_(1e25)
    with pytest.raises(TrainingError) as caught:
        trainer.step(ahead[2])
    text = str(caught.value)
    assert f"the loss term {term} is " in text
    assert "in step 3 of the pretrain stage" in text
    assert "smaller lr (now 0.02)" in text


def test_an_absurd_lr_is_told():
    stage = replace(STAGE, lr=1e30)
    with pytest.raises(TrainingError, match=r"loss term \w+ is (nan|inf) in step \d+ of the pretr"):
        train(replace(CONFIG, pretrain=stage))


def test_a_diverging_loss_is_told():
    """Adam with such steps makes numbers that are large but finite."""
    stage = replace(STAGE, lr=3.0, epochs=20, patience=20)
    expected = (
        r"the loss diverges in the pretrain stage: since step \d+ it is above 10 times its start of"
        r" 0\.\d+, in step \d+ it is \d.*, of which the term pairs is \d.*, at first 0\.\d+; a"
        r" smaller lr \(now 3\.0\) usually helps"
    )
    with pytest.raises(TrainingError, match=expected):
        train(replace(CONFIG, pretrain=stage))


def test_what_counts_as_diverging():
    watch = losses.LossWatch(replace(STAGE, lambda1=0.5), "train")
    start = {"pairs": 0.5, "kg": 0.1}
    watch.check(start, 1)
    limit = 10 * math.log(2)  # of the two, the larger start
    for number in range(2, 60):  # at the limit, or above it now and then
        watch.check({"pairs": limit * (1.5 if number % 20 else 1.0), "kg": 0.0}, number)
    # What is above it goes on above it in another watch; batches of triples do not interrupt.
    watch = losses.LossWatch(replace(STAGE, lambda1=0.5), "train", watch.state)
    watch.check({"pairs": 0.5, "kg": 0.1}, 60)
    for number in range(61, 80):
        watch.check({"pairs": 0.5, "kg": 7.0 + number}, number)
        watch.check({"kg": 0.1}, number)
    watch = losses.LossWatch(replace(STAGE, lambda1=0.5), "train", watch.state)
    with pytest.raises(TrainingError) as caught:
        watch.check({"pairs": 0.5, "kg": 7.0 + 80}, 80)
    assert str(caught.value) == (
        "the loss diverges in the train stage: since step 61 it is above 10 times its start of"
        " 0.6931, in step 80 it is 87.5, of which the term kg is 87, at first 0.1; a smaller lr"
        " (now 0.02), or a smaller lambda1 (now 0.5), usually helps"
    )


def test_no_training_rows():
    prepared, graph = load(CONFIG)
    empty = replace(prepared, train=prepared.train.take(np.arange(0)))
    with pytest.raises(TrainingError, match=r"0 training and \d+ validation rows"):
        loop.train(CONFIG, empty, graph)


# ---- ripple sets and reports ---------------------------------------------------------------------


@pytest.mark.parametrize("resample", [False, True])
def test_resampling_draws_anew_each_epoch(monkeypatch, resample):
    used, evaluated = [], []
    epoch, score_examples = BatchStream.epoch, scoring.score_examples

    def remember_epoch(stream, number, ripple, **skipped):
        used.append(ripple)
        return epoch(stream, number, ripple, **skipped)

    def remember_scores(backend, model, ripple, rows, **options):
        evaluated.append(ripple)
        return score_examples(backend, model, ripple, rows, **options)

    monkeypatch.setattr(BatchStream, "epoch", remember_epoch)
    monkeypatch.setattr(validation, "score_examples", remember_scores)
    train(replace(CONFIG, sampling=SamplingConfig(resample=resample)))
    assert len(used) == len(evaluated) == 4
    for i in range(4):
        assert torch.equal(evaluated[i].tails, used[0].tails)
        for j in range(i):
            assert torch.equal(used[i].tails, used[j].tails) != resample


def test_reports():
    told = []
    outcome = train(CONFIG, told.append)
    pairs = len(load(CONFIG)[0].train)
    assert [p.record for p in told if p.record is not None] == outcome.records
    for stage in ("pretrain", "train"):
        for epoch in (1, 2):
            mine = [p for p in told if (p.stage, p.epoch) == (stage, epoch)]
            done = [p.pairs for p in mine]
            assert done == sorted(done) and done[-1] == pairs == mine[0].total_pairs
            assert mine[-1].record is not None and mine[-1].epochs == 2
    for record in outcome.records:
        parts = record.pairs + record.kg + record.l2_weights + record.l2_rows
        assert record.loss == pytest.approx(parts)
        assert record.samples_per_second == pytest.approx(pairs / record.seconds)


# ---- scoring -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    prepared, graph = load(CONFIG)
    outcome = loop.train(CONFIG, prepared, graph)
    return prepared, outcome, build.sample_ripple_sets(CONFIG, graph, prepared)


def test_rows_are_scored_in_table_order(trained, monkeypatch):
    prepared, outcome, ripple = trained
    rows = prepared.test
    together = scoring.score_examples(
        ops, outcome.model, ripple, scoring.examples_by_user(rows, prepared), stage="train"
    )
    assert together.shape == (len(rows),)
    alone = [
        scoring.score_examples(
            ops,
            outcome.model,
            ripple,
            UserExamples.from_examples(rows.take(np.array([i])), prepared.dataset.num_users),
            stage="train",
        )[0]
        for i in range(len(rows))
    ]
    assert together == pytest.approx(np.array(alone), rel=1e-6)
    # A block of users at a time gives the same bits.
    monkeypatch.setitem(scoring.SCORED_PAIRS, "cpu", 7)
    blocks = scoring.score_examples(
        ops, outcome.model, ripple, scoring.examples_by_user(rows, prepared), stage="train"
    )
    assert np.array_equal(blocks, together)


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_catalogue_scores_are_those_of_rows(trained, monkeypatch, stage):
    prepared, outcome, ripple = trained
    rows, items = prepared.test, prepared.dataset.num_items
    by_row = scoring.score_examples(
        ops, outcome.model, ripple, scoring.examples_by_user(rows, prepared), stage=stage
    )
    users = np.arange(prepared.dataset.num_users, dtype=np.int32)
    scorer = scoring.catalogue_scorer(ops, outcome.model, ripple, items, stage=stage)
    table = scorer(users).numpy()
    assert table.shape == (len(users), items)
    assert table[rows.users, rows.items] == pytest.approx(by_row, rel=1e-6)
    # Any choice and order of users gives their rows; a user more at a time changes no bit.
    assert np.array_equal(scorer(users[[5, 2]]).numpy(), table[[5, 2]])
    monkeypatch.setitem(scoring.SCORED_PAIRS, "cpu", 1)
    one_by_one = scoring.catalogue_scorer(ops, outcome.model, ripple, items, stage=stage)
    assert np.array_equal(one_by_one(users[:4]).numpy(), table[:4])


# ---- what is learned -----------------------------------------------------------------------------


def test_the_graph_helps():
    synthetic = SyntheticConfig(
        users=1500, items=600, positives=12, attributes=40, parents=8, triples=2520,
        noise=0.0, popularity_skew=0.0, sharpness=3.0,
    )  # fmt: skip
    stage = StageConfig(epochs=6, batch_size=512, group_size=64, lr=1e-2, triples=64)
    config = RunConfig(
        shape=ModelConfig(width=16, hops=2, slots=32, layers=3),
        sampling=SamplingConfig(inverse=True, resample=False),
        pretrain=stage,
        train=replace(stage, epochs=4, lr=5e-3, lambda1=0.001),
        synthetic=synthetic,
        ranking=False,
    )
    draw = np.random.default_rng(5)

    def test_auc(change):
        prepared, graph = load(config, change)
        found = evaluate.evaluate(config, prepared, graph, loop.train(config, prepared, graph))
        return found["test"]["auc"], found["popularity_auc"], found["oracle_auc"]

    true, popularity, oracle = test_auc(lambda dataset: dataset)
    permuted, *_ = test_auc(lambda dataset: replace(dataset, tails=draw.permutation(dataset.tails)))
    print(f"AUC: {true:.4f}, permuted {permuted:.4f}, popularity {popularity:.4f}, {oracle:.4f}")
    assert permuted + 0.05 < true < oracle
    assert popularity + 0.05 < true
