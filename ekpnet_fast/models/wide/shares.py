"""Shares: the wide part's logit of one pair, told as a sum over signals and items of the history.

The *base* is the logit of an item that nobody clicked and that shares nothing, neither with other
items nor with the history: the bias, and every curve at its value there. It is the same for all
pairs. Above it each feature adds what its curve rises. That of an affinity a = n^(-1/2) sum_j S[j,
i] is divided among the history's items j in proportion to S[j, i]. Before the curve this is exact,
and of the curve it is what j adds on average on the way from no affinity to a, all items in step
(Aumann & Shapley 1974, the rule of integrated gradients). The history's mean affinity, which
divides some features, is held fixed, and so is its norm in the graph, which divides the regression
on the graph. Entries of projections may be negative, and then their shares are; all of them still
add up to the rise.

What users near the history say of an item is divided likewise, which users these are held fixed.

A share of the graph is divided further among the (relation, tail) pairs that make it up, in
proportion to what each adds to S[j, i]; that of the regression among the item's, whose sum its
vector is up to a factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ekpnet_fast import ops
from ekpnet_fast.models.wide.affinity import BY_MEAN, ROOT_OF_LENGTH, SIGNED, Affinities
from ekpnet_fast.models.wide.curves import ramps
from ekpnet_fast.models.wide.signals import GRAPH_REGRESSION

__all__ = ["Kind", "PairShares", "SharedTriple", "kind_of", "pair_shares"]

Float64: TypeAlias = NDArray[np.float64]
Kind: TypeAlias = Literal["clicks", "joint", "walk", "taste", "match"]
"""What an affinity compares: clicks, clicks and graph at once, the walk by graph, clicks and graph,
which triples are clicked together, or triples."""

_KINDS: dict[str, Kind] = {
    "co-click": "clicks",
    "far co-click": "clicks",
    "low-pass": "clicks",
    "EASE": "clicks",
    "item kNN": "clicks",
    "ridge": "clicks",
    "P3alpha": "clicks",
    "user kNN": "clicks",
    "joint": "joint",
    "KG-click-KG": "walk",
    GRAPH_REGRESSION: "taste",
    "KG match": "match",
}


def kind_of(affinity: str) -> Kind:
    """Kind of an affinity of `SignalOptions.names`."""
    for name, kind in _KINDS.items():
        if affinity.startswith(name):
            return kind
    raise KeyError(affinity)


class SharedTriple(NamedTuple):
    """Triple (item, relation, tail) that a share of the graph rests on.

    Attributes:
        relation: as the graph numbers it, inverse relations behind the others.
        tail: entity.
        effect: its part of the share.
    """

    relation: int
    tail: int
    effect: float


@dataclass(frozen=True)
class PairShares:
    """Shares of one history of n items and one item i.

    Attributes:
        affinities: A of them, that the entries are of.
        features: names of the N features of affinities.
        knots, weight: curves of these, [N, P + 1] and [N, P].
        base: of every pair.
        alone: by name, what the features of the item alone add.
        history: [n] int64, its items.
        item: i.
        entries: [A, n], S[j, i].
        means: [A, n], the mean of S[j, .] over all items.
    """

    affinities: Affinities
    features: tuple[str, ...]
    knots: torch.Tensor
    weight: torch.Tensor
    base: float
    alone: Mapping[str, float]
    history: NDArray[np.int64]
    item: int
    entries: Float64
    means: Float64

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the affinities [A]."""
        return self.affinities.options.names

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of the affinities [A]."""
        return tuple(map(kind_of, self.names))

    @property
    def logit(self) -> float:
        """Logit of the wide part."""
        return self.base + sum(self.alone.values()) + float(self.rises().sum())

    def rises(
        self,
        kept: NDArray[np.bool_] | None = None,  # [A, n]
        counted: NDArray[np.bool_] | None = None,  # [A, n]
    ) -> Float64:
        """What the curves of the affinities' features [N] rise above affinity 0.

        Args:
            kept: entries that the affinities are summed over; all without.
            counted: those that the history's mean affinities, and its norm in the graph, are of;
                all without. The history's length stays.
        """
        S = self.entries if kept is None else np.where(kept, self.entries, 0)
        M = self.means if counted is None else np.where(counted, self.means, 0)
        n = len(self.history)
        share = n**-0.5 if n else 0.0
        affinity, mean = share * S.sum(1), np.maximum(share * M.sum(1), 0)
        responses = self.affinities.sources.responses.numpy()
        constants = self.affinities.sources.constants.numpy().astype(np.float64)
        of, scale = responses[:, 0], responses[:, 1]
        factor = np.ones(len(of))
        factor[scale == ROOT_OF_LENGTH] = n**0.5
        by_mean = scale == BY_MEAN
        factor[by_mean] = 1 / (mean[of] + constants[:, 1])[by_mean]
        added = np.where(scale == SIGNED, 1, constants[:, 0])
        x = np.log(np.maximum(affinity[of], 0) * factor + added)
        nothing = np.log(added)
        for feature in np.flatnonzero(scale == SIGNED).tolist():
            a = int(of[feature])
            norm = share * self._norm(a, None if counted is None else counted[a])
            x[feature] = affinity[a] / (norm + constants[feature, 1]) ** 0.5
        return _responses(self.knots, self.weight, x) - _responses(self.knots, self.weight, nothing)

    def _norm(self, a: int, counted: NDArray[np.bool_] | None) -> float:
        """Norm of the sum of the history's vectors of an affinity."""
        sources = self.affinities.sources
        source, first, end = sources.affinities[a].tolist()
        vectors = sources.values[source][torch.from_numpy(self.history), first:end].double()
        if counted is not None:
            vectors = vectors[torch.from_numpy(counted)]
        return float(vectors.sum(0).norm())

    def by_item(self) -> Float64:
        """Rises [N, n] of the features, divided among the history's items."""
        of, scale = self.affinities.sources.responses.numpy().T
        total = self.entries.sum(1, keepdims=True)
        # What is not signed does not rise by a sum below 0.
        signed = np.isin(np.arange(len(total)), of[scale == SIGNED])[:, None]
        some = (total > 0) | (signed & (total != 0))
        parts = np.divide(self.entries, total, out=np.zeros_like(self.entries), where=some)
        found: Float64 = self.rises()[:, None] * parts[of]
        return found

    def by_affinity(self) -> Float64:
        """Rises [A, n] of all features of each affinity, divided among the history's items."""
        found = np.zeros_like(self.entries)
        np.add.at(found, self.affinities.sources.responses[:, 0].numpy(), self.by_item())
        return found

    def triples(self, place: int, kind: Kind) -> list[SharedTriple]:
        """Triples that the share of history[place] by a kind of the graph rests on, largest first.

        Of "match" those that both items have; of "walk" those that the item shares with what is
        clicked with items like the one of the history; of "taste" all of the item, those that speak
        as the share does first. Empty for other kinds.
        """
        effects = self.by_affinity()[:, place]
        found: dict[int, float] = {}
        knowledge, j = self.affinities.knowledge, int(self.history[place])
        for a, name in enumerate(self.names):
            if self.kinds[a] != kind or effects[a] == 0:
                continue
            if kind == "match":
                columns, weights = knowledge.shared_pairs(j, self.item, _rank(name))
            elif kind == "walk":
                columns, weights = knowledge.pairs_near(self._clicked_with_alike(j), self.item)
            elif kind == "taste":
                columns, weights = self._facts_of_item(a, j)
            else:
                continue
            if weights.sum() != 0:
                for column, weight in zip(columns, weights / weights.sum(), strict=True):
                    found[int(column)] = found.get(int(column), 0.0) + effects[a] * weight
        triples = [
            SharedTriple(*knowledge.pair(column), float(effect)) for column, effect in found.items()
        ]
        if kind == "taste":
            sign = np.sign(sum(triple.effect for triple in triples))
            return sorted(triples, key=lambda triple: (-sign * triple.effect, triple[:2]))
        return sorted(triples, key=lambda triple: (-abs(triple.effect), triple[:2]))

    def _facts_of_item(self, a: int, j: int) -> tuple[NDArray[np.int64], Float64]:
        """Columns [n] of the item's facts, and what each adds to S[j, item], up to a factor."""
        sources, graph = self.affinities.sources, self.affinities.graph
        assert graph is not None
        knowledge = self.affinities.knowledge
        row = knowledge.weighed[self.item]
        fitted = row.indices < len(graph.basis.of_facts)  # others came later
        columns = row.indices[fitted].astype(np.int64)
        vector = sources.values[int(sources.affinities[a, 0])][j].double()
        of_facts = graph.of_facts(columns, knowledge.relations[columns])
        return columns, row.data[fitted] * (of_facts @ vector).numpy()

    def _clicked_with_alike(self, j: int) -> Float64:
        """Co-clicks [I] of all items with those that are alike j by the graph."""
        alike, sources = self.affinities.knowledge.alike, self.affinities.sources
        first, last = alike.indptr[j : j + 2].tolist()
        near, values = alike.columns[first:last].long(), alike.values[first:last].double()
        if not sources.indptrs[0].numel():
            return (values @ sources.values[0][near].double()).numpy()
        found = np.zeros(self.affinities.knowledge.num_items)
        for other, value in zip(near.tolist(), values.tolist(), strict=True):
            first, last = sources.indptrs[0][other : other + 2].tolist()
            found[sources.neighbours[0][first:last].numpy()] += (
                value * sources.values[0][first:last].double().numpy()
            )
        return found


