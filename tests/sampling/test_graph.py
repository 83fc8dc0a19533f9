"""The graph in memory and on disk."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ekpnet_fast.data.tables import Dataset, Examples
from ekpnet_fast.errors import DataError
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.storage import tensor_file
from support.graphs import cycle, isolated, numbered, path, star


def triples_of(graph):
    """In the order of the arrays."""
    heads = np.repeat(np.arange(graph.num_entities), np.diff(graph.indptr.numpy()))
    return list(zip(heads.tolist(), graph.relations.tolist(), graph.tails.tolist(), strict=True))


def assert_same(found, expected):
    for name in ("indptr", "relations", "tails"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    for name in ("num_entities", "num_relations", "inverse", "num_triples"):
        assert getattr(found, name) == getattr(expected, name)


# ---- from triples ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("triples", "expected"),
    [
        (path(4), [(0, 0, 1), (1, 0, 2), (2, 0, 3)]),
        (cycle(3), [(0, 0, 1), (1, 0, 2), (2, 0, 0)]),
        (star(4), [(0, 0, 1), (0, 1, 2), (0, 2, 3)]),
        (isolated(3), []),
        (isolated(0), []),
    ],
)
def test_by_hand(triples, expected):
    graph = Graph.from_triples(*triples)
    assert triples_of(graph) == expected
    assert graph.num_triples == len(expected)
    assert (graph.num_entities, graph.num_relations) == triples[3:]
    assert not graph.inverse


def test_inverse_by_hand():
    graph = Graph.from_triples(*star(3), inverse=True)
    assert triples_of(graph) == [(0, 0, 1), (0, 1, 2), (1, 2, 0), (2, 3, 0)]
    assert (graph.num_entities, graph.num_relations) == (3, 4)
    assert graph.inverse


def test_inverse_adds_each_triple_backwards():
    heads, relations, tails, num_entities, num_relations = numbered(1, 30, 200, 220)
    graph = Graph.from_triples(heads, relations, tails, num_entities, num_relations, inverse=True)
    forward = set(zip(heads.tolist(), relations.tolist(), tails.tolist(), strict=True))
    backward = {(t, r + num_relations, h) for h, r, t in forward}
    assert len(triples_of(graph)) == graph.num_triples == 400
    assert set(triples_of(graph)) == forward | backward
    # Twice as many relations do not fit into a byte any more.
    assert graph.relations.dtype == torch.int16


def test_other_integers_and_layouts():
    table = np.array([[0, 0, 1], [1, 0, 2], [2, 0, 3]])
    assert_same(Graph.from_triples(*table.T, 4, 1), Graph.from_triples(*path(4)))


def test_from_dataset():
    heads, relations, tails, num_entities, num_relations = numbered(1, 30, 200)
    rows = Examples(np.int32([0]), np.int32([0]), np.int8([1]))
    dataset = Dataset(
        "tiny", rows, None, heads, relations, tails, 1, 1, num_entities, num_relations
    )
    for inverse in (False, True):
        assert_same(
            Graph.from_dataset(dataset, inverse=inverse),
            Graph.from_triples(*numbered(1, 30, 200), inverse=inverse),
        )


@pytest.mark.parametrize(
    ("column", "found", "message"),
    [
        (0, 4, "heads holds id 4 at position 1"),
        (1, 1, "relations holds id 1 at position 1"),
        (1, -1, "relations holds id -1 at position 1"),
        (2, -1, "tails holds id -1 at position 1"),
    ],
)
def test_ids_out_of_range(column, found, message):
    triples = path(4)
    triples[column][1] = found
    for inverse in (False, True):
        with pytest.raises(DataError, match=message):
            Graph.from_triples(*triples, inverse=inverse)


def test_ids_that_are_no_integers():
    heads, *rest = path(4)
    with pytest.raises(DataError, match="heads is float64, expected integer ids"):
        Graph.from_triples(heads.astype(float), *rest)


@pytest.mark.parametrize("missing", ["indptr", "relations", "tails", "inverse"])
def test_an_incomplete_file_is_refused(tmp_path, missing):
    graph = Graph.from_triples(*path(4))
    tensors = {name: getattr(graph, name) for name in ("indptr", "relations", "tails")}
    facts = {"num_entities": 4, "num_relations": 1, "inverse": False}
    tensors.pop(missing, None)
    facts.pop(missing, None)
    tensor_file.write(tmp_path / "graph", "graph", tensors, facts)
    with pytest.raises(DataError, match=f"has no {missing}"):
        Graph.load(tmp_path / "graph")


# ---- on disk -----------------------------------------------------------------------------------


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(
    "triples",
    [path(4), star(300), isolated(3), isolated(0), numbered(1, 40, 300, 40000)],
    ids=["path", "star", "isolated", "empty", "numbered"],
)
def test_save_and_load(tmp_path, triples, inverse):
    graph = Graph.from_triples(*triples, inverse=inverse)
    graph.save(tmp_path / "graph")
    assert_same(Graph.load(tmp_path / "graph"), graph)
    assert_same(Graph.load(str(tmp_path / "graph")), graph)


def test_same_graph_same_bytes(tmp_path):
    for name in "ab":
        Graph.from_triples(*star(300), inverse=True).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_save_replaces_a_file(tmp_path):
    Graph.from_triples(*star(300)).save(tmp_path / "graph")
    Graph.from_triples(*path(4)).save(tmp_path / "graph")
    assert_same(Graph.load(tmp_path / "graph"), Graph.from_triples(*path(4)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_arrays_stay_on_disk(tmp_path):
    file = tmp_path / "graph"
    Graph.from_triples(*numbered(1, 400, 3000)).save(file)
    graph = Graph.load(file)
    first, last = next(
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(file))
    )
    for array in (graph.indptr, graph.relations, graph.tails):
        assert first <= array.data_ptr() < last


def test_the_file_is_not_modified(tmp_path):
    file = tmp_path / "graph"
    Graph.from_triples(*path(4)).save(file)
    before = file.read_bytes()
    graph = Graph.load(file)
    # The mapping is private: what is written to an array does not reach the file.
    graph.tails.fill_(3)
    graph.indptr.fill_(7)
    assert file.read_bytes() == before
    assert_same(Graph.load(file), Graph.from_triples(*path(4)))


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"graph: no such file, expected a graph written by"):
        Graph.load(tmp_path / "graph")
    with pytest.raises(DataError, match="no such file"):
        Graph.load(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 40, -400, -8, -1])
def test_truncated_file(tmp_path, kept):
    file = tmp_path / "graph"
    Graph.from_triples(*numbered(1, 40, 300)).save(file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match="graph: not a readable graph file"):
        Graph.load(file)


@pytest.mark.parametrize("content", [b"head\trelation\ttail\n" * 9, b"\0" * 64, b"\xff" * 64])
def test_garbage(tmp_path, content):
    file = tmp_path / "graph"
    file.write_bytes(content)
    with pytest.raises(DataError, match="graph: not a readable graph file"):
        Graph.load(file)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_other_safetensors_file(tmp_path, metadata):
    file = tmp_path / "graph"
    save_file({"tails": torch.zeros(3)}, file, metadata=metadata)
    with pytest.raises(DataError, match=r"graph: holds no graph, expected a file written by"):
        Graph.load(file)


def test_file_of_another_kind(tmp_path):
    file = tmp_path / "graph"
    tensor_file.write(file, "model", {"tails": torch.zeros(3)}, {})
    with pytest.raises(DataError, match=r"graph: holds no graph, expected a file written by"):
        Graph.load(file)
