"""Batches of fixed shapes: an epoch in host memory, and some of its batches on a device.

Padding changes nothing: padded pairs belong to groups of their own that reach nothing, have weight
0 in the loss, and name an item that the batch has anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast.config import StageConfig
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.ripple_sets import FoldRippleSets, RippleSets

__all__ = ["INPUT", "BatchBuffer", "HostEpoch", "localize_batches", "localize_padded"]

INPUT = "inputs."  # before the names of a model's inputs, which are fields beside others
# Group slots are allotted in such steps, after a sixteenth on top of what an epoch needs: one that
# needs more than there are has the step captured again.
GROUP_STEP, GROUP_SLACK = 64, 16


@dataclass(frozen=True)
class HostEpoch:
    """Batches of an epoch in host memory, each padded to B pairs and G groups.

    Groups that a batch does not use share the padding; their user is U, who has no history.
    """

    number: int  # of the epoch
    steps: int
    ripple: RippleSets | FoldRippleSets  # of U + 1 users
    inputs: Mapping[str, Tensor]  # [steps, B] each, the model's inputs by name
    group_users: Tensor  # [steps, G] int64
    group_indptr: Tensor  # [steps, G + 1] int64
    items: Tensor  # [steps, B] int32
    labels: Tensor  # [steps, B] float32
    real: Tensor  # [steps, B] float32, 1 for pairs and 0 for padding
    real_pairs: Tensor  # [steps] float32
    l2: Tensor  # [steps] float64, lambda3 / pairs
    triple_heads: Tensor  # [steps, K] int32, true then corrupted
    triple_relations: Tensor  # [steps, K] int32
    triple_tails: Tensor  # [steps, K] int32
    corrections: Tensor | None = None  # [steps, B] float32, as in `Batch`
    # Where folds share the ripple sets: the fold of each pair, and a bit for each fold of a group.
    pair_folds: Tensor | None = None  # [steps, B] int32
    group_folds: Tensor | None = None  # [steps, G] int64

    @classmethod
    def prepare(
        cls,
        stream: BatchStream,
        stage: StageConfig,
        ripple: RippleSets | FoldRippleSets,
        epoch: int,
        groups: int = 0,
        *,
        pin: bool = False,
    ) -> HostEpoch:
        """Draw an epoch's order and pad its batches, to at least so many groups.

        `pin` puts the tensors into memory that a GPU copies from without the host waiting.
        """
        order = stream.order(epoch)
        shared = order.shared
        ends = (order.group_indptr if shared is None else shared.indptr).numpy()
        cuts = np.asarray(order.cuts if order.shared_cuts is None else order.shared_cuts)
        of_groups = order.group_users if shared is None else shared.users
        steps, most = len(cuts) - 1, int(np.diff(cuts).max(initial=0))
        G = groups if most < groups else allotted_groups(most)
        B = stream.batch_size
        users = np.full((steps, G), ripple.num_users, np.int64)
        pair_folds, group_folds = np.zeros((steps, B), np.int32), np.zeros((steps, G), np.int64)
        inputs: dict[str, Tensor] = {}
        indptr = np.zeros((steps, G + 1), np.int64)
        items, labels = np.zeros((steps, B), np.int32), np.zeros((steps, B), np.float32)
        real = np.zeros((steps, B), np.float32)
        of_order, labels_of_order = order.items.numpy(), order.labels.numpy()
        for i, (first, last) in enumerate(pairwise(cuts)):
            begin, end = ends[first], ends[last]
            users[i, : last - first] = of_groups[first:last]
            indptr[i, : last - first + 1] = ends[first : last + 1] - begin
            # Padding over the groups that are left, so that no team has it all.
            spare = np.arange(1, G - (last - first) + 1)
            share = -(-(B - (end - begin)) // len(spare))
            indptr[i, last - first + 1 :] = np.minimum(end - begin + spare * share, B)
            items[i, : end - begin] = of_order[begin:end]
            items[i, end - begin :] = items[i, 0]
            labels[i, : end - begin] = labels_of_order[begin:end]
            real[i, : end - begin] = 1
            if shared is not None:
                folds = shared.folds[begin:end].numpy()
                pair_folds[i, : end - begin] = folds
                bits = np.left_shift(1, folds.astype(np.int64))
                starts = ends[first:last] - begin
                group_folds[i, : last - first] = np.bitwise_or.reduceat(bits, starts)
            if stream.reads.inputs is None:
                continue
            for name, x in stream.reads.of(stream.request(order, i, epoch)).items():
                if name not in inputs:
                    inputs[name] = x.new_zeros(steps, B)
                inputs[name][i, : end - begin] = x
        pairs = np.diff(ends[cuts])

        def placed(x: Tensor) -> Tensor:
            return x.pin_memory() if pin else x

        def with_one_more(x: Tensor) -> Tensor:
            return placed(torch.cat([x, torch.zeros_like(x[:1])]))

        by_step = (users, indptr, items, labels, real, pairs.astype(np.float32))
        drawn = [stream.draw_triples(epoch, i) for i in range(steps)]
        host = cls(
            epoch,
            steps,
            ripple.each(with_one_more),
            {name: placed(x) for name, x in inputs.items()},
            *(placed(torch.from_numpy(x)) for x in (*by_step, stage.lambda3 / pairs)),
            *(placed(torch.stack(x)) for x in zip(*drawn, strict=True)),
        )
        if order.corrections is not None:
            corrections = order.corrections.new_zeros(steps, B)
            for i, (begin, end) in enumerate(pairwise(ends[cuts].tolist())):
                corrections[i, : end - begin] = order.corrections[begin:end]
            host = replace(host, corrections=placed(corrections))
        if shared is not None:
            host = replace(
                host,
                pair_folds=placed(torch.from_numpy(pair_folds)),
                group_folds=placed(torch.from_numpy(group_folds)),
            )
        return host

    def batches(self, begin: int, end: int, device: torch.device) -> dict[str, Tensor]:
        """Copy some of the batches to a device, by name."""
        fields = {name: x for name, x in vars(self).items() if isinstance(x, Tensor)}
        fields |= {INPUT + name: x for name, x in self.inputs.items()}
        return {name: x[begin:end].to(device, non_blocking=True) for name, x in fields.items()}


def allotted_groups(most: int) -> int:
    """Group slots of batches of at most so many groups, one of them for padding."""
    with_slack = most + -(-most // GROUP_SLACK)
    return -(-with_slack // GROUP_STEP) * GROUP_STEP + 1


class Localized(NamedTuple):
    """Ids of S batches in terms of the rows that they name, and their order."""

    rows: Tensor  # [S, N] int32, the distinct ids of each batch, rising, then -1
    local: Tensor  # [S, N] int32, position of each id in the batch's rows, any for no entity
    keys: Tensor  # [S, N] int32, these positions, rising; N for no entity
    references: Tensor  # [S, N] int32, place of each key in the batch


def localize_padded(ids: Tensor, num_entities: int) -> Localized:
    """Rows that ids name, and the ids in terms of them, in fixed shapes and without waiting.

    `ops.localize` does this for one batch on a CPU, in a shape that its ids decide.

    Args:
        ids: [S, N] int32 entity ids of S batches; `num_entities` is no entity.
        num_entities: E.
    """
    N = ids.shape[1]
    values, references = sorted_by_batch(ids, num_entities)
    starts = torch.ones_like(values, dtype=torch.bool)
    torch.ne(values[:, 1:], values[:, :-1], out=starts[:, 1:])
    position = starts.cumsum(1) - 1
    # Every position of a run writes the same value.
    rows = torch.full_like(values, num_entities).scatter_(1, position, values)
    local = torch.empty_like(position).scatter_(1, references, position)
    return Localized(
        rows.masked_fill(rows == num_entities, -1),
        local.int(),
        position.masked_fill(values == num_entities, N).int(),
        references.int(),
    )


def sorted_by_batch(ids: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Ids [S, N] int32 of S batches, stably sorted in each, and the place [S, N] int64 of each.

    Ids are at most `limit`. One sort for all batches: a batch's ids stay together.
    """
    S, N = ids.shape
    batch = torch.arange(S, device=ids.device).unsqueeze(1)
    keys, order = torch.sort((ids + batch * (limit + 1)).flatten(), stable=True)
    values = (keys.view(S, N) - batch * (limit + 1)).int()
    return values, order.view(S, N) - batch * N


