"""EKPNet+: EKPNet beside a monotone linear part, on cross-fitted histories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ekpnet_fast import ops
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.fixed_order import gather, linear, one_thread
from ekpnet_fast.histories import Histories
from ekpnet_fast.models.attend import attend
from ekpnet_fast.models.base import Gradients, Presets
from ekpnet_fast.models.ekpnet import PRESETS, EKPNet
from ekpnet_fast.models.linear import LinearOptions, LinearPart, check_signals
from ekpnet_fast.sampling import (
    Batch,
    Inputs,
    Pairs,
    Request,
    RippleSets,
    Source,
    TrainingRows,
)

if TYPE_CHECKING:
    from ekpnet_fast.config import RunConfig, StageConfig

FIRST_DRAW = 1 << 20  # epochs from here on key the further ripple sets of a prediction
MAX_DRAWS = 64


@dataclass(frozen=True)
class EKPNetPlusOptions(LinearOptions):
    """What only EKPNet+ has.

    Attributes:
        mixed: affinity by the graph, by clicks, and by the graph again.
        low_pass: ranks of projections of the history on what most clicks share.
        joint: ranks of projections on what clicks and graph share.
        ease: regularisation of EASE^R, for few items with many clicks; 0 leaves it out.
        pieces: of the response to each feature, which rises from quantile to quantile; 1 is a
            straight line.
        item_bias: whether there is a trained b_i.
        clicked: whether the clicked items themselves are attended to, as a hop 0.
        warm: whether item rows start from the joint projections, as smoothed rows do in LightGCN.
        draws: ripple sets per user that a prediction is averaged over.
    """

    item_bias: bool = False
    clicked: bool = False
    warm: bool = False
    draws: int = 1


class EKPNetPlus(EKPNet):
    """logit = the linear part's (see `linear.Linear`) + EKPNet's (eq. 15 or 18).

    The linear part is fitted first and stays; EKPNet is trained on what it leaves over. Both see
    training rows without their own fold.

    Attributes:
        linear: the features' weights.
        item_bias: [I, 1], from 0; not decayed.
        hop: [D, D], of the clicked items' keys; only with `clicked`.
    """

    name = "ekpnet_plus"
    summary = "EKPNet beside a monotone linear part, on cross-fitted histories"
    Options = EKPNetPlusOptions
    tables: ClassVar[Mapping[str, str]] = {"entity": "entity", "item_bias": "item"}
    undecayed = ("item_bias",)
    input_spaces: ClassVar[Mapping[str, str]] = {"clicked": "entity"}
    resident = False
    live = False
    presets: ClassVar[Presets] = {
        "default": {
            **PRESETS["default"],
            "*": {"folds": 5, "pretrain.epochs": 0},
            "movielens-1m": {**PRESETS["default"]["movielens-1m"], "pretrain.epochs": 0},
            # Here the projections get no weight.
            "book-crossing": {
                **PRESETS["default"]["book-crossing"],
                "ekpnet_plus.low_pass": (),
                "ekpnet_plus.joint": (),
            },
        }
    }
    identity: Tensor
    no_bias: Tensor

    def __init__(self, config: RunConfig, source: Source) -> None:
        super().__init__(config, source)
        options: EKPNetPlusOptions = self.options
        D = self.shape.width
        self.linear = LinearPart(options.signals, options.pieces, source)
        if options.item_bias:
            self.add_table("item_bias", torch.zeros(source.num_items, 1))
        self.register_buffer("identity", torch.eye(D), persistent=False)
        self.register_buffer("no_bias", torch.zeros(D), persistent=False)
        if options.clicked:
            self.hop = nn.Parameter(torch.eye(D))
        if options.warm:
            with one_thread():
                vectors = self.linear.affinities.leading(D)
            items = self.entity[: source.num_items, 0, : vectors.shape[1]]
            items.copy_(vectors * (items.std() / vectors.std().clamp(min=1e-12)))

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Ranks and draws."""
        check_signals(cls.name, config.options)
        if not 1 <= config.options.draws <= MAX_DRAWS:
            raise ConfigError(
                f"--{cls.name}.draws is {config.options.draws}, expected 1 to {MAX_DRAWS}"
            )

    def begin(self, training: TrainingRows) -> None:
        """Fit the linear part."""
        self.linear.fit(training)

    def inputs(self, request: Request) -> Inputs:
        """linear [B]: the linear part's logits.

        With `clicked`: clicked [G, M] of each group's clicked items, clicked_counts [G]. In
        evaluation with more draws: heads, relations, tails [G, draws - 1, H, M] and counts.
        """
        histories, ids = self.seen(request)
        found = {"linear": self.linear.of(request, histories, ids)}
        options, M = self.options, self.shape.slots
        found["clicked"] = torch.zeros(len(ids), 0, dtype=torch.int32)
        if options.clicked:
            _, found["clicked"], found["clicked_counts"] = ops.sample_neighbors(
                histories.indptr,
                torch.zeros_like(histories.items, dtype=torch.uint8),
                histories.items,
                ids.int(),
                M,
                seed=self.source.seed,
                epoch=request.epoch,
            )
        if request.epoch == 0 and options.draws > 1:
            found |= self._further_draws(histories.of(ids), ids.int())
        return found

    def _further_draws(self, histories: Histories, ids: Tensor) -> dict[str, Tensor]:
        graph = self.source.graph
        drawn = [
            vars(
                RippleSets.sample(
                    graph,
                    histories.indptr,
                    histories.items,
                    hops=self.shape.hops,
                    slots=self.shape.slots,
                    seed=self.source.seed,
                    epoch=FIRST_DRAW + draw,
                    users=ids,
                )
            )
            for draw in range(1, self.options.draws)
        ]
        return {name: torch.stack([sets[name] for sets in drawn], dim=1) for name in drawn[0]}

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]."""
        options: EKPNetPlusOptions = self.options
        deep = super().logits(backend, tables, pairs, stage=stage)
        if "heads" in pairs.inputs:
            for draw in range(options.draws - 1):
                heads, relations, tails, counts = (
                    pairs.inputs[name][:, draw].contiguous()
                    for name in ("heads", "relations", "tails", "counts")
                )
                other = replace(pairs, heads=heads, relations=relations, tails=tails, counts=counts)
                deep = deep + super().logits(backend, tables, other, stage=stage)
            deep = deep / options.draws
        logit = pairs.inputs["linear"] + deep
        if options.item_bias:
            assert pairs.free_items is not None
            logit = logit + gather(tables["item_bias"], pairs.free_items).squeeze(1)
        if options.clicked:
            logit = logit + self._clicked_logit(backend, tables, pairs)
        return logit

    def _clicked_logit(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs
    ) -> Tensor:
        """rho^0 . v_o: the item's attention over the clicked items themselves."""
        rows = tables["entity"][:, 0]
        item = gather(rows, pairs.items)
        clicked = gather(rows, pairs.inputs["clicked"]).unsqueeze(1)
        rho, _ = attend(
            backend,
            linear(clicked, self.hop),
            clicked,
            pairs.inputs["clicked_counts"].unsqueeze(1),
            pairs.group_indptr,
            item,
            self.identity,
            self.no_bias,
        )
        return (rho[:, 0] * item).sum(1)

    def gradients(self, batch: Batch, options: StageConfig, *, stage: str) -> Gradients | None:
        """EKPNet's, the linear part's logits added; None with parts that are trained beside it."""
        if self.options.item_bias or self.options.clicked:
            return None
        return self._gradients(batch, options, stage=stage, offset=batch.inputs["linear"])

    def dense_weights(self, stage: str) -> list[nn.Parameter]:
        """EKPNet's, and the matrix of hop 0."""
        return super().dense_weights(stage) + ([self.hop] if self.options.clicked else [])

    def weights_by_name(self) -> dict[str, float]:
        """Of the linear part's features, largest first."""
        return self.linear.weights()
