"""Vectors of the items' facts, by relations that count as much as the clicks show.

How much a relation counts is told by halves of the users and of the items. With h_i what is clicked
beside item i by one half of the users, more than by chance, C are the facts' shares in it,

    min_C sum_i |h_i - sum_k x_ik C_k|^2 + |C|^2,

x being the facts of one half of the items. C' is the same by the other users and other items. Over
all facts k of a relation, sum <C_k, C'_k> over the root of sum |C_k|^2 sum |C'_k|^2 is the
relation's *reliability*: 0 where facts tell nothing of other items that have them, or nothing
beside the items' other facts, and 1 where both halves say the same. Facts weigh there by how many
items have them; relations count by the root of their reliability.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.models.wide.excess import own_share, user_blocks
from ekpnet_fast.models.wide.matrices import Matrix, inverse, rows_of, scaled, sums, unit_rows
from ekpnet_fast.models.wide.spectral import leading_eigenvectors

__all__ = ["GraphBasis", "learned_basis", "relation_weights"]

ROUNDS = 8  # of the subspace iteration: singular values of facts are close to each other
COMPARED = 128  # rank of the vectors by which two halves are compared
LEAST = 0.02  # reliability that every relation is given: of few facts it is mostly chance
FLOOR = 0.3  # added to eigenvalues before they divide, in means of all
RIDGE, STEPS = 1.0, 8  # of the regression of what is beside items on their facts
COLUMNS = 32  # of the facts' vectors that are in memory at a time


class GraphBasis:
    """Vectors f_i of the items' facts: leading singular vectors of the tf-idf matrix.

    Each counts by the root of its singular value. They are linear in the facts, up to the norm of
    an item's row.

    Args:
        weighed: [I, K] items' facts, (relation, tail) pairs, by their idf.
        relations: [K] relation of each fact.
        rank: r of them at most; fewer where items or facts are few, or facts say the same.
        by_relation: what each relation counts, one after the other; all the same if not given.

    Attributes:
        by_relation: the same.
        of_facts: [K, r] what each fact adds to an item that has it.
        of_items: [I, r] f.
        values, turn: [r], [r, r] eigenvalues and eigenvectors of sum_i f_i f_i^T; float64.
    """

    def __init__(
        self,
        weighed: Matrix,
        relations: NDArray[np.int64],
        rank: int,
        by_relation: NDArray[np.float64] | None = None,
    ) -> None:
        if by_relation is None:
            by_relation = np.ones(int(relations.max(initial=-1)) + 1)
        self.by_relation = by_relation
        match = self.rows(weighed, relations)
        # Of few facts the last half is mostly what tells single items apart.
        leading, squares = leading_eigenvectors(
            [match], min(rank, max(len(relations) // 2, 1)), ROUNDS
        )
        # Directions that the facts do not have, as of those that stand twice, tell nothing; they
        # would count among those that chance is told by. One is kept, of zeros, where none is had.
        known = squares > 1e-6 * squares.max()
        kept = max(int(known.sum()), 1)
        scale = torch.where(known, squares.clamp(min=1e-30) ** -0.75, 0.0)[:kept]
        of_facts = ops.sparse_product(
            rows_of(match.T.tocsr()), (leading[:, :kept] * scale).contiguous()
        )
        self.of_items = ops.sparse_product(rows_of(match), of_facts)
        self.of_facts = of_facts
        self.values, self.turn = torch.linalg.eigh((self.of_items.T @ self.of_items).double())

    def weights(self, relations: NDArray[np.int64]) -> NDArray[np.float64]:
        """Weights [n] of facts by their relations; the mean for one that no item had."""
        known = relations < len(self.by_relation)
        of_others = float(self.by_relation.mean()) if len(self.by_relation) else 1.0
        found = np.full(len(relations), of_others)
        found[known] = self.by_relation[relations[known]]
        return found

    def rows(self, weighed: Matrix, relations: NDArray[np.int64]) -> Matrix:
        """Rows [n, K] of facts by their idf, weighed by relation and scaled to norm 1."""
        return unit_rows(scaled(weighed, None, self.weights(relations)))


def learned_basis(
    clicks: Matrix,  # [U, I] ones
    weighed: Matrix,  # [I, K]
    relations: NDArray[np.int64],  # [K]
    rank: int,
) -> GraphBasis:
    """Vectors of facts by relations that count as the clicks show."""
    if len(np.unique(relations)) < 2:
        return GraphBasis(weighed, relations, rank)
    plain = GraphBasis(weighed, relations, min(rank, COMPARED))
    return GraphBasis(weighed, relations, rank, relation_weights(clicks, plain, weighed, relations))


def relation_weights(
    clicks: Matrix,  # [U, I] ones
    basis: GraphBasis,
    weighed: Matrix,  # [I, K]
    relations: NDArray[np.int64],  # [K]
) -> NDArray[np.float64]:
    """Roots of the relations' reliabilities, by the users of even and of odd number.

    Of a relation that no item has, between other entities, the mean of those that items have.
    """
    match = basis.rows(weighed, relations)
    parts = [match[part::2] for part in (0, 1)]
    both_ways = [(rows_of(part), rows_of(part.T.tocsr())) for part in parts]
    sizes = [sums(part.multiply(part), 0) for part in parts]
    size = np.sqrt(sizes[0] * sizes[1])
    eigenvalues = basis.values.clamp(min=0)
    root = (eigenvalues + max(FLOOR * float(eigenvalues.mean()), 1e-30)).sqrt()
    alike = (basis.turn / root).float()  # so that all directions count the same
    counts = sums(clicks, 0)
    halves = [_beside(clicks[half::2], counts, basis.of_items) @ alike for half in (0, 1)]
    n = int(relations.max(initial=-1)) + 1
    both, one, other = np.zeros((3, n))
    for first in range(0, alike.shape[1], COLUMNS):
        columns = slice(first, first + COLUMNS)
        for part in (0, 1):  # items of one half of users against the others of the other half
            a, b = (
                _of_facts(*both_ways[at], half[at::2, columns].contiguous())
                for half, at in zip(halves, (part, 1 - part), strict=True)
            )
            for total, x, y in ((both, a, b), (one, a, a), (other, b, b)):
                total += np.bincount(relations, size * (x * y).sum(1).double().numpy(), n)
    reliability = both * inverse(np.sqrt(one * other))
    weights: NDArray[np.float64] = np.sqrt(np.maximum(reliability, LEAST))
    had = np.bincount(relations, minlength=n) > 0
    weights[~had] = weights[had].mean() if had.any() else 1.0
    return weights


def _of_facts(
    items: ops.SparseRows,  # [I, K] x
    facts: ops.SparseRows,  # [K, I] x^T
    target: Tensor,  # [I, r] h
) -> Tensor:
    """Ridge regression C [K, r] of the items' vectors on their facts, by conjugate gradients."""
    left = ops.sparse_product(facts, target)
    found, step, size = torch.zeros_like(left), left.clone(), _product(left, left)
    for _ in range(STEPS):
        if size <= 0:
            break
        image = ops.sparse_product(facts, ops.sparse_product(items, step)).add_(step, alpha=RIDGE)
        share = size / _product(step, image)
        found.add_(step, alpha=share)
        left.sub_(image, alpha=share)
        after = _product(left, left)
        step.mul_(after / size).add_(left)
        size = after
    return found


def _product(x: Tensor, y: Tensor) -> float:
    """Sum of the products of the entries [K, r], in float64 over the facts."""
    return float((x * y).sum(1).double().sum())


def _beside(
    clicks: Matrix,  # [U, I]
    counts: NDArray[np.float64],  # [I]
    f: Tensor,  # [I, r]
) -> Tensor:
    """Vectors [I, r] of what is clicked beside each item, more than by chance."""
    found = torch.zeros_like(f)
    for block in user_blocks(clicks, counts, f):
        by_item = rows_of(scaled(block.clicks, block.scale, None).T.tocsr())
        found += ops.sparse_product(by_item, block.excess)
    return found - own_share(clicks, counts) * f
