"""Pairs of users and items, as models read them, and mini-batches of such pairs.

A *space* is a set of ids that tables are indexed by: "entity", "user", "item" (an item's id is its
entity's), or one of a model's own. A mini-batch lists the rows that it touches space by space.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ekpnet_fast.data import PreparedData
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.ripple_sets import FoldRippleSets, RippleSets


@dataclass(frozen=True)
class TrainContext:
    """Context of training, besides the examples: the graph and the train histories.

    Items are the entities 0 to num_items - 1, or those of a catalogue.
    """

    graph: Graph
    num_users: int
    num_items: int
    history_indptr: Tensor  # [U + 1] int64
    history_items: Tensor  # [history_indptr[-1]] int32, sorted and distinct within a user
    seed: int
    item_names: Sequence[str] | None = None  # [I] titles, where the data set has them
    catalogue: Tensor | None = None  # [I] int32, entity of each item

    @classmethod
    def of(cls, prepared: PreparedData, graph: Graph, seed: int) -> TrainContext:
        """Context of a prepared data set."""
        dataset = prepared.dataset
        return cls(
            graph,
            dataset.num_users,
            dataset.num_items,
            *history_tensors(prepared),
            seed,
            dataset.item_names,
        )

    @property
    def histories(self) -> Histories:
        """Train histories [U]."""
        return Histories(self.history_indptr, self.history_items)


@dataclass(frozen=True)
class PairRequest:
    """Batch of (user, item) pairs to compute inputs for, in global ids, on the CPU.

    Attributes:
        users: [G] int32, user of each group.
        group_indptr: [G + 1] int64, pairs of each group.
        items: [B] int32, item of each pair.
        epoch: keys what is drawn; 0 for evaluation, from 1 in training.
        histories: those that `ids` index; None for the train histories, where ids are users.
        ids: [G] int32, the index of each group's history.
        folds: F; above 1 `histories` are those of (user, fold) pairs, whose id is user * F + fold,
            and the clicks of that fold must not be counted in anything that describes the group.
        rows: [B] int64, positions of the pairs in the training examples; None for other pairs.
    """

    users: Tensor
    group_indptr: Tensor
    items: Tensor
    epoch: int
    histories: Histories | None = None
    ids: Tensor | None = None
    folds: int = 1
    rows: Tensor | None = None

    @property
    def history_ids(self) -> Tensor:
        """Index [G] int32 of each group's history."""
        return self.users if self.ids is None else self.ids

    @property
    def pair_users(self) -> Tensor:
        """User [B] int32 of each pair."""
        return torch.repeat_interleave(self.users, self.group_indptr.diff())


Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class BatchFields:
    """Fields of a mini-batch that a model reads.

    Attributes:
        spaces: of its row-sparse tables; a mini-batch lists the touched rows of these only.
        inputs: gives further tensors for a mini-batch, by name.
        input_spaces: which of those hold ids of a space; in training they become positions in
            the touched rows.
    """

    spaces: Collection[str] = ("entity",)
    inputs: Callable[[PairRequest], Inputs] | None = None
    input_spaces: Mapping[str, str] = field(default_factory=dict)

    def of(self, request: PairRequest) -> Inputs:
        """Further inputs of some pairs, in global ids."""
        return {} if self.inputs is None else self.inputs(request)


@dataclass(frozen=True)
class BatchPlan:
    """Composition of the mini-batches of a stage.

    Attributes:
        pairs: labelled pairs; without them each epoch passes once over as many triples as the
            graph has.
        triples: true and corrupted triples: in no batch, in every batch, or in batches of their
            own.
        every: a batch of triples follows so many batches of pairs ("apart" only).
    """

    pairs: bool = True
    triples: Literal["none", "joined", "apart"] = "none"
    every: int = 1

    def __post_init__(self) -> None:
        """Refuse combinations that no stage can train on."""
        if self.every < 1:
            raise ValueError(f"every is {self.every}, expected at least 1")
        if not self.pairs and self.triples != "joined":
            raise ValueError(f"a stage without pairs has triples {self.triples!r}, not 'joined'")


_ALIGNED = 16  # bytes that kernels read at a time, at most
Moved = TypeVar("Moved", bound="Pairs")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs to score, by user group.

    Ids are global where whole tables are given, or positions in the touched rows (`Batch`).

    Attributes:
        heads, relations, tails: [G, H, M] int32, ripple sets of the groups; H = M = 0 for a
            model that does not propagate.
        counts: [G, H] int32, valid slots.
        group_indptr: [G + 1] int64, pairs of each group.
        items: [B] int32, in the space "entity".
        users: [G] int32, in the space "user"; None where neither space nor inputs need them.
        free_items: [B] int32, the same items in the space "item"; None without that space.
        inputs: results of the model's `inputs`, by name.
    """

    heads: Tensor
    relations: Tensor
    tails: Tensor
    counts: Tensor
    group_indptr: Tensor
    items: Tensor
    users: Tensor | None = None
    free_items: Tensor | None = None
    inputs: Inputs = field(default_factory=dict)

    @property
    def num_pairs(self) -> int:
        """Number of pairs B."""
        return self.items.numel()

    @property
    def groups(self) -> Tensor:
        """Group [B] int64 of each pair."""
        lengths = self.group_indptr.diff()
        return torch.repeat_interleave(lengths, output_size=self.num_pairs)

    def to(self: Moved, device: torch.device) -> Moved:
        """Copy on a device; what a GPU gets from the host is one copy that nobody waits for.

        Pairs that are there already are not copied.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if all(x.device == device for x in _tensors(values)):
            return self
        host = [x for x in _tensors(values) if x.device.type == "cpu"]
        moved = _packed(host, device) if device.type == "cuda" and host else {}
        return replace(self, **_moved(values, device, moved))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, Tensor):
        yield value


