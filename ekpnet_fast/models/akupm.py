"""AKUPM (Tang et al., KDD 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn

from ekpnet_fast import ops
from ekpnet_fast.config import RunConfig
from ekpnet_fast.models.base import Defaults, Model, initial_rows, xavier
from ekpnet_fast.models.rules import Rules, batch_size, by_density
from ekpnet_fast.models.translation import TransR
from ekpnet_fast.ops.deterministic import gather, linear
from ekpnet_fast.sampling.pairs import Batch, BatchPlan, Inputs, PairRequest, Pairs, TrainContext

# Of a masked score; finite, because all slots may be masked.
LOWEST = -1e30
LEAST_LEFT = 0.05  # importance by which what is left is divided at least, when an item is left out


@dataclass(frozen=True)
class AKUPMOptions:
    """Options of AKUPM alone.

    Attributes:
        leave_out: a target that is among the user's clicked items is left out of them, so that
            training does not see the answer.
    """

    leave_out: bool = True


class AKUPM(Model):
    """Self-attention over the entities of each hop, attention over hops, y = sigma(u . v).

    Within an entity: x = t M_r, one vector per relation (TransR). Between the n entities of a hop:

        P = softmax(Q K^T / sqrt(D)),  Q, K, V = x W_q, x W_k, x W_v
        a_n = mean_m P_mn,  u^p = sum_n a_n V_n
        w = softmax_p(v . u^p),  u = sum_p w_p u^p

    Hop 0 is a sample of M of the clicked items, hop p > 0 the tails of the p-th ripple set; KG term
    -log sigma(f(corrupted) - f(true)), f(h, r, t) = |h M_r + r - t M_r|^2.

    Readings of what is left open: an entity's importance is the attention that it gets from the
    hop's entities on average, which makes u^p the mean of the self-attention's outputs; W_q, W_k
    and W_v are shared by the hops, with one head; clicked items have no relation and are not
    projected; v is the item's entity vector. Departure: with `leave_out` the target's own share is
    taken from u^0, (u^0 - a_i V_i) / (1 - a_i), because otherwise its own presence
    gives a training positive away.

    Hop vectors are computed once per user group; a pair only weighs them.

    Attributes:
        entity: [E, D].
        transr: relations and their matrices M_r.
        W_q, W_k, W_v: [D, D].
    """

    name = "akupm"
    summary = "AKUPM: self-attention over the entities of each hop, TransR"
    Options = AKUPMOptions
    ripple = True
    new_users = True
    live = True
    by_vector = True
    tables: ClassVar[Mapping[str, str]] = {"entity": "entity"}
    relation_tables = ("transr.relation", "transr.projection")
    input_spaces: ClassVar[Mapping[str, str]] = {"clicked": "entity"}
    defaults: ClassVar[Defaults] = {"train.epochs": 20}
    rules: ClassVar[Rules] = {
        "train.batch_size": batch_size,
        "train.lr": by_density(2e-3, 1e-2),
        "train.lambda3": by_density(0.1, 0.01),
    }

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__(config, source)
        D, init = self.shape.width, self.shape.init
        E, R = source.graph.num_entities, source.graph.num_relations
        self.add_table("entity", initial_rows((E, D), init, self.draw))
        self.transr = TransR(R, D, init, self.draw)
        self.W_q = nn.Parameter(xavier((D, D), D, D, self.draw))
        self.W_k = nn.Parameter(xavier((D, D), D, D, self.draw))
        self.W_v = nn.Parameter(xavier((D, D), D, D, self.draw))

    @classmethod
    def plan(cls, config: RunConfig, stage: str) -> BatchPlan:
        """Plan true and corrupted triples in every batch."""
        return BatchPlan(triples="joined")

    def inputs(self, request: PairRequest) -> Inputs:
        """Sample of M of each user's clicked items: clicked [G, M], clicked_counts [G]."""
        histories, ids = self.histories_of(request)
        _, clicked, counts = ops.sample_neighbors(
            histories.indptr,
            torch.zeros_like(histories.items, dtype=torch.uint8),
            histories.items,
            ids,
            self.shape.slots,
            seed=self.source.seed,
            epoch=request.epoch,
        )
        return {"clicked": clicked, "clicked_counts": counts}

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]."""
        entity, clicked = tables["entity"], pairs.inputs["clicked"]
        G, _, M = pairs.tails.shape
        importance, values, counts = self.hop_entities(entity, pairs)
        # [G, H + 1, D]
        hops = (importance.unsqueeze(-1) * values).sum(2)

        groups, v = pairs.groups, gather(entity, pairs.items)
        of_pair, left = gather(hops, groups), counts[groups]
        if self.options.leave_out:
            valid = torch.arange(M, device=v.device) < counts[:, :1]
            own = (clicked[groups] == pairs.items.unsqueeze(1)) & valid[groups]
            at = groups * M + own.to(torch.uint8).argmax(1)
            found = own.any(1, keepdim=True)
            share = gather(importance[:, 0].reshape(G * M, 1), at) * found
            rest = of_pair[:, 0] - share * gather(values[:, 0].reshape(G * M, -1), at)
            rest = rest / (1 - share).clamp(min=LEAST_LEFT)
            of_pair = torch.cat([rest.unsqueeze(1), of_pair[:, 1:]], dim=1)
            left = torch.cat([left[:, :1] - found.int(), left[:, 1:]], dim=1)
        scores = (of_pair * v.unsqueeze(1)).sum(2)
        weights = torch.softmax(scores.masked_fill(left == 0, LOWEST), dim=1)
        # u . v = sum_p w_p (u^p . v)
        return (weights * scores.masked_fill(left == 0, 0.0)).sum(1)

    def attention(self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
        """Importance of the ripple slots, which is the same for all items; without hop 0."""
        importance, _, _ = self.hop_entities(tables["entity"], pairs)
        return importance[:, 1:][pairs.groups]

    def hop_entities(
        self,
        entity: Tensor,  # [n, D]
        pairs: Pairs,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Importance, values and counts [G, H + 1] of the clicked items and each hop's tails."""
        G, H, M = pairs.tails.shape
        tails = gather(entity, pairs.tails.flatten())
        projected = self.transr.project(tails, pairs.relations.flatten()).view(G, H, M, -1)
        x = torch.cat([gather(entity, pairs.inputs["clicked"]).unsqueeze(1), projected], dim=1)
        counts = torch.cat([pairs.inputs["clicked_counts"].unsqueeze(1), pairs.counts], dim=1)
        return *self.self_attention(x, counts), counts

    def self_attention(
        self,
        x: Tensor,  # [G, H + 1, M, D]
        counts: Tensor,  # [G, H + 1], valid slots
    ) -> tuple[Tensor, Tensor]:
        """Importance [G, H + 1, M], 0 for masked slots, and values [G, H + 1, M, D]."""
        M, D = x.shape[2:]
        valid = torch.arange(M, device=x.device) < counts.unsqueeze(-1)
        q, k, v = linear(x, torch.cat([self.W_q, self.W_k, self.W_v], dim=1)).chunk(3, dim=-1)
        scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).view(*x.shape[:3], M)
        scores = scores / math.sqrt(D)
        P = torch.softmax(scores.masked_fill(~valid.unsqueeze(2), LOWEST), dim=-1)
        P = P * (valid.unsqueeze(2) & valid.unsqueeze(3))
        return P.sum(2) / counts.clamp(min=1).unsqueeze(-1), v

    def kg_sum(
        self, backend: ModuleType, tables: Mapping[str, Tensor], batch: Batch, *, stage: str
    ) -> Tensor | None:
        """Loss of TransR on the drawn triples."""
        return self.transr.ranking_sum(tables["entity"], batch)
