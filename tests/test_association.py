"""Pearson's r and its two intervals against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import reference_learning as reference
from histofast.learning import correlate

SEEDS = st.integers(0, 9999)


def points(seed, n, k):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return x, 0.4 * x + rng.normal(size=n), [f"set {i % k}" for i in range(n)]


@given(
    seed=SEEDS, n=st.integers(5, 40), k=st.integers(5, 8), confidence=st.sampled_from([0.9, 0.95])
)
@settings(max_examples=30)
def test_as_defined(seed, n, k, confidence):
    n = max(n, k)
    x, y, groups = points(seed, n, k)
    found = correlate(x, y, groups=groups, confidence=confidence, resamples=60, seed=seed)
    assert found.r == pytest.approx(reference.pearson(x, y), abs=1e-12)
    assert found.r == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert (found.n, found.groups) == (n, k)
    assert (found.low_points, found.high_points) == pytest.approx(
        reference.fisher(found.r, n, confidence), abs=1e-9
    )
    assert (found.low, found.high) == pytest.approx(
        reference.pearson_over_groups(x, y, groups, confidence, 60, seed), abs=1e-9
    )


@given(seed=SEEDS, scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
@settings(max_examples=30)
def test_units_change_nothing_and_a_sign_turns_it(seed, scale, shift):
    x, y, groups = points(seed, 20, 5)
    found = correlate(x, y, groups=groups, resamples=50)
    turned = correlate(shift - scale * x, y, groups=groups, resamples=50)
    assert turned.r == pytest.approx(-found.r, abs=1e-6)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-6)
    assert correlate(y, x, groups=groups, resamples=50).r == pytest.approx(found.r, abs=1e-12)


def test_points_without_a_number_are_left_out():
    x, y, groups = points(0, 20, 5)
    gap = x.copy()
    gap[[3, 7]] = np.nan
    kept = [i for i in range(20) if i not in (3, 7)]
    found = correlate(gap, y, groups=groups, resamples=50)
    assert found == correlate(x[kept], y[kept], groups=[groups[i] for i in kept], resamples=50)
    assert found.n == 18


def test_few_groups_have_no_interval_and_show_nothing():
    x = np.arange(12.0)
    found = correlate(x, x + np.tile([0.0, 0.1], 6), groups=np.arange(12) % 4)
    assert math.isnan(found.low)
    assert found.low_points > 0.9
    assert not found.is_shown
    assert correlate(x, x + np.tile([0.0, 0.1], 6), groups=np.arange(12) % 6).is_shown


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([], []),
        ([1.0], [2.0]),
        ([1.0, 2], [1.0, 3]),
        ([1.0, 1, 1], [1.0, 2, 3]),
        ([1.0, np.nan], [1.0, 2]),
    ],
)
def test_what_does_not_vary_has_no_r(x, y):
    found = correlate(x, y)
    assert math.isnan(found.r)
    assert math.isnan(found.low_points)
    assert not found.is_shown


def test_a_line_has_no_interval_of_fisher():
    assert math.isnan(correlate([1.0, 2, 3, 4, 5], [2.0, 4, 6, 8, 10]).low_points)


def test_equal_points_that_many_groups_share_narrow_fisher_only():
    """Five copies of each point: as many independent points they are not."""
    x, y, _ = points(3, 7, 7)
    once = correlate(x, y)
    five = correlate(np.repeat(x, 5), np.repeat(y, 5), groups=np.repeat(np.arange(7), 5))
    assert (five.r, five.low, five.high) == pytest.approx((once.r, once.low, once.high), abs=1e-9)
    assert five.high_points - five.low_points < (once.high_points - once.low_points) / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": [1.0, 2]}, r"x and y must be of one shape \(n,\), got \(3,\) and \(2,\)"),
        ({"x": [1.0, 2, np.inf]}, "x and y must be finite or NaN, got infinity"),
        ({"groups": ["a"]}, "groups must have one entry per point, got 1 for 3"),
        ({"confidence": 1.0}, r"confidence must be between 0 and 1, got 1\.0"),
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    given = {"x": [1.0, 2, 3], "y": [1.0, 2, 4]} | changes
    with pytest.raises(ValueError, match=message):
        correlate(given.pop("x"), given.pop("y"), **given)
