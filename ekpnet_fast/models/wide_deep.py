"""Wide & Deep (Cheng et al., Wide & Deep Learning for Recommender Systems, DLRS 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn

from ekpnet_fast.config import RunConfig
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models.base import Defaults, Model, initial_rows, xavier
from ekpnet_fast.models.rules import Rules, batch_size, by_density, if_dense
from ekpnet_fast.models.translation import TransR
from ekpnet_fast.ops.deterministic import gather, linear
from ekpnet_fast.sampling.pairs import Batch, BatchPlan, Inputs, PairRequest, Pairs, TrainContext


@dataclass(frozen=True)
class WideDeepOptions:
    """Options of Wide & Deep alone.

    Attributes:
        hidden: width of the two hidden layers of the deep part.
        crosses: weights that the crosses of a user and an item are hashed to, 1 to 16777216.
    """

    hidden: int = 32
    crosses: int = 1 << 20


class WideDeep(Model):
    """Wide & Deep, y = sigma(w_u + w_i + w_ui + w_0 + MLP([u || i || e_i])).

    Stage "pretrain" learns the entities by TransR on triples alone; stage "train" leaves them as
    they are, a given feature of the item, and learns the rest (the paper's eq. 3). The wide part is
    linear in the user, the item and their cross, which is hashed. Departures: the paper's features
    of an app store are not there, and both parts are trained by Adam, not the wide one by FTRL. No
    labelled pair is met again in another split, so the weight of a cross helps to learn by heart
    only; lambda3 holds it down.

    Attributes:
        user, item: [U, D], [I, D]; embeddings of the ids.
        entity: [E, D]; e.
        wide_user, wide_item, wide_cross: [U, 1], [I, 1], [crosses, 1], from 0.
        transr: relations and their matrices.
        W_1, b_1, W_2, b_2, w_out, b_out: [3 D, K], [K], [K, K], [K], [K, 1], [1] with K = hidden;
            b_out is w_0.
    """

    name = "wide_deep"
    summary = "Wide & Deep: linear on ids and their cross, MLP on ids and TransR entities"
    Options = WideDeepOptions
    stages: ClassVar[tuple[str, ...]] = ("pretrain", "train")
    tables: ClassVar[Mapping[str, str]] = {
        "user": "user",
        "item": "item",
        "entity": "entity",
        "wide_user": "user",
        "wide_item": "item",
        "wide_cross": "cross",
    }
    input_spaces: ClassVar[Mapping[str, str]] = {"cross": "cross"}
    relation_tables = ("transr.relation", "transr.projection")
    defaults: ClassVar[Defaults] = {
        "pretrain.epochs": 4,
        "pretrain.lambda1": 1.0,
        # In larger groups a user's rows move once an epoch, and stay near nothing.
        "train.group_size": 1,
        "shape.width": 32,
    }
    rules: ClassVar[Rules] = {
        "train.epochs": if_dense(30, 15),
        "train.batch_size": batch_size,
        "train.lr": by_density(3e-3, 1.3e-2),
        "train.lambda2": by_density(0.25, 0.08),
        "train.lambda3": by_density(0.03, 0.09),
    }

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__(config, source)
        D, K, init = self.shape.width, self.options.hidden, self.shape.init
        graph, U, I = source.graph, source.num_users, source.num_items  # noqa: E741
        for table, n in (("user", U), ("item", I), ("entity", graph.num_entities)):
            self.add_table(table, initial_rows((n, D), init, self.draw))
        for table, n in (("user", U), ("item", I), ("cross", self.options.crosses)):
            self.add_table(f"wide_{table}", torch.zeros(n, 1))
        self.transr = TransR(graph.num_relations, D, init, self.draw)
        self.W_1 = nn.Parameter(xavier((3 * D, K), 3 * D, K, self.draw))
        self.b_1 = nn.Parameter(torch.zeros(K))
        self.W_2 = nn.Parameter(xavier((K, K), K, K, self.draw))
        self.b_2 = nn.Parameter(torch.zeros(K))
        self.w_out = nn.Parameter(xavier((K, 1), K, 1, self.draw))
        self.b_out = nn.Parameter(torch.zeros(1))

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Check the sizes."""
        for option, high in (("hidden", 1024), ("crosses", 1 << 24)):
            value = getattr(config.options, option)
            if not 1 <= value <= high:
                raise ConfigError(f"--wide_deep.{option} is {value}, expected 1 to {high}")

    @classmethod
    def plan(cls, config: RunConfig, stage: str) -> BatchPlan:
        """Plan triples alone, then pairs alone."""
        return BatchPlan(pairs=False, triples="joined") if stage == "pretrain" else BatchPlan()

    def inputs(self, request: PairRequest) -> Inputs:
        """Index [B] int32 of the weight that each pair's cross is hashed to."""
        cells = request.pair_users.long() * self.source.num_items + request.items
        # The odd factor is 2^64 over the golden ratio (Knuth, vol. 3, 6.4), as a signed number; the
        # high bits are the mixed ones. Products wrap.
        mixed = (cells * -7046029254386353131) >> 32
        return {"cross": (mixed % self.options.crosses).to(torch.int32)}

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]."""
        assert pairs.users is not None and pairs.free_items is not None
        users, items = pairs.users[pairs.groups], pairs.free_items
        wide = gather(tables["wide_user"], users) + gather(tables["wide_item"], items)
        wide = wide + gather(tables["wide_cross"], pairs.inputs["cross"])
        x = torch.cat(
            [
                gather(tables["user"], users),
                gather(tables["item"], items),
                gather(tables["entity"].detach(), pairs.items),
            ],
            dim=1,
        )
        x = torch.relu(linear(x, self.W_1, self.b_1))
        x = torch.relu(linear(x, self.W_2, self.b_2))
        return (wide + linear(x, self.w_out, self.b_out)).squeeze(1)

    def kg_sum(
        self, backend: ModuleType, tables: Mapping[str, Tensor], batch: Batch, *, stage: str
    ) -> Tensor | None:
        """Ranking loss of TransR over the drawn triples; None in a batch of pairs."""
        return self.transr.ranking_sum(tables["entity"], batch)

    def dense_weights(self, stage: str) -> list[nn.Parameter]:
        """Weights of the deep part, in the stage of clicks."""
        return [] if stage == "pretrain" else super().dense_weights(stage)
