"""What maps are worth is measured by its definitions; maps of a network without weights are named."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference as reference_of_all
import reference_cam as reference
from extras import need

torch = need("torch")

from torch import nn

from histofast.explain import cam
from histofast.networks import adopt

pytestmark = pytest.mark.usefixtures("one_thread")


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30)
def test_shares_and_correlations_are_their_definitions(seed):
    rng = np.random.default_rng(seed)
    h, w = rng.integers(1, 5, 2)
    maps = rng.integers(0, 3, (4, h, w)).astype(np.float32)
    others = rng.integers(0, 3, (4, h, w)).astype(np.float32)
    maps[0] = 0
    masks = rng.integers(0, 2, (4, 2 * h + 1, 7)).astype(bool)
    shares = [reference.mass_share(m, k) for m, k in zip(maps, masks, strict=True)]
    np.testing.assert_allclose(cam.mass_shares(maps, masks), shares)
    assert math.isnan(shares[0])
    wanted = [reference.rank_correlation(a, b) for a, b in zip(maps, others, strict=True)]
    np.testing.assert_allclose(cam.rank_correlations(maps, others), wanted, atol=1e-12)


def test_the_share_of_a_mask_and_of_the_rest_are_one():
    rng = np.random.default_rng(1)
    maps, masks = rng.random((3, 4, 4)), rng.random((3, 9, 9)) < 0.5
    np.testing.assert_allclose(cam.mass_shares(maps, masks) + cam.mass_shares(maps, ~masks), 1)
    np.testing.assert_allclose(cam.mass_shares(np.ones((3, 9, 9)), masks), masks.mean((1, 2)))


@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize(("side", "steps"), [(3, 4), (4, 8), (1, 2)])
def test_curves_are_their_definition(insert, side, steps):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 10, 11, 3), np.uint8)
    maps = rng.random((3, side, side))

    def predict(given):
        return given[:, :5, :5].mean((1, 2, 3)) / 255

    got = cam.curve(predict, pixels, maps, insert=insert, steps=steps)
    wanted = [
        reference.curve(lambda x: predict(x[None])[0], p, m, insert=insert, steps=steps)
        for p, m in zip(pixels, maps, strict=True)
    ]
    np.testing.assert_allclose(got, wanted)
    np.testing.assert_allclose(got[:, -1 if insert else 0], predict(pixels))


def test_equal_values_come_in_an_order_of_the_seed():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)

    def corner(given):
        return given[:, 0, 0, 0] / 255

    curves = [
        cam.curve(corner, pixels, np.zeros((2, 4, 4)), insert=True, seed=seed) for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(curves[0], curves[1])
    assert (curves[0] != curves[2]).any()


def test_means_are_of_pictures_and_intervals_of_groups():
    values = np.array([0.0, 1, 1, np.nan, 0.5, 0.5, 1.0])
    found = cam.mean_over_groups(values, list("aabbcde"))
    assert found.value == pytest.approx(np.nanmean(values))
    assert found.low < found.value < found.high
    assert found == cam.mean_over_groups(values, list("aabbcde"))
    few = cam.mean_over_groups(values, list("aabbccc"))
    assert few.value == found.value
    assert math.isnan(few.low)
    assert math.isnan(cam.mean_over_groups(np.full(3, np.nan), list("abc")).value)
    same = cam.mean_over_groups(np.full(6, 0.25), list("abcdef"))
    assert (same.low, same.value, same.high) == (0.25, 0.25, 0.25)


def test_arrays_that_do_not_agree_are_refused():
    maps = np.zeros((2, 3, 3))
    with pytest.raises(ValueError, match=r"masks must be \(n, H, W\) as maps are \(n, h, w\), got"):
        cam.mass_shares(maps, np.zeros((1, 9, 9), bool))
    with pytest.raises(ValueError, match="maps must not be below 0, got -1"):
        cam.mass_shares(maps - 1, np.zeros((2, 9, 9), bool))
    with pytest.raises(ValueError, match=r"others must be \(2, 3, 3\) as maps are, got \(2, 9\)"):
        cam.rank_correlations(maps, np.zeros((2, 9)))


class Centre(nn.Module):
    """Class 1 is how bright the middle is; the convolution has fixed weights, the head is learnt."""

    def __init__(self, *, learnt):
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 4, stride=4)
        self.head = nn.Linear(4, 2)
        if not learnt:  # what it shows is in its architecture
            self.inner.reset_parameters = self.head.reset_parameters = lambda: None

    def forward(self, x):
        y = torch.relu(self.inner(x))
        return self.head(y.mean((2, 3)))


@pytest.mark.parametrize("learnt", [True, False])
def test_maps_that_do_not_change_without_weights_are_named(learnt):
    torch.manual_seed(3)
    network = adopt(
        Centre(learnt=learnt), mean=(0.5,) * 3, std=(0.25,) * 3, name="centre", classes=2
    )
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    found = cam.measure(
        network,
        pixels,
        layer="inner",
        methods=("hirescam",),
        classes=np.zeros(12, np.int64),
        groups=[str(i // 2) for i in range(12)],
        task="classification",
        masks=np.ones((12, 16, 16), bool),
        draws=3,
    )
    assert [change.part for change in found.changes] == ["head", "inner"]
    assert found.unchanged() == (() if learnt else ("hirescam",))
    if not learnt:
        assert found.changes[-1].left["hirescam"].value == pytest.approx(1)
        assert found.left["hirescam"].value == pytest.approx(1)
    assert [(source.name, source.is_null) for source in found.sources] == [
        ("HiRes-CAM", False),
        ("HiRes-CAM, weights drawn anew", True),
        ("darkness", True),
        ("random", True),
    ]
    for source, draws in zip(found.sources, (1, 3, 1, 3), strict=True):
        assert {by: values.shape for by, values in source.values.items()} == dict.fromkeys(
            ("deletion", "insertion", "mass"), (draws, 12)
        )
    own = found.worth(found.sources[0], "mass")
    assert (own.metric.value, own.lowest, own.highest) == pytest.approx((1, 1, 1))
    null = found.worth(found.sources[1], "deletion")
    if learnt:
        assert null.lowest < null.metric.value < null.highest  # other weights, other maps
    else:
        assert null.lowest == null.highest  # whatever the weights
        assert found.compared("deletion")["HiRes-CAM", "HiRes-CAM, weights drawn anew"].value == 0
    assert found.area == 1
    assert (found.pictures, found.draws, found.criteria) == (
        12,
        3,
        ("deletion", "insertion", "mass"),
    )


def planted(values, groups):
    """Measured values of deletion, by name of the source; (k, n), or (n,) of what is not drawn."""
    return cam.Measured(
        sources=tuple(
            cam.Source(
                name=name,
                is_null=name not in cam.NAMES.values(),
                values={"deletion": np.atleast_2d(each)},
            )
            for name, each in values.items()
        ),
        groups=tuple(groups),
        changes=(),
        left={},
        area=None,
        seed=0,
    )


def test_methods_are_held_against_what_else_there_is_picture_by_picture(rng):
    """Slides differ by far more than sources do: only pairs of the same pictures tell them apart."""
    groups = [f"slide {k // 3}" for k in range(36)]
    level = np.repeat(rng.uniform(0.2, 0.9, 12), 3)

    def near(value):
        return level + value + rng.normal(scale=0.01, size=36)

    found = planted(
        {
            "HiRes-CAM": near(0.0),
            cam.null_of("HiRes-CAM"): [near(0.2), near(0.001), near(0.4)],
            "Grad-CAM": near(-0.1),
            cam.null_of("Grad-CAM"): [near(0.2), near(0.3), near(0.4)],
            "darkness": near(0.1),
            "random": [near(-0.3), near(0.5), near(0.1)],
        },
        groups,
    )
    told = found.compared("deletion")
    assert {pair: round(one.value, 1) for pair, one in told.items()} == {
        ("HiRes-CAM", cam.null_of("HiRes-CAM")): 0.0,  # the draw that comes nearest
        ("HiRes-CAM", "darkness"): 0.1,
        ("HiRes-CAM", "random"): 0.1,  # the mean of its draws
        ("HiRes-CAM", "Grad-CAM"): -0.1,
        ("Grad-CAM", cam.null_of("Grad-CAM")): 0.3,
        ("Grad-CAM", "darkness"): 0.2,
        ("Grad-CAM", "random"): 0.2,
    }
    shown = {pair for pair, one in told.items() if one.is_shown}
    assert set(told) - shown == {("HiRes-CAM", cam.null_of("HiRes-CAM"))}
    worths = {source.name: found.worth(source, "deletion") for source in found.sources}
    assert worths["HiRes-CAM"].metric.high > worths["darkness"].metric.low
    one = told["HiRes-CAM", "darkness"]
    apart = found.sources[4].values["deletion"][0] - found.sources[0].values["deletion"][0]
    wanted = reference_of_all.paired_difference(apart, np.zeros(36), range(36))
    assert one.value == pytest.approx(wanted)


def test_what_is_defined_in_few_pictures_is_told_of_these(rng):
    values = rng.random(20)
    drawn = np.stack([np.full(20, np.nan), values - 0.1])
    found = planted(
        {"HiRes-CAM": values, cam.null_of("HiRes-CAM"): drawn, "darkness": values}, range(20)
    )
    null = found.worth(found.sources[1], "deletion")
    assert null.lowest == null.highest == pytest.approx(null.metric.value)
    told = found.compared("deletion")["HiRes-CAM", cam.null_of("HiRes-CAM")]
    assert told.value == pytest.approx(-0.1)


def test_darkness_is_the_mean_of_the_pixels_of_a_place():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 7, 9, 3), np.uint8)
    found = cam.darkness(pixels, (3, 2))
    place = reference.spread(np.arange(6).reshape(3, 2), (7, 9))
    light = 1 - pixels.mean(3) / 255
    for k in range(6):
        wanted = light[:, place == k].mean(1)
        np.testing.assert_allclose(found.reshape(2, 6)[:, k], wanted)
