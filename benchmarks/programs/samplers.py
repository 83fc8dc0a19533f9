"""Ripple-set samplers as calls on one graph: the native one and its peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness.datasets import Histories
from benchmarks.peers import numba_sampler, ripplenet_loop
from ekpnet_fast import ops
from ekpnet_fast.sampling.graph import Graph

HOPS, SLOTS, SEED = 2, 32, 1
LOOP_USERS = slice(None, None, 12)  # the loop is timed on a subset: it takes a second for all


@dataclass(frozen=True, slots=True, eq=False)
class Sampler:
    """Sampler: a call that draws the ripple sets of `num_users` users."""

    call: Callable[[], Any]
    num_users: int


def native(graph: Graph, histories: Histories) -> Sampler:
    """Sampler of `ekpnet_fast.ops`."""

    def call() -> Any:
        return ops.sample_ripple_sets(
            graph.indptr,
            graph.relations,
            graph.tails,
            histories.indptr,
            histories.entities,
            hops=HOPS,
            slots=SLOTS,
            seed=SEED,
        )

    return Sampler(call, histories.num_users)


def numba_parallel(graph: Graph, histories: Histories) -> Sampler:
    """Sampler with the same algorithm, compiled by numba."""
    arrays = [
        tensor.numpy()
        for tensor in (
            graph.indptr,
            graph.relations,
            graph.tails,
            histories.indptr,
            histories.entities,
        )
    ]

    def call() -> Any:
        return numba_sampler.sample_ripple_sets(*arrays, hops=HOPS, slots=SLOTS, seed=SEED)

    return Sampler(call, histories.num_users)


def python_loop(graph: Graph, histories: Histories) -> Sampler:
    """Sampler of RippleNet's published code."""
    indptr = graph.indptr.numpy()
    heads = np.repeat(np.arange(graph.num_entities, dtype=np.int32), np.diff(indptr))
    columns = [heads, graph.relations.numpy().astype(np.int32), graph.tails.numpy()]
    by_head = ripplenet_loop.graph_of(np.stack(columns, axis=1))
    users = np.arange(histories.num_users, dtype=np.int32)
    owners = np.repeat(users, np.diff(histories.indptr.numpy()))
    clicked = ripplenet_loop.histories_of(owners, histories.entities.numpy())
    some = list(clicked)[LOOP_USERS]

    def call() -> Any:
        return ripplenet_loop.sample_ripple_sets(by_head, clicked, some, HOPS, SLOTS)

    return Sampler(call, len(some))
