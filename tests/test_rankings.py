"""Agreement of rankings: Kendall's tau, its interval over targets, what is said of it, and published tables."""

from __future__ import annotations

import csv
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import reference_transferability as reference
from histofast.learning import (
    agreement_of_rankings,
    difference_of_agreements,
    kendall_tau,
    merit_elsewhere,
)
from histofast.transferability import describe_rankings

SEEDS = st.integers(0, 9999)


def tables(seed, targets=8, sources=6, *, agree=1.0, levels=0):
    """(scores, truth): with ties where there are levels, and without the source that is the target."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(targets, sources))
    scores = agree * truth + rng.normal(size=truth.shape)
    if levels:
        scores, truth = (np.round(levels * table) for table in (scores, truth))
    for i in range(min(targets, sources)):
        truth[i, i] = np.nan
    return scores, truth


def agreed(scores, truth, *, permutations=999, **options):
    return agreement_of_rankings(scores, truth, permutations=permutations, **options)


# --- One pair of rankings -------------------------------------------------------------------------


def test_tau_by_hand():
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1
    # Of six pairs one is tied in x; four of the others agree, one does not.
    assert kendall_tau([1, 1, 2, 3], [1, 2, 4, 3]) == pytest.approx(3 / math.sqrt(5 * 6))
    assert kendall_tau([1, 2, math.nan, 3], [1, 2, -5, 3]) == 1
    for x, y in (([1, 1, 1], [1, 2, 3]), ([1], [1]), ([], []), ([1, math.nan], [1, 2])):
        assert math.isnan(kendall_tau(x, y))


@given(seed=SEEDS, n=st.integers(2, 15), levels=st.sampled_from([0, 1, 3]))
@settings(max_examples=150)
def test_tau_is_its_definition_and_scipy_s(seed, n, levels):
    x, y = (table[0] for table in tables(seed, 1, n, levels=levels))
    found = kendall_tau(x, y)
    assert found == pytest.approx(reference.kendall_tau(x, y), nan_ok=True)
    known = ~np.isnan(y)
    if not math.isnan(found):
        assert found == pytest.approx(stats.kendalltau(x[known], y[known]).statistic)


@given(seed=SEEDS)
@settings(max_examples=60)
def test_tau_sees_ranks_only(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 9, (2, 12)).astype(float)
    order = rng.permutation(12)
    found = kendall_tau(x, y)
    for other in (
        kendall_tau(y, x),
        kendall_tau(np.exp(x), y**3),
        kendall_tau(x[order], y[order]),
        -kendall_tau(-x, y),
    ):
        assert other == pytest.approx(found, nan_ok=True)


# --- Over targets --------------------------------------------------------------------------------


@given(seed=SEEDS, levels=st.sampled_from([0, 1]))
@settings(max_examples=30)
def test_the_mean_is_of_the_targets_that_have_a_tau(seed, levels):
    scores, truth = tables(seed, levels=levels)
    scores[2] = 5
    found = agreement_of_rankings(scores, truth, resamples=100, permutations=0)
    wanted = [reference.kendall_tau(*rows) for rows in zip(scores, truth, strict=True)]
    np.testing.assert_allclose(found.of_targets, wanted, equal_nan=True)
    assert found.n_defined == np.sum(~np.isnan(wanted)) < 8
    assert found.tau.value == pytest.approx(np.nanmean(wanted))
    assert found.tau.low <= found.tau.value <= found.tau.high
    assert found.n_sources.tolist() == [5] * 6 + [6, 6]
    assert math.isnan(found.p)


def test_the_interval_is_of_targets_and_not_of_pairs():
    scores, truth = tables(0, targets=6, sources=4)
    one = agreement_of_rankings(scores, truth, resamples=4000, permutations=0)
    draws = np.random.default_rng(5).integers(6, size=(4000, 6))
    low, high = np.quantile(one.of_targets[draws].mean(axis=1), [0.025, 0.975])
    assert one.tau.low == pytest.approx(low, abs=0.03)
    assert one.tau.high == pytest.approx(high, abs=0.03)
    # Every target twice is no more evidence where the two are drawn together.
    twice = [np.repeat(table, 2, axis=0) for table in (scores, truth)]
    same = agreed(*twice, permutations=0, groups=np.repeat(range(6), 2), resamples=4000)
    assert (same.tau.low, same.tau.high) == pytest.approx((one.tau.low, one.tau.high), abs=0.03)
    more = agreed(*twice, permutations=0, resamples=4000)
    assert more.tau.high - more.tau.low < 0.85 * (one.tau.high - one.tau.low)


def test_few_targets_have_no_interval():
    scores, truth = tables(1, targets=8)
    found = agreement_of_rankings(scores[:4], truth[:4], permutations=0)
    assert math.isnan(found.tau.low)
    assert math.isnan(found.tau.high)
    grouped = agreed(scores, truth, groups=[0, 0, 1, 1, 2, 2, 3, 3], permutations=0)
    assert math.isnan(grouped.tau.low)
    assert not math.isnan(grouped.tau.value)


def test_a_source_that_is_good_everywhere_is_one_stroke_of_luck():
    """Scores and truth of the sources alone: over 30 targets the interval has no width, the p is large."""
    rng = np.random.default_rng(0)
    of_sources = np.array([1.0, 2, 3, 4])
    truth = of_sources + 0.01 * rng.normal(size=(30, 4))
    scores = of_sources + 0.01 * rng.normal(size=(30, 4))
    found = agreed(scores, truth)
    assert found.tau.low == 1
    assert found.p == pytest.approx(1 / 24, abs=0.02)  # of all orders of four


def test_p_is_even_where_there_is_nothing():
    found = [
        agreement_of_rankings(*tables(seed, agree=0), permutations=99, resamples=0).p
        for seed in range(200)
    ]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    agreeing = [
        agreement_of_rankings(*tables(seed), permutations=99, resamples=0).p for seed in range(20)
    ]
    assert max(agreeing) < 0.1


def test_a_difference_is_target_by_target():
    scores, truth = tables(2)
    others = np.random.default_rng(9).normal(size=scores.shape)
    one, other = (agreement_of_rankings(s, truth, permutations=0) for s in (scores, others))
    found = difference_of_agreements(one, other)
    assert found.value == pytest.approx(np.mean(one.of_targets - other.of_targets))
    assert found.low < found.value < found.high
    same = difference_of_agreements(one, one)
    assert (same.low, same.value, same.high) == (0, 0, 0)
    swapped = difference_of_agreements(other, one)
    assert swapped.value == -found.value
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))


def test_merit_elsewhere_by_hand_and_by_its_words():
    nan = math.nan
    # Shares of the others that are beaten: (-, 1, 1/4, 1/4), (1, -, 0, 1/2), (3/4, 0, -, 3/4).
    truth = np.array([[nan, 3, 2, 2], [5, nan, 1, 2], [4, 1, nan, 4]])
    wanted = np.array([[nan, 0, 0, 0.625], [0.75, nan, 0.25, 0.5], [1, 1, nan, 0.375]])
    np.testing.assert_allclose(merit_elsewhere(truth), wanted)
    # No value of a target counts for itself, and none of its group.
    other = truth.copy()
    other[1] = [9, nan, 8, 7]
    np.testing.assert_allclose(merit_elsewhere(other)[1], wanted[1])
    grouped = merit_elsewhere(truth, groups=["a", "a", "b"])
    np.testing.assert_allclose(grouped[0], [nan, 0, nan, 0.75])
    np.testing.assert_allclose(grouped[2], wanted[2])
    assert np.isnan(merit_elsewhere(truth[:1])).all()


def test_refused():
    scores, truth = tables(0)
    with pytest.raises(ValueError, match=r"y must be one for each of x, \(2,\), got \(3,\)"):
        kendall_tau([1, 2], [1, 2, 3])
    for name, pair in (("x", ([1, math.inf], [1, 2])), ("y", ([1, 2], [1, math.inf]))):
        with pytest.raises(ValueError, match=f"{name} must be finite or NaN, got infinity"):
            kendall_tau(*pair)
    with pytest.raises(
        ValueError, match=r"scores must be of shape \(targets, sources\), got \(6,\)"
    ):
        agreement_of_rankings(scores[0], truth)
    with pytest.raises(
        ValueError, match=r"truth must be of shape \(8, 6\), as scores, got \(7, 6\)"
    ):
        agreement_of_rankings(scores, truth[1:])
    with pytest.raises(ValueError, match="truth must be finite or NaN, got infinity"):
        agreement_of_rankings(scores, np.where(np.isnan(truth), np.inf, truth))
    with pytest.raises(ValueError, match="groups must be 8, one for each target, got 2"):
        agreed(scores, truth, groups=[0, 1])
    for options, message in (
        ({"resamples": -1}, "resamples must be at least 0, got -1"),
        ({"permutations": -1}, "permutations must be at least 0, got -1"),
        ({"confidence": 1}, "confidence must be between 0 and 1, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            agreement_of_rankings(scores, truth, **options)
    one, fewer = (agreed(scores[i:], truth[i:]) for i in (0, 1))
    with pytest.raises(ValueError, match=r"other must be of the targets of one, 8 .*, got 7"):
        difference_of_agreements(one, fewer)
    with pytest.raises(ValueError, match=r"truth must be of shape \(targets, sources\)"):
        merit_elsewhere([1, 2])
    with pytest.raises(ValueError, match="groups must be 8, one for each target, got 2"):
        merit_elsewhere(truth, groups=[0, 1])


# --- In words ------------------------------------------------------------------------------------


def found_of(seed, agree):
    return agreed(*tables(seed, targets=12, sources=10, agree=agree))


def told(found):
    return f"{found.tau.value:.3f}, {found.tau.low:.3f} to {found.tau.high:.3f}"


def test_words_of_a_score_that_ranks_and_of_one_that_does_not():
    good, bad = found_of(0, 3.0), found_of(0, 0.0)
    said = describe_rankings({"good": good, "bad": bad})
    height = (
        f"The highest mean of Kendall's tau is good's, {told(good)}: it puts the better of two sources first in "
        f"about {round(50 + 50 * good.tau.value)} % of the pairs, chance in 50 %."
    )
    assert list(said) == [
        "good is shown to rank the sources better than chance over 12 targets; bad is not.",
        height,
        "good is the highest of 2 scores; bad is shown to be lower.",
    ]
    (first, second) = describe_rankings({"bad": bad})
    assert first == "bad is not shown to rank the sources better than chance over 12 targets."
    assert second.startswith(f"Its mean of Kendall's tau is {told(bad)}: ")
    two = describe_rankings({"bad": bad, "worse": found_of(1, 0.0)})
    assert two[0] == "No score is shown to rank the sources better than chance over 12 targets."
    assert two[2].endswith("is the highest of 2 scores and is told from none of the others.")


def test_words_against_a_baseline():
    weak, base = found_of(0, 0.3), found_of(0, 5.0)
    said = describe_rankings({"weak": weak, "merit": base}, baseline="merit")
    assert said[-2] == f"weak is not shown to rank them better than merit ({told(base)})."
    assert said[-1] == "weak is shown to be worse than that."
    turned = {"strong": base, "also": base, "merit": weak}
    assert describe_rankings(turned, baseline="merit")[-1] == (
        f"strong and also are shown to rank them better than merit ({told(weak)})."
    )


def test_a_low_p_or_a_high_interval_alone_shows_nothing():
    """An interval above 0 that one order of few sources in 24 reaches is not shown."""
    rng = np.random.default_rng(0)
    of_sources = np.array([1.0, 2, 3, 4])
    truth, scores = (of_sources + 0.01 * rng.normal(size=(30, 4)) for _ in range(2))
    found = agreed(scores, truth)
    assert found.tau.low > 0
    assert "No score is shown" in describe_rankings({"a": found, "b": found})[0]


def test_words_of_what_was_not_measured():
    scores, truth = tables(0, targets=12, sources=10)
    scores[:2] = 1
    some = agreed(scores, truth, groups=[0, 0, *range(1, 11)])
    none = agreed(np.ones_like(scores), truth, groups=[0, 0, *range(1, 11)])
    said = describe_rankings({"some": some, "none": none})
    some_words, none_words = said[-2:]
    assert some_words == (
        "some ranks nothing on 2 of 12 targets in 11 groups, where it is equal for all sources or not "
        "known: its mean is of the others."
    )
    assert none_words == "none ranks the sources of no target: it is equal for all, or not known."
    assert describe_rankings({"none": none}) == said[-1:]
    few = agreed(*(table[:4] for table in tables(0)))
    (only,) = describe_rankings({"few": few})
    assert only.startswith("With 4 targets there is no interval: nothing is shown of any score")
    whole = found_of(0, 3.0)
    held = describe_rankings({"a": whole, "base": few}, baseline="base")
    assert held[-1] == "base has no interval: the scores were not held against it."


def test_refused_words():
    found = found_of(0, 1.0)
    with pytest.raises(
        ValueError, match="agreements must have a score beside the baseline, got none"
    ):
        describe_rankings({"a": found}, baseline="a")
    with pytest.raises(ValueError, match="baseline must be one of a, got 'b'"):
        describe_rankings({"a": found}, baseline="b")
    with pytest.raises(ValueError, match="other must be of the targets of one"):
        describe_rankings({"a": found, "b": agreed(*tables(0))})


# --- Published tables ----------------------------------------------------------------------------

TARGETS = [
    *("bloodmnist", "breastmnist", "dermamnist", "octmnist", "organamnist", "organcmnist"),
    *("organsmnist", "pathmnist", "pneumoniamnist", "retinamnist", "tissuemnist"),
]
# Mean of tau over 11 targets, tau of PathMNIST: 15 sources, recomputed from the authors' files.
PUBLISHED = {
    "lp": (0.33, 0.19),
    "nleep": (0.30, 0.34),
    "fu": (0.25, 0.63),
    "leep": (0.23, 0.36),
    "logme": (0.23, 0.27),
    "parc": (0.21, 0.30),
    "sfda": (0.15, 0.14),
    "ncti": (0.13, 0.19),
}
TITLES = {name: name.upper() for name in PUBLISHED} | {"logme": "LogME"}
ELSEWHERE = "what each source was worth on the other targets"


def table_of(path):
    """(targets, sources) of a file with a row for each source and a column for each target."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = [[float(row[target] or "nan") for row in rows] for target in TARGETS]
    return np.array(found), [row["source"] for row in rows]


