"""RippleNet (Wang et al., CIKM 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ekpnet_fast.config import RunConfig
from ekpnet_fast.models.attend import attend, attention_weights
from ekpnet_fast.models.base import Defaults, Model, initial_rows, xavier
from ekpnet_fast.models.rules import Rules, batch_size, by_density
from ekpnet_fast.ops.deterministic import fixed_order_sum, gather, in_pieces, linear_by_relation
from ekpnet_fast.sampling.pairs import Batch, Pairs, TrainContext


@dataclass(frozen=True)
class RippleNetOptions:
    """Options of RippleNet alone.

    Attributes:
        item_update: how a hop's answer changes the item: put in its place ("replace") or added to
            it ("plus"), and then multiplied by a trained matrix ("_transform").
        using_all_hops: the user is the sum of all hops' answers; else the last one.
    """

    item_update: Literal["replace", "plus", "replace_transform", "plus_transform"] = (
        "plus_transform"
    )
    using_all_hops: bool = True


def propagate(
    backend: ModuleType,
    entity: Tensor,  # [n, D]
    relation: Tensor,  # [R, D, D]
    pairs: Pairs,
    items: Tensor,  # [B, D]
    W: Tensor,  # [D, D]
    b: Tensor,  # [D]
    *,
    replace: bool = False,
) -> tuple[Tensor, Tensor]:
    """Answers o^1 .. o^H [B, H, D] of the ripple sets, and the items [B, D] after the last.

    Eq. 4 and 5, and the item's update between hops as `attend` has it.
    """
    keys, values = slot_rows(entity, relation, pairs)
    return attend(
        backend, keys, values, pairs.counts, pairs.group_indptr, items, W, b, replace=replace
    )


def slot_rows(
    entity: Tensor,  # [n, D]
    relation: Tensor,  # [R, D, D]
    pairs: Pairs,
) -> tuple[Tensor, Tensor]:
    """Keys R h and values t [G, H, M, D] of the ripple slots."""
    heads = gather(entity, pairs.heads)
    keys = linear_by_relation(heads.flatten(0, 2), relation.mT, pairs.relations.flatten())
    return keys.view(heads.shape), gather(entity, pairs.tails)


class RippleNet(Model):
    """RippleNet: user o = o^1 + ... + o^H from ripple sets, y = sigma(o . v).

        p_i = softmax(v . R_i h_i) (eq. 4),  o^p = sum_i p_i t_i (eq. 5),  v updated by each hop,
        KG term -sum sigma(h^T R t) over the ripple triples (from eq. 10)

    The paper's eq. 4 has the given item in every hop; its code updates the item between hops, and
    the updated one is matched with the user, as here. Departures: a short hop is masked and not
    filled by repetition (`--sampling.padding repeat` does that), a user's triples count once in the
    KG term for all of the user's pairs in a group, and norms are taken over the rows that a batch
    touches.

    Attributes:
        entity: [E, D].
        relation: [R, D, D].
        W: [D, D] of the item update, only if it transforms.
    """

    name = "ripplenet"
    summary = "RippleNet: ripple sets addressed through relation matrices"
    Options = RippleNetOptions
    ripple = True
    paths_alone = True
    new_users = True
    live = True
    by_vector = True
    tables: ClassVar[Mapping[str, str]] = {"entity": "entity"}
    relation_tables = ("relation",)
    asked = ("valid_slots",)
    defaults: ClassVar[Defaults] = {"train.epochs": 20}
    rules: ClassVar[Rules] = {
        "train.batch_size": batch_size,
        "train.lr": by_density(5e-3, 1e-2),
        "train.lambda3": by_density(1.0, 0.01),
    }
    identity: Tensor
    no_bias: Tensor

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__(config, source)
        D, init = self.shape.width, self.shape.init
        E, R = source.graph.num_entities, source.graph.num_relations
        self.add_table("entity", initial_rows((E, D), init, self.draw))
        self.relation = nn.Parameter(xavier((R, D, D), D, D, self.draw))
        if self.options.item_update.endswith("transform"):
            self.W = nn.Parameter(xavier((D, D), D, D, self.draw))
        self.register_buffer("identity", torch.eye(D), persistent=False)
        self.register_buffer("no_bias", torch.zeros(D), persistent=False)

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]."""
        rho, item = propagate(
            backend,
            tables["entity"],
            self.relation,
            pairs,
            gather(tables["entity"], pairs.items),
            *self._update(),
            replace=self.options.item_update.startswith("replace"),
        )
        user = rho.sum(1) if self.options.using_all_hops else rho[:, -1]
        return (user * item).sum(1)

    def attention(self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
        """Attention weights p of eq. 4, with the item as it is at each hop."""
        return attention_weights(
            backend,
            *slot_rows(tables["entity"], self.relation, pairs),
            pairs.counts,
            pairs.group_indptr,
            gather(tables["entity"], pairs.items),
            *self._update(),
            replace=self.options.item_update.startswith("replace"),
        )

    def _update(self) -> tuple[Tensor, Tensor]:
        """Matrix and bias of the item's update."""
        transforms = self.options.item_update.endswith("transform")
        return self.W if transforms else self.identity, self.no_bias

    def kg_sum(
        self, backend: ModuleType, tables: Mapping[str, Tensor], batch: Batch, *, stage: str
    ) -> Tensor:
        """KG loss, -sum sigma(h^T R t) over the valid slots."""
        entity, slots = tables["entity"], batch.valid_slots
        heads, relations, tails = (
            x.flatten()[slots] for x in (batch.heads, batch.relations, batch.tails)
        )
        hR = linear_by_relation(gather(entity, heads), self.relation, relations)
        score = (hR * gather(entity, tails)).sum(1)
        return -fixed_order_sum(in_pieces(torch.sigmoid, score))
