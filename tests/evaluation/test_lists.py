"""What lists are like, by hand and as loops; intervals against draws that were written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ekpnet_fast.evaluation.lists import bootstrap_intervals, list_metrics


def test_list_metrics_by_hand():
    ranked = np.int32([[0, 1], [0, 2], [0, -1]])
    found = list_metrics(ranked, np.int64([3, 1, 0, 0]), num_users=3)
    # Items 0 to 3 are in 3, 1, 1 and 0 lists; of 4 users' worth of clicks + 1.
    assert found["coverage"] == 3 / 4
    assert found["gini"] == pytest.approx((-3 * 0 - 1 * 1 + 1 * 1 + 3 * 3) / (4 * 5))
    assert found["novelty"] == pytest.approx((3 * 0 + math.log2(4 / 2) + math.log2(4 / 1)) / 5)


def test_gini_is_the_mean_difference_over_twice_the_mean():
    ranked = np.random.default_rng(0).integers(0, 30, (200, 7)) ** 2 % 31
    shown = np.bincount(ranked.reshape(-1), minlength=40)
    differences = np.abs(shown[:, None] - shown[None]).mean()
    found = list_metrics(ranked, np.ones(40, dtype=np.int64), 1)
    assert found["gini"] == pytest.approx(differences / (2 * shown.mean()), rel=1e-12)
    even = list_metrics(np.arange(40).reshape(4, 10), np.ones(40, dtype=np.int64), 1)
    assert (even["gini"], even["coverage"], even["novelty"]) == (0, 1, 0)


def test_lists_without_entries_have_no_gini():
    found = list_metrics(np.full((2, 3), -1), np.ones(4, dtype=np.int64), 1)
    assert found["coverage"] == 0 and math.isnan(found["gini"]) and math.isnan(found["novelty"])


def test_intervals_hold_the_mean_and_its_normal_spread():
    values = np.random.default_rng(1).random((2, 3, 4000))
    found = bootstrap_intervals(values, seed=5)
    means, errors = values.mean(axis=2), values.std(axis=2) / math.sqrt(4000)
    assert found.shape == (2, 3, 2)
    assert np.abs(found[..., 0] - (means - 1.96 * errors)).max() < 0.2 * errors.max()
    assert np.abs(found[..., 1] - (means + 1.96 * errors)).max() < 0.2 * errors.max()


def test_intervals_depend_on_the_seed_alone():
    values = np.random.default_rng(2).random((3, 50))
    first, again, other = (bootstrap_intervals(values, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    # Each row is drawn with the same users, so one alone gives what it gives among others.
    assert np.array_equal(bootstrap_intervals(values[1:2], 0), first[1:2])


def test_one_value_for_all_has_no_spread_and_no_user_no_interval():
    assert bootstrap_intervals(np.full((1, 9), 0.25), 0).tolist() == [[0.25, 0.25]]
    assert np.isnan(bootstrap_intervals(np.zeros((2, 0)), 0)).all()
