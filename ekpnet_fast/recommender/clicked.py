"""Clicks that were added: from one state to the next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ekpnet_fast.data.tables import Int32
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.recommender.answers import Change
from ekpnet_fast.recommender.live import checked_id, checked_names
from ekpnet_fast.recommender.names import Id, text_of
from ekpnet_fast.recommender.query import check_ids
from ekpnet_fast.recommender.state import State

Indptr = NDArray[np.int64]


def with_clicks(
    state: State, clicks: Mapping[Id, Iterable[Id]], names: Mapping[Id, str] | None
) -> tuple[State, Change]:
    """State with further clicks, and what was added.

    Raises:
        DataError: an unknown item, or a user without items.
        ConfigError: a model that scores users by what it learned of them.
    """
    if not state.model.new_users:
        raise ConfigError(
            f"add_clicks: model {state.model.name} scores users by what training learned of them,"
            " expected one that reads histories, such as ekpnet"
        )
    if not isinstance(clicks, Mapping):
        raise DataError(f"clicks: found {clicks!r}, expected items by user")
    shown = checked_names(names)
    numbers: dict[str, list[int]] = {}  # by the text of the user's id, so that 7 is "7"
    for user, items in clicks.items():
        given = state.items.numbers(check_ids(items, "clicks"), "clicks")
        if not given:
            raise DataError(f"clicks: found no item of user {user!r}, expected at least one")
        numbers.setdefault(text_of(checked_id("clicks", user)), []).extend(given)
    new = [user for user in numbers if state.users.find(user) is None]
    users = state.users.with_more(new, shown) if new else state.users
    counts = [len(items) for items in numbers.values()]
    owners = np.repeat(np.array([users.number(user) for user in numbers], dtype=np.int64), counts)
    items = np.array([item for own in numbers.values() for item in own], dtype=np.int64)
    entities = state.catalogue.numpy()[items].astype(np.int64)
    history_indptr, history_items = _merged(
        state.history_indptr.numpy(), state.history_items.numpy(), owners, entities, len(users)
    )
    consumed = _merged(state.consumed_indptr, state.consumed_items, owners, items, len(users))
    added = len(history_items) - len(state.history_items)
    if not added and not new and len(consumed[1]) == len(state.consumed_items):
        return state, Change(as_fitted=state.model.as_fitted)
    after = replace(
        state,
        users=users,
        history_indptr=torch.from_numpy(history_indptr),
        history_items=torch.from_numpy(history_items),
        consumed_indptr=consumed[0],
        consumed_items=consumed[1],
    )
    return after, Change(len(new), added, as_fitted=state.model.as_fitted)


def _merged(
    indptr: Indptr,  # [U + 1]
    values: Int32,  # [indptr[-1]] sorted within a row
    rows: NDArray[np.int64],  # [n] of further values
    more: NDArray[np.int64],  # [n]
    num_rows: int,
) -> tuple[Indptr, Int32]:
    """Rows with further values, sorted and distinct within a row; what is there already stays."""
    longer = np.append(indptr, np.full(num_rows + 1 - len(indptr), indptr[-1]))
    at, kept = [], []
    for row in np.unique(rows).tolist():
        first, last = longer[row], longer[row + 1]
        new = np.setdiff1d(more[rows == row], values[first:last]).astype(np.int32)
        at.append(first + np.searchsorted(values[first:last], new))
        kept.append(new)
    lengths = np.diff(longer)
    lengths[np.unique(rows)] += [len(new) for new in kept]
    merged = np.insert(values, np.concatenate(at), np.concatenate(kept)) if kept else values
    return np.append(0, np.cumsum(lengths)).astype(np.int64), merged.astype(np.int32)
