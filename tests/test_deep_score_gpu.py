"""The CUDA prediction layers: on an emulated GPU, and on a real one if there is one."""

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
from test_deep_score import SIZES, SMALL, assert_close64, deep_problem, specified

from ekpnet_fast import ops
from ekpnet_fast.ops import reference

# Besides the sizes of the CPU: more tiles than one block takes, weights and activations that do
# not fit into shared memory.
GPU_SIZES = {
    **SIZES,
    "many-pairs": dict(pairs=300, layers=3, width=12, activation="relu"),
    "weights-outside": dict(pairs=40, layers=3, width=131, activation="tanh"),
    "activations-outside": dict(pairs=9, layers=17, width=150, activation="sigmoid"),
    "widest": dict(pairs=5, layers=2, width=520, activation="tanh"),
}
gpu_sizes = pytest.mark.parametrize(
    "size", [pytest.param(size, id=name) for name, size in GPU_SIZES.items()]
)


def deep_score(gpu):
    return lambda *x: gpu.call("deep_score", *x[:5], ops.ACTIVATIONS.index(x[5]))


def results(gpu, problem):
    return outputs_and_gradients(deep_score(gpu), problem)


@gpu_sizes
def test_float32_is_as_accurate_as_eager(gpu, size):
    problem = deep_problem(**size)
    assert_matches_reference(results(gpu, problem), reference.deep_score, problem)


@pytest.mark.parametrize("size", ["usual-tanh", "odd-relu", "many-pairs"])
def test_bfloat16_is_as_accurate_as_eager(gpu, size):
    problem = deep_problem(**GPU_SIZES[size], dtype=torch.bfloat16)
    ours, eager = results(gpu, problem), specified(problem)
    exact = specified(to_float64(problem))
    for i, factor in ((0, 2), (1, 3)):
        assert all(x.dtype == torch.bfloat16 for x in ours[i])
        assert_accurate(
            [x.float() for x in ours[i]], [x.float() for x in eager[i]], exact[i], factor
        )


@pytest.mark.parametrize("size", ["smallest", "usual-sigmoid", "weights-outside"])
def test_float64_equals_the_specification(gpu, size):
    problem = deep_problem(**GPU_SIZES[size], dtype=torch.float64)
    assert_close64(results(gpu, problem), specified(problem))


@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
def test_gradcheck(gpu, activation):
    problem = deep_problem(**SMALL, activation=activation, dtype=torch.float64)
    torch.autograd.gradcheck(deep_score(gpu), differentiable(problem))


def test_no_pairs(gpu):
    problem = deep_problem(pairs=0)
    assert_matches_reference(results(gpu, problem), reference.deep_score, problem)


def test_nan_does_not_vanish(gpu):
    for activation in ops.ACTIVATIONS:
        problem = deep_problem(activation=activation)
        problem[0][3, 2] = torch.nan
        logit = deep_score(gpu)(*problem)
        assert logit[3].isnan() and logit.isnan().sum() == 1


def test_shapes_are_checked(gpu):
    problem = deep_problem(**SMALL)
    problem[3] = problem[3][:2]
    with pytest.raises(RuntimeError, match=r"w_out has shape \[2\], expected \[3\]"):
        deep_score(gpu)(*problem)


def emulated_results(gpu, problems):
    return [results(gpu, problem) for problem in problems]


def test_threads_do_not_race(emulated, tmp_path):
    problems = [deep_problem(**size) for size in GPU_SIZES.values()]
    forwards = emulated_results(emulated, problems)
    backwards = under_other_order(emulated.library, tmp_path, emulated_results, problems)
    for one, other in zip(forwards, backwards, strict=True):
        assert_same_bits([*one[0], *one[1]], [*other[0], *other[1]])
