"""Ripple sets of all users, and mini-batches of user groups made from them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.data import PreparedData, Rows
from ekpnet_fast.graph import Graph


@dataclass(frozen=True)
class RippleSets:
    """What the users' histories reach: heads, relations, tails [U, H, M], counts [U, H], int32."""

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
        repeat: bool = False,
    ) -> RippleSets:
        """Draw them (see `ops.sample_ripple_sets`)."""
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
                repeat=repeat,
            )
        )

    @property
    def num_users(self) -> int:
        """U."""
        return self.heads.shape[0]

    def of_users(self, users: Tensor) -> RippleSets:
        """The sets of some users, [n] ids."""
        return RippleSets(
            self.heads[users], self.relations[users], self.tails[users], self.counts[users]
        )

    def to(self, device: torch.device) -> RippleSets:
        """The same sets on a device."""
        return RippleSets(
            *(x.to(device) for x in (self.heads, self.relations, self.tails, self.counts))
        )


@dataclass(frozen=True)
class Batch:
    """A mini-batch in terms of the table rows it touches.

    Attributes:
        rows: [n] int32, entity ids of the touched rows; ids below are positions in it.
        heads, relations, tails: [G, H, M] int32, ripple sets of the groups.
        counts: [G, H] int32, valid slots.
        group_indptr: [G + 1] int64, pairs of each group.
        items: [B] int32.
        labels: [B] float32.
        triple_heads, triple_relations, triple_tails: [K] int32, true then corrupted triples.
        triple_labels: [K] int8.
        relation_touched: [R] float32, 1 where the ripple sets or the triples name the relation.
        real: [B] float32, 1 for pairs and 0 for padding; None if all are pairs.
        real_pairs: [] float32, how many are; None if all are.
    """

    rows: Tensor
    heads: Tensor
    relations: Tensor
    tails: Tensor
    counts: Tensor
    group_indptr: Tensor
    items: Tensor
    labels: Tensor
    triple_heads: Tensor
    triple_relations: Tensor
    triple_tails: Tensor
    triple_labels: Tensor
    relation_touched: Tensor
    real: Tensor | None = None
    real_pairs: Tensor | None = None

    @property
    def num_pairs(self) -> int:
        """B."""
        return self.items.numel()


@dataclass(frozen=True)
class UserRows:
    """Labelled rows grouped by user: those of user u are indptr[u] .. indptr[u + 1]."""

    indptr: Tensor  # [U + 1] int64
    items: Tensor  # [N] int32
    labels: Tensor  # [N] float32
    order: Tensor  # [N] int64, position of each row in the table it came from

    @classmethod
    def from_rows(cls, rows: Rows, num_users: int) -> UserRows:
        """Group rows; within a user they keep their order."""
        order = np.argsort(rows.users, kind="stable")
        indptr = np.zeros(num_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows.users, minlength=num_users), out=indptr[1:])
        return cls(
            torch.from_numpy(indptr),
            torch.from_numpy(rows.items[order].astype(np.int32)),
            torch.from_numpy(rows.labels[order].astype(np.float32)),
            torch.from_numpy(order),
        )


class EpochOrder(NamedTuple):
    """An epoch's pairs in their order: batch i consists of the groups cuts[i] .. cuts[i + 1]."""

    items: Tensor  # [N] int32
    labels: Tensor  # [N] float32
    group_indptr: Tensor  # [G + 1] int64, pairs of each group
    group_users: Tensor  # [G] int32
    cuts: list[int]


class BatchStream:
    """The mini-batches of each epoch; the next one is prepared while the current one computes.

    Args:
        graph: where the triples of the KG term come from.
        rows: the labelled training rows.
        batch_size: B, pairs per batch; the last batch of an epoch is smaller.
        group_size: pairs of one user per group, at most.
        triples: true triples per batch for the KG term, and as many corrupted; 0 for none.
        seed: of the shuffling and of the triples.
    """

    def __init__(
        self,
        graph: Graph,
        rows: UserRows,
        *,
        batch_size: int,
        group_size: int,
        triples: int,
        seed: int,
    ) -> None:
        self.graph = graph
        self.rows = rows
        self.batch_size = batch_size
        self.group_size = min(group_size, batch_size)
        self.triples = triples
        self.seed = seed

    def order(self, epoch: int) -> EpochOrder:
        """The pairs, groups and cuts of an epoch, drawn from (seed, epoch)."""
        order, indptr, users = ops.group_pairs(
            self.rows.indptr, self.group_size, seed=self.seed, epoch=epoch
        )
        return EpochOrder(
            self.rows.items[order], self.rows.labels[order], indptr, users, self._cut(indptr)
        )

    def draw_triples(self, epoch: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Heads, relations and tails [K] int32 of a batch of an epoch, true then corrupted."""
        return ops.sample_triples(
            self.graph.indptr,
            self.graph.relations,
            self.graph.tails,
            self.triples,
            seed=self.seed,
            step=(epoch << 32) + batch,
        )

    def epoch(self, epoch: int, ripple: RippleSets) -> Iterator[Batch]:
        """All batches of an epoch."""
        items, labels, indptr, users, cuts = self.order(epoch)

        def prepare(i: int) -> Batch:
            first, last = cuts[i], cuts[i + 1]
            pairs = slice(int(indptr[first]), int(indptr[last]))
            return self._batch(
                ripple,
                users[first:last],
                indptr[first : last + 1] - indptr[first],
                items[pairs],
                labels[pairs],
                self.draw_triples(epoch, i),
            )

        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(prepare, 0) if len(cuts) > 1 else None
            for i in range(1, len(cuts)):
                assert ahead is not None
                batch = ahead.result()
                ahead = pool.submit(prepare, i) if i + 1 < len(cuts) else None
                yield batch

    def _cut(self, indptr: Tensor) -> list[int]:
        """Runs of groups with at most `batch_size` pairs: their first groups, and the end."""
        ends = indptr.numpy()
        cuts = [0]
        while cuts[-1] < len(ends) - 1:
            limit = ends[cuts[-1]] + self.batch_size
            cuts.append(int(np.searchsorted(ends, limit, side="right")) - 1)
        return cuts

    def _batch(
        self,
        ripple: RippleSets,
        users: Tensor,
        group_indptr: Tensor,
        items: Tensor,
        labels: Tensor,
        triples: tuple[Tensor, Tensor, Tensor],
    ) -> Batch:
        heads, relations, tails = triples
        rows, *sets, items, extra = ops.localize_batch(
            ripple.heads,
            ripple.relations,
            ripple.tails,
            ripple.counts,
            users,
            items,
            torch.cat([heads, tails]),
        )
        valid = torch.arange(sets[0].shape[2]) < sets[3].unsqueeze(-1)
        touched = torch.zeros(self.graph.num_relations)
        touched[sets[1][valid].long()] = 1.0
        touched[relations.long()] = 1.0
        return Batch(
            rows=rows,
            heads=sets[0],
            relations=sets[1],
            tails=sets[2],
            counts=sets[3],
            group_indptr=group_indptr,
            items=items,
            labels=labels,
            triple_heads=extra[: len(heads)],
            triple_relations=relations,
            triple_tails=extra[len(heads) :],
            triple_labels=(torch.arange(2 * self.triples) < self.triples).to(torch.int8),
            relation_touched=touched,
        )


def history_tensors(prepared: PreparedData) -> tuple[Tensor, Tensor]:
    """The train histories as the sampler takes them: indptr [U + 1] int64, items int32."""
    return torch.from_numpy(prepared.history_indptr), torch.from_numpy(prepared.history_items)
