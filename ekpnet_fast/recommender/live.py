"""Live graph: changes after training."""

from __future__ import annotations

import operator
import reprlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.data.tables import INT32_MAX, Int32
from ekpnet_fast.errors import ConfigError, DataError, quote
from ekpnet_fast.recommender.answers import Change
from ekpnet_fast.recommender.names import Id, text_of
from ekpnet_fast.recommender.state import State
from ekpnet_fast.sampling.graph import Graph

Triple = tuple[Id, Id, Id]

Links: TypeAlias = Iterable[tuple[Id, Id]] | Mapping[Id, "Id | Iterable[Id]"]
"""Triples of an item: (relation, entity), or entities by relation."""


class LiveGraph:
    """Graph of a recommender; a change counts from the next answer on.

    Nothing is trained again. A new entity starts from its neighbours: its row of every table is the
    mean of the rows of those that a triple joins it with, and follows when its triples change.
    Relations are those of training. What was counted over all clicks and triples stays as it was
    until `Recommender.refresh`; a change says what that is.

    An answer that is under way ends with the graph that it began with. Changes wait for each other.
    A change takes time in proportion to the graph, so give many triples at once.

    Examples:
        >>> items = {"new": [("parent", 96), ("parent", "country")]}
        >>> recommender.graph.add_items(items).triples
        2
        >>> recommender.graph.triples("country")
        [('new', 'parent', 'country')]
        >>> recommender.graph.remove_triples([("new", "parent", "country")]).triples
        1
        >>> recommender.explain(history=["new"], item=3).paths > 0
        True
    """

    def __init__(
        self,
        read: Callable[[], State],
        write: Callable[[State], None],
        changing: threading.Lock | None = None,
        owner: object = None,
    ) -> None:
        self._read = read
        self._write = write
        self._lock = changing or threading.Lock()
        self._owner = owner

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle: the graph of a copy of its recommender."""
        return operator.attrgetter("graph"), (self._owner,)

    @property
    def num_triples(self) -> int:
        """Number of triples, without those that are walked backwards."""
        graph = self._read().graph
        return graph.num_triples // (2 if graph.inverse else 1)

    @property
    def num_entities(self) -> int:
        """Number of entities, items included."""
        return self._read().graph.num_entities

    def triples(self, entity: Id) -> list[tuple[Id, Id, Id]]:
        """Triples (head, relation, tail) of an entity, or of an item."""
        state = self._read()
        number = _entity(state, entity)
        heads = _heads(state.graph)
        at = (heads == number) | (state.graph.tails == number)
        forward = state.graph.relations < len(state.relations)
        rows = torch.stack(
            [x[at & forward].long() for x in (heads, state.graph.relations, state.graph.tails)], 1
        )
        return [
            (entity_id(state, h), state.relations.id(r), entity_id(state, t))
            for h, r, t in rows.tolist()
        ]

    def add_triples(
        self, triples: Iterable[Triple], names: Mapping[Id, str] | None = None
    ) -> Change:
        """Add triples (head, relation, tail); heads and tails that are not known are new entities.

        Args:
            triples: entities by their ids, items by the ids of their entities or, where they have
                none, by their own.
            names: of new entities.

        Returns:
            What was added, and what stays as fitted until `Recommender.refresh`.

        Raises:
            DataError: a relation that training did not see, or something that is no triple.
            ConfigError: a model whose answers do not follow the graph.
        """
        given, shown = _checked(triples), checked_names(names)
        with self._lock:
            state = self._live()
            state = _with_entities(state, _new_entities(state, given), shown)
            return self._changed(_with_triples(state, _numbers(state, given)), len(given))

    def remove_triples(self, triples: Iterable[Triple]) -> Change:
        """Remove triples (head, relation, tail); one that is there twice goes twice.

        Raises:
            DataError: one that is not in the graph; then none is taken out.
            ConfigError: a model whose answers do not follow the graph.
        """
        given = _checked(triples)
        with self._lock:
            state = self._live()
            return self._changed(_without_triples(state, _numbers(state, given), given), len(given))

    def add_items(
        self,
        items: Mapping[Id, Links] | Iterable[tuple[Id, Links]],
        names: Mapping[Id, str] | None = None,
    ) -> Change:
        """Add items to the catalogue, each with its triples.

        Args:
            items: by id, the (relation, entity) that it is joined with, or a mapping of relations
                to an entity or several; or pairs of an id and these. Entities that are not known
                are new. Where the graph has an entity of the item's id, the item is that entity;
                else it needs at least one triple to start from.
            names: of new items and entities.

        Raises:
            DataError: an item that is there already, one without triples, or as `add_triples`.
            ConfigError: a model whose answers do not follow the graph.
        """
        links, shown = _checked_items(items), checked_names(names)
        given = [triple for own in links.values() for triple in own]
        with self._lock:
            state = self._live()
            for item, own in links.items():
                entity = _find(state, item)
                if state.items.find(item) is not None or (
                    entity is not None and state.item_of(entity) is not None
                ):
                    raise DataError(f"items: found {item!r}, expected ids that are no items yet")
                if entity is None and not own:
                    raise DataError(
                        f"items: found no triple of {item!r}, expected at least one: a new item"
                        " starts from its neighbours"
                    )
            ids = list(links)
            state = _with_entities(state, _new_entities(state, given), shown)
            entities = [_entity(state, item) for item in ids]
            state = replace(
                state,
                items=state.items.with_more(ids, shown),
                catalogue=torch.cat([state.catalogue, torch.tensor(entities, dtype=torch.int32)]),
            )
            return self._changed(_with_triples(state, _numbers(state, given)), len(given))

    def _changed(self, after: State, triples: int) -> Change:
        """Write a state, and say what is new in it."""
        before = self._read()
        self._write(after)
        return Change(
            items=after.num_items - before.num_items,
            entities=len(after.entities) - len(before.entities),
            triples=triples,
            as_fitted=after.model.as_fitted,
        )

    def _live(self) -> State:
        state = self._read()
        if not state.model.live:
            raise ConfigError(
                f"graph: model {state.model.name} keeps what it read of the graph, expected one"
                " that reads it anew, such as ekpnet"
            )
        return state


@dataclass(frozen=True)
class _Columns:
    """Columns of triples by number, inverse ones not counted."""

    heads: Int32
    relations: Int32
    tails: Int32


def entity_id(state: State, number: int) -> Id:
    """Id of an entity; of an item without one the item's."""
    found = state.entities.id(number)
    item = state.item_of(number) if found == "" else None
    return found if item is None else state.items.id(item)


