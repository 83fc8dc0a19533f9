"""The graph of a data set as mapped files, made within a bound of memory."""

from __future__ import annotations

import numpy as np
import pytest

from ekpnet_fast.data.formats import csr_files
from ekpnet_fast.data.formats.csr_files import map_graph, write_graph
from ekpnet_fast.sampling.graph import Graph
from support.graphs import numbered, star

NAMES = ("indptr", "relations", "tails")


def expect_as_in_memory(folder, triples, num_entities, num_relations, memory):
    inverse = write_graph(folder, triples, num_entities, num_relations, memory)
    found = map_graph(folder, num_entities, num_relations, inverse=inverse)
    expected = Graph.from_triples(*triples, num_entities, num_relations, inverse=inverse)
    for name in NAMES:
        array = getattr(expected, name).numpy()
        assert getattr(found, name).dtype == array.dtype
        assert np.array_equal(getattr(found, name), array), name
    assert found.num_relations == expected.num_relations
    return inverse


@pytest.mark.parametrize("memory", [1 << 30, 48 * 1000, 48 * 150, 0], ids="most {}".format)
@pytest.mark.parametrize("num_entities", [40, 3000])
@pytest.mark.parametrize("relations", [3, 200, 20_000])
def test_ranges_of_heads_are_put_together(tmp_path, monkeypatch, memory, num_entities, relations):
    monkeypatch.setattr(csr_files, "_BLOCK", 100)
    monkeypatch.setattr(csr_files, "_BUCKETS", 64)
    heads, numbers, tails, *_ = numbered(1, num_entities, 1000)
    triples = (heads, numbers % relations, tails)
    assert expect_as_in_memory(tmp_path, triples, num_entities, relations, memory)


def test_tails_of_many_heads_are_not_walked_backwards(tmp_path):
    hub = np.arange(1, 100, dtype=np.int32)
    triples = (hub, np.zeros_like(hub), np.zeros_like(hub))
    assert not expect_as_in_memory(tmp_path, triples, 100, 1, 48 * 10)


def test_one_head_may_have_all(tmp_path):
    *triples, entities, relations = star(50)
    assert expect_as_in_memory(tmp_path, tuple(triples), entities, relations, 48)
