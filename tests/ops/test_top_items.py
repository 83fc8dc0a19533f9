"""Top lists against a sort of all items."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import library

from ekpnet_fast import ops
from support.devices import Cpu, on_gpus
from support.graphs import csr

KINDS = ["distinct", "normal", "ties", "equal", "rising", "falling", "special"]

CPU = Cpu()


def top(scores, seen=None, k=1, device=CPU):
    scores = torch.as_tensor(scores, dtype=torch.float32)
    items = device.call("top_items", scores, *csr(seen or [[] for _ in scores]), k)
    assert items.dtype == torch.int32
    assert items.shape == (len(scores), k)
    return items


def sorted_items(scores, seen, k):
    """By falling score with NaN last, then by rising id; the seen ones dropped, -1 to fill up."""
    lists = []
    for row, left_out in zip(np.asarray(scores), seen, strict=True):
        order = np.lexsort((np.arange(len(row)), -row, np.isnan(row)))
        items = [i for i in order.tolist() if i not in left_out]
        lists.append((items + [-1] * k)[:k])
    return lists


def random_case(seed, num_users, num_items, kind):
    stream = np.random.default_rng(seed)
    shape = (num_users, num_items)
    scores = {
        "distinct": lambda: stream.permuted(np.tile(np.arange(num_items), (num_users, 1)), axis=1),
        "normal": lambda: stream.standard_normal(shape),
        "ties": lambda: stream.integers(-1, 2, shape),
        "equal": lambda: np.zeros(shape),
        "rising": lambda: np.tile(np.arange(num_items), (num_users, 1)),
        "falling": lambda: np.tile(-np.arange(num_items), (num_users, 1)),
        "special": lambda: stream.choice(
            [math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38], shape
        ),
    }[kind]()
    # From nothing to everything, some ids twice.
    sizes = stream.integers(0, num_items + 1, num_users)
    seen = [sorted(stream.integers(0, num_items, size).tolist()) for size in sizes]
    seen[0] = list(range(num_items))
    return scores.astype(np.float32), seen


@pytest.mark.parametrize("k", [1, 2, 10, 33, 200])
@pytest.mark.parametrize("num_items", [1, 2, 17, 150])
@pytest.mark.parametrize("kind", KINDS)
def test_against_a_sort(device, kind, num_items, k):
    scores, seen = random_case(k + num_items, 12 if device.name == "cpu" else 4, num_items, kind)
    assert top(scores, seen, k, device).tolist() == sorted_items(scores, seen, k)
    nothing = [[]] * len(seen)
    assert top(scores, nothing, k, device).tolist() == sorted_items(scores, nothing, k)


@pytest.mark.parametrize("kind", ["normal", "ties", "special"])
def test_more_items_than_one_block_takes(device, kind):
    """Blocks of a GPU share them: 2^17 each, the last of them fewer than a list is long."""
    num_items, k = 2 * 131_072 + 5, 12
    scores, _ = random_case(0, 2, num_items, kind)
    order = [np.lexsort((np.arange(num_items), -row, np.isnan(row))) for row in scores]
    seen = [sorted(order[0][[0, 2, 5]].tolist()), list(range(num_items - 3))]
    expected = [
        ([i for i in best.tolist() if i not in left_out] + [-1] * k)[:k]
        for best, left_out in zip(order, map(set, seen), strict=True)
    ]
    assert top(scores, seen, k, device).tolist() == expected


@pytest.mark.parametrize(
    ("scores", "seen", "expected"),
    [
        ([1, 3, 2], [], [1, 2, 0]),
        ([2, 2, 2], [], [0, 1, 2]),
        ([0.0, -0.0, 0.0], [], [0, 1, 2]),
        ([-0.0, 0.0, -0.0], [], [0, 1, 2]),
        ([math.nan, 1, -math.inf], [], [1, 2, 0]),
        ([math.nan, -math.nan, math.nan], [], [0, 1, 2]),
        ([1, 3, 2], [1], [2, 0, -1]),
        ([1, 3, 2], [1, 1, 1, 2, 2], [0, -1, -1]),
        ([1, 3, 2], [0, 1, 2], [-1, -1, -1]),
        ([1], [], [0, -1, -1]),
        ([], [], [-1, -1, -1]),
    ],
)
def test_by_hand(device, scores, seen, expected):
    assert top([scores], [seen], 3, device).tolist() == [expected]


def test_neighbouring_floats_are_told_apart():
    row = [np.float32(1)]
    while len(row) < 50:
        row.append(np.nextafter(row[-1], np.float32(2)))
    assert top([row], k=50).tolist() == [list(range(50))[::-1]]
    assert top([[-x for x in row]], k=50).tolist() == [list(range(50))]


def test_no_users(device):
    assert top(torch.zeros(0, 4), k=3, device=device).shape == (0, 3)


@on_gpus
def test_k_is_bounded_on_a_gpu(device):
    scores = torch.zeros(1, 3)
    with pytest.raises(RuntimeError, match="k is 0, expected at least 1"):
        top(scores, k=0, device=device)
    with pytest.raises(RuntimeError, match="k is 4097, expected at most 4096 on a GPU"):
        top(scores, k=4097, device=device)


def test_same_for_any_number_of_threads(threads):
    scores, seen = random_case(1, 130, 60, "ties")
    for count in (1, 2, 8):
        threads(count)
        assert top(scores, seen, 9).tolist() == sorted_items(scores, seen, 9)


def ids(*values):
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(1, 4), torch.tensor([0, 0]), ids(), 0), "k is 0, expected at least 1"),
        ((torch.zeros(1, 4), torch.tensor([0, 0]), ids(), -2), "k is -2, expected at least 1"),
        ((torch.zeros(1, 4).double(), torch.tensor([0, 0]), ids(), 1), "scores is float64"),
        ((torch.zeros(4), torch.tensor([0, 0]), ids(), 1), r"scores has shape \[4\]"),
        ((torch.zeros(4, 2).T, torch.tensor([0, 0, 0]), ids(), 1), "scores is not contiguous"),
        (
            (torch.zeros(2, 4), torch.tensor([0, 0]), ids(), 1),
            r"seen_indptr has shape \[2\], expected \[3\]",
        ),
        ((torch.zeros(1, 4), ids(0, 0), ids(), 1), "seen_indptr is int32, expected int64"),
        ((torch.zeros(1, 4), torch.tensor([0, 1]), ids(), 1), "seen_indptr ends with 1, expected"),
        ((torch.zeros(1, 4), torch.tensor([1, 1]), ids(0), 1), "seen_indptr starts with 1"),
        (
            (torch.zeros(2, 4), torch.tensor([0, 2, 1]), ids(0), 1),
            "seen_indptr falls from 2 to 1 at position 2",
        ),
        ((torch.zeros(1, 4), torch.tensor([0, 2]), ids(0, 4), 1), "seen holds id 4 at position 1"),
        ((torch.zeros(1, 4), torch.tensor([0, 1]), ids(-1), 1), "seen holds id -1 at position 0"),
        (
            (torch.zeros(1, 4), torch.tensor([0, 2]), ids(3, 1), 1),
            "seen falls from 3 to 1 at position 1, expected ids sorted within a user",
        ),
        ((torch.zeros(1, 4), torch.tensor([0, 1]), torch.tensor([1]), 1), "seen is int64"),
    ],
)
def test_errors_say_what_was_found(arguments, message):
    with pytest.raises(RuntimeError, match=message):
        ops.top_items(*arguments)


def test_seen_may_fall_from_user_to_user():
    scores = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    assert top(scores, [[1], [0]], 1).tolist() == [[0], [1]]


def test_opcheck():
    call = (torch.rand(2, 5), *csr([[1], [0, 0, 4]]), 3)
    library.opcheck(torch.ops.ekpnet.top_items.default, call)
