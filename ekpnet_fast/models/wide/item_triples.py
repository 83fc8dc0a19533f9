"""Features of the items' triples, the same for every history."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast import ops
from ekpnet_fast.models.wide.matrices import (
    Matrix,
    inverse,
    products,
    scaled,
    sparse,
    sums,
    unit_rows,
)
from ekpnet_fast.models.wide.sources import Source
from ekpnet_fast.sampling.graph import Graph

__all__ = ["ItemTripleFeatures"]

MAX_ITEMS_PER_PAIR = 60  # a tail that fewer items share makes them alike
ALIKE = 128  # items that one is walked to over a shared tail


class ItemTripleFeatures:
    """Tf-idf matrix of items x (relation, tail) pairs; with inverse pairs where the graph has them.

    Attributes:
        match: [I, K] rows of idf = log(I / items with the pair), scaled to norm 1; 0 where an item
            has no triple. Products of rows are cosines.
        near: [I, K'] the pairs that 2 to `MAX_ITEMS_PER_PAIR` - 1 items have, scaled by 1 / sqrt
            of row and column sums.
        shared: [I, K'] the same pairs, unscaled.
        weighed: [I, K] `match`, unscaled.
        pairs: [K] the number of each pair, relation * E + tail, rising.
        relations: [K] relation of each.
        count: neighbours that an item keeps.
        walked: of those alike.
    """

    def __init__(self, graph: Graph, num_items: int, count: int) -> None:
        ends = graph.indptr[: num_items + 1].numpy()
        heads = np.repeat(np.arange(num_items), np.diff(ends))
        relations = graph.relations[: ends[-1]].numpy().astype(np.int64)
        pair = relations * graph.num_entities + graph.tails[: ends[-1]].numpy()
        known, column = np.unique(pair, return_inverse=True)
        table = sparse(np.ones(len(heads)), heads, column, (num_items, len(known)))
        table.sum_duplicates()
        table.data[:] = 1
        self.num_items, self.count, self.walked = num_items, count, min(count, ALIKE)
        degree = sums(table, 0)
        weighed = scaled(table, None, np.log(num_items / degree))
        self.match = unit_rows(weighed)
        # Relations by how many items have them, ties by number; the pairs of each alone.
        pairs_of = known // graph.num_entities
        self.weighed, self.pairs, self.relations = weighed, known, pairs_of
        self._num_entities = graph.num_entities
        by = {int(r): table[:, pairs_of == r] for r in np.unique(pairs_of)}
        items_with = {r: int((sums(pairs, 1) > 0).sum()) for r, pairs in by.items()}
        self._ranked = sorted(by, key=lambda r: (-items_with[r], r))
        self._by_relation: dict[int, Source] = {}
        chosen = (degree > 1) & (degree < MAX_ITEMS_PER_PAIR)
        self._chosen = np.flatnonzero(chosen)
        self.shared = table[:, chosen].tocsr()
        self.near = scaled(
            self.shared, inverse(np.sqrt(sums(self.shared, 1))), degree[chosen] ** -0.5
        )

    def set_pairs(self, pairs: NDArray[np.int64], base: int, near: NDArray[np.int64]) -> None:
        """Set what the columns stand for.

        Args:
            pairs: [K] relation * base + tail of each.
            base: above all tails.
            near: [K'] columns of `near` among them.
        """
        self.pairs, self.relations, self._num_entities = pairs, pairs // base, base
        self._chosen = near

    def relation_of(self, rank: int) -> int | None:
        """Relation that is so many-th by the items that have it; None where there are fewer."""
        return self._ranked[rank - 1] if rank <= len(self._ranked) else None

    def match_by(self, rank: int) -> Matrix:
        """Matrix [I, K_r], `match` by the pairs of one relation; empty where there are fewer."""
        relation = self.relation_of(rank)
        if relation is None:
            return self.weighed[:, :0].tocsr()
        return unit_rows(self.weighed[:, self.relations == relation].tocsr())

    def matches_by(self, rank: int) -> Source:
        """Strongest cosines [I, I] of `match_by`; made once for all folds."""
        if rank not in self._by_relation:
            self._by_relation[rank] = Source.of_rows(products(self.match_by(rank), self.count))
        return self._by_relation[rank]

    def pair(self, column: int) -> tuple[int, int]:
        """Relation and tail of a column of `match`."""
        relation, tail = divmod(int(self.pairs[column]), self._num_entities)
        return relation, tail

    def shared_pairs(
        self, one: int, other: int, rank: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Columns [n] of `match` that two items share, and the products of their weights.

        Args:
            one, other: the items.
            rank: of the only relation that counts; all do without.
        """
        rows = [self.weighed[item] for item in (one, other)]
        common, at_one, at_other = np.intersect1d(
            rows[0].indices, rows[1].indices, assume_unique=True, return_indices=True
        )
        weights = (rows[0].data[at_one] * rows[1].data[at_other]).astype(np.float64)
        if rank is not None:
            of_rank = self.relations[common] == self._ranked[rank - 1]
            common, weights = common[of_rank], weights[of_rank]
        return common.astype(np.int64), weights

    def pairs_near(
        self,
        weights: NDArray[np.float64],  # [I]
        item: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Columns [n] of `match` that `near` has of an item, and what each adds to near near^T.

        That is to the item's entry of weights near near^T.
        """
        row = self.near[item]
        of_pairs = np.asarray(weights @ self.near).ravel()[row.indices]
        return self._chosen[row.indices].astype(np.int64), of_pairs * row.data

    def sharing(self, item: int) -> NDArray[np.int64]:
        """Items [n] of whom `near` has a pair of an item, once for each such pair."""
        columns = np.zeros(self.near.shape[1], dtype=np.bool_)
        columns[self.near[item].indices] = True
        at = np.flatnonzero(columns[self.near.indices])
        found = np.searchsorted(self.near.indptr, at, side="right") - 1
        others: NDArray[np.int64] = found[found != item]
        return others

    @cached_property
    def alike(self) -> ops.SparseRows:
        """Strongest entries of near near^T [I, I]."""
        return products(self.near, self.walked)

    @cached_property
    def matches(self) -> Source:
        """Strongest cosines [I, I] of `match`."""
        return Source.of_rows(products(self.match, self.count))
