"""Torch's defaults while this package computes, whatever the caller has set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["plain_defaults"]


@contextmanager
def plain_defaults() -> Iterator[None]:
    """Context in which new tensors are float32 on the CPU unless they say otherwise.

    Costs nothing where the caller has left it so. The default dtype is the process's, the default
    device the calling thread's.
    """
    with ExitStack() as stack:
        before = torch.get_default_dtype()
        if before != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, before)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
