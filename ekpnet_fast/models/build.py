"""Untrained model of a run, and the ripple sets that it reads."""

from __future__ import annotations

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


def sample_ripple_sets(
    config: RunConfig, graph: Graph, prepared: PreparedData, epoch: int = 0
) -> RippleSets:
    """Ripple sets of a run; those of epoch 0 serve evaluation.

    Empty for a model that does not use them.
    """
    if not MODELS[config.model].ripple:
        return RippleSets.none(prepared.dataset.num_users)
    return RippleSets.sample(
        graph,
        *history_tensors(prepared),
        hops=config.shape.hops,
        slots=config.shape.slots,
        seed=config.seed,
        epoch=epoch,
        repeat=config.sampling.padding == "repeat",
    )


def lazy_ripple_sets(
    config: RunConfig, graph: Graph, prepared: PreparedData
) -> RippleSets | LazyRippleSets:
    """Those that serve evaluation, drawn where a process needs them: it may score few users."""
    if not MODELS[config.model].ripple:
        return RippleSets.none(prepared.dataset.num_users)
    return LazyRippleSets(
        graph,
        Histories(*history_tensors(prepared)),
        hops=config.shape.hops,
        slots=config.shape.slots,
        seed=config.seed,
        epoch=0,
        repeat=config.sampling.padding == "repeat",
    )
