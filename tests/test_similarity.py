"""Similarity measures against published values, their definitions and their laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from histofast.similarity import cka


@pytest.fixture(scope="module")
def published():
    """The arrays of Kornblith's published demonstration."""
    random = np.random.RandomState(1337)
    x = random.randn(100, 10)
    return x, random.randn(100, 10) + x


@pytest.mark.parametrize(
    ("estimator", "value"), [("biased", 0.5576132566), ("debiased", 0.5134564895)]
)
def test_published_values(published, estimator, value):
    assert cka(*published, estimator=estimator) == pytest.approx(value, abs=1e-10)


@given(n=st.integers(4, 40), p=st.integers(1, 60), q=st.integers(1, 60), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_debiased_matches_definition(n, p, q, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, p)), rng.normal(size=(n, q))
    assert cka(x, y) == pytest.approx(reference.debiased_cka(x, y), rel=1e-9, abs=1e-9)


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_rotation_scale_and_shift_change_nothing(scale, shift, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(30, 7)), rng.normal(size=(30, 5))
    rotation, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    moved = scale * (x @ rotation) + shift
    assert cka(moved, y) == pytest.approx(cka(x, y), abs=1e-9)
    assert cka(moved, x) == pytest.approx(1, abs=1e-9)


def test_shift_in_float32(rng):
    x, y = rng.normal(size=(64, 32)), rng.normal(size=(64, 32))
    y += x
    shifted = (x + 100).astype(np.float32)
    assert cka(shifted, y) == pytest.approx(cka(x, y), abs=1e-6)


def test_independent_features_have_no_debiased_similarity(rng):
    x, y = rng.normal(size=(256, 4096)), rng.normal(size=(256, 4096))
    assert abs(cka(x, y)) < 0.02
    assert cka(x, y, estimator="biased") > 0.9


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((4, 2, 2)), r"x must be of shape \(n, p\), got \(4, 2, 2\)"),
        (np.eye(3), "x must have at least 4 rows, got 3"),
        (np.diag([1, 1, 1, np.nan]), "x must be finite, got NaN or infinity in 1 of 4 rows"),
        (np.full((4, 2), 0.1), "x must vary, got 4 equal rows: CKA is undefined"),
    ],
)
def test_bad_arrays_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        cka(x, np.eye(len(x)))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="x and y must have the same rows, got 4 and 5"):
        cka(np.eye(4), np.eye(5))
    with pytest.raises(ValueError, match="estimator must be 'debiased' or 'biased', got 'half'"):
        cka(np.eye(4), np.eye(4), estimator="half")
