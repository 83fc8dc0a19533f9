"""Regression of all clicks on the graph: which facts go with which, learned from the clicks.

With f_i the vector of item i's facts and p_u = n_u^(-1/2) sum_j f_j over the n_u clicks of user u,
p_u M f_i is to tell which items a user clicks more than others do:

    min_M sum_ui ((A_ui - n_u c_i / c) c_i^(-1/2) - p_u M f_i)^2 + lambda |M|^2

over all users and items, where A are the clicks, c_i those of item i and c all of them. The normal
equations are (sum_u p_u p_u^T) M (sum_i f_i f_i^T) + lambda M = R, so that the eigenvectors of both
sums give M. A click does not speak for itself: what j = i adds is taken out of R. What items mean
to each other is symmetric, so of the symmetric part of M the leading positive eigenvectors are
kept. They make of f_i the vector v_i of an item, whose norm counts by its root alone: an item with
much to tell would else stand above all for half of the users and below all for the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.models.wide.matrices import Matrix, inverse, rows_of, scaled, sums
from ekpnet_fast.models.wide.spectral import leading_eigenvectors

__all__ = ["GraphBasis", "GraphVectors", "graph_vectors"]

KEPT = 32  # eigenvectors of M
ROUNDS = 8  # of the subspace iteration: singular values of facts are close to each other
RIDGE = 1.0  # lambda, in means of the products of both sums' eigenvalues
BLOCK = 1 << 16  # users whose p_u are in memory at a time


class GraphBasis:
    """Vectors f_i of the items' facts: leading singular vectors of the tf-idf matrix.

    Each counts by the root of its singular value. They are linear in the facts.

    Args:
        match: [I, K] `ItemTripleFeatures.match`.
        rank: r of them.

    Attributes:
        of_facts: [K, r] what each fact, a (relation, tail) pair, adds to an item that has it.
        of_items: [I, r] f.
        values, turn: [r], [r, r] eigenvalues and eigenvectors of sum_i f_i f_i^T; float64.
    """

    def __init__(self, match: Matrix, rank: int) -> None:
        leading, squares = leading_eigenvectors([match], rank, ROUNDS)
        known = squares > 1e-6 * squares.max()
        scale = torch.where(known, squares.clamp(min=1e-30) ** -0.75, 0.0)
        self.of_facts = ops.sparse_product(rows_of(match.T.tocsr()), leading * scale)
        self.of_items = ops.sparse_product(rows_of(match), self.of_facts)
        self.values, self.turn = torch.linalg.eigh((self.of_items.T @ self.of_items).double())


@dataclass(frozen=True)
class GraphVectors:
    """Vectors v_i of the items, whose products say how well their facts go together.

    Attributes:
        basis: of the facts.
        chosen: [r, k] eigenvectors of M times the roots of their values.
        norm: mean norm of an item's vector before its root is taken.
        typical: mean norm of n^(-1/2) sum_j v_j over all histories.
        vectors: [I, k] v.
    """

    basis: GraphBasis
    chosen: Tensor
    norm: float
    typical: float
    vectors: Tensor

    def folded_in(self, rows: Matrix) -> Tensor:
        """Vectors [n, k] of items by their facts, rows [n, K] of the tf-idf matrix."""
        of_items = ops.sparse_product(rows_of(rows), self.basis.of_facts) @ self.chosen
        return _by_root(of_items, self.norm)

    def of_facts(self, columns: NDArray[np.int64]) -> Tensor:
        """What some facts [n] add to an item's vector, up to the item's scale; [n, k] float64."""
        return self.basis.of_facts[torch.from_numpy(columns)].double() @ self.chosen.double()


def graph_vectors(
    clicks: Matrix,  # [U, I] ones
    basis: GraphBasis,
) -> GraphVectors:
    """Regress clicks on a basis."""
    f, r = basis.of_items, basis.of_items.shape[1]
    counts, lengths = sums(clicks, 0), sums(clicks, 1)
    by_item = inverse(counts**0.5)
    by_user = torch.from_numpy(inverse(lengths**0.5)).float().unsqueeze(1)
    weighed = torch.from_numpy(by_item).float().unsqueeze(1) * f
    expected = torch.from_numpy(counts).float() @ weighed / max(float(counts.sum()), 1.0)
    P, R = torch.zeros(2, r, r, dtype=torch.float64)
    for first in range(0, clicks.shape[0], BLOCK):
        some = slice(first, min(first + BLOCK, clicks.shape[0]))
        rows = rows_of(clicks[some])
        p = by_user[some] * ops.sparse_product(rows, f)
        more = ops.sparse_product(rows, weighed)
        more -= torch.from_numpy(lengths[some]).float().unsqueeze(1) * expected
        P += (p.T @ p).double()
        R += (p.T @ more).double()
    own = rows_of(scaled(clicks, None, by_item).T.tocsr())
    R -= (f.T @ (ops.sparse_product(own, by_user) * f)).double()
    values, turn = torch.linalg.eigh(P)
    # Means of the products, as the eigenvalues of a Kronecker product are products.
    ridge = max(RIDGE * float(values.mean() * basis.values.mean()), 1e-30)
    M = turn.T @ R @ basis.turn / (torch.outer(values, basis.values).clamp(min=0) + ridge)
    M = turn @ M @ basis.turn.T
    strength, vectors = torch.linalg.eigh((M + M.T) / 2)
    kept = min(KEPT, r)
    roots = strength[-kept:].flip(0).clamp(min=0).sqrt()
    chosen = (vectors[:, -kept:].flip(1) * roots).float()
    of_items = f @ chosen
    norms = of_items.norm(dim=1)
    norm = max(float(norms[norms > 0].double().mean()), 1e-30) if norms.any() else 1.0
    of_items = _by_root(of_items, norm)
    q = (by_user * ops.sparse_product(rows_of(clicks), of_items)).norm(dim=1)
    some_clicks = torch.from_numpy(lengths > 0)
    typical = float(q[some_clicks].double().mean()) if some_clicks.any() else 0.0
    return GraphVectors(basis, chosen, norm, typical, of_items)


def _by_root(vectors: Tensor, norm: float) -> Tensor:
    """Vectors [n, k], the norm of each the geometric mean of its own and of `norm`."""
    norms = vectors.norm(dim=1, keepdim=True)
    return vectors * torch.where(norms > 0, (norms / norm) ** -0.5, 0.0)
