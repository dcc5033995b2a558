"""Augmentation of training images, against tests/reference_augment.py; what is drawn, and of what."""

from __future__ import annotations

import colorsys
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_augment as reference
from histofast import _core
from histofast.datasets import Augmentation, augment, colour_axes, draws_of

ISAS = [isa for isa in _core.Isa if isa.value <= _core.best_isa().value]
EACH = {
    "flips": True,
    "quarter_turns": True,
    "rotate_deg": 180.0,
    "translate": 0.3,
    "scale": 0.4,
    "shear_deg": 30.0,
    "hed": 0.2,
    "hsv": 0.3,
    "rgb_pca": 0.5,
    "blur_sigma": 2.5,
    "cutout": 0.4,
}
ALL = Augmentation(**EACH)
AXES = np.array([[30.0, 8, 2], [35, -3, -3], [25, -5, 2]])


def keys_of(n, seed=0):
    return np.stack([np.full(n, seed, np.uint64), np.arange(n, dtype=np.uint64)], axis=1)


def images_of(rng, n=4, h=37, w=37):
    return rng.integers(0, 256, (n, h, w, 3), dtype=np.uint8)


def augmented(pixels, augmentation, keys=None, **options):
    keys = keys_of(len(pixels)) if keys is None else keys
    return augment(pixels, augmentation, keys=keys, colour_axes=AXES, **options)


# --- The definition -------------------------------------------------------------------------------


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    on=st.sets(st.sampled_from(sorted(EACH))),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=120)
def test_matches_definition(size, on, seed):
    h, w = (min(size), min(size)) if "quarter_turns" in on else size
    augmentation = Augmentation(**{name: EACH[name] for name in on})
    pixels = images_of(np.random.default_rng(seed), 2, h, w)
    keys = keys_of(2, seed)
    drawn = draws_of(augmentation, keys, (h, w), colour_axes=AXES)
    got = augmented(pixels, augmentation, keys)
    for n in range(2):
        wanted = reference.augmented(pixels[n], drawn, n)
        assert np.abs(got[n].astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("name", sorted(EACH))
def test_almost_all_is_rounded_as_the_definition_has_it(rng, name):
    """A kernel that is off by half a level everywhere would pass the test above."""
    augmentation = Augmentation(**{name: EACH[name]})
    pixels = images_of(rng, 3, 64, 64)
    drawn = draws_of(augmentation, keys_of(3), (64, 64), colour_axes=AXES)
    wanted = np.stack([reference.augmented(pixels[n], drawn, n) for n in range(3)])
    got = augmented(pixels, augmentation)
    assert (got == wanted).mean() > 0.999
    assert (got != pixels).any()


def test_turns_are_exact_alone_and_before_the_rest(rng):
    pixels = images_of(rng, 64, 9, 9)
    turns = Augmentation(flips=True, quarter_turns=True)
    codes = draws_of(turns, keys_of(64), (9, 9)).turns
    wanted = np.stack(
        [reference.turned(image, int(code)) for image, code in zip(pixels, codes, strict=True)]
    )
    np.testing.assert_array_equal(augmented(pixels, turns), wanted)
    # A blur too narrow for any neighbour changes nothing, and goes the long way.
    np.testing.assert_array_equal(augmented(pixels, replace(turns, blur_sigma=0.1)), wanted)


def test_flips_of_what_is_not_square_are_exact(rng):
    pixels = images_of(rng, 16, 5, 8)
    codes = draws_of(Augmentation(flips=True), keys_of(16), (5, 8)).turns
    wanted = np.stack(
        [reference.turned(image, int(code)) for image, code in zip(pixels, codes, strict=True)]
    )
    np.testing.assert_array_equal(augmented(pixels, Augmentation(flips=True)), wanted)


def test_nothing_on_changes_nothing(rng):
    pixels = images_of(rng)
    np.testing.assert_array_equal(augmented(pixels, Augmentation()), pixels)


def test_the_same_bits_on_every_isa_and_with_any_threads(rng):
    pixels = images_of(rng, 5, 61, 61)
    wanted = augmented(pixels, ALL)
    try:
        for isa in ISAS:
            _core.set_isa(isa)
            for threads in (1, 2, 7):
                np.testing.assert_array_equal(augmented(pixels, ALL, threads=threads), wanted)
    finally:
        _core.set_isa(_core.best_isa())


# --- Independent definitions ----------------------------------------------------------------------


def test_a_full_turn_of_the_hue_is_none_and_values_are_those_of_colorsys(rng):
    pixels = images_of(rng, 1, 12, 12)
    drawn = draws_of(Augmentation(hsv=0.3), keys_of(1), (12, 12)).tints[0].astype(float)
    got = augmented(pixels, Augmentation(hsv=0.3))
    for before, after in zip(pixels.reshape(-1, 3), got.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(before / 255))
        changed = h + drawn[0], min(s * (1 + drawn[1]), 1), min(v * (1 + drawn[2]), 1)
        wanted = 255 * np.array(colorsys.hsv_to_rgb(changed[0] % 1, *changed[1:]))
        assert np.abs(after - wanted).max() <= 1


def test_blur_is_scipys(rng):
    from scipy.ndimage import gaussian_filter

    pixels = images_of(rng, 3, 30, 20)
    sigmas = draws_of(Augmentation(blur_sigma=3), keys_of(3), (30, 20)).sigmas
    got = augmented(pixels, Augmentation(blur_sigma=3))
    for image, sigma, after in zip(pixels, sigmas, got, strict=True):
        wanted = gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="mirror")
        assert np.abs(after - wanted).max() <= 1


