"""Random streams: orders by draws."""

import numpy as np
import pytest

from ekpnet_fast.data.streams import SPLIT, drawn_order, order_of, random_stream


@pytest.mark.parametrize("values", [1, 7, 2**63])
def test_order_is_the_stable_one_also_where_draws_are_equal(values):
    draws = np.random.default_rng(values).integers(0, values, 5_000, dtype=np.uint64)
    assert np.array_equal(order_of(draws), np.argsort(draws, kind="stable"))


def test_drawn_order_is_a_permutation_that_the_seed_decides():
    first, again = (drawn_order(random_stream(4, SPLIT), 1_000) for _ in range(2))
    other = drawn_order(random_stream(5, SPLIT), 1_000)
    assert np.array_equal(np.sort(first), np.arange(1_000))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
