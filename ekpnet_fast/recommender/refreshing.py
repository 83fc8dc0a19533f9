"""Refresh: fit anew what is fitted to the graph and to all clicks, without deep training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ekpnet_fast.data import Examples
from ekpnet_fast.data.negatives import items_of_ranks
from ekpnet_fast.errors import ConfigError, TrainingError
from ekpnet_fast.recommender.answers import Change
from ekpnet_fast.recommender.state import State
from ekpnet_fast.sampling.examples import TrainingExamples, UserExamples
from ekpnet_fast.sampling.folds import Folds
from ekpnet_fast.sampling.histories import Histories

__all__ = ["refreshed"]


def refreshed(state: State) -> tuple[State, Change]:
    """State whose model is fitted to the graph, the catalogue and the histories as they are.

    Raises:
        ConfigError: a model of which nothing is fitted so.
        TrainingError: no item was clicked twice.
    """
    if not state.model.as_fitted:
        raise ConfigError(
            f"refresh: nothing of model {state.model.name} is fitted beside its weights, which"
            " training alone changes; expected linear or ekpnet_plus"
        )
    source = replace(state.context, num_items=state.num_items)
    model = state.model.refreshed(source, _examples(state))
    return replace(state, model=model), Change()


def _examples(state: State) -> TrainingExamples:
    """Clicks and drawn items, by user or by (user, fold) pair, as training had them."""
    users, clicked = _clicks(state)
    drawn = _drawn(state, users)
    rows = UserExamples.from_examples(
        Examples(
            np.concatenate([users, drawn[0]]),
            np.concatenate([clicked, drawn[1]]),
            np.repeat(np.array([1, 0], dtype=np.int8), [len(users), len(drawn[0])]),
        ),
        len(state.users),
    )
    folds = state.config.folds
    if folds > 1:
        cut = Folds.cut(rows, folds, state.config.seed)
        if not len(cut.kept):
            raise TrainingError("refresh: found no user with clicks in two folds, expected some")
        return TrainingExamples(cut.rows, cut.histories, folds)
    order = np.lexsort((clicked, users))
    histories = Histories(state.history_indptr, torch.from_numpy(clicked[order]))
    return TrainingExamples(rows, histories)


def _clicks(state: State) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Users and items [n] int32 of all clicks in the histories."""
    lengths = state.history_indptr.diff().numpy()
    users = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return users, np.array(state.items_of(state.history_items), dtype=np.int32)


def _drawn(state: State, users: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Users and items [m] int32: uniform over what each user has not touched, a draw for a click.

    As many for a click as training had rows without one; Philox4x64 of the seed.
    """
    share = float(state.model.get_buffer("linear.clicked"))
    ends = np.floor(np.arange(len(users) + 1) * (1 - share) / share + 1e-6).astype(np.int64)
    owners = np.repeat(users, np.diff(ends)).astype(np.int64)
    count = np.diff(state.consumed_indptr)
    free = state.num_items - count
    owners = owners[free[owners] > 0]
    key = np.array([state.config.seed, 0], dtype=np.uint64)
    raw = np.random.Philox(key=key).random_raw(len(owners))
    # 53 bits of each draw, as a fraction of the user's free items.
    ranks = ((raw >> np.uint64(11)) * 2.0**-53 * free[owners]).astype(np.int64)
    every = np.repeat(np.arange(len(count), dtype=np.int64), count)
    seen = every * state.num_items + state.consumed_items
    items = items_of_ranks(owners * state.num_items + ranks, seen, count, state.num_items)
    return owners.astype(np.int32), items.astype(np.int32)
