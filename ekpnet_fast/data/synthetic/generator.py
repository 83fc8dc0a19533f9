"""Synthetic recommendation data with a planted truth.

A two-level graph: items link to attributes, attributes link to parents (film -actor-> person
-from-> country). Parents have latent vectors; an attribute's vector mixes its parents' with one of
its own; an item's vector mixes its attributes' with one of its own. A user's taste is the sum of
the vectors of a few favourite attributes and parents. The click weight is

    w_ui = exp(sharpness * match_ui + popularity_skew * b_i),    b_i ~ N(0, 1),

with the match standardised over the items of each user. A user's positives are drawn without
replacement with probability proportional to w (Gumbel top-k), as many negatives uniformly from the
other items. Noise triples of a relation of their own say nothing about taste.

The oracle score log w_ui - logsumexp_j w_uj is the Bayes score of an example: with as many
negatives as positives, the odds of label 1 are P(i drawn as positive) / P(i drawn as negative),
which is I * w_ui / sum_j w_uj up to the correction for drawing without replacement. That correction
saturates the odds of a heavy user's favourites and changes their order across users only slightly.

Latent vectors are whole numbers, so that sums over a neighbourhood are exact and the same seed
gives the same data whatever the order of summation on a machine.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.negatives import draw_negatives
from ekpnet_fast.data.streams import SYNTHETIC, random_stream
from ekpnet_fast.data.synthetic.clicks import draw_positives
from ekpnet_fast.data.synthetic.config import SyntheticConfig
from ekpnet_fast.data.synthetic.graph import LATENT_UNIT, SyntheticGraph, make_graph
from ekpnet_fast.data.tables import Dataset, Examples, Interactions

__all__ = ["PlantedTruth", "SyntheticConfig", "make_synthetic", "plant", "standardised"]

_BLOCK_CELLS = 1 << 22
_TITLE_WORDS = 3

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PlantedTruth:
    """Truth behind a data set: log w_ui = <taste_u, vector_i> + bias_i.

    Attributes:
        graph: triples, and the vectors of attributes and parents.
        item_vectors: [I, latent].
        tastes: [U, latent], standardised.
        bias: [I], popularity_skew * b_i.
    """

    graph: SyntheticGraph
    item_vectors: Float64
    tastes: Float64
    bias: Float64


def plant(config: SyntheticConfig) -> tuple[PlantedTruth, np.random.Generator]:
    """Truth of a configuration, and the stream that clicks are drawn from next."""
    streams = random_stream(config.seed, SYNTHETIC).spawn(4)
    graph = make_graph(config, streams[0])
    item_vectors = _item_vectors(config, graph, streams[1])
    tastes = _tastes(config, graph, streams[2])
    bias = config.popularity_skew * streams[3].standard_normal(config.items)
    tastes = standardised(config, tastes, item_vectors)
    return PlantedTruth(graph, item_vectors, tastes, bias), streams[3]


def make_synthetic(config: SyntheticConfig) -> Dataset:
    """Draw a data set; the same configuration always gives the same data.

    Clicks are drawn in blocks of users of 4 million cells, the graph in blocks of about a million
    triples, so peak memory is 12 bytes per triple plus ``latent`` bytes per entity plus some
    hundreds of MB.

    Returns:
        Examples with labels and oracle scores, and the graph. Items are entities 0..I-1, before
        attributes, then parents. An item's title names its first attributes, three at most, for
        models that read words.
    """
    truth, stream = plant(config)
    graph, tastes, item_vectors, bias = truth.graph, truth.tastes, truth.item_vectors, truth.bias
    counts = _positive_counts(config, stream)
    positive, normaliser = draw_positives(tastes, item_vectors, bias, counts, stream)
    users = np.repeat(np.arange(config.users, dtype=np.int32), counts)
    clicks = Interactions(users, positive, np.ones(len(users), dtype=np.bool_))
    negative_users, negative_items, _ = draw_negatives(stream, clicks, config.users, config.items)
    labels = np.zeros(len(users) + len(negative_users), dtype=np.int8)
    labels[: len(users)] = 1
    rows = Examples(
        np.concatenate([users, negative_users]),
        np.concatenate([positive, negative_items]),
        labels,
    )
    return Dataset(
        name="synthetic",
        rows=rows,
        interactions=None,
        heads=graph.heads,
        relations=graph.relations,
        tails=graph.tails,
        num_users=config.users,
        num_items=config.items,
        num_entities=config.num_entities,
        num_relations=config.relations,
        relation_names=(
            *(f"attribute.{r}" for r in range(config.relations - 2)),
            "parent",
            "noise",
        ),
        item_names=_titles(config, graph),
        oracle=_oracle(rows, tastes, item_vectors, bias, normaliser),
        source="synthetic: "
        + ", ".join(f"{field.name}={getattr(config, field.name)}" for field in fields(config)),
    )


def _titles(config: SyntheticConfig, graph: SyntheticGraph) -> tuple[str, ...]:
    """Titles of the items, such as "attribute4 attribute17"."""
    words = [f"attribute{number}" for number in range(config.attributes)]
    degrees = graph.item_degrees.tolist()
    # The links of items come first, an item's one after the other.
    starts = np.cumsum(graph.item_degrees) - graph.item_degrees
    last = len(graph.tails) - 1
    columns = [
        (graph.tails[np.minimum(starts + place, last)] - config.items).tolist()
        for place in range(_TITLE_WORDS)
    ]
    return tuple(
        " ".join([words[tail] for tail in tails[:degree]])
        for degree, tails in zip(degrees, zip(*columns, strict=True), strict=True)
    )


def _item_vectors(
    config: SyntheticConfig, graph: SyntheticGraph, stream: np.random.Generator
) -> Float64:
    """Item vectors [I, latent]: every item's is equally long and points away from the average."""
    sums, degrees = graph.item_sums, graph.item_degrees
    linked = _unit_rows(sums - degrees[:, None] * (sums.sum(axis=0) / degrees.sum()))
    own = _unit_rows(stream.standard_normal((config.items, config.latent)))
    result: Float64 = np.sqrt(1 - config.item_noise) * linked + np.sqrt(config.item_noise) * own
    return result


