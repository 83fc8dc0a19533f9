"""Random problems for the model's ops, and the yardsticks that their tests share."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ekpnet_fast
from ekpnet_fast.ops import Propagation
from support.places import ROOT

THREAD_COUNTS = (1, 2, 8)
ISAS = ekpnet_fast.build_info().isas_built


def flat(op):
    """`ops.ripple_attention`, or its like, with its tensors one by one."""
    count = len(Propagation._fields)
    return lambda *arguments: op(Propagation(*arguments[:count]), *arguments[count:])


def valid_slots(problem):
    """Which slots [B, H, M] each pair of a propagation may look at."""
    groups = torch.repeat_interleave(problem.group_indptr.diff())
    return torch.arange(problem.heads.shape[2]) < problem.counts[groups].unsqueeze(-1)


def attention_problem(
    seed=0,
    *,
    pairs=64,
    groups=9,
    hops=2,
    slots=32,
    width=16,
    channels=2,
    rows=40,
    relations=5,
    scale=None,
    dtype=torch.float32,
):
    """A propagation: unequal groups, some without pairs; hops with 0 to M slots; repeated tails.

    Reals are N(0, 1 / sqrt(D)), a trained table's scale, unless `scale` gives the deviation. They
    are drawn in float32, so that a float64 problem holds the same numbers.
    """
    stream = torch.Generator().manual_seed(seed)
    scale = width**-0.5 if scale is None else scale

    def reals(*shape):
        return (torch.randn(shape, generator=stream) * scale).to(dtype)

    def ids(limit, *shape):
        return torch.randint(limit, shape, generator=stream, dtype=torch.int32)

    counts = ids(slots + 1, groups, hops)
    counts.view(-1)[:1] = slots
    counts.view(-1)[3:4] = 0
    # Squaring makes early groups large; the first and the last stay without pairs.
    share = torch.rand(pairs, generator=stream).square()
    inner = range(1, groups - 1) if groups > 2 else range(groups)
    of_pair = (inner.start + share * len(inner)).long() if pairs else share.long()
    group_indptr = torch.zeros(groups + 1, dtype=torch.int64)
    group_indptr[1:] = torch.bincount(of_pair, minlength=groups).cumsum(0)
    tails = ids(rows, groups, hops, slots)
    tails[:, :, 1::3] = tails[:, :, :1]
    return Propagation(
        entity=reals(rows, channels, width),
        relation=reals(relations, channels, width),
        W_e=reals(width, width),
        b_e=reals(width),
        heads=ids(rows, groups, hops, slots),
        relations=ids(relations, groups, hops, slots),
        tails=tails,
        counts=counts,
        group_indptr=group_indptr,
        items=ids(rows, pairs),
    )


def to_float64(inputs):
    """The same problem in float64."""
    found = [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
    return inputs._make(found) if hasattr(inputs, "_make") else found


def differentiable(inputs):
    """Copies of the inputs, of which the real ones ask for gradients."""
    return [
        x.detach().clone().requires_grad_(x.is_floating_point()) if isinstance(x, Tensor) else x
        for x in inputs
    ]


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
    """The native float32 result is at most `factor` times as far from float64 as eager torch's.

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
    """Float32 outputs and gradients `native` hold to twice and three times eager's error."""
    eager = outputs_and_gradients(reference, inputs)
    exact = outputs_and_gradients(reference, to_float64(inputs))
    assert_accurate(native[0], eager[0], exact[0], factor=2)
    assert_accurate(native[1], eager[1], exact[1], factor=3)


def assert_same_bits(one, other):
    """Two lists of tensors hold the same bytes."""
    for i, (x, y) in enumerate(zip(one, other, strict=True)):
        assert torch.equal(x, y), f"tensor {i} differs"


@contextlib.contextmanager
def threads(count):
    """So many threads for torch inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def under_isa(isa, directory, function, argument):
    """function(argument) from a process of its own that uses the instruction set.

    The choice is made once per process. `function` is a test module's own, by name; argument and
    result are what `torch.save` takes.
    """
    info = ekpnet_fast.build_info()
    if isa not in info.isas_supported:
        pytest.skip(f"this processor does not run {isa}")
    given, result = directory / "given.pt", directory / "result.pt"
    torch.save(argument, given)
    package_root = str(Path(ekpnet_fast.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); from support.places import module_of;"
        "import ekpnet_fast; module = module_of(sys.argv[2]);"
        "value = getattr(module, sys.argv[3])(torch.load(sys.argv[4]));"
        "torch.save((ekpnet_fast.build_info().isa, value), sys.argv[5])"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, str(ROOT / "tests")),
            *(function.__code__.co_filename, function.__name__, str(given), str(result)),
        ],
        env={**os.environ, "EKPNET_CPU_ISA": isa, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    used, value = torch.load(result)
    assert used == isa
    return value
