"""Ripp-MKR (Wang Y. et al., Multitask feature learning approach for knowledge graph enhanced
recommendations with RippleNet, PLOS ONE 16(5), 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn

from ekpnet_fast.config import RunConfig
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models.attend import attention_weights
from ekpnet_fast.models.base import Defaults, Model, initial_rows, xavier
from ekpnet_fast.models.ripplenet import propagate, slot_rows
from ekpnet_fast.models.rules import Rules, batch_size, by_density
from ekpnet_fast.ops.deterministic import fixed_order_sum, gather, in_pieces, linear, repeat_row
from ekpnet_fast.sampling.pairs import Batch, BatchPlan, Pairs, TrainContext


@dataclass(frozen=True)
class RippMKROptions:
    """Options of Ripp-MKR alone.

    Attributes:
        units: cross-and-compress units that an item and its entity pass, and layers of the
            relation's MLP, at least 1.
        kg_layers: layers of the MLP that predicts a tail, at least 1.
        every: a step on triples follows so many on pairs, at least 1.
    """

    units: int = 1
    kg_layers: int = 1
    every: int = 3


class RippMKR(Model):
    """RippleNet whose items exchange features with their entities, which also predict tails.

    Unit (MKR, Wang et al., WWW 2019): for an item v and its entity e, with C = v e^T,

        v' = C w_vv + C^T w_ev + b_v,  e' = C w_ve + C^T w_ee + b_e

    where C w = v (e . w) and C^T w = e (v . w), so C is never built. Recommendation: the ripple
    sets answer the item after the units as in RippleNet (its `plus_transform`), and
    y = sigma((o^1 + ... + o^H) . v). KG task, in steps of its own: t_hat = MLP([e_h || MLP(r)])
    with e_h the head after the units, and -sum sigma(t . t_hat) over true triples plus the same sum
    over corrupted ones.

    Hidden layers have ReLU; t_hat comes from a linear one. Departures: every entity has a v of its
    own, not only items, because the graph's heads are of any kind; a corrupted triple has its head
    or its tail replaced, in MKR its tail; both tasks share one optimizer's moments, and lambda1
    replaces the KG task's own step size.

    Attributes:
        entity, item: [E, D], e and v.
        relation: [R, D, D], which address ripple sets.
        relation_vector: [R, D], r of the KG task.
        W: [D, D] of the item's update between hops.
        from_e: [L, D, 2], w_vv and w_ve.
        from_v: [L, D, 2], w_ev and w_ee.
        b_v, b_e: [L, D].
        relation_weights, relation_biases: [L, D, D], [L, D].
        kg_weights, kg_biases: [N - 1, 2 D, 2 D], [N - 1, 2 D] of the tail's N - 1 hidden
            layers; only if there are any.
        kg_out, kg_out_bias: [2 D, D], [D].
    """

    name = "ripp_mkr"
    summary = "Ripp-MKR: RippleNet with cross-and-compress units and a KG task"
    Options = RippMKROptions
    ripple = True
    paths_alone = True
    new_users = True
    live = True
    by_vector = True
    tables: ClassVar[Mapping[str, str]] = {"entity": "entity", "item": "entity"}
    relation_tables = ("relation", "relation_vector")
    defaults: ClassVar[Defaults] = {"train.epochs": 20, "train.lambda1": 1.0}
    rules: ClassVar[Rules] = {
        "train.batch_size": batch_size,
        "train.lr": by_density(2e-3, 1e-2),
        "train.lambda3": by_density(0.1, 0.01),
    }
    no_bias: Tensor

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__(config, source)
        D, init, draw = self.shape.width, self.shape.init, self.draw
        E, R = source.graph.num_entities, source.graph.num_relations
        L, hidden = self.options.units, self.options.kg_layers - 1
        self.add_table("entity", initial_rows((E, D), init, draw))
        self.add_table("item", initial_rows((E, D), init, draw))
        self.relation = nn.Parameter(xavier((R, D, D), D, D, draw))
        self.relation_vector = nn.Parameter(xavier((R, D), D, D, draw))
        self.W = nn.Parameter(xavier((D, D), D, D, draw))
        self.from_e = nn.Parameter(xavier((L, D, 2), D, 1, draw))
        self.from_v = nn.Parameter(xavier((L, D, 2), D, 1, draw))
        self.b_v = nn.Parameter(torch.zeros(L, D))
        self.b_e = nn.Parameter(torch.zeros(L, D))
        self.relation_weights = nn.Parameter(xavier((L, D, D), D, D, draw))
        self.relation_biases = nn.Parameter(torch.zeros(L, D))
        if hidden:
            self.kg_weights = nn.Parameter(xavier((hidden, 2 * D, 2 * D), 2 * D, 2 * D, draw))
            self.kg_biases = nn.Parameter(torch.zeros(hidden, 2 * D))
        self.kg_out = nn.Parameter(xavier((2 * D, D), 2 * D, D, draw))
        self.kg_out_bias = nn.Parameter(torch.zeros(D))
        self.register_buffer("no_bias", torch.zeros(D), persistent=False)

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Refuse counts below 1."""
        for name in ("units", "kg_layers", "every"):
            value = getattr(config.options, name)
            if value < 1:
                raise ConfigError(f"--ripp_mkr.{name} is {value}, expected at least 1")

    @classmethod
    def plan(cls, config: RunConfig, stage: str) -> BatchPlan:
        """Plan steps on triples between steps on pairs."""
        return BatchPlan(triples="apart", every=config.options.every)

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]."""
        v, _ = self._units(
            gather(tables["item"], pairs.items), gather(tables["entity"], pairs.items)
        )
        rho, v = propagate(backend, tables["entity"], self.relation, pairs, v, self.W, self.no_bias)
        return (rho.sum(1) * v).sum(1)

    def attention(self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
        """Attention weights [B, H, M] as in RippleNet."""
        v, _ = self._units(
            gather(tables["item"], pairs.items), gather(tables["entity"], pairs.items)
        )
        keys, values = slot_rows(tables["entity"], self.relation, pairs)
        return attention_weights(
            backend, keys, values, pairs.counts, pairs.group_indptr, v, self.W, self.no_bias
        )

    def kg_sum(
        self, backend: ModuleType, tables: Mapping[str, Tensor], batch: Batch, *, stage: str
    ) -> Tensor | None:
        """Loss of the KG task: -sum sigma(t . t_hat) over true triples, + over corrupted ones."""
        n = batch.triple_heads.numel()
        if n == 0:
            return None
        entity = tables["entity"]
        _, heads = self._units(
            gather(tables["item"], batch.triple_heads), gather(entity, batch.triple_heads)
        )
        # There are few relations: their MLP runs once for each.
        r: Tensor = self.relation_vector
        for W, b in zip(self.relation_weights, self.relation_biases, strict=True):
            r = torch.relu(linear(r, W, b))
        x = torch.cat([heads, gather(r, batch.triple_relations)], dim=1)
        for i in range(self.options.kg_layers - 1):
            x = torch.relu(linear(x, self.kg_weights[i], self.kg_biases[i]))
        tails = linear(x, self.kg_out, self.kg_out_bias)
        score = in_pieces(torch.sigmoid, (gather(entity, batch.triple_tails) * tails).sum(1))
        return fixed_order_sum(score[n // 2 :]) - fixed_order_sum(score[: n // 2])

    def _units(
        self,
        v: Tensor,  # [n, D]
        e: Tensor,  # [n, D]
    ) -> tuple[Tensor, Tensor]:
        """Item and its entity after all units, [n, D] each."""
        n = len(v)
        for i in range(self.options.units):
            e_vv, e_ve = linear(e, self.from_e[i]).unsqueeze(2).unbind(1)
            v_ev, v_ee = linear(v, self.from_v[i]).unsqueeze(2).unbind(1)
            v, e = (
                v * e_vv + e * v_ev + repeat_row(self.b_v[i], n),
                v * e_ve + e * v_ee + repeat_row(self.b_e[i], n),
            )
        return v, e
