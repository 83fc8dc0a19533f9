"""What `models.base` offers and no single model uses all of: stages of triples, triples apart,
sampled neighbours, a space of the model's own, tables that are not decayed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.evaluation import scoring
from ekpnet_fast.models import MODELS, build
from ekpnet_fast.models.base import Model, initial_rows
from ekpnet_fast.ops.deterministic import fixed_order_sum, gather
from ekpnet_fast.runs import evaluate, runner
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.pairs import BatchPlan
from ekpnet_fast.training import loop, step
from support.small_training import CONFIG, STAGE, load

CROSSES = 50


@dataclass(frozen=True)
class ToyOptions:
    """Toy's.

    Attributes:
        every: a batch of triples follows so many of pairs.
    """

    every: int = 2


class Toy(Model):
    """u . (i + e_i + mean of sampled neighbours) + bias of a hashed (user, item) cross."""

    name = "toy"
    summary = "a test's"
    Options = ToyOptions
    stages = ("pretrain", "train")
    tables = {"user": "user", "item": "item", "entity": "entity", "cross": "cross"}  # noqa: RUF012
    undecayed = ("cross",)
    input_spaces = {"neighbors": "entity", "cross": "cross"}  # noqa: RUF012

    def __init__(self, config, source):
        super().__init__(config, source)
        D, E = self.shape.width, source.graph.num_entities
        for name, n in (("user", source.num_users), ("item", source.num_items), ("entity", E)):
            self.add_table(name, initial_rows((n, D), "normal", self.draw))
        self.add_table("cross", torch.zeros(CROSSES, 1))

    @classmethod
    def plan(cls, config, stage):
        if stage == "pretrain":
            return BatchPlan(pairs=False, triples="joined")
        return BatchPlan(triples="apart", every=config.options.every)

    def inputs(self, request):
        graph = self.source.graph
        _, tails, counts = ops.sample_neighbors(
            graph.indptr,
            graph.relations,
            graph.tails,
            request.items,
            3,
            seed=self.source.seed,
            epoch=request.epoch,
        )
        cross = (request.pair_users * 7 + request.items) % CROSSES
        return {"neighbors": tails, "counts": counts, "cross": cross}

    def logits(self, backend, tables, pairs, *, stage):
        assert stage == "train"
        counts = pairs.inputs["counts"].unsqueeze(1)
        valid = (torch.arange(3) < counts).unsqueeze(-1)
        near = (gather(tables["entity"], pairs.inputs["neighbors"]) * valid).sum(1)
        v = gather(tables["item"], pairs.free_items) + gather(tables["entity"], pairs.items)
        v = v + near / counts.clamp(min=1)
        bias = gather(tables["cross"], pairs.inputs["cross"]).squeeze(1)
        return (gather(tables["user"], pairs.users[pairs.groups]) * v).sum(1) + bias

    def kg_sum(self, backend, tables, batch, *, stage):
        n = batch.triple_heads.numel()
        if n == 0:
            return None
        d = gather(tables["entity"], batch.triple_heads) - gather(
            tables["entity"], batch.triple_tails
        )
        far = d.square().sum(1)
        return fixed_order_sum(torch.nn.functional.softplus(far[: n // 2] - far[n // 2 :]))


@pytest.fixture(autouse=True)
def registered(monkeypatch, threads):
    threads(1)
    monkeypatch.setitem(MODELS, "toy", Toy)


def config_of(**changes):
    stage = replace(STAGE, epochs=3, lambda1=1.0)
    return replace(CONFIG, **{"model": "toy", "pretrain": stage, "train": stage, **changes})


def stream_of(model, config, name, graph, prepared):
    stage = getattr(config, name)
    return BatchStream(
        graph,
        scoring.examples_by_user(prepared.train, prepared),
        batch_size=stage.batch_size,
        group_size=stage.group_size,
        triples=stage.triples,
        seed=0,
        reads=model.reads,
        plan=model.plan(config, name),
    )


def test_ids_become_positions_space_by_space():
    config = resolve(config_of())
    prepared, graph = load(config)
    model = build.build_model(config, prepared, graph)
    ripple = build.sample_ripple_sets(config, graph, prepared)
    stream = stream_of(model, config, "train", graph, prepared)
    order = stream.order(4)
    for i, batch in enumerate(b for b in stream.epoch(4, ripple) if b.num_pairs):
        first, last = order.cuts[i], order.cuts[i + 1]
        users = order.group_users[first:last]
        pairs = slice(int(order.group_indptr[first]), int(order.group_indptr[last]))
        items = order.items[pairs]
        of_pair = users[batch.groups]
        neighbors = ops.sample_neighbors(
            graph.indptr, graph.relations, graph.tails, items, 3, seed=0, epoch=4
        )
        for space, found, expected in (
            ("user", batch.users, users),
            ("item", batch.free_items, items),
            ("entity", batch.items, items),
            ("entity", batch.inputs["neighbors"], neighbors[1]),
            ("cross", batch.inputs["cross"], (of_pair * 7 + items) % CROSSES),
        ):
            rows = batch.rows_of(space)
            assert torch.equal(rows[found.long()], expected)
            assert len(rows) == len(set(rows.tolist()))
        assert torch.equal(batch.inputs["counts"], neighbors[2])


def test_a_stage_of_triples_alone():
    config = resolve(config_of())
    prepared, graph = load(config)
    before = build.build_model(config, prepared, graph)
    told = []
    outcome = loop.train(
        replace(config, train=replace(STAGE, epochs=0)), prepared, graph, told.append
    )
    records = outcome.records
    assert [r.stage for r in records] == ["pretrain"] * 3
    assert all(math.isnan(r.valid_auc) and r.pairs == 0 for r in records)
    assert records[-1].kg < records[0].kg
    assert told[-1].total_pairs == told[-1].pairs == graph.num_triples
    for name in ("user", "item", "cross"):
        assert torch.equal(outcome.model.table(name), before.table(name))
    assert not torch.equal(outcome.model.table("entity"), before.table("entity"))
    stream = stream_of(before, config, "pretrain", graph, prepared)
    batches = list(stream.epoch(1, build.sample_ripple_sets(config, graph, prepared)))
    assert len(batches) == -(-graph.num_triples // 32)
    assert {(b.num_pairs, b.size, b.triple_heads.numel()) for b in batches} == {(0, 32, 64)}


@pytest.mark.parametrize("every", [1, 3])
def test_triples_apart(every):
    config = resolve(config_of(options=ToyOptions(every)))
    prepared, graph = load(config)
    model = build.build_model(config, prepared, graph)
    stream = stream_of(model, config, "train", graph, prepared)
    ripple = build.sample_ripple_sets(config, graph, prepared)
    kinds = [b.num_pairs > 0 for b in stream.epoch(1, ripple)]
    pairs = len(stream.order(1).cuts) - 1
    expected = [x for i in range(pairs) for x in [True] + [False] * ((i + 1) % every == 0)]
    assert kinds == expected and not all(kinds)
    trainer = step.StageTrainer(model, config.train, ops, "train")
    users = model.user.clone()
    for batch in stream.epoch(1, ripple):
        terms = trainer.step(batch)
        assert ("pairs" in terms, "kg" in terms) == (
            (True, False) if batch.num_pairs else (False, True)
        )
        assert torch.equal(users, model.user) != (batch.num_pairs > 0)
        users = model.user.clone()
    drawn = [b.triple_heads for b in stream.epoch(1, ripple) if not b.num_pairs]
    assert len(drawn) < 2 or not torch.equal(drawn[0], drawn[1])


def test_what_is_not_decayed():
    """Without a gradient of its own a row moves by its decay alone."""
    config = resolve(config_of())
    prepared, graph = load(config)
    model = build.build_model(config, prepared, graph)
    model.cross.fill_(1.0)
    stage = replace(config.train, lambda3=1e4)
    trainer = step.StageTrainer(model, stage, ops, "train")
    stream = stream_of(model, config, "train", graph, prepared)
    batch = next(iter(stream.epoch(1, build.sample_ripple_sets(config, graph, prepared))))
    trainer.step(batch)
    rows = batch.rows_of("cross").long()
    assert trainer.state.m["cross"][rows].abs().max() < 1  # the decay alone would be 0.1 * 1e4 / 64
    assert trainer.state.m["user"].abs().max() > 1


def test_whole_run(tmp_path):
    config = resolve(config_of(output=tmp_path / "run", ranking=True, threads=1))
    written = runner.run(config)
    assert [r["stage"] for r in written["epochs"]] == ["pretrain"] * 3 + ["train"] * 3
    found, stored = evaluate.evaluate_run(tmp_path / "run")
    assert evaluate.same_metrics(found, stored)
    assert stored["epochs"][0]["valid_auc"] is None


def test_a_stage_of_triples_needs_its_loss():
    idle = replace(STAGE, lambda1=0.0)
    with pytest.raises(ConfigError, match=r"--pretrain.lambda1 is 0, expected more: .* toy learns"):
        resolve(config_of(pretrain=idle))
