"""KGCN against its equations, pair by pair and path by path."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise
from typing import get_args, get_type_hints

import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.config import SamplingConfig
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models.kgcn import KGCNOptions
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.pairs import PairRequest
from support.small_training import CONFIG, untrained

AGGREGATORS = get_args(get_type_hints(KGCNOptions)["aggregator"])
K = 3


def start(aggregator="sum", hops=2, **sampling):
    config = replace(
        CONFIG,
        model="kgcn",
        shape=replace(CONFIG.shape, hops=hops),
        sampling=SamplingConfig(**{"resample": False, **sampling}),
        options=KGCNOptions(K, aggregator),
    )
    made = untrained(config)
    with torch.no_grad():  # so that ReLU's bend and zero biases hide nothing
        made.model.b.uniform_(0.1, 0.5, generator=torch.Generator().manual_seed(1))
    return made.model, made.graph, made.batch()


def by_definition(model, graph, users, items, aggregator, epoch=0):
    """Logits of global pairs from the paper's equations, by recursion."""
    H = model.shape.hops

    def neighbors(node):
        nodes = torch.tensor([node], dtype=torch.int32)
        r, t, counts = ops.sample_neighbors(
            graph.indptr, graph.relations, graph.tails, nodes, K, seed=0, epoch=epoch
        )
        n = int(counts[0])
        return r[0, :n].long(), t[0, :n].tolist()

    def represent(u, node, rounds):
        if rounds == 0:
            return model.entity[node]
        v = represent(u, node, rounds - 1)
        relations, tails = neighbors(node)
        n = torch.zeros_like(v)
        if tails:
            weights = torch.softmax(model.relation[relations] @ u, 0)
            n = weights @ torch.stack([represent(u, t, rounds - 1) for t in tails])
        W, b = model.W[rounds - 1], model.b[rounds - 1]
        if aggregator == "concat":
            x = torch.cat([v, n]) @ W.flatten(0, 1) + b
        else:
            x = (v + n if aggregator == "sum" else n) @ W + b
        return torch.tanh(x) if rounds == H else torch.relu(x)

    return torch.stack(
        [
            model.user[u] @ represent(model.user[u], i, H)
            for u, i in zip(users.tolist(), items.tolist(), strict=True)
        ]
    )


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_equations_and_gradients(aggregator, hops):
    model, graph, batch = start(aggregator, hops)
    model.user.requires_grad_()
    model.entity.requires_grad_()
    tables = {name: model.table(name)[batch.rows_of(name).long()] for name in model.tables}
    users = batch.rows_of("user")[batch.users.long()][batch.groups]
    items = batch.rows[batch.items.long()]
    leaves = [model.user, model.entity, *model.parameters()]
    found = []
    for logits in (
        model.logits(ops, tables, batch, stage="train"),
        by_definition(model, graph, users, items, aggregator),
    ):
        weights = torch.linspace(-1, 1, len(logits))
        found.append((logits, *torch.autograd.grad((logits * weights).sum(), leaves)))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_states_are_distinct_within_a_ring():
    _, _, batch = start(hops=3)
    given = batch.inputs
    ends = [*accumulate(len(given[f"children.{i}"]) for i in range(2)), len(given["nodes"])]
    assert ends[0] == batch.num_pairs
    assert len(given["nodes"]) == ends[2] < batch.num_pairs * (1 + K + K * K)
    states = list(zip(given["groups"].tolist(), given["nodes"].tolist(), strict=True))
    for first, last in pairwise(ends):
        assert len(set(states[first:last])) == last - first


@pytest.mark.parametrize("resample", [False, True])
def test_receptive_fields_by_epoch(resample):
    model, _, _ = start(hops=1, resample=resample)
    fields = []
    for epoch in (0, 1, 2):
        request = PairRequest(
            torch.zeros(1, dtype=torch.int32),
            torch.tensor([0, 80]),
            torch.arange(80, dtype=torch.int32),
            epoch,
        )
        fields.append(model.inputs(request)["tails"])
    assert torch.equal(fields[0], fields[1]) == torch.equal(fields[1], fields[2]) == (not resample)


def test_short_lists_are_masked_or_filled():
    """An entity without triples sees nothing; one with fewer than K sees them once, or again."""
    for padding in ("mask", "repeat"):
        model, graph, _ = start(hops=1, padding=padding)
        degree = graph.indptr.diff()
        few = int((degree < K).nonzero()[0]) if bool((degree < K).any()) else None
        assert few is not None
        request = PairRequest(
            torch.zeros(1, dtype=torch.int32),
            torch.tensor([0, 1]),
            torch.tensor([few], dtype=torch.int32),
            0,
        )
        counts = model.inputs(request)["counts"]
        expected = int(degree[few]) if padding == "mask" or degree[few] == 0 else K
        assert counts.tolist() == [expected]


@pytest.mark.parametrize("neighbors", [0, 1025])
def test_neighbors_are_checked(neighbors):
    with pytest.raises(ConfigError, match=f"--kgcn.neighbors is {neighbors}, expected 1 to 1024"):
        resolve(replace(CONFIG, model="kgcn", options=KGCNOptions(neighbors)))
