"""Routes of rows: from the processes that have them to the parts of a mini-batch, and back.

A step has two messages from each process to each: one brings the rows that it asked for, the other
their gradients. What else it has to tell goes along, above all which rows its parts of the next
mini-batch touch, so that nobody waits for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.training.parallel.shards import Sharding
from ekpnet_fast.training.parallel.world import Float32, World
from ekpnet_fast.training.state import StepState

__all__ = ["Asked", "Route", "Router", "exchange_joined", "joined"]


class Kind:
    """Rows of one kind in the messages of all processes to this one, and back.

    Args:
        rows: [n, ...], of 4 bytes an element.
        sent: [W] rows for each process.
        received: [W] rows from each process.
        picked: [sum of sent] int32, those of `rows` that are sent, by the process that gets them;
            None where all are, in their order.
    """

    def __init__(
        self,
        rows: Tensor,
        sent: Sequence[int],
        received: Sequence[int],
        picked: Tensor | None = None,
    ) -> None:
        self.rows, self.sent, self.received, self.picked = rows, sent, received, picked
        self.shape = rows.shape[1:]
        self.width = math.prod(self.shape)  # elements of a row
        self._starts = [0, *accumulate(sent)]

    def bounds(self, rank: int) -> slice:
        """Those of what is sent that are for a process."""
        return slice(self._starts[rank], self._starts[rank + 1])

    def write(self, rank: int, memory: Float32) -> None:
        """Write the rows for a process into the memory [sent[rank] width] of a message."""
        if self.picked is None:
            rows = self.rows.numpy()
            memory.view(rows.dtype)[:] = rows[self.bounds(rank)].ravel()
        else:
            ops.take_rows_(torch.from_numpy(memory), self.rows, self.picked[self.bounds(rank)])

    def read(self, memory: Float32) -> Tensor:
        """Rows [n, ...] in the memory [n width] of a message, a view of it."""
        of_rows = torch.from_numpy(memory)
        if self.rows.dtype != torch.float32:
            of_rows = of_rows.view(self.rows.dtype)
        return of_rows.view(-1, *self.shape) if self.shape else of_rows

    def joined(self, came: Sequence[Float32], own: int) -> Tensor:
        """Rows [n, ...] of all processes, one after the other, with those of this one for itself.

        Args:
            came: what `exchange` gave.
            own: rank of this process.
        """
        if len(came) == 1 and self.picked is None:
            return self.rows
        found, end = np.empty(sum(self.received) * self.width, np.float32), 0
        for rank, message in enumerate(came):
            begin, end = end, end + self.received[rank] * self.width
            if rank == own:
                self.write(rank, found[begin:end])
            else:
                found[begin:end] = message
        return self.read(found)


class _ForAll(Kind):
    """Rows of which all processes get all."""

    def bounds(self, rank: int) -> slice:
        """All rows."""
        return slice(0, len(self.rows))


def exchange(world: World, kinds: Sequence[Kind]) -> list[list[Float32]]:
    """Rows of each kind that the others send to this process, [W] by rank, of itself none.

    They are the memory [n width] of messages, which may be read until the next exchange. One
    message to each process carries all kinds.
    """
    own, size = world.rank, world.size
    found = [[_NOTHING] * size for _ in kinds]
    if size == 1 or not kinds:
        return found
    sent = [[kind.sent[rank] * kind.width for kind in kinds] for rank in range(size)]
    came = [[kind.received[rank] * kind.width for kind in kinds] for rank in range(size)]
    sent[own] = came[own] = []
    for rank, message in enumerate(world.outbox([*map(sum, sent)])):
        end = 0
        for kind, length in zip(kinds, sent[rank], strict=rank != own):
            begin, end = end, end + length
            kind.write(rank, message[begin:end])
    for rank, message in enumerate(world.deliver([*map(sum, came)])):
        end = 0
        for k, length in enumerate(came[rank]):
            begin, end = end, end + length
            found[k][rank] = message[begin:end]
    return found


def exchange_joined(world: World, kinds: Sequence[Kind]) -> list[Tensor]:
    """Rows [n, ...] of each kind that all processes have for this one, by rank."""
    came = exchange(world, kinds)
    return [kind.joined(of_kind, world.rank) for kind, of_kind in zip(kinds, came, strict=True)]


_NOTHING = np.zeros(0, np.float32)


class Asked:
    """Rows of one space that the parts of this process touch, by the processes that have them.

    Args:
        sharding: of the space.
        wanted: [P / W] ids [n] int32, distinct within a part.

    Attributes:
        counts: [W, P / W] int32, rows of each process that each part touches.
        rows: [n] int32, rows of the process that has them, by process, then by part.
        order: [n] int32, position of each of `rows` among all that are wanted.
        places: [P / W] positions [n] int32 in `rows` of what each part wants.
        from_each: [W] rows of each process.
    """

    def __init__(self, sharding: Sharding, wanted: Sequence[Tensor]) -> None:
        lengths = [len(ids) for ids in wanted]
        self.rows, self.order, places, self.counts = sharding.placed(joined(wanted), lengths)
        self.places = list(torch.split(places, lengths))
        self.from_each = sums_of_rows(self.counts)


class Route:
    """Way of the rows of one space for one step.

    Args:
        asked: by this process.
        to_each: [W] rows of this process that each process touches.
        rows: [n] int32, these rows, by process, then by part.

    Attributes:
        touched: [u] int32, rows of this process that any part touches, those of the first part
            first.
    """

    def __init__(self, asked: Asked, to_each: Sequence[int], rows: Tensor) -> None:
        self.asked, self.to_each, self.rows = asked, to_each, rows
        self.touched, self._positions = ops.localize(rows)

    def sum(self, grads: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
        """Gradients [u, ...] of the touched rows, added up in the order of the parts.

        Args:
            grads: gradients [n, ...] of some parts, and which of them are meant, in their order;
                all together those of `rows`.
        """
        first, _ = grads[0]
        total = first.new_zeros(len(self.touched), *first.shape[1:])
        end = 0
        for of_rows, picked in grads:
            begin, end = end, end + len(of_rows if picked is None else picked)
            ops.add_rows_(total, self._positions[begin:end], of_rows, picked)
        return total


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """Rows [n, ...] of some pieces, one after the other."""
    return torch.cat(list(pieces)) if len(pieces) > 1 else pieces[0]


def sums_of_rows(counts: Tensor) -> list[int]:
    """Sums of the rows of a table of counts."""
    return [sum(of_row) for of_row in counts.tolist()]


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
        kinds = _rows(asked, exchange_joined(self._world, self._counts(asked)))
        return _routes(asked, kinds, exchange_joined(self._world, kinds))

    def fetch(
        self,
        routes: Mapping[str, Route],
        tables: Mapping[str, Tensor],
        following: Mapping[str, Asked],
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Rows [n, ...] by table that the parts of this process touch, by `Asked.rows`.

        Args:
            routes: of the step.
            tables: by name, the rows that this process has.
            following: what the next step asks for; empty where none is known.

        Returns:
            The rows, and what `give_back` takes as `counts`.
        """
        kinds = []
        for name, space in self._tables.items():
            route = routes[space]
            kinds.append(Kind(tables[name], route.to_each, route.asked.from_each, route.rows))
        came = exchange_joined(self._world, [*kinds, *self._counts(following)])
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
        size, own, kinds = self._world.size, self._world.rank, []
        if size > 1:
            for name, space in self._tables.items():
                asked, to_each = routes[space].asked, routes[space].to_each
                kinds.append(Kind(joined(grads[name]), asked.from_each, to_each, asked.order))
        reports, came, told = self._told(report, kinds, following, counts)
        sums = {}
        for k, (name, space) in enumerate(self._tables.items()):
            # One process has them by part already.
            found: list[tuple[Tensor, Tensor | None]] = [(x, None) for x in grads[name]]
            if size > 1:
                found = [(kinds[k].read(x), None) for x in came[k]]
                found[own] = kinds[k].rows, routes[space].asked.order[kinds[k].bounds(own)]
            sums[name] = routes[space].sum(found)
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
    ) -> tuple[Tensor, list[list[Float32]], dict[str, Route]]:
        """Reports of all, rows of the kinds by rank, and the routes of the next step."""
        own, each = self._world.rank, [len(report)] * self._world.size
        of_report, asking = _ForAll(report, each, each), _rows(following, counts)
        came = exchange(self._world, [of_report, *kinds, *asking])
        asked = [
            kind.joined(pieces, own)
            for kind, pieces in zip(asking, came[len(kinds) + 1 :], strict=True)
        ]
        reports = of_report.joined(came[0], own)
        return reports, came[1 : len(kinds) + 1], _routes(following, asking, asked)

    def _counts(self, asked: Mapping[str, Asked]) -> list[Kind]:
        ones = [1] * self._world.size
        return [Kind(of_space.counts, ones, ones) for of_space in asked.values()]


def _rows(asked: Mapping[str, Asked], counts: Sequence[Tensor]) -> list[Kind]:
    return [
        Kind(of_space.rows, of_space.from_each, sums_of_rows(given))
        for of_space, given in zip(asked.values(), counts, strict=True)
    ]


def _routes(
    asked: Mapping[str, Asked], kinds: Sequence[Kind], rows: Sequence[Tensor]
) -> dict[str, Route]:
    return {
        space: Route(of_space, kind.received, told)
        for (space, of_space), kind, told in zip(asked.items(), kinds, rows, strict=True)
    }
