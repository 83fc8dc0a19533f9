"""Features and logits of the wide part: affinities of items to histories, and their curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, library

from ekpnet_fast.ops.sparse import SparseRows
from ekpnet_fast.ops.torch_library import ekpnet

__all__ = ["AffinitySources", "WideCurves", "wide_features", "wide_logits"]


class AffinitySources(NamedTuple):
    """Sources of the affinity S[j, i] of two items, affinities of them, and features of these.

    A source is rows of neighbours (indptr [I + 1] and both others, items rising within a row), all
    items by all (values [I, I], the others empty), or vectors (values [I, r], the others empty).
    The affinity of an item to a history of n items is a_i = n^(-1/2) sum_j S[j, i], where for
    vectors S[j, i] is the product of the affinity's columns. One source may be of users: its rows
    [U] are theirs, and what is summed are those of the users near the history, each times how near.
    A feature is log(max(a, 0) f + added), f by its scale: 0 is 1, 1 the root of n, 2 1 / (the
    history's mean affinity + smoothing). Scale 3, of vectors, is signed and no logarithm: a over
    the root of |q| + smoothing, q being n^(-1/2) times the sum of the history's vectors.
    """

    indptrs: list[Tensor]  # each [I + 1] or [0] int64
    neighbours: list[Tensor]  # int32
    values: list[Tensor]  # float32
    transposed: list[Tensor]  # float32, vectors once more, [r, I]; empty for other sources
    affinities: Tensor  # [A, 3] int64: source, rising; first and end of the columns of vectors
    means: Tensor  # [A, I] float32, mean over i of S[j, i]
    responses: Tensor  # [N, 2] int64: affinity, scale
    constants: Tensor  # [N, 2] float32: added, smoothing
    of_users: int = -1  # which source is; -1 for none
    user_means: Tensor = torch.zeros(0)  # [U] float32, mean over i of its rows


class WideCurves(NamedTuple):
    """Curves of features, lines through P pieces between knots, of which the outermost go on."""

    knots: Tensor  # [N, P + 1] float32
    slopes: Tensor  # [N, P] float32
    item_terms: Tensor  # [I] float32, what an item adds by itself


_NOBODY = (None, None, None)


def wide_features(
    history_indptr: Tensor,  # [G + 1] int64
    history_items: Tensor,  # [history_indptr[-1]] int32, distinct within a history
    sources: AffinitySources,
    group_indptr: Tensor,  # [G + 1] int64
    items: Tensor,  # [B] int32
    near: SparseRows | None = None,  # [G, U], users near each history
) -> Tensor:
    """Features [N, B] of the pairs of G groups; the same at any number of threads."""
    features: Tensor = ekpnet.wide_features.default(
        history_indptr, history_items, *sources, *(near or _NOBODY), group_indptr, items
    )
    return features


def wide_logits(
    history_indptr: Tensor,  # [G + 1] int64
    history_items: Tensor,  # [history_indptr[-1]] int32, distinct within a history
    sources: AffinitySources,
    curves: WideCurves,
    group_indptr: Tensor | None = None,  # [G + 1] int64
    items: Tensor | None = None,  # [B] int32
    near: SparseRows | None = None,  # [G, U], users near each history
) -> Tensor:
    """Logits [B] of the pairs of G groups, or [G, I] of all items; no feature is kept."""
    logits: Tensor = ekpnet.wide_logits.default(
        history_indptr, history_items, *sources, *(near or _NOBODY), *curves, group_indptr, items
    )
    return logits


@library.register_fake("ekpnet::wide_features")
def _(
    history_indptr: Tensor,
    history_items: Tensor,
    indptrs: Sequence[Tensor],
    neighbours: Sequence[Tensor],
    values: Sequence[Tensor],
    transposed: Sequence[Tensor],
    affinities: Tensor,
    means: Tensor,
    responses: Tensor,
    constants: Tensor,
    of_users: int,
    user_means: Tensor,
    near_indptr: Tensor | None,
    near_users: Tensor | None,
    near_values: Tensor | None,
    group_indptr: Tensor,
    items: Tensor,
) -> Tensor:
    return means.new_empty(responses.size(0), items.size(0))


@library.register_fake("ekpnet::wide_logits")
def _(
    history_indptr: Tensor,
    history_items: Tensor,
    indptrs: Sequence[Tensor],
    neighbours: Sequence[Tensor],
    values: Sequence[Tensor],
    transposed: Sequence[Tensor],
    affinities: Tensor,
    means: Tensor,
    responses: Tensor,
    constants: Tensor,
    of_users: int,
    user_means: Tensor,
    near_indptr: Tensor | None,
    near_users: Tensor | None,
    near_values: Tensor | None,
    knots: Tensor,
    slopes: Tensor,
    item_terms: Tensor,
    group_indptr: Tensor | None,
    items: Tensor | None,
) -> Tensor:
    if items is not None:
        return means.new_empty(items.size(0))
    return means.new_empty(history_indptr.size(0) - 1, means.size(1))
