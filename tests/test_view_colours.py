"""Colours and groups of patches agree between slides, and are those of their definitions."""

from __future__ import annotations

import numpy as np
import pytest

import reference
from histofast.viewer.clusters import centres_of, nearest
from histofast.viewer.colours import colouring_of


@pytest.fixture
def sample(rng):
    """Four directions that differ in how far they reach, turned in 12 dimensions."""
    turned = np.linalg.qr(rng.normal(size=(12, 12)))[0][:4]
    return (rng.normal(size=(600, 4)) * [8, 4, 2, 0.5] @ turned + 3).astype(np.float32)


def test_colours_are_the_principal_axes_of_the_sample(sample):
    np.testing.assert_allclose(
        colouring_of(sample).of(sample).astype(int), reference.colours(sample, sample), atol=1
    )


def test_a_patch_has_the_same_colour_on_every_slide(sample):
    colouring = colouring_of(sample)
    whole = colouring.of(sample)
    np.testing.assert_array_equal(colouring.of(sample[100:300]), whole[100:300])
    middle, axis = sample.mean(axis=0), 1e6 * colouring.axes[0]
    far = colouring.of(np.stack([middle + axis, middle - axis]))
    assert far[:, 0].tolist() == [255, 0]


def test_a_direction_that_is_not_there_is_of_middle_light(rng):
    line = np.outer(rng.normal(size=200), [1, 2, 0, 0]).astype(np.float32)
    colours = colouring_of(line).of(line)
    assert np.unique(colours[:, 0]).size > 50
    assert (colours[:, 1:] == 128).all()
    assert (colouring_of(np.ones((5, 3), np.float32)).of(np.ones((2, 3))) == 128).all()
    assert colouring_of(line[:, :1]).of(line[:, :1]).shape == (200, 3)


def test_what_is_not_finite_is_black(sample):
    broken = sample[:4].copy()
    broken[1, 3], broken[2, 0] = np.nan, -np.inf
    colours = colouring_of(sample).of(broken)
    assert (colours == 0).all(axis=1).tolist() == [False, True, True, False]


def test_groups_far_apart_are_found_the_largest_first(rng):
    middles = np.eye(3, 8) * 50
    of = np.repeat([2, 0, 1], [300, 200, 100])
    points = (middles[of] + rng.normal(size=(600, 8))).astype(np.float32)
    order = rng.permutation(600)
    centres = centres_of(points[order], 3)
    np.testing.assert_allclose(centres, middles[[2, 0, 1]], atol=0.5)
    np.testing.assert_array_equal(nearest(points, centres), np.repeat([0, 1, 2], [300, 200, 100]))


def test_the_same_sample_gives_the_same_groups(sample):
    np.testing.assert_array_equal(centres_of(sample, 8), centres_of(sample.copy(), 8))


def test_no_more_groups_than_different_patches():
    few = np.repeat(np.eye(2, 4, dtype=np.float32), 9, axis=0)
    assert len(centres_of(few, 8)) == 2


def test_the_nearest_centre_is_that_of_the_definition(sample, rng):
    centres = centres_of(sample, 8)
    away = np.sqrt(((sample[:, None].astype(np.float64) - centres) ** 2).sum(axis=2))
    np.testing.assert_array_equal(nearest(sample, centres), away.argmin(axis=1))
    broken = sample[:3].copy()
    broken[1, 0] = np.nan
    assert nearest(broken, centres).tolist()[1] == -1
