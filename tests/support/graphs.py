"""Graphs to check by hand, lists as CSR, and a chi-square test, for the tests of sampling.

A graph is the arguments of `Graph.from_triples`: heads, relations, tails, and the two numbers.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import torch

Triples = tuple[np.ndarray, np.ndarray, np.ndarray, int, int]


def _triples(triples: list[tuple[int, int, int]], num_entities: int, num_relations: int) -> Triples:
    columns = np.array(triples, dtype=np.int32).reshape(-1, 3).T
    return (*columns, num_entities, num_relations)


def path(n: int) -> Triples:
    """Path 0 -> 1 -> ... -> n - 1, all by relation 0."""
    return _triples([(i, 0, i + 1) for i in range(n - 1)], n, 1)


def cycle(n: int) -> Triples:
    """Cycle 0 -> 1 -> ... -> n - 1 -> 0, all by relation 0."""
    return _triples([(i, 0, (i + 1) % n) for i in range(n)], n, 1)


def star(n: int) -> Triples:
    """Star of the hub 0 -> 1, ..., n - 1; the edge to leaf i is relation i - 1."""
    return _triples([(0, i - 1, i) for i in range(1, n)], n, n - 1)


def isolated(n: int) -> Triples:
    """Entities and no triple."""
    return _triples([], n, 1)


def numbered(seed: int, num_entities: int, num_triples: int, num_relations: int = 0) -> Triples:
    """Random triples, the i-th by relation i, so that a relation identifies the triple drawn.

    The last fifth of the entities has no triple of its own.
    """
    stream = np.random.default_rng(seed)
    heads = stream.integers(0, num_entities - num_entities // 5, num_triples, dtype=np.int32)
    tails = stream.integers(0, num_entities, num_triples, dtype=np.int32)
    relations = np.arange(num_triples, dtype=np.int32)
    return heads, relations, tails, num_entities, num_relations or num_triples


def csr(lists) -> tuple[torch.Tensor, torch.Tensor]:
    """CSR of lists of ids: row pointers int64 and ids int32."""
    indptr = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum([len(x) for x in lists], out=indptr[1:])
    return torch.from_numpy(indptr), torch.tensor([i for x in lists for i in x], dtype=torch.int32)


def assert_frequencies(counts, weights=None, level: float = 1e-6) -> None:
    """Chi-square test that `counts` were drawn in proportion to `weights`, evenly if None.

    The quantile is Wilson and Hilferty's approximation. Seeds are fixed, so a test that passes once
    always does; the level is how often a correct sampler would fail on a new seed.
    """
    counts = np.asarray(counts, dtype=np.float64)
    weights = np.ones_like(counts) if weights is None else np.asarray(weights, dtype=np.float64)
    expected = counts.sum() * weights / weights.sum()
    assert expected.min() >= 5, "too few draws for a chi-square test"
    free = counts.size - 1
    z = NormalDist().inv_cdf(1 - level)
    limit = free * (1 - 2 / (9 * free) + z * (2 / (9 * free)) ** 0.5) ** 3
    found = ((counts - expected) ** 2 / expected).sum()
    assert found < limit, f"chi-square {found:.1f} above {limit:.1f}, {free} degrees of freedom"
