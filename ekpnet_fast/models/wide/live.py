"""Affinities after a change of the graph, from those that were fitted: what changed is made anew.

As fitted stay the clicks with all that follows from them (counts, co-clicks, similarities of items
and users, regressions, eigenvectors, what facts mean to each other), the weights of the graph's
(relation, tail) pairs, the mean affinities that others are measured by, and the neighbours that an
item of a large catalogue has room for. Everything else is that of the graph as it is: the rows of
an item whose pairs changed, and its column in the rows of others.

A pair that no item had counts as one that a single item has; from the second item on it makes them
alike, as any pair of few items does. The result depends on what was fitted and on the graph as it
is, not on the changes in between.
"""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.models.wide.affinity import Affinities, neighbours_clicks
from ekpnet_fast.models.wide.item_triples import MAX_ITEMS_PER_PAIR, ItemTripleFeatures
from ekpnet_fast.models.wide.matrices import (
    Matrix,
    by_columns,
    inverse,
    matrix_of,
    rows_of,
    scaled,
    sparse,
    strongest,
    sums,
    unit_rows,
)
from ekpnet_fast.models.wide.signals import GRAPH_REGRESSION, source_names
from ekpnet_fast.sampling.graph import Graph

__all__ = ["FittedTriples", "items_first", "with_graph"]

Ids = NDArray[np.int64]


def items_first(graph: Graph, catalogue: Tensor) -> Graph:
    """Graph of the items' own triples: head i is item i of a catalogue [I], tails are entities."""
    n = len(catalogue)
    if torch.equal(catalogue.long(), torch.arange(n)):
        last = int(graph.indptr[n])
        return _rows(graph, graph.indptr[: n + 1], slice(0, last))
    lengths = graph.indptr.diff()[catalogue.long()]
    indptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    begins = graph.indptr[catalogue.long()] - indptr[:-1]
    at = torch.arange(int(indptr[-1])) + torch.repeat_interleave(begins, lengths)
    return _rows(graph, indptr, at)


def _rows(graph: Graph, indptr: Tensor, at: slice | Tensor) -> Graph:
    return Graph(
        indptr,
        graph.relations[at],
        graph.tails[at],
        graph.num_entities,
        graph.num_relations,
        graph.inverse,
    )


