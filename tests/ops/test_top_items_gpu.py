"""Top lists of the GPU against a sort: on an emulated GPU, and on a real one if any."""

from __future__ import annotations

import pytest
import torch
from test_top_items import random_case, sorted_items

from support.graphs import csr

KINDS = ["distinct", "normal", "ties", "equal", "rising", "falling", "special"]


def top(gpu, scores, seen, k):
    return gpu.call("top_items", torch.as_tensor(scores), *csr(seen), k)


@pytest.mark.parametrize("k", [1, 2, 33, 200])
@pytest.mark.parametrize("num_items", [1, 17, 150])
@pytest.mark.parametrize("kind", KINDS)
def test_against_a_sort(gpu, kind, num_items, k):
    scores, seen = random_case(k + num_items, 4, num_items, kind)
    assert top(gpu, scores, seen, k).tolist() == sorted_items(scores, seen, k)


def test_more_items_than_the_mask_holds(gpu):
    # A bit per item does not fit into shared memory, so seen items are searched for.
    num_items = 800_000
    scores = torch.randn(1, num_items, generator=torch.Generator().manual_seed(0))
    best = scores[0].argsort(descending=True, stable=True)
    seen = sorted(best[[0, 2, 5]].tolist())
    expected = [i for i in best[:13].tolist() if i not in seen][:10]
    assert top(gpu, scores, [seen], 10).tolist() == [expected]


def test_no_users(gpu):
    assert top(gpu, torch.empty(0, 5), [], 3).shape == (0, 3)


def test_k_is_bounded(gpu):
    scores = torch.zeros(1, 3)
    with pytest.raises(RuntimeError, match="k is 0, expected at least 1"):
        top(gpu, scores, [[]], 0)
    with pytest.raises(RuntimeError, match="k is 4097, expected at most 4096 on a GPU"):
        top(gpu, scores, [[]], 4097)
