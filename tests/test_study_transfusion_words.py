"""What a study of transfusion says, of planted numbers."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from extras import need

need("torch", "safetensors")

from histofast.learning import Metric, Reached, corrected_differences, corrected_interval
from histofast.studies.transfusion import (
    MEAN_VAR,
    PRETRAINED,
    RANDOM,
    Claim,
    Measured,
    Trial,
    Way,
    WayRow,
    claims_of,
    faster,
    features_or_scale,
    finding_of,
    marginal,
    steps_told,
    threshold_of,
    times,
    verdict_of,
    verdicts,
)

NAN, INF = math.nan, math.inf
TRIAL = Trial(data="idc", network="resnet18", size=100)
SHARE = 0.2
NOISE = 0.01 * np.array([1, -1, 0.5, -0.5, 2, -2, 0, 1])
SLOW = (100, 110, 90, 105, 95, 102, 98, 100)


def reached(steps, *, last=400):
    return tuple(Reached(steps=min(s, last), is_reached=s <= last) for s in steps)


def measured_of(means, speeds=None, *, trial=TRIAL, noise=NOISE):
    """Rows of ways whose values lie about a mean, and that are so many times as fast as random."""
    speeds = speeds or {}
    values = {
        way: mean + noise * (1 + 0.3 * k) * (-1) ** k for k, (way, mean) in enumerate(means.items())
    }
    steps = {
        way: reached(
            [s / speeds.get(way, 1) * (1 + 0.02 * (i * k % 5)) for i, s in enumerate(SLOW)]
        )
        for k, way in enumerate(means)
    }
    gains = corrected_differences(
        {way: (v, values[RANDOM]) for way, v in values.items() if way != RANDOM}, test_share=SHARE
    )
    rows = tuple(
        WayRow(
            trial=trial,
            way=way,
            values=v,
            metric=corrected_interval(v, test_share=SHARE),
            second=corrected_interval(v, test_share=SHARE),
            gain=gains.get(way),
            second_gain=gains.get(way),
            reached=steps[way],
            steps=None,
            speed=None if way == RANDOM else faster(steps[RANDOM], steps[way]),
        )
        for way, v in values.items()
    )
    return Measured(
        rows=rows,
        thresholds={trial: 0.8},
        likenesses=(),
        filters=(),
        metric="auroc",
        second="auprc",
        curve="auroc",
    )


def study_of(*trials):
    """As much of a study as claims ask for."""
    return SimpleNamespace(
        trials=trials,
        largest=trials[-1:],
        network=("resnet18",),
        setting=SimpleNamespace(test_share=SHARE, sets={"idc": None}),
    )


def claim_of(measured, key, *, trials=(TRIAL,)):
    return next(c for c in claims_of(study_of(*trials), measured) if c.key == key)


# --- Verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "form", "expected", "verdict"),
    [
        ((0.01, 0.2), "difference", "more", "shows"),
        ((-0.01, 0.2), "difference", "more", "does not show"),
        ((-0.2, -0.01), "difference", "more", "the reverse shows"),
        ((NAN, NAN), "difference", "more", "not told"),
        ((-0.04, 0.04), "difference", "alike", "shows"),
        ((0.01, 0.04), "difference", "alike", "shows"),
        ((0.01, 0.2), "difference", "alike", "does not show"),
        ((-0.1, 0.04), "difference", "alike", "not told"),
        ((NAN, NAN), "difference", "alike", "not told"),
        ((1.1, INF), "ratio", "more", "shows"),
        ((0.0, 1.1), "ratio", "more", "does not show"),
        ((0.2, 0.9), "ratio", "more", "the reverse shows"),
        ((0.9, 1.2), "ratio", "alike", "shows"),
        ((1.1, 2.0), "ratio", "alike", "does not show"),
        ((0.5, 2.0), "ratio", "alike", "not told"),
    ],
)
def test_a_verdict_follows_from_the_interval(bounds, form, expected, verdict):
    value = Metric(value=0.5, low=bounds[0], high=bounds[1])
    assert verdict_of(value, form=form, expected=expected) == verdict


def test_without_a_value_nothing_is_told():
    none = Metric(value=NAN, low=NAN, high=NAN)
    assert verdict_of(none, form="ratio", expected="more") == "not told"


# --- Features or scale ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pretrained", "scale", "speeds", "said"),
    [
        (0.80, 0.80, {}, "no gain of pretrained weights is shown"),
        (0.90, 0.80, {}, "features: pretrained is shown to be above mean-var"),
        (0.90, 0.899, {}, "scale, as far as is told: mean-var, which has no features, is shown to"),
        (0.80, 0.80, {PRETRAINED: 4}, "whether it is features or scale is not told"),
        (0.80, 0.80, {PRETRAINED: 4, MEAN_VAR: 3}, "scale, as far as is told"),
        (0.70, 0.60, {}, "no gain of pretrained weights is shown"),
    ],
)
def test_features_or_scale_is_told_by_rule(pretrained, scale, speeds, said):
    measured = measured_of({RANDOM: 0.8, PRETRAINED: pretrained, MEAN_VAR: scale}, speeds)
    claims = claims_of(study_of(TRIAL), measured)
    assert features_or_scale(measured, claims, TRIAL).startswith(said)


def test_without_mean_var_there_is_nothing_to_divide():
    measured = measured_of({RANDOM: 0.8, PRETRAINED: 0.9})
    assert features_or_scale(measured, (), TRIAL) == ""


# --- Claims --------------------------------------------------------------------------------------


def test_differences_among_the_claims_are_adjusted_together():
    """Against the plain differences: two are told, so each p is times two or one."""
    slim = Way(kind="slim", layer="layer2")
    measured = measured_of({RANDOM: 0.8, PRETRAINED: 0.84, MEAN_VAR: 0.82, slim: 0.835})
    rows = {row.way: row.values for row in measured.rows}
    wanted = corrected_differences(
        {
            "features": (rows[PRETRAINED], rows[MEAN_VAR]),
            "slim": (rows[slim], rows[PRETRAINED]),
            "large": (rows[PRETRAINED], rows[RANDOM]),
        },
        test_share=SHARE,
    )
    for key, told in wanted.items():
        claim = claim_of(measured, key)
        assert (claim.value, claim.low, claim.high) == pytest.approx(
            (told.value, told.low_adjusted, told.high_adjusted)
        )


def test_few_pictures_gain_more_where_they_do():
    large = Trial(data="idc", network="resnet18", size=1000)
    few = measured_of({RANDOM: 0.7, PRETRAINED: 0.85})
    many = measured_of({RANDOM: 0.9, PRETRAINED: 0.905}, trial=large, noise=0.5 * NOISE)
    both = Measured(
        rows=few.rows + many.rows,
        thresholds={TRIAL: 0.8, large: 0.8},
        likenesses=(),
        filters=(),
        metric="auroc",
        second="auprc",
        curve="auroc",
    )
    claim = claim_of(both, "small", trials=(TRIAL, large))
    assert claim.value == pytest.approx(0.145, abs=0.01)
    assert claim.verdict == "shows"
    assert claim.measured == "gain at 100 less gain at 1000 pictures"
    assert claim_of(both, "large", trials=(TRIAL, large)).verdict == "shows"  # alike


def test_the_first_layers_bring_most_speed_only_where_their_step_is_the_largest():
    first, second = (Way(kind="transfuse", layer=name) for name in ("maxpool", "layer1"))
    means = dict.fromkeys((RANDOM, first, second, PRETRAINED), 0.8)
    early = measured_of(means, {first: 4, second: 5, PRETRAINED: 6})
    assert claim_of(early, "first").verdict == "shows"
    late = measured_of(means, {first: 2, second: 8, PRETRAINED: 9})
    found = claim_of(late, "first")
    assert found.verdict == "does not show"
    assert found.note.startswith("the largest step in speed is at transfuse layer1, 4.0")
    blocks = [late.row(TRIAL, way) for way in (first, second, PRETRAINED)]
    assert marginal(blocks) == pytest.approx(
        {"transfuse maxpool": 2, "transfuse layer1": 4, "pretrained": 9 / 8}, rel=0.05
    )


def test_gabor_filters_are_held_against_pretrained_first_layers():
    first, gabor = Way(kind="transfuse", layer="maxpool"), Way(kind="gabor")
    means = dict.fromkeys((RANDOM, first, gabor), 0.8)
    assert claim_of(measured_of(means, {first: 2, gabor: 2.1}), "gabor").verdict != "does not show"
    assert claim_of(measured_of(means, {first: 2, gabor: 1}), "gabor").verdict == "does not show"


def test_speed_that_is_not_shown_is_said_not_to_show():
    measured = measured_of({RANDOM: 0.8, PRETRAINED: 0.8, MEAN_VAR: 0.8}, {PRETRAINED: 3})
    claims = claims_of(study_of(TRIAL), measured)
    shown = " ".join(verdicts(claims, "shows"))
    lacking = " ".join(verdicts(claims, "does not show"))
    assert "pretrained weights get there in fewer steps" in shown
    assert "the scale of pretrained weights alone makes training faster" in lacking
    assert "pretrained weights carry more than their scale" in lacking


def test_a_claim_that_holds_in_one_of_two_places_says_so():
    def claim(where, verdict):
        return Claim(
            key="speed",
            said="it is fast",
            where=where,
            measured="steps",
            form="ratio",
            value=1.0,
            low=1.0,
            high=1.0,
            expected="more",
            verdict=verdict,
        )

    claims = [claim("a", "shows"), claim("b", "does not show")]
    assert verdicts(claims, "shows") == ("it is fast (1 of 2)",)
    assert verdicts(claims[:1], "shows") == ("it is fast",)
    assert verdicts(claims, "not told") == ()


# --- Small words ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speed", "said"),
    [
        (None, "not known"),
        (Metric(value=2.0, low=1.5, high=3.0), "2.00 times (1.50 to 3.00)"),
        (Metric(value=2.0, low=NAN, high=NAN), "2.00 times"),
        (Metric(value=2.0, low=1.5, high=INF), "2.00 times (1.50 to no upper bound)"),
        (Metric(value=INF, low=NAN, high=NAN), "only this one gets there"),
        (Metric(value=0.0, low=NAN, high=NAN), "only random gets there"),
        (Metric(value=NAN, low=NAN, high=NAN), "not known"),
    ],
)
def test_ratios_in_words(speed, said):
    assert times(speed) == said


def test_rows_in_words():
    rows = {r.way: r for r in measured_of({RANDOM: 0.8, PRETRAINED: 0.9, MEAN_VAR: 0.8}).rows}
    assert finding_of(rows[RANDOM]) == "held against"
    assert finding_of(rows[PRETRAINED]) == "shown to be above random"
    assert finding_of(rows[MEAN_VAR]) == "not told from random"
    alike = measured_of({RANDOM: 0.8, PRETRAINED: 0.8}, noise=np.zeros(8))
    assert finding_of(alike.row(TRIAL, PRETRAINED)) == "no interval against random"
    failed = measured_of({RANDOM: 0.8, PRETRAINED: NAN})
    assert finding_of(failed.row(TRIAL, PRETRAINED)) == "no run finished"
    assert steps_told(failed.row(TRIAL, PRETRAINED)) == "no curve"


# --- Thresholds and pairs ------------------------------------------------------------------------


def test_a_threshold_is_a_share_of_the_median_of_what_is_known():
    assert threshold_of([0.8, NAN, 0.6, 0.9]) == pytest.approx(0.95 * 0.8)
    assert math.isnan(threshold_of([NAN]))


def test_splits_that_one_side_lacks_are_left_out_of_both():
    base = [Reached(steps=100.0, is_reached=True), None, Reached(steps=300.0, is_reached=True)]
    other = [Reached(steps=50.0, is_reached=True), Reached(steps=1.0, is_reached=True), None]
    assert faster(base, other).value == 2.0
    assert faster(base[1:2], other[1:2]) is None
