"""What every registered model must do; a new one gets these tests by being listed in MODELS."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from signal import SIGTERM

import numpy as np
import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.config import ModelConfig, RunConfig
from ekpnet_fast.data import Dataset, Examples, SyntheticConfig, make_synthetic, prepare
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.evaluation import metrics, ranking, scoring
from ekpnet_fast.models import MODELS, build
from ekpnet_fast.ops import reference
from ekpnet_fast.runs import evaluate, runner
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.storage import checkpoint
from ekpnet_fast.storage.checkpoint import CheckpointWriter
from ekpnet_fast.training import loop, step
from ekpnet_fast.training.signals import Interrupted
from support.small_training import STAGE, SYNTHETIC

CONFIG = RunConfig(
    shape=ModelConfig(width=6, hops=2, slots=8, layers=3),
    pretrain=STAGE,
    train=STAGE,
    synthetic=SYNTHETIC,
)
every_model = pytest.mark.parametrize("model", MODELS)
trained_models = pytest.mark.parametrize("model", [name for name in MODELS if MODELS[name].stages])
every_stage = pytest.mark.parametrize(
    ("model", "stage"), [(name, stage) for name in MODELS for stage in MODELS[name].stages]
)


@pytest.fixture(autouse=True)
def one_thread(threads):
    """These problems are too small to share; tests that compare numbers of threads set them."""
    threads(1)


def config_of(model, base=CONFIG, **changes):
    return resolve(replace(base, model=model, **changes))


def load(config):
    dataset = make_synthetic(config.synthetic)
    return prepare(dataset, config.seed), Graph.from_dataset(dataset, inverse=True)


def start(config, name, backend=ops):
    """A trainer of an untrained model, and the batches of its first epoch."""
    prepared, graph = load(config)
    model = build.build_model(config, prepared, graph)
    stage, plan = getattr(config, name), model.plan(config, name)
    stream = BatchStream(
        graph,
        scoring.examples_by_user(prepared.train, prepared),
        batch_size=stage.batch_size,
        group_size=stage.group_size,
        triples=0 if plan.triples == "none" else stage.triples,
        seed=config.seed,
        reads=model.reads,
        plan=plan,
    )
    ripple = build.sample_ripple_sets(config, graph, prepared)
    trainer = step.StageTrainer(model, stage, backend, name)
    return trainer, list(stream.epoch(1, ripple))


def assert_same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


# ---- what it declares ----------------------------------------------------------------------------


@every_model
def test_declaration(model):
    kind = MODELS[model]
    assert kind.name == model and kind.summary and "\n" not in kind.summary
    assert kind.__doc__ and len(kind.__doc__) > 40
    assert set(kind.stages) <= {"pretrain", "train"}
    config = config_of(model)
    prepared, graph = load(config)
    built = build.build_model(config, prepared, graph)
    sizes = {
        "entity": graph.num_entities,
        "user": prepared.dataset.num_users,
        "item": prepared.dataset.num_items,
    }
    for table, space in kind.tables.items():
        rows = built.table(table)
        assert rows.dtype == torch.float32 and rows.is_contiguous()
        assert len(rows) == sizes.get(space, len(rows)), table
    for parameter in built.relations():
        assert len(parameter) == graph.num_relations
    if kind.Options is not None:
        # Not on top: a machine that only tests the GPU need not have what parses options.
        from ekpnet_fast.runs.option_parser import run_parser

        assert is_dataclass(kind.Options) and config.options == kind.Options()
        shown = {action.dest: action.help for action in run_parser(model)._actions}
        for option in fields(kind.Options):
            assert shown[f"{model}.{option.name}"], option.name


@trained_models
def test_lists_are_bounded_where_it_says_so(model):
    config = config_of(model)
    prepared, graph = load(config)
    built = build.build_model(config, prepared, graph)
    scorer = scoring.Scorer.of(ops, built, built.stages[-1], torch.device("cpu"))
    ripple = build.sample_ripple_sets(config, graph, prepared)
    groups = scoring.UserGroups.of(ripple, np.arange(2))
    bounds = scorer.linear_bounds(groups, torch.arange(prepared.dataset.num_items).int())
    assert built.bounded() == (bounds is not None)


# ---- a step --------------------------------------------------------------------------------------


@every_stage
def test_shapes_and_finite_loss(model, stage):
    trainer, batches = start(config_of(model), stage)
    assert batches
    for batch in batches:
        if batch.num_pairs:
            tables = {
                name: trainer.model.table(name)[batch.rows_of(space).long()]
                for name, space in trainer.model.tables.items()
            }
            logits = trainer.model.logits(ops, tables, batch, stage=stage)
            assert logits.shape == (batch.num_pairs,) and logits.dtype == torch.float32
        terms = trainer.step(batch)
        assert set(terms) <= {"pairs", "kg", "l2_weights", "l2_rows"}
        assert ("pairs" in terms) == (batch.num_pairs > 0)
        assert all(math.isfinite(value) for value in terms.values())
    for x in trainer.model.state_dict().values():
        assert x.isfinite().all()


@every_stage
def test_a_step_changes_the_touched_rows_only(model, stage):
    tiny = replace(STAGE, batch_size=4, triples=2)
    trainer, batches = start(config_of(model, pretrain=tiny, train=tiny), stage)
    built = trainer.model
    before = {name: built.table(name).clone() for name in built.tables}
    trainer.step(batches[0])
    for name, space in built.tables.items():
        rows = batches[0].rows_of(space)
        assert len(rows) == len(set(rows.tolist()))
        left = torch.ones(len(before[name]), dtype=torch.bool)
        left[rows.long()] = False
        assert left.any()
        assert torch.equal(built.table(name)[left], before[name][left]), name
        assert not trainer.state.m[name][left].any() and not trainer.state.v[name][left].any()


@every_stage
def test_native_and_reference_steps_agree(model, stage):
    """The loss, and by Adam's first moment the gradient of every table and parameter."""
    found = []
    for backend in (ops, reference):
        trainer, batches = start(config_of(model), stage, backend)
        terms = [trainer.step(batch) for batch in batches[:4]]
        moments = dict(trainer.state.m)
        for name, parameter in trainer.model.named_parameters():
            if parameter in trainer.state.adam.state:
                moments[name] = trainer.state.adam.state[parameter]["exp_avg"]
        found.append((terms, moments))
    (native_terms, native), (plain_terms, plain) = found
    for ours, theirs in zip(native_terms, plain_terms, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert native.keys() == plain.keys()
    for name in native:
        scale = float(plain[name].abs().max())
        assert torch.allclose(native[name], plain[name], rtol=1e-3, atol=1e-4 * scale + 1e-9), name


# ---- determinism ---------------------------------------------------------------------------------


@trained_models
def test_threads_do_not_change_a_bit(model, threads):
    # Torch splits what has more than 32768 elements; a batch has more than that in every layer.
    stage = replace(STAGE, epochs=1, batch_size=6000, group_size=16, triples=1024)
    config = config_of(
        model,
        shape=ModelConfig(width=8, hops=2, slots=16, layers=3),
        pretrain=stage,
        train=stage,
        synthetic=SyntheticConfig(users=300, items=200, attributes=40, parents=8, triples=1200),
    )
    data = load(config)
    assert len(data[0].train) > stage.batch_size
    outcomes = []
    for count in (1, 2, 8):
        threads(count)
        outcomes.append(loop.train(config, *data))
    for other in outcomes[1:]:
        assert_same_state(outcomes[0].model, other.model)
        assert [r.loss for r in outcomes[0].records] == [r.loss for r in other.records]


@trained_models
def test_seed_decides(model):
    data = load(CONFIG)
    quick = replace(STAGE, epochs=1)
    first, again, other = (
        loop.train(config_of(model, pretrain=quick, train=quick, seed=seed), *data).model
        for seed in (3, 3, 4)
    )
    assert_same_state(first, again)
    states = first.state_dict(), other.state_dict()
    assert any(not torch.equal(states[0][key], states[1][key]) for key in states[0])


# ---- what is learned -----------------------------------------------------------------------------


def planted():
    """Two tastes: a user of one clicks the items of one attribute and shuns those of the other.

    A word of an item's title says the same as its attribute.
    """
    users, items = 24, 20
    pairs = [(u, i) for u in range(users) for i in range(items)]
    labels = [int(u % 2 == i % 2) for u, i in pairs]
    columns = np.array(pairs, dtype=np.int32).T
    heads = np.arange(items, dtype=np.int32)
    return Dataset(
        name="planted",
        num_users=users,
        num_items=items,
        num_entities=items + 2,
        num_relations=1,
        rows=Examples(columns[0].copy(), columns[1].copy(), np.array(labels, dtype=np.int8)),
        interactions=None,
        heads=heads,
        relations=np.zeros(items, dtype=np.int32),
        tails=(items + heads % 2).astype(np.int32),
        item_names=tuple(f"{('one', 'other')[i % 2]} {i}" for i in range(items)),
    )


@trained_models
def test_learns_a_planted_graph(model):
    """Train rows are learnt by heart, and what was planted is found in the others."""
    stage = replace(STAGE, epochs=40, patience=40, lambda2=1e-6, lambda3=1e-6, triples=16)
    config = config_of(model, shape=ModelConfig(width=8, slots=8), pretrain=stage, train=stage)
    dataset = planted()
    prepared, graph = prepare(dataset, 0), Graph.from_dataset(dataset, inverse=True)
    outcome = loop.train(config, prepared, graph)
    ripple = build.sample_ripple_sets(config, graph, prepared)
    for rows in (prepared.train, prepared.test):
        scores = scoring.score_examples(
            ops,
            outcome.model,
            ripple,
            scoring.examples_by_user(rows, prepared),
            stage=outcome.stage,
        )
        assert metrics.auc(rows.labels, scores) > 0.97


def without_graph(config):
    """Split data and graph of a run's clicks alone."""
    dataset = make_synthetic(config.synthetic)
    none = np.zeros(0, dtype=np.int32)
    dataset = replace(dataset, heads=none, relations=none, tails=none)
    return prepare(dataset, config.seed, config.protocol), Graph.from_dataset(dataset, inverse=True)


@every_model
def test_trains_without_a_graph(model):
    """Stages that learn from triples alone are left out."""
    stage = replace(STAGE, epochs=1)
    config = config_of(model, protocol="recbole", pretrain=stage, train=stage)
    prepared, graph = without_graph(config)
    outcome = loop.train(config, prepared, graph)
    kind = MODELS[model]
    left = [name for name in kind.stages if kind.plan(config, name).pairs]
    assert list(dict.fromkeys(record.stage for record in outcome.records)) == left
    logits = scoring.score_examples(
        ops,
        outcome.model,
        build.sample_ripple_sets(config, graph, prepared),
        scoring.examples_by_user(prepared.test, prepared),
        stage=outcome.stage,
    )
    assert np.isfinite(logits).all()


def test_stages_of_triples_alone_need_some():
    config = config_of("wide_deep", train=replace(STAGE, epochs=0))
    with pytest.raises(TrainingError, match="has no triples, by which alone wide_deep learns in"):
        loop.train(config, *without_graph(config))


def test_no_epochs_at_all_are_not_blamed_on_triples():
    config = config_of("cke")
    idle = replace(config, train=replace(config.train, epochs=0))
    assert not loop.train(idle, *load(config)).records


# ---- stopping and going on -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "folds"), [("ripplenet", 1), ("ripplenet", 3), ("recbole", 1)]
)
@trained_models
def test_a_stopped_run_goes_on_to_the_same_bits(model, protocol, folds, tmp_path):
    """Stopped after every fifth step or epoch's end, so in the middle of epochs and between."""
    kind = MODELS[model]
    if folds > 1 and not (kind.ripple or kind.history):
        return  # refused, as it would do nothing
    config = config_of(model, protocol=protocol, folds=folds)
    dataset = make_synthetic(config.synthetic)
    data = prepare(dataset, config.seed, protocol), Graph.from_dataset(dataset, inverse=True)
    undisturbed = loop.train(config, *data)
    places = []
    while True:
        polls = iter(range(5))
        start = checkpoint.latest(tmp_path, places.append)
        with CheckpointWriter(
            tmp_path,
            {},
            start=start,
            stopped=lambda left=polls: SIGTERM if next(left) == 4 else None,
        ) as writer:
            try:
                outcome = loop.train(config, *data, writer=writer)
                break
            except Interrupted as stop:
                places.append(stop.where)
    assert len(set(places)) == len(places) > 4
    assert any(place.startswith("after step") for place in places)
    assert_same_state(outcome.model, undisturbed.model)
    assert outcome.stage == undisturbed.stage
    for ours, theirs in zip(outcome.records, undisturbed.records, strict=True):
        timeless = {"seconds": 0.0, "samples_per_second": 0.0}
        # As text, where NaN is NaN.
        assert repr(replace(ours, **timeless)) == repr(replace(theirs, **timeless))


