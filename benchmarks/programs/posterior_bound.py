"""What the synthetic data allow a model to know: `python -m benchmarks.programs.posterior_bound`.

The planted truth knows every user's taste. A model sees the user's clicks in train, from which,
given the vectors of all items, the posterior over the favourites that tastes are made of follows
exactly: there are so few that all of them are weighed. The score of an item is then its expected
click weight under the posterior, and no model that sees the same clicks can rank better, whatever
it knows of the graph (but for the correction for drawing without replacement, see `generator.py`).

Popularity and the part of an item's vector that the graph does not tell are unknown as well. The
last row estimates the popularity from all clicks in train, by expectation maximisation, and takes
vectors from the graph alone: what is left of the way from a model to it is what the model does not
know of the vectors of attributes and parents, which it has to learn from the same clicks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import combinations_with_replacement
from math import factorial

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data import prepare
from ekpnet_fast.data.synthetic.config import SyntheticConfig
from ekpnet_fast.data.synthetic.generator import PlantedTruth, make_synthetic, plant, standardised
from ekpnet_fast.data.synthetic.graph import LATENT_UNIT
from ekpnet_fast.data.tables import Examples, PreparedData
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.evaluation.metrics import auc

MOST_TASTES = 1_000_000
SMALLEST = -16.0  # log of a taste's posterior against the likeliest, below which it is left out
ROUNDS = 3
_BLOCK, _USERS = 4096, 64

Float = NDArray[np.float64]


class Tastes:
    """All tastes that a user can have: vectors [C, latent] and log prior [C].

    Args:
        config: of the data.
        truth: its truth, of which the vectors of attributes and parents are taken.
        item_vectors: [I, latent] that matches are standardised over.

    Raises:
        ConfigError: there are more than can be weighed.
    """

    def __init__(self, config: SyntheticConfig, truth: PlantedTruth, item_vectors: Float) -> None:
        share = (config.favourites + 1) // 2
        found: tuple[Float, Float] | None = None
        tables = (truth.graph.attribute_vectors, truth.graph.parent_vectors)
        for table, count in zip(tables, (share, config.favourites - share), strict=True):
            sums, log_prior = _multisets(table, count, config.tail_skew)
            if found is None:
                found = sums, log_prior
            elif len(found[0]) * len(sums) > MOST_TASTES:
                raise ConfigError(
                    f"found {len(found[0]) * len(sums):,} tastes, expected at most {MOST_TASTES:,}"
                )
            else:
                both = found[0][:, None] + sums
                found = both.reshape(-1, sums.shape[1]), np.add.outer(found[1], log_prior).ravel()
        assert found is not None
        self.vectors = standardised(config, found[0] / LATENT_UNIT, item_vectors)
        self.log_prior = found[1]

    def log_sums(self, item_vectors: Float, bias: Float) -> Float:
        """Log [C] of the sum of all items' click weights."""
        found = np.empty(len(self.vectors))
        for first in range(0, len(found), _BLOCK):
            weights = self.vectors[first : first + _BLOCK] @ item_vectors.T + bias
            top = weights.max(1)
            sums = np.exp((weights - top[:, None]).astype(np.float32)).sum(1)
            found[first : first + _BLOCK] = top + np.log(sums)
        return found


def _multisets(table: NDArray[np.int8], count: int, skew: float) -> tuple[Float, Float]:
    """Sums [C, latent] of `count` rows, and the log chance [C] of each choice."""
    n = len(table)
    if n**count > 20 * MOST_TASTES:
        raise ConfigError(f"found {count} favourites of {n}, expected fewer")
    log_chance = np.log(np.diff(np.linspace(0, 1, n + 1) ** (1 - skew)))
    chosen = np.array(list(combinations_with_replacement(range(n), count)), dtype=np.int64)
    orders = np.full(len(chosen), float(factorial(count)))
    run = np.ones(len(chosen))
    for place in range(1, count):
        run = np.where(chosen[:, place] == chosen[:, place - 1], run + 1, 1)
        orders /= run
    return table[chosen].sum(1, dtype=np.float64), log_chance[chosen].sum(1) + np.log(orders)


