"""Steps to a threshold, their Kaplan-Meier median and ratios of it."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import reference_learning as reference
from histofast.learning import Reached, kaplan_meier, median_steps, speed_up, steps_to

SEEDS = st.integers(0, 9999)


def curve(seed, n=12):
    """A curve that rises, with noise and gaps."""
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.integers(1, 50, n))
    values = 1 - np.exp(-np.arange(n) / 4) + rng.normal(0, 0.1, n)
    values[rng.random(n) < 0.15] = np.nan
    values[0] = 0.0
    return steps, values


def runs(seed, n, *, share=0.3, common=False):
    """Runs with ties, some of them censored; at one step for all if `common`."""
    rng = np.random.default_rng(seed)
    at = rng.integers(1, 12, n)
    if common:
        last = int(rng.integers(3, 13))
        return [(float(min(a, last)), bool(a < last)) for a in at]
    return [(float(a), bool(r)) for a, r in zip(at, rng.random(n) > share, strict=True)]


def reached(pairs):
    return [Reached(steps=step, is_reached=is_reached) for step, is_reached in pairs]


def told(metric):
    return [metric.value, metric.low, metric.high]


def near(wanted):
    return pytest.approx(list(wanted), nan_ok=True)


# --- One curve -----------------------------------------------------------------------------------


def test_a_curve_by_hand():
    steps, values = [0, 100, 200, 300], [0.5, 0.6, 0.8, 0.7]
    assert steps_to(steps, values, 0.5) == Reached(steps=0.0, is_reached=True)
    assert steps_to(steps, values, 0.65).steps == pytest.approx(125)
    assert steps_to(steps, values, 0.8) == Reached(steps=200.0, is_reached=True)
    assert steps_to(steps, values, 0.81) == Reached(steps=300.0, is_reached=False)
    losses = [1.0, 0.8, 0.4, 0.6]
    assert steps_to(steps, losses, 0.5, higher_is_better=False).steps == pytest.approx(175)
    # Where the metric is not defined, the line goes past.
    assert steps_to(steps, [0.5, math.nan, 0.9, math.nan], 0.6).steps == pytest.approx(50)
    assert steps_to(steps, [0.5, 0.6, 0.7, math.nan], 0.9).steps == 200


@given(seed=SEEDS, threshold=st.floats(-0.2, 1.4), higher=st.booleans())
@settings(max_examples=150)
def test_a_curve_is_its_definition(seed, threshold, higher):
    steps, values = curve(seed)
    found = steps_to(steps, values, threshold, higher_is_better=higher)
    wanted = reference.steps_to(steps, values, threshold, higher_is_better=higher)
    assert (found.steps, found.is_reached) == (pytest.approx(wanted[0]), wanted[1])
    other = steps_to(steps, -values, -threshold, higher_is_better=not higher)
    assert other == found


@given(seed=SEEDS, one=st.floats(-0.2, 1.4), other=st.floats(-0.2, 1.4))
@settings(max_examples=150)
def test_a_higher_threshold_takes_no_fewer_steps(seed, one, other):
    steps, values = curve(seed)
    low, high = (steps_to(steps, values, at) for at in sorted((one, other)))
    assert low.steps <= high.steps + 1e-9
    assert low.is_reached or not high.is_reached


def test_refused_curves():
    for steps, values, message in (
        ([0, 1], [0.5], "values must be one for each of steps"),
        ([0, 0], [0.5, 0.6], "steps must be finite and ascend"),
        ([0, math.inf], [0.5, 0.6], "steps must be finite and ascend"),
        ([0, 1], [0.5, math.inf], "values and threshold must be finite"),
        ([0, 1], [math.nan, math.nan], "values must be defined at some step"),
    ):
        with pytest.raises(ValueError, match=message):
            steps_to(steps, values, 0.5)
    with pytest.raises(ValueError, match="threshold must be finite"):
        steps_to([0, 1], [0.5, 0.6], math.nan)


# --- Medians -------------------------------------------------------------------------------------


def test_medians_by_hand():
    # S: 3/4 at 100; of three at risk two at 300 after one was lost at 200: 3/4 x 1/2 = 3/8.
    found = reached([(100, True), (200, False), (300, True), (400, False)])
    shown = kaplan_meier(found)
    assert shown.steps.tolist() == [100, 300]
    np.testing.assert_allclose(shown.share, [3 / 4, 3 / 8])
    assert median_steps(found).value == 300
    # S is a half from 200 to 300, and from 200 on.
    assert median_steps(reached([(100, True), (200, True), (300, True), (400, False)])).value == 250
    half = median_steps(reached([(100, True), (200, True), (400, False), (400, False)]))
    assert half.value == math.inf
    # The log-log band by hand, as in test_the_band_by_hand of four runs: none below a half.
    assert half.high == math.inf


def test_the_band_by_hand():
    """Two of four runs there: S = 1/2, variance 1/4 x 1/3 + 1/3 x 1/2 = 1/4, error 1/2 over log 2."""
    shown = kaplan_meier(reached([(1, True), (2, True), (3, False), (3, False)]))
    error = math.sqrt(1 / 12 + 1 / 6) / math.log(2)
    wanted = [math.exp(-math.log(2) * math.exp(sign * 1.959964 * error)) for sign in (1, -1)]
    assert (shown.low[1], shown.high[1]) == pytest.approx(wanted)


@given(seed=SEEDS, n=st.integers(1, 25), level=st.floats(0.5, 0.99))
@settings(max_examples=150)
def test_medians_and_bands_are_their_definition(seed, n, level):
    pairs = runs(seed, n)
    shown = kaplan_meier(reached(pairs), confidence=level)
    wanted = reference.kaplan_meier(pairs, level)
    found = np.stack([shown.steps, shown.share, shown.low, shown.high], axis=1)
    np.testing.assert_allclose(found, np.array(wanted).reshape(-1, 4), atol=1e-12)
    metric = median_steps(reached(pairs), confidence=level)
    assert told(metric) == near(reference.median_steps(pairs, level))


@given(seed=SEEDS, n=st.integers(2, 40))
@settings(max_examples=100)
def test_bands_are_those_of_scipy(seed, n):
    pairs = runs(seed, n)
    at, is_reached = (np.array(column) for column in zip(*pairs, strict=True))
    if not is_reached.any():
        return
    other = stats.ecdf(stats.CensoredData.right_censored(at, ~is_reached)).sf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the band where nobody is left
        band = other.confidence_interval(method="log-log")
    shown = kaplan_meier(reached(pairs))
    places = np.searchsorted(other.quantiles, shown.steps)
    np.testing.assert_allclose(shown.share, other.probabilities[places], atol=1e-12)
    np.testing.assert_allclose(shown.low, band.low.probabilities[places], atol=1e-12)
    np.testing.assert_allclose(shown.high, band.high.probabilities[places], atol=1e-12)


@given(seed=SEEDS, n=st.integers(1, 30))
@settings(max_examples=60)
def test_without_censoring_it_is_the_plain_median(seed, n):
    pairs = runs(seed, n, share=0)
    assert median_steps(reached(pairs)).value == np.median([step for step, _ in pairs])


@given(seed=SEEDS, n=st.integers(1, 30))
@settings(max_examples=60)
def test_censored_at_one_step_it_is_the_median_of_what_never_ends(seed, n):
    pairs = runs(seed, n, common=True)
    values = sorted(step if is_reached else math.inf for step, is_reached in pairs)
    wanted = (values[(n - 1) // 2] + values[n // 2]) / 2
    assert median_steps(reached(pairs)).value == wanted


@given(seed=SEEDS, n=st.integers(1, 20))
@settings(max_examples=60)
def test_order_changes_nothing_and_value_lies_between_its_bounds(seed, n):
    pairs = runs(seed, n)
    found = median_steps(reached(pairs))
    mixed = np.random.default_rng(seed).permutation(n)
    assert told(median_steps(reached([pairs[i] for i in mixed]))) == near(told(found))
    assert not found.low > found.value
    assert found.high >= found.value


@given(seed=SEEDS, n=st.integers(2, 12), one=st.floats(0, 1.3), other=st.floats(0, 1.3))
@settings(max_examples=100)
def test_medians_rise_with_the_threshold_where_all_runs_end_alike(seed, n, one, other):
    steps = np.arange(0, 120, 10)
    curves = [np.nan_to_num(curve(seed + i)[1], nan=0.2) for i in range(n)]
    low, high = (
        median_steps([steps_to(steps, values, at) for values in curves]).value
        for at in sorted((one, other))
    )
    assert low <= high + 1e-9


def test_the_interval_covers_the_median():
    """Exponential times, a third censored at their own step: not below 95 % but for the draws' error."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        time, end = rng.exponential(100, 20), rng.exponential(200, 20)
        pairs = zip(np.minimum(time, end), time <= end, strict=True)
        found = median_steps(reached((float(t), bool(r)) for t, r in pairs))
        held += found.low <= 100 * math.log(2) <= found.high
    assert held / 400 > 0.925


