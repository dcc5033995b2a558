"""The most similar patches are those of NumPy's argsort of cosine, ties by row, whatever the features hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import reference
from histofast.viewer.neighbours import alike, lengths_of, points_somewhere


def found(features, row, *, k):
    return alike(features, lengths_of(features), features[row], k=k, without=row)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("n", [2, 3, 257])
def test_neighbours_are_those_of_the_definition(rng, n, dtype):
    features = rng.normal(size=(n, 33)).astype(dtype)
    for row in (0, n - 1):
        wanted, cosines = reference.most_alike(features, row, k=24)
        got = found(features, row, k=24)
        assert got.rows.tolist() == wanted.tolist()
        np.testing.assert_allclose(got.cosines, cosines, atol=1e-12)


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 12), st.integers(1, 5)), elements=st.integers(-2, 2)
    )
)
@settings(max_examples=200)
def test_ties_are_told_apart_by_row(features):
    for row, values in enumerate(features):
        if values.any():
            wanted, _ = reference.most_alike(features, row, k=5)
            assert found(features, row, k=5).rows.tolist() == wanted.tolist()


def test_copies_of_a_patch_come_in_order_wherever_they_lie(rng):
    # A product rounds a row by its place in the matrix: 70 is no multiple of what is summed together.
    copied = rng.normal(size=512).astype(np.float32)
    features = np.concatenate([rng.normal(size=(3, 512)), np.tile(copied, (70, 1))]).astype(
        np.float32
    )
    assert found(features, 40, k=24).rows.tolist() == list(range(3, 27))


def test_scale_does_not_matter(rng):
    features = rng.normal(size=(50, 16)).astype(np.float32)
    wanted = found(features, 7, k=10).rows.tolist()
    scaled = features * (2.0 ** rng.integers(-40, 40, size=(50, 1))).astype(np.float32)
    assert found(scaled, 7, k=10).rows.tolist() == wanted


def test_what_points_nowhere_is_no_neighbour_and_has_none(rng):
    features = rng.normal(size=(9, 4)).astype(np.float32)
    features[[2, 5]] = 0
    features[3, 1] = np.nan
    features[8, 0] = np.inf
    assert sorted(found(features, 0, k=24).rows.tolist()) == [1, 4, 6, 7]
    assert [points_somewhere(features[row]) for row in (2, 3, 5, 8, 1)] == [False] * 4 + [True]
    assert np.isnan(lengths_of(features)).nonzero()[0].tolist() == [2, 3, 5, 8]


def test_a_patch_that_is_alone_has_no_neighbour():
    assert found(np.ones((1, 4), np.float32), 0, k=3).rows.tolist() == []


def test_equal_patches_are_neighbours_of_cosine_one():
    got = found(np.full((4, 3), 0.1, np.float32), 2, k=9)
    assert got.rows.tolist() == [0, 1, 3]
    np.testing.assert_allclose(got.cosines, 1, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_lengths_are_right_where_squares_leave_float32(rng, dtype):
    features = rng.normal(size=(5000, 300)).astype(dtype)
    if dtype != np.float16:
        features[[3, 4999]] *= dtype(1e25)
        features[[4, 4000]] *= dtype(1e-25)
    wanted = np.sqrt((features.astype(np.float64) ** 2).sum(axis=1))
    np.testing.assert_allclose(lengths_of(features), wanted, rtol=2e-5)
