"""Procrustes, RSA and the overlap of neighbours: values known beforehand, another's, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.spatial import procrustes as scipy_procrustes
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

import reference
from histofast.similarity import MEASURES, interval_of, knn_jaccard, null_of, procrustes, rsa

SEEDS = st.integers(0, 99)
ALL = ("procrustes", "rsa", "knn-jaccard")


def related(seed, n, p, q):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, p)), rng.normal(size=(n, q))
    y[:, : min(p, q)] += x[:, : min(p, q)]
    return x, y


# --- Values known beforehand ----------------------------------------------------------------------


def test_procrustes_of_single_columns_is_the_size_of_their_correlation(rng):
    x, y = rng.normal(size=(2, 40))
    found = procrustes(x[:, None], y[:, None])
    assert found == pytest.approx(abs(np.corrcoef(x, y)[0, 1]))


def test_procrustes_of_columns_that_are_kept_in_part():
    """Of four equal directions of x, y has one: 1 / sqrt(4)."""
    x = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 5)) - 1)[0]
    x = np.linalg.qr(x - x.mean(axis=0))[0][:, :4]
    assert procrustes(x, x[:, :1]) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(3))
def test_procrustes_is_what_scipy_leaves(seed):
    x, y = related(seed, 40, 6, 6)
    assert procrustes(x, y) == pytest.approx(np.sqrt(1 - scipy_procrustes(x, y)[2]))


def test_rsa_of_distances_in_one_order_and_in_the_other():
    line = np.array([[0.0], [1], [3], [7], [15]])
    assert rsa(line, line**2) == pytest.approx(1)
    triangle = np.array([[0.0, 0], [3, 0], [0, 4], [0, 4]])  # distances 3, 4, 4, 5, 5, 0
    far = np.array([[0.0, 0], [0, 0], [1, 0], [1, 0]])
    ranks = [2, 3.5, 3.5, 5.5, 5.5, 1], [1.5, 4.5, 4.5, 4.5, 4.5, 1.5]
    assert rsa(triangle, far) == pytest.approx(np.corrcoef(*ranks)[0, 1])


@pytest.mark.parametrize("seed", range(3))
def test_rsa_is_scipys(seed):
    x, y = related(seed, 40, 6, 3)
    assert rsa(x, y) == pytest.approx(spearmanr(pdist(x), pdist(y)).statistic)


def test_neighbours_that_are_kept_in_part():
    """Of two nearest rows on a line, the right one of three stays: one of three in all."""
    x = np.array([[0.0], [1], [2.1], [10], [11], [12.1]])
    assert knn_jaccard(x, -x, k=2) == 1
    swapped = x[[0, 1, 3, 2, 4, 5]]  # rows 2 and 3 change sides
    near = [({1, 2}, {1, 3}), ({0, 2}, {0, 3}), ({0, 1}, {4, 5})]
    wanted = np.mean([len(a & b) / len(a | b) for a, b in near])
    assert knn_jaccard(x, swapped, k=2) == pytest.approx(wanted)


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_are_those_of_a_tree(seed):
    x, y = related(seed, 60, 5, 7)
    near = [cKDTree(a).query(a, 11)[1][:, 1:] for a in (x, y)]
    shares = [len({*a} & {*b}) / len({*a} | {*b}) for a, b in zip(*near, strict=True)]
    assert knn_jaccard(x, y) == pytest.approx(np.mean(shares))


def test_equal_rows_are_neighbours_in_their_order(rng):
    """Forty equal rows of two sets: rounding must not choose among them."""
    rows = rng.normal(size=(3, 5)).astype(np.float32)
    x = rows[rng.integers(3, size=60)] * 1000
    turned = x @ np.linalg.qr(rng.normal(size=(5, 5)))[0].astype(np.float32)
    assert knn_jaccard(x, turned, k=5) == 1
    assert knn_jaccard(x, turned, k=5) == reference.knn_jaccard(x, turned, k=5)


@given(n=st.integers(12, 40), p=st.integers(1, 60), q=st.integers(1, 9), seed=SEEDS)
@settings(max_examples=30)
def test_are_as_defined_whatever_the_width(n, p, q, seed):
    x, y = related(seed, n, p, q)
    for name in ALL:
        value = MEASURES[name].function(x + 100, y)
        assert value == pytest.approx(reference.MEASURES[name](x, y), abs=1e-9)


@given(seed=SEEDS, scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
@settings(max_examples=30)
def test_rotation_scale_and_shift_change_nothing(seed, scale, shift):
    x, y = related(seed, 40, 5, 7)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(7, 7)))[0]
    for name in ALL:
        measure = MEASURES[name].function
        assert measure(x, scale * y @ turn + shift) == pytest.approx(measure(x, y), abs=1e-9)
        assert measure(y, x) == pytest.approx(measure(x, y), abs=1e-12)
        assert measure(x, x) == pytest.approx(1)


def test_float32_and_many_rows(rng):
    """More rows than are held at a time."""
    x = rng.normal(size=(1100, 3)).astype(np.float32)
    y = (x + 0.3 * rng.normal(size=x.shape)).astype(np.float32)
    near = [cKDTree(a).query(a, 11)[1][:, 1:] for a in (x, y)]
    shares = [len({*a} & {*b}) / len({*a} | {*b}) for a, b in zip(*near, strict=True)]
    assert knn_jaccard(x, y) == pytest.approx(np.mean(shares))


# --- Intervals and what chance reaches -------------------------------------------------------------


@pytest.mark.parametrize("name", [*ALL, "cka-rbf", "cca"])
def test_intervals_hold_the_value_and_nulls_do_not(name):
    x, y = related(3, 120, 4, 4)
    groups = np.arange(120) // 10
    found = interval_of(MEASURES[name], x, y, groups=groups)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(MEASURES[name].function(x, y))
    assert found.n_groups == 12
    null = null_of(MEASURES[name], x, y, n_permutations=99)
    assert null.value == pytest.approx(found.value)
    assert (null.p_value, len(null.shuffled)) == (0.01, 99)
    assert null.upper() < found.low


@pytest.mark.parametrize("name", ALL)
def test_equals_have_an_interval_without_width(name):
    x, _ = related(0, 60, 4, 4)
    found = interval_of(MEASURES[name], x, 3 * x, groups=np.arange(60) // 6)
    assert (found.low, found.value, found.high) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("name", ALL)
def test_shuffles_are_the_measure_of_shuffled_rows(name):
    x, y = related(1, 30, 4, 3)
    found = null_of(MEASURES[name], x, y, n_permutations=5, seed=7)
    rng = np.random.default_rng(7)
    wanted = [reference.MEASURES[name](x, y[rng.permutation(30)]) for _ in range(5)]
    np.testing.assert_allclose(found.shuffled, wanted, atol=1e-9)


def test_of_independent_features_the_interval_of_rsa_covers_0():
    hits = 0
    for seed in range(60):
        x, y = np.random.default_rng(seed).normal(size=(2, 80, 3))
        found = interval_of(MEASURES["rsa"], x, y, groups=np.arange(80) // 4, n_resamples=200)
        hits += found.low < 0 < found.high
    assert hits >= 50


def test_the_jackknife_is_that_of_its_formula():
    x, y = related(2, 40, 2, 2)
    groups = np.repeat(["a", "b", "c", "d"], 10)
    found = interval_of(MEASURES["procrustes"], x, y, groups=groups, confidence=0.9)
    without = [procrustes(x[groups != g], y[groups != g]) for g in "abcd"]
    error = np.sqrt(3 / 4 * ((without - np.mean(without)) ** 2).sum())
    assert found.high - found.value == pytest.approx(2.35336343480182 * error)  # t, 3, 0.95
    assert found.n_resamples == 4


# --- What is refused -------------------------------------------------------------------------------


def test_bad_arrays_are_refused(rng):
    x = rng.normal(size=(20, 3))
    for name in ALL:
        measure = MEASURES[name].function
        with pytest.raises(TypeError, match="y must be float16, float32 or float64, got int64"):
            measure(x, np.ones((20, 3), np.int64))
        with pytest.raises(ValueError, match="x and y must have the same rows, got 20 and 19"):
            measure(x, x[1:])
        with pytest.raises(ValueError, match="y must be finite, got NaN or infinity in 1 of 20"):
            measure(x, np.where(np.arange(20)[:, None] == 3, np.nan, x))
        with pytest.raises(ValueError, match=r"20 equal rows|20 rows equally far"):
            measure(x, np.full((20, 2), 3.5))
    with pytest.raises(ValueError, match=r"x must have more than k \+ 1 = 11 rows, got 11"):
        knn_jaccard(x[:11], x[:11])
    with pytest.raises(TypeError, match="k must be an integer, got float"):
        knn_jaccard(x, x, k=2.0)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        knn_jaccard(x, x, k=0)
    with pytest.raises(ValueError, match="groups must be at least 2, got 1"):
        interval_of(MEASURES["procrustes"], x, x, groups=np.zeros(20))
    with pytest.raises(ValueError, match="groups must have one entry per row, got 3 for 20 rows"):
        interval_of(MEASURES["procrustes"], x, x, groups=np.arange(3))
    with pytest.raises(ValueError, match="n_permutations must be at least 1, got 0"):
        null_of(MEASURES["procrustes"], x, x, n_permutations=0)