def test_stain_of_one_dye_stays_of_that_dye():
    """More haematoxylin moves a pixel along haematoxylin's line in optical density."""
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    density = 0.8 * stains[0]
    pixel = 256 * np.exp(-density) - 1
    pixels = np.broadcast_to(np.rint(pixel).astype(np.uint8), (50, 1, 1, 3)).copy()
    got = augmented(pixels, Augmentation(hed=0.2))[:, 0, 0].astype(float)
    drawn = draws_of(Augmentation(hed=0.2), keys_of(50), (1, 1)).stains.astype(float)
    offsets = drawn[:, 9:] * np.log(2) @ np.linalg.inv(stains)
    amounts = -np.log((got + 1) / 256) @ np.linalg.inv(stains)
    changed = amounts - offsets  # what is left is the factor of the one dye there is
    assert np.abs(changed[:, 1:]).max() < 0.06
    assert changed[:, 0].std() > 0.1
    assert np.abs(changed[:, 0] / 0.8 - 1).max() < 0.2 + 0.05
    assert np.abs(offsets).max() <= 0.2


def test_axes_are_the_principal_components_of_the_colours(rng):
    base = rng.normal(size=(20_000, 3)) * [30, 10, 3]
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    pixels = np.clip(base @ turn.T + 128, 0, 255).astype(np.uint8).reshape(20, 25, 40, 3)
    axes = colour_axes(pixels)
    np.testing.assert_allclose(np.linalg.norm(axes, axis=0), [30, 10, 3], rtol=0.05)
    wanted = np.cov(pixels.reshape(-1, 3).astype(float), rowvar=False, ddof=0)
    np.testing.assert_allclose(axes @ axes.T, wanted, atol=1e-6)
    assert (axes.sum(0) >= 0).all()
    some = np.array([3, 5])
    np.testing.assert_array_equal(colour_axes(pixels, rows=some), colour_axes(pixels[some]))


def test_a_cut_square_has_the_mean_colour_and_its_size(rng):
    pixels = images_of(rng, 200, 20, 20)
    got = augmented(pixels, Augmentation(cutout=0.5))
    holes = draws_of(Augmentation(cutout=0.5), keys_of(200), (20, 20)).holes
    for image, after, (x, y, side) in zip(pixels, got, holes, strict=True):
        mean = np.floor(image.mean((0, 1)) + 0.5)
        assert side == 10
        assert (after[y : y + side, x : x + side] == mean).all()
        outside = np.ones((20, 20), bool)
        outside[y : y + side, x : x + side] = False
        assert (after[outside] == image[outside]).all()
    assert holes[:, :2].min() == 0
    assert holes[:, :2].max() == 10


