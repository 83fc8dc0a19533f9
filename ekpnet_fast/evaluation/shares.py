"""Shares of the users to score, one for each of the processes that evaluate together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast.native.processes import Processes

__all__ = ["all_shares", "share_of"]


def share_of(indptr: NDArray[np.int64], rank: int, size: int) -> slice:
    """Users of a process: those next to each other that have about 1 / W of all pairs.

    A user is in one share, and a share may be empty.

    Args:
        indptr: [n + 1] pairs of each user.
        rank: number of the process.
        size: W.
    """
    pairs = int(indptr[-1] - indptr[0])
    ends = [int(indptr[0]) + pairs * k // size for k in (rank, rank + 1)]
    first, last = np.searchsorted(indptr, ends).tolist()
    return slice(first, len(indptr) - 1 if rank == size - 1 else last)


def all_shares(found: Tensor, rows: Sequence[int], together: Processes) -> Tensor:
    """What all processes found, [sum of rows, ...], everywhere and in the order of the users.

    A metric is then computed from what one process would have found, and by the same sums: neither
    is a mean of the shares' means taken, nor is anything counted twice or padded.

    Args:
        found: [rows[rank], ...] by this process.
        rows: [W] found by each.
        together: the processes.
    """
    if together.size == 1:
        return found
    return torch.cat(list(together.each(found, rows)))
