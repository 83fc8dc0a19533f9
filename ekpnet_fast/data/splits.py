"""Splits of a data set by each protocol.

"ripplenet": as many negatives as positives per user, drawn once; all split 6:2:2 at random.
"recbole": each user's positives split 8:1:1 at random; negatives are drawn in training, anew for
each epoch (`ekpnet_fast.sampling.negatives`).
"fixed": train and test as the files of the data set say, validation too or else drawn from train;
negatives as under "recbole".
"temporal": by time, at one moment for all, or, "temporal_user", each user's last positives;
negatives as under "recbole" (see `temporal.py`).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.negatives import label_rows
from ekpnet_fast.data.pair_keys import (
    Int64,
    count_new,
    history_of,
    is_in_sorted,
    pair_keys,
    positions_within,
    positives_of,
    sorted_distinct,
)
from ekpnet_fast.data.streams import (
    HELD_OUT,
    RATIO_SPLIT,
    SPLIT,
    drawn_order,
    order_of,
    random_stream,
)
from ekpnet_fast.data.tables import (
    Dataset,
    Examples,
    GivenSplit,
    PreparedData,
    SplitCounts,
    validate,
)
from ekpnet_fast.data.temporal import Cut, at_a_moment, first_times, of_each_user
from ekpnet_fast.errors import ConfigError, DataError

__all__ = [
    "PROTOCOLS",
    "RANKING",
    "TEMPORAL",
    "prepare",
    "ratio_counts",
    "with_validation",
]

TEMPORAL = ("temporal", "temporal_user")
"""Protocols that split by time: what lies before the cut is all that test may know."""
PROTOCOLS = ("ripplenet", "recbole", "fixed", *TEMPORAL)
RANKING = ("recbole", "fixed", *TEMPORAL)
"""Protocols whose splits hold positives only: they measure lists, and training draws negatives."""

HELD_OUT_USERS = 10_000  # of whom validation is drawn from train, at most


def prepare(
    dataset: Dataset, seed: int, protocol: str = "ripplenet", cut: Cut = None
) -> PreparedData:
    """Split a data set and collect train histories.

    Args:
        dataset: the data set.
        seed: of what is drawn.
        protocol: one of `PROTOCOLS`.
        cut: where test begins under "temporal": see `temporal.at_a_moment`.

    Raises:
        ConfigError: a seed that is not a whole number from 0, an unknown protocol, "fixed" for data
            that are not split, one by time for data without times, or a cut for another protocol.
        DataError: ids out of range, fewer than 5 rows, or no positive in a part that needs some.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol: found {protocol!r}, expected {' or '.join(PROTOCOLS)}")
    ways = {"ripplenet": _prepare_rows, "recbole": _prepare_ratio, "fixed": _prepare_given}
    if cut is not None and protocol != "temporal":
        raise ConfigError(f"cut: found {cut!r} with protocol {protocol!r}, expected 'temporal'")
    if protocol in TEMPORAL:
        return _prepare_by_time(dataset, seed, protocol, cut)
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
    held_out = count // 5
    parts = np.split(_shuffled(stream, count), [count - 2 * held_out, count - held_out])
    indptr, items = history_of(rows.take(parts[0]), dataset.num_users, dataset.num_items)
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


def _shuffled(stream: np.random.Generator, count: int) -> NDArray[np.integer]:
    """Numbers below a count in drawn order, of the smallest type."""
    order = drawn_order(stream, count)
    return order.astype(np.int32) if count < 1 << 31 else order