# ---- scoring, files ------------------------------------------------------------------------------


@every_model
def test_ranking_agrees_with_rows(model, monkeypatch):
    config = config_of(model)
    prepared, graph = load(config)
    outcome = loop.train(config, prepared, graph)
    ripple = build.sample_ripple_sets(config, graph, prepared)
    rows, items = prepared.test, prepared.dataset.num_items
    by_row = scoring.score_examples(
        ops,
        outcome.model,
        ripple,
        scoring.examples_by_user(rows, prepared),
        stage=outcome.stage,
    )
    assert by_row.shape == (len(rows),) and np.isfinite(by_row).all()
    scorer = scoring.catalogue_scorer(ops, outcome.model, ripple, items, stage=outcome.stage)
    users = np.arange(prepared.dataset.num_users, dtype=np.int32)
    table = scorer(users).numpy()
    assert table.shape == (len(users), items)
    # A logit is a sum of terms, up to 10 in size, that may be added in another order.
    assert table[rows.users, rows.items] == pytest.approx(by_row, rel=1e-5, abs=1e-5)
    # Users in any order, one at a time.
    monkeypatch.setitem(scoring.SCORED_PAIRS, "cpu", 1)
    assert scorer(users[[5, 2]]).numpy() == pytest.approx(table[[5, 2]], rel=1e-5, abs=1e-6)