# --- What is drawn --------------------------------------------------------------------------------


def test_a_sample_is_the_same_wherever_it_is(rng):
    pixels, keys = images_of(rng, 9, 24, 24), keys_of(9, 3)
    whole = augmented(pixels, ALL, keys)
    order = rng.permutation(9)
    np.testing.assert_array_equal(augmented(pixels[order], ALL, keys[order]), whole[order])
    np.testing.assert_array_equal(augmented(pixels[4:5], ALL, keys[4:5]), whole[4:5])


@pytest.mark.parametrize("name", sorted(EACH))
def test_what_a_transform_draws_does_not_hang_on_the_others(name):
    alone = draws_of(Augmentation(**{name: EACH[name]}), keys_of(50), (20, 20), colour_axes=AXES)
    among = draws_of(ALL, keys_of(50), (20, 20), colour_axes=AXES)
    affine = {"rotate_deg", "translate", "scale", "shear_deg"}
    for part in fields(alone):
        mine, all_of_them = getattr(alone, part.name), getattr(among, part.name)
        if part.name == "turns" and len(mine):
            mask = 3 if name == "flips" else 12
            np.testing.assert_array_equal(mine, all_of_them & mask)
        elif len(mine) and name not in affine:
            np.testing.assert_array_equal(mine, all_of_them)


def test_turns_are_drawn_evenly():
    codes = draws_of(Augmentation(flips=True, quarter_turns=True), keys_of(16_000), (4, 4)).turns
    counts = np.bincount(codes, minlength=16)
    assert len(counts) == 16
    # Chi-square with 15 degrees of freedom: above 45 once in 10,000.
    assert ((counts - 1000) ** 2 / 1000).sum() < 45


@pytest.mark.parametrize(
    ("augmentation", "part", "columns", "low", "high"),
    [
        (Augmentation(hsv=0.2), "tints", [0, 1, 2], -0.2, 0.2),
        (Augmentation(blur_sigma=3), "sigmas", None, 0, 3),
        (Augmentation(translate=0.1), "maps", [2, 5], -2, 2),
    ],
)
def test_draws_are_uniform_over_their_range(augmentation, part, columns, low, high):
    drawn = getattr(draws_of(augmentation, keys_of(4000), (20, 20)), part)
    drawn = drawn[:, None] if columns is None else drawn[:, columns]
    for values in drawn.T:
        shares = np.sort((values - low) / (high - low))
        assert shares[0] >= 0
        assert shares[-1] <= 1
        distance = np.abs(shares - np.arange(0.5, 4000) / 4000).max()
        assert distance * np.sqrt(4000) < 2.2  # Kolmogorov and Smirnov: once in 8,000


