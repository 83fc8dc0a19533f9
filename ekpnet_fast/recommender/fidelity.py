"""Fidelity of reasons: the fall of scores where they are masked, beside random ones.

Reasons are the parts that a logit is a sum of, or where a model has none the paths of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from ekpnet_fast.errors import ConfigError
from ekpnet_fast.recommender.answers import Fidelity, Recommendations
from ekpnet_fast.recommender.query import Query
from ekpnet_fast.recommender.reasons import RipplePath, masked_logits, paths_of, slots_of, tell
from ekpnet_fast.recommender.telling import Share

T = TypeVar("T", RipplePath, Share)


def measure(
    recommended: Sequence[tuple[Query, Recommendations]], *, masked: int, draws: int, seed: int
) -> Fidelity:
    """Measure fidelity: mask first reasons, those of most attention, and random ones at once.

    Pairs with fewer than twice as many reasons as are masked are left out, because random ones
    would be the same.

    Raises:
        ConfigError: a model that has no reasons, or no pair with enough of them.
    """
    stream = np.random.default_rng(seed)
    falls: list[_Falls] = []
    kind = "paths"
    for query, best in recommended:
        state = query.state
        if not state.model.ripple and not state.model.wide:
            raise ConfigError(f"fidelity: model {state.model.name} does not look at paths")
        kind = "parts" if state.model.wide else "paths"
        for item in best:
            entity = int(state.catalogue[state.items.number(item.item)])
            found = (_of_parts if state.model.wide else _of_paths)(query, entity)
            if len(found.reasons) >= 2 * masked:
                falls.append(found.measured(masked, draws, stream))
    if not falls:
        raise ConfigError(
            f"fidelity: found no recommended item with {2 * masked} {kind}, expected some, so that"
            f" random ones beside the first {masked} can be masked; masked=N of"
            " Recommender.fidelity, or --top N, takes fewer"
        )
    top, random, said, whole = np.array(
        [(fall.top, fall.random, fall.said, fall.whole) for fall in falls]
    ).T
    attention = [fall.attention for fall in falls if fall.attention is not None]
    # Parts add up, so that they cover what they say; paths what falls without them.
    covered = said if kind == "parts" else top
    return Fidelity(
        pairs=len(falls),
        masked=masked,
        top=float(top.mean()),
        attention=float(np.mean(attention)) if len(attention) == len(falls) else None,
        random=float(random.mean()),
        larger=float((top > random).mean()),
        said=float(said.mean()),
        covered=float(covered.mean() / whole.mean()) if whole.mean() > 0 else None,
    )


@dataclass(frozen=True)
class _Falls:
    """Falls of the logit of one user and item.

    Attributes:
        top, attention, random: without the reasons that `Fidelity` names.
        said: the effects of the first, summed.
        whole: of the logit above its base.
    """

    top: float
    attention: float | None
    random: float
    said: float
    whole: float


@dataclass(frozen=True)
class _Reasons(Generic[T]):
    """Reasons of one user and item, largest first.

    Attributes:
        reasons: the reasons.
        logit, base: with all of them, and without any.
        attention: of a reason, by which they may be chosen, too.
        without: the logits without some of them.
    """

    reasons: Sequence[T]
    logit: float
    base: float
    attention: Callable[[T], float] | None
    without: Callable[[Sequence[Sequence[T]]], Sequence[float]]

    def measured(self, masked: int, draws: int, stream: np.random.Generator) -> _Falls:
        """Mask `masked` of the reasons at once, random ones so many times."""
        chosen = [self.reasons[:masked]]
        if self.attention is not None:
            weight = self.attention
            chosen.append(sorted(self.reasons, key=lambda reason: -weight(reason))[:masked])
        by_choice = len(chosen)
        for _ in range(draws):
            some = stream.choice(len(self.reasons), masked, replace=False)
            chosen.append([self.reasons[i] for i in some.tolist()])
        falls = self.logit - np.array(self.without(chosen))
        return _Falls(
            top=float(falls[0]),
            attention=float(falls[1]) if by_choice > 1 else None,
            random=float(falls[by_choice:].mean()),
            said=sum(reason.effect for reason in self.reasons[:masked]),
            whole=self.logit - self.base,
        )


def _of_paths(query: Query, entity: int) -> _Reasons[RipplePath]:
    state, batch = query.state, query.batch()
    sets = state.ripple_sets(batch)
    logit, paths = paths_of(state, batch, sets, entity)

    def without(groups: Sequence[Sequence[RipplePath]]) -> Sequence[float]:
        masks = [slots_of(group) for group in groups]
        found: list[float] = masked_logits(state, batch, sets, entity, masks).tolist()
        return found

    (base,) = without([paths]) if paths else (logit,)
    has_attention = bool(paths) and paths[0].attention is not None
    return _Reasons(
        paths, logit, base, (lambda path: path.attention or 0.0) if has_attention else None, without
    )


def _of_parts(query: Query, entity: int) -> _Reasons[Share]:
    state, batch = query.state, query.batch()
    sets = state.ripple_sets(batch)
    every = [
        (hop, slot) for hop in range(sets.heads.shape[1]) for slot in range(sets.heads.shape[2])
    ]
    logit, without_paths = masked_logits(state, batch, sets, entity, [[], every]).tolist()
    told = tell(state, batch, entity, logit, without_paths, paths=int(sets.counts.sum()))
    assert told is not None
    return _Reasons(
        told.shares,
        logit,
        told.base,
        None,
        lambda groups: [told.without(group) for group in groups],
    )