def localize_batches(
    at: dict[str, Tensor],
    sets: RippleSets | FoldRippleSets,
    num_entities: int,
    num_relations: int,
) -> dict[str, Tensor]:
    """Fields of S batches as `Batch` has them, each [S, ..], from ids of entities.

    Args:
        at: fields of `HostEpoch`, [S, ..].
        sets: ripple sets of U + 1 users, on the same device.
        num_entities: E.
        num_relations: R.
    """
    S, G = at["group_users"].shape
    groups = at["group_users"].flatten()
    folds = {}
    if isinstance(sets, FoldRippleSets):
        shared = sets.seen_by(groups, at["group_folds"].flatten())
        of_groups, slot_folds = shared.sets, shared.slot_folds
        folds = {
            "slot_folds": slot_folds.view(S, G, *slot_folds.shape[1:]),
            "pair_folds": at["pair_folds"],
        }
    else:
        of_groups = sets.of_users(groups)
    of_groups = of_groups.each(lambda x: x.view(S, G, *x.shape[1:]))
    heads, relations, tails, counts = vars(of_groups).values()
    masked = torch.arange(heads.shape[3], device=heads.device) >= counts.unsqueeze(-1)
    parts = {
        "heads": heads.masked_fill(masked, num_entities),
        "tails": tails.masked_fill(masked, num_entities),
        "items": at["items"],
        "triple_heads": at["triple_heads"],
        "triple_tails": at["triple_tails"],
    }
    ids = [x.flatten(1) for x in parts.values()]
    localized = localize_padded(torch.cat(ids, 1), num_entities)
    local_parts = torch.split(localized.local, [x.shape[1] for x in ids], 1)
    named = [relations.masked_fill(masked, num_relations).flatten(1), at["triple_relations"]]
    relation_keys, relation_references = sorted_by_batch(torch.cat(named, 1), num_relations)
    touched = torch.zeros(S, num_relations + 1, device=masked.device)
    touched.scatter_(1, relation_keys.long(), 1.0)
    found = {
        name: x.reshape(part.shape)
        for (name, part), x in zip(parts.items(), local_parts, strict=True)
    }
    # Masked slots hold 0 in every id, as ops require.
    found |= {name: found[name].masked_fill(masked, 0) for name in ("heads", "tails")}
    as_they_are = ("group_indptr", "labels", "real", "real_pairs", "l2", "corrections")
    return {
        **found,
        "rows": localized.rows,
        "entity_keys": localized.keys,
        "entity_references": localized.references,
        "relation_keys": relation_keys,
        "relation_references": relation_references.int(),
        "relations": relations.masked_fill(masked, 0),
        "counts": counts,
        "triple_relations": at["triple_relations"],
        "relation_touched": touched[:, :num_relations],
        **{name: at[name] for name in as_they_are if name in at},
        **folds,
        **{name: x for name, x in at.items() if name.startswith(INPUT)},
    }


