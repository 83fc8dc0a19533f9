"""Negatives, splits and train histories: everything the protocols draw.

"ripplenet": as many negatives as positives per user, drawn once; all split 6:2:2 at random.
"recbole": each user's positives split 8:1:1 at random; negatives are drawn in training, anew for
each epoch (`ekpnet_fast.sampling.negatives`).
"fixed": train and test as the files of the data set say, validation too or else drawn from train;
negatives as under "recbole".
"temporal": by time, at one moment for all, or, "temporal_user", each user's last positives;
negatives as under "recbole" (see `temporal.py`).

Each kind of draw has a stream of its own, so that a change in one leaves the others as they were.
Orders come from sorting raw 64-bit outputs of PCG64, which does not depend on the platform.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.tables import (
    Dataset,
    Examples,
    GivenSplit,
    Int32,
    Interactions,
    PreparedData,
    SplitCounts,
    validate,
)
from ekpnet_fast.data.temporal import at_a_moment, first_times, of_each_user
from ekpnet_fast.errors import ConfigError, DataError

__all__ = [
    "PROTOCOLS",
    "RANKING",
    "TEMPORAL",
    "draw_negatives",
    "history_of",
    "items_of_ranks",
    "label_rows",
    "prepare",
    "random_stream",
    "ratio_counts",
    "sorted_distinct",
    "with_validation",
]

TEMPORAL = ("temporal", "temporal_user")
"""Protocols that split by time: what lies before the cut is all that test may know."""
PROTOCOLS = ("ripplenet", "recbole", "fixed", *TEMPORAL)
RANKING = ("recbole", "fixed", *TEMPORAL)
"""Protocols whose splits hold positives only: they measure lists, and training draws negatives."""

HELD_OUT_USERS = 10_000  # of whom validation is drawn from train, at most

NEGATIVES, SPLIT, SYNTHETIC, RATIO_SPLIT, HELD_OUT, BOOTSTRAP = range(6)

Int64 = NDArray[np.int64]


def random_stream(seed: int, purpose: int) -> np.random.Generator:
    """Random generator for one purpose of one seed.

    Raises:
        ConfigError: the seed is not a whole number from 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigError(f"seed: found {seed!r}, expected a whole number from 0")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([int(seed), purpose])))


