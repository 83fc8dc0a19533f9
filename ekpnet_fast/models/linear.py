"""Wide part of EKPNet+ as a recommender of its own."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import ClassVar

from torch import Tensor

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import PreparedData
from ekpnet_fast.models.base import Defaults, Model
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
from ekpnet_fast.sampling.pairs import Inputs, PairRequest, Pairs, TrainContext


class Linear(Model):
    """Linear model: logit = bias + sum_f c_f(x_f), curves c_f of cross-fitted features.

    The features x_f (see `wide/affinity.py`) are popularity, the clicks of neighbours in the graph,
    and affinities between history and item: 3-hop co-click, idf-weighted match in the graph, the
    walk graph-click-graph, projections on leading eigenvectors of clicks (the low-pass filter of
    Shen et al., CIKM 2021) and of clicks and graph together, a regression of clicks on the graph
    (see `wide/graph_regression.py`), EASE^R, and where lists are measured the clicks of like users.
    Every other x_f rises with the clicks of the item; fitted to clicks no c_f falls, so that the
    response to popularity is monotone, fitted to lists they may. Examples of an item that nobody
    else clicked are not fitted: the catalogue has only items with a click somewhere, so that their
    labels reveal how the data were split. Below the fitted values a curve goes on as its first
    piece.

    Attributes:
        linear: the features' weights.
    """

    name = "linear"
    summary = "linear model of co-clicks and matches in the graph; the start of EKPNet+"
    Options = LinearOptions
    pair_inputs = ("linear",)
    stages = ()
    history = True
    new_users = True
    live = True
    as_fitted = AS_FITTED
    wide = True
    defaults: ClassVar[Defaults] = {"folds": 5}
    rules: ClassVar[Rules] = rules_of("linear")

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__(config, source)
        self.linear = LinearPart(self.options, source)

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Check the ranges of the options."""
        check_signals(cls.name, config.options, config.folds)

    def fit_features(self, training: TrainingExamples, processes: Processes = ALONE) -> None:
        """Fit the weights."""
        self.linear.fit(training, trained=False, processes=processes)

    def fit(self, prepared: PreparedData) -> None:
        """Do nothing: `fit_features` has fitted the model."""

    def inputs(self, request: PairRequest) -> Inputs:
        """Compute linear [B], the logits."""
        return {"linear": self.linear.of(request, *self.histories_of(request))}

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]."""
        return pairs.inputs["linear"]

    def shares(self, history: Tensor, item: int) -> PairShares:
        """Shares in the wide part's logit."""
        return self.linear.shares(history, item)

    def with_context(self, source: TrainContext) -> Linear:
        """Copy for another graph, catalogue or histories; what was fitted stays."""
        return with_part(super().with_context(source), self.linear.following(source))

    def refreshed(self, source: TrainContext, training: TrainingExamples) -> Linear:
        """Copy with the linear part fitted anew."""
        return with_part(super().with_context(source), self.linear.refitted(source, training))

    def weights_by_name(self) -> dict[str, float]:
        """Weights of the features, largest first."""
        return self.linear.weights()
