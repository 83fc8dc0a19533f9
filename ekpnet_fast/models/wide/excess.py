"""Clicks that are more than chance, as all regressions on the graph have them for their target.

Item i is clicked by user u n_u c_i / c times by chance, n_u being the clicks of the user, c_i those
of the item and c all of them. What is clicked more than that, over the root of it times c,

    t_ui = (A_ui - n_u c_i / c) (n_u c_i)^(-1/2),

has by chance variance 1 / c for every user and item (Pearson's residual, but for a constant).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.models.wide.matrices import Matrix, inverse, rows_of, sums

__all__ = ["UserBlock", "own_share", "user_blocks"]

BLOCK = 1 << 16  # users in memory at a time


class UserBlock(NamedTuple):
    """Some users.

    Attributes:
        clicks: [B, I] A.
        scale: [B] n^(-1/2); 0 without a click.
        histories: [B, r] p = n^(-1/2) sum_j f_j.
        excess: [B, r] sum_i t_i f_i.
    """

    clicks: Matrix
    scale: NDArray[np.float64]
    histories: Tensor
    excess: Tensor


def user_blocks(
    clicks: Matrix,  # [U, I] A, ones
    counts: NDArray[np.float64],  # [I] c_i
    f: Tensor,  # [I, r]
) -> Iterator[UserBlock]:
    """Users, some at a time, by the vectors of what they clicked."""
    weighed = torch.from_numpy(inverse(counts**0.5)).float().unsqueeze(1) * f
    expected = torch.from_numpy(counts).float() @ weighed / max(float(counts.sum()), 1.0)
    for first in range(0, clicks.shape[0], BLOCK):
        some = clicks[first : first + BLOCK]
        rows, lengths = rows_of(some), sums(some, 1)
        scale = inverse(lengths**0.5)
        by_user = torch.from_numpy(scale).float().unsqueeze(1)
        excess = ops.sparse_product(rows, weighed)
        excess -= torch.from_numpy(lengths).float().unsqueeze(1) * expected
        yield UserBlock(some, scale, by_user * ops.sparse_product(rows, f), by_user * excess)


def own_share(
    clicks: Matrix,  # [U, I] ones
    counts: NDArray[np.float64],  # [I]
) -> Tensor:
    """What the clicks of each item [I, 1] say of themselves: f_i f_i^T so often in sum_u p t^T."""
    by_user = inverse(sums(clicks, 1))
    of_items = inverse(counts**0.5) * np.asarray(clicks.T @ by_user).ravel()
    return torch.from_numpy(of_items).float().unsqueeze(1)