@every_model
def test_a_finished_run_is_evaluated_to_the_same_numbers(model, tmp_path, threads):
    quick = replace(STAGE, epochs=1)
    config = config_of(
        model, pretrain=quick, train=quick, threads=1, output=tmp_path / "run", device="cpu"
    )
    written = runner.run(config)
    assert written["model"] == model
    assert 0 <= written["test"]["auc"] <= 1 and written["ranking"] is not None
    for count in (1, 3):
        found, stored = evaluate.evaluate_run(tmp_path / "run", threads=count)
        assert evaluate.same_metrics(found, stored)


@every_model
def test_threads_that_share_users_do_not_change_a_bit(model, threads, monkeypatch):
    monkeypatch.setitem(scoring.SCORED_PAIRS, "cpu", 300)
    monkeypatch.setattr(ranking, "BLOCK_BYTES", 0)
    monkeypatch.setattr(ranking, "BLOCK_USERS", 3)
    config, (prepared, graph) = config_of(model, ranking=True), load(CONFIG)
    outcome = loop.train(config, prepared, graph)
    found = []
    for count in (1, 2, 5):
        threads(count)
        logits = []
        found.append(evaluate.evaluate(config, prepared, graph, outcome, logits.append))
        found[-1]["logits"] = logits[0].tolist()
    assert found[0]["ranking"] is not None
    assert found[1] == found[2] == found[0]


# ---- devices -------------------------------------------------------------------------------------


@pytest.mark.cuda
@every_model
def test_trains_on_a_gpu_as_on_the_cpu(model):
    data = load(CONFIG)
    found = [loop.train(config_of(model, device=device), *data) for device in ("cpu", "cuda")]
    for ours, theirs in zip(found[1].records, found[0].records, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)
