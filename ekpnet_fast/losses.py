"""The loss of a mini-batch (eq. 24), for every way of stepping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from ekpnet_fast.config import StageConfig
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.models.ekpnet import EKPNet
from ekpnet_fast.sampling import Batch

TERMS = ("bce", "kg", "weights", "rows")

UNSPLIT = 1 << 14  # elements that torch leaves to one thread


def fixed_order_sum(x: Tensor) -> Tensor:
    """Sum of all elements in pieces that torch does not split over threads."""
    return torch.stack([piece.sum() for piece in torch.split(x.flatten(), UNSPLIT)]).sum()


def cross_entropy_sum(logits: Tensor, labels: Tensor, real: Tensor | None = None) -> Tensor:
    """Binary cross-entropy summed over [n] pairs, the same bits for any number of threads.

    In pieces, because torch's exp and log differ in the last bit between whole vectors and the
    rest of a thread's share, in the gradient too. `real` weighs pairs: 1, or 0 for padding.
    """
    sums = [
        functional.binary_cross_entropy_with_logits(
            logits[at : at + UNSPLIT],
            labels[at : at + UNSPLIT],
            None if real is None else real[at : at + UNSPLIT],
            reduction="sum",
        )
        for at in range(0, max(len(logits), 1), UNSPLIT)
    ]
    return torch.stack(sums).sum()


def loss_terms(
    backend: ModuleType,
    model: EKPNet,
    rows: Tensor,  # [n, C, D], the batch's rows of the entity table
    batch: Batch,
    stage: StageConfig,
    *,
    deep: bool,
) -> dict[str, Tensor]:
    """The four terms of eq. 24 over a mini-batch, weighted and divided by its pairs.

    The term "rows" holds the relations only: `row_adam_` adds the entity rows' share to their
    gradient, and `StageTrainer.step` to their value.
    """
    logits = model.logits(backend, rows, batch, batch.group_indptr, batch.items, deep=deep)
    pairs = batch.num_pairs if batch.real_pairs is None else batch.real_pairs
    terms = {"bce": cross_entropy_sum(logits, batch.labels, batch.real) / pairs}
    if stage.lambda1 > 0:
        kg = backend.triple_loss(
            rows,
            model.relation,
            batch.triple_heads,
            batch.triple_relations,
            batch.triple_tails,
            batch.triple_labels,
        )
        terms["kg"] = kg * (stage.lambda1 / 2 / pairs)
    if stage.lambda2 > 0:
        norm = torch.stack(
            [fixed_order_sum(w.square()) for w in model.dense_weights(deep=deep)]
        ).sum()
        terms["weights"] = norm * (stage.lambda2 / 2 / pairs)
    if stage.lambda3 > 0:
        norm = fixed_order_sum(model.relation.square().sum((1, 2)) * batch.relation_touched)
        terms["rows"] = norm * (stage.lambda3 / 2 / pairs)
    return terms


def check_finite(terms: Mapping[str, float], step: int, stage: StageConfig, *, deep: bool) -> None:
    """Stop a run whose loss is no number.

    Raises:
        TrainingError: a term is not finite; names it and the step.
    """
    for name, value in terms.items():
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss term {name} is {value} in step {step} of the"
                f" {'train' if deep else 'pretrain'} stage; a smaller lr"
                f" (now {stage.lr}) usually helps"
            )
