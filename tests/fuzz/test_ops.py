"""Every op with hostile arguments: an error, or an answer that is the same once more."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import strategies as st

from ekpnet_fast import ops
from support.fuzzing import fuzzed, tell_seed

LARGE = (-(2**63), -(2**31), -1, 0, 1, 2, 5, 2**31, 2**32 + 1, 2**62, 2**63 - 1)
REALS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1.0, 2.0, 1e38, 1e308)
G, H, M, D, B, N, R, K = 2, 2, 3, 4, 5, 6, 2, 4


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def graph() -> tuple[torch.Tensor, ...]:
    return torch.tensor([0, 2, 3, 5]), torch.zeros(5, dtype=torch.uint8), ints(1, 2, 0, 0, 1)


def propagation() -> tuple[torch.Tensor, ...]:
    slots = torch.arange(G * H * M, dtype=torch.int32).view(G, H, M) % N
    relations = slots % R
    counts = torch.full((G, H), M - 1, dtype=torch.int32)
    reals = (torch.ones(N, 2, D), torch.ones(R, 2, D), torch.ones(D, D), torch.ones(D))
    return (
        *reals,
        slots,
        relations,
        slots.clone(),
        counts,
        torch.tensor([0, 2, B]),
        ints(0, 1, 2, 3, 5),
    )


def layers() -> tuple[torch.Tensor, ...]:
    width = (H + 1) * D
    sizes = ((1, width, width), (1, width), (width,), (1,))
    return tuple(torch.full(size, 0.1) for size in sizes)


def triples() -> tuple[torch.Tensor, ...]:
    labels = torch.tensor([1, 0, 1, 0], dtype=torch.int8)
    return ints(0, 1, 2, 3), ints(0, 1, 0, 1), ints(5, 4, 3, 2), labels


def sparse_rows(*values: float) -> tuple[torch.Tensor, ...]:
    """Three rows of a square matrix, in the diagonal and beside it; symmetric by these values."""
    return torch.tensor([0, 2, 5, 7]), ints(0, 1, 0, 1, 2, 1, 2), torch.tensor(values)


def wide() -> tuple[list, list]:
    """Arguments of the wide part before curves: two histories, neighbours, vectors and a square."""
    nothing, nobody = torch.zeros(0, dtype=torch.int64), ints()
    indptr, items, values = sparse_rows(*[0.5] * 7)
    vectors, none = torch.full((3, 2), 0.5), torch.zeros(0)
    histories = [torch.tensor([0, 2, 3]), ints(0, 2, 1)]
    sources = [
        [indptr, nothing, nothing],
        [items, nobody, nobody],
        [values, vectors, torch.eye(3)],
        [none, vectors.T.contiguous(), none],
        torch.tensor([[0, 0, 0], [1, 0, 1], [1, 0, 2], [2, 0, 0]]),
        torch.full((4, 3), 0.25),
        torch.tensor([[0, 0], [0, 1], [1, 2], [2, 3], [3, 2]]),
        torch.full((5, 2), 0.5),
        -1,
        none,
    ]
    return [*histories, *sources], [torch.tensor([0, 2, 3]), ints(1, 0, 2)]


def calls() -> dict[str, list]:
    """A call of each op that is answered."""
    p, z = propagation(), torch.ones(B, (H + 1) * D)
    hidden = torch.ones(B, 1, (H + 1) * D)
    sets = (p[4], p[5], p[6], p[7])
    batch = (torch.arange(N, dtype=torch.int32), *p[4:], torch.tensor([1.0, 0, 1, 0, 1]), None)
    folds = torch.full((G, H, M), 3), torch.tensor([0, 1, 0, 1, 1], dtype=torch.int32)
    table = torch.ones(N, 2, D)
    row_state = [table.clone() for _ in range(3)]
    gram = sparse_rows(2.0, 1, 1, 2, 1, 1, 2)
    histories, pairs = wide()
    knots = torch.arange(3.0).repeat(5, 1)
    curves = [knots, torch.full((5, 2), 0.5), torch.zeros(3)]
    return {
        "build_csr": [ints(0, 1, 2), ints(0, 1, 0), ints(2, 1, 0), 3, 2],
        "sample_ripple_sets": [
            *graph(), torch.tensor([0, 1, 3]), ints(0, 1, 2), ints(4, 9), 2, 3, 0, 0, False
        ],
        "sample_neighbors": [*graph(), ints(0, 2), 2, 0, 0, True],
        "sample_triples": [*graph(), 4, 0, 0, 0],
        "group_pairs": [torch.tensor([0, 2, 7]), 3, 0, 0],
        "localize_batch": [*sets, ints(0, 1, 1), ints(3, 4), ints(5)],
        "ripple_attention": [*p, False],
        "ripple_attention_backward": [z, torch.ones(B), *p, True],
        "ripple_attention_weights": [*p, False],
        "deep_score": [z, *layers(), 0, True],
        "deep_score_backward": [torch.ones(B), hidden, z, *layers(), 1],
        "triple_loss": [p[0], p[1], *triples()],
        "triple_loss_backward": [torch.tensor(1.0), p[0], p[1], *triples()],
        "list_loss": [torch.randn(B), torch.arange(B) % 2.0, torch.tensor([0, 2, B]), 2],
        "ekpnet_gradients": [
            table, *p[1:4], *layers(), *batch, *triples(), *folds, *[None] * 6,
            0, 0, 0.1, 0.1, 0.1
        ],
        "row_adam_": [
            *row_state, ints(0, 3, -1), torch.ones(3, 2, D), torch.tensor(1),
            torch.tensor(0.1, dtype=torch.float64), 0.1, 0.9, 0.999, 1e-8, 7,
        ],
        "strongest_products": [*gram, *gram, 3, 2, ints(9, 9, 9)],
        "sparse_product": [*gram, torch.ones(3, 2)],
        "local_ridge": [*gram, torch.tensor([0, 1, 3, 4]), ints(1, 0, 2, 1), 0.5],
        "wide_features": [*histories, None, None, None, *pairs],
        "wide_logits": [*histories, None, None, None, *curves, *pairs],
        "place_rows": [ints(2, 0, 1, 2), torch.tensor([3, 1]), 3, 2, 4, 2],
        "take_rows_": [torch.ones(2 * D), torch.ones(3, D), ints(2, 0)],
        "add_rows_": [torch.ones(3, 2, D), ints(2, 0), torch.ones(4, 2, D), ints(3, 1)],
        "square_norms": [torch.ones(4, D), ints(3, 0, 1), torch.tensor([0, 2])],
        "top_items": [torch.rand(2, 5), torch.tensor([0, 1, 3]), ints(0, 1, 4), 2],
    }  # fmt: skip


NAMES = tuple(calls())


def hostile(draw: st.DrawFn, old: object) -> object:
    """A value in place of one that would be answered."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return draw(st.sampled_from(LARGE))
    if isinstance(old, float):
        return draw(st.sampled_from(REALS))
    if isinstance(old, list):
        if not old:
            return [torch.ones(B)]
        at = draw(st.integers(0, len(old) - 1))
        if draw(st.integers(0, 4)) == 0:
            return draw(st.sampled_from((old[:at] + old[at + 1 :], [*old, old[at]])))
        return [*old[:at], hostile(draw, old[at]), *old[at + 1 :]]
    if old is None:
        return draw(st.sampled_from((torch.ones(B), torch.ones(1), ints(0))))
    assert isinstance(old, torch.Tensor)
    kind = draw(st.sampled_from(("value", "value", "value", "type", "shape", "stride", "none")))
    if kind == "value" and old.numel():
        new = old.clone()
        at = draw(st.integers(0, old.numel() - 1))
        if old.dtype == torch.bool:
            new.view(-1)[at] ^= True
        elif old.is_floating_point() or old.is_complex():
            # As a tensor: one of float32 takes a number beyond it only so, and as inf.
            new.view(-1)[at] = torch.tensor(draw(st.sampled_from(REALS)), dtype=torch.float64)
        else:
            info = torch.iinfo(old.dtype)
            new.view(-1)[at] = min(max(draw(st.sampled_from(LARGE)), info.min), info.max)
        return new
    if kind == "type":
        dtypes = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.float16)
        return old.to(draw(st.sampled_from((*dtypes, torch.float64, torch.bool, torch.complex64))))
    if kind == "stride":
        return torch.stack([old, old], -1)[..., 0]
    if kind == "none":
        return draw(st.sampled_from((None, [], 0, "x", torch.empty(0), old.to("meta"))))
    return draw(
        st.sampled_from((old[:0], old[:1], torch.cat([old, old]), old.unsqueeze(0), old.flatten()))
        if old.dim()
        else st.sampled_from((old.view(1), old.expand(3)))
    )


