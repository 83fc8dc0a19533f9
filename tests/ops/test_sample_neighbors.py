"""Sampled neighbours: by hand, as specified, evenly drawn, the same for any threads."""

from __future__ import annotations

import pytest
import torch
from torch import library

from ekpnet_fast import ops
from ekpnet_fast.ops import reference
from ekpnet_fast.sampling.graph import Graph
from support.graphs import assert_frequencies, cycle, isolated, numbered, path, star


def sample(graph, nodes, count, op=ops, **options):
    nodes = torch.as_tensor(nodes, dtype=torch.int32)
    return op.sample_neighbors(
        graph.indptr, graph.relations, graph.tails, nodes, count, **{"seed": 0, **options}
    )


# ---- by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeat", [False, True])
def test_path_cycle_and_isolated(repeat):
    relations, tails, counts = sample(Graph.from_triples(*path(3)), [0, 1, 2], 1, repeat=repeat)
    assert (tails.tolist(), counts.tolist()) == ([[1], [2], [0]], [1, 1, 0])
    assert relations.tolist() == [[0], [0], [0]]
    _, tails, counts = sample(Graph.from_triples(*cycle(3)), [2, 2, 0], 2, repeat=repeat)
    filled = [[0, 0], [0, 0], [1, 1]] if repeat else [[0, 0], [0, 0], [1, 0]]
    assert (tails.tolist(), counts.tolist()) == (filled, [2] * 3 if repeat else [1] * 3)
    _, tails, counts = sample(Graph.from_triples(*isolated(2)), [1, 0], 4, repeat=repeat)
    assert not tails.any() and not counts.any()


def test_star():
    graph = Graph.from_triples(*star(6))
    # Five neighbours, each once and in order, where all fit.
    for count in (5, 7):
        relations, tails, counts = sample(graph, [0], count)
        assert counts.tolist() == [5]
        assert tails[0, :5].tolist() == [1, 2, 3, 4, 5] and not tails[0, 5:].any()
        assert relations[0, :5].tolist() == [0, 1, 2, 3, 4]
    # Distinct where not, and each relation beside its own tail.
    for epoch in range(50):
        relations, tails, counts = sample(graph, [0], 3, epoch=epoch)
        assert counts.tolist() == [3] and len(set(tails[0].tolist())) == 3
        assert torch.equal(relations + 1, tails)
    relations, tails, counts = sample(graph, [0], 9, repeat=True)
    assert counts.tolist() == [9] and torch.equal(relations + 1, tails)
    assert len(set(tails[0].tolist())) < 6


# ---- the draw ------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("relations", [5, 300, 40_000])
@pytest.mark.parametrize("count", [1, 4, 33])
def test_as_specified(relations, count, repeat):
    heads, of, tails, entities, _ = numbered(1, 60, 900)
    graph = Graph.from_triples(heads, of % relations, tails, entities, relations)
    options = dict(seed=2**31 - 1, epoch=7, repeat=repeat)
    found, expected = (sample(graph, range(60), count, op, **options) for op in (ops, reference))
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == torch.int32 and torch.equal(x, y)


def test_threads_order_and_company_do_not_matter(threads):
    graph = Graph.from_triples(*numbered(2, 3000, 30_000))
    nodes = torch.randint(3000, (5000,), dtype=torch.int32)
    found = []
    for number in (1, 2, 8):
        threads(number)
        found.append(sample(graph, nodes, 8, seed=3))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    alone = sample(graph, nodes[17:18], 8, seed=3)
    assert all(torch.equal(a[17:18], b) for a, b in zip(found[0], alone, strict=True))


def test_seed_and_epoch_decide():
    graph = Graph.from_triples(*star(40))
    drawn = [sample(graph, [0], 6, seed=s, epoch=e)[1] for s, e in ((0, 0), (1, 0), (0, 1), (0, 0))]
    assert torch.equal(drawn[0], drawn[3])
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(("degree", "count", "repeat"), [(7, 3, False), (4, 6, True)])
def test_evenly_drawn(degree, count, repeat):
    graph = Graph.from_triples(*star(degree + 1))
    times = torch.zeros(degree)
    for epoch in range(1500):
        _, tails, _ = sample(graph, [0], count, epoch=epoch, repeat=repeat)
        times += torch.bincount(tails[0].long() - 1, minlength=degree)
    assert times.sum() == 1500 * count
    assert_frequencies(times.numpy())


# ---- bad arguments, and what compilers see -------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"nodes": [3]}, r"nodes holds id 3 at position 0, expected 0 <= id < 3 \(entities\)"),
        ({"nodes": [-1]}, "nodes holds id -1"),
        ({"count": 0}, "count K is 0, expected 1 to 1024"),
        ({"count": 1025}, "count K is 1025"),
    ],
)
def test_bad_arguments(change, expected):
    options = {"nodes": [0], "count": 2} | change
    with pytest.raises(RuntimeError, match=expected):
        sample(Graph.from_triples(*path(3)), options["nodes"], options["count"])


def test_no_nodes():
    relations, tails, counts = sample(Graph.from_triples(*path(3)), [], 2)
    assert relations.shape == tails.shape == (0, 2) and counts.shape == (0,)


def test_opcheck():
    graph = Graph.from_triples(*star(6))
    nodes = torch.tensor([0, 3], dtype=torch.int32)
    call = (graph.indptr, graph.relations, graph.tails, nodes, 3, 0, 1, False)
    library.opcheck(torch.ops.ekpnet.sample_neighbors.default, call)
