"""Neighbour models: an item's score is the sum of its similarities to what the user clicked.

Each but one is a matrix S [I, I] made of the clicks alone, without training: score(u, i) is the sum
of S_ji over the items j of u's history; `user_knn` asks like users instead. They are what a model
that learns must be compared with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import PreparedData
from ekpnet_fast.data.popularity import best_threshold
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models.base import Model
from ekpnet_fast.models.wide.affinity import neighbours_kept
from ekpnet_fast.models.wide.matrices import (
    Matrix,
    clicks_of,
    inverse,
    matrix_of,
    rows_of,
    scaled,
    sums,
    walk_factors,
)
from ekpnet_fast.models.wide.signals import SignalOptions
from ekpnet_fast.models.wide.users import NEAR_USERS, UserNeighbours
from ekpnet_fast.sampling.examples import TrainingExamples
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.pairs import Inputs, PairRequest, Pairs, TrainContext

__all__ = ["ItemKNN", "LocalRidge", "P3Alpha", "UserKNN"]

GRAM = 1 << 25  # co-clicks that all items know together, at most
SCORES = 1 << 23  # that are in memory at a time


def _strongest(left: Matrix, right: Matrix, count: int) -> Matrix:
    """Strongest `count` entries beside the diagonal in each row of left right [I, I].

    One more in a row whose diagonal entry is weaker than those.
    """
    I = left.shape[0]  # noqa: E741
    found = ops.strongest_products(rows_of(left), rows_of(right), I, min(count + 1, I))
    similar = matrix_of(found, I)
    similar.data[similar.indices == np.repeat(np.arange(I), np.diff(similar.indptr))] = 0
    similar.eliminate_zeros()
    return similar


def _check(model: str, config: RunConfig, ranges: Mapping[str, tuple[float, float, float]]) -> None:
    """Check numbers against what they may be, by option: (value, least, most); and the folds.

    Raises:
        ConfigError: names the option.
    """
    if config.folds > 1:
        raise ConfigError(
            f"--folds is {config.folds}, expected 1: {model} does not learn from rows, so there is"
            " nothing to hide a row's own fold from"
        )
    for option, (value, least, most) in ranges.items():
        if not least <= value <= most or math.isinf(value):
            span = f"at least {least:g}" if math.isinf(most) else f"{least:g} to {most:g}"
            raise ConfigError(f"--{model}.{option} is {value}, expected {span}")


class Neighbours(Model):
    """Neighbour model: logit = score less a threshold.

    The threshold is that of the highest accuracy on validation; it changes no order. Scores follow
    from the histories that the model is built with.

    Attributes:
        num_items: I.
        threshold: [] subtracted from every score.
    """

    stages = ()
    history = True
    new_users = True
    pair_inputs = ("score",)
    as_fitted = ("similarities by clicks",)
    threshold: Tensor

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__(config, source)
        self.register_buffer("threshold", torch.zeros(()))
        self.num_items = source.num_items
        self.take(clicks_of(source.histories, source.num_items))

    def refreshed(self, source: TrainContext, training: TrainingExamples) -> Neighbours:
        """Copy whose similarities are those of other histories; the threshold stays."""
        other = self.with_context(source)
        other.num_items = source.num_items
        other.take(clicks_of(source.histories, source.num_items))
        return other

    def take(self, clicks: Matrix) -> None:
        """Take the similarities from the clicks [U, I], ones."""
        raise NotImplementedError(f"{type(self).__name__} takes no similarities")

    def scores(self, histories: Histories) -> NDArray[np.float32]:
        """Scores [G, I] of all items for some histories."""
        raise NotImplementedError(f"{type(self).__name__} has no scores")

    def fit(self, prepared: PreparedData) -> None:
        """Choose the threshold."""
        valid = prepared.valid
        order = np.argsort(valid.users, kind="stable")
        users, counts = np.unique(valid.users, return_counts=True)
        ends = torch.from_numpy(np.append(0, np.cumsum(counts)))
        request = PairRequest(
            torch.from_numpy(users), ends, torch.from_numpy(valid.items[order]), epoch=0
        )
        scores = self.inputs(request)["score"].numpy()
        threshold = best_threshold(valid.labels[order], scores)
        if math.isinf(threshold):  # no score is high enough
            threshold = float(scores.max()) + 1
        self.threshold.fill_(threshold)

    def inputs(self, request: PairRequest) -> Inputs:
        """Compute score [B]."""
        histories, ids = self.histories_of(request)
        scores = np.empty(len(request.items), dtype=np.float32)
        ends, items = request.group_indptr.numpy(), request.items.numpy()
        step = max(SCORES // max(self.num_items, 1), 1)
        for first in range(0, len(ids), step):
            part = ids[first : first + step]
            found = self.scores(histories.of(part))
            begin, end = ends[first], ends[min(first + step, len(ids))]
            groups = np.repeat(np.arange(len(part)), np.diff(ends[first : first + step + 1]))
            scores[begin:end] = found[groups, items[begin:end]]
        return {"score": torch.from_numpy(scores)}

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]."""
        return pairs.inputs["score"] - self.threshold


