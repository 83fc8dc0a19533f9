"""A recommender that knows a data set but for some clicks and triples, which are then added."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ekpnet_fast.data import Dataset
from ekpnet_fast.data.tables import Interactions
from ekpnet_fast.recommender import Recommender


@dataclass(frozen=True)
class Grown:
    """Recommenders of one data set, a share of whose clicks and triples came later.

    Attributes:
        stale: fitted to the others, and refreshed, so that curves are fitted to the same kind of
            rows in all of them.
        live: the same, with what came later added.
        refitted: the same, refreshed.
        redrawn: the same, refreshed with other drawn items.
    """

    stale: Recommender
    live: Recommender
    refitted: Recommender
    redrawn: Recommender


def grown(dataset: Dataset, model: str, share: float, **options: object) -> Grown:
    """Fit to all but a share of the positives and of the triples, add these, and refresh."""
    stream = np.random.default_rng(0)
    rows, pairs = dataset.rows, dataset.interactions
    users, items, positive = (
        (rows.users, rows.items, rows.labels == 1)
        if rows is not None
        else (pairs.users, pairs.items, pairs.positive)
    )
    later = stream.choice(
        np.flatnonzero(positive), round(share * int(positive.sum())), replace=False
    )
    kept = np.ones(len(users), dtype=np.bool_)
    kept[later] = False
    triples = np.ones(len(dataset.heads), dtype=np.bool_)
    triples[stream.choice(len(triples), round(share * len(triples)), replace=False)] = False
    before = replace(
        dataset,
        rows=None if rows is None else rows.take(kept),
        interactions=None if pairs is None else _taken(pairs, kept),
        times=None,
        heads=dataset.heads[triples],
        relations=dataset.relations[triples],
        tails=dataset.tails[triples],
    )
    stale = Recommender.fit(before, model, device="cpu", options={"ranking": False, **options})
    stale.refresh()
    live = stale.snapshot()
    state = live.state
    gone = np.flatnonzero(~triples)
    columns = (dataset.heads[gone], dataset.relations[gone], dataset.tails[gone])
    names = (state.entities.id, state.relations.id, state.entities.id)
    live.graph.add_triples(
        [
            tuple(name(i) for name, i in zip(names, row, strict=True))
            for row in zip(*(column.tolist() for column in columns), strict=True)
        ]
    )
    clicks: dict[object, list[object]] = {}
    for user, item in zip(users[later].tolist(), items[later].tolist(), strict=True):
        clicks.setdefault(state.users.id(user), []).append(state.items.id(item))
    live.add_clicks(clicks)
    refitted = live.snapshot()
    refitted.refresh()
    config = live.state.config
    redrawn = Recommender(replace(live.state, config=replace(config, seed=config.seed + 1)))
    redrawn.refresh()
    return Grown(stale, live, refitted, redrawn)


def _taken(pairs: Interactions, kept: np.ndarray) -> Interactions:
    ratings = None if pairs.ratings is None else pairs.ratings[kept]
    return replace(
        pairs,
        users=pairs.users[kept],
        items=pairs.items[kept],
        positive=pairs.positive[kept],
        ratings=ratings,
    )


@dataclass(frozen=True)
class Distance:
    """How far answers are from others, over some users.

    Attributes:
        lists: share of the others' first 10 that the first 10 have.
        logits: root of the mean squared difference of the logits of the catalogue.
        spread: standard deviation of the others' logits.
        order: correlation of the logits of a user, on average.
    """

    lists: float
    logits: float
    spread: float
    order: float


def distance(found: Recommender, expected: Recommender, users: int = 200) -> Distance:
    """Compare the answers for some users, leaving out what is known after the change."""
    known = [user for user in expected.user_ids() if expected.history(user)]
    some = np.random.default_rng(1).choice(len(known), min(users, len(known)), replace=False)
    chosen = [known[i] for i in some.tolist()]
    shared, squares, spreads, orders = [], [], [], []
    for user in chosen:
        seen = set(expected.history(user))
        a, b = (_logits(each, user) for each in (found, expected))
        items = [item for item in b if item not in seen]
        x, y = (np.array([logits[item] for item in items]) for logits in (a, b))
        first = [set(np.argsort(-values, kind="stable")[:10].tolist()) for values in (x, y)]
        shared.append(len(first[0] & first[1]) / 10)
        squares.append(np.square(x - y).mean())
        spreads.append(y.var())
        orders.append(np.corrcoef(x, y)[0, 1])
    return Distance(
        float(np.mean(shared)),
        float(np.sqrt(np.mean(squares))),
        float(np.sqrt(np.mean(spreads))),
        float(np.mean(orders)),
    )


def _logits(recommender: Recommender, user: object) -> dict[object, float]:
    state = recommender.state
    batch = state.of_users([state.users.number(user)])
    logits = state.scores(batch, state.ripple_sets(batch), state.catalogue_there)[0]
    return dict(zip(recommender.item_ids(), logits.tolist(), strict=True))
