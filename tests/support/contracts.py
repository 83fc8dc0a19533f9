"""Contracts of every op, and their checks: accuracy, the same bits, torch's rules."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

import ekpnet_fast
from support.devices import under_isa, under_other_order
from support.problems import differentiable, to_float64

THREAD_COUNTS = (1, 2, 8)
ISAS = ekpnet_fast.build_info().isas_built

# ---- accuracy ----------------------------------------------------------------------------------


def outputs_and_gradients(op, inputs):
    """Outputs of op(*inputs), and the gradients of its real inputs for a fixed random upstream."""
    inputs = differentiable(inputs)
    outputs = op(*inputs)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    stream = torch.Generator().manual_seed(1)
    # Drawn in float32 in either case, so that both dtypes get the same upstream.
    upstream = [torch.randn(x.shape, generator=stream).to(x.dtype) for x in outputs]
    leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    gradients = torch.autograd.grad(
        outputs, leaves, upstream, allow_unused=True, materialize_grads=True
    )
    return [x.detach() for x in outputs], list(gradients)


def assert_accurate(native, eager, exact, factor):
    """Check the native float32 result: at most `factor` times eager torch's distance from float64.

    Distance is the largest absolute difference within a tensor. In a tensor of one or few numbers
    eager may round to the exact value by luck, and a multiple of nothing allows nothing: hence the
    floor of eight units in the last place of the largest element, what adding some hundred pairs
    in another order can cost.
    """
    assert len(native) == len(eager) == len(exact)
    for i, (ours, theirs, truth) in enumerate(zip(native, eager, exact, strict=True)):
        assert ours.shape == theirs.shape == truth.shape
        assert ours.dtype == theirs.dtype == torch.float32 and truth.dtype == torch.float64
        if truth.numel() == 0:
            continue
        floor = 8 * torch.finfo(torch.float32).eps * truth.abs().max().item()
        allowed = factor * (theirs - truth).abs().max().item() + floor
        error = (ours - truth).abs().max().item()
        assert error <= allowed, f"tensor {i}: error {error:.3g}, allowed {allowed:.3g}"


def assert_matches_reference(native, reference, inputs):
    """Check float32 outputs and gradients `native` against twice and three times eager's error."""
    eager = outputs_and_gradients(reference, inputs)
    exact = outputs_and_gradients(reference, to_float64(inputs))
    assert_accurate(native[0], eager[0], exact[0], factor=2)
    assert_accurate(native[1], eager[1], exact[1], factor=3)


def assert_bfloat16_matches_reference(native, reference, inputs):
    """Check as `assert_matches_reference` bfloat16 outputs and gradients."""
    eager = outputs_and_gradients(reference, inputs)
    exact = outputs_and_gradients(reference, to_float64(inputs))
    for ours, theirs, truth, factor in zip(native, eager, exact, (2, 3), strict=True):
        assert all(x.dtype == torch.bfloat16 for x in ours)
        assert_accurate([x.float() for x in ours], [x.float() for x in theirs], truth, factor)


def assert_close64(one, other):
    """Check that outputs and gradients in float64 are the same but for rounding."""
    for x, y in zip([*one[0], *one[1]], [*other[0], *other[1]], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


# ---- the same bits -----------------------------------------------------------------------------


def assert_same_bits(one, other):
    """Check that two lists of tensors hold the same bytes."""
    for i, (x, y) in enumerate(zip(one, other, strict=True)):
        assert torch.equal(x, y), f"tensor {i} differs"


@contextlib.contextmanager
def threads(count):
    """Set torch's number of threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_same_bits_for_any_thread_count(results):
    """Check that results(), a list of tensors, is the same for any threads, and the second time."""
    first, *others = [
        _with_threads(count, results) for count in (*THREAD_COUNTS, THREAD_COUNTS[-1])
    ]
    for other in others:
        assert_same_bits(first, other)
    return first


def _with_threads(count, results):
    with threads(count):
        return results()


def assert_no_race(emulated, directory, results, problems):
    """Check for a race: results(device, problems) are the same bits in another order of threads."""
    found = results(emulated, problems)
    others = under_other_order(emulated.path, directory, results, problems)
    for one, other in zip(found, others, strict=True):
        assert_same_bits([*one[0], *one[1]], [*other[0], *other[1]])


def assert_right_under_isa(isa, directory, results, reference, problems, exact):
    """Check results(device, problems) of float32 and float64 problems under an instruction set."""
    found = under_isa(isa, directory, results, [*problems, *exact])
    for problem, result in zip(problems, found, strict=False):
        assert_matches_reference(result, reference, problem)
    for problem, result in zip(exact, found[len(problems) :], strict=True):
        assert_close64(result, outputs_and_gradients(reference, problem))


# ---- torch's contracts -------------------------------------------------------------------------


def assert_compiled_equals_eager(step, inputs):
    """Check that step(*inputs) and its gradients are the same where torch has compiled it."""
    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    one, other = outputs_and_gradients(step, inputs), outputs_and_gradients(compiled, inputs)
    for x, y in zip([*one[0], *one[1]], [*other[0], *other[1]], strict=True):
        torch.testing.assert_close(x, y)
    torch.compiler.reset()
