"""Adam on touched rows."""

from __future__ import annotations

import torch
from torch import Tensor, library

from ekpnet_fast.ops.torch_library import ekpnet


def row_adam_(
    table: Tensor,  # [E, ...], changed in place
    m: Tensor,  # like table, first moment, changed in place
    v: Tensor,  # like table, second moment, changed in place
    rows: Tensor,  # [n] int32, distinct, or -1 for a row that is skipped
    grad: Tensor,  # [n, ...], of the moments' dtype
    *,
    step: int | Tensor,  # [] int64 on the table's device
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    l2: float | Tensor = 0.0,  # [] float64 on the table's device
    seed: int = 0,
) -> None:
    """One Adam step (Kingma & Ba 2015) on the touched rows of a table.

    The gradient is grad + l2 * table[rows]. Moments of untouched rows do not decay; bias
    correction uses `step` (from 1), the number of the optimizer's step. As tensors, `step` and `l2`
    may change between replays of a captured graph. On a GPU rows that come twice are not told.

    A bfloat16 table has float32 moments. What a step makes of it is rounded up or down at random
    (Gupta et al. 2015), by draws of (seed, step, place in the table): on average no step is lost,
    however small it is beside the distance between two bfloat16 numbers.
    """
    if not isinstance(step, Tensor):
        # Filled on the device: a copy from the host would make the host wait.
        step = torch.full((), step, dtype=torch.int64, device=table.device)
    if not isinstance(l2, Tensor):
        l2 = torch.full((), l2, dtype=torch.float64, device=table.device)
    ekpnet.row_adam_.default(table, m, v, rows, grad, step, l2, lr, beta1, beta2, eps, seed)


@library.register_fake("ekpnet::row_adam_")
def _(
    table: Tensor,
    m: Tensor,
    v: Tensor,
    rows: Tensor,
    grad: Tensor,
    step: Tensor,
    l2: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    seed: int,
) -> None:
    return None