def _packed(tensors: list[Tensor], device: torch.device) -> dict[int, Tensor]:
    """Copies on a GPU, by the `id` of their originals, side by side in one piece of its memory."""
    sizes = [-(-x.nbytes // _ALIGNED) * _ALIGNED for x in tensors]
    packed = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=True)
    for x, part in zip(tensors, torch.split(packed, sizes), strict=True):
        part[: x.nbytes].copy_(x.contiguous().view(-1).view(torch.uint8))
    there = torch.split(packed.to(device, non_blocking=True), sizes)
    return {
        id(x): part[: x.nbytes].view(x.dtype).view(x.shape)
        for x, part in zip(tensors, there, strict=True)
    }


def _moved(value: Any, device: torch.device, moved: Mapping[int, Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(item, device, moved) for key, item in value.items()}
    if not isinstance(value, Tensor):
        return value
    return moved[id(value)] if id(value) in moved else value.to(device)


@dataclass(frozen=True, kw_only=True)
class Batch(Pairs):
    """Mini-batch in terms of the table rows it touches.

    Attributes:
        rows: [n] int32, entity ids of the touched rows; entity ids elsewhere are positions in it.
        touched: per space but "entity", [n] int32, ids of the touched rows.
        labels: [B] float32.
        lists: [L + 1] int64, pairs of each list (`list_losses.pair_lists`); None without them.
        corrections: [B] float32, added to the logits where the loss is a sampled softmax: minus
            the logarithm of the probability that the pair was drawn, 0 for positives.
        slot_folds: [G, H, M] int64, bit k where pairs of fold k see the slot; None if all do.
        pair_folds: [B] int32, fold of each pair; with `slot_folds`.
        triple_heads, triple_relations, triple_tails: [K] int32, true then corrupted triples.
        triple_labels: [K] int8.
        num_relations: R.
        known: properties of the batch by name, where they are known; others are found when asked
            for, for which a GPU would be waited for.
        real: [B] float32, 1 for pairs and 0 for padding; None if all are pairs.
        real_pairs: [] float32, number of them; None if all are.
        entity_keys, entity_references, relation_keys, relation_references: sorted references to
            rows and relations, as `ops.RippleBatch` has them; None where a device sorts them.
    """

    rows: Tensor
    labels: Tensor
    triple_heads: Tensor
    triple_relations: Tensor
    triple_tails: Tensor
    triple_labels: Tensor
    num_relations: int
    known: Mapping[str, Tensor] = field(default_factory=dict)
    touched: Mapping[str, Tensor] = field(default_factory=dict)
    lists: Tensor | None = None
    corrections: Tensor | None = None
    slot_folds: Tensor | None = None
    pair_folds: Tensor | None = None
    real: Tensor | None = None
    real_pairs: Tensor | None = None
    entity_keys: Tensor | None = None
    entity_references: Tensor | None = None
    relation_keys: Tensor | None = None
    relation_references: Tensor | None = None

    @property
    def size(self) -> int:
        """Divisor of a loss: B, or the true triples of a batch without pairs."""
        return self.num_pairs or self.triple_heads.numel() // 2

    @cached_property
    def relation_touched(self) -> Tensor:
        """[R] float32, 1 where the ripple sets or the triples name the relation."""
        if "relation_touched" in self.known:
            return self.known["relation_touched"]
        named = torch.cat([self.relations.flatten(), self.triple_relations])
        mentions = named.bincount(minlength=self.num_relations)
        mentions[:1] -= self.relations.numel() - self.counts.sum()  # masked slots hold 0
        return (mentions[: self.num_relations] > 0).float()

    @cached_property
    def valid_slots(self) -> Tensor:
        """Places [V] int64 of the valid slots among all G H M."""
        if "valid_slots" in self.known:
            return self.known["valid_slots"]
        valid = torch.arange(self.heads.shape[2], device=self.heads.device) < self.counts[..., None]
        return valid.flatten().nonzero().squeeze(1)

    @cached_property
    def positives(self) -> Tensor:
        """Places [P] int64 of the pairs whose label is 1."""
        if "positives" in self.known:
            return self.known["positives"]
        return (self.labels > 0).nonzero().squeeze(1)

    def knowing(self, names: Collection[str]) -> Batch:
        """Batch with some of its properties found here, of which a copy on a GPU has copies."""
        return replace(self, known={name: getattr(self, name) for name in names})

    def by_fold(self) -> Batch:
        """Batch of the same pairs, in groups of one fold each with a ripple set of its own."""
        if self.slot_folds is None or self.pair_folds is None:
            return self
        groups, folds = self.groups, self.pair_folds
        other = (groups.diff() != 0) | (folds.diff() != 0)
        first = torch.cat([groups.new_zeros(1), other.nonzero().squeeze(1) + 1])
        shared = RippleSets(self.heads, self.relations, self.tails, self.counts)
        sets = FoldRippleSets(shared, self.slot_folds).of(groups[first], folds[first])
        return replace(
            self,
            heads=sets.heads,
            relations=sets.relations,
            tails=sets.tails,
            counts=sets.counts,
            group_indptr=torch.cat([first, first.new_full((1,), self.num_pairs)]),
            slot_folds=None,
            pair_folds=None,
            known={name: x for name, x in self.known.items() if name != "valid_slots"},
        )

    def rows_of(self, space: str) -> Tensor:
        """Ids [n] int32 of the touched rows of a space."""
        return self.rows if space == "entity" else self.touched[space]


def history_tensors(prepared: PreparedData) -> tuple[Tensor, Tensor]:
    """Train histories as the sampler takes them: indptr [U + 1] int64, items int32."""
    return torch.from_numpy(prepared.history_indptr), torch.from_numpy(prepared.history_items)
