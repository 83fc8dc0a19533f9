"""The CUDA translation loss: on an emulated GPU, and on a real one if there is one."""

from __future__ import annotations

import pytest
import torch
from gpus import under_other_order
from problems import (
    assert_accurate,
    assert_matches_reference,
    assert_same_bits,
    differentiable,
    outputs_and_gradients,
    to_float64,
)
from test_triple_loss import SIZES, SMALL, sizes, specified, triple_problem

from ekpnet_fast.ops import reference


def triple_loss(gpu):
    return lambda *problem: gpu.call("triple_loss", *problem)


def results(gpu, problem):
    return outputs_and_gradients(triple_loss(gpu), problem)


@sizes
def test_float32_is_as_accurate_as_eager(gpu, size):
    problem = triple_problem(**size)
    assert_matches_reference(results(gpu, problem), reference.triple_loss, problem)


@pytest.mark.parametrize("size", ["usual", "odd", "many"])
def test_bfloat16_is_as_accurate_as_eager(gpu, size):
    problem = triple_problem(**SIZES[size], dtype=torch.bfloat16)
    ours, eager = results(gpu, problem), specified(problem)
    exact = specified(to_float64(problem))
    for i, factor in ((0, 2), (1, 3)):
        assert_accurate(
            [x.float() for x in ours[i]], [x.float() for x in eager[i]], exact[i], factor
        )


@pytest.mark.parametrize("channels", [1, 2])
def test_gradcheck(gpu, channels):
    problem = triple_problem(**SMALL, channels=channels, dtype=torch.float64)
    torch.autograd.gradcheck(triple_loss(gpu), differentiable(problem))


def test_no_triples(gpu):
    problem = triple_problem(triples=0)
    assert_matches_reference(results(gpu, problem), reference.triple_loss, problem)


def test_few_rows_and_one_relation(gpu):
    # Hundreds of references have the same key: its sum crosses many chunks.
    problem = triple_problem(triples=500, rows=3, relations=1)
    assert_matches_reference(results(gpu, problem), reference.triple_loss, problem)


def emulated_results(gpu, problems):
    return [results(gpu, problem) for problem in problems]


def test_threads_do_not_race(emulated, tmp_path):
    problems = [triple_problem(**size) for size in SIZES.values()]
    forwards = emulated_results(emulated, problems)
    backwards = under_other_order(emulated.library, tmp_path, emulated_results, problems)
    for one, other in zip(forwards, backwards, strict=True):
        assert_same_bits([*one[0], *one[1]], [*other[0], *other[1]])
