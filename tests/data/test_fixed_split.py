"""Protocol "fixed": the split of the files, validation held out of train, all of train again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ekpnet_fast.data import Dataset, Interactions, prepare
from ekpnet_fast.data import splits as splits_module
from ekpnet_fast.data.splits import with_validation
from ekpnet_fast.data.tables import GivenSplit
from ekpnet_fast.errors import ConfigError, DataError

TRAIN, VALID, TEST = GivenSplit.TRAIN, GivenSplit.VALID, GivenSplit.TEST


def dataset(rows, num_users=6, num_items=30, repeated=0):
    """Data set of rows (user, item, files)."""
    users, items, files = np.array(rows).T
    empty = np.zeros(0, dtype=np.int32)
    return Dataset(
        "made",
        None,
        Interactions(
            users.astype(np.int32), items.astype(np.int32), np.ones(len(rows), dtype=np.bool_)
        ),
        empty,
        empty,
        empty,
        num_users,
        num_items,
        num_items,
        1,
        split=GivenSplit(files.astype(np.uint8), repeated),
    )


def pairs(rows):
    assert (rows.labels == 1).all()
    return list(zip(rows.users.tolist(), rows.items.tolist(), strict=True))


def of(rows, part):
    return sorted((user, item) for user, item, files in rows if files & part)


GIVEN = [
    (0, 1, TRAIN),
    (0, 2, TRAIN | TEST),
    (0, 3, VALID),
    (1, 1, TRAIN),
    (1, 4, TRAIN),
    (2, 5, VALID | TEST),
    (3, 6, TEST),
    (1, 0, TEST),
]


def test_parts_are_as_given():
    data = prepare(dataset(GIVEN, repeated=3), 0, "fixed")
    assert data.protocol == "fixed"
    for name, part in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        assert pairs(getattr(data, name)) == of(GIVEN, part)
    assert data.history_indptr.tolist() == [0, 2, 4, 4, 4, 4, 4]
    assert data.history_items.tolist() == [1, 2, 1, 4]
    counts = dataclasses.asdict(data.counts)
    assert counts == {
        "train": 4,
        "valid": 2,
        "test": 4,
        "held_out_users": 0,
        "overlapping": 2,  # (0, 2) and (2, 5)
        "unranked_users": 2,  # 0 and 2
        "repeated": 3,
        "new_users": 1,  # 3
        "new_items": 2,  # 0 and 6
        "by_time": False,
        "valid_from": None,
        "test_from": None,
    }
    assert data.counts.words() == (
        "train 4 positives; validation 2 positives, given; test 4 positives",
        "2 test positives are in train or validation too, never relevant",
        "2 users have no other test positives, left out of averages",
        "3 repeated rows, merged",
        "1 users with test positives only",
        "2 items with test positives only",
    )


def many(num_users=40):
    """Train positives, 1 to 25 of a user, and one in test."""
    rows = [(u, i, TRAIN) for u in range(num_users) for i in range(u % 25 + 1)]
    return rows + [(u, 29, TEST) for u in range(num_users)]


def test_a_tenth_is_held_out_of_train():
    rows = many()
    data = prepare(dataset(rows, 40), 3, "fixed")
    train, valid = pairs(data.train), pairs(data.valid)
    assert not set(train) & set(valid) and sorted(train + valid) == of(rows, TRAIN)
    totals = np.bincount([user for user, _ in of(rows, TRAIN)])
    held = np.bincount([user for user, _ in valid], minlength=40)
    expected = [0 if n == 1 else max(1, n // 10) for n in totals]
    assert held.tolist() == expected and 0 in expected and 2 in expected
    assert data.counts.held_out_users == sum(n > 0 for n in expected)
    assert (data.counts.train, data.counts.valid) == (len(train), len(valid))
    assert data.history_items.tolist() == [item for _, item in train]
    # Every place of a list is held out for someone: none is spared.
    assert {item for _, item in valid} - {0, 1, 2} and {0, 1, 2} & {item for _, item in valid}


def test_at_most_so_many_users_are_held_out(monkeypatch):
    monkeypatch.setattr(splits_module, "HELD_OUT_USERS", 7)
    chosen = [set(prepare(dataset(many(), 40), s, "fixed").valid.users.tolist()) for s in range(30)]
    assert all(len(users) == 7 for users in chosen)
    everyone = {u for u in range(40) if u % 25}
    assert set.union(*chosen) == everyone


def test_the_seed_decides_what_is_held_out_and_nothing_else():
    made = dataset(many(), 40)
    first, again, other = (prepare(made, seed, "fixed") for seed in (0, 0, 1))
    assert first.hash == again.hash != other.hash
    assert pairs(first.valid) == pairs(again.valid) != pairs(other.valid)
    assert pairs(first.test) == pairs(other.test)


def test_training_again_sees_validation_too():
    rows = many()
    data = prepare(dataset(rows, 40), 0, "fixed")
    whole = with_validation(data)
    assert pairs(whole.train) == of(rows, TRAIN)
    assert whole.history_items.tolist() == [item for _, item in of(rows, TRAIN)]
    assert (whole.hash, pairs(whole.test)) == (data.hash, pairs(data.test))
    given = with_validation(prepare(dataset([*GIVEN, (4, 1, TRAIN | VALID)]), 0, "fixed"))
    assert pairs(given.train) == of([*GIVEN, (4, 1, TRAIN)], TRAIN | VALID)


@pytest.mark.parametrize("protocol", ["ripplenet", "recbole"])
def test_training_again_under_the_other_protocols(protocol):
    data = prepare(dataset(many(), 40), 0, protocol)
    whole = with_validation(data)
    assert len(whole.train) == len(data.train) + len(data.valid)
    users = np.repeat(np.arange(40), np.diff(whole.history_indptr))
    positives = {
        (u, i)
        for part in (data.train, data.valid)
        for u, i, y in zip(part.users, part.items, part.labels, strict=True)
        if y == 1
    }
    assert set(zip(users.tolist(), whole.history_items.tolist(), strict=True)) == positives


def test_what_cannot_be_split():
    unsplit = dataclasses.replace(dataset(GIVEN), split=None)
    with pytest.raises(ConfigError, match="found 'fixed', expected another one: made is not split"):
        prepare(unsplit, 0, "fixed")
    with pytest.raises(DataError, match="found no positive in test"):
        prepare(dataset([(0, 1, TRAIN)]), 0, "fixed")
    with pytest.raises(DataError, match="found no positive in train"):
        prepare(dataset([(0, 1, TEST)]), 0, "fixed")
    with pytest.raises(DataError, match="no user with two positives in train"):
        prepare(dataset([(0, 1, TRAIN), (1, 2, TRAIN), (1, 1, TEST)]), 0, "fixed")
    short = dataclasses.replace(dataset(GIVEN), split=GivenSplit(np.uint8([1, 4])))
    with pytest.raises(DataError, match=r"2 split\.files, expected columns of one length"):
        prepare(short, 0, "fixed")
