"""Regression of clicks on the graph: what chance makes, and which relations count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ekpnet_fast.models.wide.excess import own_share, user_blocks
from ekpnet_fast.models.wide.graph_basis import GraphBasis, learned_basis, relation_weights
from ekpnet_fast.models.wide.graph_regression import MEDIAN, graph_vectors, shrunk
from ekpnet_fast.models.wide.matrices import sparse

USERS, ITEMS, FACTS = 600, 120, 12


def matrix(dense):
    rows, columns = np.nonzero(dense)
    return sparse(dense[rows, columns].astype(float), rows, columns, dense.shape)


def planted(seed, users=USERS):
    """Clicks by facts of relations 0 and 2, every item having one of each; 1 is noise."""
    stream = np.random.default_rng(seed)
    own = stream.integers(0, FACTS, (3, ITEMS))
    own[1] %= 3  # many items each, so that theirs are of all kinds
    weighed = np.zeros((ITEMS, 3 * FACTS))
    for relation in range(3):
        weighed[np.arange(ITEMS), relation * FACTS + own[relation]] = 1.0
    # Facts of even and of odd number are liked by different people, of both relations together.
    kind = (own[0] % 2 + own[2] % 2) / 2
    taste = stream.integers(0, 2, users)
    chance = np.abs(kind[None, :] - taste[:, None])
    clicks = stream.random((users, ITEMS)) < 0.02 + 0.16 * chance
    return matrix(clicks), matrix(weighed), np.repeat(np.arange(3), FACTS)


def test_chance_is_what_two_clicks_tell_by_hand():
    """Two users, three items: u clicks 0 and 1, v clicks 1; c = 3."""
    clicks = matrix(np.array([[1.0, 1, 0], [0, 1, 0]]))
    f = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    counts = np.array([1.0, 2, 0])
    (block,) = user_blocks(clicks, counts, f)
    u, v = 2**-0.5, 1.0  # n^(-1/2)
    by_item = 2**-0.5
    histories = torch.tensor([[u, u], [0, v]])
    excess = torch.tensor(
        [
            [u * (1 - 2 / 3), u * by_item * (1 - 4 / 3)],
            [v * (-1 / 3), v * by_item * (1 - 2 / 3)],
        ]
    )
    torch.testing.assert_close(block.histories, histories)
    torch.testing.assert_close(block.excess, excess)
    own = torch.tensor([[0.5], [by_item * (0.5 + 1)], [0.0]])
    torch.testing.assert_close(own_share(clicks, counts), own)


def test_shrinkage_by_hand():
    """The median tells how long chance makes singular values; the law's median stands in itself."""
    half = 2 * 0.4 / MEDIAN
    found = shrunk(torch.diag(torch.tensor([4.0, 2.5, 0.4, 0.3, 0.2], dtype=torch.float64)))
    expected = [(16 - half**2) ** 0.5, (6.25 - half**2) ** 0.5, 0, 0, 0]
    assert found.diag().tolist() == pytest.approx(expected)
    stream = torch.Generator().manual_seed(0)
    blind = torch.randn(200, 200, generator=stream, dtype=torch.float64)
    assert float(shrunk(blind).norm()) < 0.05 * float(blind.norm())
    assert float(torch.linalg.svdvals(blind).median()) == pytest.approx(MEDIAN * 200**0.5, rel=0.02)


def test_a_relation_of_noise_counts_little():
    for seed in range(3):
        clicks, weighed, relations = planted(seed)
        plain = GraphBasis(weighed, relations, 18)
        found = relation_weights(clicks, plain, weighed, relations)
        assert found[1] < 0.8 * min(found[0], found[2])
        assert found[[0, 2]].min() > 0.8


