"""Engine of the server: answers requests from a `Recommender`, and changes it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ekpnet_fast.errors import EkpnetError
from ekpnet_fast.recommender import Candidates, Recommender, RippleTriple
from ekpnet_fast.recommender.answers import Change
from ekpnet_fast.recommender.names import Id
from ekpnet_fast.recommender.query import Query, items_of, parse_query
from ekpnet_fast.recommender.state import State
from ekpnet_fast.recommender.topk import recommend_topk
from ekpnet_fast.serve import schemas
from ekpnet_fast.serve.search import Index

MOST_TOGETHER = 16  # lists of one call; more save little, and all wait for the last


class RecommenderEngine:
    """Engine over a recommender, which may be changed meanwhile.

    Each request is answered from one snapshot, taken when it begins, so that all of its answer is
    about one graph; the next request sees the changes. Every method may be called from several
    threads at a time; changes wait for each other.

    Args:
        recommender: the recommender.
        candidates: of its lists, as `Recommender.recommend` takes them.

    Attributes:
        changes: that were made since the start.
    """

    def __init__(self, recommender: Recommender, candidates: Candidates = None) -> None:
        recommender.prepare(candidates)
        now = recommender.state
        for names in (now.users, now.items):
            names.ids.prepare()  # not while the first requests wait
        self._candidates = candidates
        self._recommender = recommender
        self.changes = 0
        self._users = _Kept(_user_index, lambda state: (state.users, state.history_indptr))
        self._items = _Kept(_item_index, lambda state: (state.items, state.history_items))
        for kept in (self._users, self._items):
            kept.of(now)

    @classmethod
    def load(
        cls, folder: Path, data_root: Path | None, device: str, candidates: Candidates = None
    ) -> RecommenderEngine:
        """Engine of a run's folder, or of a saved recommender.

        Raises:
            EkpnetError: as `Recommender.load`.
        """
        return cls(Recommender.load(folder, data_root=data_root, device=device), candidates)

    def facts(self) -> schemas.Facts:
        """Model, data set and sizes, as they are now."""
        now = self._recommender.snapshot()
        state = now.state
        return schemas.Facts(
            model=now.model,
            dataset=state.config.dataset,
            data_hash=state.data_hash,
            users=int((state.history_indptr.diff() > 0).sum()),
            items=state.num_items,
            entities=len(state.entities),
            relations=len(state.relations),
            triples=now.graph.num_triples,
            histories=state.model.new_users,
        )

    def together(self, request: schemas.RecommendRequest) -> tuple[Hashable, int]:
        """Kind of requests that are answered at once, and how many of them; None alone."""
        if request.filter_items is not None:
            return None, 1
        state = self._recommender.state
        most = min(MOST_TOGETHER, state.scorer.groups_at_once(state.num_items))
        return (request.user is None, request.k, request.exclude_seen), most

    def recommend(self, request: schemas.RecommendRequest) -> schemas.Recommendations:
        """List the best items."""
        (found,) = self.recommend_together([request])
        if isinstance(found, Exception):
            raise found
        return schemas.Recommendations.model_validate(found)

    def recommend_together(
        self, requests: Sequence[schemas.RecommendRequest]
    ) -> list[dict[str, Any] | Exception]:
        """List the best items for each request; they are of one kind (`together`)."""
        state = self._recommender.state
        found: dict[int, dict[str, Any] | Exception] = {}
        queries: dict[int, Query] = {}
        for place, request in enumerate(requests):
            try:
                queries[place] = parse_query(state, request.user, request.history)
            except EkpnetError as error:
                found[place] = error
        if queries:
            first = requests[0]
            chosen = items_of(state, first.filter_items)
            lists = recommend_topk(
                list(queries.values()), first.k, first.exclude_seen, chosen, self._candidates
            )
            for (place, query), best in zip(queries.items(), lists, strict=True):
                found[place] = {**best.to_dict(), "clicked": _clicked(query, best.history)}
        return [found[place] for place in range(len(requests))]

    def score(self, request: schemas.ScoreRequest) -> dict[str, Any]:
        """Score some items, in the order of the request."""
        now = self._recommender.snapshot()
        items = now.state.items
        numbers = items.numbers(request.items, "items")  # refused by the name that they have here
        found = now.recommend(
            request.user,
            request.history,
            len(request.items),
            exclude_seen=False,
            filter_items=request.items,
        )
        by_item = {each.item: each.to_dict() for each in found}
        return {**found.to_dict(), "items": [by_item[items.id(number)] for number in numbers]}

    def explain(self, request: schemas.ExplainRequest) -> schemas.Explanation:
        """Explain an item by its reasons, with the whole ripple set."""
        found = self._recommender.explain(
            request.user, request.item, history=request.history, top=request.top, hops=True
        )
        assert found.hops is not None
        hops = [
            schemas.Hop(
                hop=number,
                triples=[
                    schemas.Triple.model_validate(triple) for triple in sorted(triples, key=_order)
                ],
            )
            for number, triples in enumerate(found.hops, 1)
            if triples
        ]
        return schemas.Explanation(**replace(found, hops=None).to_dict(), hops=hops)

    def users(self, query: str, skip: int, limit: int) -> schemas.Matches:
        """Find users with a history, also those that were added since the start."""
        return self._users.of(self._recommender.state).find(query, skip, limit)

    def items(self, query: str, skip: int, limit: int) -> schemas.Matches:
        """Find items, also those that were added since the start."""
        return self._items.of(self._recommender.state).find(query, skip, limit)

    def add_triples(self, request: schemas.AddTriplesRequest) -> dict[str, Any]:
        """Add triples to the graph."""
        graph = self._recommender.graph
        return self._changed(graph.add_triples(request.triples, _names(request.names)))

    def remove_triples(self, request: schemas.RemoveTriplesRequest) -> dict[str, Any]:
        """Remove triples from the graph."""
        return self._changed(self._recommender.graph.remove_triples(request.triples))

    def add_items(self, request: schemas.AddItemsRequest) -> dict[str, Any]:
        """Add items to the catalogue."""
        items = [(item.id, item.triples) for item in request.items]
        graph = self._recommender.graph
        return self._changed(graph.add_items(items, _names(request.names)))

    def add_clicks(self, request: schemas.AddClicksRequest) -> dict[str, Any]:
        """Add clicks of known users and of new ones."""
        clicks: dict[Id, list[Id]] = {}
        for each in request.clicks:
            clicks.setdefault(each.user, []).extend(each.items)
        return self._changed(self._recommender.add_clicks(clicks, _names(request.names)))

    def refresh(self) -> dict[str, Any]:
        """Fit anew what is fitted to all clicks and triples."""
        return self._changed(self._recommender.refresh())

    def _changed(self, change: Change) -> dict[str, Any]:
        self.changes += 1
        return change.to_dict()


class _Kept:
    """Index of a state, made anew where what it is made of has changed.

    Args:
        make: makes the index.
        parts: what of the state it is made of.
    """

    def __init__(
        self, make: Callable[[State], Index], parts: Callable[[State], tuple[object, ...]]
    ) -> None:
        self._make, self._parts = make, parts
        self._made: tuple[tuple[object, ...], Index] | None = None
        self._making = threading.Lock()

    def of(self, state: State) -> Index:
        """Index of a state; once for all threads that wait for it."""
        parts = self._parts(state)
        with self._making:
            made = self._made
            if made is None or any(a is not b for a, b in zip(made[0], parts, strict=True)):
                made = self._made = parts, self._make(state)
        return made[1]


def _names(given: Sequence[schemas.Name]) -> dict[Id, str]:
    return {each.id: each.name for each in given}


def _user_index(state: State) -> Index:
    lengths = np.diff(state.history_indptr.numpy())
    active = np.flatnonzero(lengths).tolist()  # nothing is known of the others
    return Index(
        [state.users.id(user) for user in active],
        [state.users.name(user) for user in active],
        lengths[active],
    )


def _item_index(state: State) -> Index:
    clicks = np.bincount(state.history_items.numpy(), minlength=len(state.entities))
    names = [state.item_name(item) for item in range(state.num_items)]
    ids = [state.items.id(item) for item in range(state.num_items)]
    return Index(ids, names, clicks[state.catalogue.numpy()])


def _clicked(query: Query, ids: Sequence[Id] | None) -> list[dict[str, Any]]:
    """Nodes of the items that a query's lists follow from; of a history the ids are known."""
    state, items = query.state, query.items
    if items is None or ids is None:
        first, last = state.history_indptr[query.user : query.user + 2].tolist()
        items = tuple(state.items_of(state.history_items[first:last]))
        ids = tuple(map(state.items.id, items))
    return [
        {"id": known, "name": state.item_name(item), "kind": "item"}
        for known, item in zip(ids, items, strict=True)
    ]


def _order(triple: RippleTriple) -> float:
    """Sort key: falling attention, or effect where the model has none."""
    return -(triple.effect if triple.attention is None else triple.attention)