def test_few_runs_have_no_upper_bound():
    assert told(median_steps(reached([(10, True)]))) == near([10, math.nan, math.inf])
    for n in range(2, 7):
        found = median_steps(reached([(10.0 * i, True) for i in range(1, n + 1)]))
        assert (found.low, found.high) == (10, math.inf)
    assert median_steps(reached([(10.0 * i, True) for i in range(1, 8)])).high == 60
    never = median_steps(reached([(10, False)] * 8))
    assert told(never) == near([math.inf, math.nan, math.inf])


# --- Ratios --------------------------------------------------------------------------------------


@given(seed=SEEDS, n=st.integers(5, 9), paired=st.booleans())
@settings(max_examples=25)
def test_ratios_are_their_definition(seed, n, paired):
    base, other = runs(seed, n), runs(seed + 1, n if paired else n + 2)
    found = speed_up(reached(base), reached(other), paired=paired, resamples=60, seed=seed)
    wanted = reference.speed_up(
        base, other, paired=paired, confidence=0.95, resamples=60, seed=seed
    )
    if wanted[0] is None:
        assert all(math.isnan(value) for value in told(found))
    elif not math.isnan(found.low):
        assert told(found) == near(wanted)
    else:
        assert wanted[1] == wanted[2]


def test_pairs_take_out_what_they_share():
    """Seeds differ by far, each twice as fast the other way: drawn together the ratio is sharp."""
    rng = np.random.default_rng(0)
    base = [(float(s), True) for s in rng.lognormal(5, 1, 15)]
    other = [(step / 2 * float(rng.uniform(0.95, 1.05)), True) for step, _ in base]
    paired, alone = (
        speed_up(reached(base), reached(other), paired=paired) for paired in (True, False)
    )
    assert paired.value == alone.value == pytest.approx(2, rel=0.05)
    assert 1.8 < paired.low <= paired.value <= paired.high < 2.2
    assert alone.high / alone.low > 2 * paired.high / paired.low


