"""Features and logits of the wide part, by hand and for arguments that do not fit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import library

from ekpnet_fast.ops import AffinitySources, SparseRows, WideCurves, wide_features, wide_logits

NONE, ROOT, MEAN, SIGNED = 0, 1, 2, 3
# Three items. Neighbours: 0 -> 1 by 2, 1 -> 0 by 2 and 2 by 4. Vectors: of width 3.
VECTORS = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [-3.0, 1.0, 0.0]])


def sources():
    return AffinitySources(
        [torch.tensor([0, 1, 3, 3]), torch.zeros(0, dtype=torch.int64)],
        [torch.tensor([1, 0, 2], dtype=torch.int32), torch.zeros(0, dtype=torch.int32)],
        [torch.tensor([2.0, 2.0, 4.0]), VECTORS],
        [torch.zeros(0), VECTORS.T.contiguous()],
        torch.tensor([[0, 0, 0], [1, 0, 1], [1, 0, 3]]),
        torch.tensor([[0.5, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]),
        torch.tensor([[0, NONE], [0, MEAN], [1, ROOT], [2, NONE], [2, SIGNED]]),
        torch.tensor([[0.5, 0.0], [0.5, 0.25], [0.1, 0.0], [1.0, 0.0], [0.0, 0.3]]),
    )


def curves():
    knots = torch.tensor([[0.0, 1.0, 2.0]]).repeat(5, 1)
    slopes = torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.5, 2.0]])
    return WideCurves(knots, slopes, torch.tensor([0.25, -1.0, 3.0]))


HISTORIES = torch.tensor([0, 2, 2]), torch.tensor([0, 1], dtype=torch.int32)


def by_hand(history, item):
    """Features of a pair, from the definitions."""
    neighbours = {(0, 1): 2.0, (1, 0): 2.0, (1, 2): 4.0}
    means = [0.5, 2.0, 0.0]
    n = len(history)
    share = n**-0.5 if n else 0.0
    near = share * sum(neighbours.get((j, item), 0.0) for j in history)
    mean = share * sum(means[j] for j in history)
    first = share * sum(float(VECTORS[j, 0] * VECTORS[item, 0]) for j in history)
    every = share * sum(float(VECTORS[j] @ VECTORS[item]) for j in history)
    return [
        math.log(near + 0.5),
        math.log(near / (mean + 0.25) + 0.5),
        math.log(max(first, 0) * math.sqrt(n) + 0.1),
        math.log(max(every, 0) + 1.0),
        every / math.sqrt(share * float(VECTORS[list(history)].sum(0).norm()) + 0.3),
    ]


def test_features_by_hand():
    """One history of two items, and one without any."""
    ends, items = torch.tensor([0, 3, 5]), torch.tensor([0, 1, 2, 2, 0], dtype=torch.int32)
    found = wide_features(*HISTORIES, sources(), ends, items)
    pairs = [((0, 1), 0), ((0, 1), 1), ((0, 1), 2), ((), 2), ((), 0)]
    wanted = torch.tensor([by_hand(*pair) for pair in pairs]).T
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_logits_by_hand():
    given = curves()

    def logit(history, item):
        total = float(given.item_terms[item])
        for r, x in enumerate(by_hand(history, item)):
            first, second = given.slopes[r].tolist()
            total += first * min(x, 1.0) + second * (max(x, 1.0) - 1.0)
        return total

    wanted = torch.tensor([[logit(h, i) for i in range(3)] for h in ((0, 1), ())])
    every = wide_logits(*HISTORIES, sources(), given)
    torch.testing.assert_close(every, wanted, rtol=1e-6, atol=1e-6)
    ends, items = torch.tensor([0, 1, 3]), torch.tensor([2, 1, 1], dtype=torch.int32)
    some = wide_logits(*HISTORIES, sources(), given, ends, items)
    of_some = torch.stack([wanted[0, 2], wanted[1, 1], wanted[1, 1]])
    torch.testing.assert_close(some, of_some, rtol=1e-6, atol=1e-6)


def with_users():
    """Four users: 1 has items 0 (3) and 2 (5), 3 has item 1 (7). Two are near the first history."""
    indptr, items = torch.tensor([0, 0, 2, 2, 3]), torch.tensor([0, 2, 1], dtype=torch.int32)
    users = AffinitySources(
        [indptr],
        [items],
        [torch.tensor([3.0, 5.0, 7.0])],
        [torch.zeros(0)],
        torch.tensor([[0, 0, 0]]),
        torch.zeros(1, 3),
        torch.tensor([[0, MEAN], [0, NONE]]),
        torch.tensor([[0.5, 0.25], [1.0, 0.0]]),
        0,
        torch.tensor([0.0, 2.0, 0.0, 0.5]),
    )
    near = SparseRows(
        torch.tensor([0, 2, 2]), torch.tensor([1, 3], dtype=torch.int32), torch.tensor([0.5, 2.0])
    )
    return users, near


@pytest.mark.parametrize("width", [1, 21])
def test_a_list_has_the_same_bits_beside_others(width):
    """Items of more than two tiles by vectors: 5 histories together, and each alone."""
    I, G = 530, 5  # noqa: E741
    draw = torch.Generator().manual_seed(3)
    vectors = torch.rand(I, width, generator=draw)
    of_vectors = AffinitySources(
        [torch.zeros(0, dtype=torch.int64)],
        [torch.zeros(0, dtype=torch.int32)],
        [vectors],
        [vectors.T.contiguous()],
        torch.tensor([[0, 0, (width + 1) // 2], [0, 0, width]]),
        torch.zeros(2, I),
        torch.tensor([[0, NONE], [1, NONE]]),
        torch.tensor([[1.0, 0.0], [1.0, 0.0]]),
    )
    given = WideCurves(torch.tensor([[0.0, 1.0]] * 2), torch.tensor([[1.0], [2.0]]), torch.zeros(I))
    ends, items = torch.arange(G + 1) * 3, torch.randint(0, I, (G * 3,), generator=draw).int()
    found = wide_logits(ends, items, of_vectors, given)
    for g in range(G):
        alone = wide_logits(ends[:2], items[3 * g : 3 * g + 3], of_vectors, given)
        assert torch.equal(alone[0], found[g])
        total = vectors[items[3 * g : 3 * g + 3].long()].double().sum(0) / 3**0.5
        part, whole = (vectors.double()[:, :end] @ total[:end] for end in ((width + 1) // 2, width))
        wanted = (part + 1).log() + 2 * (whole + 1).log()
        torch.testing.assert_close(found[g].double(), wanted, rtol=1e-5, atol=1e-5)


def test_users_near_a_history_by_hand():
    users, near = with_users()
    share = 2**-0.5
    sums, mean = [0.5 * 3 * share, 2 * 7 * share, 0.5 * 5 * share], (0.5 * 2 + 2 * 0.5) * share
    ends, items = torch.tensor([0, 3, 4]), torch.tensor([0, 1, 2, 1], dtype=torch.int32)
    found = wide_features(*HISTORIES, users, ends, items, near)
    by_mean = [math.log(a / (mean + 0.25) + 0.5) for a in sums] + [math.log(0.5)]
    wanted = torch.tensor([by_mean, [math.log(a + 1) for a in sums] + [0.0]])
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    line = WideCurves(torch.tensor([[0.0, 1.0]] * 2), torch.ones(2, 1), torch.zeros(3))
    logits = wide_logits(*HISTORIES, users, line, near=near)
    torch.testing.assert_close(logits[0], wanted[:, :3].sum(0), rtol=1e-6, atol=1e-6)
    assert logits[1].tolist() == pytest.approx([math.log(0.5)] * 3)


def test_refuses_users_that_do_not_fit():
    users, near = with_users()
    pairs = torch.tensor([0, 0, 0]), torch.zeros(0, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="near_indptr, near_users and near_values: found none"):
        wide_features(*HISTORIES, users, *pairs)
    beyond = near._replace(columns=torch.tensor([1, 4], dtype=torch.int32))
    with pytest.raises(RuntimeError, match="near_users holds id 4 at position 1"):
        wide_features(*HISTORIES, users, *pairs, beyond)
    with pytest.raises(RuntimeError, match="near_indptr falls from 2 to 1"):
        wide_features(*HISTORIES, users, *pairs, near._replace(indptr=torch.tensor([0, 2, 1])))
    with pytest.raises(RuntimeError, match="of_users is 1, expected -1 to 0"):
        wide_features(*HISTORIES, users._replace(of_users=1), *pairs, near)
    with pytest.raises(RuntimeError, match=r"indptrs has shape \[5\], expected \[3\]"):
        wide_features(*HISTORIES, users._replace(user_means=torch.zeros(2)), *pairs, near)


def test_opcheck():
    ends, items = torch.tensor([0, 1, 3]), torch.tensor([2, 1, 1], dtype=torch.int32)
    nobody = (None, None, None)
    features, logits = torch.ops.ekpnet.wide_features, torch.ops.ekpnet.wide_logits
    library.opcheck(features.default, (*HISTORIES, *sources(), *nobody, ends, items))
    for pairs in ((None, None), (ends, items)):
        library.opcheck(logits.default, (*HISTORIES, *sources(), *nobody, *curves(), *pairs))
    users, near = with_users()
    library.opcheck(features.default, (*HISTORIES, *users, *near, ends, items))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"affinities": torch.tensor([[0, 0, 0], [2, 0, 1], [1, 0, 3]])}, "source of an affinity"),
        ({"affinities": torch.tensor([[0, 0, 0], [1, 0, 1], [1, 0, 4]])}, "columns 0 to 4"),
        ({"affinities": torch.tensor([[1, 0, 0], [0, 0, 1], [1, 0, 3]])}, "rising sources"),
        (
            {"responses": torch.tensor([[0, 0], [3, 0], [1, 0], [2, 0], [2, 0]])},
            "affinity of a response",
        ),
        (
            {"responses": torch.tensor([[0, 0], [0, 4], [1, 0], [2, 0], [2, 0]])},
            "scale of a response",
        ),
        (
            {"responses": torch.tensor([[0, 0], [0, 3], [1, 0], [2, 0], [2, 0]])},
            "scale 3 of affinity 0, expected one of vectors",
        ),
        ({"constants": torch.zeros(5, 2)}, "constants holds 0, 0 at row 0"),
        ({"constants": torch.full((5, 2), math.nan)}, "constants holds nan"),
        ({"indptrs": [torch.tensor([0, 2, 1, 3]), torch.zeros(0).long()]}, "indptrs falls"),
        ({"values": [torch.ones(3)]}, "expected as many"),
    ],
)
def test_refused(change, said):
    with pytest.raises(RuntimeError, match=said):
        wide_logits(*HISTORIES, sources()._replace(**change), curves())


@pytest.mark.parametrize("bad", [3, -1, 2**31 - 1])
def test_neighbours_out_of_range_are_refused(bad):
    """They are read in some histories only, and written to nowhere."""
    given = sources()
    given.neighbours[0][2] = bad
    with pytest.raises(RuntimeError, match="neighbours holds an item outside of 0 to 2"):
        wide_logits(*HISTORIES, given, curves())
    of_nobody = torch.tensor([0, 0]), torch.zeros(0, dtype=torch.int32)
    assert wide_logits(*of_nobody, given, curves()).shape == (1, 3)
