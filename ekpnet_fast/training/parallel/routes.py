"""Routes of rows: from the processes that have them to the parts of a mini-batch, and back.

A step has two messages from each process to each: one brings the rows that it asked for, the other
their gradients. What else it has to tell goes along, above all which rows its parts of the next
mini-batch touch, so that nobody waits for that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.training.parallel.shards import Sharding
from ekpnet_fast.training.parallel.world import World
from ekpnet_fast.training.state import StepState

__all__ = ["Asked", "Route", "Router", "exchange", "joined"]


class Kind(NamedTuple):
    """Rows of one kind in the messages of all processes to this one, and back.

    Attributes:
        rows: [n, ...], of 4 bytes an element.
        sent: [W] rows for each process.
        received: [W] rows from each process.
        picked: [sum of sent] int64, those of `rows` that are sent, by the process that gets them;
            None where all are, in their order.
    """

    rows: Tensor
    sent: Sequence[int]
    received: Sequence[int]
    picked: Tensor | None = None

    @property
    def width(self) -> int:
        """Elements of a row."""
        return math.prod(self.rows.shape[1:])

    def part(self, first: int, last: int) -> Tensor:
        """Rows [last - first, ...] of those that are sent."""
        if self.picked is None:
            return self.rows[first:last]
        return self.rows.index_select(0, self.picked[first:last])

    def write(self, first: int, last: int, memory: Tensor) -> None:
        """Write such rows into the memory [(last - first) width] float32 of a message."""
        out = self.read(memory, last - first)
        if self.picked is None:
            out.copy_(self.rows[first:last])
        else:
            torch.index_select(self.rows, 0, self.picked[first:last], out=out)

    def read(self, memory: Tensor, count: int) -> Tensor:
        """Rows [count, ...] in the memory [count width] float32 of a message, a view of it."""
        return memory.view(self.rows.dtype).view(count, *self.rows.shape[1:])


def exchange(world: World, kinds: Sequence[Kind]) -> list[list[Tensor]]:
    """Rows [n, ...] of each kind that the processes send to this one, [W] by rank.

    One message to each process carries all kinds. Rows of others may be read until the next
    exchange.
    """
    own, widths = world.rank, [kind.width for kind in kinds]
    starts = [[*accumulate(kind.sent, initial=0)] for kind in kinds]
    found = [
        [kind.part(at[own], at[own + 1])] * world.size
        for kind, at in zip(kinds, starts, strict=True)
    ]
    if world.size == 1 or not kinds:
        return found
    for rank, k, memory in _cut(world.outbox, [kind.sent for kind in kinds], widths, own):
        kinds[k].write(starts[k][rank], starts[k][rank + 1], memory)
    for rank, k, memory in _cut(world.deliver, [kind.received for kind in kinds], widths, own):
        found[k][rank] = kinds[k].read(memory, kinds[k].received[rank])
    return found


def _cut(
    messages: Callable[[Sequence[int]], list[Tensor]],
    counts: Sequence[Sequence[int]],  # rows of each kind, [W] by rank
    widths: Sequence[int],
    own: int,
) -> Iterator[tuple[int, int, Tensor]]:
    """Cut the messages for or from all ranks but `own`: a rank, number of a kind, and its memory.

    `messages` gives those of the lengths [W] that it is told.
    """
    sizes = [
        [count[rank] * width for count, width in zip(counts, widths, strict=True)]
        if rank != own
        else []
        for rank in range(len(counts[0]))
    ]
    for rank, message in enumerate(messages([sum(of_rank) for of_rank in sizes])):
        end = 0
        for k, size in enumerate(sizes[rank]):
            begin, end = end, end + size
            yield rank, k, message[begin:end]


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """Rows [n, ...] of some pieces, one after the other."""
    return torch.cat(list(pieces)) if len(pieces) > 1 else pieces[0]


class Asked:
    """Rows of one space that the parts of this process touch, by the processes that have them.

    Args:
        sharding: of the space.
        wanted: [P / W] ids [n] int32, distinct within a part.

    Attributes:
        counts: [W, P / W] int32, rows of each process that each part touches.
        rows: [n] int32, rows of the process that has them, by process, then by part.
        order: [n] int64, position of each of `rows` among all that are wanted.
        places: [P / W] positions [n] int32 in `rows` of what each part wants.
    """

    def __init__(self, sharding: Sharding, wanted: Sequence[Tensor]) -> None:
        size, each = sharding.world.size, len(wanted)
        lengths = [len(ids) for ids in wanted]
        shards, rows = sharding.places(torch.cat(list(wanted)))
        keys = shards  # of owners and parts; one and the same where each process has one
        if each > 1:
            part = torch.repeat_interleave(torch.arange(each), torch.tensor(lengths))
            keys = shards // each * each + part
        # NumPy sorts bytes in one pass.
        order = np.argsort(keys.to(torch.uint8).numpy(), kind="stable")
        self.order = torch.from_numpy(order)
        places = torch.empty(len(order), dtype=torch.int32)
        places[self.order] = torch.arange(len(order), dtype=torch.int32)
        self.places = list(torch.split(places, lengths))
        self.rows = rows.index_select(0, self.order).int()
        self.counts = keys.bincount(minlength=sharding.shards).view(size, each).int()
        self.from_each: list[int] = self.counts.sum(1).tolist()


class Route:
    """Way of the rows of one space for one step.

    Args:
        asked: by this process.
        counts: [W, P / W] int32, rows of this process that each part touches.
        rows: [sum of counts] int32, these rows.

    Attributes:
        touched: [u] int32, rows of this process that any part touches.
        positions: [sum of counts] int64, positions of `rows` in it.
    """

    def __init__(self, asked: Asked, counts: Tensor, rows: Tensor) -> None:
        self.asked = asked
        self.to_each: list[int] = counts.sum(1).tolist()
        self._to_parts: list[list[int]] = counts.tolist()
        self.touched, positions = ops.localize(rows)
        self.positions = positions.long()  # torch adds rows several times faster by int64

    def of_parts(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """Gradients [n, ...] of the rows of each part from those that each process sent."""
        pairs = zip(grads, self._to_parts, strict=True)
        return [part for sent, lengths in pairs for part in torch.split(sent, lengths)]

    def sum(self, of_parts: Sequence[Tensor]) -> Tensor:
        """Gradients [u, ...] of the touched rows from those of each part, added in their order."""
        first, *others = of_parts
        # `touched` begins with the rows of the first part, in its order.
        total = torch.cat(
            [first, first.new_zeros(len(self.touched) - len(first), *first.shape[1:])]
        )
        at = len(first)
        for part in others:
            # In any order, because a part names a row once.
            total.index_add_(0, self.positions[at : at + len(part)], part)
            at += len(part)
        return total


class Router:
    """Router of the rows of some tables.

    Args:
        shardings: by space.
        tables: spaces by the names of the tables.
        world: the processes.
    """

    def __init__(
        self, shardings: Mapping[str, Sharding], tables: Mapping[str, str], world: World
    ) -> None:
        self._shardings, self._tables, self._world = shardings, tables, world

    def ask(self, wanted: Mapping[str, Sequence[Tensor]]) -> dict[str, Asked]:
        """Rows that the parts of this process touch, by space; tells nobody.

        Args:
            wanted: by space as for `Asked`.
        """
        return {space: Asked(self._shardings[space], ids) for space, ids in wanted.items()}

    def routes(self, asked: Mapping[str, Asked]) -> dict[str, Route]:
        """Routes by space, by two messages of their own."""
        counts = [*map(joined, exchange(self._world, self._counts(asked)))]
        return _routes(asked, counts, exchange(self._world, _rows(asked, counts)))

    def fetch(
        self,
        routes: Mapping[str, Route],
        touched: Mapping[str, Tensor],
        following: Mapping[str, Asked],
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Rows [n, ...] by table that the parts of this process touch, by `Asked.rows`.

        Args:
            routes: of the step.
            touched: by table the rows [u, ...] of `Route.touched`.
            following: what the next step asks for; empty where none is known.

        Returns:
            The rows, and what `give_back` takes as `counts`.
        """
        kinds = []
        for name, space in self._tables.items():
            route = routes[space]
            asked = route.asked.from_each
            kinds.append(Kind(touched[name], route.to_each, asked, route.positions))
        came = [*map(joined, exchange(self._world, [*kinds, *self._counts(following)]))]
        return dict(zip(self._tables, came[: len(kinds)], strict=True)), came[len(kinds) :]

    def give_back(
        self,
        routes: Mapping[str, Route],
        grads: Mapping[str, Sequence[Tensor]],
        report: Tensor,
        following: Mapping[str, Asked],
        counts: Sequence[Tensor],
    ) -> tuple[dict[str, Tensor], Tensor, dict[str, Route]]:
        """Give gradients to the processes that have the rows, and a report to all.

        Args:
            routes: of the step.
            grads: by table [P / W] gradients [n, ...] of the rows that each part wants.
            report: [P / W, L] float32.
            following: what the next step asks for; empty where none is known.
            counts: what `fetch` gave of it.

        Returns:
            By table the gradients [u, ...] of `Route.touched`, summed in the order of the parts;
            the reports [P, L] of all parts; the routes of the next step.
        """
        size, kinds = self._world.size, []
        if size > 1:
            for name, space in self._tables.items():
                asked = routes[space].asked
                to_each, rows = routes[space].to_each, joined(grads[name])
                kinds.append(Kind(rows, asked.from_each, to_each, asked.order))
        reports, came, told = self._told(report, kinds, following, counts)
        sums = {}
        for k, (name, space) in enumerate(self._tables.items()):
            # One process has them by part already.
            of_parts = routes[space].of_parts(came[k]) if size > 1 else grads[name]
            sums[name] = routes[space].sum(of_parts)
        return sums, reports, told

    def update(
        self,
        state: StepState,
        backend: ModuleType,
        routes: Mapping[str, Route],
        sums: Mapping[str, Tensor],
        names: Sequence[str],
        l2: float,
    ) -> None:
        """Update the touched rows of some tables, and the parameters that have a gradient.

        Args:
            state: of the optimizer.
            backend: `ops` or `reference`.
            routes: of the step.
            sums: gradients that `give_back` gave.
            names: of the tables that have a gradient, on any process.
            l2: decay of the rows.
        """
        rows = {name: routes[self._tables[name]].touched for name in names}
        of_rows = {name: sums[name] for name in names}
        state.apply(backend, rows, of_rows, step=state.steps, l2=l2)

    def _told(
        self,
        report: Tensor,
        kinds: Sequence[Kind],
        following: Mapping[str, Asked],
        counts: Sequence[Tensor],
    ) -> tuple[Tensor, list[list[Tensor]], dict[str, Route]]:
        """Reports of all, rows of the kinds by rank, and the routes of the next step."""
        size, each = self._world.size, [len(report)] * self._world.size
        all_kinds = [Kind(report.repeat(size, 1), each, each), *kinds, *_rows(following, counts)]
        reports, *came = exchange(self._world, all_kinds)
        asked = came[len(kinds) :]
        return joined(reports), came[: len(kinds)], _routes(following, counts, asked)

    def _counts(self, asked: Mapping[str, Asked]) -> list[Kind]:
        ones = [1] * self._world.size
        return [Kind(of_space.counts, ones, ones) for of_space in asked.values()]


def _rows(asked: Mapping[str, Asked], counts: Sequence[Tensor]) -> list[Kind]:
    return [
        Kind(of_space.rows, of_space.from_each, given.sum(1).tolist())
        for of_space, given in zip(asked.values(), counts, strict=True)
    ]


def _routes(
    asked: Mapping[str, Asked], counts: Sequence[Tensor], rows: Sequence[Sequence[Tensor]]
) -> dict[str, Route]:
    return {
        space: Route(of_space, given, joined(told))
        for (space, of_space), given, told in zip(asked.items(), counts, rows, strict=True)
    }
