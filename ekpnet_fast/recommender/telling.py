"""Telling of a logit: its parts by signal and item of the history, and the logit without some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ekpnet_fast.recommender.parts import Fact, Part, PartKind, distinct, facts_in_words
from ekpnet_fast.recommender.paths import Node

if TYPE_CHECKING:
    from ekpnet_fast.models.wide.shares import Kind, PairShares
    from ekpnet_fast.recommender.state import State

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
        counts = Counts(self._state, int(self._state.catalogue[self._pair.item]))
        return tuple(self._part(share, counts) for share in self.shares[:top])

    def _part(self, share: Share, counts: Counts) -> Part:
        pair, kind, place = self._pair, share.kind, share.place
        if place is None:
            return Part(kind, None, self._alone(share, counts), share.effect, share.signals)
        j = int(self._state.catalogue[int(pair.history[place])])
        because = node_of(self._state, j)
        facts = self._facts(place, kind) if kind in ("match", "walk", "taste") else ()
        words = facts_in_words(facts)
        alike = self._are_alike(share, place)
        against = "against it: " if share.effect < 0 and alike else ""
        if kind == "clicks":
            text = counts.in_words(because, j, speaks_for=share.effect > 0)
        elif kind == "joint":
            where = "near" if alike else "far from"
            text = f"{against}{where} {because} by clicks and graph together"
        elif kind == "walk":
            shared = f"shares {words} with" if facts else "is like"
            text = f"{against}{shared} what is clicked with items like {because}"
        elif kind == "taste":
            often = "" if alike else "seldom "
            goes = "goes" if len(distinct(facts)) == 1 else "go"
            text = f"{against}its {words} {often}{goes} with {because}"
        else:
            text = f"{against}shares {words} with {because}"
        return Part(kind, because, text, share.effect, share.signals, facts)

    def _are_alike(self, share: Share, place: int) -> bool:
        """Whether the largest signal of a share says that the two items go together."""
        name = max(share.signals, key=lambda name: abs(share.signals[name]))
        return bool(self._pair.entries[self._pair.names.index(name), place] > 0)

    def _alone(self, share: Share, counts: Counts) -> str:
        pair, speaks_for = self._pair, share.effect > 0
        against = "" if speaks_for else "against it: "
        if share.kind == "popularity":
            popular = "popular: " if speaks_for and counts.of_item > counts.mean else ""
            return f"{against}{popular}clicked by {_people(counts.of_item)}"
        if share.kind == "neighbours":
            fitted = pair.affinities.counts
            mean = float(fitted[pair.affinities.knowledge.sharing(pair.item)].mean())
            shown = f"{mean:,.0f}" if mean >= 10 else f"{mean:.1f}"
            if not speaks_for and mean < np.exp(pair.affinities.unknown_item[1]):
                against, shown = "", f"only {shown}"
            return (
                f"{against}items that share facts with it are clicked by {shown} people on average"
            )
        if share.kind == "paths":
            return f"the {self._paths:,} paths of the graph from the history, together"
        if not self._state.graph.num_triples:
            return "what was learned of the item itself"
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


class Counts:
    """Counts of people who clicked an item, and others beside it, by the histories as they are.

    Attributes:
        of_item: people who clicked it.
        mean: of all items.
    """

    def __init__(self, state: State, entity: int) -> None:
        indptr, items = state.history_indptr.numpy(), state.history_items.numpy()
        size = state.graph.num_entities
        users = np.searchsorted(indptr, np.flatnonzero(items == entity), side="right") - 1
        of_users = [items[indptr[u] : indptr[u + 1]] for u in users.tolist()]
        self._together = np.bincount(np.concatenate([items[:0], *of_users]), minlength=size)
        self._clicks = np.bincount(items, minlength=size)
        self._people = int((np.diff(indptr) > 0).sum())
        self._item, self.of_item = entity, int(self._clicks[entity])
        self.mean = len(items) / state.num_items

    def in_words(self, because: Node, j: int, *, speaks_for: bool) -> str:
        """What who clicked another item, of entity j, says of this one."""
        if j == self._item:
            return f"{'because' if speaks_for else 'against it:'} you clicked this itself"
        both, who = int(self._together[j]), int(self._clicks[j])
        often = both * self._people >= who * self.of_item > 0  # no less than by chance
        if speaks_for and often:
            said = f"{both:,} of the {who:,} who did also clicked this"
            return f"because you clicked {because}: {said}"
        if speaks_for:
            return f"because you clicked {because}: those who did clicked much that goes with this"
        if not both:
            return f"against it: none of the {who:,} who clicked {because} clicked this"
        few = f"{both:,}" if often else f"only {both:,}"
        return f"against it: {few} of the {who:,} who clicked {because} clicked this too"


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count:,} people"
