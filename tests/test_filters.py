"""First convolutions: how far filters went, and what they look like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference_classify as reference
from extras import need

torch = need("torch", "safetensors")

from histofast import networks
from histofast.studies import filter_grid, filters_moved, first_filters


def test_how_far_filters_moved_is_as_defined():
    rng = np.random.default_rng(0)
    before, step = rng.normal(size=(2, 6, 3, 5, 5))
    found = filters_moved(before, before + 0.1 * step)
    cosine, distance = reference.filters_moved(before, before + 0.1 * step)
    np.testing.assert_allclose(found.cosine, cosine, rtol=1e-12)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-12)


@given(scale=st.floats(0.1, 10))
def test_a_filter_that_only_grows_keeps_its_direction(scale):
    before = np.random.default_rng(1).normal(size=(4, 3, 3, 3))
    found = filters_moved(before, scale * before)
    np.testing.assert_allclose(found.cosine, 1, rtol=1e-12)
    np.testing.assert_allclose(found.distance, abs(scale - 1), atol=1e-12)


def test_of_an_empty_filter_nothing_is_told():
    found = filters_moved(np.zeros((1, 3, 3, 3)), np.ones((1, 3, 3, 3)))
    assert np.isnan([found.cosine[0], found.distance[0]]).all()


def test_filters_of_two_shapes_are_refused():
    with pytest.raises(
        ValueError, match=r"after must be filters of shape \(2, 3, 5, 5\), got \(1, 3"
    ):
        filters_moved(np.ones((2, 3, 5, 5)), np.ones((1, 3, 5, 5)))


def test_filters_of_a_network_are_those_of_its_first_convolution():
    network = networks.create("resnet18", seed=1)
    found = first_filters(network)
    assert found.shape == (64, 3, 7, 7)
    np.testing.assert_array_equal(found, network.state_dict()["conv1.weight"].double().numpy())


def test_a_grid_shows_each_filter_on_its_own_scale_and_stages_below_each_other():
    before = np.zeros((3, 3, 7, 7))
    before[0, 0], before[0, 1, 0, 0] = 0.001, -0.001  # red, and green taken away at one corner
    drawn = filter_grid(before, 5 * before, columns=2)
    side = 28 + 1
    h = 2 * side - 1
    assert drawn.shape == (2 * h + 6, 2 * side - 1, 3)
    assert drawn[5, 5].tolist() == [255, 128, 128]
    assert drawn[0, 0].tolist() == [255, 0, 128]
    assert drawn[5, side + 5].tolist() == [128, 128, 128]  # empty: grey
    assert (drawn[:, 28] == 255).all()
    assert (drawn[side + 5, side + 5] == 255).all()  # no fourth filter
    np.testing.assert_array_equal(drawn[:h], drawn[h + 6 :])