class FittedTriples:
    """Triples of the items as the affinities were fitted to them.

    Attributes:
        affinities: that were fitted.
        knowledge: of the graph, that they were made of.
        graph: `items_first` of it.
    """

    def __init__(self, affinities: Affinities, graph: Graph) -> None:
        self.affinities, self.graph = affinities, graph
        self.knowledge: ItemTripleFeatures = affinities.knowledge

    @cached_property
    def codes(self) -> Ids:
        """Codes [K] of the (relation, tail) pairs, rising."""
        E, pairs = self.graph.num_entities, self.knowledge.pairs
        found: Ids = (pairs // E << 32) | pairs % E
        return found

    @cached_property
    def degree(self) -> Ids:
        """Items [K] that have each pair."""
        table = self.knowledge.weighed
        return np.bincount(table.indices, minlength=table.shape[1]).astype(np.int64)

    @cached_property
    def holders(self) -> Matrix:
        """Items by pair [K, I]."""
        return self.knowledge.weighed.T.tocsr()

    @cached_property
    def by_match(self) -> Matrix:
        """Columns of the tf-idf matrix, as products are made of them."""
        return by_columns(self.knowledge.match)

    @cached_property
    def by_near(self) -> Matrix:
        """Columns of `near`."""
        return by_columns(self.knowledge.near)

    def by_rank(self, rank: int) -> Matrix:
        """Columns of the tf-idf matrix of one relation's pairs."""
        if rank not in self._by_rank:
            self._by_rank[rank] = by_columns(self.knowledge.match_by(rank))
        return self._by_rank[rank]

    @cached_property
    def projected(self) -> Tensor:
        """Projections [K', r] of the pairs in `near`, by the items that have them."""
        vectors = self.affinities.sources.values[source_names(self.affinities.options)["joint"]]
        return ops.sparse_product(rows_of(self.knowledge.near.T.tocsr()), vectors)

    @cached_property
    def _by_rank(self) -> dict[int, Matrix]:
        return {}


class _Changes:
    """Items whose pairs are not those that were fitted, and their rows.

    Attributes:
        items: [c] their numbers, rising; those beyond the fitted catalogue among them.
        table: [c, K + k'] their pairs, fitted ones first and then others.
        codes: [K + k'] of the pairs.
        num_items: I of the catalogue now.
    """

    def __init__(self, fitted: FittedTriples, graph: Graph) -> None:
        known = fitted.codes
        before, self.num_items = fitted.knowledge.num_items, len(graph.indptr) - 1
        items, rows = [], []
        table = fitted.knowledge.weighed
        for item in _different_rows(fitted.graph, graph).tolist():
            codes = _codes(graph, item)
            first, last = table.indptr[item : item + 2]
            if not np.array_equal(codes, known[table.indices[first:last]]):
                items.append(item)
                rows.append(codes)
        for item in range(before, self.num_items):
            items.append(item)
            rows.append(_codes(graph, item))
        self.items: Ids = np.array(items, dtype=np.int64)
        codes = np.concatenate([np.zeros(0, np.int64), *rows])
        new = np.setdiff1d(codes, known)
        self.codes: Ids = np.concatenate([known, new])
        place = np.searchsorted(known, codes)
        place[place == len(known)] = 0
        is_new = np.isin(codes, new)
        place[is_new] = len(known) + np.searchsorted(new, codes[is_new])
        heads = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        self.table = sparse(np.ones(len(place)), heads, place, (len(rows), len(self.codes)))
        self.table.sort_indices()


def _different_rows(before: Graph, after: Graph) -> Ids:
    """Items [n] of the first graph whose triples are others in the second, or in other order."""
    n = len(before.indptr) - 1
    ends = after.indptr[: n + 1]
    old, new = before.indptr.diff(), ends.diff()
    same = old == new
    at_old = torch.repeat_interleave(same, old)
    at_new = torch.repeat_interleave(same, new)
    last = int(ends[-1])
    unequal = (before.relations[at_old].int() != after.relations[:last][at_new].int()) | (
        before.tails[at_old] != after.tails[:last][at_new]
    )
    heads = torch.repeat_interleave(torch.arange(n), torch.where(same, old, 0))
    differs = ~same
    differs[heads[unequal]] = True
    found: Ids = torch.nonzero(differs).view(-1).numpy()
    return found


def _codes(graph: Graph, item: int) -> Ids:
    """Codes of an item's (relation, tail) pairs, rising, each once."""
    own = slice(int(graph.indptr[item]), int(graph.indptr[item + 1]))
    relations = graph.relations[own].numpy().astype(np.int64)
    return np.unique((relations << 32) | graph.tails[own].numpy())


def with_graph(fitted: FittedTriples, graph: Graph) -> Affinities:
    """Affinities by another graph of the items, of which there may be more.

    Args:
        fitted: the affinities that were fitted, and the triples of the items then.
        graph: `items_first` of the graph as it is, the fitted catalogue in front.
    """
    changes, affinities = _Changes(fitted, graph), fitted.affinities
    if not len(changes.items):
        return affinities
    followed = copy.copy(affinities)
    vars(followed).pop("item_features", None)
    near = _Near(fitted, changes)
    more = changes.num_items - len(affinities.counts)
    followed.counts = np.append(affinities.counts, np.zeros(more))
    followed.popularity = np.append(affinities.popularity, np.full(more, np.log(0.5)))
    followed.neighbours = neighbours_clicks(near.shared, followed.counts, affinities.counts.mean())
    if affinities.users is not None:
        followed.users = affinities.users.wider(changes.num_items)
    splicing = _Splicing(fitted, changes, near)
    followed.sources = splicing.sources()
    followed.knowledge = _knowledge(fitted, changes, near, splicing.alike)
    return followed


def _knowledge(
    fitted: FittedTriples, changes: _Changes, near: _Near, alike: Matrix | None
) -> ItemTripleFeatures:
    """Triples of the items as they are, which reasons are told by."""
    found = copy.copy(fitted.knowledge)
    K, size, items = len(changes.codes), changes.num_items, changes.items
    idf = np.log(found.num_items / np.append(fitted.degree, np.ones(K - len(fitted.degree))))
    found.weighed = _rows_replaced(
        _wider(fitted.knowledge.weighed, K), items, scaled(changes.table, None, idf), size
    )
    old: Any = fitted.knowledge.near.tocoo()
    shape = (old.shape[0], K)
    placed = sparse(old.data, old.row, near.columns[old.col], shape)
    found.near = _rows_replaced(placed, near.items, near.rows, size)
    found.set_pairs(changes.codes, 1 << 32, np.arange(K))
    found.num_items = size
    vars(found).pop("matches", None)
    vars(found).pop("alike", None)
    if alike is not None:
        vars(found)["alike"] = rows_of(alike)
    return found


class _Near:
    """Pairs of few items, after the changes.

    Attributes:
        items: [n] whose rows are not the fitted ones, rising.
        rows: [n, K + k'] of `near`.
        shared: [I, K + k'] pairs of all items, unscaled.
    """

    def __init__(self, fitted: FittedTriples, changes: _Changes) -> None:
        knowledge, K = fitted.knowledge, len(fitted.codes)
        degree = np.append(fitted.degree, np.zeros(len(changes.codes) - K, dtype=np.int64))
        chosen = (degree > 1) & (degree < MAX_ITEMS_PER_PAIR)
        # What one item had, or none, may make items alike now.
        found = np.unique(changes.table.indices)
        some = found[degree[found] <= 1]
        single = some[some < K]
        single = single[degree[single] == 1]
        own = fitted.holders.indices[fitted.holders.indptr[single]]
        others = ~np.isin(own, changes.items)  # who still have the pair as they had it
        count = np.bincount(changes.table.indices, minlength=len(degree))
        count[single[others]] += 1
        now = some[(count[some] > 1) & (count[some] < MAX_ITEMS_PER_PAIR)]
        chosen[now] = True
        degree[now] = count[now]
        holders = np.unique(own[others & np.isin(single, now)]).astype(np.int64)
        self.items: Ids = np.union1d(changes.items, holders)
        table = _wider(knowledge.weighed, len(degree))
        table.data[:] = 1
        rows = _rows_replaced(table, changes.items, changes.table, changes.num_items)
        rows = scaled(rows, None, chosen.astype(np.float64))
        rows.eliminate_zeros()
        self.shared = rows
        own_rows = rows[self.items]
        with np.errstate(divide="ignore"):
            weight = np.where(chosen, np.maximum(degree, 1) ** -0.5, 0.0)
        self.rows = scaled(own_rows, inverse(np.sqrt(sums(own_rows, 1))), weight)
        # Columns of the fitted `near` among all pairs.
        self.columns = np.flatnonzero((fitted.degree > 1) & (fitted.degree < MAX_ITEMS_PER_PAIR))


class _Splicing:
    """Sources of affinities with the rows and columns of some items put in."""

    def __init__(self, fitted: FittedTriples, changes: _Changes, near: _Near) -> None:
        affinities = fitted.affinities
        self.fitted, self.changes, self.near = fitted, changes, near
        self.old, self.options = affinities.sources, affinities.options
        self.size, self.before = changes.num_items, len(affinities.counts)
        self.count = fitted.knowledge.count
        self.alike: Matrix | None = None
        self.places = source_names(self.options)
        self.indptrs = [
            x if not len(x) or s == self.old.of_users else self._longer(x)
            for s, x in enumerate(self.old.indptrs)
        ]
        self.neighbours, self.values = list(self.old.neighbours), list(self.old.values)
        more = self.size - self.before
        self.means = torch.cat(
            [self.old.means, self.old.means.new_zeros(len(self.old.means), more)], 1
        )
        if more:
            for s, values in enumerate(self.values):
                if not len(self.indptrs[s]):
                    wide = 0 if self._vectors(s) else more
                    self.values[s] = torch.nn.functional.pad(values, (0, wide, 0, more))

    def sources(self) -> ops.AffinitySources:
        """Sources after the changes."""
        knowledge, table, items = self.fitted.knowledge, self.changes.table, self.changes.items
        # Weights as fitted; of a pair that nobody had as if one item had it.
        idf = np.log(knowledge.num_items / np.maximum(self._degree(), 1))
        weighed = scaled(table, None, idf)
        self._put(
            "KG match", items, self._products(unit_rows(weighed), self.fitted.by_match, items)
        )
        for rank in range(1, self.options.relations + 1):
            relation = knowledge.relation_of(rank)
            if relation is None:
                continue
            of_relation = self.changes.codes >> 32 == relation
            rows = unit_rows(weighed[:, of_relation].tocsr())
            products = self._products(rows, self.fitted.by_rank(rank), items)
            self._put(f"KG match by relation of rank {rank}", items, products)
        if self.options.kg_click_kg:
            self._put_walk()
        if self.options.joint_spectral:
            self._fold_in()
        graph = self.fitted.affinities.graph
        if graph is not None:
            vectors = graph.folded_in(weighed, self.changes.codes >> 32)
            self._put_vectors(GRAPH_REGRESSION, items, vectors)
        transposed = [
            values.T.contiguous() if self._vectors(s) else old
            for s, (values, old) in enumerate(zip(self.values, self.old.transposed, strict=True))
        ]
        return self.old._replace(
            indptrs=self.indptrs,
            neighbours=self.neighbours,
            values=self.values,
            transposed=transposed,
            means=self.means,
        )

    def _degree(self) -> Ids:
        new = np.ones(len(self.changes.codes) - len(self.fitted.codes), dtype=np.int64)
        return np.append(self.fitted.degree, new)

    def _products(self, rows: Matrix, by_column: Matrix, items: Ids) -> Matrix:
        """Products [n, I] of changed rows [n, K + k'] with all rows of a factor.

        `by_column` [K, I] has the fitted rows, of which those of `items` are no more.
        """
        K = by_column.shape[0]
        new = rows.shape[1] - K
        # Of pairs that too many items have nothing is left there.
        used = np.append(np.diff(by_column.indptr) > 0, np.ones(new, dtype=np.bool_))
        rows = scaled(rows, None, used.astype(np.float64))
        with_others = (rows[:, :K] @ by_column).tocsr()
        with_others.resize((len(items), self.size))
        changed = np.zeros(self.size)
        changed[items] = 1
        with_others = scaled(with_others, None, 1 - changed)
        among = (rows @ rows.T).tocoo()
        placed = sparse(among.data, among.row, items[among.col], (len(items), self.size))
        found = (with_others + placed).tocsr()
        found.sort_indices()
        return found

    def _put_walk(self) -> None:
        """Put in the walks of changed items and of all that are alike one of them."""
        items, fitted = self.near.items, self.fitted.knowledge.alike
        near = self.near.rows
        columns = np.append(self.near.columns, self._new_near())
        products = self._products(near[:, columns].tocsr(), self.fitted.by_near, items)
        old = matrix_of(fitted, self.before)
        old.resize((self.size, self.size))
        alike = _strongest(_spliced(old, items, products), self.fitted.knowledge.walked)
        self.alike = alike
        reached = np.concatenate([old[items].indices, alike[items].indices]).astype(np.int64)
        reached = np.union1d(items, reached)
        first = alike[reached][:, : self.before].tocsr()
        s = self.places["co-click"]
        if len(self.indptrs[s]):
            clicks = ops.SparseRows(self.old.indptrs[s], self.old.neighbours[s], self.old.values[s])
            half = ops.strongest_products(rows_of(first), clicks, self.before, self.count)
            back = rows_of(alike[: self.before])
            walk = matrix_of(ops.strongest_products(half, back, self.size, self.count), self.size)
        else:
            of_all = ops.sparse_product(rows_of(first), self.old.values[s])
            back = rows_of(alike.T.tocsr()[:, : self.before].tocsr())
            walk = _csr(ops.sparse_product(back, of_all.T.contiguous()).T)
        self._put("KG-click-KG", reached, walk)

    def _new_near(self) -> Ids:
        """Pairs beside the fitted ones that make items alike."""
        found: Ids = np.setdiff1d(np.unique(self.near.rows.indices), self.near.columns)
        return found

    def _fold_in(self) -> None:
        """Add to the projections of changed items what their pairs project on.

        The vector of an item is (near near^T + its clicks) V / values; the columns of the source
        are V sqrt(values), so their squares sum to the values.
        """
        s = self.places["joint"]
        vectors, items = self.old.values[s], self.near.items
        values = vectors.double().square().sum(0)
        scale = torch.where(values > 1e-12, 1 / values.clamp(min=1e-12), 0.0).float()
        # What a pair projects on, by the items that have it and had vectors.
        new = self._new_near()
        columns = np.append(self.near.columns, new)
        rows = self.near.rows[:, columns].tocsr()
        had = items < self.before
        of_new = self.near.rows[had][:, new].T.tocsr()
        own = vectors[torch.from_numpy(items[had])]
        of_pairs = torch.cat([self.fitted.projected, ops.sparse_product(rows_of(of_new), own)])
        fitted = self.fitted.knowledge.near[items[had]]
        folded = torch.zeros(len(items), vectors.shape[1])
        folded[torch.from_numpy(had)] = own
        folded += ops.sparse_product(rows_of(rows), of_pairs) * scale
        folded[torch.from_numpy(had)] -= (
            ops.sparse_product(rows_of(fitted), self.fitted.projected) * scale
        )
        self._put_vectors("joint", items, folded)

    def _put_vectors(self, name: str, items: Ids, vectors: Tensor) -> None:
        """Put vectors [n, r] of some items into a source."""
        s, into = self.places[name], torch.from_numpy(items)
        if self.size == self.before:
            self.values[s] = self.values[s].clone()
        self.values[s][into] = vectors
        mean = self.old.values[s].mean(0)
        for a, (of, _, end) in enumerate(self.old.affinities.tolist()):
            if of == s:
                self.means[a, into] = vectors[:, :end] @ mean[:end]

    def _put(self, name: str, items: Ids, rows: Matrix) -> None:
        """Put rows [n, I], symmetric, into a source: as rows of the items, and as columns."""
        s = self.places[name]
        (a,) = (a for a, (of, _, _) in enumerate(self.old.affinities.tolist()) if of == s)
        if len(self.indptrs[s]):
            old = ops.SparseRows(self.indptrs[s], self.neighbours[s], self.values[s])
            spliced = _strongest(_spliced(matrix_of(old, self.size), items, rows), self.count)
            self.indptrs[s], self.neighbours[s], self.values[s] = rows_of(spliced)
            share = torch.full((self.size, 1), 1 / max(self.before, 1))
            self.means[a] = ops.sparse_product(rows_of(spliced), share).view(-1)
            return
        square = self.values[s] if self.size > self.before else self.values[s].clone()
        at, dense = torch.from_numpy(items), torch.from_numpy(rows.toarray())
        touched = (square[:, at] != 0).any(1) | (dense != 0).any(0)
        square[:, at] = dense.T
        square[at] = dense
        touched[at] = True
        self.values[s] = square
        self.means[a, touched] = square[touched].sum(1) / max(self.before, 1)

    def _vectors(self, s: int) -> bool:
        return any(of == s and end > 0 for of, _, end in self.old.affinities.tolist())

    def _longer(self, indptr: Tensor) -> Tensor:
        return torch.cat([indptr, indptr[-1:].expand(self.size - self.before)])


def _csr(dense: Tensor) -> Matrix:
    from scipy import sparse as scipy_sparse  # here, because models without a wide part need none

    return scipy_sparse.csr_matrix(dense.numpy())


def _wider(matrix: Matrix, num_columns: int) -> Matrix:
    """Copy with more columns."""
    found = matrix.copy()
    found.resize((matrix.shape[0], num_columns))
    return found


def _rows_replaced(matrix: Matrix, items: Ids, rows: Matrix, size: int) -> Matrix:
    """Matrix [size, K] with the rows of some items replaced; those beyond it are among them."""
    from scipy import sparse as scipy_sparse

    order = np.arange(size)
    order[items] = matrix.shape[0] + np.arange(len(items))
    return scipy_sparse.vstack([matrix, rows], format="csr")[order]


def _spliced(matrix: Matrix, items: Ids, rows: Matrix) -> Matrix:
    """Symmetric matrix [I, I] with the rows and columns of some items replaced by rows [n, I]."""
    keep = np.ones(matrix.shape[0])
    keep[items] = 0
    kept = scaled(matrix, keep, keep)
    found: Any = rows.tocoo()
    at = items[found.row]
    others = keep[found.col] > 0
    placed = sparse(
        np.concatenate([found.data, found.data[others]]),
        np.concatenate([at, found.col[others]]),
        np.concatenate([found.col, at[others]]),
        matrix.shape,
    )
    spliced = (kept + placed).tocsr()
    spliced.eliminate_zeros()
    spliced.sort_indices()
    return spliced


def _strongest(matrix: Matrix, count: int) -> Matrix:
    """Strongest `count` entries of each row."""
    if np.diff(matrix.indptr).max(initial=0) <= count:
        return matrix
    return matrix_of(strongest(rows_of(matrix), count), matrix.shape[1])
