"""CKE against its equations, pair by pair."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.models import build
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.training import loop
from support.small_training import CONFIG, load, untrained


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


def test_equations():
    model, _, stream, ripple = untrained(replace(CONFIG, model="cke"), triples=8)
    order = stream.order(1)
    batch = next(iter(stream.epoch(1, ripple)))
    tables = {
        name: model.table(name)[batch.rows_of(space).long()] for name, space in model.tables.items()
    }
    logits = model.logits(ops, tables, batch, stage="train")
    kg = model.kg_sum(ops, tables, batch, stage="train")

    users = torch.repeat_interleave(order.group_users, order.group_indptr.diff())
    for b, logit in enumerate(logits.tolist()):
        u, i = int(users[b]), int(order.items[b])
        expected = float(model.user[u] @ (model.item[i] + model.entity[i]))
        assert logit == pytest.approx(expected, rel=1e-4, abs=1e-6)
    heads, relations, tails = stream.draw_triples(1, 0)
    far = []
    for h, r, t in zip(heads, relations, tails, strict=True):
        M = model.transr.projection[r]
        gap = model.entity[h] @ M + model.transr.relation[r] - model.entity[t] @ M
        far.append((gap @ gap).item())
    expected = sum(-math.log(1 / (1 + math.exp(far[k] - far[k + 8]))) for k in range(8))
    assert float(kg.detach()) == pytest.approx(expected, rel=1e-4)


def test_triples_move_what_no_click_touches():
    """Attributes and relations learn from the KG term alone."""
    stage = replace(CONFIG.train, epochs=1, lambda1=1.0)
    config = resolve(replace(CONFIG, model="cke", train=stage))
    prepared, graph = load(config)
    before = build.build_model(config, prepared, graph)
    after = loop.train(config, prepared, graph).model
    items = prepared.dataset.num_items
    assert not torch.equal(before.entity[items:], after.entity[items:])
    assert not torch.equal(before.transr.projection, after.transr.projection)