def prepare(dataset: Dataset, seed: int, protocol: str = "ripplenet") -> PreparedData:
    """Split a data set and collect train histories.

    Raises:
        ConfigError: a seed that is not a whole number from 0, an unknown protocol, "fixed" for data
            that are not split, or one by time for data without times.
        DataError: ids out of range, fewer than 5 rows, or no positive in a part that needs some.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol: found {protocol!r}, expected {' or '.join(PROTOCOLS)}")
    ways = {"ripplenet": _prepare_rows, "recbole": _prepare_ratio, "fixed": _prepare_given}
    if protocol in TEMPORAL:
        return _prepare_by_time(dataset, seed, protocol)
    return ways[protocol](dataset, seed)


def _prepare_rows(dataset: Dataset, seed: int) -> PreparedData:
    """Split the examples at random 6:2:2.

    Where the data set has interactions instead, negatives are drawn first. A user's
    history is that user's positives in train; users whose history is empty are left out of all
    three splits and counted.
    """
    stream = random_stream(seed, SPLIT)
    validate(dataset)
    rows, missing = label_rows(dataset, seed)
    count = len(rows)
    if count < 5:
        raise DataError(f"{dataset.name}: found {count} rows, expected at least 5 to split 6:2:2")
    order = np.argsort(stream.bit_generator.random_raw(count), kind="stable")
    held_out = count // 5
    parts = np.split(order, [count - 2 * held_out, count - held_out])
    train = rows.take(parts[0])
    indptr, items = history_of(train, dataset.num_users, dataset.num_items)
    kept = np.diff(indptr) > 0
    if not kept.any():
        raise DataError(f"{dataset.name}: found no positive row in train, expected some")
    parts = [part[kept[rows.users[part]]] for part in parts]
    train, valid, test = (rows.take(part) for part in parts)
    present = np.zeros(dataset.num_users, dtype=np.bool_)
    present[rows.users] = True
    return PreparedData(
        dataset=dataset,
        seed=int(seed),
        train=train,
        valid=valid,
        test=test,
        oracle_test=None if dataset.oracle is None else dataset.oracle[parts[2]],
        history_indptr=indptr,
        history_items=items,
        dropped_users=int(np.count_nonzero(present & ~kept)),
        dropped_examples=count - sum(len(part) for part in parts),
        hash=_digest(dataset, int(seed), rows, (train, valid, test)),
        missing_negatives=missing,
    )


def _prepare_ratio(dataset: Dataset, seed: int) -> PreparedData:
    """Split each user's distinct positives at random 8:1:1, as RecBole does with
    `split: {RS: [0.8, 0.1, 0.1]}, group_by: user, order: RO`.
    """
    stream = random_stream(seed, RATIO_SPLIT)
    validate(dataset)
    keys, positive = _pair_keys(dataset)
    keys = sorted_distinct(keys[positive])
    if len(keys) < 5:
        raise DataError(f"{dataset.name}: found {len(keys)} positives, expected at least 5")
    keys = keys[np.argsort(stream.bit_generator.random_raw(len(keys)), kind="stable")]
    keys = keys[np.argsort(keys // dataset.num_items, kind="stable")]
    rows = _positives(keys, dataset.num_items)
    users = rows.users
    totals = np.bincount(users, minlength=dataset.num_users)
    train_count, valid_count, _ = ratio_counts(totals)
    position = _positions_within(totals)
    in_train = position < train_count[users]
    in_valid = ~in_train & (position < (train_count + valid_count)[users])
    train, valid, test = (rows.take(x) for x in (in_train, in_valid, ~in_train & ~in_valid))
    indptr, history = history_of(train, dataset.num_users, dataset.num_items)
    return PreparedData(
        dataset=dataset,
        seed=int(seed),
        train=train,
        valid=valid,
        test=test,
        oracle_test=None,
        history_indptr=indptr,
        history_items=history,
        dropped_users=0,
        dropped_examples=0,
        hash=_digest(dataset, int(seed), rows, (train, valid, test)),
        protocol="recbole",
    )


def _prepare_given(dataset: Dataset, seed: int) -> PreparedData:
    """Take the split that the files make, as far as they make one.

    Without a validation file a tenth of a user's train positives, rounded down but at least one, is
    held out for 10,000 users, or all, who have two or more.
    """
    stream = random_stream(seed, HELD_OUT)
    if dataset.split is None:
        raise ConfigError(
            f"protocol: found 'fixed', expected another one: {dataset.name} is not split, as by"
            " train.txt and test.txt, or by RecBole's *.train.inter and *.test.inter"
        )
    validate(dataset)
    keys, positive = _pair_keys(dataset)
    files = dataset.split.files
    train, valid, test = (
        sorted_distinct(keys[positive & (files & part > 0)])
        for part in (GivenSplit.TRAIN, GivenSplit.VALID, GivenSplit.TEST)
    )
    for name, part in (("train", train), ("test", test)):
        if not len(part):
            raise DataError(f"{dataset.name}: found no positive in {name}, expected some")
    before = sorted_distinct(np.concatenate([train, valid]))
    held_out_users = 0
    if not len(valid):
        held = _held_out(stream, train // dataset.num_items)
        train, valid = train[~held], train[held]
        if not len(valid):
            raise DataError(
                f"{dataset.name}: found no user with two positives in train, expected some, of"
                " whom validation is held out"
            )
        held_out_users = len(sorted_distinct(valid // dataset.num_items))
    odd = {"held_out_users": held_out_users, "repeated": dataset.split.repeated}
    return _of_positives(dataset, seed, "fixed", (train, valid, test), before, odd)


def _prepare_by_time(dataset: Dataset, seed: int, protocol: str) -> PreparedData:
    """Split the distinct positives by the first time of each.

    "temporal": at two moments for all, before which eight and nine tenths lie. "temporal_user":
    each user's last ones, as many as under "recbole".
    """
    random_stream(seed, SPLIT)  # refuses what is no seed; nothing is drawn
    if dataset.times is None:
        raise ConfigError(
            f"protocol: found {protocol!r}, expected another one: {dataset.name} has no time for"
            " every row"
        )
    validate(dataset)
    keys, positive = _pair_keys(dataset)
    keys, times = first_times(keys[positive], dataset.times[positive])
    if len(keys) < 5:
        raise DataError(f"{dataset.name}: found {len(keys)} positives, expected at least 5")
    if protocol == "temporal":
        split = at_a_moment(dataset.name, times)
    else:
        users = keys // dataset.num_items
        train, valid, _ = ratio_counts(np.bincount(users, minlength=dataset.num_users))
        split = of_each_user(users, times, train, valid)
    parts = tuple(keys[split.part == part] for part in range(3))
    odd = {"by_time": True, "valid_from": split.valid_from, "test_from": split.test_from}
    return _of_positives(dataset, seed, protocol, parts, keys[split.part < 2], odd)


def _of_positives(
    dataset: Dataset,
    seed: int,
    protocol: str,
    keys: tuple[Int64, ...],
    before: Int64,
    odd: dict[str, Any],
) -> PreparedData:
    """Prepared data of the positives of train, validation and test, which nothing is drawn for.

    Args:
        dataset: the data set.
        seed: of the run.
        protocol: its name.
        keys: user * I + item of train, validation and test, each rising and distinct.
        before: of train and validation together, rising.
        odd: further fields of `SplitCounts`.
    """
    train, valid, test = keys
    parts = tuple(_positives(part, dataset.num_items) for part in keys)
    indptr, history = history_of(parts[0], dataset.num_users, dataset.num_items)
    users, items = np.divmod(test, dataset.num_items)
    known_users, known_items = np.divmod(before, dataset.num_items)
    known = _is_in_sorted(test, before)
    counts = SplitCounts(
        train=len(train),
        valid=len(valid),
        test=len(test),
        overlapping=int(np.count_nonzero(known)),
        unranked_users=_count_new(users[known], users[~known]),
        new_users=_count_new(users, known_users),
        new_items=_count_new(items, known_items),
        **{"held_out_users": 0, "repeated": 0, **odd},
    )
    return PreparedData(
        dataset=dataset,
        seed=int(seed),
        train=parts[0],
        valid=parts[1],
        test=parts[2],
        oracle_test=None,
        history_indptr=indptr,
        history_items=history,
        dropped_users=0,
        dropped_examples=0,
        hash=_digest(dataset, int(seed), _positives(before, dataset.num_items), parts),
        protocol=protocol,
        counts=counts,
    )


def _held_out(stream: np.random.Generator, users: Int64) -> NDArray[np.bool_]:
    """Mask [n] of the train positives to hold out, of users [n], rising."""
    totals = np.bincount(users)
    chosen = np.flatnonzero(totals > 1)
    order = np.argsort(stream.bit_generator.random_raw(len(totals))[chosen], kind="stable")
    chosen = chosen[order[:HELD_OUT_USERS]]
    count = np.zeros_like(totals)
    count[chosen] = np.maximum(totals[chosen] // 10, 1)
    mine = np.flatnonzero(count[users])
    mine = mine[np.argsort(stream.bit_generator.random_raw(len(users))[mine], kind="stable")]
    mine = mine[np.argsort(users[mine], kind="stable")]
    position = _positions_within(np.where(count, totals, 0))
    mask = np.zeros(len(users), dtype=np.bool_)
    mask[mine[position < count[users[mine]]]] = True
    return mask


def with_validation(prepared: PreparedData) -> PreparedData:
    """Prepared data whose train part has the validation part in it too, for the last training.

    The hash stays that of the split; the test part and what counts as relevant do as well.
    """
    dataset, parts = prepared.dataset, (prepared.train, prepared.valid)
    train = Examples(
        *(np.concatenate([getattr(p, x) for p in parts]) for x in ("users", "items", "labels"))
    )
    if prepared.protocol in RANKING:
        keys = train.users.astype(np.int64) * dataset.num_items + train.items
        train = _positives(sorted_distinct(keys), dataset.num_items)
    indptr, items = history_of(train, dataset.num_users, dataset.num_items)
    return replace(prepared, train=train, history_indptr=indptr, history_items=items)


def _pair_keys(dataset: Dataset) -> tuple[Int64, NDArray[np.bool_]]:
    """Keys user * I + item [n] of a data set's rows, and which of them are positives."""
    pairs = dataset.rows if dataset.rows is not None else dataset.interactions
    assert pairs is not None
    keys: Int64 = pairs.users.astype(np.int64) * dataset.num_items + pairs.items
    return keys, pairs.labels == 1 if isinstance(pairs, Examples) else pairs.positive


