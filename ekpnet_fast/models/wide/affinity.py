"""Affinities of an item to a history, by clicks, by the graph, and by both: features of pairs.

Everything is a sum over the history, so that a history that was not in training is described like
any other, and everything but the regression on the graph rises with the clicks of the item: an item
without clicks has the graph's affinities alone. No feature looks at negatives, and none compares
users, because both reveal how a split was made (see `docs/ekpnet_plus.md`).

Letters: U histories, I items, K (relation, tail) pairs of the graph, G groups, B pairs, A
affinities, N features of them and F = N + 2 features in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.models.wide.curves import curves
from ekpnet_fast.models.wide.graph_basis import GraphBasis, learned_basis
from ekpnet_fast.models.wide.graph_regression import GraphVectors, graph_vectors
from ekpnet_fast.models.wide.item_triples import ItemTripleFeatures
from ekpnet_fast.models.wide.matrices import (
    Matrix,
    clicks_of,
    inverse,
    products,
    rows_of,
    scaled,
    strongest,
    sums,
    walk_factors,
)
from ekpnet_fast.models.wide.regressions import regressions, similar_items
from ekpnet_fast.models.wide.signals import (
    GRAPH_REGRESSION,
    LOG_EPS,
    SignalOptions,
    source_names,
)
from ekpnet_fast.models.wide.sources import KEPT, Source
from ekpnet_fast.models.wide.spectral import leading_eigenvectors
from ekpnet_fast.models.wide.users import UserNeighbours
from ekpnet_fast.ops.threads import beside
from ekpnet_fast.sampling.histories import Histories

__all__ = ["Affinities", "Curved", "neighbours_clicks", "neighbours_kept"]

KEPT_OF_ITEM = 64  # neighbours, at least
JOINT_WEIGHT = 30.0  # regularisation of the regression on clicks and graph, in clicks
WALK_NEIGHBOURS = 128  # of an item, that a 5-hop walk goes on to
# Added to a history's mean affinity, as a share of the mean over all histories.
MEAN_SMOOTHING = 0.05
BLOCK = 4096  # histories whose near users are in memory at a time
NONE, ROOT_OF_LENGTH, BY_MEAN, SIGNED = 0, 1, 2, 3  # scales of a feature, as the op names them
NORM_SMOOTHING = 0.1  # added to a history's norm in the graph, as a share of the mean over all


def neighbours_kept(options: SignalOptions, num_items: int) -> int:
    """Neighbours that an item keeps in each affinity; all, where the catalogue is small."""
    room = options.neighbours or max(KEPT // max(num_items, 1), KEPT_OF_ITEM)
    return max(min(room, num_items), 1)


class Curved(NamedTuple):
    """Affinities and their curves, as the op for logits takes them.

    Attributes:
        sources, curves: what the op takes.
        without_history: [I] logits where a history is empty; None if the curves give these too.
        users: that are near histories, if a source is of them.
    """

    sources: ops.AffinitySources
    curves: ops.WideCurves
    without_history: Tensor | None = None
    users: UserNeighbours | None = None

    def logits(
        self,
        histories: Histories,  # [G]
        group_indptr: Tensor | None = None,  # [G + 1] int64
        items: Tensor | None = None,  # [B] int32
    ) -> Tensor:
        """Logits [B] of the pairs of G groups, or [G, I] of all items for every history."""
        parts = []
        for part, groups, near in _blocks(self.users, histories):
            ends = asked = None
            if items is not None and group_indptr is not None:
                ends, asked = _part(group_indptr, items, groups)
            parts.append(
                ops.wide_logits(
                    part.indptr, part.items, self.sources, self.curves, ends, asked, near
                )
            )
        found = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.without_history is None:
            return found
        empty = histories.indptr.diff() == 0
        if items is None or group_indptr is None:
            found[empty] = self.without_history
        elif empty.any():
            of_pairs = torch.repeat_interleave(empty, group_indptr.diff())
            found[of_pairs] = self.without_history[items[of_pairs].long()]
        return found


def _blocks(
    users: UserNeighbours | None, histories: Histories
) -> Iterator[tuple[Histories, slice, ops.SparseRows | None]]:
    """Histories with the users near them, some at a time, because these need more memory."""
    G = len(histories)
    if users is None:
        yield histories, slice(0, G), None
        return
    for first in range(0, max(G, 1), BLOCK):
        groups = slice(first, min(first + BLOCK, G))
        part = Histories(*_part(histories.indptr, histories.items, groups))
        yield part, groups, users.of(part)


def _part(indptr: Tensor, items: Tensor, groups: slice) -> tuple[Tensor, Tensor]:
    """Row pointers and items of some groups."""
    begin, end = indptr[[groups.start, groups.stop]].tolist()
    return indptr[groups.start : groups.stop + 1] - begin, items[begin:end]


class Affinities:
    """Features of pairs, by the clicks of some histories.

    Args:
        clicks: [U] the histories that counts and co-clicks are taken from.
        knowledge: of the graph.
        options: choice of affinities.
        scale: counts are multiplied by it: F / (F - 1) where a fold of F is left out.
        basis: vectors of the items' triples that clicks are regressed on; by these clicks, if not
            given.

    Attributes:
        counts: [I] clicks of each item.
        popularity, neighbours: [I] features of the items alone.
        unknown_item: [2] both of an item without clicks that shares no triple.
        users: that are near histories; None without that affinity.
        graph: vectors of the regression on the graph; None without it.
        sources: of all affinities, as the ops take them.
    """

    def __init__(
        self,
        clicks: Histories,
        knowledge: ItemTripleFeatures,
        options: SignalOptions,
        scale: float = 1.0,
        basis: GraphBasis | None = None,
    ) -> None:
        A = clicks_of(clicks, knowledge.num_items)
        self.options, self.knowledge = options, knowledge
        self.counts = counts = sums(A, 0)
        self.popularity = np.log(counts * scale + 0.5)
        self.neighbours = neighbours_clicks(knowledge.shared, counts, counts.mean(), scale)
        self.unknown_item = np.log([0.5, max(counts.mean(), 1e-3)])
        self.users = UserNeighbours(A, options.user_knn) if options.user_knn else None
        self.graph: GraphVectors | None = None
        self.sources = self._sources(A, counts, basis)

    def features(
        self,
        histories: Histories,  # [G]
        group_indptr: Tensor,  # [G + 1] int64
        items: Tensor,  # [B] int32
    ) -> Tensor:
        """Features [F, B], named by `feature_names`, of the pairs of G groups; logarithms."""
        parts = [
            ops.wide_features(
                part.indptr,
                part.items,
                self.sources,
                *_part(group_indptr, items, groups),
                near,
            )
            for part, groups, near in _blocks(self.users, histories)
        ]
        return torch.cat([self.item_features[:, items.long()], torch.cat(parts, 1)])

    def curved(
        self,
        knots: Tensor,  # [F, P + 1]
        weight: Tensor,  # [F, P]
        bias: float,
    ) -> Curved:
        """Affinities with the curves that make logits of them."""
        alone = len(self.item_features)
        item_terms = curves(self.item_features, knots[:alone], weight[:alone]) + bias
        needed = (weight[alone:] != 0).any(1)
        widths = knots.double().diff(dim=1)
        slopes = (weight.double() / torch.where(widths > 0, widths, torch.inf)).float()[alone:]
        given = ops.WideCurves(
            knots[alone:][needed].contiguous(), slopes[needed].contiguous(), item_terms
        )
        sources = self._only(needed)
        return Curved(sources, given, users=None if sources.of_users < 0 else self.users)

    def logits(
        self,
        histories: Histories,  # [G]
        knots: Tensor,  # [F, P + 1]
        weight: Tensor,  # [F, P]
        bias: float,
        group_indptr: Tensor | None = None,  # [G + 1] int64
        items: Tensor | None = None,  # [B] int32
    ) -> Tensor:
        """Logits of some curves, as `Curved.logits` gives them."""
        return self.curved(knots, weight, bias).logits(histories, group_indptr, items)

    @cached_property
    def item_features(self) -> Tensor:
        """Features [2, I] of the items alone, the first of `feature_names`."""
        return torch.from_numpy(np.stack([self.popularity, self.neighbours]).astype(np.float32))

    def _only(self, needed: Tensor) -> ops.AffinitySources:
        """Sources of the needed features [N] alone."""
        every = self.sources
        responses = every.responses[needed]
        kept = sorted({a for a, _ in responses.tolist()})
        affinities = every.affinities[kept]
        used = sorted({s for s, _, _ in affinities.tolist()})
        affinities[:, 0] = torch.tensor([used.index(s) for s in affinities[:, 0].tolist()])
        responses[:, 0] = torch.tensor([kept.index(a) for a in responses[:, 0].tolist()])
        return ops.AffinitySources(
            [every.indptrs[s] for s in used],
            [every.neighbours[s] for s in used],
            [every.values[s] for s in used],
            [every.transposed[s] for s in used],
            affinities,
            every.means[kept],
            responses,
            every.constants[needed],
            used.index(every.of_users) if every.of_users in used else -1,
            every.user_means,
        )

    def _sources(
        self, A: Matrix, counts: NDArray[np.float64], basis: GraphBasis | None
    ) -> ops.AffinitySources:
        made = self._affinities(A, counts, basis)
        # Sources of all items by all are told from vectors by affinities without columns.
        affinities = [(s, 0, end) for s, source in enumerate(made) for end in source.ends]
        means = torch.stack([x for source in made for x in source.means(A.shape[1])])
        names, lengths = self.options.names, np.diff(A.indptr)
        # Of a history of n clicks, 1 / sqrt(n) each; the mean over histories that have any.
        by_history = ops.sparse_product(
            rows_of(scaled(A, inverse(np.sqrt(lengths.astype(np.float64))), None)),
            means.T.contiguous(),
        )[torch.from_numpy(lengths > 0)].clamp(min=0)
        typical = [max(x, 1e-12) for x in by_history.double().mean(0).tolist()]
        if not len(by_history):
            typical = [1.0] * len(names)
        elif self.users is not None:
            typical[names.index("user kNN")] = self._typical_of_users(A)
        plain = [
            (names.index(name), NONE if name == "co-click" else ROOT_OF_LENGTH, eps, 0.0)
            for name, eps in LOG_EPS.items()
        ]
        norm = 1e-12 if self.graph is None else max(self.graph.typical, 1e-12)
        each = [
            (a, SIGNED, 0.0, NORM_SMOOTHING * norm)
            if name == GRAPH_REGRESSION
            else (a, BY_MEAN, 0.5, MEAN_SMOOTHING * x)
            for a, (name, x) in enumerate(zip(names, typical, strict=True))
        ]
        responses = plain + each
        nothing, no_items = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int32)
        return ops.AffinitySources(
            [nothing if s.rows is None else s.rows.indptr for s in made],
            [no_items if s.rows is None else s.rows.columns for s in made],
            [s.values for s in made],
            [s.transposed for s in made],
            torch.tensor(affinities, dtype=torch.int64),
            means,
            torch.tensor([r[:2] for r in responses], dtype=torch.int64),
            torch.tensor([r[2:] for r in responses], dtype=torch.float32),
            -1 if self.users is None else source_names(self.options)["user kNN"],
            torch.zeros(0) if self.users is None else self.users.means,
        )

    def _typical_of_users(self, A: Matrix) -> float:
        """Mean over evenly spread histories of their mean affinity by the users near them."""
        assert self.users is not None
        asked = np.flatnonzero(np.diff(A.indptr))
        asked = asked[np.linspace(0, len(asked) - 1, min(len(asked), BLOCK)).round().astype(int)]
        rows = A[asked]
        near = self.users.of(Histories(*rows_of(rows)[:2]))
        mean = ops.sparse_product(near, self.users.means.unsqueeze(1)).view(-1).double().numpy()
        return max(float((mean * np.diff(rows.indptr) ** -0.5).mean()), 1e-12)

    def _affinities(
        self, A: Matrix, counts: NDArray[np.float64], basis: GraphBasis | None
    ) -> list[Source]:
        """Sources of the affinities, in the order of their names."""
        knowledge, options, count = self.knowledge, self.options, self.knowledge.count
        I = knowledge.num_items  # noqa: E741
        # [I, U], A scaled by 1 / sqrt of both its sums: products of rows are co-clicks.
        left = scaled(A, inverse(np.sqrt(sums(A, 1))), inverse(np.sqrt(counts))).T.tocsr()
        vectors: Callable[[], tuple[GraphVectors | None, list[Source]]]
        of_graph = partial(self._graph_vectors, A, basis)
        if options.graph_regression and basis is None:
            # To learn a basis takes one thread as long as all else takes another.
            vectors = partial(self._vectors, A, left, beside(of_graph))
        else:
            vectors = beside(partial(self._vectors, A, left, of_graph))
        together = products(left, count)

        def product(a: ops.SparseRows, b: ops.SparseRows) -> ops.SparseRows:
            return ops.strongest_products(a, b, I, count)

        made = [Source.of_rows(together), knowledge.matches]
        if options.kg_click_kg:
            near = knowledge.alike
            made.append(Source.of_rows(product(product(near, together), near)))
        place = len(made)
        if options.ease > 0:
            made.append(Source(None, _ease(A, options.ease)))
        if options.five_hop:
            near = strongest(together, WALK_NEIGHBOURS)
            made.append(Source.of_rows(product(near, near)))
        if options.knn:
            made.append(Source.of_rows(similar_items(A, counts, count)))
        if options.ridge > 0:
            made.append(Source.of_rows(regressions(A, counts, options.ridge)))
        if options.joint_ridge > 0:
            on_both = regressions(A, counts, JOINT_WEIGHT, knowledge.match, options.joint_ridge)
            made.append(Source.of_rows(on_both))
        if options.p3alpha:
            to_user, to_item = walk_factors(A)
            made.append(Source.of_rows(product(rows_of(to_user), rows_of(to_item))))
        if self.users is not None:
            made.append(Source(self.users.rows, self.users.rows.values, of_users=True))
        for rank in range(1, options.relations + 1):
            made.append(knowledge.matches_by(rank))
        self.graph, made[place:place] = vectors()
        return made

    def _vectors(
        self,
        A: Matrix,
        left: Matrix,  # [I, U]
        of_graph: Callable[[], GraphVectors | None],
    ) -> tuple[GraphVectors | None, list[Source]]:
        """The regression on the graph, and the sources of vectors: projections, and its own."""
        knowledge, options, made = self.knowledge, self.options, []
        users = int(np.count_nonzero(A.getnnz(axis=1)))
        for ranks, factors, power, columns in (
            (options.low_pass, [left], 0.0, users),
            (options.joint_spectral, [left, knowledge.near], 0.5, users + knowledge.near.shape[1]),
        ):
            if ranks:
                # At most a quarter: what tells all users apart projects every history on itself.
                rank = min(max(ranks), max(columns // 4, 1))
                vectors, values = leading_eigenvectors(factors, rank)
                ends = tuple(min(rank, vectors.shape[1]) for rank in ranks)
                made.append(Source(None, vectors * values**power, ends))
        graph = of_graph()
        if graph is not None:
            made.append(Source(None, graph.vectors, (graph.vectors.shape[1],)))
        return graph, made

    def _graph_vectors(self, A: Matrix, basis: GraphBasis | None) -> GraphVectors | None:
        """Regression on the graph, by a basis that is learned where none is given."""
        rank, knowledge = self.options.graph_regression, self.knowledge
        if not rank:
            return None
        if basis is None:
            basis = learned_basis(A, knowledge.weighed, knowledge.relations, rank)
        return graph_vectors(A, basis)


def neighbours_clicks(
    shared: Matrix,  # [I, K]
    counts: NDArray[np.float64],  # [I]
    mean: float,
    scale: float = 1.0,
) -> NDArray[np.float64]:
    """Clicks [I] of the items that share pairs with each one, per item and shared pair; logarithms.

    Args:
        shared: which item has which pair.
        counts: clicks of the items.
        mean: of the counts.
        scale: of counts, as `Affinities` takes it.
    """
    per_tail = np.asarray(shared.T @ counts).ravel()
    others = np.asarray(shared @ per_tail).ravel() - sums(shared, 1) * counts
    sharing = np.asarray(shared @ sums(shared, 0)).ravel() - sums(shared, 1)
    found: NDArray[np.float64] = np.log((others * scale + max(mean, 1e-3)) / (sharing + 1))
    return found


def _ease(A: Matrix, weight: float) -> Tensor:
    """Matrix B [I, I] of EASE^R (Steck, WWW 2019): B_ij = -P_ij / P_jj, P = (A^T A + weight)^-1."""
    gram = torch.from_numpy((A.T @ A).toarray().astype(np.float64))
    gram += weight * torch.eye(len(gram), dtype=torch.float64)
    P = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    return (-P / P.diagonal()).float().fill_diagonal_(0).contiguous()
