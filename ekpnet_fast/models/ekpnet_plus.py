"""EKPNet+: EKPNet beside a linear part, on cross-fitted histories."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor

from ekpnet_fast.config import RunConfig, StageConfig
from ekpnet_fast.models.base import Defaults, Gradients, Presets
from ekpnet_fast.models.bounds import LinearBounds
from ekpnet_fast.models.ekpnet import EKPNet
from ekpnet_fast.models.rules import Rules
from ekpnet_fast.models.wide.defaults import rules_of
from ekpnet_fast.models.wide.part import (
    AS_FITTED,
    LinearOptions,
    LinearPart,
    check_signals,
    with_part,
)
from ekpnet_fast.models.wide.shares import PairShares
from ekpnet_fast.native.processes import ALONE, Processes
from ekpnet_fast.sampling.examples import TrainingExamples
from ekpnet_fast.sampling.pairs import Batch, Inputs, PairRequest, Pairs, TrainContext


class EKPNetPlus(EKPNet):
    """EKPNet+: logit = the linear part's (see `linear.Linear`) + EKPNet's (eq. 15 or 18).

    The linear part is fitted first and stays; EKPNet is trained on what it leaves over. Both see
    training examples without their own fold.

    Attributes:
        linear: the features' curves.
    """

    name = "ekpnet_plus"
    summary = "EKPNet beside a linear part, on cross-fitted histories"
    Options = LinearOptions
    pair_inputs = ("linear",)
    draws = 4
    as_fitted = AS_FITTED
    by_vector = False
    wide = True
    defaults: ClassVar[Defaults] = {
        **EKPNet.defaults,
        "folds": 5,
        "pretrain.epochs": 0,
        "train.epochs": 5,  # what the linear part leaves over is learned in few
    }
    rules: ClassVar[Rules] = {
        **{name: rule for name, rule in EKPNet.rules.items() if not name.endswith(".epochs")},
        **rules_of("ekpnet_plus"),
    }
    presets: ClassVar[Presets] = {}

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__(config, source)
        self.linear = LinearPart(self.options, source)
        self._trained = any(getattr(config, stage).epochs > 0 for stage in self.stages)

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Check the ranges of the options."""
        check_signals(cls.name, config.options, config.folds)

    def fit_features(self, training: TrainingExamples, processes: Processes = ALONE) -> None:
        """Fit the linear part."""
        self.linear.fit(training, trained=self._trained, processes=processes)

    def inputs(self, request: PairRequest) -> Inputs:
        """Compute linear [B], the linear part's logits."""
        return {"linear": self.linear.of(request, *self.histories_of(request))}

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]."""
        if self._is_silent(stage):
            return pairs.inputs["linear"]
        return pairs.inputs["linear"] + super().logits(backend, tables, pairs, stage=stage)

    def linear_bounds(
        self, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> LinearBounds | None:
        """Bounds of EKPNet's logits; None where these are 0, and no item needs them."""
        if self._is_silent(stage):
            return None
        return super().linear_bounds(tables, pairs, stage=stage)

    def _is_silent(self, stage: str) -> bool:
        """Whether EKPNet adds nothing; on a GPU, which would be waited for, nobody asks."""
        if stage != "train" or torch.is_grad_enabled() or self.w_out.device.type != "cpu":
            return False
        return not (self.w_out.any() or self.b_out.any())

    def gradients(
        self, tables: Mapping[str, Tensor], batch: Batch, options: StageConfig, *, stage: str
    ) -> Gradients:
        """Gradients of EKPNet, the linear part's logits added."""
        offset = batch.inputs["linear"]
        return self._gradients(tables["entity"], batch, options, stage=stage, offset=offset)

    def silent(self, stage: str) -> dict[str, Tensor]:
        """The output layer of eq. 18, without which the linear part's logit is left."""
        if stage != "train":
            return {}
        return {"w_out": torch.zeros_like(self.w_out), "b_out": torch.zeros_like(self.b_out)}

    def shares(self, history: Tensor, item: int) -> PairShares:
        """Shares in the wide part's logit."""
        return self.linear.shares(history, item)

    def with_context(self, source: TrainContext) -> EKPNetPlus:
        """Copy for another graph, catalogue or histories; what was fitted stays."""
        return with_part(super().with_context(source), self.linear.following(source))

    def refreshed(self, source: TrainContext, training: TrainingExamples) -> EKPNetPlus:
        """Copy with the linear part fitted anew."""
        return with_part(super().with_context(source), self.linear.refitted(source, training))

    def weights_by_name(self) -> dict[str, float]:
        """Weights of the linear part's features, largest first."""
        return self.linear.weights()
