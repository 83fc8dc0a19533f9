"""Negatives drawn anew for each epoch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ekpnet_fast.data import Dataset, Examples, prepare
from ekpnet_fast.data.pair_keys import history_of
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.negatives import RedrawnNegatives
from ekpnet_fast.sampling.ripple_sets import RippleSets

NUM_USERS, NUM_ITEMS = 60, 25


def prepared_of(users, items, num_users=NUM_USERS):
    rows = Examples(np.int32(users), np.int32(items), np.ones(len(users), dtype=np.int8))
    ids = np.zeros(1, dtype=np.int32)
    data = Dataset("made", rows, None, ids, ids, ids, num_users, NUM_ITEMS, NUM_ITEMS, 1)
    return prepare(data, 0, "recbole")


@pytest.fixture(scope="module")
def prepared():
    """Users with none to all but one of the items."""
    stream = np.random.default_rng(0)
    sizes = stream.integers(0, NUM_ITEMS, NUM_USERS)
    items = np.concatenate([stream.permutation(NUM_ITEMS)[:size] for size in sizes])
    return prepared_of(np.repeat(np.arange(NUM_USERS), sizes), items)


def users_of(rows):
    return np.repeat(np.arange(NUM_USERS), rows.indptr.diff().numpy())


def test_as_many_negatives_as_positives_and_none_of_train(prepared):
    redraw = RedrawnNegatives(prepared, seed=0)
    rows, users = redraw.rows, users_of(redraw.rows)
    train = set(zip(prepared.train.users.tolist(), prepared.train.items.tolist(), strict=True))
    negative = (rows.labels == 0).numpy()
    for epoch in (1, 2, 30):
        items = redraw(epoch).numpy()
        assert items.dtype == np.int32 and items.min() >= 0 and items.max() < NUM_ITEMS
        drawn = set(zip(users[negative].tolist(), items[negative].tolist(), strict=True))
        assert not drawn & train
        assert set(zip(users[~negative].tolist(), items[~negative].tolist(), strict=True)) == train
    expected = np.bincount(prepared.train.users, minlength=NUM_USERS)
    for part in (negative, ~negative):
        assert np.bincount(users[part], minlength=NUM_USERS).tolist() == expected.tolist()


def test_draws_depend_on_seed_and_epoch_only(prepared, threads):
    redraw = RedrawnNegatives(prepared, seed=0)
    third = redraw(3)
    assert not torch.equal(third, redraw(4))
    assert torch.equal(third, redraw(3))
    assert not torch.equal(third, RedrawnNegatives(prepared, seed=1)(3))
    for count in (1, 8):
        threads(count)
        assert torch.equal(third, RedrawnNegatives(prepared, seed=0)(3))


def all_in_train(histories, num_items):
    """Data whose users have these items in train, and nothing held out."""
    users = np.repeat(np.arange(len(histories), dtype=np.int32), [len(x) for x in histories])
    items = np.concatenate(histories).astype(np.int32)
    rows = Examples(users, items, np.ones(len(users), dtype=np.int8))
    indptr, history = history_of(rows, len(histories), num_items)
    made = prepared_of(np.arange(5), np.arange(5), num_users=5)
    dataset = replace(made.dataset, num_users=len(histories), num_items=num_items)
    return replace(made, dataset=dataset, train=rows, history_indptr=indptr, history_items=history)


def test_draws_are_even():
    """With items 1 and 3 in train, the other four are drawn as often as each other."""
    redraw = RedrawnNegatives(all_in_train([[1, 3]], 6), seed=5)
    negative = redraw.rows.labels == 0
    drawn = torch.cat([redraw(epoch)[negative] for epoch in range(2000)])
    counts = torch.bincount(drawn.long(), minlength=6)
    assert counts[[1, 3]].tolist() == [0, 0]
    assert (counts[[0, 2, 4, 5]] - 1000).abs().max() < 5 * 1000**0.5


def test_draws_by_popularity():
    """Items are drawn by their train clicks plus one, those of the user's own train never."""
    histories = [[0, 1], *[[2]] * 8, *[[3]] * 3]
    redraw = RedrawnNegatives(all_in_train(histories, 6), seed=5, count=3, by_popularity=True)
    assert torch.equal(
        redraw.rows.indptr, torch.tensor([len(h) * 4 for h in [[], *histories]]).cumsum(0)
    )
    of_first = redraw.rows.labels[:8] == 0
    drawn = torch.cat([redraw(epoch)[:8][of_first] for epoch in range(300)])
    counts = torch.bincount(drawn.long(), minlength=6)
    assert counts[[0, 1]].tolist() == [0, 0]
    expected = torch.tensor([9.0, 4.0, 1.0, 1.0]) / 15 * len(drawn)
    assert ((counts[2:] - expected).abs() < 5 * expected.sqrt()).all()
    assert redraw.chances * 19 == pytest.approx([2, 2, 9, 4, 1, 1])
    assert torch.equal(redraw(7), redraw(7)) and not torch.equal(redraw(7), redraw(8))


