"""Untrained model of a run, and the ripple sets that it reads."""

from __future__ import annotations

from typing import Any

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import PreparedData
from ekpnet_fast.models import MODELS, Model
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.pairs import TrainContext, history_tensors
from ekpnet_fast.sampling.ripple_sets import LazyRippleSets, RippleSets


def build_model(config: RunConfig, prepared: PreparedData, graph: Graph) -> Model:
    """Untrained model of a run."""
    return MODELS[config.model](config, TrainContext.of(prepared, graph, config.seed))


HELD_BYTES = 1 << 30
"""Bytes that the ripple sets of all users may take; where they would take more, those of some users
are drawn when they are asked for."""


def fit_in_memory(
    config: RunConfig, num_users: int, *, shared: bool = False, most: int | None = None
) -> bool:
    """Whether ripple sets of all users, or those that folds share, take at most so many bytes.

    Without a number, `HELD_BYTES`.
    """
    ids = config.shape.hops * (3 * config.shape.slots + 1)
    folds = config.shape.hops * config.shape.slots if shared else 0
    return num_users * (4 * ids + 8 * folds) <= (HELD_BYTES if most is None else most)


def sample_ripple_sets(
    config: RunConfig, graph: Graph, prepared: PreparedData, epoch: int = 0, *, lazy: bool = False
) -> RippleSets | LazyRippleSets:
    """Ripple sets of a run; those of epoch 0 serve evaluation.

    Empty for a model that does not use them; drawn when they are asked for with `lazy`, and where
    those of all users do not fit into `HELD_BYTES`. The sets are the same.
    """
    if not MODELS[config.model].ripple:
        return RippleSets.none(prepared.dataset.num_users)
    shape, repeat = config.shape, config.sampling.padding == "repeat"
    drawn: Any = {"hops": shape.hops, "slots": shape.slots, "seed": config.seed, "epoch": epoch}
    histories = Histories(*history_tensors(prepared))
    if lazy or not fit_in_memory(config, len(histories)):
        return LazyRippleSets(graph, histories, repeat=repeat, **drawn)
    return RippleSets.sample(graph, histories.indptr, histories.items, repeat=repeat, **drawn)
