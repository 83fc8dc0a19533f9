"""Products of sparse matrices, against dense ones."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import library

from ekpnet_fast.ops import SparseRows, local_ridge, sparse_product, strongest_products


def dense(n, m, seed, filled=0.3):
    draw = torch.Generator().manual_seed(seed)
    kept = torch.rand(n, m, generator=draw) < filled
    return torch.where(kept, torch.randint(-4, 9, (n, m), generator=draw), 0).float()


def rows(x):
    heads, columns = x.nonzero(as_tuple=True)
    ends = torch.bincount(heads, minlength=len(x)).cumsum(0)
    return SparseRows(torch.cat([ends.new_zeros(1), ends]), columns.int(), x[heads, columns])


def whole(sparse, m):
    n = len(sparse.indptr) - 1
    heads = torch.repeat_interleave(torch.arange(n), sparse.indptr.diff())
    return torch.zeros(n, m).index_put((heads, sparse.columns.long()), sparse.values)


def test_a_product_with_room_for_all_is_whole():
    a, b = dense(150, 20, 0), dense(20, 70, 1)
    found = strongest_products(rows(a), rows(b), 70, 70)
    assert torch.equal(whole(found, 70), a @ b)
    ends = found.indptr.tolist()
    for begin, end in pairwise(ends):
        assert found.columns[begin:end].tolist() == sorted(set(found.columns[begin:end].tolist()))


def test_the_largest_are_kept_and_of_equal_ones_the_first():
    """By hand: the row 3, 5, 5, -1, 5 keeps columns 1 and 2."""
    left = rows(torch.ones(1, 1))
    right = rows(torch.tensor([[3.0, 5.0, 5.0, -1.0, 5.0]]))
    found = strongest_products(left, right, 5, 2)
    assert found.columns.tolist() == [1, 2] and found.values.tolist() == [5, 5]
    a, b = dense(60, 20, 2), dense(20, 50, 3)
    found = strongest_products(rows(a), rows(b), 50, 7)
    product = a @ b
    met = (a != 0).float() @ (b != 0).float() > 0
    for n in range(60):
        order = sorted(torch.nonzero(met[n]).flatten().tolist(), key=lambda i: (-product[n, i], i))
        begin, end = found.indptr[n : n + 2].tolist()
        assert found.columns[begin:end].tolist() == sorted(order[:7])


def test_products_below_what_a_float_holds_are_met():
    """-1e-30 * 1e-30 rounds to -0, which is a sum all the same; of few products and many."""
    tiny = rows(torch.tensor([[-1e-30]]))
    for columns in (3, 100):
        found = strongest_products(tiny, rows(torch.full((1, 3), 1e-30)), columns, columns)
        assert found.columns.tolist() == [0, 1, 2] and found.values.tolist() == [0, 0, 0]


def test_no_columns_and_room_for_more_than_there_are():
    nothing = SparseRows(torch.zeros(3, dtype=torch.int64), torch.zeros(0).int(), torch.zeros(0))
    found = strongest_products(nothing, nothing, 0, 40)
    assert found.indptr.tolist() == [0, 0, 0]
    a, b = dense(5, 4, 0), dense(4, 9, 1)
    assert torch.equal(whole(strongest_products(rows(a), rows(b), 9, 2**63 - 1), 9), a @ b)


@pytest.mark.parametrize("levels", [1, 3, 10**6])
def test_the_strongest_of_many_columns(levels):
    """Values on few levels, so that most are equal, or all different; some rows have few others."""
    draw = torch.Generator().manual_seed(7)
    values = torch.randint(1, levels + 1, (6, 5000), generator=draw).float()
    values = torch.where(torch.rand(6, 5000, generator=draw) < 0.5, values, 0)
    values[0, 3000:], values[1, :4990] = 0, 0
    values[2, ::9] = levels + 1.0  # what every so many columns have tells nothing of the others
    found = strongest_products(rows(torch.eye(6)), rows(values), 5000, 40)
    for n in range(6):
        met = torch.nonzero(values[n]).flatten().tolist()
        wanted = sorted(sorted(met, key=lambda i, n=n: (-values[n, i], i))[:40])
        begin, end = found.indptr[n : n + 2].tolist()
        assert found.columns[begin:end].tolist() == wanted
        assert torch.equal(found.values[begin:end], values[n, wanted])


def test_what_is_met_in_full_is_left_out():
    """Before the strongest are chosen; whether few or most columns are met."""
    for filled in (0.1, 0.6):
        a, b = (dense(40, 20, 5, filled) != 0).float(), (dense(20, 50, 6, filled) != 0).float()
        full = torch.randint(1, 5, (50,), generator=torch.Generator().manual_seed(0)).int()
        found = strongest_products(rows(a), rows(b), 50, 6, full)
        product = a @ b
        kept = (product > 0) & (product < full)
        assert (kept != (product > 0)).any()
        for n in range(40):
            wanted = torch.nonzero(kept[n]).flatten().tolist()
            wanted = sorted(sorted(wanted, key=lambda i, n=n: (-product[n, i], i))[:6])
            begin, end = found.indptr[n : n + 2].tolist()
            assert found.columns[begin:end].tolist() == wanted
            assert found.values[begin:end].tolist() == product[n, wanted].tolist()


def test_sparse_times_dense():
    a, x = dense(130, 40, 4), torch.randn(40, 19, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sparse_product(rows(a), x), a @ x)
    empty = rows(torch.zeros(0, 40))
    assert sparse_product(empty, x).shape == (0, 19)


@pytest.mark.parametrize("filled", [1.0, 0.1])
def test_ridge_regression_of_items_on_their_neighbours(filled):
    """Against dense solves; few neighbours are looked up in long rows of the Gram matrix."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(90, 60, generator=draw)
    gram = torch.where(torch.rand(60, 60, generator=draw) < filled, x.T @ x, 0.0)
    gram = gram.triu() + gram.triu(1).T + 90 * torch.eye(60)
    near = [sorted(torch.randperm(60, generator=draw)[:n].tolist()) for n in (0, 1, 40, *[5] * 57)]
    near = [[j for j in others if j != item] for item, others in enumerate(near)]
    indptr = torch.tensor([0, *map(len, near)]).cumsum(0)
    neighbours = torch.tensor([j for others in near for j in others], dtype=torch.int32)
    found = local_ridge(rows(gram), indptr, neighbours, 2.5)
    for item, others in enumerate(near):
        of_item = gram[others][:, others].double() + 2.5 * torch.eye(len(others)).double()
        wanted = torch.linalg.solve(of_item, gram[others, item].double())
        begin, end = indptr[item : item + 2].tolist()
        torch.testing.assert_close(found[begin:end].double(), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("filled", [1.0, 0.05])
@pytest.mark.parametrize("weight", [100.0, 0.05])
def test_ridge_regression_of_many_neighbours(filled, weight):
    """Few rounds of an iteration where the weight is large, else elimination."""
    draw = torch.Generator().manual_seed(1)
    clicks = (torch.rand(60, 150, generator=draw) < 0.3).float()
    near = torch.arange(149, dtype=torch.int32).repeat(150)
    near += near >= torch.arange(150, dtype=torch.int32).repeat_interleave(149)
    indptr = torch.arange(151) * 149
    gram = clicks.T @ clicks
    if filled < 1:  # long rows, of which few entries are neighbours
        near, indptr = near.view(150, 149)[:, ::20].flatten().contiguous(), torch.arange(151) * 8
    found = local_ridge(rows(gram), indptr, near, weight)
    for item in (0, 77, 149):
        others = near[indptr[item] : indptr[item + 1]].long()
        of_item = gram[others][:, others].double() + weight * torch.eye(len(others)).double()
        coefficients = found[indptr[item] : indptr[item + 1]].double()
        torch.testing.assert_close(
            of_item @ coefficients, gram[others, item].double(), rtol=0, atol=3e-3
        )


def test_opcheck():
    gram = rows(torch.eye(3) * 4 + 1)
    ends, near = torch.tensor([0, 1, 3, 3]), torch.tensor([2, 0, 2], dtype=torch.int32)
    library.opcheck(torch.ops.ekpnet.local_ridge.default, (*gram, ends, near, 1.0))
    a, b = rows(dense(9, 5, 5)), rows(dense(5, 8, 6))
    library.opcheck(torch.ops.ekpnet.strongest_products.default, (*a, *b, 8, 3, None))
    library.opcheck(torch.ops.ekpnet.sparse_product.default, (*a, torch.randn(5, 4)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"columns": torch.tensor([0, 5], dtype=torch.int32)}, "left holds id 5 at position 1"),
        ({"indptr": torch.tensor([0, 2, 1])}, "left falls from 2 to 1"),
        ({"indptr": torch.tensor([0, 1, 3])}, "left ends with 3, expected 2"),
        ({"values": torch.zeros(3)}, r"left has shape \[3\], expected \[2\]"),
        ({"values": torch.zeros(2).double()}, "left is float64, expected float32"),
    ],
)
def test_refused(change, said):
    good = SparseRows(
        torch.tensor([0, 1, 2]), torch.tensor([0, 1], dtype=torch.int32), torch.ones(2)
    )
    with pytest.raises(RuntimeError, match=said):
        strongest_products(good._replace(**change), good, 2, 1)
    with pytest.raises(RuntimeError, match="weight is 0, expected above 0"):
        local_ridge(good, good.indptr, good.columns, 0.0)
    with pytest.raises(RuntimeError, match="neighbours holds id 7 at position 1"):
        local_ridge(good, good.indptr, torch.tensor([1, 7], dtype=torch.int32), 1.0)
    with pytest.raises(RuntimeError, match="count is 0, expected at least 1"):
        strongest_products(good, good, 2, 0)
    with pytest.raises(RuntimeError, match=r"full has shape \[1\], expected \[2\]"):
        strongest_products(good, good, 2, 1, torch.ones(1, dtype=torch.int32))