def _positives(keys: Int64, num_items: int) -> Examples:
    """Examples, all positive, of keys user * I + item [n]."""
    users, items = np.divmod(keys, num_items)
    return Examples(
        users.astype(np.int32), items.astype(np.int32), np.ones(len(keys), dtype=np.int8)
    )


def ratio_counts(totals: Int64) -> tuple[Int64, Int64, Int64]:
    """Numbers of a user's positives [U] that go to train, validation and test.

    A tenth each goes to test and validation, rounded down; but with fewer than ten, one goes to
    test and then one to validation, as long as more than one is left for train.
    """
    tenth = (0.1 * totals).astype(np.int64)
    few = (totals > 0) & (totals < 10)
    train = totals - 2 * tenth
    extra = []
    for _ in ("test", "validation"):
        extra.append((few & (train > 1)).astype(np.int64))
        train = train - extra[-1]
    return train, tenth + extra[1], tenth + extra[0]


def history_of(rows: Examples, num_users: int, num_items: int) -> tuple[Int64, Int32]:
    """Positives per user as a CSR table.

    Returns:
        indptr [U + 1] int64 and items [indptr[-1]] int32, sorted and distinct within a user.
    """
    positive = rows.labels == 1
    keys = sorted_distinct(rows.users[positive].astype(np.int64) * num_items + rows.items[positive])
    users = keys // num_items
    indptr = np.zeros(num_users + 1, dtype=np.int64)
    np.cumsum(np.bincount(users, minlength=num_users), out=indptr[1:])
    return indptr, (keys - users * num_items).astype(np.int32)


