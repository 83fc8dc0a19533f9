"""Affinities of an item to a history, by clicks, by the graph, and by both: features of pairs.

Everything is a sum over the history, so that a history that was not in training is described
like any other, and everything rises with the clicks of the item: an item without clicks has the
graph's affinities alone. No feature looks at negatives, and none compares users, because both
reveal how a split was made (see `docs/ekpnet_plus.md`).

Letters: U histories, I items, K (relation, tail) pairs of the graph, G groups, B pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories

__all__ = ["Affinities", "ItemTripleFeatures", "Response", "SignalOptions", "feature_names"]

Float = NDArray[np.float32]
Matrix = Any  # scipy.sparse.csr_matrix

# Products of items are in memory, 64 MiB each at most, where there are few items with many clicks.
DENSE_ITEMS, DENSE_CLICKS = 4096, 16
PRODUCTS_AT_ONCE = 1 << 22
FAR_WALK_STEPS = 3  # products with the co-click matrix in a 7-hop walk
FAR_WALK_USERS = 128  # histories that walk at a time
MAX_ITEMS_PER_PAIR = 60  # a tail that fewer items share makes them alike
LOG_EPS = {"co-click": 1e-4, "KG match": 1e-2}  # added before the logarithm
# Added to a history's mean affinity, as a share of the mean over all histories.
MEAN_SMOOTHING = 0.05
OVERSAMPLED, ROUNDS = 16, 6  # of the subspace iteration (Halko et al. 2011)


@dataclass(frozen=True)
class SignalOptions:
    """Options of the affinities.

    Attributes:
        kg_click_kg: affinity by the graph, by clicks, and by the graph again.
        low_pass: ranks of projections of the history on what most clicks share.
        joint_spectral: ranks of projections on what clicks and graph share.
        ease: regularisation of EASE^R, for few items with many clicks; 0 leaves it out.
        seven_hop: whether 7-hop co-click is a feature beside the 3-hop one.
        relations: match in the graph by each of so many relations, those that most items have.
    """

    kg_click_kg: bool = True
    low_pass: tuple[int, ...] = (32, 128)
    joint_spectral: tuple[int, ...] = (32, 128)
    ease: float = 0.0
    seven_hop: bool = False
    relations: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the affinities, in the order of the features."""
        return (
            "co-click",
            "KG match",
            *(["KG-click-KG"] if self.kg_click_kg else []),
            *(f"low-pass {rank}" for rank in self.low_pass),
            *(f"joint {rank}" for rank in self.joint_spectral),
            *(["EASE"] if self.ease > 0 else []),
            *(["far co-click"] if self.seven_hop else []),
            *(f"KG match by relation of rank {rank}" for rank in range(1, self.relations + 1)),
        )


def feature_names(options: SignalOptions) -> tuple[str, ...]:
    """Names of the rows of `Affinities.features`."""
    return (
        "popularity",
        "KG neighbours' clicks",
        *LOG_EPS,
        *(f"{name} over the user's mean" for name in options.names),
    )


# ---- features of the graph, the same for every history -------------------------------------------


