"""Negatives, splits and histories."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ekpnet_fast.data import Dataset, Examples, Interactions, load_dataset, prepare
from ekpnet_fast.data.negatives import draw_negatives
from ekpnet_fast.data.splits import ratio_counts
from ekpnet_fast.data.streams import random_stream
from ekpnet_fast.errors import ConfigError, DataError

SPLITS = ("train", "valid", "test")


def dataset(rows=None, interactions=None, num_users=300, num_items=80, **changes):
    fields = {
        "name": "made",
        "rows": rows,
        "interactions": interactions,
        "heads": np.array([0, 1, 80], dtype=np.int32),
        "relations": np.array([0, 1, 0], dtype=np.int32),
        "tails": np.array([80, 81, 82], dtype=np.int32),
        "num_users": num_users,
        "num_items": num_items,
        "num_entities": 90,
        "num_relations": 2,
        **changes,
    }
    return Dataset(**fields)


def random_clicks(seed=0, num_users=300, num_items=80, density=0.1, positive=0.7):
    rng = np.random.default_rng(seed)
    density = density * rng.random((num_users, 1)) * 2
    users, items = np.nonzero(rng.random((num_users, num_items)) < density)
    return Interactions(
        users.astype(np.int32), items.astype(np.int32), rng.random(len(users)) < positive
    )


def random_rows(seed=0, num_users=300):
    clicks = random_clicks(seed, num_users)
    return Examples(clicks.users, clicks.items, clicks.positive.astype(np.int8))


def pairs(rows):
    return set(zip(rows.users.tolist(), rows.items.tolist(), rows.labels.tolist(), strict=True))


def test_split_is_a_partition_in_proportion():
    rows = random_rows()
    data = prepare(dataset(rows), 0)
    parts = [pairs(getattr(data, name)) for name in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert set.union(*parts) <= pairs(rows)
    kept = sum(map(len, parts))
    assert kept + data.dropped_examples == len(rows)
    sizes = np.array([len(part) for part in parts]) / len(rows)
    assert np.abs(sizes - [0.6, 0.2, 0.2]).max() < 0.01


def test_history_is_the_train_positives_and_nothing_else():
    data = prepare(dataset(random_rows()), 1)
    expected: dict[int, set[int]] = {}
    for user, item, label in pairs(data.train):
        if label == 1:
            expected.setdefault(user, set()).add(item)
    assert data.history_indptr.dtype == np.int64 and data.history_items.dtype == np.int32
    assert len(data.history_indptr) == 301
    for user in range(300):
        items = data.history_items[data.history_indptr[user] : data.history_indptr[user + 1]]
        assert items.tolist() == sorted(expected.get(user, ()))


def test_users_with_an_empty_history_are_left_out_and_counted():
    rows = random_rows()
    data = prepare(dataset(rows), 2)
    empty = set(np.flatnonzero(np.diff(data.history_indptr) == 0).tolist())
    users = [set(getattr(data, name).users.tolist()) for name in SPLITS]
    assert not empty & set.union(*users)
    present = set(rows.users.tolist())
    assert data.dropped_users == len(empty & present) > 0
    assert data.dropped_examples == int(np.isin(rows.users, list(empty)).sum())


def test_users_without_positives_are_left_out():
    users = np.repeat(np.arange(10, dtype=np.int32), 8)
    rows = Examples(users, np.tile(np.arange(8, dtype=np.int32), 10), (users > 0).astype(np.int8))
    data = prepare(dataset(rows, num_users=10), 0)
    assert 0 not in data.train.users and data.dropped_users == 1 and data.dropped_examples == 8


def test_same_seed_same_data_other_seed_other_data():
    source = dataset(interactions=random_clicks())
    first, again, other = prepare(source, 5), prepare(source, 5), prepare(source, 6)
    assert first.hash == again.hash != other.hash
    for name in SPLITS:
        assert pairs(getattr(first, name)) == pairs(getattr(again, name))
        assert getattr(first, name).users.tolist() == getattr(again, name).users.tolist()
    assert pairs(first.test) != pairs(other.test)


def test_hash_is_pinned_and_sees_every_input():
    rows = Examples(
        np.repeat(np.arange(5, dtype=np.int32), 4),
        np.tile(np.arange(4, dtype=np.int32), 5),
        np.tile(np.array([1, 0], dtype=np.int8), 10),
    )
    base = dataset(rows, num_users=5)
    reference = prepare(base, 0).hash
    assert reference == "7842984a6186d2f4"
    assert prepare(dataclasses.replace(base, name="renamed"), 0).hash == reference
    flipped = Examples(rows.users, rows.items, np.ascontiguousarray(rows.labels[::-1]))
    for change in (
        {"rows": flipped},
        {"num_entities": 91},
        {"tails": np.array([80, 81, 83], dtype=np.int32)},
        {"relations": np.array([1, 1, 0], dtype=np.int32)},
    ):
        assert prepare(dataclasses.replace(base, **change), 0).hash != reference


def test_oracle_follows_the_test_rows():
    rows = random_rows()
    oracle = (rows.users * 1000 + rows.items).astype(np.float32)
    data = prepare(dataset(rows, oracle=oracle), 0)
    assert data.oracle_test.tolist() == (data.test.users * 1000 + data.test.items).tolist()


@pytest.mark.parametrize("density", [0.05, 0.3, 0.45])
def test_negatives_are_distinct_never_seen_and_as_many_as_positives(density):
    clicks = random_clicks(density=density, positive=0.8)
    users, items, missing = draw_negatives(random_stream(0, 0), clicks, 300, 80)
    drawn = set(zip(users.tolist(), items.tolist(), strict=True))
    seen = set(zip(clicks.users.tolist(), clicks.items.tolist(), strict=True))
    assert len(drawn) == len(users) and not drawn & seen
    assert items.min() >= 0 and items.max() < 80
    positives = np.bincount(clicks.users[clicks.positive], minlength=300)
    free = 80 - np.bincount(clicks.users, minlength=300)
    assert np.bincount(users, minlength=300).tolist() == np.minimum(positives, free).tolist()
    assert missing == int(np.maximum(positives - free, 0).sum())
    assert (missing > 0) == (density >= 0.3)


@pytest.mark.parametrize("wanted", [2, 6])
def test_negatives_are_uniform(wanted):
    """``wanted`` of 8 free items for 20,000 users: every free item equally often."""
    seen = np.array([1, 4, 5, 8, 9, 11], dtype=np.int32)
    num_users = 20_000
    clicks = Interactions(
        np.repeat(np.arange(num_users, dtype=np.int32), 6),
        np.tile(seen, num_users),
        np.tile(np.arange(6) < wanted, num_users),
    )
    _, items, missing = draw_negatives(random_stream(1, 0), clicks, num_users, 14)
    counts = np.bincount(items, minlength=14)
    expected = num_users * wanted / 8
    free = np.setdiff1d(np.arange(14), seen)
    assert missing == 0 and counts[seen].sum() == 0
    assert np.abs(counts[free] - expected).max() < 5 * np.sqrt(expected)


def test_rows_that_are_all_positives_get_negatives():
    """Files of clicks alone in a format of labelled rows: there is nothing to tell apart else."""
    clicks = random_clicks(positive=1.0)
    ones = np.ones(len(clicks), dtype=np.int8)
    rows = Examples(clicks.users, clicks.items, ones)
    wanted = prepare(dataset(interactions=clicks), 0)
    for given in (rows, rows.take(np.r_[: len(rows), :50])):  # some of them twice
        found = prepare(dataset(rows=given), 0)
        for part in SPLITS:
            assert pairs(getattr(found, part)) == pairs(getattr(wanted, part))
        assert 0.4 < found.test.labels.mean() < 0.6


def test_prepare_reports_missing_negatives():
    clicks = Interactions(
        np.zeros(7, dtype=np.int32), np.arange(7, dtype=np.int32), np.ones(7, dtype=np.bool_)
    )
    data = prepare(dataset(interactions=clicks, num_users=1, num_items=10), 0)
    assert data.missing_negatives == 4
    assert len(data.train) + len(data.valid) + len(data.test) == 10


@pytest.mark.parametrize("seed", [-1, 1.0, True, "0", None])
def test_bad_seed(seed):
    with pytest.raises(ConfigError, match="seed: found"):
        prepare(dataset(random_rows()), seed)


BAD = {
    "user": ({"num_users": 299}, "in users, expected ids from 0 to 298"),
    "item": ({"num_items": 70}, "in items, expected ids from 0 to 69"),
    "head": ({"heads": np.array([0, -1, 2], dtype=np.int32)}, "found -1 in heads"),
    "tail": ({"num_entities": 81}, "in tails, expected ids from 0 to 80"),
    "relation": ({"num_relations": 1}, "in relations, expected ids from 0 to 0"),
    "entities": ({"num_entities": 79}, "expected every item to be an entity"),
    "lengths": ({"tails": np.zeros(2, dtype=np.int32)}, "expected columns of one length"),
    "oracle": ({"oracle": np.zeros(2, dtype=np.float32)}, "found 2 oracle scores"),
    "both": ({"interactions": random_clicks()}, "either rows or interactions"),
    "no rows": ({"rows": None}, "either rows or interactions"),
    "empty rows": ({"rows": random_rows().take(np.arange(0))}, "found an empty rows table"),
    "few rows": ({"rows": random_rows().take(np.arange(4))}, "found 4 rows, expected at least 5"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_data_sets_made_by_hand(changes, message):
    with pytest.raises(DataError) as caught:
        prepare(dataset(**{"rows": random_rows(), **changes}), 0)
    assert message in str(caught.value)


def test_no_positive_at_all():
    rows = random_rows()
    with pytest.raises(DataError, match="found no positive row in train"):
        prepare(dataset(Examples(rows.users, rows.items, np.zeros_like(rows.labels))), 0)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "counts", "rows"),
    [
        ("book-crossing", (17_860, 14_967, 77_903, 25, 151_500), 139_746),
        ("movielens-1m", (6_036, 2_445, 6_827, 7, 20_195), 753_772),
        ("last-fm", (1_872, 3_846, 9_366, 60, 15_518), 42_346),
    ],
)
def test_real_data(name, counts, rows, data_root):
    source = load_dataset(name, data_root)
    found = (source.num_users, source.num_items, source.num_entities, source.num_relations)
    assert (*found, source.num_triples) == counts and len(source.rows) == rows
    data = prepare(source, 0)
    assert sum(len(getattr(data, part)) for part in SPLITS) + data.dropped_examples == rows
    assert data.hash == prepare(source, 0).hash


# ---- each user's positives 8:1:1 -----------------------------------------------------------------


def counts_by_loop(total):
    """RecBole's rule for the ratios 8:1:1, one user at a time."""
    parts = [0, int(0.1 * total), int(0.1 * total)]
    parts[0] = total - sum(parts)
    for part in (2, 1):
        if parts[0] <= 1:
            break
        if 0 < 0.1 * total < 1:
            parts[part] += 1
            parts[0] -= 1
    return tuple(parts)


