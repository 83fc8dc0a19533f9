"""Fidelity of reasons: the fall of scores where they are masked, beside random paths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ekpnet_fast.errors import ConfigError
from ekpnet_fast.recommender.answers import Fidelity, Recommendations
from ekpnet_fast.recommender.query import Query
from ekpnet_fast.recommender.reasons import masked_logits, paths_of


def measure(
    recommended: Sequence[tuple[Query, Recommendations]], *, masked: int, draws: int, seed: int
) -> Fidelity:
    """Measure fidelity: mask first reasons, those of most attention, and random paths at once.

    Pairs with fewer than twice as many paths as are masked are left out, because random ones would
    be the same.

    Raises:
        ConfigError: a model that does not look at paths, or no pair with enough of them.
    """
    stream = np.random.default_rng(seed)
    falls: list[tuple[float, float, float]] = []
    has_attention = True
    for query, best in recommended:
        state, batch = query.state, query.batch()
        if not state.model.ripple:
            raise ConfigError(f"fidelity: model {state.model.name} does not look at paths")
        sets = state.ripple_sets(batch)
        for item in best:
            entity = int(state.catalogue[state.items.number(item.item)])
            logit, paths = paths_of(state, batch, sets, entity)
            if len(paths) < 2 * masked:
                continue
            has_attention = has_attention and paths[0].attention is not None
            weighed = sorted(paths, key=lambda path: -(path.attention or 0.0))
            chosen = [paths[:masked], weighed[:masked]]
            for _ in range(draws):
                some = stream.choice(len(paths), masked, replace=False)
                chosen.append([paths[i] for i in some.tolist()])
            masks = [
                [(path.hop, slot) for path in group for slot in path.slots] for group in chosen
            ]
            fall = logit - masked_logits(state, batch, sets, entity, masks)
            falls.append((float(fall[0]), float(fall[1]), float(fall[2:].mean())))
    if not falls:
        raise ConfigError(
            f"masked: found {masked}, expected fewer: no recommended item has {2 * masked} paths"
        )
    table = np.array(falls)
    top, attention, random = table.mean(axis=0).tolist()
    return Fidelity(
        pairs=len(falls),
        masked=masked,
        top=top,
        attention=attention if has_attention else None,
        random=random,
        larger=float((table[:, 0] > table[:, 2]).mean()),
    )
