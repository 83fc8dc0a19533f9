"""From what a caller asks, in ids, to lists of items: checks, scores, the best of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.data.tables import Int32
from ekpnet_fast.errors import ConfigError, DataError, quote
from ekpnet_fast.evaluation.ranking import MOST_ON_GPU
from ekpnet_fast.evaluation.scoring import UserGroups
from ekpnet_fast.recommender.answers import Recommendation, Recommendations
from ekpnet_fast.recommender.names import Id
from ekpnet_fast.recommender.state import Query, State

ItemFilter: TypeAlias = Collection[Id] | Callable[[Id], bool]
"""The only items to choose from, or a function that says whether an item may be chosen."""

UNREACHED = "the graph says nothing about the history: the order does not depend on it"


@dataclass(frozen=True, eq=False)
class Asked:
    """Who is asked for: a user that training saw, by number, or a history of items, by number."""

    state: State
    user: int = -1
    items: tuple[int, ...] | None = None

    def query(self) -> Query:
        """As the state takes it."""
        return query_of([self])

    @property
    def subject(self) -> tuple[Id | None, tuple[Id, ...] | None]:
        """User and history as an answer names them."""
        state = self.state
        if self.items is None:
            return state.users.id(self.user), None
        return None, tuple(state.items.id(item) for item in self.items)

    def seen(self) -> Int32:
        """Sorted items that are known already."""
        if self.items is not None:
            return np.unique(np.array(self.items, dtype=np.int32))
        first, last = self.state.seen_indptr[self.user : self.user + 2]
        return self.state.seen_items[first:last]


def query_of(asked: Sequence[Asked]) -> Query:
    """Several users, or several histories."""
    state = asked[0].state
    if asked[0].items is None:
        return state.of_users([each.user for each in asked])
    return state.of_histories([np.array(each.items) for each in asked])


def ask(state: State, user: Id | None, history: Iterable[Id] | None) -> Asked:
    """What a caller asked for, in numbers.

    Raises:
        DataError: unknown ids, neither or both, an empty history, or a user without one.
    """
    if (user is None) == (history is None):
        found = "neither user nor history" if user is None else "both user and history"
        raise DataError(f"found {found}, expected one of the two")
    if user is not None:
        number = state.users.number(user)
        indptr = state.history_indptr
        if state.model.stages and indptr[number] == indptr[number + 1]:
            raise DataError(
                f"user: found {quote(str(user))}, of whom training saw no click, expected a user"
                " with one; history= takes what was clicked since"
            )
        return Asked(state, user=number)
    assert history is not None
    items = tuple(state.items.number(item, "history") for item in many(history, "history"))
    if not items:
        raise DataError("history: found no item, expected at least one")
    return Asked(state, items=items)


def many(ids: Iterable[Id], argument: str) -> Iterable[Id]:
    """Several ids, which neither a text nor a number is.

    Raises:
        DataError: one id; names the argument.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise DataError(f"{argument}: found {ids!r}, expected a list of ids")
    return ids


def whole(number: int, argument: str = "k") -> int:
    """A whole number from 1.

    Raises:
        ConfigError: anything else; names the argument.
    """
    try:
        found = 0 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        found = 0
    if found < 1:
        raise ConfigError(f"{argument}: found {number!r}, expected a whole number from 1")
    return found


def candidates_of(state: State, chosen: ItemFilter | None) -> Int32 | None:
    """Sorted items [I'] to choose from, None for all.

    Raises:
        DataError: unknown ids.
    """
    if chosen is None:
        return None
    if callable(chosen):
        kept = [i for i in range(state.num_items) if chosen(state.items.id(i))]
    else:
        kept = [state.items.number(item, "filter_items") for item in many(chosen, "filter_items")]
    return np.unique(np.array(kept, dtype=np.int32))


def lists(
    asked: Sequence[Asked],
    k: int,
    exclude_seen: bool,
    candidates: Int32 | None,  # [I'], sorted
) -> list[Recommendations]:
    """The lists for several users, or several histories, scored in one call."""
    state = asked[0].state
    query = query_of(asked)
    sets = state.ripple_sets(query)
    entities = state.catalogue_there
    if candidates is not None:
        entities = entities[torch.from_numpy(candidates).long()]
    logits = state.scores(query, sets, entities)
    seen = [each.seen() if exclude_seen else np.zeros(0, np.int32) for each in asked]
    if candidates is not None:
        seen = [np.flatnonzero(np.isin(candidates, items)).astype(np.int32) for items in seen]
    best, values = best_of(logits, seen, k)
    scores = torch.sigmoid(values).tolist()
    reached = sets.counts[:, 0].tolist() if state.model.ripple else [1] * len(asked)
    found = []
    for each, places, row, count in zip(asked, best, scores, reached, strict=True):
        numbers = places if candidates is None else candidates[places].tolist()
        items = tuple(
            Recommendation(state.items.id(i), state.item_name(i), score)
            for i, score in zip(numbers, row, strict=False)
        )
        found.append(Recommendations(*each.subject, items, () if count else (UNREACHED,)))
    return found


def best_of(scores: Tensor, seen: Sequence[Int32], k: int) -> tuple[list[list[int]], Tensor]:
    """The K best places of each row that are not seen, best first, and their scores.

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


def predicted(
    state: State,
    users: NDArray[np.int64],  # [n]
    entities: Int32,  # [n]
) -> NDArray[np.float32]:
    """Probabilities [n] of pairs of users and items, scored in groups of a user's pairs."""
    order = np.argsort(users, kind="stable")
    distinct, starts = np.unique(users[order], return_index=True)

    def groups_of(some: NDArray[np.int64]) -> UserGroups:
        query = state.of_users(some.tolist())
        return state.groups(query, state.ripple_sets(query))

    blocks = state.scorer.blocks(
        groups_of, distinct, np.append(starts, len(users)), torch.from_numpy(entities[order])
    )
    probabilities = np.empty(len(users), dtype=np.float32)
    logits = state.scorer.logits_of(blocks, len(users))
    probabilities[order] = torch.sigmoid(logits).cpu().numpy()
    return probabilities
