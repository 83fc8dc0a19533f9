"""Ripple sets of all users, and mini-batches of user groups made from them.

A *space* is a set of ids that tables are indexed by: "entity", "user", "item" (an item's id is its
entity's), or one of a model's own. A mini-batch lists the rows that it touches space by space.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.data import PreparedData, Rows
from ekpnet_fast.graph import Graph
from ekpnet_fast.histories import Histories

if TYPE_CHECKING:
    from ekpnet_fast.folds import DrawnRippleSets, Folds


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
        users: Tensor | None = None,  # [U] int32, ids that key the draw
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
                users=users,
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

    @classmethod
    def none(cls, num_users: int) -> RippleSets:
        """For a model that does not propagate: H = M = 0."""
        empty = torch.zeros(num_users, 0, 0, dtype=torch.int32)
        return cls(empty, empty, empty, torch.zeros(num_users, 0, dtype=torch.int32))


@dataclass(frozen=True)
class Source:
    """What a model may draw from besides the labelled rows: the graph and the train histories."""

    graph: Graph
    num_users: int
    num_items: int
    history_indptr: Tensor  # [U + 1] int64
    history_items: Tensor  # [history_indptr[-1]] int32, sorted and distinct within a user
    seed: int
    item_names: tuple[str, ...] | None = None  # [I] titles, where the data set has them

    @classmethod
    def of(cls, prepared: PreparedData, graph: Graph, seed: int) -> Source:
        """That of a prepared data set."""
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
        """[U] the train histories."""
        return Histories(self.history_indptr, self.history_items)


@dataclass(frozen=True)
class Request:
    """The pairs that a model is asked to give further inputs for, in global ids, on the CPU.

    Attributes:
        users: [G] int32, user of each group.
        group_indptr: [G + 1] int64, pairs of each group.
        items: [B] int32, item of each pair.
        epoch: keys what is drawn; 0 for evaluation, from 1 in training.
        histories: what `ids` count; None for the train histories, where ids are users.
        ids: [G] int32, the history that each group is seen with.
        folds: F; above 1 `histories` are those of virtual users, whose id is user * F + fold, and
            the clicks of that fold must not be counted in anything that describes the group.
        rows: [B] int64, the pairs' places in the training rows; None where they have none.
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
    def seen(self) -> Tensor:
        """[G] int32, which of the histories each group is seen with."""
        return self.users if self.ids is None else self.ids

    @property
    def pair_users(self) -> Tensor:
        """[B] int32, the user of each pair."""
        return torch.repeat_interleave(self.users, self.group_indptr.diff())


Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Reads:
    """What a model reads of a mini-batch.

    Attributes:
        spaces: of its row-sparse tables; a mini-batch lists the touched rows of these only.
        inputs: gives further tensors for a mini-batch, by name.
        input_spaces: which of those hold ids of a space; in training they become positions in
            the touched rows.
    """

    spaces: Collection[str] = ("entity",)
    inputs: Callable[[Request], Inputs] | None = None
    input_spaces: Mapping[str, str] = field(default_factory=dict)

    def of(self, request: Request) -> Inputs:
        """The further inputs of some pairs, in global ids."""
        return {} if self.inputs is None else self.inputs(request)


@dataclass(frozen=True)
class Plan:
    """What the mini-batches of a stage consist of.

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
        """Refuse what no stage can do."""
        if self.every < 1:
            raise ValueError(f"every is {self.every}, expected at least 1")
        if not self.pairs and self.triples != "joined":
            raise ValueError(f"a stage without pairs has triples {self.triples!r}, not 'joined'")


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
        inputs: what the model's `inputs` gave.
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
        """B."""
        return self.items.numel()

    @property
    def groups(self) -> Tensor:
        """[B] int64, the group of each pair."""
        lengths = self.group_indptr.diff()
        return torch.repeat_interleave(lengths, output_size=self.num_pairs)

    def to(self: Moved, device: torch.device) -> Moved:
        """The same on a device."""
        return replace(
            self, **{f.name: _moved(getattr(self, f.name), device) for f in fields(self)}
        )


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


@dataclass(frozen=True, kw_only=True)
class Batch(Pairs):
    """A mini-batch in terms of the table rows it touches.

    Attributes:
        rows: [n] int32, entity ids of the touched rows; entity ids elsewhere are positions in it.
        touched: per space but "entity", [n] int32, ids of the touched rows.
        labels: [B] float32.
        triple_heads, triple_relations, triple_tails: [K] int32, true then corrupted triples.
        triple_labels: [K] int8.
        relation_touched: [R] float32, 1 where the ripple sets or the triples name the relation.
        real: [B] float32, 1 for pairs and 0 for padding; None if all are pairs.
        real_pairs: [] float32, how many are; None if all are.
    """

    rows: Tensor
    labels: Tensor
    triple_heads: Tensor
    triple_relations: Tensor
    triple_tails: Tensor
    triple_labels: Tensor
    relation_touched: Tensor
    touched: Mapping[str, Tensor] = field(default_factory=dict)
    real: Tensor | None = None
    real_pairs: Tensor | None = None

    @property
    def size(self) -> int:
        """What a loss is divided by: B, or the true triples of a batch without pairs."""
        return self.num_pairs or self.triple_heads.numel() // 2

    def rows_of(self, space: str) -> Tensor:
        """[n] int32, ids of the touched rows of a space."""
        return self.rows if space == "entity" else self.touched[space]


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


@dataclass(frozen=True)
class TrainingRows:
    """The labelled rows of a run, as a model may look at them before it is trained.

    Attributes:
        rows: by user, or by virtual user where there are folds.
        histories: [U], or [U * folds] of the virtual users.
        folds: F.
        redraw: gives the items [N] of `rows` in an epoch, where they differ by epoch.
    """

    rows: UserRows
    histories: Histories
    folds: int = 1
    redraw: Callable[[int], Tensor] | None = None


def _ahead(prepare: Callable[[int], Batch], numbers: range) -> Iterator[Batch]:
    """The batches in turn, each prepared by another thread while the one before is in use."""
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
    """An epoch's pairs in their order: batch i consists of the groups cuts[i] .. cuts[i + 1]."""

    items: Tensor  # [N] int32
    labels: Tensor  # [N] float32
    group_indptr: Tensor  # [G + 1] int64, pairs of each group
    group_users: Tensor  # [G] int32, virtual users where there are folds
    cuts: list[int]
    rows: Tensor  # [N] int64, where each pair stands in the rows


