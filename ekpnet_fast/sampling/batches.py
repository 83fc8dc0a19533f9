"""Mini-batches of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.sampling.examples import UserExamples
from ekpnet_fast.sampling.folds import Folds
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.pairs import Batch, BatchFields, BatchPlan, PairRequest
from ekpnet_fast.sampling.ripple_sets import LazyRippleSets, RippleSets


def _ahead(prepare: Callable[[int], Batch], numbers: range) -> Iterator[Batch]:
    """Batches in turn, each prepared by another thread while the one before is in use."""
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[Batch] | None = None
        for number in numbers:
            after = pool.submit(prepare, number)
            if waiting is not None:
                yield waiting.result()
            waiting = after
        if waiting is not None:
            yield waiting.result()


class EpochOrder(NamedTuple):
    """Order of an epoch's pairs: batch i consists of the groups cuts[i] .. cuts[i + 1]."""

    items: Tensor  # [N] int32
    labels: Tensor  # [N] float32
    group_indptr: Tensor  # [G + 1] int64, pairs of each group
    group_users: Tensor  # [G] int32, (user, fold) pairs where there are folds
    cuts: list[int]
    rows: Tensor  # [N] int64, position of each pair in the examples


class BatchStream:
    """Mini-batches of each epoch.

    Args:
        graph: source of the triples of the KG term.
        rows: the training examples.
        batch_size: B, pairs per batch; the last batch of an epoch is smaller.
        group_size: pairs of one user per group, at most.
        triples: true triples per batch for the KG term, and as many corrupted; 0 for none.
        seed: of the shuffling and of the triples.
        reads: fields of a batch that the model reads.
        plan: composition of the batches.
        redraw: gives the items [N] of `rows` in an epoch, where they differ by epoch.
        folds: those of `rows`, if they are by (user, fold) pair; ripple sets then are too.
    """

    def __init__(
        self,
        graph: Graph,
        rows: UserExamples,
        *,
        batch_size: int,
        group_size: int,
        triples: int,
        seed: int,
        reads: BatchFields | None = None,
        plan: BatchPlan | None = None,
        redraw: Callable[[int], Tensor] | None = None,
        folds: Folds | None = None,
    ) -> None:
        self.graph = graph
        self.rows = rows
        self.batch_size = batch_size
        self.group_size = min(group_size, batch_size)
        self.triples = triples
        self.seed = seed
        self.reads = BatchFields() if reads is None else reads
        self.plan = BatchPlan(triples="joined") if plan is None else plan
        self.redraw = redraw
        self.folds = folds

    @property
    def epoch_size(self) -> int:
        """Length of an epoch: its labelled pairs, or the triples where the stage has no pairs."""
        return len(self.rows.items) if self.plan.pairs else self.graph.num_triples

    def order(self, epoch: int) -> EpochOrder:
        """Pairs, groups and cuts of an epoch, drawn from (seed, epoch)."""
        order, indptr, users = ops.group_pairs(
            self.rows.indptr, self.group_size, seed=self.seed, epoch=epoch
        )
        items = self.rows.items if self.redraw is None else self.redraw(epoch)
        cuts = self._cut(indptr)
        return EpochOrder(items[order], self.rows.labels[order], indptr, users, cuts, order)

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

    def epoch(
        self,
        epoch: int,
        ripple: RippleSets | LazyRippleSets,
        *,
        skip: int = 0,
        ahead: bool = False,
    ) -> Iterator[Batch]:
        """Batches of an epoch.

        Args:
            epoch: keys what is drawn.
            ripple: the ripple sets of all users.
            skip: leave out the first so many, without computing them.
            ahead: prepare the next batch in a thread beside the current step: what of it one
                thread does is then done while the others compute.
        """
        if self.plan.pairs:
            items, labels, indptr, owners, cuts, rows = self.order(epoch)
            F, histories = 1, None
            if self.folds is not None:
                F, histories = self.folds.count, self.folds.histories
            schedule = self._schedule(len(cuts) - 1)
        else:
            schedule = [None] * -(-self.graph.num_triples // self.triples)

        def prepare(number: int) -> Batch:
            i, nothing = schedule[number], torch.zeros(0, dtype=torch.int32)
            if i is None or self.plan.triples == "joined":
                triples = self.draw_triples(epoch, number)
            else:
                triples = (nothing, nothing, nothing)
            if i is None:
                request = PairRequest(nothing, torch.zeros(1, dtype=torch.int64), nothing, epoch)
                return self._batch(ripple, request, torch.zeros(0), triples)
            first, last = cuts[i], cuts[i + 1]
            pairs = slice(int(indptr[first]), int(indptr[last]))
            request = PairRequest(
                owners[first:last] // F,
                indptr[first : last + 1] - indptr[first],
                items[pairs],
                epoch,
                histories=histories,
                ids=owners[first:last],
                folds=F,
                rows=rows[pairs] if self.redraw is None else None,
            )
            return self._batch(ripple, request, labels[pairs], triples)

        numbers = range(skip, len(schedule))
        yield from _ahead(prepare, numbers) if ahead else map(prepare, numbers)

    def _schedule(self, batches: int) -> list[int | None]:
        """Batches of pairs by number, and None for a batch of triples."""
        schedule: list[int | None] = []
        for i in range(batches):
            schedule.append(i)
            if self.plan.triples == "apart" and self.triples and (i + 1) % self.plan.every == 0:
                schedule.append(None)
        return schedule

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
        ripple: RippleSets | LazyRippleSets,
        request: PairRequest,
        labels: Tensor,
        triples: tuple[Tensor, Tensor, Tensor],
    ) -> Batch:
        heads, relations, tails = triples
        reads, inputs = self.reads, dict(self.reads.of(request))
        of_space = {
            space: [name for name, of in reads.input_spaces.items() if of == space]
            for space in {"entity", *reads.spaces}
        }
        named = [inputs[name] for name in of_space["entity"]]
        at = request.history_ids
        if not isinstance(ripple, RippleSets):
            ripple, at = ripple.of_users(at), torch.arange(len(at), dtype=torch.int32)
        rows, *sets, items, extra = ops.localize_batch(
            ripple.heads,
            ripple.relations,
            ripple.tails,
            ripple.counts,
            at,
            request.items,
            torch.cat([heads, tails, *(ids.flatten() for ids in named)]),
        )
        _put(inputs, of_space["entity"], extra[2 * len(heads) :])
        touched, users, free_items = {}, request.users, None
        for space in reads.spaces:
            if space == "entity":
                continue
            own = {"user": [users], "item": [request.items]}.get(space, [])
            parts = own + [inputs[name].flatten() for name in of_space[space]]
            touched[space], positions = ops.localize(torch.cat(parts))
            start = sum(map(len, own))
            if space == "user":
                users = positions[:start]
            elif space == "item":
                free_items = positions[:start]
            _put(inputs, of_space[space], positions[start:])
        num_relations = self.graph.num_relations
        mentions = torch.cat([sets[1].flatten(), relations]).bincount(minlength=num_relations)
        mentions[:1] -= sets[1].numel() - sets[3].sum()  # masked slots hold 0
        return Batch(
            rows=rows,
            touched=touched,
            heads=sets[0],
            relations=sets[1],
            tails=sets[2],
            counts=sets[3],
            group_indptr=request.group_indptr,
            items=items,
            users=users,
            free_items=free_items,
            inputs=inputs,
            labels=labels,
            triple_heads=extra[: len(heads)],
            triple_relations=relations,
            triple_tails=extra[len(heads) : 2 * len(heads)],
            triple_labels=(torch.arange(len(heads)) < len(heads) // 2).to(torch.int8),
            relation_touched=(mentions[:num_relations] > 0).float(),
        )


def _put(inputs: dict[str, Tensor], names: list[str], positions: Tensor) -> None:
    """Replace the named inputs by their positions, which come one input after the other."""
    start = 0
    for name in names:
        ids = inputs[name]
        inputs[name] = positions[start : start + ids.numel()].view(ids.shape)
        start += ids.numel()