def _find(state: State, given: Id) -> int | None:
    """Find the number of an entity by its id, or by that of its item."""
    found = state.entities.find(given)
    if found is None:
        item = state.items.find(given)
        found = None if item is None else int(state.catalogue[item])
    return found


def _entity(state: State, given: Id) -> int:
    found = _find(state, given)
    return state.entities.number(given) if found is None else found


def _new_entities(state: State, given: Sequence[Triple]) -> list[str]:
    """Ids of heads and tails that are not known, each once."""
    new = [id_ for h, _, t in given for id_ in (h, t) if _find(state, id_) is None]
    return list(dict.fromkeys(map(text_of, new)))


def _checked(triples: object) -> list[Triple]:
    expected = "expected (head, relation, tail)"
    return [
        (checked_id("triples", h), checked_id("triples", r), checked_id("triples", t))
        for h, r, t in _rows("triples", triples, 3, expected)
    ]


def _checked_items(items: object) -> dict[str, list[Triple]]:
    """Triples of new items by id."""
    expected = "expected {item: [(relation, entity), ...]}"
    pairs = items.items() if isinstance(items, Mapping) else _rows("items", items, 2, expected)
    found: dict[str, list[Triple]] = {}
    for item, own in pairs:
        key = text_of(checked_id("items", item))
        if key in found:
            raise DataError(f"items: found {item!r} twice, expected each id once")
        if isinstance(own, Mapping):
            own = [
                (relation, entity)
                for relation, ends in own.items()
                for entity in (ends if _is_list(ends) else [ends])
            ]
        found[key] = [
            (key, checked_id("items", relation), checked_id("items", entity))
            for relation, entity in _rows(f"items: {key}", own, 2, "expected (relation, entity)")
        ]
    return found


