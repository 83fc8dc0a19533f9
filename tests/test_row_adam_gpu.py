"""The CUDA row optimizer: on an emulated GPU, and on a real one if there is one."""

from __future__ import annotations

import pytest
import torch
from problems import assert_accurate, assert_same_bits
from test_row_adam import ROWS, adam_problem, after_steps, specified, to_float64

from ekpnet_fast.ops import reference

rows_shapes = pytest.mark.parametrize("row", ROWS, ids=str)


def row_adam(gpu):
    def step_op(*tensors, step, lr, beta1, beta2, eps, l2):
        scalars = torch.tensor(step), torch.tensor(l2, dtype=torch.float64)
        gpu.call("row_adam_", *tensors, *scalars, lr, beta1, beta2, eps)

    return step_op


@rows_shapes
@pytest.mark.parametrize("touched", [7, 30])
def test_float32_is_as_accurate_as_eager(gpu, row, touched):
    problem = adam_problem(row, touched=touched)
    result = after_steps(row_adam(gpu), problem)
    assert_accurate(result, specified(problem), specified(to_float64(problem)), factor=2)


@rows_shapes
def test_float64_equals_the_specification(gpu, row):
    problem = adam_problem(row, touched=7, dtype=torch.float64)
    for x, y in zip(after_steps(row_adam(gpu), problem), specified(problem), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


def test_bfloat16_table_with_float32_moments(gpu):
    table, batches = adam_problem((2, 16), steps=1)
    small, grad = table.bfloat16(), batches[0][1].bfloat16()
    m, v = torch.zeros_like(table), torch.zeros_like(table)
    row_adam(gpu)(
        *(small, m, v, batches[0][0], grad), step=1, lr=0.1, beta1=0.9, beta2=0.999, eps=1e-8, l2=0
    )
    exact = after_steps_of(table.bfloat16().float(), batches[0][0], grad.float())
    torch.testing.assert_close(small, exact[0].bfloat16(), rtol=0.01, atol=0.01)
    torch.testing.assert_close([m, v], exact[1:])


def after_steps_of(table, at, grad):
    m, v = torch.zeros_like(table), torch.zeros_like(table)
    reference.row_adam_(table, m, v, at, grad, step=1, lr=0.1)
    return [table, m, v]


def test_skipped_and_no_rows(gpu):
    table, [(at, grad)] = adam_problem(touched=7, steps=1)
    padded = torch.cat([at[:3], torch.tensor([-1, -1], dtype=torch.int32), at[3:]])
    wide = torch.cat([grad[:3], torch.full((2, 2, 17), torch.nan), grad[3:]])
    assert_same_bits(
        after_steps(row_adam(gpu), (table, [(padded, wide)])),
        after_steps(row_adam(gpu), (table, [(at, grad)])),
    )
    nothing = after_steps(row_adam(gpu), (table, [(at[:0], grad[:0])]))
    assert_same_bits(nothing[:1], [table])
