"""Loss of a mini-batch (eq. 24, and the losses of other models in its place)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ekpnet_fast import ops
from ekpnet_fast.config import StageConfig
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.models.base import Model
from ekpnet_fast.ops.deterministic import UNSPLIT, fixed_order_sum
from ekpnet_fast.sampling.pairs import Batch

TERMS = ("pairs", "kg", "l2_weights", "l2_rows")
_WEIGHT_OF = {"kg": "lambda1", "l2_weights": "lambda2", "l2_rows": "lambda3"}

DIVERGED, DIVERGED_STEPS = 10.0, 20


class _SquaredNorm(torch.autograd.Function):
    """Sum of the squares of some tensors: one node of the graph, because each costs a step."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return fixed_order_sum(torch.cat([x.flatten() for x in tensors]).square_())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch._foreach_mul(ctx.saved_tensors, 2 * grad))


def cross_entropy_sum(logits: Tensor, labels: Tensor, real: Tensor | None = None) -> Tensor:
    """Binary cross-entropy summed over [n] pairs, the same bits for any number of threads.

    On a CPU in pieces, because torch's exp and log differ in the last bit between whole vectors and
    the rest of a thread's share, in the gradient too. `real` weighs pairs: 1, or 0 for padding.
    """
    n = max(len(logits), 1)
    size = UNSPLIT if logits.device.type == "cpu" else n
    sums = [
        functional.binary_cross_entropy_with_logits(
            logits[at : at + size],
            labels[at : at + size],
            None if real is None else real[at : at + size],
            reduction="sum",
        )
        for at in range(0, n, size)
    ]
    return torch.stack(sums).sum()


def loss_terms(
    backend: ModuleType,
    model: Model,
    tables: Mapping[str, Tensor],  # [n, ...] each, the batch's rows of the model's tables
    batch: Batch,
    stage: StageConfig,
    *,
    name: str,
    known: list[tuple[Tensor, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """Terms of the loss over a mini-batch (eq. 24), weighted and divided by its size.

    The term "l2_rows" holds the relations only: `row_adam_` adds the table rows' share to their
    gradient, and `StageTrainer.step` to their value. `name` is the stage's.

    Where a list for it is given, `known` receives the logits and the gradient [B] of the term
    "pairs" in them, if that comes with its value: the term then has no graph, and `backward` takes
    both.
    """
    size = batch.size if batch.real_pairs is None else batch.real_pairs
    terms = {}
    if batch.num_pairs:
        logits = model.logits(backend, tables, batch, stage=name)
        if stage.loss == "bce":
            pairs = cross_entropy_sum(logits, batch.labels, batch.real)
        else:
            pairs = _of_lists(backend, logits, batch, stage.loss, known)
        terms["pairs"] = pairs / size
    if stage.lambda1 > 0:
        kg = model.kg_sum(backend, tables, batch, stage=name)
        if kg is not None:
            terms["kg"] = kg * (stage.lambda1 / 2 / size)
    dense, relations = model.dense_weights(name), model.relations()
    if stage.lambda2 > 0 and dense:
        norm = _SquaredNorm.apply(*dense)  # type: ignore[no-untyped-call]
        terms["l2_weights"] = norm * (stage.lambda2 / 2 / size)
    if stage.lambda3 > 0 and relations:
        norms = [
            fixed_order_sum(x.square().sum(tuple(range(1, x.dim()))) * batch.relation_touched)
            for x in relations
        ]
        terms["l2_rows"] = torch.stack(norms).sum() * (stage.lambda3 / 2 / size)
    return terms


def _of_lists(
    backend: ModuleType,
    logits: Tensor,  # [B]
    batch: Batch,
    loss: str,
    known: list[tuple[Tensor, Tensor]] | None,
) -> Tensor:
    """Loss of a batch's lists, summed; `known` as in `loss_terms`."""
    given = logits if known is None else logits.detach()
    if batch.corrections is not None:
        given = given + batch.corrections
    assert batch.lists is not None  # of a stage with such a loss
    if known is None:
        total: Tensor = backend.list_loss(given, batch.labels, batch.lists, loss)
        return total
    assert batch.real_pairs is None  # or it would be the divisor
    total, dlogits = ops.list_loss_gradient(given, batch.labels, batch.lists, loss)
    known.append((logits, dlogits))
    return total


def backward(terms: Mapping[str, Tensor], known: Sequence[tuple[Tensor, Tensor]] = ()) -> None:
    """Add the gradients of some terms' sum to the leaves of their graph, with those that are known.

    Each of the latter in a node costs less than the nodes of the graph that would find it.
    """
    left = [term for term in terms.values() if term.requires_grad]
    roots: list[Tensor] = [torch.stack(left).sum()] if left else []
    gradients: list[Tensor | None] = [None] * len(roots)
    torch.autograd.backward(
        [*roots, *(node for node, _ in known)], [*gradients, *(grad for _, grad in known)]
    )


class LossWatch:
    """Watch over the loss: stops a stage where it is no number, or has diverged.

    It has diverged when in `DIVERGED_STEPS` successive steps it was above `DIVERGED` times its
    start: the first step's loss or, if larger, ln 2 a pair, which is what knowing nothing costs.
    A single bad step is not enough, because Adam recovers from it. Where batches of pairs and of
    triples take turns, those like the first one are compared.

    Attributes:
        state: JSON-serialisable; another watch goes on from it.
    """

    def __init__(self, stage: StageConfig, name: str, state: Mapping[str, Any] | None = None):
        self._stage, self._name = stage, name
        self.state: dict[str, Any] = {"start": {}, "above_since": 0, **(state or {})}

    def check(self, terms: Mapping[str, float], step: int) -> None:
        """Check the terms of a step, counted from 1.

        Raises:
            TrainingError: names the step, the term and the options to change.
        """
        for term, value in terms.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss term {term} is {value} in step {step} of the {self._name} stage;"
                    f" {self._advice(term)}"
                )
        start: dict[str, float] = self.state["start"]
        if not start:
            start.update(terms)
        if ("pairs" in terms) != ("pairs" in start):
            return
        loss = sum(terms.values())
        started = max(sum(start.values()), math.log(2) if "pairs" in start else 0.0)
        if not loss > DIVERGED * started:
            self.state["above_since"] = 0
            return
        since = self.state["above_since"] = self.state["above_since"] or step
        if step - since + 1 < DIVERGED_STEPS:
            return
        term = max(terms, key=lambda name: terms[name] - start.get(name, 0.0))
        raise TrainingError(
            f"the loss diverges in the {self._name} stage: since step {since} it is above"
            f" {DIVERGED:g} times its start of {started:.4g}, in step {step} it is {loss:.4g},"
            f" of which the term {term} is {terms[term]:.4g}, at first"
            f" {start.get(term, 0.0):.4g}; {self._advice(term)}"
        )

    def _advice(self, term: str) -> str:
        stage, weight = self._stage, _WEIGHT_OF.get(term)
        other = "" if weight is None else f", or a smaller {weight} (now {getattr(stage, weight)}),"
        return f"a smaller lr (now {stage.lr}){other} usually helps"