class BatchStream:
    """The mini-batches of each epoch.

    Args:
        graph: where the triples of the KG term come from.
        rows: the labelled training rows.
        batch_size: B, pairs per batch; the last batch of an epoch is smaller.
        group_size: pairs of one user per group, at most.
        triples: true triples per batch for the KG term, and as many corrupted; 0 for none.
        seed: of the shuffling and of the triples.
        reads: what the model reads of a batch.
        plan: what the batches consist of.
        redraw: gives the items [N] of `rows` in an epoch, for rows that differ by epoch.
        folds: whose rows `rows` are, if they are by virtual user; ripple sets then are too.
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
        reads: Reads | None = None,
        plan: Plan | None = None,
        redraw: Callable[[int], Tensor] | None = None,
        folds: Folds | None = None,
    ) -> None:
        self.graph = graph
        self.rows = rows
        self.batch_size = batch_size
        self.group_size = min(group_size, batch_size)
        self.triples = triples
        self.seed = seed
        self.reads = Reads() if reads is None else reads
        self.plan = Plan(triples="joined") if plan is None else plan
        self.redraw = redraw
        self.folds = folds

    @property
    def epoch_size(self) -> int:
        """What an epoch passes over: the labelled rows, or the triples if there are none."""
        return len(self.rows.items) if self.plan.pairs else self.graph.num_triples

    def order(self, epoch: int) -> EpochOrder:
        """The pairs, groups and cuts of an epoch, drawn from (seed, epoch)."""
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
        ripple: RippleSets | DrawnRippleSets,
        *,
        skip: int = 0,
        ahead: bool = False,
    ) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            epoch: keys what is drawn.
            ripple: the ripple sets of all users.
            skip: leave out the first so many, without computing them.
            ahead: prepare the next batch in a thread beside the current step. That pays where a
                GPU computes; on a CPU it would take a core from the step's own threads, which
                wait for each other.
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
                request = Request(nothing, torch.zeros(1, dtype=torch.int64), nothing, epoch)
                return self._batch(ripple, request, torch.zeros(0), triples)
            first, last = cuts[i], cuts[i + 1]
            pairs = slice(int(indptr[first]), int(indptr[last]))
            request = Request(
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
        """The batches of pairs by number, and None for a batch of triples."""
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
        ripple: RippleSets | DrawnRippleSets,
        request: Request,
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
        at = request.seen
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
            touched[space], positions = localize(torch.cat(parts))
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


def localize(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct ids of [N] int32 in order of first appearance, and [N] positions in them."""
    none = RippleSets.none(0)
    sets = (none.heads, none.relations, none.tails, none.counts)
    rows, *_, positions = ops.localize_batch(*sets, ids[:0], ids[:0], ids)
    return rows, positions


def _put(inputs: dict[str, Tensor], names: list[str], positions: Tensor) -> None:
    """Replace the named inputs by their positions, which come one input after the other."""
    start = 0
    for name in names:
        ids = inputs[name]
        inputs[name] = positions[start : start + ids.numel()].view(ids.shape)
        start += ids.numel()


def history_tensors(prepared: PreparedData) -> tuple[Tensor, Tensor]:
    """The train histories as the sampler takes them: indptr [U + 1] int64, items int32."""
    return torch.from_numpy(prepared.history_indptr), torch.from_numpy(prepared.history_items)
