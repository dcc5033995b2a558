"""Texture: the kernel against its definition, features against scikit-image."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_concepts as reference
from extras import need
from histofast import _core
from histofast.explain.concepts import GLCM_FEATURES, glcm

ISAS = [isa for isa in _core.Isa if isa.value <= _core.best_isa().value]


@pytest.fixture(autouse=True)
def best_isa():
    yield
    _core.set_isa(_core.best_isa())


def counted(images, offsets, levels, threads=1):
    differences = np.full((len(images), len(offsets), levels), -7, np.int32)
    sums = np.full((len(images), len(offsets), 3), -7, np.int64)
    _core.glcm_sums(images, np.array(offsets, np.int32), threads, differences, sums)
    return differences, sums


def assert_is_definition(images, offsets, levels):
    """Every instruction set and number of threads counts what the definition counts."""
    want = [
        [
            reference.glcm_sums(reference.glcm_counts(image, down, right, levels))
            for down, right in offsets
        ]
        for image in images
    ]
    for isa in ISAS:
        for threads in (1, 3):
            _core.set_isa(isa)
            differences, sums = counted(images, offsets, levels, threads)
            for n, of_image in enumerate(want):
                for k, (want_differences, want_sums) in enumerate(of_image):
                    np.testing.assert_array_equal(differences[n, k], want_differences, str(isa))
                    np.testing.assert_array_equal(sums[n, k], want_sums, str(isa))


@settings(max_examples=60)
@given(
    images=hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 40), st.just(3)),
        elements=st.integers(0, 255),
    ),
    levels=st.sampled_from([2, 3, 8, 100, 255, 256]),
    data=st.data(),
)
def test_counts_are_those_of_the_definition(images, levels, data):
    _, h, w, _ = images.shape
    offset = st.tuples(st.integers(1 - h, h - 1), st.integers(1 - w, w - 1))
    assert_is_definition(images, data.draw(st.lists(offset, min_size=1, max_size=3)), levels)


@pytest.mark.parametrize("kind", ["noise", "blank", "smooth"])
def test_counts_of_whole_patches_are_those_of_the_definition(rng, kind):
    image = {
        "noise": rng.integers(0, 256, (70, 131, 3)),
        "blank": np.full((70, 131, 3), 243),
        "smooth": np.add.outer(np.arange(70), np.arange(131))[..., np.newaxis] + np.zeros(3),
    }[kind].astype(np.uint8)
    assert_is_definition(image[np.newaxis], [(0, 1), (1, 1), (1, -1), (3, 0), (-2, 5)], 256)


def test_tables_are_clean_after_an_image(rng):
    """An image is counted alike after any other, whatever that one touched."""
    images = rng.integers(0, 256, (4, 20, 33, 3), dtype=np.uint8)
    images[1] = 0
    images[2] //= 32
    together = counted(images, [(0, 1), (2, 2)], 256)
    for n in range(4):
        alone = counted(images[n : n + 1], [(0, 1), (2, 2)], 256)
        for one, all_of_them in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], all_of_them[n])


@pytest.mark.parametrize("shape", [(359, 359), (360, 360), (512, 400), (3, 30_000), (30_000, 3)])
@pytest.mark.parametrize("isa", ISAS)
def test_pairs_that_are_all_alike_do_not_overflow(shape, isa):
    """The largest images whose pairs are counted with 16 bits, and the smallest with 32."""
    _core.set_isa(isa)
    images = np.full((1, *shape, 3), 255, np.uint8)
    differences, sums = counted(images, [(0, 1)], 256)
    pairs = shape[0] * (shape[1] - 1)
    assert differences[0, 0, 0] == pairs
    assert not differences[0, 0, 1:].any()
    assert sums[0, 0].tolist() == [510 * pairs, 2 * 255**2 * pairs, 4 * pairs**2]


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("shape", "levels"), [((2, 33, 70), 256), ((1, 1, 5), 2), ((3, 40, 41), 16)]
)
def test_gpu_counts_what_the_cpu_counts(gpu, rng, shape, levels):
    images = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    images[0, :, : shape[2] // 2] //= 16
    offsets = [(0, 1), (0, -2)] + [(1, 1), (1, -1), (-3, 2)] * (shape[1] > 3)
    want_differences, want_sums = counted(images, offsets, levels)
    differences = gpu.empty(want_differences.shape, "int32")
    sums = gpu.empty(want_sums.shape, "int64")
    _core.glcm_sums(gpu.put(images), np.array(offsets, np.int32), differences, sums, stream=0)
    np.testing.assert_array_equal(gpu.get(differences), want_differences)
    np.testing.assert_array_equal(gpu.get(sums), want_sums)


@pytest.mark.gpu
def test_features_of_images_on_a_gpu_are_the_cpus(gpu, rng):
    images = rng.integers(0, 256, (2, 20, 21, 3), dtype=np.uint8)
    np.testing.assert_array_equal(glcm(gpu.put(images)), glcm(images))


# --- Features -------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_features_are_those_of_the_definition(rng, levels):
    images = rng.integers(0, 256, (4, 15, 18, 3), dtype=np.uint8)
    images[1] = images[1] // 64 + 100
    images[2] = 200
    found = glcm(images, distances=(1, 3), angles_deg=(0, 45, 90, 135), levels=levels)
    offsets = [(0, 1), (1, 1), (1, 0), (1, -1), (0, 3), (2, 2), (3, 0), (2, -2)]
    want = [
        [
            reference.glcm_features(reference.glcm_counts(image, *offset, levels))
            for offset in offsets
        ]
        for image in images
    ]
    assert found.shape == (4, 2, 4, 6)
    np.testing.assert_allclose(found.reshape(4, 8, 6), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("levels", [32, 256])
def test_features_are_those_of_scikit_image(rng, levels):
    feature = need("skimage.feature")
    grey = rng.integers(0, 256, (3, 40, 37), dtype=np.uint8)
    grey[1] = np.cumsum(grey[1] % 3, axis=1)
    grey[2] = 77
    found = glcm(
        np.repeat(grey[..., np.newaxis], 3, axis=3),
        distances=(1, 2),
        angles_deg=(0, 45, 90, 135),
        levels=levels,
    )
    angles = np.radians([0, 45, 90, 135])
    for n, image in enumerate(grey):
        level = (image.astype(int) * levels // 256).astype(np.uint8)
        matrix = feature.graycomatrix(level, [1, 2], angles, levels, symmetric=True, normed=True)
        for k, name in enumerate(GLCM_FEATURES):
            want = feature.graycoprops(matrix, name.upper() if name == "asm" else name)
            np.testing.assert_allclose(found[n, ..., k], want, rtol=1e-9, atol=1e-9)


def test_grey_is_scikit_images(rng):
    """All but rounding at halves: the weights are those of rgb2gray, in units of 2^-16."""
    color = need("skimage.color")
    image = rng.integers(0, 256, (50, 50, 3), dtype=np.uint8)
    exact = color.rgb2gray(image) * 255
    assert np.abs(reference.grey(image) - exact).max() < 0.51


def test_a_constant_image_has_features_without_nan():
    found = glcm(np.full((1, 5, 5, 3), 9, np.uint8))[0, 0, 0]
    assert dict(zip(GLCM_FEATURES, found.tolist(), strict=True)) == {
        "dissimilarity": 0,
        "contrast": 0,
        "homogeneity": 1,
        "asm": 1,
        "energy": 1,
        "correlation": 1,
    }


def test_no_images_have_no_features():
    assert glcm(np.empty((0, 5, 5, 3), np.uint8)).shape == (0, 1, 1, 6)


PATCHES = np.zeros((1, 4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (PATCHES[0], {}, ValueError, r"^images must be C-contiguous uint8 of shape \(n, h, w, 3\)"),
        (PATCHES[..., ::-1], {}, ValueError, "^images must be C-contiguous uint8 .*, got strided"),
        (PATCHES / 2, {}, TypeError, "^images must be .* got float64"),
        (PATCHES, {"distances": ()}, ValueError, "^distances must be at least one, got none$"),
        (PATCHES, {"angles_deg": ()}, ValueError, "^angles_deg must be at least one, got none$"),
        (PATCHES, {"distances": (1.5,)}, TypeError, "^distances must be a whole number, got 1.5$"),
        (PATCHES, {"distances": (0,)}, ValueError, "^distances must be .* got 0$"),
        (
            PATCHES,
            {"distances": (4,), "angles_deg": (90,)},
            ValueError,
            "^distances must leave pairs in images of 6 x 4 px, got 4 at 90 degrees$",
        ),
        (PATCHES, {"levels": 257}, ValueError, "^levels must be .* got 257$"),
        (PATCHES, {"threads": 0}, ValueError, "^threads must be at least 1, got 0$"),
    ],
)
def test_what_it_refuses(images, options, error, message):
    with pytest.raises(error, match=message):
        glcm(images, **options)


@pytest.mark.parametrize(
    ("levels", "offset", "message"),
    [
        (1, (0, 1), "levels must be 2..256, got 1"),
        (257, (0, 1), "levels must be 2..256, got 257"),
        (8, (4, 0), r"offset \(4, 0\) leaves images of shape \(1, 4, 6, 3\)"),
        (8, (0, -6), r"offset \(0, -6\) leaves images"),
    ],
)
def test_the_kernel_refuses_what_would_leave_its_arrays(levels, offset, message):
    with pytest.raises(ValueError, match=message):
        counted(PATCHES, [offset], levels)


def test_the_kernel_refuses_arrays_that_do_not_fit():
    sums = np.zeros((1, 2, 3), np.int64)
    with pytest.raises(ValueError, match="do not fit images"):
        _core.glcm_sums(PATCHES, np.zeros((1, 2), np.int32), 1, np.zeros((1, 1, 8), np.int32), sums)
