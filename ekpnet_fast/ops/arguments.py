"""Arguments that ops share, as named tuples in the order of the library's schemas."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Propagation(NamedTuple):
    """Tensors of the propagation of user groups through their ripple sets (eq. 6-16)."""

    entity: Tensor  # [n, C, D]
    relation: Tensor  # [R, C, D]
    W_e: Tensor  # [D, D]
    b_e: Tensor  # [D]
    heads: Tensor  # [G, H, M] int32, rows of entity
    relations: Tensor  # [G, H, M] int32
    tails: Tensor  # [G, H, M] int32, rows of entity
    counts: Tensor  # [G, H] int32, valid slots
    group_indptr: Tensor  # [G + 1] int64, pairs of group g
    items: Tensor  # [B] int32, rows of entity


class RippleBatch(NamedTuple):
    """Mini-batch of EKPNet in terms of the table rows that it touches."""

    rows: Tensor  # [n] int32, rows of the table, or -1 for none
    heads: Tensor  # [G, H, M] int32, positions in rows
    relations: Tensor  # [G, H, M] int32
    tails: Tensor  # [G, H, M] int32, positions in rows
    counts: Tensor  # [G, H] int32, valid slots
    group_indptr: Tensor  # [G + 1] int64, pairs of group g
    items: Tensor  # [B] int32, positions in rows; B > 0
    labels: Tensor  # [B]
    offset: Tensor | None  # [B], added to the logits
    triple_heads: Tensor  # [K] int32, positions in rows
    triple_relations: Tensor  # [K] int32
    triple_tails: Tensor  # [K] int32, positions in rows
    triple_labels: Tensor  # [K] int8, 1 = true, 0 = corrupted
    slot_folds: Tensor | None = None  # [G, H, M] int64, bit k where fold k sees the slot
    pair_folds: Tensor | None = None  # [B] int32, 0 to 63; with slot_folds, else all is seen
    real: Tensor | None = None  # [B], weight of a pair: 1, or 0 for padding
    real_pairs: Tensor | None = None  # [], divisor of the loss; with real, else it is B
    # References to rows, stably sorted; a GPU sorts them itself where they are not given. Entities
    # [heads | tails | items | triple_heads | triple_tails], relations [relations |
    # triple_relations]; the key is the row or relation, and n or R in masked slots.
    entity_keys: Tensor | None = None  # [2 G H M + B + 2 K] int32, rising
    entity_references: Tensor | None = None  # likewise, place of each key
    relation_keys: Tensor | None = None  # [G H M + K] int32, rising
    relation_references: Tensor | None = None  # likewise, place of each key
