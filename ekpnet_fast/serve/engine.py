"""Engine of the server: answers requests from a `Recommender`."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np

from ekpnet_fast.recommender import Candidates, Recommender, RippleTriple
from ekpnet_fast.serve import schemas
from ekpnet_fast.serve.search import Index


class RecommenderEngine:
    """Engine over a recommender, whose graph may be changed meanwhile.

    Each request is answered from one snapshot, taken when it begins, so that all of its answer is
    about one graph; the next request sees the changes. Every method may be called from several
    threads at a time.

    Args:
        recommender: the recommender.
        candidates: of its lists, as `Recommender.recommend` takes them.
    """

    def __init__(self, recommender: Recommender, candidates: Candidates = None) -> None:
        recommender.prepare(candidates)
        now = recommender.snapshot()
        self._candidates = candidates
        self._recommender = recommender
        self._users = _user_index(now)
        self._items = now.state.items, _item_index(now)
        self._indexing = threading.Lock()

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
            users=len(self._users),
            items=state.num_items,
            entities=len(state.entities),
            relations=len(state.relations),
            triples=now.graph.num_triples,
            histories=state.model.new_users,
        )

    def recommend(self, request: schemas.RecommendRequest) -> schemas.Recommendations:
        """List the best items."""
        now = self._recommender.snapshot()
        found = now.recommend(
            request.user,
            request.history,
            request.k,
            exclude_seen=request.exclude_seen,
            filter_items=request.filter_items,
            candidates=self._candidates,
        )
        clicked = found.history
        if clicked is None:
            assert request.user is not None
            clicked = tuple(now.history(request.user))
        nodes = [schemas.Node(id=item, name=now.item_name(item), kind="item") for item in clicked]
        return schemas.Recommendations(**found.to_dict(), clicked=nodes)

    def score(self, request: schemas.ScoreRequest) -> schemas.Scores:
        """Score some items, in the order of the request."""
        found = self._recommender.recommend(
            request.user,
            request.history,
            len(request.items),
            exclude_seen=False,
            filter_items=request.items,
        )
        by_item = {str(each.item): each.to_dict() for each in found}
        items = [by_item[str(item)] for item in request.items]
        return schemas.Scores(**{**found.to_dict(), "items": items})

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
        """Find users with a history, those of training; changes of the graph add none."""
        return self._users.find(query, skip, limit)

    def items(self, query: str, skip: int, limit: int) -> schemas.Matches:
        """Find items, also those that were added since the start."""
        now = self._recommender.snapshot()
        with self._indexing:  # once for all threads that wait for it
            names, index = self._items
            if names is not now.state.items:
                index = _item_index(now)
                self._items = now.state.items, index
        return index.find(query, skip, limit)


def _user_index(recommender: Recommender) -> Index:
    state = recommender.state
    lengths = np.diff(state.history_indptr.numpy())
    active = np.flatnonzero(lengths).tolist()  # nothing is known of the others
    return Index(
        [state.users.id(user) for user in active],
        [state.users.name(user) for user in active],
        lengths[active],
    )


def _item_index(recommender: Recommender) -> Index:
    state = recommender.state
    clicks = np.bincount(state.history_items.numpy(), minlength=len(state.entities))
    names = [state.item_name(item) for item in range(state.num_items)]
    return Index(recommender.item_ids(), names, clicks[state.catalogue.numpy()])


def _order(triple: RippleTriple) -> float:
    """Sort key: falling attention, or effect where the model has none."""
    return -(triple.effect if triple.attention is None else triple.attention)
