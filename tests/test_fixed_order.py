"""Arithmetic in fixed pieces: right, with the right gradients, the same for any threads."""

from __future__ import annotations

import pytest
import torch

from ekpnet_fast.ops import deterministic


def results(function, leaves):
    """The value and the gradients of the leaves for a fixed upstream."""
    leaves = [x.detach().requires_grad_() for x in leaves]
    y = function(*leaves)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, upstream)]


def check(function, plain, leaves, threads):
    """Like the plain function in float64, and the same bits at 1, 2 and 8 threads."""
    expected = results(plain, [x.double() for x in leaves])
    found = []
    for count in (1, 2, 8):
        threads(count)
        found.append(results(function, leaves))
    for x, y in zip(found[0], expected, strict=True):
        scale = float(y.abs().max()) if y.numel() else 0.0
        assert x.shape == y.shape
        assert torch.allclose(x.double(), y, rtol=1e-4, atol=1e-5 * scale)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def reals(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("n", [0, 1, 255, 257, 20_001])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(n, bias, threads):
    leaves = [reals(n, 17), reals(17, 9), *([reals(9)] if bias else [])]
    check(deterministic.linear, lambda x, W, b=0.0: x @ W + b, leaves, threads)


def test_linear_of_more_dimensions(threads):
    leaves = [reals(3, 100, 5), reals(5, 4)]
    check(deterministic.linear, torch.matmul, leaves, threads)


@pytest.mark.parametrize(("n", "relations"), [(1, 1), (7, 30), (5000, 3), (5000, 40)])
def test_linear_by_relation(n, relations, threads):
    r = torch.randint(relations, (n,), generator=torch.Generator().manual_seed(n))
    leaves = [reals(n, 8), reals(relations, 8, 6)]
    check(
        lambda x, W: deterministic.linear_by_relation(x, W, r.int()),
        lambda x, W: (x.unsqueeze(1) @ W[r]).squeeze(1),
        leaves,
        threads,
    )


def test_linear_by_relation_of_nothing():
    none = torch.zeros(0, dtype=torch.int32)
    assert deterministic.linear_by_relation(reals(0, 3), reals(4, 3, 2), none).shape == (0, 2)


@pytest.mark.parametrize("shape", [(9, 1), (9, 5), (9, 2, 3)])
def test_gather(shape, threads):
    ids = torch.randint(9, (3000, 7), generator=torch.Generator().manual_seed(1))
    check(lambda x: deterministic.gather(x, ids), lambda x: x[ids], [reals(*shape)], threads)


@pytest.mark.parametrize("n", [0, 1, 20_001])
def test_repeat_row(n, threads):
    check(
        lambda x: deterministic.repeat_row(x, n),
        lambda x: x.expand(n, -1).clone(),
        [reals(5)],
        threads,
    )


@pytest.mark.parametrize("n", [0, 1, 16_385, 100_003])
def test_in_pieces(n, threads):
    check(lambda x: deterministic.in_pieces(torch.sigmoid, x), torch.sigmoid, [reals(n)], threads)