@given(seed=SEEDS)
@settings(max_examples=20)
def test_the_other_way_round_is_the_inverse(seed):
    base, other = reached(runs(seed, 7)), reached(runs(seed + 1, 7))
    there, back = (
        speed_up(*arms, paired=True, resamples=200) for arms in ((base, other), (other, base))
    )
    inverse = [math.inf if v == 0 else 1 / v for v in (back.value, back.high, back.low)]
    assert told(there) == near(inverse)


def test_medians_that_are_not_reached_leave_the_ratio_open():
    fast = reached([(100.0 + i, True) for i in range(8)])
    slow = reached([(900.0, False)] * 8)
    assert speed_up(slow, fast, paired=False).value == math.inf
    assert speed_up(fast, slow, paired=False).value == 0
    assert all(math.isnan(v) for v in told(speed_up(slow, slow, paired=True)))
    # Half the draws do not reach it: no upper bound, but a lower one.
    some = reached([(400.0 + i, True) for i in range(5)] + [(900.0, False)] * 3)
    found = speed_up(some, fast, paired=False)
    assert 3.8 < found.low <= found.value < 4.1
    assert found.high == math.inf
    # Neither arm reaches it in many draws: these say nothing on either side.
    found = speed_up(some, some[::-1], paired=False)
    assert (found.low, found.high) == (0, math.inf)


def test_what_has_no_spread_or_too_few_runs_has_no_interval():
    base = reached([(200.0, True)] * 6)
    found = speed_up(base, reached([(100.0, True)] * 6), paired=True)
    assert told(found) == near([2, math.nan, math.nan])
    few = reached([(100.0 * i, True) for i in range(1, 5)])
    assert told(speed_up(few, few[:3], paired=False)) == near([250 / 200, math.nan, math.nan])


def test_refused_runs():
    some = reached([(1.0, True)] * 3)
    with pytest.raises(ValueError, match="found must have at least one run, got none"):
        median_steps([])
    with pytest.raises(ValueError, match="found must have at least one run, got none"):
        kaplan_meier([])
    with pytest.raises(ValueError, match="other must have at least one run, got none"):
        speed_up(some, [], paired=False)
    with pytest.raises(ValueError, match="confidence must be between 0 and 1, got 1"):
        median_steps(some, confidence=1)
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        speed_up(some, some, paired=False, resamples=0)
    with pytest.raises(ValueError, match="a run for each of base, 3, where paired, got 2"):
        speed_up(some, some[:2], paired=True)
