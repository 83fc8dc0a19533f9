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
