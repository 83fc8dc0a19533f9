"""Schemas, fakes and gradients of the CUDA kernels, as torch checks them on a real GPU.

`test_opcheck` in the file of each op does so on the CPU.
"""

from __future__ import annotations

import pytest
import torch
from torch import library

from ekpnet_fast import ops
from support.problems import attention_problem, deep_problem, differentiable, triple_problem

assert ops is not None  # loads the library
LIBRARY = torch.ops.ekpnet


def attention():
    problem = attention_problem(pairs=5, groups=4, slots=4, width=3, rows=6, relations=2)
    z, match = LIBRARY.ripple_attention(*problem)
    yield "ripple_attention", differentiable(problem)
    yield "ripple_attention_weights", problem
    yield "ripple_attention_backward", (torch.ones_like(z), torch.ones_like(match), *problem)


def layers():
    *tensors, _ = deep_problem(pairs=4, layers=3, width=3)
    yield "deep_score", (*tensors, 0, False)
    yield "deep_score", (*differentiable(tensors), 0, True)


def triples():
    problem = triple_problem(triples=5, width=3, rows=4, relations=2)
    yield "triple_loss", differentiable(problem)
    yield "triple_loss_backward", (torch.tensor(0.5), *problem)


def lists():
    pairs = torch.randn(7, requires_grad=True), torch.arange(7) % 2.0
    yield "list_loss", (*pairs, torch.tensor([0, 3, 7]), 1)
    yield "list_loss", (*pairs, torch.tensor([0, 3, 7]), 2)


def adam():
    table, rows = torch.randn(6, 2, 4), torch.tensor([4, -1, 2], dtype=torch.int32)
    step, l2 = torch.tensor(3), torch.tensor(0.1, dtype=torch.float64)
    moments = torch.zeros_like(table), torch.zeros_like(table)
    arguments = (rows, torch.randn(3, 2, 4), step, l2, 0.01, 0.9, 0.999, 1e-8, 7)
    yield "row_adam_", (table, *moments, *arguments)


def top():
    seen = torch.tensor([0, 1, 2]), torch.tensor([3, 0], dtype=torch.int32)
    yield "top_items", (torch.randn(2, 9), *seen, 4)


@pytest.mark.cuda
@pytest.mark.parametrize("calls", [attention, layers, triples, lists, adam, top])
def test_opcheck(calls):
    for name, arguments in calls():
        moved = [
            x.detach().cuda().requires_grad_(x.requires_grad) if isinstance(x, torch.Tensor) else x
            for x in arguments
        ]
        library.opcheck(getattr(LIBRARY, name).default, tuple(moved))