class ItemNeighbours(Neighbours):
    """Neighbour model whose score is the sum of S_ji over the history's items j.

    An item's own clicks do not speak for itself: S_ii = 0.

    Attributes:
        similar: S [I, I], sparse.
    """

    similar: Matrix

    def take(self, clicks: Matrix) -> None:
        """Take S from the clicks [U, I], ones."""
        self.similar = self.similarities(clicks)

    def scores(self, histories: Histories) -> NDArray[np.float32]:
        """Scores [G, I] of all items for some histories."""
        found: NDArray[np.float32] = (clicks_of(histories, self.num_items) @ self.similar).toarray()
        return found

    def similarities(self, clicks: Matrix) -> Matrix:
        """Matrix S [I, I] by the clicks [U, I], ones."""
        raise NotImplementedError(f"{type(self).__name__} has no similarities")


@dataclass(frozen=True)
class ItemKNNOptions:
    """Options of item neighbours.

    Attributes:
        neighbours: most similar items that each item keeps; 0 for as many as all items have room
            for in 64 MiB, 64 at least.
        user_power: power of a user's number of clicks that each of them is divided by.
        history_power: power of the clicks of the history's item that similarities are divided by.
        item_power: the same of the item that is scored; less favours popular items.
    """

    neighbours: int = 0
    user_power: float = 0.5
    history_power: float = 0.5
    item_power: float = 0.3


def _nearest(clicks: Matrix, options: ItemKNNOptions, count: int) -> Matrix:
    """Similarities S_ji [I, I] in row i, of the `count` items j most similar to each item i."""
    counts = sums(clicks, 0)
    by_user = inverse(sums(clicks, 1) ** options.user_power)
    left = scaled(clicks, by_user, inverse(counts**options.item_power)).T.tocsr()
    right = scaled(clicks, None, inverse(counts**options.history_power))
    return _strongest(left, right, count)


class ItemKNN(ItemNeighbours):
    """Item neighbours: S_ji = G_ji d_j^-b d_i^-c with G = A^T D_u^-a A.

    A are the clicks, d_i those of item i, D_u those of each user; (a, b, c) are the options
    `user_power`, `history_power` and `item_power`. (0, 1/2, 1/2) is the plain cosine.
    """

    name = "item_knn"
    summary = "item-based nearest neighbours by clicks, normalised; not trained"
    Options = ItemKNNOptions
    options: ItemKNNOptions

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Check the ranges of the options."""
        options: Any = config.options
        _check(cls.name, config, {
            "neighbours": (options.neighbours, 0, math.inf),
            "user_power": (options.user_power, 0, 2),
            "history_power": (options.history_power, 0, 2),
            "item_power": (options.item_power, 0, 2),
        })  # fmt: skip

    def similarities(self, clicks: Matrix) -> Matrix:
        """Matrix S [I, I] by the clicks [U, I]."""
        kept = neighbours_kept(SignalOptions(neighbours=self.options.neighbours), clicks.shape[1])
        return _nearest(clicks, self.options, kept).T.tocsr()


@dataclass(frozen=True)
class UserKNNOptions:
    """Options of user neighbours.

    Attributes:
        neighbours: users most similar to a history, whose clicks are summed.
        history_power: power of the clicks of an item of the history that it counts less by.
        user_power: power of a user's number of clicks that similarities are divided by.
        item_power: power of the clicks of the item that is scored; less favours popular items.
    """

    neighbours: int = NEAR_USERS
    history_power: float = 0.5
    user_power: float = 0.5
    item_power: float = 0.0


class UserKNN(Neighbours):
    """User neighbours: the score of i is the sum of s_uv A_vi d_i^-c over the users v nearest to u.

    s_uv = n_v^-b times the sum of d_j^-a over the items j that both clicked; d are the clicks of
    items, n those of users, and (a, b, c) the options `history_power`, `user_power` and
    `item_power` (see `wide/users.py`). Who clicked nothing but what u did is none of them.

    Attributes:
        users: the clicks.
    """

    name = "user_knn"
    summary = "user-based nearest neighbours by clicks, normalised; not trained"
    Options = UserKNNOptions
    options: UserKNNOptions
    users: UserNeighbours

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Check the ranges of the options."""
        options: Any = config.options
        _check(cls.name, config, {
            "neighbours": (options.neighbours, 1, math.inf),
            "history_power": (options.history_power, 0, 2),
            "user_power": (options.user_power, 0, 2),
            "item_power": (options.item_power, 0, 2),
        })  # fmt: skip

    def take(self, clicks: Matrix) -> None:
        """Take the clicks [U, I], ones."""
        options = self.options
        powers = options.history_power, options.user_power, options.item_power
        self.users = UserNeighbours(clicks, options.neighbours, *powers)

    def scores(self, histories: Histories) -> NDArray[np.float32]:
        """Scores [G, I] of all items for some histories."""
        return self.users.scores(histories)