def checked_names(names: object) -> dict[Id, str] | None:
    """Names of new entities, which are texts."""
    if names is None:
        return None
    if not isinstance(names, Mapping):
        raise DataError(f"names: found {_shown(names)}, expected {{id: name}}")
    for name in names.values():
        if not isinstance(name, str):
            raise DataError(f"names: found {_shown(name)}, expected a text")
        checked_id("names", name or "-")
    return {checked_id("names", key): str(name) for key, name in names.items()}


def _rows(argument: str, rows: object, width: int, expected: str) -> Iterator[tuple[Any, ...]]:
    """Rows of lists, tuples or arrays, each of so many values."""
    if not _is_list(rows):
        raise DataError(f"{argument}: found {_shown(rows)}, {expected} rows")
    for row in rows:
        values = tuple(row) if _is_list(row) else ()
        if len(values) != width:
            raise DataError(f"{argument}: found {_shown(row)}, {expected}")
        yield values


def _is_list(value: object) -> TypeGuard[Iterable[Any]]:
    """Whether a value is a list, an array or the like, not a single text and no mapping."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return False
    return getattr(value, "ndim", 1) > 0  # an array of no dimension says that it is iterable


def checked_id(argument: str, given: object) -> Id:
    """Check an id: a text that is not empty, or a whole number."""
    if isinstance(given, str) and given:
        try:
            given.encode()
        except UnicodeEncodeError:
            raise DataError(f"{argument}: found {given!r}, expected Unicode text") from None
        return str(given)
    if isinstance(given, str | bool | np.bool_) or not hasattr(given, "__index__"):
        raise DataError(f"{argument}: found {_shown(given)}, expected an id: a text or a number")
    return operator.index(given)


def _shown(value: object) -> str:
    """Value in an error, cut, with its type."""
    return f"{quote(reprlib.repr(value))[1:-1]} ({type(value).__name__})"


def _numbers(state: State, triples: Sequence[Triple]) -> _Columns:
    def column(values: list[int]) -> Int32:
        return np.array(values, dtype=np.int32)

    return _Columns(
        column([_entity(state, h) for h, _, _ in triples]),
        column([state.relations.number(r) for _, r, _ in triples]),
        column([_entity(state, t) for _, _, t in triples]),
    )


def _heads(graph: Graph) -> Tensor:
    """Head of each triple, [T] int32."""
    return torch.repeat_interleave(graph.indptr.diff(), output_size=graph.num_triples).int()


def _with_entities(state: State, ids: list[str], names: Mapping[Id, str] | None) -> State:
    """Append entities, without triples and with rows of zeros."""
    if not ids:
        return state
    old, n = state.graph.num_entities, len(ids)
    if old + n > INT32_MAX:
        raise DataError(f"triples: found {n} new entities, expected at most {INT32_MAX - old}")
    tables = dict(state.tables)
    for name, space in state.model.tables.items():
        if space == "entity":
            tables[name] = torch.cat(
                [tables[name], tables[name].new_zeros(n, *tables[name].shape[1:])]
            )
    indptr = state.graph.indptr
    graph = replace(
        state.graph,
        indptr=torch.cat([indptr, indptr[-1:].expand(n)]),
        num_entities=old + n,
    )
    return replace(
        state,
        tables=tables,
        graph=graph,
        entities=state.entities.with_more(ids, names),
        added=np.append(state.added, np.arange(old, old + n, dtype=np.int32)),
    )


def _with_triples(state: State, new: _Columns) -> State:
    """Add triples behind those of their heads, so that draws from other heads stay as they were."""
    graph = state.graph
    heads, relations, tails = (torch.from_numpy(x) for x in vars(new).values())
    columns = [(heads, relations, tails)]
    if graph.inverse:
        columns.append((tails, relations + len(state.relations), heads))
    return _rebuilt(state, columns, torch.ones(graph.num_triples, dtype=torch.bool))


def _without_triples(state: State, gone: _Columns, given: Sequence[Triple]) -> State:
    graph, R = state.graph, len(state.relations)
    columns = [(gone.heads, gone.relations, gone.tails)]
    if graph.inverse:
        columns.append((gone.tails, gone.relations + R, gone.heads))
    keep = np.ones(graph.num_triples, dtype=np.bool_)
    indptr, relations, tails = graph.indptr, graph.relations, graph.tails
    for backwards, (hs, rs, ts) in enumerate(columns):
        for i, (h, r, t) in enumerate(zip(hs.tolist(), rs.tolist(), ts.tolist(), strict=True)):
            first, last = int(indptr[h]), int(indptr[h + 1])
            at = (relations[first:last] == r) & (tails[first:last] == t)
            if not backwards and not bool(at.any()):
                raise DataError(f"triples: found {given[i]!r}, expected one that is in the graph")
            keep[first:last] &= ~at.numpy()
    return _rebuilt(state, [], torch.from_numpy(keep))


def _rebuilt(
    state: State,
    more: list[tuple[Tensor, Tensor, Tensor]],  # heads, relations, tails
    keep: Tensor,  # [T] bool
) -> State:
    """Rebuild the graph of the triples kept and some more, and the rows of added entities."""
    graph = state.graph
    columns = [(_heads(graph)[keep], graph.relations[keep].int(), graph.tails[keep]), *more]
    heads, relations, tails = (torch.cat(parts) for parts in zip(*columns, strict=True))
    csr = ops.build_csr(heads, relations, tails, graph.num_entities, graph.num_relations)
    graph = replace(graph, indptr=csr[0], relations=csr[1], tails=csr[2])
    return replace(state, graph=graph, tables=_started(state, graph))


def _started(state: State, graph: Graph) -> dict[str, Tensor]:
    """Tables, with the rows of added entities computed from their neighbours.

    A neighbour that was added itself counts once it has a row, so that a chain of new entities
    gets its rows from where it hangs on the old ones; one that hangs on nothing keeps zeros.
    """
    tables = dict(state.tables)
    names = [name for name, space in state.model.tables.items() if space == "entity"]
    if not len(state.added):
        return tables
    for name in names:
        tables[name] = tables[name].clone()
    neighbors = _neighbors(graph, state.added)
    waiting = {int(entity) for entity in state.added}
    for entity in waiting:
        for name in names:
            tables[name][entity] = 0
    while True:
        ready = {
            entity: known
            for entity in sorted(waiting)
            if (known := [n for n in neighbors[entity] if n not in waiting])
        }
        if not ready:
            return tables
        for name in names:
            rows = {e: tables[name][torch.tensor(known)].mean(0) for e, known in ready.items()}
            for entity, row in rows.items():
                tables[name][entity] = row
        waiting -= ready.keys()


def _neighbors(graph: Graph, entities: Int32) -> dict[int, list[int]]:
    """Neighbours of each entity: those that a triple joins it with, either way, each once."""
    heads, tails = _heads(graph), graph.tails
    wanted = torch.zeros(graph.num_entities, dtype=torch.bool)
    wanted[torch.from_numpy(entities).long()] = True
    found: dict[int, set[int]] = {int(entity): set() for entity in entities}
    for own, other in ((heads, tails), (tails, heads)):
        at = wanted[own.long()]
        for entity, neighbor in zip(own[at].tolist(), other[at].tolist(), strict=True):
            if entity != neighbor:
                found[entity].add(neighbor)
    return {entity: sorted(others) for entity, others in found.items()}
