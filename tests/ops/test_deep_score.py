"""The prediction layers against their specification, and what their contract promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import library

from ekpnet_fast import ops
from ekpnet_fast.ops import reference
from support.contracts import (
    ISAS,
    assert_bfloat16_matches_reference,
    assert_close64,
    assert_compiled_equals_eager,
    assert_matches_reference,
    assert_no_race,
    assert_right_under_isa,
    assert_same_bits_for_any_thread_count,
    outputs_and_gradients,
)
from support.devices import Cpu, on_gpus, sized
from support.problems import deep_problem, differentiable, to_float64

# Beside, at and between the vector widths (4, 8, 16 lanes) and the blocks of 32 pairs.
SIZES = {
    "smallest": dict(pairs=1, layers=1, width=1, activation="tanh"),
    "smallest-hidden": dict(pairs=1, layers=2, width=1, activation="sigmoid"),
    "no-hidden": dict(pairs=64, layers=1, width=48, activation="tanh"),
    "odd-tanh": dict(pairs=3, layers=3, width=5, activation="tanh"),
    "odd-relu": dict(pairs=3, layers=3, width=5, activation="relu"),
    "odd-sigmoid": dict(pairs=33, layers=3, width=5, activation="sigmoid"),
    "usual-tanh": dict(pairs=64, layers=2, width=48, activation="tanh"),
    "usual-relu": dict(pairs=64, layers=2, width=48, activation="relu"),
    "usual-sigmoid": dict(pairs=64, layers=2, width=48, activation="sigmoid"),
    "deep-tanh": dict(pairs=64, layers=6, width=16, activation="tanh"),
    "deep-relu": dict(pairs=64, layers=6, width=16, activation="relu"),
    "deep-sigmoid": dict(pairs=64, layers=6, width=16, activation="sigmoid"),
    "wide": dict(pairs=65, layers=4, width=160, activation="tanh"),
}
LARGER = {
    # Enough for a GPU's larger tiles.
    "larger-tiles": dict(pairs=8200, layers=2, width=5, activation="relu"),
    # More tiles than one block of a GPU takes; weights, and activations, that do not fit into its
    # shared memory.
    "many-pairs": dict(pairs=300, layers=3, width=12, activation="relu"),
    "weights-outside": dict(pairs=40, layers=3, width=131, activation="tanh"),
    "activations-outside": dict(pairs=9, layers=17, width=150, activation="sigmoid"),
    "widest": dict(pairs=5, layers=2, width=520, activation="tanh"),
}
ALL_SIZES = {**SIZES, **LARGER}
activations = pytest.mark.parametrize("activation", ops.ACTIVATIONS)
SMALL = dict(pairs=4, layers=3, width=3)
CPU = Cpu()


def call(device):
    return lambda *problem: device.call("deep_score", *problem)


def results(device, problem):
    return outputs_and_gradients(call(device), problem)


def results_of_all(device, problems):
    return [results(device, problem) for problem in problems]


# ---- values ------------------------------------------------------------------------------------


@sized(ALL_SIZES, sample=["smallest-hidden", "odd-relu", "usual-sigmoid", "larger-tiles"])
def test_float32_is_as_accurate_as_eager(device, size):
    problem = deep_problem(**size)
    assert_matches_reference(results(device, problem), reference.deep_score, problem)


@sized(ALL_SIZES, sample=["smallest"], on_gpus=["smallest", "usual-sigmoid", "weights-outside"])
def test_float64_equals_the_specification(device, size):
    problem = deep_problem(**size, dtype=torch.float64)
    specified = outputs_and_gradients(reference.deep_score, problem)
    assert_close64(results(device, problem), specified)


@on_gpus
@pytest.mark.parametrize("size", ["usual-tanh", "odd-relu", "many-pairs"])
def test_bfloat16_is_as_accurate_as_eager(device, size):
    problem = deep_problem(**ALL_SIZES[size], dtype=torch.bfloat16)
    assert_bfloat16_matches_reference(results(device, problem), reference.deep_score, problem)


@activations
@pytest.mark.parametrize("layers", [1, 3])
def test_gradcheck(device, activation, layers):
    size = {**SMALL, "layers": layers}
    problem = deep_problem(**size, activation=activation, dtype=torch.float64)
    torch.autograd.gradcheck(call(device), differentiable(problem))


@pytest.mark.parametrize("module", [ops, reference])
def test_example_by_hand(module):
    # z W = (3 - 2, 3 + 4) = (1, 7), plus b = (0, -1): (1, 6); their negatives for the second row.
    z = torch.tensor([[3.0, 2.0], [-3.0, -2.0]])
    weights, biases = torch.tensor([[[1.0, 1.0], [-1.0, 2.0]]]), torch.tensor([[0.0, -1.0]])
    w_out, b_out = torch.tensor([2.0, 0.5]), torch.tensor([10.0])
    layers = (z, weights, biases, w_out, b_out)
    relu = torch.tensor([10 + 2 + 3.0, 10.0])
    torch.testing.assert_close(module.deep_score(*layers, "relu"), relu)
    tanh = [10 + 2 * math.tanh(x) + 0.5 * math.tanh(y) for x, y in ((1, 6), (-1, -8))]
    torch.testing.assert_close(module.deep_score(*layers), torch.tensor(tanh))
    no_hidden = (z, weights[:0], biases[:0], w_out, b_out)
    torch.testing.assert_close(module.deep_score(*no_hidden), torch.tensor([17.0, 3.0]))


@activations
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_inputs(activation, dtype):
    problem = deep_problem(layers=3, activation=activation, dtype=dtype)
    problem[0] = problem[0].sign() * 100
    problem[0][0] = 0
    problem[0][1, ::2] = -100
    outputs, gradients = results(CPU, problem)
    assert all(x.isfinite().all() for x in [*outputs, *gradients])
    if dtype == torch.float32:
        assert_matches_reference((outputs, gradients), reference.deep_score, problem)
    else:
        specified = outputs_and_gradients(reference.deep_score, problem)
        assert_close64((outputs, gradients), specified)


@activations
def test_activation_over_its_whole_range(activation):
    # One identity layer and w_out = 1: the logit is the activation itself.
    x = torch.cat([torch.linspace(-100, 100, 4001), torch.linspace(-1, 1, 4001)])
    one, zero = torch.ones(1), torch.zeros(1)
    layers = (x.unsqueeze(1), one.view(1, 1, 1), zero.view(1, 1), one, zero, activation)
    y = ops.deep_score(*layers)
    exact = getattr(torch, activation)(x.double())
    # The polynomials behind the activations are good to a few units in the last place.
    torch.testing.assert_close(y.double(), exact, rtol=4e-7, atol=1e-36)


@activations
def test_nan_does_not_vanish(device, activation):
    problem = deep_problem(activation=activation)
    problem[0][3, 2] = torch.nan
    logit = call(device)(*problem)
    assert logit[3].isnan() and logit.isnan().sum() == 1


# ---- the same bits -----------------------------------------------------------------------------


@activations
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_bits_for_any_thread_count(activation, dtype):
    # More than four tasks of pairs, forward and backward.
    problem = deep_problem(pairs=1100, layers=3, width=17, activation=activation, dtype=dtype)

    def found():
        outputs, gradients = results(CPU, problem)
        return [*outputs, *gradients]

    first = assert_same_bits_for_any_thread_count(found)
    if dtype == torch.float32:
        assert_matches_reference((first[:1], first[1:]), reference.deep_score, problem)


@pytest.mark.parametrize("isa", ISAS)
def test_instruction_sets(isa, tmp_path):
    problems = [deep_problem(**size) for size in SIZES.values()]
    exact = [to_float64(problem) for problem in problems]
    assert_right_under_isa(isa, tmp_path, results_of_all, reference.deep_score, problems, exact)


@pytest.mark.slow
def test_threads_of_a_gpu_do_not_race(emulated, tmp_path):
    problems = [deep_problem(**size) for size in ALL_SIZES.values()]
    assert_no_race(emulated, tmp_path, results_of_all, problems)


# ---- edges and torch's contracts ---------------------------------------------------------------


@activations
def test_no_pairs(device, activation):
    (logit,), gradients = results(device, deep_problem(pairs=0, activation=activation))
    assert logit.shape == (0,)
    assert all((x == 0).all() for x in gradients)


@activations
@pytest.mark.parametrize("layers", [1, 3])
def test_opcheck(activation, layers):
    problem = deep_problem(**{**SMALL, "layers": layers}, activation=activation)
    problem[-1] = ops.ACTIVATIONS.index(activation)
    inputs = tuple(differentiable(problem))
    for keep in (True, False):
        inference = problem if not keep else inputs
        library.opcheck(torch.ops.ekpnet.deep_score.default, (*inference, keep))
    dlogit = torch.randn(SMALL["pairs"])
    _, hidden = torch.ops.ekpnet.deep_score(*problem, True)
    library.opcheck(torch.ops.ekpnet.deep_score_backward.default, (dlogit, hidden, *problem))


def test_kept_only_for_a_gradient():
    *layers, activation = deep_problem(layers=3)
    number = ops.ACTIVATIONS.index(activation)
    logit, hidden = torch.ops.ekpnet.deep_score(*layers, number, True)
    z, weights, biases = layers[:3]
    for i, (W, b) in enumerate(zip(weights, biases, strict=True)):
        z = getattr(torch, activation)(z @ W + b)
        torch.testing.assert_close(hidden[:, i], z)
    without, nothing = torch.ops.ekpnet.deep_score(*layers, number, False)
    assert torch.equal(logit, without)
    assert nothing.numel() == 0


def test_compiled_equals_eager():
    def step(z, *rest):
        return torch.sigmoid(ops.deep_score(2 * z, *rest))

    assert_compiled_equals_eager(step, deep_problem(layers=3))


# ---- what is refused ---------------------------------------------------------------------------

REFUSED = {
    "too wide": (0, lambda x: torch.zeros(2, 1025), r"width of z is 1025, expected 1 to 1024"),
    "no width": (0, lambda x: torch.zeros(2, 0), r"width of z is 0, expected 1 to 1024"),
    "flat": (0, lambda x: x[0], r"z has shape \[3\], expected \[\?, \?\]"),
    "half": (0, lambda x: x.half(), r"z is float16, expected float32 or float64"),
    "mixed": (1, lambda x: x.double(), r"weights is float64, expected float32"),
    "too deep": (1, lambda x: torch.zeros(17, 3, 3), r"hidden layers is 17, expected 0 to 16"),
    "weights": (1, lambda x: x[:, :2].contiguous(), r"weights has shape \[2, 2, 3\]"),
    "biases": (2, lambda x: x[:1], r"biases has shape \[1, 3\], expected \[2, 3\]"),
    "w_out": (3, lambda x: x[:2], r"w_out has shape \[2\], expected \[3\]"),
    "b_out": (4, lambda x: x[0], r"b_out has shape \[\], expected \[1\]"),
    "strided": (1, lambda x: x.mT, r"weights is not contiguous; call .contiguous\(\) first"),
}


@pytest.mark.parametrize(("position", "change", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(position, change, message):
    problem = deep_problem(**SMALL)
    problem[position] = change(problem[position])
    with pytest.raises(RuntimeError, match=message):
        ops.deep_score(*problem)


@on_gpus
def test_shapes_are_checked_on_a_gpu(device):
    problem = deep_problem(**SMALL)
    position, change, message = REFUSED["w_out"]
    problem[position] = change(problem[position])
    with pytest.raises(RuntimeError, match=message):
        call(device)(*problem)


def test_unknown_activation():
    *layers, _ = deep_problem(**SMALL)
    with pytest.raises(RuntimeError, match=r"activation is 'gelu', expected one of .*'tanh'"):
        ops.deep_score(*layers, "gelu")
    for number in (-1, 3):
        with pytest.raises(RuntimeError, match=f"activation is {number}, expected 0 to 2"):
            torch.ops.ekpnet.deep_score(*layers, number, False)


def test_backward_refuses_other_upstream():
    problem = deep_problem(**SMALL)
    problem[-1] = 0
    _, hidden = torch.ops.ekpnet.deep_score(*problem, True)
    with pytest.raises(RuntimeError, match=r"dlogit has shape \[5\], expected \[4\]"):
        torch.ops.ekpnet.deep_score_backward(torch.zeros(5), hidden, *problem)
    with pytest.raises(RuntimeError, match=r"hidden has shape \[3, 2, 3\], expected \[4, 2, 3\]"):
        torch.ops.ekpnet.deep_score_backward(torch.zeros(4), hidden[:3], *problem)
