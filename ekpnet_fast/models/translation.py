"""Translation losses of a graph: how far the relation carries the head from the tail."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ekpnet_fast.models.base import initial_rows
from ekpnet_fast.ops.deterministic import fixed_order_sum, gather, in_pieces, linear_by_relation
from ekpnet_fast.sampling.pairs import Batch


class TransR(nn.Module):
    """TransR (Lin et al., AAAI 2015): every relation translates in a space of its own.

        f(h, r, t) = |h M_r + r - t M_r|^2

    Entities belong to the model; relations and matrices are here. Departure: norms are held down by
    lambda3 instead of being kept at or below 1.

    Attributes:
        relation: [R, D], r.
        projection: [R, D, D], M_r; the identity at first, as the paper has it.
    """

    def __init__(self, num_relations: int, width: int, init: str, draw: torch.Generator) -> None:
        super().__init__()
        self.relation = nn.Parameter(initial_rows((num_relations, width), init, draw))
        self.projection = nn.Parameter(torch.eye(width).repeat(num_relations, 1, 1))

    def project(
        self,
        rows: Tensor,  # [N, D], entities
        relations: Tensor,  # [N] integers
    ) -> Tensor:
        """Entities e M_r [N, D], each in the space of its relation."""
        return linear_by_relation(rows, self.projection, relations)

    def distance(
        self,
        entity: Tensor,  # [n, D]
        heads: Tensor,  # [K] integers, rows of entity
        relations: Tensor,  # [K] integers
        tails: Tensor,  # [K] integers
    ) -> Tensor:
        """Distance f [K] of each triple; small where it is likely."""
        # The projection is linear, so head and tail take one product together.
        apart = self.project(gather(entity, heads) - gather(entity, tails), relations)
        return (apart + gather(self.relation, relations)).square().sum(1)

    def ranking_sum(
        self,
        entity: Tensor,  # [n, D]
        batch: Batch,
    ) -> Tensor | None:
        """Ranking loss (see `ranking_sum`) over the drawn triples of a batch, None without any."""
        if batch.triple_heads.numel() == 0:
            return None
        return ranking_sum(
            self.distance(entity, batch.triple_heads, batch.triple_relations, batch.triple_tails)
        )


def ranking_sum(distances: Tensor) -> Tensor:
    """Ranking loss, -sum log sigma(f(corrupted) - f(true)) over pairs of triples.

    Args:
        distances: [2 n], f of n true triples and then of those made from them.
    """
    true, corrupted = distances.chunk(2)
    return fixed_order_sum(in_pieces(functional.softplus, true - corrupted))


def on_hyperplane(
    x: Tensor,  # [..., D]
    normal: Tensor,  # [..., D], w_r of norm 1
) -> Tensor:
    """Entity on the hyperplane of a relation, x - (w_r . x) w_r (TransH, Wang et al., 2014)."""
    return x - (x * normal).sum(-1, keepdim=True) * normal


def transh_distance(
    heads: Tensor,  # [K, D]
    relation: Tensor,  # [K, D]
    normal: Tensor,  # [K, D], w_r of norm 1
    tails: Tensor,  # [K, D]
) -> Tensor:
    """Distance f(h, r, t) = |h' + r - t'|^2, h' and t' on the relation's hyperplane, [K]."""
    return (on_hyperplane(heads - tails, normal) + relation).square().sum(1)
