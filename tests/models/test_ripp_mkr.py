"""Ripp-MKR against its equations, pair by pair and triple by triple."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models.ripp_mkr import RippMKROptions
from ekpnet_fast.ops import reference
from support.small_training import CONFIG, untrained


def start(**options):
    """A model whose biases are not 0, a batch of pairs and a batch of triples."""
    config = replace(CONFIG, model="ripp_mkr", options=RippMKROptions(**options))
    made = untrained(config, triples=20)
    model = made.model
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(torch.empty_like(parameter).uniform_(-0.3, 0.3, generator=draw))
    for name in model.tables:
        model.table(name).uniform_(-1, 1, generator=draw)
    batches = list(made.batches())
    return model, batches, batches[0], next(b for b in batches if not b.num_pairs)


def tables_of(model, batch):
    return {n: model.table(n)[batch.rows.long()].requires_grad_() for n in model.tables}


def units(model, v, e):
    """With C built."""
    for i in range(model.options.units):
        (w_vv, w_ve), (w_ev, w_ee) = model.from_e[i].T, model.from_v[i].T
        C = torch.outer(v, e)
        v, e = (
            C @ w_vv + C.T @ w_ev + model.b_v[i],
            C @ w_ve + C.T @ w_ee + model.b_e[i],
        )
    return v, e


def logits_by_definition(model, batch, entity, item):
    logits = []
    for g in range(len(batch.counts)):
        for b in range(int(batch.group_indptr[g]), int(batch.group_indptr[g + 1])):
            at = int(batch.items[b])
            v, _ = units(model, item[at], entity[at])
            user = torch.zeros_like(v)
            for p, count in enumerate(batch.counts[g].tolist()):
                slots = [x[g, p, :count].long() for x in (batch.heads, batch.relations)]
                keys = [model.relation[r] @ entity[h] for h, r in zip(*slots, strict=True)]
                weights = torch.softmax(torch.stack(keys) @ v, 0)
                o = weights @ entity[batch.tails[g, p, :count].long()]
                user, v = user + o, (v + o) @ model.W
            logits.append(user @ v)
    return torch.stack(logits)


def kg_by_definition(model, batch, entity, item):
    total = torch.zeros(())
    for h, r, t, label in zip(
        batch.triple_heads.tolist(),
        batch.triple_relations.tolist(),
        batch.triple_tails.tolist(),
        batch.triple_labels.tolist(),
        strict=True,
    ):
        _, head = units(model, item[h], entity[h])
        x = model.relation_vector[r]
        for W, b in zip(model.relation_weights, model.relation_biases, strict=True):
            x = torch.relu(x @ W + b)
        x = torch.cat([head, x])
        for i in range(model.options.kg_layers - 1):
            x = torch.relu(x @ model.kg_weights[i] + model.kg_biases[i])
        score = torch.sigmoid(entity[t] @ (x @ model.kg_out + model.kg_out_bias))
        total = total - score if label else total + score
    return total


def assert_same_with_gradients(values, leaves):
    found = []
    for value in values:
        weights = torch.linspace(-1, 1, value.numel()).view_as(value) if value.dim() else 1.0
        grads = torch.autograd.grad((value * weights).sum(), leaves, allow_unused=True)
        found.append((value, *grads))
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", [ops, reference], ids=["native", "reference"])
@pytest.mark.parametrize("count", [1, 2])
def test_prediction_and_gradients(count, backend):
    model, _, batch, _ = start(units=count)
    tables = tables_of(model, batch)
    assert_same_with_gradients(
        (
            model.logits(backend, tables, batch, stage="train"),
            logits_by_definition(model, batch, tables["entity"], tables["item"]),
        ),
        [*tables.values(), *model.parameters()],
    )


@pytest.mark.parametrize(("count", "layers"), [(1, 1), (2, 3)])
def test_kg_task_and_gradients(count, layers):
    model, _, pairs, batch = start(units=count, kg_layers=layers)
    tables = tables_of(model, batch)
    assert batch.triple_labels.sum() == 20 and len(batch.triple_labels) == 40
    assert_same_with_gradients(
        (
            model.kg_sum(ops, tables, batch, stage="train"),
            kg_by_definition(model, batch, tables["entity"], tables["item"]),
        ),
        [*tables.values(), *model.parameters()],
    )
    assert model.kg_sum(ops, tables_of(model, pairs), pairs, stage="train") is None


@pytest.mark.parametrize("every", [1, 4])
def test_tasks_alternate(every):
    _, batches, _, _ = start(every=every)
    kinds = [batch.num_pairs > 0 for batch in batches]
    turn = [True] * every + [False]
    assert kinds == (turn * len(kinds))[: len(kinds)] and not all(kinds)


@pytest.mark.parametrize("name", ["units", "kg_layers", "every"])
def test_options_are_checked(name):
    with pytest.raises(ConfigError, match=f"--ripp_mkr.{name} is 0, expected at least 1"):
        start(**{name: 0})
