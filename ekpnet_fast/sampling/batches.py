"""Mini-batches of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.ops.list_losses import pair_lists
from ekpnet_fast.ops.threads import beside_ops
from ekpnet_fast.sampling.examples import UserExamples
from ekpnet_fast.sampling.folds import Folds
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.pairs import Batch, BatchFields, BatchPlan, PairRequest
from ekpnet_fast.sampling.ripple_sets import (
    EpochSets,
    FoldRippleSets,
    LazyFoldRippleSets,
    RippleSets,
)

Made = TypeVar("Made")
Triples = tuple[Tensor, Tensor, Tensor]  # heads, relations, tails


# Batches that are prepared at once, at most. Beside other programs a thread that is asked for
# something may not run for some milliseconds, so that a step would wait for the next batch alone.
PREPARED_TOGETHER = 8


def _ahead(prepare: Callable[[int], Made], numbers: range) -> Iterator[Made]:
    """Batches in turn, some of them prepared by another thread while those before are in use.

    The first is prepared alone, because nothing can be done without it, then two, and so on.
    """

    def prepare_all(some: range) -> tuple[list[Made], Exception | None]:
        made: list[Made] = []
        try:
            for number in some:
                made.append(prepare(number))
        except Exception as error:  # raised in its turn, after the batches before it
            return made, error
        return made, None

    def in_turn(waiting: Future[tuple[list[Made], Exception | None]]) -> Iterator[Made]:
        made, error = waiting.result()
        yield from made
        if error is not None:
            raise error

    with ThreadPoolExecutor(1) as pool:
        waiting = None
        together = 1
        while numbers:
            some, numbers = numbers[:together], numbers[together:]
            after = beside_ops(pool, partial(prepare_all, some))
            if waiting is not None:
                yield from in_turn(waiting)
            waiting, together = after, min(2 * together, PREPARED_TOGETHER)
        if waiting is not None:
            yield from in_turn(waiting)


class SharedGroups(NamedTuple):
    """Pairs of an epoch, or of a batch, by groups of a user's pairs of any folds."""

    indptr: Tensor  # [S + 1] int64, pairs of each group
    users: Tensor  # [S] int32
    folds: Tensor  # [N] int32, fold of each pair

    def cut(self, first: int, last: int) -> SharedGroups:
        """Groups [first, last)."""
        indptr = self.indptr[first : last + 1]
        begin, end = int(indptr[0]), int(indptr[-1])
        return SharedGroups(indptr - begin, self.users[first:last], self.folds[begin:end])


class EpochOrder(NamedTuple):
    """Order of an epoch's pairs: batch i consists of the groups cuts[i] .. cuts[i + 1]."""

    items: Tensor  # [N] int32
    labels: Tensor  # [N] float32
    group_indptr: Tensor  # [G + 1] int64, pairs of each group
    group_users: Tensor  # [G] int32, (user, fold) pairs where there are folds
    cuts: list[int]
    rows: Tensor  # [N] int64, position of each pair in the examples
    # The same pairs by groups that share a ripple set, of which batch i has those
    # shared_cuts[i] .. shared_cuts[i + 1]; None where each group has a set of its own.
    shared: SharedGroups | None = None
    shared_cuts: list[int] | None = None
    corrections: Tensor | None = None  # [N] float32, as in `Batch`
    lists: Tensor | None = None  # [L + 1] int64, pairs of each list; None without them

    def lists_of(self, pairs: slice) -> Tensor | None:
        """Lists of the pairs of some groups, as in `Batch`."""
        if self.lists is None:
            return None
        first, last = self.lists.numpy().searchsorted([pairs.start, pairs.stop])
        begins: Tensor = self.lists[first : last + 1] - pairs.start
        return begins


class StepParts(NamedTuple):
    """Parts of a mini-batch that a process computes.

    Attributes:
        batches: the parts asked for, as batches of their own, without those that do not exist.
        size: of the whole mini-batch: the divisor of its loss.
        pairs: that the whole passes over, or true triples in a stage without pairs.
    """

    batches: list[Batch]
    size: int
    pairs: int


