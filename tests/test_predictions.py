"""Prediction similarity against its definitions and laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from histofast.similarity import (
    error_consistency,
    js_divergence,
    prediction_agreement,
    top1_disagreement,
)

SEEDS = st.integers(0, 99)


def softmax(scores):
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def classifiers(seed, n, c):
    rng = np.random.default_rng(seed)
    labels = rng.integers(c, size=n)
    truth = 2 * np.eye(c)[labels]
    return (*(softmax(truth + rng.normal(size=(n, c))) for _ in range(2)), labels)


# --- Values worked out by hand ------------------------------------------------------------------

LABELS = np.array([0, 1, 2, 0])
A = np.array([0, 1, 2, 1])  # right, right, right, wrong
B = np.array([0, 1, 0, 2])  # right, right, wrong, wrong


def test_agreement_by_hand():
    found = prediction_agreement(A, B, LABELS)
    assert (found.observed, found.accuracy_a, found.accuracy_b) == (0.75, 0.75, 0.5)
    assert found.chance == 0.75 * 0.5 + 0.25 * 0.5
    assert error_consistency(A, B, LABELS) == 0.5
    assert top1_disagreement(A, B) == 0.5  # both wrong on the last one, in different ways


def test_divergence_by_hand():
    certain, even = np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])
    # H(3/4, 1/4) - H(1/2, 1/2) / 2 bits
    wanted = 0.75 * np.log2(4 / 3) + 0.25 * 2 - 0.5
    assert js_divergence(certain, even) == pytest.approx(wanted, abs=1e-12)
    assert js_divergence(certain, 1 - certain) == 1
    assert js_divergence(even, even) == 0


def test_first_of_equal_scores_is_the_class():
    assert top1_disagreement(np.array([[0.5, 0.5], [0.2, 0.8]]), np.array([0, 1])) == 0


# --- Definitions and laws -----------------------------------------------------------------------


@given(n=st.integers(1, 60), c=st.integers(2, 6), seed=SEEDS)
@settings(max_examples=60)
def test_as_defined_whatever_the_form(n, c, seed):
    a, b, labels = classifiers(seed, n, c)
    right_a, right_b = a.argmax(axis=1) == labels, b.argmax(axis=1) == labels
    for first in (a, a.argmax(axis=1), a.astype(np.float16)):
        for second in (b, b.argmax(axis=1).astype(np.int16)):
            found = prediction_agreement(first, second, labels)
            # In float16 two probabilities may be equal, and the first of them is the top one.
            tops = [x if x.ndim == 1 else x.argmax(axis=1) for x in (first, second)]
            assert found.observed == np.mean((tops[0] == labels) == (tops[1] == labels))
            assert top1_disagreement(first, second) == np.mean(tops[0] != tops[1])
    if 0 < right_a.mean() < 1 or 0 < right_b.mean() < 1:
        assert error_consistency(a, b, labels) == pytest.approx(
            reference.error_consistency(right_a, right_b), abs=1e-9
        )
        assert error_consistency(b, a, labels) == pytest.approx(
            error_consistency(a, b, labels), abs=1e-12
        )


@given(n=st.integers(1, 40), c=st.integers(1, 6), seed=SEEDS)
@settings(max_examples=60)
def test_divergence_is_as_defined(n, c, seed):
    a, b, _ = classifiers(seed, n, c)
    a[a < 0.1] = 0
    a /= a.sum(axis=1, keepdims=True)
    found = js_divergence(a, b)
    assert found == pytest.approx(reference.js_divergence(a, b), abs=1e-9)
    assert found == pytest.approx(js_divergence(b, a), abs=1e-12)
    assert 0 <= found <= 1
    assert js_divergence(a, a) == 0
    assert js_divergence(a.astype(np.float32), b) == pytest.approx(found, abs=1e-6)


def test_chance_is_what_independent_errors_reach(rng):
    labels = np.zeros(200_000, int)
    a, b = ((rng.random(200_000) > accuracy).astype(int) for accuracy in (0.9, 0.6))
    found = prediction_agreement(a, b, labels)
    assert found.observed == pytest.approx(found.chance, abs=5e-3)
    assert found.chance == pytest.approx(0.9 * 0.6 + 0.1 * 0.4, abs=5e-3)
    assert error_consistency(a, b, labels) == pytest.approx(0, abs=1e-2)
    assert error_consistency(a, a, labels) == pytest.approx(1)


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "error", "message"),
    [
        ([0, 1], TypeError, r"a must be integer classes \(n,\), got list"),
        (np.array(["x", "y"]), TypeError, r"a must be integer classes \(n,\), got str"),
        (np.array([0.0, 1.0]), TypeError, r"a must be integer classes \(n,\), got float64"),
        (np.ones((2, 2), int), TypeError, "a must be float16, float32 or float64, got int64"),
        (np.array([[1, np.nan], [0, 1]]), ValueError, "a must be finite, got NaN or infinity in 1"),
        (np.zeros((2, 2, 2), int), ValueError, r"a must be of shape \(n,\), got \(2, 2, 2\)"),
        (np.zeros(0, int), ValueError, "a must have at least 1 sample, got none"),
        (np.zeros((0, 3)), ValueError, "a must have at least 1 rows, got 0"),
        (np.array([0, -1]), ValueError, "a must be classes from 0, got -1"),
        (np.array([0, 1, 1]), ValueError, "a and b must have the same samples, got 3 and 2"),
    ],
)
def test_bad_predictions_are_refused(a, error, message):
    b = labels = np.array([0, 1])
    for measure in (
        lambda: top1_disagreement(a, b),
        lambda: prediction_agreement(a, b, labels),
        lambda: error_consistency(a, b, labels),
    ):
        with pytest.raises(error, match=message):
            measure()


def test_classes_that_do_not_match_are_refused():
    a, b = np.full((4, 3), 1 / 3), np.full((4, 2), 1 / 2)
    with pytest.raises(ValueError, match="a and b must have the same classes, got 3 and 2"):
        top1_disagreement(a, b)
    with pytest.raises(ValueError, match=r"a and b must have the same shape, got \(4, 3\) and \(4"):
        js_divergence(a, b)
    with pytest.raises(
        ValueError, match="labels must be below the 3 classes that have scores, got"
    ):
        prediction_agreement(a, a, np.array([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="labels must have one class per sample, got 2 for 4"):
        prediction_agreement(a, a, np.array([0, 1]))
    with pytest.raises(TypeError, match=r"labels must be integer classes \(n,\), got float64"):
        prediction_agreement(a, a, np.ones(4))


@pytest.mark.parametrize(("predicted", "always"), [(LABELS, "right"), ((LABELS + 1) % 3, "wrong")])
def test_consistency_without_errors_or_without_successes_is_undefined(predicted, always):
    message = f"got both always {always}: error consistency is undefined"
    with pytest.raises(ValueError, match=message):
        error_consistency(predicted, predicted, LABELS)
    assert error_consistency(predicted, B, LABELS) == pytest.approx(0)


def test_what_is_no_probability_is_refused():
    good = np.array([[0.5, 0.5]])
    with pytest.raises(ValueError, match=r"a must be probabilities, got -1\.0: apply softmax"):
        js_divergence(np.array([[2.0, -1.0]]), good)
    with pytest.raises(
        ValueError, match=r"b must be probabilities, got a row that sums to 1\.5: app"
    ):
        js_divergence(good, np.array([[1.0, 0.5]]))
    with pytest.raises(TypeError, match="a must be float16, float32 or float64, got int64"):
        js_divergence(np.array([[1, 0]]), good)
