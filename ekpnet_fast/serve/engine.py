"""What answers requests: a `Recommender`, and what a search needs to know of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ekpnet_fast.recommender import Recommender, RippleTriple
from ekpnet_fast.recommender.asking import item_name
from ekpnet_fast.serve import schemas
from ekpnet_fast.serve.search import Index


class RecommenderEngine:
    """Answers from a recommender as it is when the server starts.

    Every method may be called from several threads at a time.

    Args:
        recommender: the recommender.
    """

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self._state = state = recommender.state
        entities = state.catalogue.numpy()
        clicks = np.bincount(state.history_items.numpy(), minlength=len(state.entities))[entities]
        names = [item_name(state, item) for item in range(state.num_items)]
        ids = recommender.item_ids()
        self._items = Index(ids, names, clicks)
        self._nodes = {
            item: schemas.Node(id=item, name=name, kind="item")
            for item, name in zip(ids, names, strict=True)
        }
        lengths = np.diff(state.history_indptr.numpy())
        active = np.flatnonzero(lengths).tolist()  # nothing is known of the others
        self._users = Index(
            [state.users.id(user) for user in active],
            [state.users.name(user) for user in active],
            lengths[active],
        )
        self._facts = schemas.Facts(
            model=recommender.model,
            dataset=state.config.dataset,
            data_hash=state.data_hash,
            users=len(self._users),
            items=len(self._items),
            entities=len(state.entities),
            relations=len(state.relations),
            triples=recommender.graph.num_triples,
            histories=state.model.new_users,
        )

    @classmethod
    def load(cls, folder: Path, data_root: Path | None, device: str) -> RecommenderEngine:
        """Of the folder of a run or of a saved recommender.

        Raises:
            EkpnetError: as `Recommender.load`.
        """
        return cls(Recommender.load(folder, data_root=data_root, device=device))

    def facts(self) -> schemas.Facts:
        """What is served."""
        return self._facts

    def recommend(self, asked: schemas.RecommendRequest) -> schemas.Recommendations:
        """The best items."""
        found = self._recommender.recommend(
            asked.user,
            asked.history,
            asked.k,
            exclude_seen=asked.exclude_seen,
            filter_items=asked.filter_items,
        )
        clicked = found.history
        if clicked is None:
            assert asked.user is not None
            clicked = tuple(self._recommender.history(asked.user))
        return schemas.Recommendations(
            **found.to_dict(), clicked=[self._nodes[each] for each in clicked]
        )

    def score(self, asked: schemas.ScoreRequest) -> schemas.Scores:
        """Scores of some items, in the order asked for."""
        found = self._recommender.recommend(
            asked.user,
            asked.history,
            len(asked.items),
            exclude_seen=False,
            filter_items=asked.items,
        )
        by_item = {str(each.item): each.to_dict() for each in found}
        items = [by_item[str(item)] for item in asked.items]
        return schemas.Scores(**{**found.to_dict(), "items": items})

    def explain(self, asked: schemas.ExplainRequest) -> schemas.Explanation:
        """The reasons for an item, and its whole ripple set."""
        found = self._recommender.explain(
            asked.user, asked.item, history=asked.history, top=asked.top, hops=True
        )
        assert found.hops is not None
        hops = [
            schemas.Hop(
                hop=number,
                triples=[schemas.Triple.model_validate(x) for x in sorted(triples, key=_order)],
            )
            for number, triples in enumerate(found.hops, 1)
            if triples
        ]
        return schemas.Explanation(**{**replace(found, hops=None).to_dict(), "hops": hops})

    def users(self, query: str, skip: int, limit: int) -> schemas.Matches:
        """Users with a history."""
        return self._users.find(query, skip, limit)

    def items(self, query: str, skip: int, limit: int) -> schemas.Matches:
        """Items."""
        return self._items.find(query, skip, limit)


def _order(triple: RippleTriple) -> float:
    """Falling attention, or effect where the model has none."""
    return -(triple.effect if triple.attention is None else triple.attention)
