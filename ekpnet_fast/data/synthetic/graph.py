"""Graph under the synthetic data: two levels of links plus noise, with latent vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.synthetic.config import SyntheticConfig
from ekpnet_fast.data.tables import Int32

__all__ = ["LATENT_UNIT", "SyntheticGraph", "make_graph"]

LATENT_UNIT = 32  # a latent coordinate of standard deviation 1, as a whole number

_BLOCK_TRIPLES = 1 << 20

Int64 = NDArray[np.int64]
Vectors = NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticGraph:
    """Triples and the latent vectors behind them."""

    heads: Int32  # [T]
    relations: Int32  # [T]
    tails: Int32  # [T]
    item_sums: Int32  # [I, latent], sums of the linked attributes' vectors
    item_degrees: Int64  # [I], attributes linked to
    attribute_vectors: Vectors  # [A, latent], in units of 1 / LATENT_UNIT
    parent_vectors: Vectors  # [P, latent]


def make_graph(config: SyntheticConfig, stream: np.random.Generator) -> SyntheticGraph:
    """Draw the graph; no triple occurs twice and no triple is a self-loop.

    Attribute a is reached by the item relation a mod (R - 2), so a relation has its own
    vocabulary.
    """
    item_links, parent_links, _ = config.triple_counts
    heads = np.empty(config.triples, dtype=np.int32)
    relations = np.empty(config.triples, dtype=np.int32)
    tails = np.empty(config.triples, dtype=np.int32)
    first_attribute, first_parent = config.items, config.items + config.attributes

    parents = _centred(stream.standard_normal((config.parents, config.latent)), config.tail_skew)
    weights = np.exp(config.degree_skew * stream.standard_normal(config.attributes))
    parent_degrees = _degrees(weights, parent_links, least=1, cap=_cap(config.parents))
    attributes = np.empty((config.attributes, config.latent), dtype=np.int8)
    shared = np.sqrt(config.parent_share) / LATENT_UNIT
    own = np.sqrt(1 - config.parent_share)
    end = item_links
    for nodes, head, tail in _links(stream, parent_degrees, config.parents, config.tail_skew):
        start, end = end, end + len(head)
        heads[start:end] = head + first_attribute
        relations[start:end] = config.relations - 2
        tails[start:end] = tail + first_parent
        linked = _sums(parents, tail, parent_degrees[nodes])
        linked = shared * linked / np.sqrt(parent_degrees[nodes, None])
        attributes[nodes] = _whole(linked + own * stream.standard_normal(linked.shape))

    weights = np.exp(config.degree_skew * stream.standard_normal(config.items))
    item_degrees = _degrees(weights, item_links, least=1, cap=_cap(config.attributes))
    sums = np.empty((config.items, config.latent), dtype=np.int32)
    end = 0
    for nodes, head, tail in _links(stream, item_degrees, config.attributes, config.tail_skew):
        start, end = end, end + len(head)
        heads[start:end] = head
        relations[start:end] = tail % (config.relations - 2)
        tails[start:end] = tail + first_attribute
        sums[nodes] = _sums(attributes, tail, item_degrees[nodes])

    end = item_links + parent_links
    pool = config.attributes + config.parents
    weights = np.concatenate([item_degrees, parent_degrees]).astype(np.float64)
    noise_degrees = _degrees(weights, config.triples - end, least=0, cap=_cap(pool))
    for _, head, tail in _links(stream, noise_degrees, pool, 0.0, first_tail=config.items):
        start, end = end, end + len(head)
        heads[start:end] = head
        relations[start:end] = config.relations - 1
        tails[start:end] = tail + config.items
    return SyntheticGraph(heads, relations, tails, sums, item_degrees, attributes, parents)


def _centred(vectors: NDArray[np.float64], tail_skew: float) -> Vectors:
    """Vectors less their average weighted by how often each is a tail, as whole numbers.

    Without this, all nodes that link to the most popular tails would look alike.
    """
    edges = np.linspace(0, 1, len(vectors) + 1) ** (1 - tail_skew)
    return _whole(vectors - np.diff(edges) @ vectors)


def _whole(values: NDArray[np.float64]) -> Vectors:
    return np.clip(np.rint(values * LATENT_UNIT), -127, 127).astype(np.int8)


def _cap(pool: int) -> int:
    """Largest out-degree into a pool: half of it, so that distinct tails are found quickly."""
    return max(1, pool // 2)


def _degrees(weights: NDArray[np.float64], total: int, *, least: int, cap: int) -> Int64:
    """Whole numbers [n] from ``least`` to ``cap`` in proportion to weights; their sum is total."""
    degrees = np.full(len(weights), least, dtype=np.int64)
    left = total - least * len(weights)
    while left > 0:
        open_ = degrees < cap
        share = np.where(open_, weights, 0.0)
        if left < np.count_nonzero(open_):
            grown = np.zeros_like(degrees)
            grown[np.argsort(-share, kind="stable")[:left]] = 1
        else:
            grown = np.floor(share * (left / share.sum())).astype(np.int64)
        grown = np.minimum(grown, cap - degrees)
        degrees += grown
        left -= int(grown.sum())
    return degrees


def _links(
    stream: np.random.Generator,
    degrees: Int64,
    pool: int,
    tail_skew: float,
    first_tail: int | None = None,
) -> Iterator[tuple[slice, Int64, Int64]]:
    """Draw ``degrees[h]`` distinct tails below ``pool`` for every node h, in blocks of nodes.

    Args:
        stream: random stream.
        degrees: [n], each at most half of ``pool`` or 1.
        pool: number of tails to choose from.
        tail_skew: exponent s of P(tail k) ~ k^-s.
        first_tail: the node that is tail 0, where nodes can be tails: no node links to itself.

    Yields:
        The block's nodes, then heads and tails of its triples, sorted by both.
    """
    ends = np.cumsum(degrees)
    low = 0
    while low < len(degrees):
        before = int(ends[low - 1]) if low else 0
        high = int(np.searchsorted(ends, before + _BLOCK_TRIPLES, side="right"))
        high = max(high, low + 1)
        keys = np.repeat(np.arange(low, high) * pool, degrees[low:high])
        redrawn = np.arange(len(keys))
        power = 1 / (1 - tail_skew)
        while len(redrawn):
            head = keys[redrawn] // pool
            tail = (stream.random(len(redrawn)) ** power * pool).astype(np.int64)
            keys[redrawn] = head * pool + tail
            keys.sort(kind="stable")
            wrong = np.zeros(len(keys), dtype=np.bool_)
            wrong[1:] = keys[1:] == keys[:-1]
            if first_tail is not None:
                wrong |= keys // pool == keys % pool + first_tail
            redrawn = np.flatnonzero(wrong)
            power = max(1.0, 0.9 * power)
        heads = keys // pool
        yield slice(low, high), heads, keys - heads * pool
        low = high


def _sums(table: Vectors, tails: Int64, degrees: Int64) -> Int32:
    """Sums of ``table`` rows [n, latent] over each node's tails; degrees [n] are at least 1."""
    running = np.cumsum(table[tails], axis=0, dtype=np.int32)
    sums = running[np.cumsum(degrees) - 1]
    sums[1:] -= sums[:-1].copy()
    return sums
