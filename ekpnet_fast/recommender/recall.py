"""Recall: how much of the exact lists the lists by candidates hold."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np

from ekpnet_fast.errors import ConfigError
from ekpnet_fast.recommender.answers import Recall, Recommendations
from ekpnet_fast.recommender.query import Candidates, Query
from ekpnet_fast.recommender.topk import candidates_for, recommend_topk


def measure(queries: Sequence[Query], k: int, candidates: Candidates) -> Recall:
    """Recall of some users' lists by candidates.

    Args:
        queries: of the users, at least one.
        k: length of the lists.
        candidates: items that get exact scores.

    Raises:
        ConfigError: the lists are exact ones.
    """
    state = queries[0].state
    count = candidates_for(state, candidates)
    if count is None:
        raise ConfigError(
            f"candidates: found {candidates!r} for model {state.model.name} and {state.num_items}"
            " items, for which every list is exact; expected a model with a first stage and fewer"
            " candidates than items"
        )
    index = state.index.of(state, count)
    recalls = []
    seconds: dict[Candidates, list[float]] = {count: [], "all": []}

    def timed(query: Query, candidates: Candidates) -> Recommendations:
        start = perf_counter()
        (found,) = recommend_topk([query], k, True, None, candidates)
        seconds[candidates].append(perf_counter() - start)
        return found

    for query in queries:
        exact, found = timed(query, "all"), timed(query, count)
        expected = {item.item for item in exact}
        hits = len(expected & {item.item for item in found})
        recalls.append(hits / len(expected) if expected else 1.0)
    return Recall(
        mean=float(np.mean(recalls)),
        lowest=float(np.min(recalls)),
        users=len(queries),
        k=k,
        candidates=count,
        representatives=len(index.items),
        items=state.num_items,
        seconds=float(np.median(seconds[count])),
        exact_seconds=float(np.median(seconds["all"])),
    )