@dataclass(frozen=True)
class P3AlphaOptions:
    """Options of the walk item, user, item.

    Attributes:
        neighbours: likeliest ends of the walk that each item keeps; 0 for as many as all items
            have room for in 64 MiB, 64 at least.
        alpha: power of the probability of each step.
        beta: power of the clicks of the item at the end that its probability is divided by; above
            0 this is RP3beta, in which popular items weigh less.
    """

    neighbours: int = 0
    alpha: float = 1.0
    beta: float = 0.0


class P3Alpha(ItemNeighbours):
    """P3alpha (Cooper et al., WWW 2014): the walk from a clicked item to a user and on to an item.

    S = P_iu^alpha P_ui^alpha with the probabilities P of a step to any neighbour in the graph of
    clicks, 1 over their number, each to the power alpha; RP3beta (Paudel et al., ACM TiiS 2016)
    divides the result by d_i^beta.
    """

    name = "p3alpha"
    summary = "three-step random walk over clicks, RP3beta with --p3alpha.beta; not trained"
    Options = P3AlphaOptions
    options: P3AlphaOptions

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Check the ranges of the options."""
        options: Any = config.options
        _check(cls.name, config, {
            "neighbours": (options.neighbours, 0, math.inf),
            "alpha": (options.alpha, 0, 4),
            "beta": (options.beta, 0, 2),
        })  # fmt: skip

    def similarities(self, clicks: Matrix) -> Matrix:
        """Matrix S [I, I] by the clicks [U, I]."""
        options = self.options
        left, right = walk_factors(clicks, options.alpha, options.beta)
        kept = neighbours_kept(SignalOptions(neighbours=options.neighbours), clicks.shape[1])
        return _strongest(left, right, kept)


@dataclass(frozen=True)
class LocalRidgeOptions:
    """Options of the regression of each item on its neighbours.

    Attributes:
        neighbours: items most similar to each, by `item_knn`, that it is regressed on.
        weight: regularisation, in clicks.
    """

    neighbours: int = 200
    weight: float = 100.0


class LocalRidge(ItemNeighbours):
    """Local ridge: EASE^R (Steck, WWW 2019) with coefficients for each item's neighbours alone.

    Column i of S is the ridge regression of the clicks of item i on those of its neighbours N:
    (G_NN + weight)^-1 G_Ni with G = A^T A. With all items as neighbours it is a ridge regression
    of each item on all others, which is EASE^R.
    """

    name = "local_ridge"
    summary = "ridge regression of each item on its neighbours, a sparse EASE^R; not trained"
    Options = LocalRidgeOptions
    options: LocalRidgeOptions

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Check the ranges of the options."""
        options: Any = config.options
        _check(cls.name, config, {"neighbours": (options.neighbours, 1, 2048)})
        if not 0 < options.weight < math.inf:
            raise ConfigError(f"--{cls.name}.weight is {options.weight}, expected more than 0")

    def similarities(self, clicks: Matrix) -> Matrix:
        """Matrix S [I, I] by the clicks [U, I]."""
        I = clicks.shape[1]  # noqa: E741
        near = rows_of(_nearest(clicks, ItemKNNOptions(), min(self.options.neighbours, I)))
        most = min(I, max(GRAM // max(I, 1), self.options.neighbours))
        gram = ops.strongest_products(rows_of(clicks.T.tocsr()), rows_of(clicks), I, most)
        found = ops.local_ridge(gram, near.indptr, near.columns, self.options.weight)
        return matrix_of(near._replace(values=found), I).T.tocsr()
