"""Data sets of the benchmarks, real and drawn: graph, histories, examples, settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast.config import ModelConfig, RunConfig
from ekpnet_fast.data import PreparedData, load_dataset, prepare
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.pairs import history_tensors

# RippleNet's full graph of MovieLens-1M, whose files are not public: drawn at its size.
MOVIELENS_ENTITIES, MOVIELENS_TRIPLES, MOVIELENS_RELATIONS = 182_011, 1_241_995, 12

_BLOCK = 1 << 22  # triples drawn at a time, so that temporaries stay small beside the graph


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """Click histories: the entities that users clicked."""

    indptr: Tensor  # [U + 1] int64
    entities: Tensor  # [indptr[-1]] int32

    @property
    def num_users(self) -> int:
        """Number of users, U."""
        return self.indptr.numel() - 1


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """Setting: a data set with a graph, and its training options."""

    prepared: PreparedData
    graph: Graph
    config: RunConfig

    @property
    def shape(self) -> ModelConfig:
        """Shape of the model."""
        return self.config.shape

    @property
    def histories(self) -> Histories:
        """Train histories of all users; of some they are empty."""
        return Histories(*history_tensors(self.prepared))


def data_root() -> Path:
    """Folder of the real data sets: EKPNET_DATA, else beside the project."""
    return Path(os.environ.get("EKPNET_DATA") or Path(__file__).parents[3] / "shared" / "data")


def setting(name: str, data_root: Path, preset: str, graph: Graph | None = None) -> Setting:
    """Setting of a real data set with a preset; its own graph, both ways, unless one is given."""
    # A machine that only measures drawn data need not have the parser of options.
    from ekpnet_fast.runs.resolve import resolve, settle

    options = {"dataset": name, "data_root": data_root, "preset": preset}
    prepared = prepare(load_dataset(name, data_root), seed=0)
    if graph is None:
        graph = Graph.from_dataset(prepared.dataset, inverse=True)
    return Setting(prepared, graph, settle(resolve(options), prepared))


def movielens(data_root: Path) -> Setting:
    """MovieLens-1M with Table 2, and a graph of the size of RippleNet's full one."""
    graph = power_law_graph(MOVIELENS_ENTITIES, MOVIELENS_TRIPLES, MOVIELENS_RELATIONS)
    return setting("movielens-1m", data_root, "paper", graph)


def book_crossing(data_root: Path) -> Setting:
    """Book-Crossing with Table 2, and the real graph."""
    return setting("book-crossing", data_root, "paper")


SETTINGS = {"movielens": movielens, "book_crossing": book_crossing}
FOLDERS = {"movielens": "movielens-1m", "book_crossing": "book-crossing"}


def power_law_graph(
    num_entities: int, num_triples: int, num_relations: int, seed: int = 1
) -> Graph:
    """Graph of a configuration model: an entity is a tail as often as a head, some of them often.

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
    ends = np.zeros(num_entities + 1, np.int64)
    ends[1:] = np.rint(weights * (num_triples / weights[-1]))
    del weights
    # The triples go through `from_triples`, so the arrays are in memory as those of users are.
    heads = np.repeat(np.arange(num_entities, dtype=np.int32), np.diff(ends))
    relations = np.empty(num_triples, np.int32)
    tails = np.empty(num_triples, np.int32)
    for start in range(0, num_triples, _BLOCK):
        part = tails[start : start + _BLOCK]
        rank = (stream.random(len(part)) ** 2 * num_entities).astype(np.int64)
        part[:] = entity_of_rank[rank]
        relations[start : start + _BLOCK] = stream.integers(0, num_relations, len(part), np.uint8)
    return Graph.from_triples(heads, relations, tails, num_entities, num_relations)


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
