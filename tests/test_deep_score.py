"""The prediction layers against their specification, and what their contract promises."""

from __future__ import annotations

import math

import pytest
import torch
from problems import (
    ISAS,
    THREAD_COUNTS,
    assert_matches_reference,
    assert_same_bits,
    differentiable,
    outputs_and_gradients,
    threads,
    to_float64,
    under_isa,
)

from ekpnet_fast import ops
from ekpnet_fast.ops import reference

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
sizes = pytest.mark.parametrize("size", [pytest.param(s, id=name) for name, s in SIZES.items()])
activations = pytest.mark.parametrize("activation", ops.ACTIVATIONS)
SMALL = dict(pairs=4, layers=3, width=3)


def deep_problem(
    *, pairs=64, layers=2, width=16, activation="tanh", dtype=torch.float32, scale=1.0, seed=0
):
    """Arguments of `ops.deep_score`: inputs N(0, scale), parameters N(0, 1 / sqrt(K))."""
    stream = torch.Generator().manual_seed(seed)

    def reals(deviation, *shape):
        return (torch.randn(shape, generator=stream) * deviation).to(dtype)

    deviation = width**-0.5
    return [
        reals(scale, pairs, width),
        reals(deviation, layers - 1, width, width),
        reals(deviation, layers - 1, width),
        reals(deviation, width),
        reals(deviation, 1),
        activation,
    ]


def native(problem):
    return outputs_and_gradients(ops.deep_score, problem)


def specified(problem):
    return outputs_and_gradients(reference.deep_score, problem)


def assert_close64(one, other):
    for x, y in zip([*one[0], *one[1]], [*other[0], *other[1]], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


# ---- values ------------------------------------------------------------------------------------


@sizes
def test_float32_is_as_accurate_as_eager(size):
    problem = deep_problem(**size)
    assert_matches_reference(native(problem), reference.deep_score, problem)


@sizes
def test_float64_equals_the_specification(size):
    problem = deep_problem(**size, dtype=torch.float64)
    assert_close64(native(problem), specified(problem))


@activations
@pytest.mark.parametrize("layers", [1, 3])
def test_gradcheck(activation, layers):
    problem = deep_problem(
        **{**SMALL, "layers": layers}, activation=activation, dtype=torch.float64
    )
    torch.autograd.gradcheck(ops.deep_score, differentiable(problem))


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
    outputs, gradients = native(problem)
    assert all(x.isfinite().all() for x in [*outputs, *gradients])
    if dtype == torch.float32:
        assert_matches_reference((outputs, gradients), reference.deep_score, problem)
    else:
        assert_close64((outputs, gradients), specified(problem))


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


@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
def test_nan_does_not_vanish(activation):
    problem = deep_problem(activation=activation)
    problem[0][3, 2] = torch.nan
    assert ops.deep_score(*problem)[3].isnan()


# ---- the same bits -----------------------------------------------------------------------------


@activations
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_bits_for_any_thread_count(activation, dtype):
    # More than four tasks of pairs, forward and backward.
    problem = deep_problem(pairs=1100, layers=3, width=17, activation=activation, dtype=dtype)
    results = []
    for count in (*THREAD_COUNTS, THREAD_COUNTS[-1]):
        with threads(count):
            outputs, gradients = native(problem)
            results.append([*outputs, *gradients])
    for other in results[1:]:
        assert_same_bits(results[0], other)
    if dtype == torch.float32:
        result = results[0][:1], results[0][1:]
        assert_matches_reference(result, reference.deep_score, problem)


def isa_results(problems):
    return [native(problem) for problem in problems]


@pytest.mark.parametrize("isa", ISAS)
def test_instruction_sets(isa, tmp_path):
    problems = [deep_problem(**size) for size in SIZES.values()]
    exact = [to_float64(problem) for problem in problems]
    results = under_isa(isa, tmp_path, isa_results, problems + exact)
    for problem, result in zip(problems, results, strict=False):
        assert_matches_reference(result, reference.deep_score, problem)
    for problem, result in zip(exact, results[len(problems) :], strict=True):
        assert_close64(result, specified(problem))


# ---- edges and torch's contracts ---------------------------------------------------------------


@activations
def test_no_pairs(activation):
    (logit,), gradients = native(deep_problem(pairs=0, activation=activation))
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
        torch.library.opcheck(torch.ops.ekpnet.deep_score.default, (*inference, keep))
    dlogit = torch.randn(SMALL["pairs"])
    _, hidden = torch.ops.ekpnet.deep_score(*problem, True)
    torch.library.opcheck(torch.ops.ekpnet.deep_score_backward.default, (dlogit, hidden, *problem))


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
    problem = deep_problem(layers=3)

    def step(z, *rest):
        return torch.sigmoid(ops.deep_score(2 * z, *rest))

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    one, other = outputs_and_gradients(step, problem), outputs_and_gradients(compiled, problem)
    for x, y in zip([*one[0], *one[1]], [*other[0], *other[1]], strict=True):
        torch.testing.assert_close(x, y)
    torch.compiler.reset()


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