class BatchBuffer:
    """Batches of fixed shapes on a device, from which a captured step takes one.

    Fields of one dtype are side by side, so that four reads fetch a batch.

    Args:
        fields: batches [S, ..] by name.
        room: for so many batches, and for S at least.
    """

    def __init__(self, fields: dict[str, Tensor], room: int = 0) -> None:
        self.shapes = {name: x.shape[1:] for name, x in fields.items()}
        self.capacity = max(room, len(next(iter(fields.values()))))
        dtypes = {x.dtype for x in fields.values()}
        self._names = {
            dtype: [name for name, x in fields.items() if x.dtype == dtype] for dtype in dtypes
        }
        self._packed = {
            dtype: x.new_zeros(self.capacity, x.shape[1]) for dtype, x in self._pack(fields).items()
        }
        self.load(fields)

    def fits(self, fields: dict[str, Tensor]) -> bool:
        """Whether batches have the shapes and find room."""
        return all(
            x.shape[1:] == self.shapes[name] and len(x) <= self.capacity
            for name, x in fields.items()
        )

    def load(self, fields: dict[str, Tensor]) -> None:
        """Copy batches into the same memory as before."""
        for dtype, x in self._pack(fields).items():
            self._packed[dtype][: len(x)].copy_(x)

    def at(self, cursor: Tensor) -> dict[str, Tensor]:
        """Batch whose index a [1] int64 on the device holds."""
        found = {}
        for dtype, names in self._names.items():
            row = self._packed[dtype].index_select(0, cursor)[0]
            sizes = [self.shapes[name].numel() for name in names]
            for name, x in zip(names, torch.split(row, sizes), strict=True):
                found[name] = x.view(self.shapes[name])
        return found

    def _pack(self, fields: dict[str, Tensor]) -> dict[torch.dtype, Tensor]:
        return {
            dtype: torch.cat([fields[name].reshape(len(fields[name]), -1) for name in names], 1)
            for dtype, names in self._names.items()
        }