@pytest.fixture(scope="module")
def medmnist(data):
    folder = data / "transferability_medmnist"
    truth, sources = table_of(folder / "AUCs_dataset.csv")
    scores = {}
    for name in PUBLISHED:
        scores[name], others = table_of(folder / f"{name}_dataset.csv")
        assert others == sources
    return scores, truth


def agreements_of(scores, truth, **options):
    """Of each score, and of what each source was worth elsewhere."""
    found = {
        TITLES[name]: agreed(score, truth, permutations=1999, **options)
        for name, score in scores.items()
    }
    return found | {ELSEWHERE: agreed(merit_elsewhere(truth, **options), truth, **options)}


@pytest.fixture(scope="module")
def published(medmnist):
    return agreements_of(*medmnist)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_taus(published, name):
    found = published[TITLES[name]]
    mean, of_path = PUBLISHED[name]
    assert (found.n_sources == 14).all()
    assert found.of_targets[TARGETS.index("pathmnist")] == pytest.approx(of_path, abs=0.0051)
    if name != "sfda":
        assert found.n_defined == 11
        assert found.tau.value == pytest.approx(mean, abs=0.0051)


def test_published_tau_of_a_score_with_ties(medmnist, published):
    """SFDA is 1 for all sources on two targets, nearly so on two more: tau-a takes ties for disagreement."""
    scores, truth = medmnist
    taus = []
    for x, y in zip(scores["sfda"], truth, strict=True):
        known = ~np.isnan(y)
        dx, dy = (np.sign(v[known][:, None] - v[known]) for v in (x, y))
        taus.append((dx * dy).sum() / (14 * 13))
    assert np.mean(taus) == pytest.approx(PUBLISHED["sfda"][0], abs=0.0051)
    found = published["SFDA"]
    assert found.n_defined == 9
    assert found.tau.value == pytest.approx(0.203, abs=0.0005)


