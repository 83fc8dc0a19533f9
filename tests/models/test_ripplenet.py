"""RippleNet against its equations, pair by pair."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.models.ripplenet import RippleNetOptions
from ekpnet_fast.ops import reference
from support.small_training import CONFIG, untrained

UPDATES = get_args(get_type_hints(RippleNetOptions)["item_update"])


def start(options):
    made = untrained(replace(CONFIG, model="ripplenet", options=options))
    model, batch = made.model, made.batch()
    # Some slots masked, and some hops all but empty.
    fewer = torch.arange(batch.counts.numel(), dtype=torch.int32).view_as(batch.counts) % 8
    return model, replace(batch, counts=batch.counts - fewer)


def by_definition(model, batch, entity, item_update, using_all_hops):
    """Logits and KG sum from the paper's equations, in plain loops."""
    relation = model.relation
    logits, kg = [], 0.0
    for g in range(len(batch.counts)):
        hops = []
        for p, count in enumerate(batch.counts[g].tolist()):
            h, r, t = (x[g, p, :count].long() for x in (batch.heads, batch.relations, batch.tails))
            hops.append((entity[h], relation[r], entity[t]))
            for head, R, tail in zip(*hops[-1], strict=True):
                kg = kg - torch.sigmoid(head @ R @ tail)
        for b in range(int(batch.group_indptr[g]), int(batch.group_indptr[g + 1])):
            v = entity[batch.items[b].long()]
            answers = []
            for heads, R, tails in hops:
                scores = torch.stack([v @ (R_i @ h) for R_i, h in zip(R, heads, strict=True)])
                o = torch.softmax(scores, 0) @ tails
                answers.append(o)
                v = o if item_update.startswith("replace") else v + o
                if item_update.endswith("transform"):
                    v = v @ model.W
            user = sum(answers) if using_all_hops else answers[-1]
            logits.append(user @ v)
    return torch.stack(logits), kg


@pytest.mark.parametrize("backend", [ops, reference], ids=["native", "reference"])
@pytest.mark.parametrize("using_all_hops", [True, False])
@pytest.mark.parametrize("item_update", UPDATES)
def test_equations_and_gradients(item_update, using_all_hops, backend):
    model, batch = start(RippleNetOptions(item_update, using_all_hops))
    assert (batch.counts > 0).all() and (batch.counts < 8).any()
    found = []
    for plain in (False, True):
        entity = model.entity[batch.rows.long()].requires_grad_()
        if plain:
            logits, kg = by_definition(model, batch, entity, item_update, using_all_hops)
        else:
            tables = {"entity": entity}
            logits = model.logits(backend, tables, batch, stage="train")
            kg = model.kg_sum(backend, tables, batch, stage="train")
        leaves = [entity, *model.parameters()]
        weights = torch.linspace(-1, 1, len(logits))
        found.append((logits, kg, *torch.autograd.grad((logits * weights).sum() + kg, leaves)))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("item_update", UPDATES)
def test_parameters(item_update):
    model, _ = start(RippleNetOptions(item_update))
    names = {name for name, _ in model.named_parameters()}
    assert names == {"relation"} | ({"W"} if item_update.endswith("transform") else set())
