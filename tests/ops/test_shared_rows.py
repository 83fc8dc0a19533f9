"""Rows that processes share, against plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import library

from ekpnet_fast import ops


def ints(*x):
    return torch.tensor(x, dtype=torch.int32)


# ---- place_rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[40], [30, 0, 7], [0, 0]])
@pytest.mark.parametrize(
    ("count", "shards", "processes"), [(50, 6, 3), (50, 6, 1), (50, 6, 6), (64, 1, 1), (41, 64, 64)]
)
def test_places(count, shards, processes, lengths):
    """Row i is at p = i factor mod count; a process has p from ceil(count s / shards) on."""
    draw = torch.Generator().manual_seed(count + shards)
    parts = [torch.randperm(count, generator=draw)[:n].int() for n in lengths]
    ids, factor, each = torch.cat(parts), 31, shards // processes
    found = ops.place_rows(
        ids,
        torch.tensor(lengths),
        count=count,
        factor=factor,
        shards=shards,
        processes=processes,
    )
    firsts = [-(-count * each * process // shards) for process in range(processes + 1)]
    by_hand = []
    for process in range(processes):
        for k, part in enumerate(parts):
            held = [
                i
                for i, row in enumerate(part.tolist())
                if firsts[process] <= row * factor % count < firsts[process + 1]
            ]
            assert int(found.counts[process, k]) == len(held)
            by_hand += [
                (sum(lengths[:k]) + i, int(part[i]) * factor % count - firsts[process])
                for i in held
            ]
    assert list(zip(found.order.tolist(), found.rows.tolist(), strict=True)) == by_hand
    assert torch.equal(found.order[found.places.long()].long(), torch.arange(len(ids)))


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, ints(0, 5), "ids holds id 5 at position 1, expected 0 <= id < 5"),
        (1, torch.tensor([1]), "lengths sum up to 1, expected 2"),
        (1, torch.tensor([3]), "a length is 3, expected 0 to 2"),
        (1, torch.tensor([], dtype=torch.int64), "the size of lengths is 0, expected 1 to 64"),
        (3, 0, "factor is 0, expected 1"),
        (4, 3, "shards is 3, expected a multiple of 2"),
        (5, 5, "processes is 5, expected 1 to 4"),
    ],
)
def test_places_refused(position, value, message):
    call = [ints(0, 4), torch.tensor([2]), 5, 3, 4, 2]
    call[position] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.ekpnet.place_rows(*call)


# ---- take_rows_ ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (2, 16)])
def test_rows_are_taken(shape):
    table = torch.randn(40, *shape, generator=torch.Generator().manual_seed(0))
    rows = ints(39, *[0] * 20, 7)
    expected = table.index_select(0, rows)
    for out in (torch.zeros(22, *shape), torch.zeros(expected.numel())):
        ops.take_rows_(out, table, rows)
        assert torch.equal(out.view_as(expected), expected)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.ones(5), "out has 5 elements, expected 4, of 2 rows"),
        (0, torch.ones(4).double(), "out is float64, expected float32"),
        (2, ints(0, 3), "rows holds id 3 at position 1, expected 0 <= id < 3"),
    ],
)
def test_taking_refused(position, value, message):
    call = [torch.ones(4), torch.ones(3, 2), ints(0, 2)]
    call[position] = value
    with pytest.raises(RuntimeError, match=message):
        ops.take_rows_(*call)


# ---- add_rows_ -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (2, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_added_in_their_order(shape, dtype):
    draw = torch.Generator().manual_seed(0)
    total, rows = (torch.randn(n, *shape, generator=draw, dtype=dtype) for n in (5, 9))
    positions, picked = ints(4, 0, 4, 2, 4, 0), ints(8, 1, 1, 0, 5, 3)
    expected = total.clone()
    for position, pick in zip(positions.tolist(), picked.tolist(), strict=True):
        expected[position] += rows[pick]
    whole = total.clone()
    ops.add_rows_(total, positions, rows, picked)
    assert torch.equal(total, expected)
    ops.add_rows_(whole, positions, rows.index_select(0, picked))
    assert torch.equal(whole, expected)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (1, ints(0, 3), "positions holds id 3 at position 1, expected 0 <= id < 3"),
        (2, torch.ones(4, 3), "rows has shape .4, 3., expected rows of 2 elements"),
        (2, torch.ones(4, 2).double(), "rows is float64, expected float32"),
        (3, ints(0, 4), "picked holds id 4 at position 1, expected 0 <= id < 4"),
        (3, None, "rows has shape .4, 2., expected 2 rows, as positions"),
    ],
)
def test_rows_refused(position, value, message):
    call = [torch.ones(3, 2), ints(0, 2), torch.ones(4, 2), ints(0, 1)]
    call[position] = value
    with pytest.raises(RuntimeError, match=message):
        ops.add_rows_(*call)


# ---- square_norms --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (2, 8), (2, 21)])
def test_square_norms(shape):
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(40, *shape, generator=draw)
    rows = torch.randperm(40, generator=draw)[:25].int()
    starts = torch.tensor([0, 11, 11, 30])
    norms = table.double().square().flatten(1).sum(1) if shape else table.double().square()
    ends = [*starts.tolist()[1:], 40]
    expected = [
        float(sum(norms[row] for row in rows.tolist() if begin <= row < end))
        for begin, end in zip(starts.tolist(), ends, strict=True)
    ]
    found = ops.square_norms(table, rows, starts)
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    padded = torch.empty(40, 2, *shape)[:, 0].copy_(table)
    assert torch.equal(ops.square_norms(padded, rows, starts), found)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (1, ints(0, 3), "rows holds id 3 at position 1, expected 0 <= id < 3"),
        (2, torch.tensor([1]), "starts is empty or does not start with 0"),
        (2, torch.tensor([0, 2, 1]), "starts falls from 2 to 1 at position 2"),
    ],
)
def test_square_norms_refused(position, value, message):
    call = [torch.ones(3, 2), ints(0, 2), torch.tensor([0, 1])]
    call[position] = value
    with pytest.raises(RuntimeError, match=message):
        ops.square_norms(*call)


# ---- schemas -------------------------------------------------------------------------------------


def test_opcheck():
    calls = {
        "place_rows": (ints(0, 4, 2), torch.tensor([2, 1]), 5, 3, 4, 2),
        "take_rows_": (torch.ones(4), torch.ones(3, 2), ints(0, 2)),
        "add_rows_": (torch.ones(3, 2), ints(0, 2), torch.ones(4, 2), ints(0, 1)),
        "square_norms": (torch.ones(3, 2), ints(0, 2), torch.tensor([0, 1])),
    }
    for name, call in calls.items():
        library.opcheck(getattr(torch.ops.ekpnet, name).default, call)
