"""AKUPM against its equations, pair by pair."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.models.akupm import AKUPMOptions
from support.small_training import CONFIG, untrained


def start(options):
    """A model and a batch in which slots are masked and whole hops are empty."""
    made = untrained(replace(CONFIG, model="akupm", options=options), triples=6)
    model, batch = made.model, made.batch()
    fewer = torch.arange(batch.counts.numel(), dtype=torch.int32).view_as(batch.counts) % 9
    clicked = batch.inputs["clicked_counts"].clone()
    clicked[0] = 1
    return model, replace(
        batch,
        counts=(batch.counts - fewer).clamp(min=0),
        inputs={**batch.inputs, "clicked_counts": clicked},
    )


def by_definition(model, batch, entity, leave_out):
    """Logits and KG sum from the equations, in plain loops."""
    D, logits = entity.shape[1], []
    for g in range(len(batch.counts)):
        clicked = batch.inputs["clicked"][g, : int(batch.inputs["clicked_counts"][g])].tolist()
        hops = [[entity[e] for e in clicked]]
        for p, count in enumerate(batch.counts[g].tolist()):
            slots = zip(batch.tails[g, p, :count], batch.relations[g, p, :count], strict=True)
            hops.append([entity[t.long()] @ model.transr.projection[r.long()] for t, r in slots])
        attended = []
        for hop in hops:
            rows = [
                torch.softmax(
                    torch.stack([(x @ model.W_q) @ (y @ model.W_k) for y in hop]) / math.sqrt(D), 0
                )
                for x in hop
            ]
            importance = sum(rows) / len(rows) if hop else []
            attended.append((importance, [x @ model.W_v for x in hop]))
        for b in range(int(batch.group_indptr[g]), int(batch.group_indptr[g + 1])):
            v, vectors = entity[batch.items[b].long()], []
            for p, (importance, values) in enumerate(attended):
                own = int(batch.items[b]) if leave_out and p == 0 else None
                left = [n for n in range(len(values)) if p or clicked[n] != own]
                if left:
                    share = sum(importance[n] for n in left)
                    vectors.append(sum(importance[n] * values[n] for n in left) / share)
            if not vectors:
                logits.append(torch.zeros(()))
                continue
            w = torch.softmax(torch.stack([v @ u for u in vectors]), 0)
            logits.append(sum(w_p * u for w_p, u in zip(w, vectors, strict=True)) @ v)

    def f(i):
        h, t = entity[batch.triple_heads[i].long()], entity[batch.triple_tails[i].long()]
        r = batch.triple_relations[i].long()
        return (
            (
                h @ model.transr.projection[r]
                + model.transr.relation[r]
                - t @ model.transr.projection[r]
            )
            .square()
            .sum()
        )

    n = len(batch.triple_heads) // 2
    kg = -sum(torch.log(torch.sigmoid(f(i + n) - f(i))) for i in range(n))
    return torch.stack(logits), kg


@pytest.mark.parametrize("leave_out", [True, False])
def test_equations_and_gradients(leave_out):
    model, batch = start(AKUPMOptions(leave_out))
    with torch.no_grad():  # so that relations differ
        model.transr.projection += 0.3 * torch.randn(
            model.transr.projection.shape, generator=model.draw
        )
        model.W_q *= 3
    assert (batch.counts == 0).any() and (batch.counts > 0).any()
    found = []
    for plain in (False, True):
        entity = (model.entity[batch.rows.long()] * 3).requires_grad_()
        if plain:
            logits, kg = by_definition(model, batch, entity, leave_out)
        else:
            tables = {"entity": entity}
            logits = model.logits(ops, tables, batch, stage="train")
            kg = model.kg_sum(ops, tables, batch, stage="train")
        leaves = [entity, *model.parameters()]
        weights = torch.linspace(-1, 1, len(logits))
        found.append((logits, kg, *torch.autograd.grad((logits * weights).sum() + kg, leaves)))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_only_a_clicked_target_is_left_out():
    model, batch = start(AKUPMOptions(leave_out=True))
    clicked, counts = batch.inputs["clicked"], batch.inputs["clicked_counts"]
    own = [
        b
        for b, g in enumerate(batch.groups.tolist())
        if int(batch.items[b]) in clicked[g, : int(counts[g])].tolist()
    ]
    assert own
    tables = {"entity": model.entity[batch.rows.long()]}
    kept = model.logits(ops, tables, batch, stage="train")
    model.options = AKUPMOptions(leave_out=False)
    seen = model.logits(ops, tables, batch, stage="train")
    assert [b for b in range(len(kept)) if kept[b] != seen[b]] == own


def test_clicked_items_are_of_the_user():
    model, batch = start(AKUPMOptions())
    source = model.source
    rows = batch.rows
    for g, user in enumerate(batch.users.tolist()):
        history = source.history_items[
            source.history_indptr[user] : source.history_indptr[user + 1]
        ].tolist()
        count = int(batch.inputs["clicked_counts"][g])
        found = rows[batch.inputs["clicked"][g, :count].long()].tolist()
        assert set(found) <= set(history) and len(set(found)) == count