def _prepare_ratio(dataset: Dataset, seed: int) -> PreparedData:
    """Split each user's distinct positives at random 8:1:1, as RecBole does with
    `split: {RS: [0.8, 0.1, 0.1]}, group_by: user, order: RO`.
    """
    stream = random_stream(seed, RATIO_SPLIT)
    validate(dataset)
    keys, positive = pair_keys(dataset)
    keys = sorted_distinct(keys[positive])
    if len(keys) < 5:
        raise DataError(f"{dataset.name}: found {len(keys)} positives, expected at least 5")
    keys = keys[drawn_order(stream, len(keys))]
    keys = keys[np.argsort(keys // dataset.num_items, kind="stable")]
    rows = positives_of(keys, dataset.num_items)
    users = rows.users
    totals = np.bincount(users, minlength=dataset.num_users)
    train_count, valid_count, _ = ratio_counts(totals)
    position = positions_within(totals)
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
    keys, positive = pair_keys(dataset)
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
                " whom validation is held out, or a file of validation: valid.txt, *.valid.inter or"
                " --valid of an import"
            )
        held_out_users = len(sorted_distinct(valid // dataset.num_items))
    odd = {"held_out_users": held_out_users, "repeated": dataset.split.repeated}
    return _ofpositives_of(dataset, seed, "fixed", (train, valid, test), before, odd)


def _prepare_by_time(dataset: Dataset, seed: int, protocol: str, cut: Cut) -> PreparedData:
    """Split the distinct positives by the first time of each.

    "temporal": at two moments for all, before which eight and nine tenths lie, or as the cut says.
    "temporal_user": each user's last ones, as many as under "recbole".
    """
    random_stream(seed, SPLIT)  # refuses what is no seed; nothing is drawn
    if dataset.times is None:
        raise ConfigError(
            f"protocol: found {protocol!r}, expected another one: {dataset.name} has no time for"
            " every row"
        )
    validate(dataset)
    keys, positive = pair_keys(dataset)
    keys, times = first_times(keys[positive], dataset.times[positive])
    if len(keys) < 5:
        raise DataError(f"{dataset.name}: found {len(keys)} positives, expected at least 5")
    if protocol == "temporal":
        split = at_a_moment(dataset.name, times, cut)
    else:
        users = keys // dataset.num_items
        train, valid, _ = ratio_counts(np.bincount(users, minlength=dataset.num_users))
        split = of_each_user(users, times, train, valid)
    parts = tuple(keys[split.part == part] for part in range(3))
    odd = {"by_time": True, "valid_from": split.valid_from, "test_from": split.test_from}
    return _ofpositives_of(dataset, seed, protocol, parts, keys[split.part < 2], odd)


def _ofpositives_of(
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
    parts = tuple(positives_of(part, dataset.num_items) for part in keys)
    indptr, history = history_of(parts[0], dataset.num_users, dataset.num_items)
    users, items = np.divmod(test, dataset.num_items)
    known_users, known_items = np.divmod(before, dataset.num_items)
    known = is_in_sorted(test, before)
    counts = SplitCounts(
        train=len(train),
        valid=len(valid),
        test=len(test),
        overlapping=int(np.count_nonzero(known)),
        unranked_users=count_new(users[known], users[~known]),
        new_users=count_new(users, known_users),
        new_items=count_new(items, known_items),
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
        hash=_digest(dataset, int(seed), positives_of(before, dataset.num_items), parts),
        protocol=protocol,
        counts=counts,
    )


def _held_out(stream: np.random.Generator, users: Int64) -> NDArray[np.bool_]:
    """Mask [n] of the train positives to hold out, of users [n], rising."""
    totals = np.bincount(users)
    chosen = np.flatnonzero(totals > 1)
    order = order_of(stream.bit_generator.random_raw(len(totals))[chosen])
    chosen = chosen[order[:HELD_OUT_USERS]]
    count = np.zeros_like(totals)
    count[chosen] = np.maximum(totals[chosen] // 10, 1)
    mine = np.flatnonzero(count[users])
    mine = mine[order_of(stream.bit_generator.random_raw(len(users))[mine])]
    mine = mine[np.argsort(users[mine], kind="stable")]
    position = positions_within(np.where(count, totals, 0))
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
        train = positives_of(sorted_distinct(keys), dataset.num_items)
    indptr, items = history_of(train, dataset.num_users, dataset.num_items)
    return replace(prepared, train=train, history_indptr=indptr, history_items=items)


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
