"""State of a recommender: all its data at one moment, and the scores that follow from them.

A `State` never changes: live changes of the graph make a new one, and an answer that began with the
old one ends with it. Items are numbered by their place in the catalogue; `catalogue` says which
entity each one is. Users and entities are numbered as in training, new ones behind them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data.tables import Int32
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.evaluation.scoring import Scorer, UserGroups
from ekpnet_fast.models import Model
from ekpnet_fast.models.base import widened
from ekpnet_fast.ops.backends import BACKENDS
from ekpnet_fast.recommender.item_index import IndexHolder
from ekpnet_fast.recommender.names import Names
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.pairs import TrainContext
from ekpnet_fast.sampling.ripple_sets import RippleSets


@dataclass(frozen=True)
class QueryBatch:
    """Batch of queries that are scored together: n users that training saw, or n histories.

    Attributes:
        users: [n] int32 numbers of users; for histories the number behind those that training saw,
            which keys their draws.
        indptr: [n + 1] int64, entities of each history.
        entities: [indptr[-1]] int32, sorted and distinct within a history.
        known: whether these are users that training saw.
    """

    users: Tensor
    indptr: Tensor
    entities: Tensor
    known: bool

    def __len__(self) -> int:
        """Number of queries, n."""
        return self.users.numel()


@dataclass(frozen=True, eq=False)
class State:
    """State: model, graph, names and histories.

    Attributes:
        config: the run that trained the model.
        model: the model; its tables are those of training.
        stage: whose prediction the weights give.
        tables: the tables by name, on the device, with rows for new entities.
        graph: that the histories ripple through.
        catalogue: [I] int32, the entity of each item; the first ones are 0, 1, 2, ...
        users, items, entities, relations: their ids and names; of relations without the inverse.
        history_indptr, history_items: [U + 1] int64 and int32, entities that the users clicked, as
            training saw them, and since; sorted and distinct within a user.
        consumed_indptr, consumed_items: [U + 1] int64 and int32, sorted items that each user
            has touched in the whole data set, and since.
        added: entities that training did not see; their rows follow from their neighbours.
        data_hash: of the data that trained the model.
        index: of the catalogue, for lists by candidates; a state made from another has the same.
    """

    config: RunConfig
    model: Model
    stage: str
    tables: Mapping[str, Tensor]
    graph: Graph
    catalogue: Tensor
    users: Names
    items: Names
    entities: Names
    relations: Names
    history_indptr: Tensor
    history_items: Tensor
    consumed_indptr: NDArray[np.int64]
    consumed_items: Int32
    added: Int32
    data_hash: str
    index: IndexHolder = field(default_factory=IndexHolder)

    # ---- derived values ------------------------------------------------------------------------

    @cached_property
    def device(self) -> torch.device:
        """Device that computes scores."""
        of = next(iter(self.model.state_dict().values()), None)
        return torch.device("cpu") if of is None else of.device

    @property
    def num_items(self) -> int:
        """Number of items, I."""
        return self.catalogue.numel()

    @cached_property
    def catalogue_there(self) -> Tensor:
        """Catalogue on the device."""
        return self.catalogue.to(self.device)

    @cached_property
    def _item_numbers(self) -> Tensor:
        """Item of each entity [E], -1 where it is none."""
        numbers = torch.full((self.graph.num_entities,), -1, dtype=torch.int32)
        numbers[self.catalogue.long()] = torch.arange(self.num_items, dtype=torch.int32)
        return numbers

    def item_of(self, entity: int) -> int | None:
        """Item that an entity is."""
        number = int(self._item_numbers[entity])
        return None if number < 0 else number

    def items_of(self, entities: Tensor) -> list[int]:
        """Items that some entities [n] are, all of which are items."""
        found: list[int] = self._item_numbers[entities.long()].tolist()
        return found

    def item_name(self, item: int) -> str | None:
        """Name of an item, or of its entity; None where neither has one."""
        of = (self.items, item), (self.entities, int(self.catalogue[item]))
        given = (names.given(number) for names, number in of)
        read = (names.name(number) for names, number in of)  # perhaps from an IRI
        return next((name for name in (*given, *read) if name), None)

    @cached_property
    def item_directions(self) -> Tensor:
        """Rows of the items [I, D], scaled to norm 1, on the device.

        Raises:
            ConfigError: the model has no row for an item.
        """
        name = next((name for name in ("item", "entity") if name in self.tables), None)
        if name is None:
            raise ConfigError(
                f"similar_items: model {self.model.name} has no vectors of items, expected one with"
                " a table of items or entities"
            )
        rows = widened(self.tables[name][self.catalogue_there])
        rows = rows[:, 0] if rows.dim() == 3 else rows
        return torch.nn.functional.normalize(rows, dim=1)

    # ---- queries ---------------------------------------------------------------------------------

    def of_users(self, numbers: Sequence[int]) -> QueryBatch:
        """Batch of users; one that came later is asked for by the history."""
        starts, ends = self.history_indptr[:-1], self.history_indptr[1:]
        parts = [self.history_items[int(starts[u]) : int(ends[u])] for u in numbers]
        indptr = torch.zeros(len(parts) + 1, dtype=torch.int64)
        for i, part in enumerate(parts):
            indptr[i + 1] = indptr[i] + part.numel()
        entities = parts[0] if len(parts) == 1 else torch.cat(parts)
        trained = self.model.source.num_users
        users = torch.tensor([min(number, trained) for number in numbers], dtype=torch.int32)
        known = all(number < trained for number in numbers)
        return QueryBatch(users, indptr, entities, known=known)

    def of_histories(self, histories: Sequence[NDArray[np.integer]]) -> QueryBatch:
        """Batch of histories of items; order and repeats play no part.

        Raises:
            ConfigError: the model knows users only.
        """
        if not self.model.new_users:
            raise ConfigError(
                f"history: model {self.model.name} scores users that it was trained on, expected"
                " user=, or a model that reads the history, such as ekpnet"
            )
        catalogue = self.catalogue.numpy()
        # A set and a sort of Python's, because those of NumPy take longer for such short ones.
        parts = [
            np.array(sorted(set(catalogue[items].tolist())), dtype=np.int32) for items in histories
        ]
        indptr = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in parts], out=indptr[1:])
        return QueryBatch(
            torch.full((len(parts),), self.model.source.num_users, dtype=torch.int32),
            torch.from_numpy(indptr),
            torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts)),
            known=False,
        )

    # ---- scores ----------------------------------------------------------------------------------

    def ripple_sets(self, queries: QueryBatch) -> RippleSets:
        """Ripple sets of the queries, on the CPU: of users those that evaluation takes."""
        if not self.model.ripple:
            return RippleSets.none(len(queries))
        return RippleSets.sample(
            self.graph,
            queries.indptr,
            queries.entities,
            hops=self.config.shape.hops,
            slots=self.config.shape.slots,
            seed=self.config.seed,
            users=queries.users,
            repeat=self.config.sampling.padding == "repeat",
        )

    @cached_property
    def scorer(self) -> Scorer:
        """Scorer of the model's predictions, over this state's tables and graph."""
        backend = BACKENDS[self.config.backend]
        tables = {name: widened(rows) for name, rows in self.tables.items()}
        return Scorer(backend, self._reader, tables, self.stage, self.device)

    def groups(self, queries: QueryBatch, sets: RippleSets) -> UserGroups:
        """Groups of pairs, one per ripple set; where there is one query, they all are its own."""
        ids = torch.arange(sets.num_users, dtype=torch.int32)
        if len(queries) < sets.num_users:
            ids.zero_()
        if queries.known:
            return UserGroups(queries.users[ids], sets)
        return UserGroups(
            queries.users[ids], sets, Histories(queries.indptr, queries.entities), ids
        )

    def scores(
        self,
        queries: QueryBatch,
        sets: RippleSets,
        entities: Tensor,  # [I'] int32, on the device
    ) -> Tensor:
        """Logits [n, I'] of some items for all queries; one group of pairs for each."""
        return self.scorer.catalogue_logits(self.groups(queries, sets), entities)

    @cached_property
    def _reader(self) -> Model:
        """Model, which reads this state's graph, catalogue and histories."""
        source = self.model.source
        if source.graph is self.graph and source.history_items is self.history_items:
            return self.model
        return self.model.with_context(self.context)

    @property
    def context(self) -> TrainContext:
        """Context of the model with this state's graph, catalogue and histories."""
        return replace(
            self.model.source,
            graph=self.graph,
            history_indptr=self.history_indptr,
            history_items=self.history_items,
            catalogue=self.catalogue,
        )
