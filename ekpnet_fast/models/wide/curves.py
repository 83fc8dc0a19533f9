"""Logistic regression on features that may only raise the score: a sum of rising curves.

The response to a feature is a line through P pieces, between quantiles of its training values,
none of which falls. Beyond the outermost quantiles the outermost pieces go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast.models.wide.bounded import bounded_minimum
from ekpnet_fast.ops.threads import beside

__all__ = ["curves", "fit_curves", "quantiles"]

Made = TypeVar("Made")

AT_ONCE = 1 << 14  # examples that are taken together
SAMPLED = 1 << 16  # examples that the curvature of the loss is taken from, at most
ROUNDS, HALVINGS = 60, 12
MIN_WEIGHT = 1e-6  # a rise of the logit that is none
TOLERANCE = 1e-4  # largest change of a weight after which it has converged


def quantiles(
    features: Tensor,  # [F, N]
    pieces: int,
) -> Tensor:
    """Knots of each feature, the ends of its pieces, [F, P + 1], rising.

    Quantiles that coincide, as those of a feature that is mostly 0, leave a piece without width,
    which has no weight.
    """
    at = torch.linspace(0, features.shape[1] - 1, pieces + 1, dtype=torch.float64).round().long()
    # NumPy sorts by vectors, in a fraction of torch's time.
    return torch.stack([torch.from_numpy(np.sort(x.numpy()))[at] for x in features])


def ramps(
    features: Tensor,  # [F, B]
    knots: Tensor,  # [F, P + 1]
    room: Tensor | None = None,  # [F, P, B]
) -> Tensor:
    """Ramps [F, P, B], the share of each piece that is passed: 0 at its begin, 1 at its end.

    In `room`, if there is one: memory that was not used before takes as long as the ramps.
    """
    begin, width = knots[:, :-1, None], knots.diff(dim=1)[:, :, None]
    passed = torch.sub(features[:, None], begin, out=room)
    passed.div_(torch.where(width > 0, width, torch.inf))
    if knots.shape[1] > 2:
        passed[:, 1:].clamp_(min=0)
        passed[:, :-1].clamp_(max=1)
    return passed


def curves(
    features: Tensor,  # [F, B]
    knots: Tensor,  # [F, P + 1]
    weight: Tensor,  # [F, P]
) -> Tensor:
    """Sum of the responses [B]."""
    last = weight.shape[1] - 1
    slopes = weight.double() / knots.double().diff(dim=1)
    used = weight.nonzero().tolist()
    total = features.new_zeros(features.shape[1])
    room = torch.empty(min(AT_ONCE, len(total)))
    for first in range(0, len(total), AT_ONCE):
        block = total[first : first + AT_ONCE]
        out = room[: len(block)]
        for f, p in used:
            begin, end = float(knots[f, p]), float(knots[f, p + 1])
            torch.clamp(
                features[f, first : first + AT_ONCE],
                begin if p else -math.inf,
                end if p < last else math.inf,
                out=out,
            )
            block.add_(out.sub_(begin), alpha=float(slopes[f, p]))
    return total


def fit_curves(
    features: Tensor,  # [F, N] float32
    knots: Tensor,  # [F, P + 1]
    labels: Tensor,  # [N] 0 or 1
    l2: float = 1e-5,
) -> tuple[NDArray[np.float64], float]:
    """Weights [F, P], each at least 0, and bias of least mean cross-entropy + l2 / 2 |w|^2.

    Newton's method, with the Hessian of every so many examples, whose own optimum is the start:
    each round minimises the quadratic model under the bound (Kim et al. 2010), and is halved until
    it improves the loss. Sums are in float64, in the order of the examples.
    """
    F, N = features.shape
    P = knots.shape[1] - 1
    n = F * P
    w = np.zeros(n + 1)
    bounded = np.arange(n + 1) < n
    penalty = np.concatenate([np.full(n, l2), [0.0]])

    def objective(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, gradient = _terms(features, knots, labels, w)
        return value / N + 0.5 * (penalty * w * w).sum(), gradient / N + penalty * w

    every = -(-N // SAMPLED)
    sample = features[:, ::every].contiguous()
    if every > 1:
        weights, bias = fit_curves(sample, knots, labels[::every].contiguous(), l2)
        w = np.append(weights, bias)
    loss, g = objective(w)
    for _ in range(ROUNDS):
        H = _hessian(sample, knots, w) + np.diag(penalty + 1e-8)
        slope = (torch.from_numpy(H) @ torch.from_numpy(w)).numpy() - g
        step = bounded_minimum(H, slope, w, bounded) - w
        for _ in range(HALVINGS):
            after, gradient = objective(w + step)
            if after <= loss + 1e-12:
                break
            step = step / 2
        else:
            break
        w, loss, g = w + step, after, gradient
        if np.abs(step).max() < TOLERANCE:
            break
    return np.where(w[:n] > MIN_WEIGHT, w[:n], 0.0).reshape(F, P), float(w[n])


def _terms(
    features: Tensor, knots: Tensor, labels: Tensor, w: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Summed cross-entropy and its gradient [F P + 1], bias last."""
    weight, bias = torch.from_numpy(w[:-1]), float(w[-1])

    def of_blocks() -> Callable[[Tensor, Tensor], tuple[float, Tensor]]:
        room = _Room(knots)

        def of_block(x: Tensor, y: Tensor) -> tuple[float, Tensor]:
            design, y = room.design(x)[:-1], y.double()
            z = (weight.float() @ design).double() + bias
            miss = torch.sigmoid(z) - y
            gradient = torch.cat([(design @ miss.float()).double(), miss.sum().view(1)])
            return float((torch.nn.functional.softplus(z) - y * z).sum()), gradient

        return of_block

    value, gradient = 0.0, torch.zeros(len(w), dtype=torch.float64)
    for of_value, of_gradient in _of_blocks(
        of_blocks, torch.split(features, AT_ONCE, dim=1), torch.split(labels, AT_ONCE)
    ):
        value += of_value
        gradient += of_gradient
    return value, gradient.numpy()