class _PlannedEpoch(NamedTuple):
    """Epoch whose mini-batches can be made, by number, whole or in parts."""

    number: int
    ripple: EpochSets
    schedule: list[int | None]  # number of a batch of pairs, or None for one of triples
    order: EpochOrder | None  # None in a stage without pairs


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
        shared: the folds of a user share a ripple set; `group_size` then counts pairs of a user.
        lists: whether batches have lists of pairs, as losses of lists need.
        corrections: gives those [n] of a `Batch` for items [n] at positions [n] of `rows`.
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
        shared: bool = False,
        lists: bool = False,
        corrections: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.lists, self.corrections = lists, corrections
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
        self.shared = folds if shared else None
        if self.shared is not None:
            self._owners = self.shared.row_owners

    @property
    def epoch_size(self) -> int:
        """Length of an epoch: its labelled pairs, or the triples where the stage has no pairs."""
        return len(self.rows.items) if self.plan.pairs else self.graph.num_triples

    def order(self, epoch: int) -> EpochOrder:
        """Pairs, groups and cuts of an epoch, drawn from (seed, epoch)."""
        F = 1 if self.shared is None else self.shared.count
        order, indptr, users = ops.group_pairs(
            self.rows.indptr[::F].contiguous(), self.group_size, seed=self.seed, epoch=epoch
        )
        cuts = self._cut(indptr)
        lists = pair_lists(indptr) if self.lists else None
        items = self.rows.items if self.redraw is None else self.redraw(epoch)
        if self.shared is None:
            of_order, labels = items[order], self.rows.labels[order]
            corrections = self._corrected(of_order, order)
            return EpochOrder(
                *(of_order, labels, indptr, users, cuts, order),
                corrections=corrections,
                lists=lists,
            )
        # Rows are sorted by (user, fold) pair, so those of a group in their order are too.
        N = len(order)
        offset = torch.repeat_interleave(torch.arange(len(users)) * N, indptr.diff())
        order = torch.from_numpy(np.sort((order + offset).numpy())) - offset
        owners = self._owners[order]
        starts = torch.ones(N, dtype=torch.bool)
        starts[1:] = owners[1:] != owners[:-1]
        starts[indptr[:-1]] = True
        first = starts.nonzero().squeeze(1)
        ends = torch.cat([first, first.new_full((1,), N)])
        of_order = items[order]
        return EpochOrder(
            of_order,
            self.rows.labels[order],
            ends,
            owners[first],
            torch.searchsorted(ends, indptr[cuts]).tolist(),
            order,
            SharedGroups(indptr, users, owners % F),
            cuts,
            self._corrected(of_order, order),
            lists,
        )

    def _corrected(self, items: Tensor, rows: Tensor) -> Tensor | None:
        return None if self.corrections is None else self.corrections(items, rows)

    def request(self, order: EpochOrder, batch: int, epoch: int) -> PairRequest:
        """Pairs of a batch of an epoch's order, to compute a model's inputs for."""
        cuts = order.cuts if order.shared_cuts is None else order.shared_cuts
        return self._pairs(epoch, order, cuts[batch], cuts[batch + 1])[0]

    def draw_triples(self, epoch: int, batch: int, part: int = 0, parts: int = 1) -> Triples:
        """Heads, relations and tails [K] int32 of a part of a batch, true then corrupted."""
        first, last = self.triples * part // parts, self.triples * (part + 1) // parts
        return ops.sample_triples(
            self.graph.indptr,
            self.graph.relations,
            self.graph.tails,
            last - first,
            seed=self.seed,
            step=(epoch << 32) + batch,
            first=first,
        )

    def epoch(
        self,
        epoch: int,
        ripple: EpochSets,
        *,
        skip: int = 0,
        ahead: bool = False,
    ) -> Iterator[Batch]:
        """Batches of an epoch.

        Args:
            epoch: keys what is drawn.
            ripple: the ripple sets of all users, or of all (user, fold) pairs.
            skip: leave out the first so many, without computing them.
            ahead: prepare the next batches in a thread beside the current steps: what of them one
                thread does is then done while the others compute.
        """
        planned = self._planned(epoch, ripple)
        numbers = range(skip, len(planned.schedule))

        def prepare(number: int) -> Batch:
            return self._made(planned, number, range(1), 1).batches[0]

        yield from _ahead(prepare, numbers) if ahead else map(prepare, numbers)

    def steps(
        self,
        epoch: int,
        ripple: EpochSets,
        mine: range,
        parts: int,
        *,
        skip: int = 0,
        ahead: bool = False,
    ) -> Iterator[StepParts]:
        """Parts of the batches of an epoch; all of them together are the batches of `epoch`.

        A batch is cut between two groups, into parts of about as many pairs each that have their
        share of its triples, or into fewer parts if it has fewer groups.

        Args:
            epoch, ripple, skip, ahead: as for `epoch`.
            mine: the parts to make.
            parts: P, of a batch.
        """
        planned = self._planned(epoch, ripple)
        numbers = range(skip, len(planned.schedule))

        def prepare(number: int) -> StepParts:
            return self._made(planned, number, mine, parts)

        yield from _ahead(prepare, numbers) if ahead else map(prepare, numbers)

    def _planned(self, epoch: int, ripple: EpochSets) -> _PlannedEpoch:
        if not self.plan.pairs:
            steps = -(-self.graph.num_triples // self.triples)
            return _PlannedEpoch(epoch, ripple, [None] * steps, None)
        order = self.order(epoch)
        return _PlannedEpoch(epoch, ripple, self._schedule(len(order.cuts) - 1), order)

    def _made(self, planned: _PlannedEpoch, number: int, mine: range, parts: int) -> StepParts:
        """Some parts of a batch."""
        i, order = planned.schedule[number], planned.order
        nothing = torch.zeros(0, dtype=torch.int32)
        if i is None or order is None:
            count = min(parts, self.triples)
            no_pairs = torch.zeros(1, dtype=torch.int64)
            request = PairRequest(nothing, no_pairs, nothing, planned.number)
            found = [
                self._batch(
                    planned.ripple,
                    request,
                    nothing.float(),
                    self.draw_triples(planned.number, number, k, count),
                )
                for k in mine
                if k < count
            ]
            # The last batch of an epoch of triples draws as many as the others.
            return StepParts(found, self.triples, 0 if self.plan.pairs else self.triples)
        bounds = self._bounds(order, i, parts)
        count = len(bounds) - 1
        found = []
        for k in mine:
            if k >= count:
                break
            request, pairs = self._pairs(planned.number, order, bounds[k], bounds[k + 1])
            groups = None if order.shared is None else order.shared.cut(bounds[k], bounds[k + 1])
            share = (nothing, nothing, nothing)
            if self.plan.triples == "joined":
                share = self.draw_triples(planned.number, number, k, count)
            labels = order.labels[pairs]
            corrections = None if order.corrections is None else order.corrections[pairs]
            lists = order.lists_of(pairs)
            found.append(
                self._batch(planned.ripple, request, labels, share, groups, corrections, lists)
            )
        first, last = (int(order.group_indptr[at]) for at in order.cuts[i : i + 2])
        return StepParts(found, last - first, last - first)

    def _bounds(self, order: EpochOrder, i: int, parts: int) -> list[int]:
        """First group of each part of batch i, and the end; of the groups that share sets."""
        indptr, cuts = order.group_indptr, order.cuts
        if order.shared is not None and order.shared_cuts is not None:
            indptr, cuts = order.shared.indptr, order.shared_cuts
        first, last = cuts[i], cuts[i + 1]
        count = min(parts, last - first)
        if count == 1:
            return [first, last]
        ends = indptr[first : last + 1].numpy()
        shares = ends[0] + (ends[-1] - ends[0]) * np.arange(1, count) // count
        bounds = [first]
        for k, at in enumerate(np.searchsorted(ends, shares).tolist(), start=1):
            # Every part gets a group, whatever their sizes.
            bounds.append(min(max(first + at, bounds[-1] + 1), last - (count - k)))
        return [*bounds, last]

    def _pairs(
        self, epoch: int, order: EpochOrder, first: int, last: int
    ) -> tuple[PairRequest, slice]:
        """Request of the pairs of some groups, of those that share sets; and where these are."""
        indptr, F, histories = order.group_indptr, 1, None
        if self.folds is not None:
            F, histories = self.folds.count, self.folds.histories
        if order.shared is not None:
            shared = order.shared.indptr[[first, last]]
            first, last = torch.searchsorted(indptr, shared).tolist()
        pairs = slice(int(indptr[first]), int(indptr[last]))
        owners = order.group_users[first:last]
        request = PairRequest(
            owners // F,
            indptr[first : last + 1] - indptr[first],
            order.items[pairs],
            epoch,
            histories=histories,
            ids=owners,
            folds=F,
            rows=order.rows[pairs],
        )
        return request, pairs

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
        ripple: EpochSets,
        request: PairRequest,
        labels: Tensor,
        triples: Triples,
        groups: SharedGroups | None = None,
        corrections: Tensor | None = None,
        lists: Tensor | None = None,
    ) -> Batch:
        heads, relations, tails = triples
        reads, inputs = self.reads, dict(self.reads.of(request))
        of_space = {
            space: [name for name, of in reads.input_spaces.items() if of == space]
            for space in {"entity", *reads.spaces}
        }
        named = [inputs[name] for name in of_space["entity"]]
        further = torch.cat([heads, tails, *(ids.flatten() for ids in named)])
        rows, sets, items, extra = _localized(ripple, request, groups, further)
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
        return Batch(
            rows=rows,
            touched=touched,
            **sets,
            items=items,
            users=users,
            free_items=free_items,
            inputs=inputs,
            known={},
            labels=labels,
            lists=lists,
            corrections=corrections,
            triple_heads=extra[: len(heads)],
            triple_relations=relations,
            triple_tails=extra[len(heads) : 2 * len(heads)],
            triple_labels=_triple_labels(len(heads)),
            num_relations=self.graph.num_relations,
        )