def test_published_intervals(published):
    """All but NCTI's lie above 0; the ranking that looks at no picture is above all of them."""
    lows = {name: found.tau.low for name, found in published.items()}
    assert [name for name, low in lows.items() if low <= 0] == ["NCTI"]
    assert lows["LP"] == pytest.approx(0.26, abs=0.02)
    assert published["LP"].tau.high == pytest.approx(0.41, abs=0.02)
    best = max(published, key=lambda name: published[name].tau.value)
    assert best == ELSEWHERE
    assert published[best].tau.value == pytest.approx(0.455, abs=0.0005)


def test_published_tables_in_words(medmnist, published):
    said = describe_rankings(published, baseline=ELSEWHERE)
    assert re.match(
        r"LP, NLEEP.* shown to rank the sources better than chance over 11 targets; .*NCTI .* not\.$",
        said[0],
    )
    assert said[1] == (
        f"The highest mean of Kendall's tau is LP's, {told(published['LP'])}: it puts the better of two "
        "sources first in about 66 % of the pairs, chance in 50 %."
    )
    none = f"No score is shown to rank them better than {ELSEWHERE}"
    assert said[3] == f"{none} ({told(published[ELSEWHERE])})."
    assert said[-1].startswith("SFDA ranks nothing on 2 of 11 targets, where it is equal for all")
    # Three views of the same organs are one kind of target; the finding stays.
    views = ["organ" if name.startswith("organ") else name for name in TARGETS]
    grouped = describe_rankings(agreements_of(*medmnist, groups=views), baseline=ELSEWHERE)
    assert grouped[3].startswith(none)
    assert "over 11 targets in 9 groups" in grouped[0]
