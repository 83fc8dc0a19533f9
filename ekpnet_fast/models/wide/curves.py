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
) -> Tensor:
    """Ramps [F, P, B], the share of each piece that is passed: 0 at its begin, 1 at its end."""
    begin, width = knots[:, :-1, None], knots.diff(dim=1)[:, :, None]
    passed = (features[:, None] - begin) / torch.where(width > 0, width, torch.inf)
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
    each round minimises the quadratic model under the bound by least squares on its Cholesky factor
    (Kim et al. 2010), and is halved until it improves the loss. Sums are in float64, in the order
    of the examples.
    """
    from scipy.optimize import lsq_linear  # here, because only fitting needs it

    F, N = features.shape
    P = knots.shape[1] - 1
    n = F * P
    w = np.zeros(n + 1)
    lower = np.concatenate([np.zeros(n), [-np.inf]])
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
        lower_factor = torch.linalg.cholesky(torch.from_numpy(H))
        found = torch.linalg.solve_triangular(
            lower_factor, torch.from_numpy(g).unsqueeze(1), upper=False
        )
        factor = lower_factor.numpy().T
        target = factor @ w - found.squeeze(1).numpy()
        step = np.maximum(lsq_linear(factor, target, (lower, np.inf), method="bvls").x, lower) - w
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
    # Least squares leaves a rest where there should be nothing, on pieces without width too.
    return np.where(w[:n] > MIN_WEIGHT, w[:n], 0.0).reshape(F, P), float(w[n])


def _terms(
    features: Tensor, knots: Tensor, labels: Tensor, w: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Summed cross-entropy and its gradient [F P + 1], bias last."""
    weight, bias = torch.from_numpy(w[:-1]), float(w[-1])

    def of_block(x: Tensor, y: Tensor) -> tuple[float, Tensor]:
        design, y = ramps(x, knots).flatten(0, 1), y.double()
        z = (weight.float() @ design).double() + bias
        miss = torch.sigmoid(z) - y
        gradient = torch.cat([(design @ miss.float()).double(), miss.sum().view(1)])
        return float((torch.nn.functional.softplus(z) - y * z).sum()), gradient

    value, gradient = 0.0, torch.zeros(len(w), dtype=torch.float64)
    for of_value, of_gradient in _of_blocks(
        of_block, torch.split(features, AT_ONCE, dim=1), torch.split(labels, AT_ONCE)
    ):
        value += of_value
        gradient += of_gradient
    return value, gradient.numpy()


def _of_blocks(f: Callable[..., Made], *arguments: Sequence[Tensor]) -> list[Made]:
    """Values of f for each block of the examples, of which two threads take a half each."""
    blocks = list(zip(*arguments, strict=True))
    half = len(blocks) // 2
    others = beside(lambda: [f(*block) for block in blocks[half:]])
    return [f(*block) for block in blocks[:half]] + others()


def _hessian(sample: Tensor, knots: Tensor, w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean Hessian [F P + 1, F P + 1] of a sample of the examples."""
    weight, bias = torch.from_numpy(w[:-1]).float(), float(w[-1])

    def of_block(x: Tensor) -> Tensor:
        design = torch.cat([ramps(x, knots).flatten(0, 1), x.new_ones(1, x.shape[1])])
        p = torch.sigmoid(weight @ design[:-1] + bias)
        return ((design * (p * (1 - p))) @ design.T).double()

    hessian = torch.zeros(len(w), len(w), dtype=torch.float64)
    for block in _of_blocks(of_block, torch.split(sample, AT_ONCE, dim=1)):
        hessian += block
    return hessian.numpy() / sample.shape[1]