class Posterior:
    """Posterior over the tastes of every user, by the clicks in train.

    Args:
        tastes: all there are.
        item_vectors, bias: [I, latent] and [I], taken as known.
        train: the examples, of which the clicks count.
        num_users: U.
    """

    def __init__(
        self, tastes: Tastes, item_vectors: Float, bias: Float, train: Examples, num_users: int
    ) -> None:
        self.tastes, self.item_vectors, self.bias = tastes, item_vectors, bias
        self.log_sums = tastes.log_sums(item_vectors, bias)
        clicks = train.take(train.labels == 1)
        self.lengths = np.bincount(clicks.users, minlength=num_users)
        sums = np.zeros((num_users, item_vectors.shape[1]))
        np.add.at(sums, clicks.users, item_vectors[clicks.items])
        self.sums = sums

    def each(self, users: NDArray[np.integer]) -> Iterator[tuple[NDArray[np.int64], Float]]:
        """Tastes of each user that are likely enough, and the logs of their chances."""
        for first in range(0, len(users), _USERS):
            some = users[first : first + _USERS]
            log = self.sums[some] @ self.tastes.vectors.T + self.tastes.log_prior
            log -= np.outer(self.lengths[some], self.log_sums)
            log -= log.max(1, keepdims=True)
            for row in log:
                kept = np.flatnonzero(row > SMALLEST)
                yield kept, row[kept] - np.log(np.exp(row[kept]).sum())

    def scores(self, rows: Examples) -> Float:
        """Log [n] of the expected share of each row's item in the user's click weights."""
        found = np.empty(len(rows))
        order = np.argsort(rows.users, kind="stable")
        users, starts = np.unique(rows.users[order], return_index=True)
        rows_of = np.split(order, starts[1:])
        for at, (kept, log) in zip(rows_of, self.each(users), strict=True):
            weights = self.tastes.vectors[kept] @ self.item_vectors[rows.items[at]].T
            found[at] = np.log(np.exp(weights + (log - self.log_sums[kept])[:, None]).sum(0))
        return found + self.bias[rows.items]

    def exposure(self) -> Float:
        """Expected clicks [I] in train of items without bias."""
        share = np.zeros(len(self.log_sums))
        everybody = np.arange(len(self.lengths))
        for length, (kept, log) in zip(self.lengths, self.each(everybody), strict=True):
            share[kept] += length * np.exp(log - self.log_sums[kept])
        (some,) = np.nonzero(share)
        total = np.zeros(len(self.item_vectors))
        for first in range(0, len(some), _BLOCK):
            at = some[first : first + _BLOCK]
            weights = np.exp((self.tastes.vectors[at] @ self.item_vectors.T).astype(np.float32))
            total += share[at] @ weights
        return total


def bounds(config: SyntheticConfig, prepared: PreparedData) -> Iterator[tuple[str, float]]:
    """AUC on test by what is known, from the most on."""

    def measured(scores: NDArray[np.floating]) -> float:
        return auc(prepared.test.labels, scores)

    truth, _ = plant(config)
    train, test = prepared.train, prepared.test
    assert prepared.oracle_test is not None
    yield "tastes, vectors and popularity (the planted truth)", measured(prepared.oracle_test)
    tastes = Tastes(config, truth, truth.item_vectors)
    known = Posterior(tastes, truth.item_vectors, truth.bias, train, config.users)
    yield "vectors and popularity, tastes by clicks", measured(known.scores(test))
    linked = _linked(config, truth)
    tastes = Tastes(config, truth, linked)
    counts = np.bincount(train.items[train.labels == 1], minlength=config.items)
    bias = np.zeros(config.items)
    for _ in range(ROUNDS):
        given = Posterior(tastes, linked, bias, train, config.users)
        bias = _popularity(counts, given.exposure(), config.popularity_skew, bias)
    given = Posterior(tastes, linked, bias, train, config.users)
    yield "vectors of attributes and parents, the rest by clicks", measured(given.scores(test))


def _linked(config: SyntheticConfig, truth: PlantedTruth) -> Float:
    """Item vectors as far as the graph tells them."""
    sums, degrees = truth.graph.item_sums, truth.graph.item_degrees
    away = sums - degrees[:, None] * (sums.sum(axis=0) / degrees.sum())
    length = np.sqrt((away * away).sum(axis=1, keepdims=True))
    found: Float = np.divide(away, length, out=np.zeros_like(away), where=length > 0)
    return np.sqrt(1 - config.item_noise) * found


def _popularity(counts: NDArray[np.int64], exposure: Float, spread: float, start: Float) -> Float:
    """Likeliest bias [I] of a normal prior, given clicks with mean exposure * exp(bias)."""
    bias, precision = start.copy(), 1 / max(spread, 1e-6) ** 2
    for _ in range(20):
        mean = exposure * np.exp(bias)
        bias += np.clip((counts - mean - precision * bias) / (mean + precision), -1, 1)
    return bias


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.programs.posterior_bound")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    arguments = parser.parse_args()
    config = SyntheticConfig()
    for name, value in bounds(config, prepare(make_synthetic(config), arguments.seed)):
        print(f"{value:.4f}  {name}", flush=True)


if __name__ == "__main__":
    main()