class ItemTripleFeatures:
    """Tf-idf matrix of items x (relation, tail) pairs; with inverse pairs where the graph has them.

    Attributes:
        match: [I, K] rows of idf = log(I / items with the pair), scaled to norm 1; 0 where an item
            has no triple. Products of rows are cosines.
        near: [I, K'] the pairs that 2 to `MAX_ITEMS_PER_PAIR` - 1 items have, scaled by 1 / sqrt
            of row and column sums.
        shared: [I, K'] the same pairs, unscaled.
    """

    def __init__(self, graph: Graph, num_items: int) -> None:
        ends = graph.indptr[: num_items + 1].numpy()
        heads = np.repeat(np.arange(num_items), np.diff(ends))
        relations = graph.relations[: ends[-1]].numpy().astype(np.int64)
        pair = relations * graph.num_entities + graph.tails[: ends[-1]].numpy()
        known, column = np.unique(pair, return_inverse=True)
        table = _csr(np.ones(len(heads)), heads, column, (num_items, len(known)))
        table.sum_duplicates()
        table.data[:] = 1
        self.num_items = num_items
        degree = _sums(table, 0)
        weighed = _scaled(table, None, np.log(num_items / degree))
        self.match = _unit_rows(weighed)
        # Relations by how many items have them, ties by number; the pairs of each alone.
        pairs_of = known // graph.num_entities
        self._weighed, self._pairs_of = weighed, pairs_of
        by = {int(r): table[:, pairs_of == r] for r in np.unique(pairs_of)}
        items_with = {r: int((_sums(pairs, 1) > 0).sum()) for r, pairs in by.items()}
        self._ranked = sorted(by, key=lambda r: (-items_with[r], r))
        chosen = (degree > 1) & (degree < MAX_ITEMS_PER_PAIR)
        self.shared = table[:, chosen].tocsr()
        self.near = _scaled(
            self.shared, _inverse(np.sqrt(_sums(self.shared, 1))), degree[chosen] ** -0.5
        )

    def match_by(self, rank: int) -> Matrix:
        """Matrix [I, K_r], `match` by the pairs of one relation; empty where there are fewer."""
        if rank > len(self._ranked):
            return self._weighed[:, :0].tocsr()
        return _unit_rows(self._weighed[:, self._pairs_of == self._ranked[rank - 1]].tocsr())

    @cached_property
    def alike(self) -> Matrix:
        """Product near near^T [I, I]."""
        return (self.near @ self.near.T).tocsr()

    @cached_property
    def matches(self) -> Float:
        """Cosines [I, I], where there are few items."""
        cosines: Float = (self.match @ self.match.T).toarray()
        return cosines


# ---- affinities by clicks ------------------------------------------------------------------------