def pair_shares(
    affinities: Affinities,
    names: tuple[str, ...],  # [F] of the features
    knots: torch.Tensor,  # [F, P + 1]
    weight: torch.Tensor,  # [F, P]
    bias: float,
    history: torch.Tensor,  # [n] int32, distinct
    item: int,
    without_history: torch.Tensor | None = None,  # [2] height and slope over popularity
) -> PairShares:
    """Shares of a history and an item, by fitted curves; without a history by popularity alone."""
    knots, weight = knots.cpu().double(), weight.cpu().double()
    alone = len(affinities.item_features)
    of_item = affinities.item_features[:, item].double().numpy()
    at_item = _responses(knots[:alone], weight[:alone], of_item)
    # Rounded as those of items are, so that an item that has the same differs by nothing.
    of_unknown = affinities.unknown_item.astype(np.float32).astype(np.float64)
    unknown = _responses(knots[:alone], weight[:alone], of_unknown)
    is_signed = affinities.sources.responses[:, 1].numpy() == SIGNED
    added = np.where(is_signed, 1, affinities.sources.constants[:, 0].double().numpy())
    nothing = _responses(knots[alone:], weight[alone:], np.log(added))
    items = history.long()
    base = bias + float(unknown.sum()) + float(nothing.sum())
    height, slope = (0.0, 0.0) if without_history is None else without_history.tolist()
    if not len(items) and slope > 0:
        base = height + slope * float(of_unknown[0])
        at_item, unknown = np.zeros(alone), np.zeros(alone)
        at_item[0] = slope * float(of_item[0] - of_unknown[0])
    entries = _entries(affinities.sources, items, item)
    means = affinities.sources.means[:, items].double().numpy()
    if affinities.users is not None:
        a = affinities.options.names.index("user kNN")
        entries[a], means[a] = affinities.users.shares(items, item)
    return PairShares(
        affinities=affinities,
        features=names[alone:],
        knots=knots[alone:],
        weight=weight[alone:],
        base=base,
        alone=dict(zip(names[:alone], (at_item - unknown).tolist(), strict=True)),
        history=items.numpy(),
        item=item,
        entries=entries,
        means=means,
    )


