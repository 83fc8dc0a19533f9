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
from ekpnet_fast.recommender.candidates import best_candidates
from ekpnet_fast.recommender.item_index import block_size
from ekpnet_fast.recommender.query import Candidates, Query, batch_of
from ekpnet_fast.recommender.state import State

EXACT_ITEMS = 100_000  # of larger catalogues not all items get exact scores, unless asked for
CANDIDATES = 20_000  # that get them then

NOTHING_LEFT = (
    "nothing is left: the history has every item that was asked for; exclude_seen=False, or"
    " --include-seen, lists these too"
)
UNREACHED = "the graph says nothing about the history: the order does not depend on it"
SCORED = (
    "{:,} of {:,} items were scored, those that a first stage put forward;"
    " candidates 'all' scores every one"
)
WITHOUT_VECTORS = (
    "model {} has no first stage, because its scores do not follow from vectors of items: all were"
    " scored"
)


def recommend_topk(
    queries: Sequence[Query],
    k: int,
    exclude_seen: bool,
    chosen: Int32 | None,  # [I'], sorted
    candidates: Candidates,
) -> list[Recommendations]:
    """Lists for several users, or several histories.

    Args:
        queries: what they are for.
        k: their length.
        exclude_seen: leave out what is known already.
        chosen: the only items to choose from; all of them get exact scores.
        candidates: how many items get exact scores where no items were chosen.
    """
    state = queries[0].state
    count = candidates_for(state, candidates) if chosen is None else None
    if count is not None:
        return [_by_candidates(query, k, exclude_seen, count) for query in queries]
    notes: tuple[str, ...] = ()
    fewer = isinstance(candidates, int) and candidates < state.num_items
    if fewer and chosen is None and not state.model.by_vector:
        notes = (WITHOUT_VECTORS.format(state.model.name),)
    batch = batch_of(queries)
    sets = state.ripple_sets(batch)
    entities = state.catalogue_there
    if chosen is not None:
        entities = entities[torch.from_numpy(chosen).long()]
    logits = state.scores(batch, sets, entities)
    seen = [query.seen() if exclude_seen else np.zeros(0, np.int32) for query in queries]
    if chosen is not None:
        seen = [np.flatnonzero(np.isin(chosen, items)).astype(np.int32) for items in seen]
    best, values = best_of(logits, seen, k)
    # Row by row, because a vectorized sigmoid's last bits depend on a value's place.
    scores = [torch.sigmoid(row).tolist() for row in values]
    reached = sets.counts[:, 0].tolist() if state.model.by_graph_alone() else [1] * len(queries)
    found = []
    for query, places, row, reach in zip(queries, best, scores, reached, strict=True):
        numbers = places if chosen is None else chosen[places].tolist()
        found.append(_list(query, numbers, row, notes if reach else (UNREACHED, *notes)))
    return found


def candidates_for(state: State, candidates: Candidates) -> int | None:
    """Number of items that get exact scores besides the representatives; None for all."""
    if candidates == "all" or not state.model.by_vector:
        return None
    if candidates is None:
        return None if state.num_items <= EXACT_ITEMS else CANDIDATES
    # Where the representatives are the rest, a first stage saves nothing.
    representatives = -(-state.num_items // block_size(state.num_items))
    return None if candidates + representatives >= state.num_items else candidates


def _by_candidates(query: Query, k: int, exclude_seen: bool, candidates: int) -> Recommendations:
    """List of the best candidates, which have exact scores."""
    state, batch = query.state, query.batch()
    sets = state.ripple_sets(batch)
    seen = query.seen() if exclude_seen else np.zeros(0, np.int32)
    wanted = k + len(seen)  # so that the list is full whatever was seen
    candidates = max(candidates, wanted)

    def score(items: Int32) -> NDArray[np.float32]:
        entities = state.catalogue[torch.from_numpy(items).long()].to(state.device)
        logits: NDArray[np.float32] = state.scores(batch, sets, entities)[0].cpu().numpy()
        return logits

    index = state.index.of(state, candidates)
    found = best_candidates(index, state.num_items, candidates, wanted, score)
    left_out = np.flatnonzero(np.isin(found.items, seen)).astype(np.int32)
    (places,), values = best_of(torch.from_numpy(found.scores)[None], [left_out], k)
    reached = not state.model.by_graph_alone() or bool(sets.counts[0, 0])
    notes = (SCORED.format(found.count, state.num_items),)
    scores = torch.sigmoid(values)[0].tolist()
    return _list(
        query, found.items[places].tolist(), scores, notes if reached else (UNREACHED, *notes)
    )


def _list(
    query: Query, numbers: Sequence[int], scores: Sequence[float], notes: tuple[str, ...]
) -> Recommendations:
    """Answer of items by number, with their names."""
    state = query.state
    items = tuple(
        Recommendation(state.items.id(i), state.item_name(i), score)
        for i, score in zip(numbers, scores, strict=False)
    )
    return Recommendations(*query.subject, items, notes if items else (NOTHING_LEFT, *notes))


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
    logits = state.scorer.logits_of(list(blocks), len(users))
    probabilities[order] = torch.sigmoid(logits).cpu().numpy()
    return probabilities