def test_ratio_counts():
    totals = np.arange(200)
    assert list(zip(*ratio_counts(totals), strict=True)) == [counts_by_loop(n) for n in totals]
    assert [counts_by_loop(n) for n in (1, 2, 3, 9, 10, 29)] == [
        *[(1, 0, 0), (1, 0, 1), (1, 1, 1), (7, 1, 1), (8, 1, 1), (25, 2, 2)]
    ]


@pytest.mark.parametrize("kind", ["rows", "interactions"])
def test_ratio_split_is_a_partition_of_each_users_positives(kind):
    made = random_rows() if kind == "rows" else random_clicks()
    data = prepare(dataset(**{kind: made}), 3, "recbole")
    positive = made.labels == 1 if kind == "rows" else made.positive
    totals = np.bincount(made.users[positive], minlength=300)
    for part, sizes in zip(SPLITS, ratio_counts(totals), strict=True):
        rows = getattr(data, part)
        assert (rows.labels == 1).all()
        assert np.bincount(rows.users, minlength=300).tolist() == sizes.tolist()
    parts = [pairs(getattr(data, name)) for name in SPLITS]
    expected = zip(made.users[positive].tolist(), made.items[positive].tolist(), strict=True)
    assert set.union(*parts) == {(user, item, 1) for user, item in expected}
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert np.diff(data.history_indptr).tolist() == ratio_counts(totals)[0].tolist()
    assert (data.dropped_users, data.dropped_examples, data.protocol) == (0, 0, "recbole")


def test_ratio_split_depends_on_the_seed_and_not_on_the_order_of_rows():
    rows = random_rows()
    first, again, other = (prepare(dataset(rows), seed, "recbole") for seed in (0, 0, 1))
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = prepare(dataset(rows.take(order)), 0, "recbole")
    assert pairs(first.test) == pairs(again.test) == pairs(shuffled.test) != pairs(other.test)
    assert first.hash == again.hash == shuffled.hash != other.hash
    assert first.hash != prepare(dataset(rows), 0).hash


def test_ratio_split_is_even():
    """Each of a user's ten positives is as likely to be the test one."""
    users = np.repeat(np.arange(3000, dtype=np.int32), 10)
    items = np.tile(np.arange(10, dtype=np.int32), 3000)
    rows = Examples(users, items, np.ones(30000, dtype=np.int8))
    data = prepare(dataset(rows, num_users=3000), 0, "recbole")
    for part in (data.valid, data.test):
        assert np.abs(np.bincount(part.items) - 300).max() < 5 * 300**0.5


def test_unknown_protocol():
    with pytest.raises(ConfigError, match="found 'recbol', expected ripplenet or recbole or fixed"):
        prepare(dataset(random_rows()), 0, "recbol")
