"""EKPNet and its variants EKP_no, EKP_att, EKP_frame."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn

from ekpnet_fast import ops
from ekpnet_fast.config import RunConfig, StageConfig
from ekpnet_fast.models.base import Defaults, Gradients, Model, Presets, initial_rows, xavier
from ekpnet_fast.models.bounds import LinearBounds, bounds_of_layers
from ekpnet_fast.models.rules import Rules, batch_size, if_dense, row_decay, walks_back
from ekpnet_fast.sampling.pairs import Batch, BatchPlan, Pairs, TrainContext

# Table 2, whose pre-training rows give lambda1 of the KG term and, under another letter, the weight
# of the squared rows (lambda3 here); lambda2 there weighs W_e and b_e like the rows.
PRESETS: Presets = {
    "paper": {
        "movielens-1m": {
            "shape.width": 16,
            "shape.hops": 2,
            "shape.slots": 32,
            "shape.layers": 3,
            "pretrain.batch_size": 4096,
            "pretrain.lr": 1e-2,
            "pretrain.lambda1": 0.01,
            "pretrain.lambda2": 5e-3,
            "pretrain.lambda3": 5e-3,
            "train.batch_size": 4096,
            "train.lr": 5e-3,
            "train.lambda1": 0.001,
            "train.lambda2": 1e-7,
            "train.lambda3": 1e-7,
        },
        "book-crossing": {
            "shape.width": 4,
            "shape.hops": 3,
            "shape.slots": 32,
            "shape.layers": 4,
            "pretrain.lr": 1e-2,
            "pretrain.lambda1": 0.01,
            "pretrain.lambda2": 1e-7,
            "pretrain.lambda3": 1e-7,
            "train.lr": 5e-3,
            "train.lambda1": 0.001,
            "train.lambda2": 1e-4,
            "train.lambda3": 1e-4,
        },
    },
}


class EKPNet(Model):
    """EKPNet: its parameters and its forward pass (eq. 6-18).

    Stage "pretrain" predicts by eq. 15 (Algorithm 1), stage "train" by eq. 18 (Algorithm 2).

    Attributes:
        entity: [E, C, D], channel 0 v_e and, with semantic attention, channel 1 gamma_e.
        relation: [R, C, D], v_r and gamma_r.
        W_e, b_e: [D, D], [D] (eq. 12).
        weights, biases, w_out, b_out: [L - 1, K, K], [L - 1, K], [K], [1] with K = (H + 1) D
            (eq. 17, 18); only if `deep`.
        semantic_attention: whether psi is the rank-1 transformation (eq. 8) and not the identity.
        deep: whether there are prediction layers, and a second stage to train them.
    """

    name = "ekpnet"
    summary = "rank-1 semantic attention over ripple sets, prediction layers"
    defaults: ClassVar[Defaults] = {"train.lambda3": 1e-3}
    rules: ClassVar[Rules] = {
        "sampling.inverse": walks_back,
        "pretrain.epochs": if_dense(15, 20),
        "pretrain.batch_size": batch_size,
        "pretrain.patience": if_dense(3, 8),
        "pretrain.lambda3": row_decay(1e-3, 1e-2),
        "train.epochs": if_dense(10, 15),
        "train.batch_size": batch_size,
    }
    presets = PRESETS
    stages: ClassVar[tuple[str, ...]] = ("pretrain", "train")
    ripple = True
    tables: ClassVar[Mapping[str, str]] = {"entity": "entity"}
    relation_tables = ("relation",)
    resident = True
    shared_sets = True
    new_users = True
    live = True
    by_vector = True
    semantic_attention: ClassVar[bool] = True
    deep: ClassVar[bool] = True
    entity: Tensor

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__(config, source)
        shape, draw = self.shape, self.draw
        channels, D = (2 if self.semantic_attention else 1), shape.width
        E, R = source.graph.num_entities, source.graph.num_relations
        self.add_table("entity", initial_rows((E, channels, D), shape.init, draw))
        self.relation = nn.Parameter(initial_rows((R, channels, D), shape.init, draw))
        self.W_e = nn.Parameter(xavier((D, D), D, D, draw))
        self.b_e = nn.Parameter(torch.zeros(D))
        if self.deep:
            K = (shape.hops + 1) * D
            self.weights = nn.Parameter(xavier((shape.layers - 1, K, K), K, K, draw))
            self.biases = nn.Parameter(torch.zeros(shape.layers - 1, K))
            self.w_out = nn.Parameter(xavier((K,), K, 1, draw))
            self.b_out = nn.Parameter(torch.zeros(1))

    @classmethod
    def bounded(cls) -> bool:
        """Whether its lists are made without scoring every item: by eq. 18, not by eq. 15."""
        return cls.deep

    @classmethod
    def plan(cls, config: RunConfig, stage: str) -> BatchPlan:
        """Plan true and corrupted triples in every batch (eq. 22)."""
        return BatchPlan(triples="joined")

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]: of eq. 18 in stage "train", else of eq. 15."""
        z, match = backend.ripple_attention(self._propagation(tables, pairs))
        if stage == "pretrain":
            logit: Tensor = match
            return logit
        logit = backend.deep_score(
            z, self.weights, self.biases, self.w_out, self.b_out, self.shape.activation
        )
        return logit

    def attention(self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
        """Attention weights alpha [B, H, M] of eq. 10."""
        alpha: Tensor = backend.ripple_attention_weights(self._propagation(tables, pairs))
        return alpha

    def linear_bounds(
        self, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> LinearBounds | None:
        """Bounds of the logits of eq. 18; None of those of eq. 15."""
        if stage == "pretrain":
            return None
        layers = (self.weights, self.biases, self.w_out, self.b_out)
        return bounds_of_layers(self._propagation(tables, pairs), layers, self.shape.activation)

    def _propagation(self, tables: Mapping[str, Tensor], pairs: Pairs) -> ops.Propagation:
        return ops.Propagation(
            tables["entity"],
            self.relation,
            self.W_e,
            self.b_e,
            pairs.heads,
            pairs.relations,
            pairs.tails,
            pairs.counts,
            pairs.group_indptr,
            pairs.items,
        )

    def kg_sum(
        self, backend: ModuleType, tables: Mapping[str, Tensor], batch: Batch, *, stage: str
    ) -> Tensor:
        """Translation loss (eq. 22)."""
        loss: Tensor = backend.triple_loss(
            tables["entity"],
            self.relation,
            batch.triple_heads,
            batch.triple_relations,
            batch.triple_tails,
            batch.triple_labels,
        )
        return loss

    def gradients(
        self, tables: Mapping[str, Tensor], batch: Batch, options: StageConfig, *, stage: str
    ) -> Gradients | None:
        """Loss (eq. 24) and its gradients in one pass."""
        return self._gradients(tables["entity"], batch, options, stage=stage)

    def _gradients(
        self,
        entity: Tensor,  # [E, C, D]
        batch: Batch,
        options: StageConfig,
        *,
        stage: str,
        offset: Tensor | None = None,
    ) -> Gradients:
        """Loss and gradients, with `offset` [B] added to the logits."""
        layers = None
        if stage == "train":
            layers = (self.weights, self.biases, self.w_out, self.b_out)
        given = ops.RippleBatch(
            batch.rows,
            batch.heads,
            batch.relations,
            batch.tails,
            batch.counts,
            batch.group_indptr,
            batch.items,
            batch.labels,
            offset if batch.corrections is None else _sum(offset, batch.corrections),
            batch.triple_heads,
            batch.triple_relations,
            batch.triple_tails,
            batch.triple_labels,
            batch.slot_folds,
            batch.pair_folds,
            batch.real,
            batch.real_pairs,
            batch.entity_keys,
            batch.entity_references,
            batch.relation_keys,
            batch.relation_references,
        )
        terms, drows, dense = ops.ekpnet_gradients(
            entity,
            self.relation,
            self.W_e,
            self.b_e,
            layers,
            given,
            activation=self.shape.activation,
            loss=options.loss,
            lambda1=options.lambda1,
            lambda2=options.lambda2,
            lambda3=options.lambda3,
        )
        return Gradients(terms, {"entity": drows}, dense)

    def dense_weights(self, stage: str) -> list[nn.Parameter]:
        """Return W_e and b_e, and in stage "train" the prediction layers."""
        dense = [self.W_e, self.b_e]
        if stage == "train":
            dense += [self.weights, self.biases, self.w_out, self.b_out]
        return dense


def _sum(offset: Tensor | None, corrections: Tensor) -> Tensor:
    return corrections if offset is None else offset + corrections


class EKPAtt(EKPNet):
    """EKP_att: semantic attention, prediction by eq. 15."""

    name = "ekp_att"
    summary = "EKPNet without prediction layers"
    stages = ("pretrain",)
    deep = False
    paths_alone = True


class EKPFrame(EKPNet):
    """EKP_frame: psi is the identity, prediction by eq. 18."""

    name = "ekp_frame"
    summary = "EKPNet without semantic attention"
    semantic_attention = False


class EKPNo(EKPNet):
    """EKP_no: psi is the identity, prediction by eq. 15."""

    name = "ekp_no"
    summary = "EKPNet with neither"
    stages = ("pretrain",)
    semantic_attention = False
    deep = False
    paths_alone = True
