"""The corrected t-test, against numbers worked out by hand and by scipy's own paired test."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from ekpnet_fast.experiments.significance import corrected_t_test


def test_by_hand():
    # d = 0.1, 0.2, 0.3: mean 0.2, variance 0.01, t = 0.2 / sqrt((1/3 + 1/3) 0.01) = sqrt(6).
    # With 2 degrees of freedom p = 1 - t / sqrt(2 + t^2) = 1 - sqrt(6 / 8).
    p = corrected_t_test([0.5, 0.7, 0.9], [0.4, 0.5, 0.6], 1 / 3)
    assert p == pytest.approx(1 - math.sqrt(6 / 8), abs=1e-12)


def test_without_overlap_it_is_the_plain_paired_test():
    a, b = [0.81, 0.83, 0.80, 0.85], [0.80, 0.80, 0.81, 0.82]
    assert corrected_t_test(a, b, 0.0) == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_the_correction_is_cautious():
    a, b = [0.81, 0.83, 0.80], [0.80, 0.81, 0.78]
    assert corrected_t_test(a, b, 1 / 3) > stats.ttest_rel(a, b).pvalue
    assert corrected_t_test(a, b, 1 / 3) == corrected_t_test(b, a, 1 / 3)


@pytest.mark.parametrize(("spread", "significant"), [(3.4, False), (3.6, True)])
def test_what_three_seeds_can_show(spread, significant):
    """A difference of about 3.5 standard deviations is the border that the docstring names."""
    d = [spread - 1, spread, spread + 1]  # standard deviation 1
    assert (corrected_t_test(d, [0.0] * 3, 1 / 3) < 0.05) is significant


def test_edges():
    assert math.isnan(corrected_t_test([0.5], [0.4], 1 / 3))
    assert corrected_t_test([0.5, 0.5], [0.5, 0.5], 1 / 3) == 1.0
    assert corrected_t_test([0.5, 0.6], [0.4, 0.5], 1 / 3) == 0.0