class _Room:
    """Room for the ramps of a block of examples, for one thread at a time."""

    def __init__(self, knots: Tensor) -> None:  # [F, P + 1]
        self._knots = knots
        rows = knots.shape[0] * (knots.shape[1] - 1) + 1
        self._design, self._weighed = torch.ones(rows, AT_ONCE), torch.empty(rows, AT_ONCE)

    def design(self, x: Tensor) -> Tensor:
        """Ramps [F P + 1, B] of examples [F, B], and a row of ones."""
        found = self._of(self._design, x.shape[1])
        found[-1] = 1
        F, P = x.shape[0], self._knots.shape[1] - 1
        ramps(x, self._knots, found[:-1].view(F, P, x.shape[1]))
        return found

    def product(self, design: Tensor, weight: Tensor) -> Tensor:
        """Sum over the examples of weight [B] times the products of the rows of their design."""
        weighed = torch.mul(design, weight, out=self._of(self._weighed, len(weight)))
        return weighed @ design.T

    @staticmethod
    def _of(room: Tensor, columns: int) -> Tensor:
        """Rows of so many columns, one after the other."""
        return room.view(-1)[: len(room) * columns].view(len(room), columns)


def _of_blocks(make: Callable[[], Callable[..., Made]], *arguments: Sequence[Tensor]) -> list[Made]:
    """Values of a function for each block of the examples, of which two threads take a half each.

    Args:
        make: makes the function, for one thread.
        arguments: one of each block.
    """
    blocks = list(zip(*arguments, strict=True))
    half = len(blocks) // 2

    def values(some: list[tuple[Tensor, ...]]) -> list[Made]:
        f = make()
        return [f(*block) for block in some]

    others = beside(lambda: values(blocks[half:]))
    return values(blocks[:half]) + others()


def _hessian(sample: Tensor, knots: Tensor, w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean Hessian [F P + 1, F P + 1] of a sample of the examples."""
    weight, bias = torch.from_numpy(w[:-1]).float(), float(w[-1])

    def of_blocks() -> Callable[[Tensor], Tensor]:
        room = _Room(knots)

        def of_block(x: Tensor) -> Tensor:
            design = room.design(x)
            p = torch.sigmoid(weight @ design[:-1] + bias)
            return room.product(design, p * (1 - p)).double()

        return of_block

    hessian = torch.zeros(len(w), len(w), dtype=torch.float64)
    for block in _of_blocks(of_blocks, torch.split(sample, AT_ONCE, dim=1)):
        hessian += block
    return hessian.numpy() / sample.shape[1]