def test_shifts_are_normal_along_the_axes():
    shifts = draws_of(Augmentation(rgb_pca=0.5), keys_of(20_000), (4, 4), colour_axes=AXES).shifts
    along = shifts @ np.linalg.inv(AXES).T
    np.testing.assert_allclose(along.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(along.std(0), 0.5, rtol=0.03)
    np.testing.assert_allclose(np.corrcoef(along.T), np.eye(3), atol=0.03)


@pytest.mark.parametrize("which", ["images", "epochs", "small numbers of both"])
def test_neighbouring_keys_draw_what_has_nothing_in_common(which):
    n = np.arange(2000, dtype=np.uint64)
    zero = np.zeros_like(n)
    keys = {
        "images": np.stack([zero, n], 1),
        "epochs": np.stack([n, zero], 1),
        "small numbers of both": np.stack([n % 40, n // 40], 1),
    }[which]
    tints = draws_of(Augmentation(hsv=1), keys, (4, 4)).tints
    sigmas = draws_of(Augmentation(blur_sigma=1), keys, (4, 4)).sigmas
    columns = np.concatenate([tints, sigmas[:, None]], axis=1)
    assert len(np.unique(columns.ravel())) > 0.999 * columns.size
    both = np.concatenate([columns[:-1], columns[1:]], axis=1)
    assert np.abs(np.corrcoef(both.T) - np.eye(8)).max() < 0.1


def test_rotation_alone_keeps_the_centre_and_lengths():
    maps = draws_of(Augmentation(rotate_deg=90), keys_of(100), (21, 21)).maps
    centre = maps @ np.array([[10, 0], [10, 0], [1, 0], [0, 10], [0, 10], [0, 1]])
    np.testing.assert_allclose(centre, 10, atol=1e-9)
    np.testing.assert_allclose(maps[:, 0] ** 2 + maps[:, 1] ** 2, 1)
    angles = np.rad2deg(np.arctan2(-maps[:, 3], maps[:, 0]))
    assert -90 <= angles.min() < -80
    assert 80 < angles.max() <= 90


def test_scale_enlarges_within_its_range():
    maps = draws_of(Augmentation(scale=0.2), keys_of(500), (20, 20)).maps
    factors = 1 / maps[:, 0]
    assert 0.8 <= factors.min() < 0.81
    assert 1.19 < factors.max() <= 1.2


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({"flips": 1}, TypeError, "flips must be True or False, got 1"),
        ({"hed": "strong"}, TypeError, "hed must be a number, got 'strong'"),
        ({"hed": True}, TypeError, "hed must be a number, got True"),
        ({"hed": 1.5}, ValueError, "hed must be within 0..1, got 1.5"),
        ({"rotate_deg": -1}, ValueError, "rotate_deg must be within 0..180, got -1"),
        ({"scale": 1}, ValueError, "scale must be within 0..0.9, got 1"),
        ({"blur_sigma": float("nan")}, ValueError, "blur_sigma must be within 0..20, got nan"),
    ],
)
def test_refuses_what_cannot_be_drawn(value, error, message):
    with pytest.raises(error) as raised:
        Augmentation(**value)
    assert str(raised.value) == message


def test_numbers_become_pythons_own():
    a = Augmentation(hed=np.float32(0.5), rotate_deg=10, flips=np.True_)
    assert [type(v) for v in (a.hed, a.rotate_deg, a.flips)] == [float, float, bool]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pixels": np.zeros((1, 4, 4, 3), np.float32)}, TypeError, "pixels must be C-contiguous"),
        ({"keys": np.zeros((2, 2), np.uint64)}, ValueError, r"keys must be .* \(1, 2\)"),
        ({"keys": np.zeros((1, 2), np.int64)}, TypeError, "keys must be C-contiguous uint64"),
        ({"threads": 0}, ValueError, "threads must be at least 1, got 0"),
        ({"out": np.zeros((1, 4, 5, 3), np.uint8)}, ValueError, "out must be"),
        ({"pixels": np.zeros((1, 4, 5, 3), np.uint8)}, ValueError, "must be square for quarter"),
        ({"colour_axes": None}, ValueError, "colour_axes must be given for rgb_pca, got None"),
        ({"colour_axes": np.eye(2)}, ValueError, r"colour_axes must be .* \(3, 3\)"),
    ],
)
def test_refuses_arrays_that_do_not_fit(change, error, message):
    pixels = np.zeros((1, 4, 4, 3), np.uint8)
    given = {"pixels": pixels, "keys": keys_of(1), "colour_axes": AXES} | change
    with pytest.raises(error, match=message):
        augment(given.pop("pixels"), ALL, **given)


def test_refuses_to_write_over_what_it_reads():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="out must be another array"):
        augment(pixels, Augmentation(), keys=keys_of(2), out=pixels)


def test_axes_of_no_pixels_are_refused():
    with pytest.raises(ValueError, match="pixels must hold some"):
        colour_axes(np.zeros((0, 4, 4, 3), np.uint8))


def test_no_images_are_no_images():
    assert augmented(np.zeros((0, 8, 8, 3), np.uint8), ALL).shape == (0, 8, 8, 3)


def test_out_is_written_and_returned(rng):
    pixels = images_of(rng)
    out = np.zeros_like(pixels)
    assert augmented(pixels, ALL, out=out) is out
    np.testing.assert_array_equal(out, augmented(pixels, ALL))
