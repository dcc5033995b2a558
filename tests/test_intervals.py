"""Corrected resampled intervals, Holm's adjustment, the highest of many and the knee."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import reference
from histofast.learning import (
    METRICS_OF,
    RANGES,
    Metric,
    against_highest,
    corrected_difference,
    corrected_differences,
    corrected_interval,
    holm,
    knee,
    repeats_needed,
    wider,
)

SEEDS = st.integers(0, 999)
NAN = math.nan


def bounds(found):
    return [found.value, found.low, found.high]


# --- Intervals ---------------------------------------------------------------------------------


def test_the_worked_case():
    """transition2 less relu5 on 110 patients: the bootstrap said worse, this says not shown."""
    d = [0.10, 0.17, 0.27, 0.06, 0.09]
    found = corrected_interval(d, test_share=1 / 5)
    assert found.value == pytest.approx(0.138)
    assert (found.low, found.high) == (
        pytest.approx(-0.02, abs=0.005),
        pytest.approx(0.29, abs=0.006),
    )
    difference = corrected_difference(d, np.zeros(5), test_share=1 / 5)
    assert bounds(difference) == bounds(found)
    assert (difference.low_adjusted, difference.high_adjusted) == (found.low, found.high)
    assert not difference.is_shown
    assert difference.p == difference.p_adjusted > 0.05


@given(seed=SEEDS, n=st.integers(2, 20), share=st.floats(0.05, 0.9), level=st.floats(0.5, 0.99))
@settings(max_examples=60)
def test_interval_and_p_are_their_definition(seed, n, share, level):
    values = np.random.default_rng(seed).normal(0.7, 0.1, n)
    found = corrected_interval(values, test_share=share, confidence=level)
    assert bounds(found) == pytest.approx(reference.corrected_interval(values, share, level))
    mean, error, freedom = reference.corrected_t(values - 0.6, share)
    p = corrected_difference(values, np.full(n, 0.6), test_share=share).p
    assert p == pytest.approx(2 * stats.t.sf(abs(mean) / error, freedom))


def test_without_shared_patients_it_is_the_interval_of_student():
    values = np.array([0.8, 0.7, 0.9, 0.6])
    found = corrected_interval(values, test_share=1e-12)
    wanted = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(wanted)
    p = corrected_difference(values, np.full(4, 0.65), test_share=1e-12).p
    assert p == pytest.approx(stats.ttest_1samp(values, 0.65).pvalue)


def test_more_repeats_do_not_make_more_patients():
    """The term of the patients stays, however often the same ones are dealt again."""
    values = np.tile([0.7, 0.8, 0.9, 0.75, 0.85], 200)
    found = corrected_interval(values, test_share=1 / 5)
    least = stats.norm.ppf(0.975) * values.std() * math.sqrt(1 / 4)
    assert found.high - found.value > least


def test_it_covers_where_student_does_not():
    """Folds of one data set after the other: the truth is that of endless data."""
    rng = np.random.default_rng(0)
    covered = {"corrected": 0, "student": 0}
    for _ in range(200):
        x = rng.normal(size=40)
        values = np.array(
            [
                x[order[8:]].mean() + x[order[:8]].mean()
                for order in (rng.permutation(40) for _ in range(15))
            ]
        )
        found = corrected_interval(values, test_share=1 / 5)
        covered["corrected"] += found.low <= 0 <= found.high
        low, high = stats.t.interval(0.95, 14, values.mean(), stats.sem(values))
        covered["student"] += low <= 0 <= high
    assert covered["student"] < 0.6 * 200
    assert covered["corrected"] > covered["student"] + 40


@pytest.mark.parametrize("values", [[], [0.5], [NAN, 0.5, NAN], [0.7, 0.7, 0.7], [1.0] * 15])
def test_no_spread_is_no_interval(values):
    found = corrected_interval(values, test_share=1 / 5)
    assert np.isnan([found.low, found.high]).all()
    assert math.isnan(found.value) == (not values)
    difference = corrected_difference(values, [0.1] * len(values), test_share=1 / 5)
    assert np.isnan([difference.low, difference.high, difference.p]).all()
    assert not difference.is_shown


def test_folds_with_one_class_are_left_out():
    values = [0.8, NAN, 0.7, 0.9]
    assert corrected_interval(values, test_share=1 / 4) == corrected_interval(
        [0.8, 0.7, 0.9], test_share=1 / 4
    )
    assert corrected_difference(values, [0.5, 0.5, NAN, 0.6], test_share=1 / 4).n == 2


def test_bounds_stay_where_the_metric_can_be():
    values = [0.999, 0.97, 1.0, 0.98, 0.995]
    free = corrected_interval(values, test_share=1 / 5)
    assert free.high > 1
    held = corrected_interval(values, test_share=1 / 5, of="auroc")
    assert (held.value, held.low, held.high) == (free.value, free.low, 1.0)
    low = corrected_interval([1 - v for v in values], test_share=1 / 5, of="ece")
    assert (low.low, low.high) == (0.0, pytest.approx(1 - free.low))
    assert corrected_interval([3.0, 9.0, 1.0], test_share=1 / 3, of="mae").low == 0
    assert bounds(corrected_interval(values, test_share=1 / 5, of="loss")) == bounds(free)
    assert np.isnan(bounds(corrected_interval([1.0, 1.0], test_share=1 / 2, of="auroc"))[1:]).all()
    known = {name for names in METRICS_OF.values() for name in names}
    assert set(RANGES) == known


# --- The highest of many -----------------------------------------------------------------------


@given(p=st.lists(st.floats(0, 1), min_size=0, max_size=8))
def test_holm_is_its_definition(p):
    np.testing.assert_allclose(holm(p), reference.holm(np.array(p)), atol=1e-15)


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03]), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(holm([0.9, NAN, 0.02]), [0.9, NAN, 0.04])


def many(seed, k=5, n=15):
    """Values of k candidates on n folds, hard and easy folds for all of them alike."""
    rng = np.random.default_rng(seed)
    folds = rng.normal(0.7, 0.05, n)
    return {f"c{i}": folds + rng.normal(0.02 * i, 0.04, n) for i in range(k)}


@given(seed=SEEDS)
@settings(max_examples=60)
def test_adjusted_interval_and_adjusted_p_say_the_same(seed):
    ranking = against_highest(many(seed), test_share=1 / 5)
    assert ranking.standings[ranking.highest].difference is None
    others = [s.difference for s in ranking.standings.values() if s.difference is not None]
    assert len(others) == 4
    np.testing.assert_allclose([d.p_adjusted for d in others], holm([d.p for d in others]))
    for d in others:
        assert d.value <= 0
        assert d.is_shown == (d.p_adjusted < 0.05)
        assert d.low_adjusted <= d.low <= d.high <= d.high_adjusted


@given(seed=SEEDS)
@settings(max_examples=30)
def test_differences_told_together_are_each_by_itself_and_adjusted_for_their_number(seed):
    values = many(seed)
    base = values.pop("c0")
    pairs = {("c0", name): (other, base) for name, other in values.items()}
    pairs["none"] = base, base  # without an interval, so it does not count
    found = corrected_differences(pairs, test_share=1 / 5)
    assert list(found) == list(pairs)
    adjusted = [found[name].p_adjusted for name in pairs if name != "none"]
    np.testing.assert_allclose(
        adjusted, reference.holm(np.array([found[name].p for name in pairs if name != "none"]))
    )
    assert math.isnan(found["none"].p_adjusted)
    for name, pair in pairs.items():
        alone = corrected_difference(*pair, test_share=1 / 5)
        assert bounds(found[name]) == pytest.approx(bounds(alone), nan_ok=True)
        assert found[name].is_shown == (found[name].p_adjusted < 0.05)
    assert corrected_differences({}, test_share=1 / 5) == {}


@given(seed=SEEDS, k=st.integers(1, 9))
@settings(max_examples=30)
def test_repeats_needed_are_the_fewest_that_would_show_it(seed, k):
    d = np.random.default_rng(seed).normal(0.1, 0.08, 6)
    zero, level = np.zeros(6), 1 - 0.05 / k
    needed = repeats_needed(d, zero, test_share=1 / 5, comparisons=k)

    def is_shown(n):
        _, error, _ = reference.corrected_t(d, 1 / 5)
        error *= np.sqrt((1 / n + 1 / 4) / (1 / 6 + 1 / 4))
        return abs(d.mean()) > stats.t.ppf((1 + level) / 2, n - 1) * error

    if needed is None:
        assert not is_shown(1000)
    else:
        assert is_shown(needed)
        assert needed == 2 or not is_shown(needed - 1)


def test_no_number_of_repeats_makes_up_for_patients():
    assert repeats_needed([0.1, -0.1, 0.15], np.zeros(3), test_share=1 / 5) is None
    assert repeats_needed([0.1, 0.1], [0.0, 0.0], test_share=1 / 5) is None
    assert repeats_needed([0.1, 0.12, 0.09], np.zeros(3), test_share=1 / 5) in (2, 3)


def test_ranking_holds_means_and_paired_differences():
    values = many(1)
    ranking = against_highest(values, test_share=1 / 5)
    assert list(ranking.standings) == list(values)
    assert ranking.highest == max(values, key=lambda name: values[name].mean())
    for name, standing in ranking.standings.items():
        assert standing.metric == corrected_interval(values[name], test_share=1 / 5)
        if standing.difference:
            alone = corrected_difference(values[name], values[ranking.highest], test_share=1 / 5)
            assert bounds(standing.difference) == bounds(alone)
            assert standing.difference.p == alone.p


def test_chance_alone_is_seldom_shown():
    """Five candidates that are the same: at most about one study in twenty tells any apart."""
    rng = np.random.default_rng(0)
    shown = 0
    for _ in range(200):
        values = {f"c{i}": rng.normal(0.7, 0.05, 15) for i in range(5)}
        ranking = against_highest(values, test_share=1 / 5)
        shown += any(s.difference and s.difference.is_shown for s in ranking.standings.values())
    assert shown <= 15


def test_lower_is_better():
    values = {"a": [0.2, 0.3, 0.25], "b": [0.4, 0.5, 0.44]}
    ranking = against_highest(values, test_share=1 / 3, higher_is_better=False)
    assert ranking.highest == "a"
    assert ranking.standings["b"].difference.value > 0
    assert knee(ranking, patients=30).name == "a"


def test_a_candidate_without_values_is_not_the_highest():
    ranking = against_highest({"a": [NAN, NAN], "b": [0.5, 0.6]}, test_share=1 / 2)
    assert ranking.highest == "b"
    assert math.isnan(ranking.standings["a"].metric.value)
    assert ranking.standings["a"].n == 0
    found = knee(ranking, patients=10)
    assert (found.name, found.patients_needed) == (None, None)


# --- The knee ----------------------------------------------------------------------------------


def folds_of(mean, half, n=15, share=1 / 5):
    """(n,) differences with this mean and half width of the corrected interval."""
    values = np.linspace(-1, 1, n)
    values *= half / (corrected_interval(values, test_share=share).high)
    return mean + values


def ranked(**gains):
    base = np.random.default_rng(3).normal(0.7, 0.01, 15)
    return against_highest(
        {name: base + gain for name, gain in gains.items()} | {"highest": base}, test_share=1 / 5
    )


def test_the_cheapest_that_is_close_enough():
    ranking = ranked(
        worse=folds_of(-0.2, 0.05), cheap=folds_of(-0.01, 0.03), dear=folds_of(-0.001, 0.001)
    )
    assert ranking.highest == "highest"
    assert knee(ranking, patients=100).name == "cheap"
    assert knee(ranking, patients=100, tolerance=0.02).name == "dear"


def test_a_small_deficit_that_is_shown_is_no_knee():
    ranking = ranked(cheap=folds_of(-0.03, 0.01))
    assert ranking.standings["cheap"].difference.low > -0.05
    assert knee(ranking, patients=100).name == "highest"


def test_where_data_cannot_tell_there_is_no_knee():
    ranking = ranked(wide=folds_of(-0.01, 0.12), wider=folds_of(-0.01, 0.16))
    found = knee(ranking, patients=110)
    assert found.name is None
    assert found.closest == "wide"
    assert found.patients_needed == pytest.approx(110 * (0.12 / 0.04) ** 2, abs=1)
    far = knee(ranked(far=folds_of(-0.06, 0.12)), patients=110)
    assert (far.name, far.closest, far.patients_needed) == (None, "far", None)


def test_the_highest_is_the_knee_when_all_cheaper_ones_are_worse_or_it_is_the_cheapest():
    assert knee(ranked(a=folds_of(-0.3, 0.05)), patients=9).name == "highest"
    assert knee(ranked(), patients=9).name == "highest"
    perfect = against_highest({"a": [1.0] * 5, "b": [1.0] * 5}, test_share=1 / 5)
    assert (perfect.highest, knee(perfect, patients=9).name) == ("a", "a")


def test_one_fold_is_no_knee():
    one = against_highest({"a": [0.5], "b": [0.6]}, test_share=1 / 3)
    assert knee(one, patients=9).name is None


# --- Beside the interval over patients ---------------------------------------------------------


def test_the_wider_one():
    narrow, wide, none = (
        Metric(value=0.5, low=low, high=high) for low, high in ((0.4, 0.6), (0.2, 0.7), (NAN, NAN))
    )
    assert wider(narrow, wide) is wider(wide, narrow) is wide
    assert wider(none, narrow) is wider(narrow, none) is narrow


# --- Refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: corrected_interval([0.1], test_share=0),
            "test_share must be between 0 and 1, got",
        ),
        (
            lambda: corrected_interval([0.1], test_share=1),
            "test_share must be between 0 and 1, got",
        ),
        (
            lambda: corrected_interval([0.1], test_share=0.2, confidence=1),
            "confidence must be between 0 and 1, got 1",
        ),
        (
            lambda: corrected_interval(np.zeros((2, 2)), test_share=0.2),
            r"values must be of shape \(n,\), one per fold, got \(2, 2\)",
        ),
        (
            lambda: corrected_interval([0.1, math.inf], test_share=0.2),
            "values must be finite or NaN, got infinity",
        ),
        (
            lambda: corrected_difference([0.1], [0.1, 0.2], test_share=0.2),
            r"others must be of the same folds .*, got \(1,\) and \(2,\)",
        ),
        (
            lambda: against_highest({"a": [0.9, 0.8], "b": [0.1]}, test_share=0.2),
            r"b must be of the same folds .*, got \(1,\) and \(2,\)",
        ),
        (
            lambda: corrected_differences({"b": ([0.1], [0.1, 0.2])}, test_share=0.2),
            r"b must be of the same folds .*, got \(1,\) and \(2,\)",
        ),
        (
            lambda: corrected_differences({}, test_share=1),
            "test_share must be between 0 and 1, got 1",
        ),
        (
            lambda: repeats_needed([0.1], [0.2], test_share=0.2, comparisons=0),
            "comparisons must be at least 1, got 0",
        ),
        (lambda: against_highest({}, test_share=0.2), "values must have at least one candidate"),
        (
            lambda: against_highest({"a": [NAN], "b": [NAN]}, test_share=0.2),
            "values must be defined in some fold, got NaN in all of 2",
        ),
        (lambda: knee(ranked(), patients=9, tolerance=0), "tolerance must be above 0, got 0"),
        (lambda: knee(ranked(), patients=0), "patients must be at least 1, got 0"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