@lru_cache(maxsize=8)
def _triple_labels(count: int) -> Tensor:
    """Labels [K] int8 of true triples and as many corrupted ones."""
    return (torch.arange(count) < count // 2).to(torch.int8)


_SETS = ("heads", "relations", "tails", "counts")


def _localized(
    ripple: EpochSets,
    request: PairRequest,
    groups: SharedGroups | None,
    extra: Tensor,  # [X] int32, further entity ids
) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
    """Touched rows [n]; fields of a `Batch` that describe its groups; items [B] and extra [X]."""
    if isinstance(ripple, FoldRippleSets | LazyFoldRippleSets):
        assert groups is not None, "ripple sets that folds share, and groups that do not"
        at = groups.users
        if isinstance(ripple, LazyFoldRippleSets):
            ripple, at = ripple.of_users(at), torch.arange(len(at), dtype=torch.int32)
        sets = ripple.sets
        rows, *found, items, extra = ops.localize_fold_batch(
            *(sets.heads, sets.relations, sets.tails, sets.counts, ripple.slot_folds),
            *(at, groups.indptr, request.items, groups.folds, extra),
        )
        by_name = dict(zip((*_SETS, "slot_folds"), found, strict=True))
        by_name |= {"group_indptr": groups.indptr, "pair_folds": groups.folds}
        return rows, by_name, items, extra
    at = request.history_ids
    if not isinstance(ripple, RippleSets):
        ripple, at = ripple.of_users(at), torch.arange(len(at), dtype=torch.int32)
    rows, *found, items, extra = ops.localize_batch(
        ripple.heads, ripple.relations, ripple.tails, ripple.counts, at, request.items, extra
    )
    by_name = dict(zip(_SETS, found, strict=True)) | {"group_indptr": request.group_indptr}
    return rows, by_name, items, extra


def _put(inputs: dict[str, Tensor], names: list[str], positions: Tensor) -> None:
    """Replace the named inputs by their positions, which come one input after the other."""
    start = 0
    for name in names:
        ids = inputs[name]
        inputs[name] = positions[start : start + ids.numel()].view(ids.shape)
        start += ids.numel()