class _Affinity:
    """Affinity a(history, i) = sum over j in the history of <left_j, left_i>, or of product_ji.

    Args:
        left: [I, F] sparse, or an array.
        product: [I, I], in place of `left`.
    """

    def __init__(self, left: Any = None, product: Float | None = None) -> None:
        self.product = product
        self.left: Any = left if product is None else None  # not kept beside its products
        if product is not None:
            self.share = product.mean(axis=1, dtype=np.float64)
        else:
            mean = np.asarray(left.mean(axis=0, dtype=np.float64)).ravel()
            self.share = np.asarray(left @ mean).ravel()

    def of_all_items(self, clicks: Matrix) -> Any:
        """[G, I] of all items, an array or a sparse matrix in rows."""
        if self.product is not None:
            return np.asarray(clicks @ self.product)
        reached = clicks @ self.left
        if isinstance(reached, np.ndarray):
            return np.asarray(_dense_product(reached, self.left))
        # By whichever way has less to multiply.
        if reached.nnz * 20 > reached.shape[0] * reached.shape[1]:
            return np.ascontiguousarray((self.left @ reached.toarray().T).T)
        return (reached @ self._left_by_column).tocsr()

    def all_items(self, clicks: Matrix) -> Float:
        """[G, I] of all items."""
        found = self.of_all_items(clicks)
        return found if isinstance(found, np.ndarray) else np.asarray(found.toarray())

    def pairs(self, clicks: Matrix, groups: NDArray[np.int64], items: NDArray[np.int32]) -> Float:
        """[B] of pairs (group, item)."""
        if self.product is not None:
            found = np.empty(len(items), dtype=np.float32)
            step = max(1, PRODUCTS_AT_ONCE // len(self.product))
            for first, pairs in _blocks(groups, clicks.shape[0], step):
                block = self.all_items(clicks[first : first + step])
                found[pairs] = block[groups[pairs] - first, items[pairs]]
            return found
        reached = clicks @ self.left
        if not isinstance(reached, np.ndarray):
            shared = reached.tocsr()[groups].multiply(self.left[items])
            return _sums(shared, 1).astype(np.float32)
        dots: Float = np.einsum("bf,bf->b", reached[groups], self.left[items])
        return dots

    @cached_property
    def _left_by_column(self) -> Matrix:
        return self.left.T.tocsr()


class _FarWalk(_Affinity):
    """Affinity a = c S^3 e_i with the co-click S = left left^T, which `_Affinity` takes once.

    A history of one click only leads back to it: the diagonal `alone` holds these, which are most
    of the histories where they are short, and `left` the others.
    """

    def __init__(self, left: Any) -> None:
        lengths = _sums(left > 0, 0)
        squares = left[:, lengths == 1].power(2)
        self.alone = _sums(squares, 1).astype(np.float32)[:, None]  # [I, 1]
        self.left, self.product = left[:, lengths > 1].tocsr(), None
        mean = np.full((left.shape[0], 1), 1 / left.shape[0], dtype=np.float32)
        self.share = self._walk(mean).ravel().astype(np.float64)

    def of_all_items(self, clicks: Matrix) -> Float:
        """[G, I] of all items."""
        return np.ascontiguousarray(self._by_item(clicks).T)

    def pairs(self, clicks: Matrix, groups: NDArray[np.int64], items: NDArray[np.int32]) -> Float:
        """[B] of pairs (group, item)."""
        found = np.empty(len(items), dtype=np.float32)
        for first, pairs in _blocks(groups, clicks.shape[0], FAR_WALK_USERS):
            block = self._by_item(clicks[first : first + FAR_WALK_USERS])
            found[pairs] = block[items[pairs], groups[pairs] - first]
        return found

    def _by_item(self, clicks: Matrix) -> Float:
        """[I, G] of all items."""
        return self._walk(clicks.T.toarray(order="C"))

    def _walk(self, x: Float) -> Float:
        """S^3 x [I, G]."""
        for _ in range(FAR_WALK_STEPS):
            y = self.left @ (self._left_by_column @ x)
            x = np.add(y, np.multiply(self.alone, x, out=x), out=y)
        return x


def _blocks(
    groups: NDArray[np.int64],  # [B], rising
    count: int,
    step: int,
) -> Iterator[tuple[int, slice]]:
    """First group of every `step` groups, and the places of their pairs."""
    for first in range(0, count, step):
        begin, end = np.searchsorted(groups, (first, first + step))
        yield first, slice(int(begin), int(end))


class Response(NamedTuple):
    """Feature log(affinity * factor + added) of an affinity.

    Attributes:
        feature: its number among `feature_names`.
        factor: [G] float32.
        added: before the logarithm.
    """

    feature: int
    factor: Float
    added: float


class Affinities:
    """Features of pairs, by the clicks of some histories.

    Args:
        clicks: [U] the histories that counts and co-clicks are taken from.
        knowledge: of the graph.
        options: choice of affinities.
        scale: counts are multiplied by it: F / (F - 1) where a fold of F is left out.
    """

    def __init__(
        self,
        clicks: Histories,
        knowledge: ItemTripleFeatures,
        options: SignalOptions,
        scale: float = 1.0,
    ) -> None:
        A = _clicks(clicks, knowledge.num_items)
        self.options, self.knowledge = options, knowledge
        counts = _sums(A, 0)
        self.popularity = np.log(counts * scale + 0.5)
        shared = knowledge.shared
        per_tail = np.asarray(shared.T @ counts).ravel()
        others = np.asarray(shared @ per_tail).ravel() - _sums(shared, 1) * counts
        sharing = np.asarray(shared @ _sums(shared, 0)).ravel() - _sums(shared, 1)
        self.neighbours = np.log((others * scale + max(counts.mean(), 1e-3)) / (sharing + 1))
        lengths = _sums(A, 1)
        self.affinities = self._affinities(_scaled(A, _inverse(np.sqrt(lengths)), None), counts)
        # Of a history of n clicks, 1 / sqrt(n) each; the mean over histories that have any.
        means = [self._means(_weighed(A), x)[lengths > 0] for x in self.affinities]
        self.typical = [max(float(m.mean()), 1e-12) if len(m) else 1.0 for m in means]

    def features(
        self,
        histories: Histories,  # [G]
        group_indptr: NDArray[np.int64],  # [G + 1]
        items: NDArray[np.int32],  # [B]
        needed: NDArray[np.bool_] | None = None,  # [F], the others may stay 0
    ) -> Float:
        """Features [F, B], named by `feature_names`, of the pairs of G groups; logarithms."""
        G, I = len(histories), self.knowledge.num_items  # noqa: E741
        clicks = _weighed(_clicks(histories, I))
        every = len(items) * 4 > G * I
        groups = np.repeat(np.arange(G), np.diff(group_indptr))
        names = feature_names(self.options)
        found = np.zeros((len(names), len(items)), dtype=np.float32)
        found[:2] = self.item_features[:, items]
        for number, x in enumerate(self.affinities):
            responses = self._responses(number, histories, clicks, needed)
            if not responses:
                continue
            a = x.all_items(clicks)[groups, items] if every else x.pairs(clicks, groups, items)
            # Projections may fall below 0, where an item without clicks has to be.
            a = np.maximum(a, 0)
            for feature, factor, added in responses:
                np.log(a * factor[groups] + np.float32(added), out=found[feature])
        return found

    def of_all_items(
        self,
        histories: Histories,  # [G]
        needed: NDArray[np.bool_],  # [F]
    ) -> Iterator[tuple[Any, list[Response]]]:
        """Affinities [G, I] of all items, arrays or sparse, and the needed features of each.

        Below 0 they count as 0.
        """
        clicks = _weighed(_clicks(histories, self.knowledge.num_items))
        for number, x in enumerate(self.affinities):
            responses = self._responses(number, histories, clicks, needed)
            if responses:
                yield x.of_all_items(clicks), responses

    @cached_property
    def item_features(self) -> Float:
        """Features [2, I] of the items alone, the first of `feature_names`."""
        return np.stack([self.popularity, self.neighbours]).astype(np.float32)

    def _responses(
        self,
        number: int,  # of the affinity
        histories: Histories,
        clicks: Matrix,  # of these, weighed
        needed: NDArray[np.bool_] | None,
    ) -> list[Response]:
        """Needed features of an affinity."""
        name, names = self.options.names[number], feature_names(self.options)
        at = len(names) - len(self.affinities) + number
        found = []
        if name in LOG_EPS and (needed is None or needed[names.index(name)]):
            lengths = np.diff(histories.indptr.numpy()).astype(np.float32)
            factor = np.ones_like(lengths) if name == "co-click" else np.sqrt(lengths)
            found.append(Response(names.index(name), factor, LOG_EPS[name]))
        if needed is None or needed[at]:
            mean = self._means(clicks, self.affinities[number])
            factor = (1 / (mean + MEAN_SMOOTHING * self.typical[number])).astype(np.float32)
            found.append(Response(at, factor, 0.5))
        return found

    def _means(self, clicks: Matrix, affinity: _Affinity) -> NDArray[np.float64]:
        """Mean affinity [G] of all items to some histories."""
        found: NDArray[np.float64] = np.asarray(clicks @ affinity.share).ravel()
        return np.maximum(found, 0)

    def _affinities(self, by_length: Matrix, counts: NDArray[np.float64]) -> list[_Affinity]:
        knowledge, options = self.knowledge, self.options
        few = knowledge.num_items <= DENSE_ITEMS
        few = few and by_length.nnz >= DENSE_CLICKS * knowledge.num_items
        # [I, U], A scaled by 1 / sqrt of both its sums: products of rows are co-clicks.
        left = _scaled(by_length, None, _inverse(np.sqrt(counts))).T.tocsr()
        together = (left @ left.T).toarray() if few else None
        made = [_Affinity(left, together)]
        made.append(_Affinity(knowledge.match, knowledge.matches if few else None))
        if options.kg_click_kg:
            if together is not None:
                half = np.asarray(knowledge.alike @ together)
                made.append(_Affinity(product=np.asarray(knowledge.alike @ half.T)))
            else:
                made.append(_Affinity((knowledge.near @ (knowledge.near.T @ left)).tocsr()))
        for ranks, weight, power in ((options.low_pass, None, 0), (options.joint_spectral, 1.0, 1)):
            if not ranks:
                continue
            vectors, values = _leading(left, knowledge, weight, max(ranks))
            for rank in ranks:
                kept = min(rank, vectors.shape[1])
                made.append(_Affinity(vectors[:, :kept] * values[:kept] ** (power / 2)))
        if options.ease > 0:
            made.append(_Affinity(product=_ease(by_length, counts, options.ease)))
        if options.seven_hop and together is not None:
            made.append(
                _Affinity(product=_dense_product(_dense_product(together, together), together))
            )
        elif options.seven_hop:
            made.append(_FarWalk(left))
        for rank in range(1, options.relations + 1):
            made.append(_Affinity(knowledge.match_by(rank)))
        return made


def _leading(
    left: Matrix,  # [I, U]
    knowledge: ItemTripleFeatures,
    weight: float | None,  # of the graph beside the clicks
    rank: int,
) -> tuple[Float, Float]:
    """Leading eigenvectors [I, r] and values [r] of left left^T (+ weight near near^T).

    By subspace iteration from a fixed start; at most a quarter of the items, because all of them
    would project every history on itself.
    """
    I = left.shape[0]  # noqa: E741
    width = max(1, min(rank, I // 4))
    generator = torch.Generator().manual_seed(0)
    Q = torch.randn(I, min(width + OVERSAMPLED, I), generator=generator)

    def apply(x: torch.Tensor) -> torch.Tensor:
        y = left @ (left.T @ x.numpy())
        if weight is not None:
            y = y + weight * (knowledge.near @ (knowledge.near.T @ x.numpy()))
        return torch.from_numpy(y)

    for _ in range(ROUNDS):
        Q = torch.linalg.qr(apply(Q))[0]
    values, vectors = torch.linalg.eigh(Q.T @ apply(Q))
    leading = (Q @ vectors.flip(1))[:, :width].numpy()
    return leading, values.flip(0)[:width].clamp(min=0).numpy()


def _ease(by_length: Matrix, counts: NDArray[np.float64], weight: float) -> Float:
    """Matrix B [I, I] of EASE^R (Steck, WWW 2019): B_ij = -P_ij / P_jj, P = (A^T A + weight)^-1."""
    A = by_length.copy()
    A.data[:] = 1
    gram = torch.from_numpy((A.T @ A).toarray().astype(np.float64))
    gram += weight * torch.eye(len(gram), dtype=torch.float64)
    P = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    B = (-P / P.diagonal()).float().fill_diagonal_(0)
    return B.numpy()


# ---- sparse matrices -----------------------------------------------------------------------------


def _csr(data: Any, rows: Any, columns: Any, shape: tuple[int, int]) -> Matrix:
    from scipy import sparse  # here, because models without a wide part need none

    return sparse.csr_matrix((data.astype(np.float32), (rows, columns)), shape=shape)


def _clicks(histories: Histories, num_items: int) -> Matrix:
    """Histories as a matrix [U, I] of ones."""
    from scipy import sparse

    items = histories.items.numpy()
    return sparse.csr_matrix(
        (np.ones(len(items), dtype=np.float32), items, histories.indptr.numpy()),
        shape=(len(histories), num_items),
    )


def _weighed(clicks: Matrix) -> Matrix:
    """Matrix with every row divided by the square root of its length."""
    return _scaled(clicks, _inverse(np.sqrt(_sums(clicks, 1))), None)


def _sums(matrix: Matrix, axis: int) -> NDArray[np.float64]:
    return np.asarray(matrix.sum(axis=axis, dtype=np.float64)).ravel()


def _inverse(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse 1 / x, and 0 for 0."""
    return np.divide(1, x, out=np.zeros_like(x), where=x > 0)


def _scaled(
    matrix: Matrix, rows: NDArray[np.float64] | None, columns: NDArray[np.float64] | None
) -> Matrix:
    """Matrix with rows and columns multiplied by numbers."""
    found = matrix.copy()
    if rows is not None:
        found.data *= np.repeat(rows, np.diff(found.indptr))
    if columns is not None:
        found.data *= columns[found.indices]
    return found


def _unit_rows(matrix: Matrix) -> Matrix:
    """Matrix with every row scaled to norm 1."""
    return _scaled(matrix, _inverse(np.sqrt(_sums(matrix.multiply(matrix), 1))), None)


def _dense_product(reached: Float, left: Float) -> Float:
    product: Float = (torch.from_numpy(reached) @ torch.from_numpy(left).T).numpy()
    return product
