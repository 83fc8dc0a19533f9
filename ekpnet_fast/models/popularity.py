"""Item popularity: the same scores for every user."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import ModuleType

import torch
from torch import Tensor

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import PreparedData
from ekpnet_fast.data.popularity import best_threshold, popularity
from ekpnet_fast.models.base import Model
from ekpnet_fast.sampling.pairs import Pairs, TrainContext


class Popularity(Model):
    """Popularity, log(c_i + 0.5) - log(c* + 0.5), with c_i the train positives of item i.

    c* is the count from which on validation accuracy is highest, so that a logit of 0 divides
    clicks from the rest as well as a count can. It changes no order: the response stays monotone.

    Attributes:
        logit: [I].
    """

    name = "popularity"
    summary = "count of an item's train positives; not trained"
    stages = ()
    new_users = True
    logit: Tensor

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__(config, source)
        self.register_buffer("logit", torch.zeros(source.num_items))

    def fit(self, prepared: PreparedData) -> None:
        """Count the positives, and choose the threshold."""
        counts = popularity(prepared.history_items, prepared.dataset.num_items)
        valid = prepared.valid
        threshold = best_threshold(valid.labels, counts[valid.items])
        if math.isinf(threshold):  # no item is popular enough
            threshold = float(counts.max()) + 1
        logit = torch.log((torch.from_numpy(counts).double() + 0.5) / (threshold + 0.5))
        self.logit.copy_(logit)

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]."""
        return self.logit[pairs.items]
