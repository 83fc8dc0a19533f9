"""Mini-batches of user groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, library

from ekpnet_fast.ops.torch_library import ekpnet


def group_pairs(
    user_indptr: Tensor,  # [U + 1] int64, pairs of user u
    group_size: int,
    *,
    seed: int,
    epoch: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Order of an epoch: order [N] int64, group_indptr [G + 1] int64, group_users [G] int32.

    Each user's pairs are shuffled and cut into groups of at most `group_size`, then the groups are
    shuffled. A batch is a run of groups; `order[group_indptr[g]:group_indptr[g + 1]]` are the pair
    ids of group g.
    """
    return tuple(ekpnet.group_pairs.default(user_indptr, group_size, seed, epoch))


@library.register_fake("ekpnet::group_pairs")
def _(user_indptr: Tensor, group_size: int, seed: int, epoch: int) -> Any:
    context = library.get_ctx()
    num_pairs, num_groups = context.new_dynamic_size(), context.new_dynamic_size()
    return (
        user_indptr.new_empty(num_pairs),
        user_indptr.new_empty(num_groups + 1),
        user_indptr.new_empty(num_groups, dtype=torch.int32),
    )


def localize_batch(
    heads: Tensor,  # [U, H, M] int32
    relations: Tensor,  # [U, H, M] int32
    tails: Tensor,  # [U, H, M] int32
    counts: Tensor,  # [U, H] int32
    group_users: Tensor,  # [G] int32
    items: Tensor,  # [B] int32, entity ids
    extra: Tensor,  # [X] int32, further entity ids
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Table rows that a batch touches, and the batch in terms of them.

    Returns rows [n] (distinct, in order of first appearance), then heads, relations, tails
    [G, H, M], counts [G, H], items [B], extra [X] with entity ids replaced by positions in `rows`;
    all int32. Time is proportional to the batch, not to the tables.
    """
    return tuple(
        ekpnet.localize_batch.default(heads, relations, tails, counts, group_users, items, extra)
    )


@library.register_fake("ekpnet::localize_batch")
def _(
    heads: Tensor,
    relations: Tensor,
    tails: Tensor,
    counts: Tensor,
    group_users: Tensor,
    items: Tensor,
    extra: Tensor,
) -> Any:
    rows = items.new_empty(library.get_ctx().new_dynamic_size())
    shape = (group_users.size(0), *heads.shape[1:])
    sets = [heads.new_empty(shape) for _ in range(3)]
    return (
        rows,
        *sets,
        counts.new_empty(shape[:2]),
        torch.empty_like(items),
        torch.empty_like(extra),
    )


def localize_fold_batch(
    heads: Tensor,  # [U, H, M] int32
    relations: Tensor,  # [U, H, M] int32
    tails: Tensor,  # [U, H, M] int32
    counts: Tensor,  # [U, H] int32
    slot_folds: Tensor,  # [U, H, M] int64, bit k where fold k sees the slot
    group_users: Tensor,  # [G] int32
    group_indptr: Tensor,  # [G + 1] int64, pairs of each group
    items: Tensor,  # [B] int32, entity ids
    pair_folds: Tensor,  # [B] int32, 0 to 63
    extra: Tensor,  # [X] int32, further entity ids
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`localize_batch` of sets that folds share, without the slots that no pair of a group sees.

    Returns rows [n], then heads, relations, tails [G, H, M], counts [G, H], all int32, slot_folds
    [G, H, M] int64, items [B], extra [X] int32.
    """
    sets = (heads, relations, tails, counts, slot_folds)
    return tuple(
        ekpnet.localize_fold_batch.default(
            *sets, group_users, group_indptr, items, pair_folds, extra
        )
    )


@library.register_fake("ekpnet::localize_fold_batch")
def _(
    heads: Tensor,
    relations: Tensor,
    tails: Tensor,
    counts: Tensor,
    slot_folds: Tensor,
    group_users: Tensor,
    group_indptr: Tensor,
    items: Tensor,
    pair_folds: Tensor,
    extra: Tensor,
) -> Any:
    rows = items.new_empty(library.get_ctx().new_dynamic_size())
    shape = (group_users.size(0), *heads.shape[1:])
    return (
        rows,
        *(heads.new_empty(shape) for _ in range(3)),
        counts.new_empty(shape[:2]),
        slot_folds.new_empty(shape),
        torch.empty_like(items),
        torch.empty_like(extra),
    )


def localize(
    ids: Tensor,  # [N] int32
) -> tuple[Tensor, Tensor]:
    """Distinct ids in order of first appearance, and positions [N] in them, all int32."""
    sets = ids.new_zeros(0, 0, 0)
    counts, none = sets.flatten(1), ids[:0]
    rows, *_, positions = localize_batch(sets, sets, sets, counts, none, none, ids)
    return rows, positions