HARD = [[4, 5], [], [0]]  # nominees of users who have items 0 and 1, 2, and 3 in train


def hard(share, seed=5, **options):
    """Hard negatives of three users, and every negative's user."""
    items = torch.tensor([i for of in HARD for i in of], dtype=torch.int32)
    nominees = Histories(torch.tensor([0, 2, 2, 3]), items)
    prepared = all_in_train([[0, 1], [2], [3]], 6)
    redraw = RedrawnNegatives(
        prepared, seed, count=3, hard_share=share, nominees=nominees, **options
    )
    return redraw, torch.repeat_interleave(redraw.rows.indptr.diff())


@pytest.mark.parametrize("by_popularity", [False, True])
def test_hard_negatives_are_drawn_as_often_as_their_corrections_say(by_popularity):
    redraw, users = hard(0.4, by_popularity=by_popularity)
    negative, epochs = redraw.rows.labels == 0, 2000
    items = torch.stack([redraw(epoch) for epoch in range(epochs)])
    for user in range(3):
        at = (users == user) & negative
        drawn = items[:, at].flatten().long()
        counts = torch.bincount(drawn, minlength=6)
        mine = items[0, (users == user) & ~negative].long()
        assert not counts[mine].any()
        row = at.nonzero()[0]
        corrections = redraw.corrections(torch.arange(6).int(), row.expand(6))
        # What a user clicked is drawn again, so that the rest is a little more likely than said.
        chances = torch.exp(-corrections.double())
        named = torch.tensor(HARD[user], dtype=torch.int64)
        plain = torch.from_numpy(redraw.chances) * (0.6 if len(named) else 1)
        expected = plain.clone()
        expected[named] += 0.4 / max(len(named), 1)
        assert chances.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
        plain[mine] = 0
        plain *= (0.6 if len(named) else 1) / plain.sum()
        plain[named] += 0.4 / max(len(named), 1)
        assert ((counts - plain * len(drawn)).abs() < 5 * (plain * len(drawn)).sqrt() + 1).all()
    assert not redraw.corrections(items[0], torch.arange(len(users)))[~negative].any()


def test_all_negatives_may_be_hard():
    redraw, users = hard(1.0)
    negative = redraw.rows.labels == 0
    for epoch in range(20):
        items = redraw(epoch)
        assert set(items[negative & (users == 0)].tolist()) <= {4, 5}
        assert set(items[negative & (users == 2)].tolist()) == {0}
        assert torch.equal(items[users == 1], redraw.plain(epoch)[users == 1])
        assert torch.isfinite(redraw.corrections(items, torch.arange(len(users)))).all()


def test_plain_draws_are_those_without_hard_ones(threads):
    redraw, _ = hard(0.5)
    without = RedrawnNegatives(all_in_train([[0, 1], [2], [3]], 6), 5, 3)
    assert torch.equal(redraw.plain(3), without(3)) and not torch.equal(redraw(3), without(3))
    third = redraw(3)
    assert torch.equal(third, redraw(3)) and not torch.equal(third, redraw(4))
    assert not torch.equal(third, hard(0.5, seed=6)[0](3))
    threads(8)
    assert torch.equal(third, hard(0.5)[0](3))


def test_a_user_with_every_item_is_told():
    with pytest.raises(TrainingError, match="made: 1 users have all 4 items in train"):
        RedrawnNegatives(all_in_train([[0, 1, 2, 3], [0]], 4), seed=0)


def test_batches_hold_the_negatives_of_their_epoch(prepared):
    redraw = RedrawnNegatives(prepared, seed=0)
    graph = Graph.from_dataset(prepared.dataset, inverse=False)
    stream = BatchStream(
        graph, redraw.rows, batch_size=16, group_size=4, triples=0, seed=0, redraw=redraw
    )
    users = users_of(redraw.rows)
    for epoch in (1, 2):
        found = []
        for batch in stream.epoch(epoch, RippleSets.none(NUM_USERS)):
            pair_users = torch.repeat_interleave(batch.users, batch.group_indptr.diff())
            items = batch.rows[batch.items.long()]
            found += zip(pair_users.tolist(), items.tolist(), batch.labels.tolist(), strict=True)
        expected = zip(
            users.tolist(), redraw(epoch).tolist(), redraw.rows.labels.tolist(), strict=True
        )
        assert sorted(found) == sorted(expected)
