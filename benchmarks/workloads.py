"""Graphs, histories and labelled rows that the benchmarks work on; nothing here is timed."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast.config import ModelConfig, StageConfig
from ekpnet_fast.data import PreparedData, load_dataset, prepare
from ekpnet_fast.graph import Graph
from ekpnet_fast.sampling import history_tensors

_BLOCK = 1 << 22  # triples drawn at a time, so that temporaries stay small beside the graph


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """The entities that users clicked."""

    indptr: Tensor  # [U + 1] int64
    entities: Tensor  # [indptr[-1]] int32

    @property
    def num_users(self) -> int:
        """U."""
        return self.indptr.numel() - 1


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """A data set with a graph, and the model and its second stage of training (Table 2)."""

    name: str
    prepared: PreparedData
    graph: Graph
    shape: ModelConfig
    stage: StageConfig

    @property
    def histories(self) -> Histories:
        """Train histories of all users; of some they are empty."""
        return Histories(*history_tensors(self.prepared))


def movielens(data_root: Path) -> Setting:
    """MovieLens-1M: real interactions, and a graph of the size of RippleNet's full one."""
    prepared = prepare(load_dataset("movielens-1m", data_root), seed=0)
    graph = power_law_graph(182_011, 1_241_995, 12)
    shape = ModelConfig(width=16, hops=2, slots=32, layers=3)
    stage = StageConfig(lr=5e-3, lambda1=0.001, lambda2=1e-7, lambda3=1e-7)
    return Setting("movielens", prepared, graph, shape, stage)


def book_crossing(data_root: Path) -> Setting:
    """Book-Crossing: real interactions and the real graph, which is walked both ways."""
    prepared = prepare(load_dataset("book-crossing", data_root), seed=0)
    graph = Graph.from_dataset(prepared.dataset, inverse=True)
    shape = ModelConfig(width=4, hops=3, slots=32, layers=4)
    stage = StageConfig(lr=5e-3, lambda1=0.001, lambda2=1e-4, lambda3=1e-4)
    return Setting("book-crossing", prepared, graph, shape, stage)


def power_law_graph(
    num_entities: int, num_triples: int, num_relations: int, seed: int = 1
) -> Graph:
    """A configuration model: an entity is a tail as often as it is a head, and some often.

    Degrees follow a power law (density ~ degree^-3, cut at 300 times the smallest), whatever the
    size of the graph. Popular entities are spread over the ids and so over memory. There are at
    most 256 relations.
    """
    stream = np.random.Generator(np.random.SFC64(seed))
    stride = int(num_entities * 0.618) | 1
    while gcd(stride, num_entities) != 1:
        stride += 2
    entity_of_rank = np.arange(num_entities) * stride % num_entities
    weights = np.empty(num_entities)
    weights[entity_of_rank] = ((np.arange(num_entities) + 0.5) / num_entities) ** -0.5
    np.minimum(weights, 300.0, out=weights)
    np.cumsum(weights, out=weights)
    # Memory comes from torch, as that of `ops.build_csr` does: NumPy's would get huge pages, which
    # make random reads in a large graph cheaper than users would see.
    indptr = torch.zeros(num_entities + 1, dtype=torch.int64)
    indptr.numpy()[1:] = np.rint(weights * (num_triples / weights[-1]))
    tails = torch.empty(num_triples, dtype=torch.int32)
    relations = torch.empty(num_triples, dtype=torch.uint8)
    for start in range(0, num_triples, _BLOCK):
        part = tails.numpy()[start : start + _BLOCK]
        rank = (stream.random(len(part)) ** 2 * num_entities).astype(np.int64)
        part[:] = entity_of_rank[rank]
        relations.numpy()[start : start + _BLOCK] = stream.integers(
            0, num_relations, len(part), np.uint8
        )
    return Graph(indptr, relations, tails, num_entities, num_relations, inverse=False)


def random_histories(
    num_users: int, num_items: int, mean: float = 37.0, seed: int = 2
) -> Histories:
    """Histories of log-normal length (sigma 0.9, at least 1) over entities 0 .. I - 1, uniformly.

    An even draw is the hard case for a cache: popular items would be read from it.
    """
    stream = np.random.Generator(np.random.SFC64(seed))
    lengths = np.exp(0.9 * stream.standard_normal(num_users) - 0.9**2 / 2) * mean
    indptr = np.zeros(num_users + 1, np.int64)
    np.cumsum(np.maximum(1, np.rint(lengths).astype(np.int64)), out=indptr[1:])
    entities = stream.integers(0, num_items, int(indptr[-1]), np.int32)
    return Histories(torch.from_numpy(indptr), torch.from_numpy(entities))