def _unit_rows(table: Float64) -> Float64:
    length = np.sqrt((table * table).sum(axis=1, keepdims=True))
    result: Float64 = np.divide(table, length, out=np.zeros_like(table), where=length > 0)
    return result


def _tastes(config: SyntheticConfig, graph: SyntheticGraph, stream: np.random.Generator) -> Float64:
    """Tastes [U, latent]: sums over each user's favourite attributes and parents."""
    share = (config.favourites + 1) // 2
    power = 1 / (1 - config.tail_skew)
    total = np.zeros((config.users, config.latent), dtype=np.int32)
    for index in range(config.favourites):
        table = graph.attribute_vectors if index < share else graph.parent_vectors
        rank = (stream.random(config.users) ** power * len(table)).astype(np.int64)
        total += table[rank]
    return total / LATENT_UNIT


def standardised(config: SyntheticConfig, tastes: Float64, item_vectors: Float64) -> Float64:
    """Tastes scaled so that the match with the items has standard deviation ``sharpness``."""
    centred = item_vectors - item_vectors.mean(axis=0)
    covariance = centred.T @ centred / config.items
    spread = np.sqrt(np.maximum(np.einsum("ud,de,ue->u", tastes, covariance, tastes), 0))
    scale = np.divide(config.sharpness, spread, out=np.zeros_like(spread), where=spread > 0)
    result: Float64 = tastes * scale[:, None]
    return result


def _positive_counts(config: SyntheticConfig, stream: np.random.Generator) -> NDArray[np.int64]:
    """Positives per user [U]: log-normal with the configured mean, at least 1, at most I/2."""
    sigma = config.positives_skew
    spread = np.exp(sigma * stream.standard_normal(config.users) - sigma**2 / 2)
    counts = np.rint(config.positives * spread).astype(np.int64)
    return np.clip(counts, 1, config.items // 2)


def _oracle(
    rows: Examples, tastes: Float64, item_vectors: Float64, bias: Float64, normaliser: Float64
) -> NDArray[np.float32]:
    """Oracle scores [n] of the examples, log w_ui - logsumexp_j w_uj."""
    scores = np.empty(len(rows), dtype=np.float32)
    step = max(1, _BLOCK_CELLS // tastes.shape[1])
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        users, items = rows.users[block], rows.items[block]
        match = np.einsum("nd,nd->n", tastes[users], item_vectors[items])
        scores[block] = match + bias[items] - normaliser[users]
    return scores
