"""Top-K lists of items, and probabilities of single pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.data.tables import Int32
from ekpnet_fast.evaluation.ranking import MOST_ON_GPU
from ekpnet_fast.evaluation.scoring import UserGroups
from ekpnet_fast.recommender.answers import Recommendation, Recommendations
from ekpnet_fast.recommender.query import Query, batch_of
from ekpnet_fast.recommender.state import State

UNREACHED = "the graph says nothing about the history: the order does not depend on it"


def recommend_topk(
    queries: Sequence[Query],
    k: int,
    exclude_seen: bool,
    candidates: Int32 | None,  # [I'], sorted
) -> list[Recommendations]:
    """Lists for several users, or several histories, scored in one call."""
    state, batch = queries[0].state, batch_of(queries)
    sets = state.ripple_sets(batch)
    entities = state.catalogue_there
    if candidates is not None:
        entities = entities[torch.from_numpy(candidates).long()]
    logits = state.scores(batch, sets, entities)
    seen = [query.seen() if exclude_seen else np.zeros(0, np.int32) for query in queries]
    if candidates is not None:
        seen = [np.flatnonzero(np.isin(candidates, items)).astype(np.int32) for items in seen]
    best, values = best_of(logits, seen, k)
    # Row by row, because a vectorized sigmoid's last bits depend on a value's place.
    scores = [torch.sigmoid(row).tolist() for row in values]
    reached = sets.counts[:, 0].tolist() if state.model.ripple else [1] * len(queries)
    found = []
    for query, places, row, count in zip(queries, best, scores, reached, strict=True):
        numbers = places if candidates is None else candidates[places].tolist()
        items = tuple(
            Recommendation(state.items.id(i), state.item_name(i), score)
            for i, score in zip(numbers, row, strict=False)
        )
        found.append(Recommendations(*query.subject, items, () if count else (UNREACHED,)))
    return found


def best_of(scores: Tensor, seen: Sequence[Int32], k: int) -> tuple[list[list[int]], Tensor]:
    """Best K places of each row that are not seen, best first, and their scores.

    Args:
        scores: [n, I].
        seen: sorted places that are left out, for each row.
        k: length of the lists; shorter ones end where no place is left.

    Returns:
        Lists of places, and scores [n, K] on the CPU, the first ones those of the places.
    """
    k = min(k, scores.shape[1])
    if k > MOST_ON_GPU:
        scores = scores.cpu()
    indptr = np.zeros(len(seen) + 1, dtype=np.int64)
    np.cumsum([len(items) for items in seen], out=indptr[1:])
    left_out = torch.from_numpy(np.concatenate(seen))
    device = scores.device
    if k == 0:
        return [[] for _ in seen], scores.cpu()
    top = ops.top_items(scores, torch.from_numpy(indptr).to(device), left_out.to(device), k)
    values = scores.gather(1, top.clamp(min=0).long()).cpu()
    return [[i for i in row if i >= 0] for row in top.tolist()], values


def predict_pairs(
    state: State,
    users: NDArray[np.int64],  # [n]
    entities: Int32,  # [n]
) -> NDArray[np.float32]:
    """Probabilities [n] of pairs of users and items, scored in groups of a user's pairs."""
    order = np.argsort(users, kind="stable")
    distinct, starts = np.unique(users[order], return_index=True)

    def groups_of(some: NDArray[np.int64]) -> UserGroups:
        batch = state.of_users(some.tolist())
        return state.groups(batch, state.ripple_sets(batch))

    blocks = state.scorer.blocks(
        groups_of, distinct, np.append(starts, len(users)), torch.from_numpy(entities[order])
    )
    probabilities = np.empty(len(users), dtype=np.float32)
    logits = state.scorer.logits_of(blocks, len(users))
    probabilities[order] = torch.sigmoid(logits).cpu().numpy()
    return probabilities
