"""TransR and its ranking loss against their equations, triple by triple."""

from __future__ import annotations

import math

import pytest
import torch

from ekpnet_fast.models.translation import TransR, ranking_sum

E, R, D = 7, 3, 5


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


def test_starts_as_the_plain_translation():
    draw = torch.Generator().manual_seed(0)
    transr = TransR(R, D, "normal", draw)
    rows = torch.randn(E, D, generator=draw)
    relations = torch.arange(E) % R
    assert torch.equal(transr.project(rows, relations), rows)


def test_equations_and_gradients():
    draw = torch.Generator().manual_seed(0)
    transr = TransR(R, D, "normal", draw)
    with torch.no_grad():
        transr.projection.normal_(generator=draw)
    entity = torch.randn(E, D, generator=draw).requires_grad_()
    # A head that is its own tail, and a relation that no triple has.
    heads, relations, tails = (torch.tensor(x) for x in ([0, 3, 3, 6], [0, 2, 0, 2], [1, 3, 5, 0]))
    leaves = [entity, transr.relation, transr.projection]
    ours = transr.distance(entity, heads.int(), relations.int(), tails.int())
    plain = []
    for h, r, t in zip(heads, relations, tails, strict=True):
        M = transr.projection[r]
        gap = entity[h] @ M + transr.relation[r] - entity[t] @ M
        plain.append(gap @ gap)
    theirs = torch.stack(plain)
    assert torch.allclose(ours, theirs, rtol=1e-5)
    far = theirs.tolist()
    loss = -sum(math.log(1 / (1 + math.exp(far[i] - far[i + 2]))) for i in range(2))
    assert float(ranking_sum(ours).detach()) == pytest.approx(loss, rel=1e-5)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    found = [torch.autograd.grad((f * weights).sum(), leaves) for f in (ours, theirs)]
    for mine, expected in zip(*found, strict=True):
        assert torch.allclose(mine, expected, rtol=1e-4, atol=1e-5)
    assert not found[0][1][1].any() and not found[0][2][1].any()


def test_ranking_sum_by_hand():
    """Equal distances cost log 2; one far apart costs nothing, or its gap if the wrong way."""
    found = ranking_sum(torch.tensor([1.0, 0.0, 200.0, 1.0, 100.0, 100.0]))
    assert float(found) == pytest.approx(math.log(2) + 0.0 + 100.0)