def label_rows(dataset: Dataset, seed: int) -> tuple[Examples, int]:
    """Examples of a data set: its own, or its positives with drawn negatives.

    Returns:
        The examples, and the number of negatives missing because users ran out of items.
    """
    if dataset.rows is not None:
        return dataset.rows, 0
    assert dataset.interactions is not None
    clicks = dataset.interactions
    users, items, missing = draw_negatives(
        random_stream(seed, NEGATIVES), clicks, dataset.num_users, dataset.num_items
    )
    positive = clicks.positive
    labels = np.zeros(int(positive.sum()) + len(users), dtype=np.int8)
    labels[: len(labels) - len(users)] = 1
    rows = Examples(
        np.concatenate([clicks.users[positive], users]),
        np.concatenate([clicks.items[positive], items]),
        labels,
    )
    return rows, missing


def draw_negatives(
    stream: np.random.Generator, clicks: Interactions, num_users: int, num_items: int
) -> tuple[Int32, Int32, int]:
    """Draw for every user as many negatives as positives from the items never interacted with.

    The draw is uniform without replacement. It happens on ranks among a user's free items; a rank
    becomes an item by adding the number of consumed items in front of it.

    Returns:
        users [n] int32 and items [n] int32, sorted by both, and the number of negatives missing
        because a user had fewer free items than positives.
    """
    seen = sorted_distinct(clicks.users.astype(np.int64) * num_items + clicks.items)
    seen_users = seen // num_items
    seen_count = np.bincount(seen_users, minlength=num_users)
    free = num_items - seen_count
    wanted = np.bincount(clicks.users[clicks.positive], minlength=num_users)
    count = np.minimum(wanted, free)
    # A user who needs more than half of the free items draws those to leave out, because drawing
    # nearly all of them by rejection would take very many rounds.
    inverted = 2 * count > free
    ranks = _distinct_ranks(stream, np.where(inverted, free - count, count), free, num_items)
    if inverted.any():
        owner = np.repeat(np.arange(num_users), np.where(inverted, free, 0))
        every = owner * num_items + _positions_within(np.where(inverted, free, 0))
        left_out = inverted[ranks // num_items]
        taken = every[~_is_in_sorted(every, ranks[left_out])]
        ranks = np.sort(np.concatenate([ranks[~left_out], taken]))
    users = ranks // num_items
    items = items_of_ranks(ranks, seen, seen_count, num_items)
    return users.astype(np.int32), items.astype(np.int32), int((wanted - count).sum())


def items_of_ranks(ranks: Int64, seen: Int64, seen_count: Int64, num_items: int) -> Int64:
    """Items at ranks among those that a user has not consumed.

    Args:
        ranks: [n] user * I + rank, from 0, among the user's other items.
        seen: [sum of seen_count] consumed items, user * I + item, sorted and distinct.
        seen_count: [U].
        num_items: I.
    """
    users = ranks // num_items
    starts = np.cumsum(seen_count) - seen_count
    before = seen - _positions_within(seen_count)
    skipped = np.searchsorted(before, ranks, side="right") - starts[users]
    items: Int64 = ranks - users * num_items + skipped
    return items


def _distinct_ranks(stream: np.random.Generator, count: Int64, free: Int64, stride: int) -> Int64:
    """``count[u]`` distinct numbers below ``free[u]`` for every u, as sorted keys u*stride + rank.

    Numbers already drawn are drawn again. At most half of a user's numbers are wanted, so every
    round settles at least half of what is missing, on average.
    """
    missing = count.copy()
    kept = np.empty(0, dtype=np.int64)
    while True:
        owner = np.repeat(np.arange(len(count)), missing)
        if not len(owner):
            return kept
        rank = (stream.random(len(owner)) * free[owner]).astype(np.int64)
        fresh = sorted_distinct(owner * stride + rank)
        fresh = fresh[~_is_in_sorted(fresh, kept)]
        missing -= np.bincount(fresh // stride, minlength=len(count))
        kept = np.sort(np.concatenate([kept, fresh]), kind="stable")


def sorted_distinct(keys: Int64) -> Int64:
    """Distinct keys, rising; sorting them is faster than the hash table of `np.unique`."""
    keys = np.sort(keys)
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys


def _is_in_sorted(values: Int64, table: Int64) -> NDArray[np.bool_]:
    if not len(table):
        return np.zeros(len(values), dtype=np.bool_)
    found = np.searchsorted(table, values)
    result: NDArray[np.bool_] = table[np.minimum(found, len(table) - 1)] == values
    return result


def _count_new(values: Int64, known: Int64) -> int:
    """Number of distinct values that are not among others."""
    found = sorted_distinct(values)
    return len(found) - int(np.count_nonzero(_is_in_sorted(found, sorted_distinct(known))))


def _positions_within(counts: Int64) -> Int64:
    """Positions 0..counts[0]-1, 0..counts[1]-1 and so on, end to end."""
    starts = np.cumsum(counts) - counts
    result: Int64 = np.arange(int(counts.sum())) - np.repeat(starts, counts)
    return result


def _digest(dataset: Dataset, seed: int, rows: Examples, splits: tuple[Examples, ...]) -> str:
    """First 16 hex digits of a sha256 over counts, seed, rows, splits and triples.

    Little-endian bytes are hashed, and neither name nor path, so equal data give equal hashes.
    """
    counts = (
        seed,
        dataset.num_users,
        dataset.num_items,
        dataset.num_entities,
        dataset.num_relations,
        *(len(part) for part in (rows, *splits)),
        dataset.num_triples,
    )
    digest = hashlib.sha256(" ".join(map(str, counts)).encode())
    arrays: list[NDArray[Any]] = [dataset.heads, dataset.relations, dataset.tails]
    for part in (rows, *splits):
        arrays += [part.users, part.items, part.labels]
    for array in arrays:
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(np.ascontiguousarray(little).data)
    return digest.hexdigest()[:16]