@st.composite
def hostile_calls(draw: st.DrawFn) -> tuple[str, list]:
    name = draw(st.sampled_from(NAMES))
    arguments = calls()[name]
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(arguments) - 1))
        if isinstance(arguments[at], torch.Tensor | int | float | list) or arguments[at] is None:
            arguments[at] = hostile(draw, arguments[at])
    return name, arguments


def copied(arguments: list) -> list:
    return [x.clone() if isinstance(x, torch.Tensor) else x for x in arguments]


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    return a is None and b is None


@pytest.mark.parametrize("name", NAMES)
def test_the_calls_are_answered(name):
    getattr(torch.ops.ekpnet, name)(*calls()[name])


@fuzzed(call=hostile_calls())
def test_ops(call):
    tell_seed()
    name, arguments = call
    op = getattr(torch.ops.ekpnet, name)
    if any(_meta(x) for x in arguments):
        arguments = [_to_meta(x) for x in arguments]
    before = copied(arguments)
    try:
        found = op(*arguments)
    except (RuntimeError, ValueError, TypeError, IndexError, OverflowError, NotImplementedError):
        if name != "row_adam_":
            assert all(same(x, y) for x, y in zip(arguments, before, strict=True) if _real(x))
        return
    if name != "row_adam_" and not any(_meta(x) for x in arguments):
        assert same(found, op(*before))


def _meta(value: object) -> bool:
    if isinstance(value, list):
        return any(map(_meta, value))
    return isinstance(value, torch.Tensor) and value.device.type == "meta"


def _to_meta(value: object) -> object:
    if isinstance(value, list):
        return list(map(_to_meta, value))
    return value.to("meta") if isinstance(value, torch.Tensor) else value


def _real(value: object) -> bool:
    return isinstance(value, torch.Tensor) and not _meta(value)


@fuzzed(
    values=st.lists(
        st.sampled_from((-(2**40), -1, 0, 1, 2, 3, 5, 7, 2**40)), min_size=1, max_size=6
    )
)
def test_graphs(values):
    """A graph is answered from only if its row pointers rise from 0 to the number of triples."""
    tell_seed()
    indptr, tails = torch.tensor(values), ints(0, 0, 0)
    sound = values[0] == 0 and values[-1] == 3 and values == sorted(values) and len(values) > 1
    draw = (indptr, torch.zeros(3, dtype=torch.uint8), tails)
    if sound:
        ops.sample_triples(*draw, 2, seed=0, step=0)
        return
    with pytest.raises(RuntimeError, match=r"indptr|tails|entities"):
        ops.sample_triples(*draw, 2, seed=0, step=0)
