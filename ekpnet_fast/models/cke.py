"""CKE (Zhang et al., Collaborative Knowledge Base Embedding, KDD 2016), its structural part."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import ClassVar

from torch import Tensor

from ekpnet_fast.config import RunConfig
from ekpnet_fast.models.base import Defaults, Model, initial_rows
from ekpnet_fast.models.bounds import LinearBounds, bounds_of_products
from ekpnet_fast.models.rules import Rules, batch_size, by_density
from ekpnet_fast.models.translation import TransR
from ekpnet_fast.ops.deterministic import gather
from ekpnet_fast.sampling.pairs import Batch, BatchPlan, Pairs, TrainContext


class CKE(Model):
    """CKE, y = sigma(u . (q_i + e_i)), with TransR on the triples beside it.

        item = q_i + e_i without text and image,  KG term: `translation.TransR`

    Departures: only the structural embedding is kept, as where later papers compare with CKE;
    clicks are fitted one by one with BCE, not by pairs of items.

    Attributes:
        user, item: [U, D], [I, D]; u and q.
        entity: [E, D]; e.
        transr: relations and their matrices.
    """

    name = "cke"
    summary = "CKE: matrix factorisation plus TransR entities, without text and images"
    tables: ClassVar[Mapping[str, str]] = {"user": "user", "item": "item", "entity": "entity"}
    by_vector = True
    relation_tables = ("transr.relation", "transr.projection")
    defaults: ClassVar[Defaults] = {
        "train.epochs": 30,
        "train.lambda1": 1.0,
        "train.group_size": 1,
    }
    rules: ClassVar[Rules] = {
        "train.batch_size": batch_size,
        "train.lr": by_density(1e-2, 5e-3),
        "train.lambda3": by_density(0.2, 0.05),
    }

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__(config, source)
        D, init = self.shape.width, self.shape.init
        sizes = {
            "user": source.num_users,
            "item": source.num_items,
            "entity": source.graph.num_entities,
        }
        for table, n in sizes.items():
            self.add_table(table, initial_rows((n, D), init, self.draw))
        self.transr = TransR(source.graph.num_relations, D, init, self.draw)

    @classmethod
    def plan(cls, config: RunConfig, stage: str) -> BatchPlan:
        """Plan true and corrupted triples in every batch."""
        return BatchPlan(triples="joined")

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]."""
        assert pairs.users is not None and pairs.free_items is not None
        u = gather(tables["user"], pairs.users[pairs.groups])
        item = gather(tables["item"], pairs.free_items) + gather(tables["entity"], pairs.items)
        return (u * item).sum(1)

    def linear_bounds(
        self, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> LinearBounds:
        """Bounds of the logits."""
        assert pairs.users is not None and pairs.free_items is not None
        item = tables["item"][pairs.free_items.long()] + tables["entity"][pairs.items.long()]
        return bounds_of_products(tables["user"][pairs.users.long()], item)

    def kg_sum(
        self, backend: ModuleType, tables: Mapping[str, Tensor], batch: Batch, *, stage: str
    ) -> Tensor | None:
        """Ranking loss of TransR over the drawn triples."""
        return self.transr.ranking_sum(tables["entity"], batch)
