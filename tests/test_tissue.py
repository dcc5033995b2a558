"""Tissue: the kernel against its definition, pictures that show the hard cases, contours, masks."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import reference
import tissue_pictures
from histofast import _core
from histofast.tissue import (
    Tissue,
    find_tissue,
    preview,
    tissue_from_geojson,
    tissue_from_mask,
    tissue_mask,
)

ISAS = [
    isa
    for isa in (_core.Isa.baseline, _core.Isa.avx2, _core.Isa.avx512)
    if isa.value <= _core.best_isa().value
]
PIXELS = {"close_px": 3, "max_hole_px": 1562, "min_area_px": 312}


@pytest.fixture(autouse=True)
def best_isa():
    yield
    _core.set_isa(_core.best_isa())


def assert_is_definition(image, **options):
    """Every instruction set gives the bits of the definition, its threshold and what it counts."""
    options = {"threshold": None, "exclude_foreign": True, **PIXELS, **options}
    want, want_threshold = reference.tissue_mask(image, **options)
    above = reference.tissue_score(image) > want_threshold
    foreign = reference.foreign_mask(image) & options["exclude_foreign"]
    counts = [above.sum(), (above & ~foreign).sum()]
    for isa in ISAS:
        _core.set_isa(isa)
        got = np.full(image.shape[:2], 7, np.uint8)
        asked = -1 if options["threshold"] is None else options["threshold"]
        found = _core.tissue_mask(image, got, **{**options, "threshold": asked})
        assert found == [want_threshold, *counts], isa
        np.testing.assert_array_equal(got, want, err_msg=str(isa))


def crops(picture, shape):
    """The picture in four other sizes around 64-pixel boundaries, off the corner."""
    h, w = shape
    for dh, dw in ((0, 0), (1, 1), (33, 63), (h // 2, w // 2)):
        yield np.ascontiguousarray(picture[dh:h, dw:w])


# --- The kernel is the definition -------------------------------------------------------------


@pytest.mark.parametrize("stain", ["he", "pale", "ihc", None])
@pytest.mark.parametrize("seed", [0, 1])
def test_pictures_match_definition(stain, seed):
    shape = (130, 193)
    picture = tissue_pictures.overview(
        stain=stain,
        pens=("blue", "green", "black", "red")[: 4 * seed],
        border=seed == 1,
        noise=2 + 10 * seed,
        shape=shape,
        seed=seed,
    )
    for image in crops(picture.image, shape):
        for options in ({}, {"exclude_foreign": False, "close_px": 1, "min_area_px": 40}):
            assert_is_definition(image, **options)


@pytest.mark.parametrize(
    "shape",
    [(0, 0), (0, 5), (5, 0), (1, 1), (1, 200), (200, 1), (2, 2), (3, 64), (5, 65), (70, 128)],
)
@pytest.mark.parametrize("exclude_foreign", [False, True])
def test_every_size_matches_definition(rng, shape, exclude_foreign):
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    for close_px, threshold in ((0, None), (0, 100), (2, 90), (32, 110)):
        assert_is_definition(
            image,
            threshold=threshold,
            exclude_foreign=exclude_foreign,
            close_px=close_px,
            max_hole_px=6,
            min_area_px=5,
        )


def coarse(image, times):
    """Blocks of `times` pixels, so that smoothing leaves something to join and to fill."""
    return np.ascontiguousarray(image.repeat(times, axis=0).repeat(times, axis=1))


@settings(max_examples=60)
@given(
    image=hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24).map(lambda s: (*s, 3)),
        elements=st.sampled_from([0, 30, 70, 120, 200, 245]),
        fill=st.just(245),
    ),
    times=st.integers(1, 5),
    threshold=st.none() | st.integers(0, 255),
    exclude_foreign=st.booleans(),
    close_px=st.integers(0, 4),
    max_hole_px=st.integers(0, 80),
    min_area_px=st.integers(0, 80),
)
def test_anything_matches_definition(image, times, **options):
    assert_is_definition(coarse(image, times), **options)


def test_spirals_and_checkers_match_definition():
    """Objects whose runs join late, and pixels that touch only by corners."""
    y, x = np.mgrid[:150, :150] - 75.0
    spiral = np.sin(np.hypot(x, y) * 0.5 - np.arctan2(y, x)) > 0
    checkers = (np.mgrid[:150, :150] // 8).sum(axis=0) % 2 == 0
    for pattern in (spiral, checkers, ~spiral, ~checkers):
        image = np.full((150, 150, 3), 240, np.uint8)
        image[pattern, 1] = 40
        for threshold in (60, 100, 140):
            assert_is_definition(
                image, threshold=threshold, close_px=0, max_hole_px=60, min_area_px=40
            )


# --- The GPU gives the bits of the CPU ----------------------------------------------------------


def assert_gpu_is_cpu(gpu, image, *, offset=0, **options):
    """Same mask, same threshold and counts; `offset` rows are left out on the GPU, so that nothing is aligned.

    The memory around arrays and what was in the scratch do not matter: `gpu` fills both.
    """
    options = {"threshold": -1, "exclude_foreign": True, **PIXELS, **options}
    h, w = image.shape[:2]
    want = np.empty((h, w), np.uint8)
    wanted = _core.tissue_mask(image, want, **options)
    rows = gpu.put(np.concatenate([np.full((offset, w, 3), 77, np.uint8), image]))[offset:]
    out = gpu.empty((offset + h, w), "uint8")[offset:]
    found = gpu.empty((3,), "int32")
    scratch = gpu.empty((_core.tissue_mask_scratch_bytes(h, w, **options),), "uint8")
    _core.tissue_mask(rows, out, **options, found=found, scratch=scratch, stream=0)
    np.testing.assert_array_equal(gpu.get(out), want, err_msg=str(options))
    assert gpu.get(found).tolist() == wanted


@pytest.mark.gpu
@pytest.mark.parametrize("stain", ["he", "pale", "ihc", None])
@pytest.mark.parametrize("seed", [0, 1])
def test_gpu_gives_the_cpus_mask_of_pictures(gpu, stain, seed):
    shape = (130, 193)
    pens = ("blue", "green", "black", "red")[: 4 * seed]
    picture = tissue_pictures.overview(
        stain=stain, pens=pens, border=seed == 1, noise=2 + 10 * seed, shape=shape, seed=seed
    )
    some = {"exclude_foreign": False, "close_px": 1, "min_area_px": 40}
    for image in crops(picture.image, shape):
        for options in ({}, some, {"close_px": 6, "max_hole_px": 0, "min_area_px": 0}):
            assert_gpu_is_cpu(gpu, image, **options)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "shape",
    [(0, 0), (0, 5), (5, 0), (1, 1), (1, 200), (200, 1), (2, 2), (3, 64), (5, 65), (33, 257)],
)
@pytest.mark.parametrize("exclude_foreign", [False, True])
def test_gpu_gives_the_cpus_mask_of_every_size(gpu, rng, shape, exclude_foreign):
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    for close_px, threshold in ((0, -1), (0, 100), (2, 90), (32, 110)):
        assert_gpu_is_cpu(
            gpu,
            image,
            offset=1,
            threshold=threshold,
            exclude_foreign=exclude_foreign,
            close_px=close_px,
            max_hole_px=6,
            min_area_px=5,
        )


@pytest.mark.gpu
@pytest.mark.parametrize("exclude_foreign", [False, True])
@pytest.mark.parametrize("max_hole_px", [0, 12, 2**40])
@pytest.mark.parametrize("min_area_px", [0, 20, 2**40])
def test_gpu_gives_the_cpus_mask_of_noise(gpu, rng, exclude_foreign, max_hole_px, min_area_px):
    """Objects, holes and contacts by corners of every kind, also across tiles (256 x 32 px)."""
    image = rng.integers(0, 256, (70, 530, 3), dtype=np.uint8)
    image[:, :40] = 20  # ink
    for threshold in (80, 98, 115):
        assert_gpu_is_cpu(
            gpu,
            image,
            threshold=threshold,
            exclude_foreign=exclude_foreign,
            close_px=0,
            max_hole_px=max_hole_px,
            min_area_px=min_area_px,
        )


@pytest.mark.gpu
@pytest.mark.parametrize("scale", [0.2, 0.5, 1.1])
def test_gpu_joins_what_winds_through_tiles(gpu, scale):
    y, x = np.mgrid[:100, :560] - np.array([50.0, 280.0]).reshape(2, 1, 1)
    spiral = np.sin(np.hypot(x, y) * scale - np.arctan2(y, x)) > 0
    checkers = (np.mgrid[:100, :560] // 8).sum(axis=0) % 2 == 0
    for pattern in (spiral, ~spiral, checkers, ~checkers):
        image = np.full((100, 560, 3), 240, np.uint8)
        image[pattern, 1] = 40
        for threshold in (60, 140):
            for limit in (60, 4000):
                assert_gpu_is_cpu(
                    gpu,
                    image,
                    threshold=threshold,
                    close_px=0,
                    max_hole_px=limit,
                    min_area_px=limit,
                )


@pytest.mark.gpu
@pytest.mark.parametrize("falls", [False, True])
def test_gpu_joins_holes_but_not_objects_by_corners(gpu, falls):
    """Two squares that touch at a corner: within a word, between words, rows, and tiles."""
    for x in (133, 160, 256):
        for y in (20, 32, 64):
            squares = np.zeros((100, 300), bool)
            left, right = (y - 12, y) if falls else (y, y - 12)
            squares[left : left + 12, x - 12 : x] = squares[right : right + 12, x : x + 12] = True
            for pattern in (squares, ~squares):
                image = np.full((100, 300, 3), 240, np.uint8)
                image[pattern, 1] = 40
                options = {"close_px": 0, "max_hole_px": 200, "min_area_px": 200}
                assert_gpu_is_cpu(gpu, image, threshold=100, **options)


@pytest.mark.gpu
def test_gpu_knows_ink_by_the_same_limits(gpu):
    colours = [(100, 92, 172), (100, 124, 116), (200, 56, 56), (79, 79, 56)]  # just foreign
    steps = [(0, 0, 0)] + [tuple(step) for step in np.vstack([np.eye(3), -np.eye(3)]).astype(int)]
    image = np.full((24 * len(colours), 24 * len(steps), 3), 255, np.uint8)
    for i, colour in enumerate(colours):
        for j, step in enumerate(steps):
            block = image[24 * i + 4 : 24 * i + 20, 24 * j + 4 : 24 * j + 20]
            block[:] = np.add(colour, step)
    assert_gpu_is_cpu(gpu, image, threshold=4, close_px=0, max_hole_px=0, min_area_px=0)
    assert_gpu_is_cpu(gpu, image)


@pytest.mark.gpu
@pytest.mark.parametrize("close_px", [0, 1, 8, 16, 17, 32])
def test_gpu_closes_with_every_radius(gpu, rng, close_px):
    """Wider and higher than the tiles of any radius (30 words by 64 rows)."""
    y, x = np.mgrid[:150, :1100]
    dots = ndimage.maximum_filter(rng.random(x.shape) < min(0.02, 2 * (2 * close_px + 1) ** -2), 3)
    step = 2 * close_px + 3  # lines of 3 px, and gaps that just close
    for pattern in (dots, x % step < 3, y % step < 3):
        image = np.full((150, 1100, 3), 240, np.uint8)
        image[pattern, 1] = 40
        options = {"threshold": 70, "close_px": close_px, "max_hole_px": 0, "min_area_px": 0}
        assert_gpu_is_cpu(gpu, image, **options)


@pytest.mark.gpu
def test_gpu_array_in_gpu_array_out(gpu):
    image = tissue_pictures.overview(pens=("blue",), shape=(60, 91)).image
    on_gpu = gpu.put(image)
    mask = tissue_mask(on_gpu)
    assert type(mask) is type(on_gpu)
    np.testing.assert_array_equal(gpu.get(mask), tissue_mask(image))
    out = gpu.empty((60, 91), "uint8")
    assert tissue_mask(on_gpu, out=out, threshold=40) is out
    np.testing.assert_array_equal(gpu.get(out), tissue_mask(image, threshold=40))


@pytest.mark.gpu
def test_gpu_array_and_another_place_are_refused(gpu):
    image = tissue_pictures.overview(shape=(40, 50)).image
    with pytest.raises(ValueError, match=r"arrays must be in one place, got image on GPU 0"):
        tissue_mask(gpu.put(image), out=np.empty((40, 50), np.uint8))
    options = {"threshold": -1, "exclude_foreign": True, **PIXELS}
    rest = {"found": gpu.empty((3,), "int32"), "scratch": gpu.empty((9,), "uint8"), "stream": 0}
    with pytest.raises(ValueError, match=r"scratch must have \d+ bytes, got 9"):
        _core.tissue_mask(gpu.put(image), gpu.empty((40, 50), "uint8"), **options, **rest)


@pytest.mark.gpu
def test_find_tissue_works_where_the_overview_is(gpu):
    image = tissue_pictures.overview(shape=(120, 160)).image
    there, here = find_tissue(fake_slide(gpu.put(image))), find_tissue(fake_slide(image))
    np.testing.assert_array_equal(there.mask, here.mask)
    assert (there.threshold, there.identity) == (here.threshold, here.identity)
    assert isinstance(there.threshold, int)


# --- Laws -------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", ["rotate", "flip x", "flip y", "transpose"])
def test_turning_the_slide_turns_the_mask(turn):
    act = {
        "rotate": lambda a: np.rot90(a, axes=(0, 1)),
        "flip x": lambda a: a[:, ::-1],
        "flip y": lambda a: a[::-1],
        "transpose": lambda a: a.swapaxes(0, 1),
    }[turn]
    image = tissue_pictures.overview(stain="ihc", pens=("blue",), shape=(150, 201)).image
    turned = tissue_mask(np.ascontiguousarray(act(image)))
    np.testing.assert_array_equal(turned, act(tissue_mask(image)))


def test_objects_and_holes_keep_to_their_limits():
    image = tissue_pictures.overview(stain="he", noise=25, shape=(200, 300)).image
    mask = tissue_mask(
        image, threshold=70, close_px=0, max_hole_px=30, min_area_px=50, exclude_foreign=False
    )
    labels, count = ndimage.label(mask)
    assert count > 1
    assert np.bincount(labels.ravel())[1:].min() >= 50
    holes, _ = ndimage.label(np.pad(1 - mask, 1, constant_values=1), np.ones((3, 3), int))
    assert np.bincount(holes.ravel())[2:].min() > 30


def test_out_is_written_and_returned():
    image = tissue_pictures.overview(shape=(60, 90)).image
    out = np.full((60, 90), 9, np.uint8)
    assert tissue_mask(image, out=out) is out
    np.testing.assert_array_equal(out, tissue_mask(image))
    assert out.max() == 1


def test_a_read_only_image_is_accepted_and_unchanged():
    image = tissue_pictures.overview(shape=(60, 90)).image
    image.flags.writeable = False
    before = image.copy()
    tissue_mask(image)
    np.testing.assert_array_equal(image, before)


# --- Pictures that show the hard cases -----------------------------------------------------------


def judge(picture):
    """Recall of the tissue; share of the glass and of the foreign that the mask takes."""
    mask = tissue_mask(picture.image) != 0
    glass = ~picture.tissue & ~picture.foreign
    share = [mask[part].mean() if part.any() else 0.0 for part in (glass, picture.foreign)]
    return (mask[picture.tissue].mean() if picture.tissue.any() else 1.0), *share


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("stain", ["he", "pale", "ihc"])
def test_stains_are_found(stain, seed):
    recall, on_glass, _ = judge(tissue_pictures.overview(stain=stain, seed=seed))
    assert recall > 0.97
    assert on_glass < 0.015


@pytest.mark.parametrize("stain", ["he", "pale", "ihc"])
@pytest.mark.parametrize(
    "pens", [("blue", "green", "black"), ("light blue", "teal", "red"), ("black",)]
)
def test_pens_and_black_borders_stay_out(stain, pens):
    picture = tissue_pictures.overview(stain=stain, pens=pens, border=True)
    recall, on_glass, on_foreign = judge(picture)
    assert recall > 0.95
    assert on_glass < 0.02
    assert on_foreign < 0.001


def test_pens_are_kept_on_request():
    picture = tissue_pictures.overview(pens=("blue", "green"))
    mask = tissue_mask(picture.image, exclude_foreign=False)
    assert mask[picture.foreign].mean() > 0.95


@pytest.mark.parametrize(
    ("glass", "noise"),
    [((255, 255, 255), 0), ((244, 243, 245), 3), ((240, 236, 224), 2), ((225, 226, 228), 4)],
)
@pytest.mark.parametrize("pens", [(), ("blue", "black", "red")])
def test_blank_slides_are_empty(glass, noise, pens):
    picture = tissue_pictures.overview(stain=None, glass=glass, noise=noise, pens=pens)
    assert not tissue_mask(picture.image).any()


def test_tinted_glass_is_no_tissue():
    recall, on_glass, _ = judge(tissue_pictures.overview(stain="pale", glass=(240, 236, 228)))
    assert recall > 0.95
    assert on_glass < 0.01


def test_a_lumen_stays_open_and_a_small_hole_is_filled():
    picture = tissue_pictures.overview(stain="he", shape=(360, 480))
    assert not tissue_mask(picture.image)[162, 202]
    assert tissue_mask(picture.image, max_hole_px=20_000)[162, 202]


def test_a_picture_full_of_tissue_is_tissue():
    assert tissue_mask(np.full((50, 50, 3), (200, 120, 170), np.uint8)).all()


def read_averaged(path, block):
    image = tifffile.imread(path, key=0)
    h, w = (side // block * block for side in image.shape[:2])
    blocks = image[:h, :w].reshape(h // block, block, w // block, block, 3)
    return np.ascontiguousarray(np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8))


def test_real_svs(data):
    image = read_averaged(data / "slides" / "CMU-1-Small-Region.svs", 16)
    assert_is_definition(image)
    mask = tissue_mask(image) != 0
    assert 0.36 < mask.mean() < 0.46
    unstained = reference.tissue_score(image) <= 4
    assert mask[unstained].mean() < 0.03


@pytest.mark.parametrize("patient", ["14082", "14306"])
def test_real_tumour_is_found(data, patient):
    folder = data / "idc_dense"
    with (folder / "labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["patient"] == patient]
    image = np.full((1210, 1460, 3), 243, np.uint8)  # about 8 um/px
    tumour = np.zeros(image.shape[:2], bool)
    for row in rows:
        patch = read_png(folder / row["file"])
        h, w = patch.shape[0] // 2, patch.shape[1] // 2
        x, y = int(row["x"]) // 2, int(row["y"]) // 2
        image[y : y + h, x : x + w] = np.rint(patch.reshape(h, 2, w, 2, 3).mean(axis=(1, 3)))
        tumour[y : y + h, x : x + w] = row["label"] == "1"
    assert_is_definition(image)
    mask = tissue_mask(image)
    assert mask[tumour].mean() > 0.95, mask[tumour].mean()  # its patches hold some fat and glass
    assert 0.1 < mask.mean() < 0.2


def read_png(path):
    import imagecodecs

    return imagecodecs.imread(path)[..., :3]


# --- A slide ----------------------------------------------------------------------------------


def fake_slide(image, *, downsample=32, mpp=0.25):
    """A slide that knows one overview."""
    h, w = image.shape[:2]
    level = SimpleNamespace(width=w * downsample, height=h * downsample)
    return SimpleNamespace(levels=[level], mpp=mpp, overview=lambda *, mpp=8.0: image)


def test_find_tissue_gives_the_mask_of_the_overview():
    image = tissue_pictures.overview(shape=(120, 160)).image
    tissue = find_tissue(fake_slide(image))
    np.testing.assert_array_equal(tissue.mask, tissue_mask(image, min_area_px=313))
    assert (tissue.width_l0, tissue.height_l0) == (160 * 32, 120 * 32)
    assert (tissue.downsample_x, tissue.downsample_y) == (32, 32)
    assert tissue.threshold == reference.tissue_mask(image, **PIXELS)[1]
    assert tissue.fraction == tissue.mask.mean()
    assert tissue.area_mm2(0.25) == pytest.approx(tissue.mask.sum() * 64e-6)
    assert not tissue.mask.flags.writeable


def test_limits_are_areas_on_the_slide():
    image = np.full((100, 100, 3), 245, np.uint8)
    image[20:40, 20:40] = (200, 120, 170)  # 22 x 22 px less its corners, at 8 um: 30,720 um2
    assert find_tissue(fake_slide(image), min_area_um2=30_720).mask.any()
    assert not find_tissue(fake_slide(image), min_area_um2=30_721).mask.any()
    assert not find_tissue(fake_slide(image, mpp=0.125), min_area_um2=30_720).mask.any()


def test_identity_tells_parameters_apart():
    slide = fake_slide(tissue_pictures.overview(shape=(60, 90)).image)
    mask = np.ones((10, 15), np.uint8)
    variants = [
        {},
        {"mpp": 4.0},
        {"threshold": 9},
        {"min_area_um2": 1.0},
        {"max_hole_um2": 1.0},
        {"ink": "keep"},
        {"mask": mask},
        {"mask": np.tri(10, 15, dtype=np.uint8)},
    ]
    texts = [find_tissue(slide, **variant).identity for variant in variants]
    assert len(set(texts)) == len(texts)
    assert all("\n" not in text for text in texts)
    assert texts[0] == find_tissue(slide).identity


def test_a_ready_mask_replaces_the_search():
    slide = fake_slide(np.full((60, 90, 3), 255, np.uint8))
    mask = np.zeros((20, 30))
    mask[5:10, 5:10] = 1
    tissue = find_tissue(slide, mask=mask.astype(bool))
    assert tissue.threshold is None
    assert (tissue.downsample_x, tissue.downsample_y) == (96, 96)
    np.testing.assert_array_equal(tissue.mask, mask)
    drawn = find_tissue(slide, mask=tissue.geojson())
    assert drawn.mask.shape == (60, 90)
    np.testing.assert_array_equal(drawn.mask, mask.repeat(3, axis=0).repeat(3, axis=1))


def test_a_mask_is_copied():
    mask = np.ones((4, 4), np.uint8)
    tissue = tissue_from_mask(mask, width_l0=8, height_l0=8)
    mask[:] = 0
    assert tissue.mask.all()


# --- Contours -----------------------------------------------------------------------------------


def shoelace(ring):
    ahead = np.roll(ring, -1, axis=0)
    return float(np.sum(ring[:, 0] * ahead[:, 1] - ahead[:, 0] * ring[:, 1])) / 2


def of_mask(mask, downsample=4):
    h, w = mask.shape
    return tissue_from_mask(mask, width_l0=w * downsample, height_l0=h * downsample)


MASKS = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 1)
)


@settings(max_examples=150)
@given(mask=MASKS)
def test_contours_are_the_mask(mask):
    contours = of_mask(mask).contours()
    labels, count = ndimage.label(mask)
    assert len(contours) == count
    area = 0.0
    seen = set()
    for exterior, holes in contours:
        assert shoelace(exterior) > 0
        assert all(shoelace(hole) < 0 for hole in holes)
        one = sum(map(shoelace, (exterior, *holes)))
        area += one
        for ring in (exterior, *holes):
            assert len({tuple(point) for point in ring.tolist()}) == len(ring)  # simple
            steps = (np.roll(ring, -1, axis=0) - ring) != 0
            assert (steps.sum(axis=1) == 1).all()  # along pixel edges
            assert (steps[:, 0] != np.roll(steps[:, 0], 1)).all()  # corners only
        # Each polygon, with its own holes, is exactly one object.
        polygon = {
            "type": "Polygon",
            "coordinates": [np.concatenate([r, r[:1]]).tolist() for r in (exterior, *holes)],
        }
        drawn = redrawn(polygon, mask)
        label = labels[drawn != 0]
        assert (label == label[0]).all()
        assert label[0] not in seen
        assert (labels == label[0]).sum() == len(label) == one / 16
        seen.add(label[0])
    assert area == 16 * mask.sum()


def redrawn(geojson, mask):
    h, w = mask.shape
    return tissue_from_geojson(geojson, width_l0=4 * w, height_l0=4 * h, downsample=4).mask


@settings(max_examples=50)
@given(mask=MASKS.filter(np.any))
def test_geojson_comes_back_as_the_mask(mask):
    geojson = json.loads(json.dumps(of_mask(mask).geojson()))
    np.testing.assert_array_equal(redrawn(geojson, mask), mask)


def test_contours_of_nested_objects():
    mask = np.zeros((11, 11), np.uint8)
    mask[1:10, 1:10] = 1
    mask[2:9, 2:9] = 0
    mask[4:7, 4:7] = 1
    mask[5, 5] = 0
    outer, inner = of_mask(mask, 1).contours()
    assert [len(ring) for ring in (outer[0], *outer[1], inner[0], *inner[1])] == [4, 4, 4, 4]
    assert (shoelace(outer[0]), shoelace(outer[1][0])) == (81, -49)
    assert (shoelace(inner[0]), shoelace(inner[1][0])) == (9, -1)


def test_a_ring_closed_by_a_corner_has_a_hole():
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint8)
    ((exterior, holes),) = of_mask(mask, 1).contours()
    assert shoelace(exterior) == 8
    assert [shoelace(hole) for hole in holes] == [-1]


def test_contours_use_both_scales():
    tissue = tissue_from_mask(np.ones((3, 5), np.uint8), width_l0=1000, height_l0=603)
    ((exterior, _),) = tissue.contours()
    assert exterior.max(axis=0).tolist() == [1000, 603]


def test_empty_mask_has_no_contours():
    tissue = of_mask(np.zeros((5, 7), np.uint8))
    assert tissue.contours() == []
    assert tissue.geojson() == {"type": "FeatureCollection", "features": []}
    assert tissue.fraction == 0


def test_geojson_is_what_qupath_reads():
    image = tissue_pictures.overview(shape=(180, 240)).image
    geojson = find_tissue(fake_slide(image), max_hole_um2=10_000).geojson()
    assert geojson["type"] == "FeatureCollection"
    assert len(geojson["features"]) == 2
    for feature in geojson["features"]:
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "annotation"
        assert feature["properties"]["classification"]["name"] == "Tissue"
        assert feature["geometry"]["type"] == "Polygon"
        rings = [np.array(ring) for ring in feature["geometry"]["coordinates"]]
        assert all((ring[0] == ring[-1]).all() for ring in rings)
        assert shoelace(rings[0][:-1]) > 0
        assert all(shoelace(ring[:-1]) < 0 for ring in rings[1:])
    assert sum(len(f["geometry"]["coordinates"]) for f in geojson["features"]) == 3  # the lumen


# --- GeoJSON in -----------------------------------------------------------------------------------

SQUARE = [[[10, 10], [50, 10], [50, 50], [10, 50], [10, 10]]]


@pytest.mark.parametrize(
    "geojson",
    [
        {"type": "Polygon", "coordinates": SQUARE},
        {"type": "MultiPolygon", "coordinates": [SQUARE]},
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": SQUARE}},
        {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": SQUARE}]},
        {"type": "MultiPolygon", "coordinates": [SQUARE, SQUARE]},
    ],
    ids=lambda geojson: geojson["type"],
)
def test_every_kind_of_area_is_drawn(geojson):
    tissue = tissue_from_geojson(geojson, width_l0=100, height_l0=80, downsample=10)
    want = np.zeros((8, 10), np.uint8)
    want[1:5, 1:5] = 1
    np.testing.assert_array_equal(tissue.mask, want)


def test_a_slanted_polygon_covers_the_centres_inside():
    triangle = {"type": "Polygon", "coordinates": [[[0, 0], [80, 0], [0, 80], [0, 0]]]}
    tissue = tissue_from_geojson(triangle, width_l0=80, height_l0=80, downsample=10)
    y, x = np.mgrid[:8, :8] + 0.5
    np.testing.assert_array_equal(tissue.mask, x + y < 8)


def test_a_polygon_over_the_edge_is_clipped():
    polygon = {"type": "Polygon", "coordinates": [[[-50, -50], [50, -50], [50, 500], [-50, 500]]]}
    tissue = tissue_from_geojson(polygon, width_l0=100, height_l0=100, downsample=10)
    assert tissue.mask[:, :5].all()
    assert not tissue.mask[:, 5:].any()


@pytest.mark.parametrize(
    ("geojson", "message"),
    [
        ({}, "geojson must hold polygons, got an object"),
        ({"type": "FeatureCollection", "features": []}, "geojson must hold at least one polygon"),
        ({"type": "FeatureCollection"}, "geojson must have a list of features, got none"),
        ({"type": "Point", "coordinates": [1, 2]}, "must hold at least one polygon, got none"),
        ({"type": "Feature", "geometry": None}, "must hold at least one polygon, got none"),
        ({"type": "Polygon", "coordinates": []}, "must hold at least one polygon, got none"),
        ({"type": "Polygon"}, "geojson must have a list of coordinates, got none"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "three or more finite points"),
        (
            {"type": "Polygon", "coordinates": [[[0, 0], [1, float("nan")], [1, 1]]]},
            "finite points",
        ),
        ({"type": "Polygon", "coordinates": [["a", "b", "c"]]}, r"rings of \(x, y\) numbers"),
        ({"type": "Polygon", "coordinates": [[[900, 0], [990, 0], [990, 9]]]}, "lie on the slide"),
        ({"type": "Polygon", "coordinates": [[[1, 1], [2, 1], [2, 2]]]}, "cover the centre"),
    ],
)
def test_bad_geojson_is_refused(geojson, message):
    with pytest.raises(ValueError, match=message):
        tissue_from_geojson(geojson, width_l0=100, height_l0=80, downsample=10)


# --- Preview --------------------------------------------------------------------------------------


def test_preview_draws_outline_and_boxes():
    image = np.full((100, 200, 3), 240, np.uint8)
    mask = np.zeros((50, 100), np.uint8)
    mask[10:20, 10:30] = 1
    tissue = tissue_from_mask(mask, width_l0=1600, height_l0=800)
    boxes_l0 = np.array([[800, 400, 80, 80], [1550, 0, 80, 80]], np.int64)
    drawn = preview(image, tissue, boxes_l0)
    assert drawn.shape == image.shape
    assert (image == 240).all()
    green = drawn[30, 20].astype(int)
    assert green[1] > green[0] + 100
    blue = drawn[50, 105].astype(int)
    assert blue[2] > blue[0] + 50
    assert (drawn[30, 40] == 240).all()  # inside of the tissue
    assert (drawn[55, 105] == 240).all()  # inside of a box
    assert (preview(image, of_mask(np.zeros((50, 100), np.uint8))) == image).all()


def test_preview_of_no_boxes_is_that_without():
    image = tissue_pictures.overview(shape=(60, 90)).image
    tissue = find_tissue(fake_slide(image))
    np.testing.assert_array_equal(
        preview(image, tissue, np.empty((0, 4), np.int64)), preview(image, tissue)
    )


# --- Refusals -------------------------------------------------------------------------------------

IMAGE = np.full((8, 8, 3), 250, np.uint8)


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        (IMAGE.astype(np.float32), {}, TypeError, "image must be .*uint8.*, got float32"),
        (IMAGE[..., 0], {}, ValueError, r"image must be .* of shape \(h, w, 3\), got"),
        (IMAGE[:, ::2], {}, ValueError, "image must be C-contiguous"),
        (IMAGE, {"threshold": 256}, ValueError, r"threshold must be within 0\.\.255, got 256"),
        (IMAGE, {"threshold": -1}, ValueError, r"threshold must be within 0\.\.255, got -1"),
        (IMAGE, {"close_px": 33}, ValueError, r"close_px must be within 0\.\.32, got 33"),
        (IMAGE, {"close_px": -1}, ValueError, r"close_px must be within 0\.\.32, got -1"),
        (IMAGE, {"max_hole_px": -1}, ValueError, "max_hole_px must be at least 0, got -1"),
        (IMAGE, {"min_area_px": -1}, ValueError, "min_area_px must be at least 0, got -1"),
        (IMAGE, {"out": np.empty((8, 9), np.uint8)}, ValueError, r"out must be .*\(8, 8\)"),
        (IMAGE, {"out": np.empty((8, 8), bool)}, TypeError, "out must be .*uint8"),
    ],
)
def test_bad_arguments_of_tissue_mask(image, options, error, message):
    with pytest.raises(error, match=message):
        tissue_mask(image, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mpp": 0.0}, ValueError, "mpp must be above 0"),
        ({"mpp": float("nan")}, ValueError, "mpp must be above 0"),
        ({"threshold": 300}, ValueError, r"threshold must be within 0\.\.255"),
        ({"min_area_um2": -1.0}, ValueError, "min_area_um2 must be at least 0"),
        ({"max_hole_um2": float("inf")}, ValueError, "max_hole_um2 must be at least 0 and finite"),
        ({"mask": np.ones((8, 8), np.uint8), "threshold": 9}, ValueError, "threshold must be None"),
        ({"mask": [[1]]}, TypeError, "mask must be bool or integers.*, got list"),
        ({"mask": np.ones((8, 8))}, TypeError, "mask must be bool or integers.*, got float64"),
        ({"mask": np.ones((8, 8, 3), np.uint8)}, ValueError, "mask must be .*: pass one channel"),
        ({"mask": np.ones((0, 8), np.uint8)}, ValueError, "mask must be .* at least 1"),
        ({"mask": np.ones((40, 80), np.uint8)}, ValueError, "aspect of the slide, 1.000.*2.000"),
        ({"mask": np.ones((900, 900), np.uint8)}, ValueError, "no larger than the slide"),
    ],
)
def test_bad_arguments_of_find_tissue(options, error, message):
    with pytest.raises(error, match=message):
        find_tissue(fake_slide(IMAGE), **options)


def test_bad_geometry_is_refused():
    square = {"type": "Polygon", "coordinates": SQUARE}
    with pytest.raises(ValueError, match="downsample must be at least 1, got 0"):
        tissue_from_geojson(square, width_l0=9, height_l0=9, downsample=0)
    with pytest.raises(TypeError, match="geojson must be a mapping, got list"):
        tissue_from_geojson([square], width_l0=9, height_l0=9, downsample=1)
    with pytest.raises(ValueError, match="width_l0 must be at least 1, got 0"):
        tissue_from_mask(np.ones((1, 1), np.uint8), width_l0=0, height_l0=9)


def test_bad_arguments_of_preview():
    tissue = of_mask(np.ones((4, 4), np.uint8))
    assert isinstance(tissue, Tissue)
    with pytest.raises(TypeError, match=r"boxes_l0 must be .*int64"):
        preview(IMAGE, tissue, np.zeros((1, 4)))
    with pytest.raises(ValueError, match="image must be"):
        preview(IMAGE[..., 0], tissue)


def test_the_binding_refuses_what_would_write_elsewhere():
    options = {"threshold": -1, "exclude_foreign": True, **PIXELS}
    with pytest.raises(ValueError, match="out must have the height and width"):
        _core.tissue_mask(IMAGE, np.empty((8, 9), np.uint8), **options)
    with pytest.raises(ValueError, match="close_px must be at most 32"):
        _core.tissue_mask(IMAGE, np.empty((8, 8), np.uint8), **{**options, "close_px": 33})


def test_geojson_counts_from_the_origin_and_comes_back():
    mask = np.zeros((20, 30), np.uint8)
    mask[4:12, 6:20] = 1
    tissue = tissue_from_mask(mask, width_l0=300, height_l0=200)
    shifted = tissue.geojson(origin_l0=(50, 30))
    ring = np.array(shifted["features"][0]["geometry"]["coordinates"][0])
    assert ring.min(axis=0).tolist() == [60 - 50, 40 - 30]
    back = tissue_from_geojson(
        shifted, width_l0=300, height_l0=200, downsample=10, origin_l0=(50, 30)
    )
    np.testing.assert_array_equal(back.mask, mask)
