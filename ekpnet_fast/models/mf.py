"""Matrix factorisation with biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor

from ekpnet_fast.config import RunConfig
from ekpnet_fast.models.base import Defaults, Model, initial_rows
from ekpnet_fast.models.bounds import LinearBounds, bounds_of_products
from ekpnet_fast.models.rules import Rules, batch_size, by_density, by_measure, if_dense
from ekpnet_fast.ops.deterministic import gather
from ekpnet_fast.sampling.pairs import Pairs, TrainContext


@dataclass(frozen=True)
class MFOptions:
    """Options of MF alone.

    Attributes:
        user_bias: whether there is a b_u. Where a split holds as many negatives as positives per
            user, it learns from train what is the opposite in validation and test.
    """

    user_bias: bool = True


class MF(Model):
    """Matrix factorisation, y = sigma(u . i + b_u + b_i) (Koren et al. 2009), no graph.

    The loss is logistic for clicks, and the sampled softmax where lists are measured.

    Attributes:
        user, item: [U, D], [I, D].
        user_bias, item_bias: [U, 1], [I, 1], from 0; not decayed. Without `MFOptions.user_bias` the
            former stays 0.
    """

    name = "mf"
    summary = "matrix factorisation with user and item bias; no graph"
    Options = MFOptions
    tables: ClassVar[Mapping[str, str]] = {
        "user": "user",
        "user_bias": "user",
        "item": "item",
        "item_bias": "item",
    }
    undecayed = ("user_bias", "item_bias")
    by_vector = True
    defaults: ClassVar[Defaults] = {
        "mf.user_bias": False,
        "train.epochs": 30,
        "train.lr": 1e-2,
    }
    rules: ClassVar[Rules] = {
        "shape.width": if_dense(16, 64),
        "train.loss": by_measure("bce", "softmax"),
        "train.batch_size": batch_size,
        "train.lambda3": by_density(0.5, 0.05),
    }

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__(config, source)
        for space, n in (("user", source.num_users), ("item", source.num_items)):
            rows = initial_rows((n, self.shape.width), self.shape.init, self.draw)
            self.add_table(space, rows)
            self.add_table(f"{space}_bias", torch.zeros(n, 1))

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]."""
        assert pairs.users is not None and pairs.free_items is not None
        users, items = pairs.users[pairs.groups], pairs.free_items
        u, i = gather(tables["user"], users), gather(tables["item"], items)
        bias = gather(tables["item_bias"], items)
        if self.options.user_bias:
            bias = bias + gather(tables["user_bias"], users)
        return (u * i).sum(1) + bias.squeeze(1)

    def linear_bounds(
        self, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> LinearBounds:
        """Bounds of the logits, whose biases are factors beside ones."""
        assert pairs.users is not None and pairs.free_items is not None
        users, items = pairs.users.long(), pairs.free_items.long()
        u, i = [tables["user"][users]], [tables["item"][items]]
        ones = u[0].new_ones
        u.append(ones(len(users), 1))
        i.append(tables["item_bias"][items])
        if self.options.user_bias:
            u.append(tables["user_bias"][users])
            i.append(ones(len(items), 1))
        return bounds_of_products(torch.cat(u, 1), torch.cat(i, 1))
