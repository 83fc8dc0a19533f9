"""Queries: a user or a history, and the items to choose from, checked and in numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from ekpnet_fast.data.tables import Int32
from ekpnet_fast.errors import ConfigError, DataError, quote
from ekpnet_fast.recommender.names import Id
from ekpnet_fast.recommender.state import QueryBatch, State

T = TypeVar("T")

ItemFilter: TypeAlias = Collection[Id] | Callable[[Id], bool]
"""The only items to choose from, or a function that says whether an item may be chosen."""

Candidates: TypeAlias = int | Literal["all"] | None
"""How many items of a catalogue get exact scores: so many, all, or as the catalogue's size says."""


@dataclass(frozen=True, eq=False)
class Query:
    """Query in numbers: a user that training saw, or a history of items."""

    state: State
    user: int = -1
    items: tuple[int, ...] | None = None

    def batch(self) -> QueryBatch:
        """Batch of this query alone, as the state takes it."""
        return batch_of([self])

    @property
    def subject(self) -> tuple[Id | None, tuple[Id, ...] | None]:
        """User and history as an answer names them."""
        state = self.state
        if self.items is None:
            return state.users.id(self.user), None
        return None, tuple(state.items.id(item) for item in self.items)

    def seen(self) -> Int32:
        """Items that are known already, sorted."""
        if self.items is not None:
            return np.array(sorted(set(self.items)), dtype=np.int32)
        first, last = self.state.consumed_indptr[self.user : self.user + 2]
        return self.state.consumed_items[first:last]


def batch_of(queries: Sequence[Query]) -> QueryBatch:
    """Batch of several users, or several histories, as the state takes them."""
    state = queries[0].state
    if queries[0].items is None:
        return state.of_users([query.user for query in queries])
    return state.of_histories([np.array(query.items) for query in queries])


def parse_query(state: State, user: Id | None, history: Iterable[Id] | None) -> Query:
    """Parse a query: a user or a history by ids.

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
        return Query(state, user=number)
    assert history is not None
    items = tuple(state.items.numbers(check_ids(history, "history"), "history"))
    if not items:
        raise DataError("history: found no item, expected at least one")
    return Query(state, items=items)


def check_ids(ids: Iterable[T], argument: str) -> Iterable[T]:
    """Check a collection of ids, or of collections, which neither a text nor a number is.

    Raises:
        DataError: one id; names the argument.
    """
    several = isinstance(ids, Iterable) and getattr(ids, "ndim", 1) > 0
    if isinstance(ids, str | bytes) or not several:
        raise DataError(f"{argument}: found {ids!r}, expected a list of ids")
    return ids


def check_flag(value: bool, argument: str) -> bool:
    """Check a truth value: a text such as "no" would count as true.

    Raises:
        ConfigError: anything else; names the argument.
    """
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{argument}: found {value!r}, expected True or False")
    return bool(value)


def check_positive(number: int, argument: str = "k") -> int:
    """Check a whole number from 1.

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


def check_candidates(candidates: Candidates) -> Candidates:
    """Check a number of candidates.

    Raises:
        ConfigError: neither a whole number from 1 nor "all".
    """
    if candidates is None or (isinstance(candidates, str) and candidates == "all"):
        return candidates
    try:
        return check_positive(candidates, "candidates")
    except ConfigError as error:
        raise ConfigError(f"{error}, or 'all'") from None


def items_of(state: State, chosen: ItemFilter | None) -> Int32 | None:
    """Items [I'], sorted, to choose from; None for all.

    Raises:
        DataError: unknown ids.
    """
    if chosen is None:
        return None
    if callable(chosen):
        kept = [i for i in range(state.num_items) if chosen(state.items.id(i))]
    else:
        kept = state.items.numbers(check_ids(chosen, "filter_items"), "filter_items")
    return np.unique(np.array(kept, dtype=np.int32))
