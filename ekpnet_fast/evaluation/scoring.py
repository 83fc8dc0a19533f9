"""Logits of labelled rows, and of whole catalogues."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast.data import PreparedData, Rows
from ekpnet_fast.models import Model
from ekpnet_fast.sampling.pairs import Pairs, Request
from ekpnet_fast.sampling.ripple_sets import RippleSets
from ekpnet_fast.sampling.rows import UserRows

# Pairs whose hop features are in memory at a time, by kind of device: what stays in a CPU's cache,
# what keeps a GPU busy.
SCORED_PAIRS = {"cpu": 1 << 16, "cuda": 1 << 20}

# Validation pairs up to which their inputs stay in memory from epoch to epoch.
KEPT_PAIRS = 1 << 20


def scored_pairs(
    model: Model,
    ripple: RippleSets,
    users: NDArray[np.integer[Any]],  # [G]
    group_indptr: Tensor,  # [G + 1] int64
    items: Tensor,  # [B] int32
) -> Pairs:
    """Pairs to score against whole tables, on the device of the ripple sets."""
    ids = torch.from_numpy(users.astype(np.int32))
    device = ripple.heads.device
    sets = ripple.of_users(ids.long().to(device))
    return Pairs(
        **vars(sets),
        group_indptr=group_indptr,
        items=items,
        users=ids,
        free_items=items,
        inputs=model.inputs(Request(ids, group_indptr, items, epoch=0)),
    ).to(device)


@torch.no_grad()
def score_rows(
    backend: ModuleType,
    model: Model,
    ripple: RippleSets,
    rows: UserRows,
    *,
    stage: str,
    kept: list[Pairs] | None = None,
) -> NDArray[np.float32]:
    """Logits [N] of labelled rows, in the order of the table that `rows` came from.

    A list `kept` is filled with the pairs, and spares their making the next time.
    """
    tables = {name: model.table(name) for name in model.tables}
    indptr = rows.indptr.numpy()
    users = np.flatnonzero(np.diff(indptr))
    ends = indptr[users + 1]
    device = ripple.heads.device
    at_once = SCORED_PAIRS[device.type]
    logits = torch.empty(len(rows.items), device=device)
    made = list(kept or ())
    first = start = 0
    while start < len(logits):
        if made:
            pairs = made.pop(0)
            stop = start + pairs.num_pairs
        else:
            last = max(first + 1, int(np.searchsorted(ends, start + at_once, side="right")))
            stop = int(ends[last - 1])
            group_indptr = torch.from_numpy(np.append(indptr[users[first:last]], stop) - start)
            pairs = scored_pairs(
                model, ripple, users[first:last], group_indptr, rows.items[start:stop]
            )
            first = last
            if kept is not None:
                kept.append(pairs)
        logits[start:stop] = model.logits(backend, tables, pairs, stage=stage)
        start = stop
    in_table_order = torch.empty(len(rows.items))
    in_table_order[rows.order] = logits.cpu()
    scores: NDArray[np.float32] = in_table_order.numpy()
    return scores


def catalogue_scorer(
    backend: ModuleType, model: Model, ripple: RippleSets, num_items: int, *, stage: str
) -> Callable[[NDArray[np.int32]], Tensor]:
    """Scores [b, I] of all items for users [b], as `ranking.rank_all` asks for them.

    What depends on the user alone is computed once and serves every item; features of pairs are in
    memory for `SCORED_PAIRS` pairs, or one user, at a time.
    """
    tables = {name: model.table(name) for name in model.tables}
    users_at_once = max(1, SCORED_PAIRS[ripple.heads.device.type] // num_items)
    items = torch.arange(num_items, dtype=torch.int32).repeat(users_at_once)

    @torch.no_grad()
    def score(users: NDArray[np.int32]) -> Tensor:
        scores = torch.empty(len(users), num_items, device=ripple.heads.device)
        for first in range(0, len(users), users_at_once):
            block = users[first : first + users_at_once]
            n = len(block)
            pairs = scored_pairs(
                model, ripple, block, torch.arange(n + 1) * num_items, items[: n * num_items]
            )
            scores[first : first + n] = model.logits(backend, tables, pairs, stage=stage).view(
                n, num_items
            )
        return scores

    return score


def rows_by_user(rows: Rows, prepared: PreparedData) -> UserRows:
    """Rows of a prepared data set, grouped by user."""
    return UserRows.from_rows(rows, prepared.dataset.num_users)
