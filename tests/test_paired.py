"""Differences over the same rows: what is common to groups cancels; intervals, p and Holm by their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from histofast.learning import (
    differences_of_draws,
    differences_of_sums,
    holm,
    nearest,
    paired_differences,
)

SEEDS = st.integers(0, 999)


def drawn(count, *, resamples, seed):
    """How often each group is drawn, as the function draws it."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples)


@given(seed=SEEDS, lacking=st.booleans())
@settings(max_examples=20)
def test_value_interval_and_p_are_their_definition(seed, lacking):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(7), [3, 1, 2, 4, 1, 2, 2])
    values, others = rng.normal(size=(2, 15))
    if lacking:
        values[3], others[9] = np.nan, np.nan
    found = paired_differences({"a": (values, others)}, groups=groups, resamples=199, seed=seed)[
        "a"
    ]

    def of(rows):
        return reference.paired_difference(values, others, rows)

    draws = reference.draws_of_groups(of, groups, drawn(7, resamples=199, seed=seed))
    draws = draws[~np.isnan(draws)]
    assert found.value == pytest.approx(of(range(15)))
    assert found.p == pytest.approx(reference.bootstrap_p(draws))
    wanted = reference.bootstrap_interval(draws, 0.05)
    assert (found.low, found.high) == pytest.approx(wanted)
    assert found.n == 7 - lacking  # the only row of a group is not known
    assert (found.low_adjusted, found.high_adjusted) == (found.low, found.high)


def test_what_is_common_to_slides_cancels(rng):
    """Both sources vary by 1 from slide to slide, one is 0.1 above the other: their own intervals overlap."""
    slides = np.arange(60) // 3
    level = rng.normal(size=20)[slides]
    values = level + 0.1 + rng.normal(scale=0.05, size=60)
    others = level + rng.normal(scale=0.05, size=60)
    found = paired_differences({"apart": (values, others)}, groups=slides)["apart"]
    assert 0.05 < found.low < found.value < found.high < 0.15
    assert found.is_shown
    alone = paired_differences(
        {"one": (values, np.zeros(60)), "other": (others, np.zeros(60))}, groups=slides
    )
    assert alone["one"].low < alone["other"].high


def test_rows_of_a_slide_are_no_independent_samples(rng):
    slides = np.arange(400) // 40
    apart = rng.normal(size=10)[slides]
    by_slide, by_row = (
        paired_differences({"a": (apart, np.zeros(400))}, groups=groups)["a"]
        for groups in (slides, np.arange(400))
    )
    assert by_slide.high - by_slide.low > 4 * (by_row.high - by_row.low)


@given(seed=SEEDS, k=st.integers(1, 6))
@settings(max_examples=20)
def test_several_are_adjusted_after_holm_and_intervals_agree_with_p(seed, k):
    rng = np.random.default_rng(seed)
    pairs = {j: (rng.normal(0.3 * j, 1, 40), np.zeros(40)) for j in range(k)}
    found = paired_differences(pairs, groups=np.arange(40) // 2, resamples=999, seed=seed)
    p = [one.p for one in found.values()]
    assert [one.p_adjusted for one in found.values()] == pytest.approx(reference.holm(np.array(p)))
    assert [one.p_adjusted for one in found.values()] == pytest.approx(holm(p))
    for one in found.values():
        assert one.is_shown == (one.p_adjusted < 0.05)
        assert (one.low > 0 or one.high < 0) == (one.p < 0.05)
        assert one.low_adjusted <= one.low <= one.high <= one.high_adjusted


def test_of_several_draws_it_is_the_one_that_comes_nearest(rng):
    values = rng.normal(1, 0.1, 30)
    draws = np.stack([values - 0.5, values - 0.2, values - 0.9])
    np.testing.assert_allclose(nearest(values, draws), 0.2)
    draws[1, :5] = np.nan
    assert np.isnan(nearest(values, draws)).sum() == 5
    draws[1] = np.nan
    np.testing.assert_allclose(nearest(values, draws), 0.5)
    above = nearest(values, np.stack([values - 0.5, values + 0.3]))
    np.testing.assert_allclose(above, -0.3)
    found = paired_differences({"a": (values, draws)}, groups=np.arange(30))["a"]
    assert found.value == pytest.approx(0.5)


def test_few_groups_have_no_interval_and_show_nothing(rng):
    values = rng.random(20)
    found = paired_differences({"a": (values + 1, values)}, groups=np.arange(20) % 4)["a"]
    assert found.value == pytest.approx(1)
    assert math.isnan(found.low)
    assert math.isnan(found.p_adjusted)
    assert not found.is_shown
    both = paired_differences(
        {"few": (np.where(np.arange(20) < 4, values, np.nan), values - 1), "all": (values, values)},
        groups=np.arange(20),
    )
    assert math.isnan(both["few"].high)
    assert both["all"].p_adjusted == both["all"].p  # what has no interval is no comparison
    nothing = paired_differences({"a": (np.full(6, np.nan), np.ones(6))}, groups=np.arange(6))["a"]
    assert math.isnan(nothing.value)


def test_equal_values_are_not_told_apart():
    found = paired_differences({"a": (np.ones(8), np.ones(8))}, groups=np.arange(8))["a"]
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert not found.is_shown
    assert paired_differences({}, groups=[]) == {}


def test_chance_is_shown_as_rarely_as_it_is_said():
    """Of 300 comparisons without a difference, about one in 20 is shown."""
    shown = 0
    for seed in range(300):
        values = np.random.default_rng(seed).normal(size=(2, 60))
        found = paired_differences(
            {"a": (values[0], values[1])}, groups=np.arange(60), resamples=399, seed=seed
        )
        shown += found["a"].is_shown
    assert 5 <= shown <= 27


def test_ratios_of_sums_are_drawn_with_what_they_are_over(rng):
    above, below = rng.normal(size=9), rng.integers(1, 5, 9).astype(float)
    found = differences_of_sums({"a": above}, {"a": below}, resamples=99, seed=3)["a"]
    assert found.value == pytest.approx(above.sum() / below.sum())
    times = drawn(9, resamples=99, seed=3)
    draws = (times * above).sum(1) / (times * below).sum(1)
    assert (found.low, found.high) == pytest.approx(reference.bootstrap_interval(draws, 0.05))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": np.ones(3)}, r"a must be \(n,\) or \(draws, n\) as values are \(n,\), got"),
        ({"others": np.full(8, np.inf)}, "a must be finite or NaN, got infinity"),
        ({"groups": np.arange(7)}, "groups must be 8"),
        ({"confidence": 1.0}, "confidence must be between 0 and 1, got 1"),
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
        ({"resamples": 39}, "resamples must be at least 40 to tell 1 difference together, got 39"),
    ],
)
def test_refuses(changed, message):
    given = {"values": np.arange(8.0), "others": np.ones(8), "groups": np.arange(8), **changed}
    pair = given.pop("values"), given.pop("others")
    with pytest.raises(ValueError, match=message):
        paired_differences({"a": pair}, **given)


def test_a_bound_needs_draws_beyond_it():
    draws = np.linspace(1, 2, 79)
    with pytest.raises(ValueError, match="at least 80 to tell 2 differences together, got 79"):
        differences_of_draws({"a": 1.5, "b": 1.5}, {"a": draws, "b": draws}, units={"a": 5, "b": 5})