def _responses(knots: torch.Tensor, weight: torch.Tensor, x: Float64) -> Float64:
    """Responses [F] to one value [F] of each feature."""
    passed = ramps(torch.from_numpy(x).unsqueeze(1), knots).squeeze(2)
    return (weight * passed).sum(1).numpy()


def _entries(sources: ops.AffinitySources, history: torch.Tensor, item: int) -> Float64:
    """Entries S[j, item] of every affinity, [A, n]."""
    found = np.zeros((len(sources.affinities), len(history)))
    for a, (source, first, end) in enumerate(sources.affinities.tolist()):
        if source == sources.of_users:  # not a matter of two items alone
            continue
        values, indptr = sources.values[source], sources.indptrs[source]
        if end > 0:
            vectors = values[:, first:end].double()
            found[a] = (vectors[history] @ vectors[item]).numpy()
        elif not indptr.numel():
            found[a] = values[history, item].double().numpy()
        else:
            neighbours = sources.neighbours[source].numpy()
            for place, j in enumerate(history.tolist()):
                begin, stop = indptr[j : j + 2].tolist()
                at = begin + int(np.searchsorted(neighbours[begin:stop], item))
                if at < stop and neighbours[at] == item:
                    found[a, place] = float(values[at])
    return found


def _rank(affinity: str) -> int | None:
    """Rank of the relation that an affinity is by; None for all relations."""
    prefix = "KG match by relation of rank "
    return int(affinity.removeprefix(prefix)) if affinity.startswith(prefix) else None
