"""Logistic regression whose weights are not negative."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import lsq_linear
from torch import Tensor

__all__ = ["fit_nonnegative"]

AT_ONCE = 1 << 16  # rows in float64 at a time
ROUNDS = 30
ENOUGH = 1e-5  # largest change of a weight after which it has converged


def fit_nonnegative(
    x: Tensor,  # [N, F] float32
    labels: Tensor,  # [N] 0 or 1
    l2: float = 1e-4,
) -> tuple[NDArray[np.float64], float]:
    """Weights [F], each at least 0, and bias of least mean cross-entropy + l2 / 2 |w|^2.

    Newton's method: each round minimises the quadratic model under the bound by least squares on
    the Cholesky factor of the Hessian (Kim et al. 2010, without the line search: the loss is
    convex and close to quadratic for standardised columns; a round that does not improve it is
    halved). Sums are in float64, in the order of the rows.
    """
    N, F = x.shape
    w = np.zeros(F + 1)
    lower = np.concatenate([np.zeros(F), [-np.inf]])
    penalty = np.concatenate([np.full(F, l2), [0.0]])
    value, gradient, hessian = _terms(x, labels, w)
    for _ in range(ROUNDS):
        loss = value / N + 0.5 * (penalty * w * w).sum()
        g = gradient / N + penalty * w
        H = hessian / N + np.diag(penalty + 1e-8)
        factor = np.linalg.cholesky(H).T
        target = factor @ w - np.linalg.solve(factor.T, g)
        step = np.maximum(lsq_linear(factor, target, (lower, np.inf), method="bvls").x, lower) - w
        for _ in range(8):
            tried = w + step
            value, gradient, hessian = _terms(x, labels, tried)
            if value / N + 0.5 * (penalty * tried * tried).sum() <= loss + 1e-12:
                break
            step = step / 2
        w = tried
        if np.abs(step).max() < ENOUGH:
            break
    return w[:F], float(w[F])


def _terms(
    x: Tensor, labels: Tensor, w: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Summed cross-entropy, its gradient [F + 1] and Hessian [F + 1, F + 1], bias last."""
    F = x.shape[1]
    value, weights = 0.0, torch.from_numpy(w)
    gradient = torch.zeros(F + 1, dtype=torch.float64)
    hessian = torch.zeros(F + 1, F + 1, dtype=torch.float64)
    for rows, y in zip(torch.split(x, AT_ONCE), torch.split(labels, AT_ONCE), strict=True):
        design = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1).double()
        z, y = design @ weights, y.double()
        p = torch.sigmoid(z)
        value += float((torch.nn.functional.softplus(z) - y * z).sum())
        gradient += design.T @ (p - y)
        hessian += (design * (p * (1 - p)).unsqueeze(1)).T @ design
    return value, gradient.numpy(), hessian.numpy()
