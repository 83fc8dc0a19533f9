"""Telling of a logit: its parts by signal and item of the history, and the logit without some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.recommender.parts import Fact, Part, PartKind, facts_in_words
from ekpnet_fast.recommender.paths import Node

if TYPE_CHECKING:
    from ekpnet_fast.models.wide.shares import Kind, PairShares
    from ekpnet_fast.recommender.state import State

Counts: TypeAlias = NDArray[np.int64]

__all__ = ["Share", "Telling", "node_of"]

# Signals of the item alone, as `Part.kind` names them.
ALONE: dict[str, PartKind] = {"popularity": "popularity", "KG neighbours' clicks": "neighbours"}
PATHS, ITEM = "EKPNet's paths", "EKPNet's item"
ROUNDING = 1e-6  # share of a logit in float32: an effect that is no larger may be nothing else


@dataclass(frozen=True)
class Share:
    """Share of a logit that is not yet in words.

    Attributes:
        kind: as of the part.
        place: of the item of the history; None for a share without one.
        effect: what it adds.
        signals: the same by signal.
    """

    kind: PartKind
    place: int | None
    effect: float
    signals: dict[str, float]


class Telling:
    """Telling of one logit of a model with a wide part.

    Args:
        state: of the recommender.
        shares: in the wide part.
        logit: as the model scores the pair.
        without_paths: the same without any path of the graph.
        paths: how many there are.

    Attributes:
        base: of every pair: that of an item that nobody clicked and that shares nothing.
        shares: all shares but what may be rounding, largest first.
        signals: what each curve rises above the base, and EKPNet's part, by name.
    """

    def __init__(
        self, state: State, shares: PairShares, logit: float, without_paths: float, paths: int
    ) -> None:
        self._state, self._pair, self._paths = state, shares, paths
        self.base, self.logit = shares.base, logit
        deep: dict[str, tuple[PartKind, float]] = {}
        if state.model.ripple:
            deep = {
                PATHS: ("paths", logit - without_paths),
                ITEM: ("item", without_paths - shares.logit),
            }
        self.signals = {
            **shares.alone,
            **dict(zip(shares.features, shares.rises().tolist(), strict=True)),
            **{name: effect for name, (_, effect) in deep.items()},
        }
        found = [
            *(Share(ALONE[name], None, x, {name: x}) for name, x in shares.alone.items()),
            *(Share(kind, None, x, {name: x}) for name, (kind, x) in deep.items()),
            *self._by_item(),
        ]
        least = ROUNDING * max(abs(logit), 1.0)
        some = [share for share in found if abs(share.effect) > least]
        self.shares = sorted(some, key=lambda share: -abs(share.effect))

    def _by_item(self) -> list[Share]:
        pair = self._pair
        effects, found = pair.by_affinity(), []
        kinds = pair.kinds
        for kind in dict.fromkeys(kinds):
            rows = [a for a, other in enumerate(kinds) if other == kind]
            totals = effects[rows].sum(0).tolist()
            for place, total in enumerate(totals):
                signals = {pair.names[a]: x for a in rows if (x := float(effects[a, place]))}
                found.append(Share(kind, place, total, signals))
        return found

    def without(self, shares: Sequence[Share]) -> float:
        """Logit without what some shares name.

        Of an item of the history its clicks count no more for the signals of the share's kind,
        neither in their affinities nor in the history's mean; of a match, the two items share
        nothing any more.
        """
        pair = self._pair
        kept, counted = np.ones((2, *pair.entries.shape), dtype=bool)
        fall = 0.0
        for share in shares:
            if share.place is None:
                fall += share.effect
                continue
            rows = [a for a, kind in enumerate(pair.kinds) if kind == share.kind]
            kept[rows, share.place] = False
            if share.kind != "match":
                counted[rows, share.place] = False
        return self.logit - fall - float((pair.rises() - pair.rises(kept, counted)).sum())

    def parts(self, top: int) -> tuple[Part, ...]:
        """Largest parts in words, `top` at most."""
        state, pair = self._state, self._pair
        together, clicks = _counts(state, int(state.catalogue[pair.item]))
        return tuple(self._part(share, together, clicks) for share in self.shares[:top])

    def _part(self, share: Share, together: Counts, clicks: Counts) -> Part:
        pair, kind, place = self._pair, share.kind, share.place
        if place is None:
            return Part(kind, None, self._alone(share, clicks), share.effect, share.signals)
        j = int(self._state.catalogue[int(pair.history[place])])
        because, speaks_for = node_of(self._state, j), share.effect > 0
        facts: tuple[Fact, ...] = ()
        if kind in ("match", "walk", "taste"):
            facts = self._facts(place, kind)
        if kind == "clicks":
            both, who = int(together[j]), f"{int(clicks[j]):,}"
            if not speaks_for:
                text = f"against it, {because}: {both:,} of the {who} who clicked it clicked this"
            elif both:
                text = (
                    f"because you clicked {because}: {both:,} of the {who} who did also clicked"
                    " this"
                )
            else:
                text = (
                    f"because you clicked {because}: those who did clicked much that goes with this"
                )
        elif kind == "joint":
            where = "near" if speaks_for else "far from"
            text = f"{where} {because} by clicks and graph together"
        elif kind == "walk":
            shared = f"shares {facts_in_words(facts)} with" if facts else "is like"
            text = f"{shared} what is clicked with items like {because}"
        elif kind == "taste":
            often = "" if speaks_for else "seldom "
            text = f"its {facts_in_words(facts)} {often}go with {because}"
        else:
            text = f"shares {facts_in_words(facts)} with {because}"
        return Part(kind, because, text, share.effect, share.signals, facts)

    def _alone(self, share: Share, clicks: Counts) -> str:
        pair = self._pair
        if share.kind == "popularity":
            return f"popular: clicked by {_people(int(clicks[self._state.catalogue[pair.item]]))}"
        if share.kind == "neighbours":
            mean = float(np.exp(pair.affinities.neighbours[pair.item]))
            shown = f"{mean:,.0f}" if mean >= 10 else f"{mean:.1f}"
            only = "" if share.effect > 0 else "only "
            return f"what it shares facts with is clicked by {only}{shown} people on average"
        if share.kind == "paths":
            return f"the {self._paths:,} paths of the graph from the history, together"
        return "its own place in the graph"

    def _facts(self, place: int, kind: Kind) -> tuple[Fact, ...]:
        state, found = self._state, []
        for relation, tail, effect in self._pair.triples(place, kind):
            backwards = relation >= len(state.relations)
            name = state.relations.shown(relation - len(state.relations) * backwards)
            found.append(Fact(name, node_of(state, tail), backwards, effect))
        return tuple(found)


def node_of(state: State, entity: int) -> Node:
    """Node of an entity."""
    item = state.item_of(entity)
    if item is None:
        return Node(state.entities.id(entity), state.entities.name(entity), "entity")
    return Node(state.items.id(item), state.item_name(item), "item")


def _counts(state: State, entity: int) -> tuple[Counts, Counts]:
    """Users [E] who clicked each item and this one too, and [E] who clicked it; in training."""
    indptr, items = state.history_indptr.numpy(), state.history_items.numpy()
    size = state.graph.num_entities
    users = np.searchsorted(indptr, np.flatnonzero(items == entity), side="right") - 1
    of_users = [items[indptr[u] : indptr[u + 1]] for u in users.tolist()]
    theirs = np.concatenate([items[:0], *of_users])
    return np.bincount(theirs, minlength=size), np.bincount(items, minlength=size)


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count:,} people"
