"""Regression of all clicks on the graph: which facts go with which, learned from the clicks.

With f_i the vector of item i's facts (`graph_basis.py`) and p_u = n_u^(-1/2) sum_j f_j over the n_u
clicks of user u, p_u M f_i is to tell which items a user clicks more than others do:

    min_M sum_ui (t_ui - p_u M f_i)^2

over all users and items, where t are the clicks that are more than chance (`excess.py`). A click
does not speak for itself: what j = i adds is taken out. With P = sum_u p_u p_u^T, G = sum_i f_i
f_i^T, and R = sum_ui t_ui p_u f_i^T less that, the solution is P^-1 R G^-1. Chance alone puts about
equal variance into every entry of P^(-1/2) R G^(-1/2), and so singular values that follow the
quarter circle law: up to 2 / 0.8079 of their median. Only what is above it is kept, each singular
value as much shorter as chance has made it longer (Gavish & Donoho 2017, the shrinkage of least
squared error). A share of the mean eigenvalue is added to those of P and G.

What items mean to each other is symmetric, so of the symmetric part of M the leading positive
eigenvectors are kept. They make of f_i the vector v_i of an item, whose norm counts by its root
alone: an item with much to tell would else stand above all for half of the users and below all for
the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.models.wide.excess import own_share, user_blocks
from ekpnet_fast.models.wide.graph_basis import FLOOR, GraphBasis
from ekpnet_fast.models.wide.matrices import Matrix, inverse, rows_of, sums

__all__ = ["GraphVectors", "graph_vectors", "shrunk"]

KEPT = 32  # eigenvectors of M
MEDIAN = 0.8079  # of the quarter circle law on 0 to 2


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

    def folded_in(
        self,
        weighed: Matrix,  # [n, K + k']
        relations: NDArray[np.int64],  # [K + k']
    ) -> Tensor:
        """Vectors [n, k] of items by their facts, idf of fitted ones first and then others."""
        fitted = self.basis.rows(weighed, relations)[:, : len(self.basis.of_facts)].tocsr()
        of_items = ops.sparse_product(rows_of(fitted), self.basis.of_facts) @ self.chosen
        return _by_root(of_items, self.norm)

    def of_facts(self, columns: NDArray[np.int64], relations: NDArray[np.int64]) -> Tensor:
        """What some facts [n] add to an item's vector by their idf, up to the item's scale.

        [n, k] float64.
        """
        vectors = self.basis.of_facts[torch.from_numpy(columns)].double() @ self.chosen.double()
        return torch.from_numpy(self.basis.weights(relations)).unsqueeze(1) * vectors


def graph_vectors(
    clicks: Matrix,  # [U, I] ones
    basis: GraphBasis,
) -> GraphVectors:
    """Regress clicks on a basis."""
    f, r = basis.of_items, basis.of_items.shape[1]
    counts = sums(clicks, 0)
    P, R = torch.zeros(2, r, r, dtype=torch.float64)
    for block in user_blocks(clicks, counts, f):
        P += (block.histories.T @ block.histories).double()
        R += (block.histories.T @ block.excess).double()
    R -= (f.T @ (own_share(clicks, counts) * f)).double()
    values, turn = torch.linalg.eigh(P)
    divisor = torch.outer(_raised(values), _raised(basis.values)).sqrt()
    M = shrunk(turn.T @ R @ basis.turn / divisor) / divisor
    M = turn @ M @ basis.turn.T
    strength, vectors = torch.linalg.eigh((M + M.T) / 2)
    kept = min(KEPT, r)
    roots = strength[-kept:].flip(0).clamp(min=0).sqrt()
    chosen = (vectors[:, -kept:].flip(1) * roots).float()
    of_items = f @ chosen
    norms = of_items.norm(dim=1)
    norm = max(float(norms[norms > 0].double().mean()), 1e-30) if norms.any() else 1.0
    of_items = _by_root(of_items, norm)
    lengths = sums(clicks, 1)
    by_user = torch.from_numpy(inverse(lengths**0.5)).float().unsqueeze(1)
    q = (by_user * ops.sparse_product(rows_of(clicks), of_items)).norm(dim=1)
    some_clicks = torch.from_numpy(lengths > 0)
    typical = float(q[some_clicks].double().mean()) if some_clicks.any() else 0.0
    return GraphVectors(basis, chosen, norm, typical, of_items)


def shrunk(
    matrix: Tensor,  # [r, r] float64
) -> Tensor:
    """Matrix without what chance explains, which most of its singular values are of."""
    U, found, V = torch.linalg.svd(matrix)
    chance = 2 * float(found.median()) / MEDIAN
    kept: Tensor = (U * (found * found - chance * chance).clamp(min=0).sqrt()) @ V
    return kept


def _raised(values: Tensor) -> Tensor:
    """Eigenvalues [r] with a share of their mean added."""
    values = values.clamp(min=0)
    return values + max(FLOOR * float(values.mean()), 1e-30)


def _by_root(vectors: Tensor, norm: float) -> Tensor:
    """Vectors [n, k], the norm of each the geometric mean of its own and of `norm`."""
    norms = vectors.norm(dim=1, keepdim=True)
    return vectors * torch.where(norms > 0, (norms / norm) ** -0.5, 0.0)
