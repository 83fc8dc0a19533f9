"""Ripple sets of histories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class RippleSets:
    """Ripple sets of the users: heads, relations, tails [U, H, M], counts [U, H], int32."""

    heads: Tensor
    relations: Tensor
    tails: Tensor
    counts: Tensor

    @classmethod
    def sample(
        cls,
        graph: Graph,
        history_indptr: Tensor,  # [U + 1] int64
        history_items: Tensor,  # int32
        *,
        hops: int,
        slots: int,
        seed: int,
        epoch: int = 0,
        users: Tensor | None = None,  # [U] int32, ids that key the draw
        repeat: bool = False,
    ) -> RippleSets:
        """Sample the sets (see `ops.sample_ripple_sets`)."""
        return cls(
            *ops.sample_ripple_sets(
                graph.indptr,
                graph.relations,
                graph.tails,
                history_indptr,
                history_items,
                hops=hops,
                slots=slots,
                seed=seed,
                epoch=epoch,
                users=users,
                repeat=repeat,
            )
        )

    @property
    def num_users(self) -> int:
        """Number of users U."""
        return self.heads.shape[0]

    @property
    def device(self) -> torch.device:
        """Device that they are on."""
        return self.heads.device

    @property
    def slots(self) -> int:
        """Slots of a user, H * M."""
        return self.heads.shape[1] * self.heads.shape[2]

    def of_users(self, users: Tensor) -> RippleSets:
        """Sets of some users, [n] ids."""
        users = users.to(self.device)
        return self.each(lambda x: x[users])

    def to(self, device: torch.device) -> RippleSets:
        """Copy on a device."""
        return self.each(lambda x: x.to(device))

    def each(self, f: Callable[[Tensor], Tensor]) -> RippleSets:
        """Sets with a function applied to each of their tensors."""
        return RippleSets(f(self.heads), f(self.relations), f(self.tails), f(self.counts))

    @classmethod
    def none(cls, num_users: int) -> RippleSets:
        """Empty sets, H = M = 0, for a model that does not propagate."""
        empty = torch.zeros(num_users, 0, 0, dtype=torch.int32)
        return cls(empty, empty, empty, torch.zeros(num_users, 0, dtype=torch.int32))


@dataclass(frozen=True)
class FoldRippleSets:
    """Ripple sets that the folds of a user share.

    Attributes:
        sets: [U] of the users.
        slot_folds: [U, H, M] int64, bit k where fold k sees the slot: where it is reached without
            the user's clicks of fold k.
    """

    sets: RippleSets
    slot_folds: Tensor

    @property
    def num_users(self) -> int:
        """Number of users U."""
        return self.sets.num_users

    @property
    def slots(self) -> int:
        """Slots of a user, H * M."""
        return self.sets.slots

    def each(self, f: Callable[[Tensor], Tensor]) -> FoldRippleSets:
        """Sets with a function applied to each of their tensors."""
        return FoldRippleSets(self.sets.each(f), f(self.slot_folds))

    @classmethod
    def sample(
        cls,
        graph: Graph,
        clicks: Histories,
        click_folds: Tensor,  # int32, fold of each click
        count: int,
        *,
        hops: int,
        slots: int,
        seed: int,
        epoch: int = 0,
        users: Tensor | None = None,  # [U] int32, ids that key the draw
    ) -> FoldRippleSets:
        """Sample the sets for `count` = F folds (see `ops.sample_fold_ripple_sets`)."""
        *sets, slot_folds = ops.sample_fold_ripple_sets(
            graph.indptr,
            graph.relations,
            graph.tails,
            clicks.indptr,
            clicks.items,
            click_folds,
            folds=count,
            hops=hops,
            slots=slots,
            seed=seed,
            epoch=epoch,
            users=users,
        )
        return cls(RippleSets(*sets), slot_folds)

    def of(self, users: Tensor, folds: Tensor) -> RippleSets:
        """Sets apart, of the slots that fold folds[g] of user users[g] sees, in their order."""
        return self.seen_by(users, torch.ones_like(folds, dtype=torch.int64) << folds).sets

    def seen_by(self, users: Tensor, folds: Tensor) -> FoldRippleSets:
        """Sets of users [G], of the slots that any of the folds [G] int64, a bit each, sees.

        Slots stay in their order. In shapes that no value decides, so that on a GPU nobody waits.
        """
        found, M = self.sets.of_users(users), self.slot_folds.shape[2]
        slot_folds = self.slot_folds[users]
        seen = (slot_folds & folds[:, None, None]) != 0
        seen &= torch.arange(M, device=seen.device) < found.counts[..., None]
        place = (seen.cumsum(2) - 1).masked_fill_(~seen, M)  # the others: past the end

        def kept(x: Tensor) -> Tensor:
            apart = x.new_zeros(*x.shape[:2], M + 1)
            return apart.scatter_(2, place, x)[..., :M].contiguous()

        counts = seen.sum(2, dtype=torch.int32)
        sets = RippleSets(kept(found.heads), kept(found.relations), kept(found.tails), counts)
        return FoldRippleSets(sets, kept(slot_folds))


@dataclass(frozen=True)
class LazyRippleSets:
    """Ripple sets that are sampled when they are asked for, because all of them may not fit.

    A draw is a hash of (seed, epoch, history), so that a history's set is the same whenever it is
    drawn, and whichever others are drawn with it.

    Attributes:
        graph: what is sampled from.
        histories: those whose sets there are, of users or of (user, fold) pairs.
        hops, slots, seed, epoch, repeat: as `ops.sample_ripple_sets` takes them.
        device: where the sets are wanted.
    """

    graph: Graph
    histories: Histories
    hops: int
    slots: int
    seed: int
    epoch: int
    repeat: bool
    device: torch.device = _CPU

    def to(self, device: torch.device) -> LazyRippleSets:
        """The same, for another device."""
        return replace(self, device=device)

    def of_users(self, ids: Tensor) -> RippleSets:
        """Sets of some histories, [G] ids."""
        ids = ids.cpu()
        found = self.histories.of(ids)
        sets = RippleSets.sample(
            self.graph,
            found.indptr,
            found.items,
            users=ids.int(),
            hops=self.hops,
            slots=self.slots,
            seed=self.seed,
            epoch=self.epoch,
            repeat=self.repeat,
        )
        return sets if self.device.type == "cpu" else sets.to(self.device)


@dataclass(frozen=True)
class LazyFoldRippleSets:
    """Ripple sets that the folds of a user share, sampled when they are asked for.

    Attributes:
        graph: what is sampled from.
        clicks: [U] the train positives of the users.
        click_folds: int32, fold of each click.
        count, hops, slots, seed, epoch: as `FoldRippleSets.sample` takes them.
    """

    graph: Graph
    clicks: Histories
    click_folds: Tensor
    count: int
    hops: int
    slots: int
    seed: int
    epoch: int

    def of_users(self, ids: Tensor) -> FoldRippleSets:
        """Sets of some users, [G] ids."""
        return FoldRippleSets.sample(
            self.graph,
            self.clicks.of(ids),
            Histories(self.clicks.indptr, self.click_folds).of(ids).items,
            self.count,
            hops=self.hops,
            slots=self.slots,
            seed=self.seed,
            epoch=self.epoch,
            users=ids.int(),
        )


EpochSets: TypeAlias = RippleSets | FoldRippleSets | LazyRippleSets | LazyFoldRippleSets
"""Ripple sets that an epoch is trained on."""