def test_relations_that_no_item_has_count_as_the_mean():
    """Relations 1, 3 and 4 lie between other entities; the others count as if these were not."""
    clicks, weighed, relations = planted(0)
    plain = GraphBasis(weighed, relations, 18)
    dense = relation_weights(clicks, plain, weighed, relations)
    spread = np.array([0, 2, 5])[relations]
    weights = relation_weights(clicks, plain, weighed, spread)
    assert weights[[0, 2, 5]].tolist() == dense.tolist()
    assert weights[[1, 3, 4]].tolist() == pytest.approx([dense.mean()] * 3)
    basis = learned_basis(clicks, weighed, spread, 18)
    assert basis.weights(np.array([1, 9])).tolist() == pytest.approx([dense.mean()] * 2)
    assert torch.equal(basis.of_items, learned_basis(clicks, weighed, relations, 18).of_items)


def test_vectors_go_with_what_is_clicked_together():
    """Items of both even facts lie on one side, those of both odd ones on the other."""
    clicks, weighed, relations = planted(0)
    basis = learned_basis(clicks, weighed, relations, 18)
    v = graph_vectors(clicks, basis).vectors.numpy()
    even = weighed.toarray()[:, 0::2].sum(1) - weighed.toarray()[:, FACTS : 2 * FACTS : 2].sum(1)
    both, neither = v[even == 2].mean(0), v[even == 0].mean(0)
    assert both @ both > 0 and both @ neither < 0


def test_clicks_of_chance_tell_nothing():
    """Of users who click anything nearly all is taken for chance."""
    clicks, weighed, relations = planted(0)
    stream = np.random.default_rng(1)
    blind = matrix(stream.random(clicks.shape) < 0.1)
    basis = learned_basis(blind, weighed, relations, 18)
    told, of_chance = (graph_vectors(x, basis) for x in (clicks, blind))
    assert np.linalg.matrix_rank(of_chance.chosen.numpy()) <= 1
    assert float(of_chance.chosen.norm()) < 0.4 * float(told.chosen.norm())


def test_a_relation_that_came_later_counts_as_the_mean():
    _, weighed, relations = planted(0)
    basis = GraphBasis(weighed, relations, 8, np.array([1.0, 0.2, 0.6]))
    found = basis.weights(np.array([1, 3, 0, 9]))
    assert found.tolist() == pytest.approx([0.2, 0.6, 1.0, 0.6])
    rows = basis.rows(weighed, relations).toarray()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        rows[:, relations == 1].max(1) * 3, rows[:, relations == 2].max(1), rtol=1e-6
    )


def test_facts_that_stand_several_times_add_no_directions():
    """Their singular values are 0; among the others these would say that chance makes none."""
    clicks, weighed, _ = planted(0)
    of_one = weighed[:, :FACTS].toarray()
    basis = GraphBasis(matrix(np.tile(of_one, 6)), np.zeros(6 * FACTS, dtype=np.int64), 64)
    assert basis.of_items.shape == (ITEMS, FACTS)  # of 30, a quarter of the items
    U, S, _ = np.linalg.svd(of_one, full_matrices=False)  # every row has one fact: norm 1
    f = basis.of_items.numpy()
    np.testing.assert_allclose(f @ f.T, (U * S) @ U.T, atol=1e-5)
    blind = matrix(np.random.default_rng(1).random((USERS, ITEMS)) < 0.1)
    told, of_chance = (float(graph_vectors(x, basis).chosen.norm()) for x in (clicks, blind))
    assert of_chance < 0.1 * told  # with the 18 others more than 0.3


@pytest.mark.parametrize("facts", [0, 1, 2, 3])
@pytest.mark.parametrize("had", [True, False])
def test_few_facts_tell_nothing(facts, had):
    """Half of them are one direction at most, and one value cannot be told from chance."""
    clicks, weighed, _ = planted(0)
    few = matrix(weighed[:, :facts].toarray() * had)
    basis = learned_basis(clicks, few, np.arange(facts), 256)
    vectors = graph_vectors(clicks, basis)
    assert vectors.vectors.shape == (ITEMS, 1) and not vectors.vectors.any()
    assert vectors.typical == 0 and np.isfinite(basis.by_relation).all()


@pytest.mark.parametrize("rank", [1, 5, 64])
def test_ranks_are_at_most_half_of_the_facts(rank):
    clicks, weighed, relations = planted(0)
    basis = learned_basis(clicks, weighed, relations, rank)
    assert basis.of_facts.shape == (3 * FACTS, min(rank, 18))
