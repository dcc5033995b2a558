"""Planning and cutting of patches, against tests/reference.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reference
from histofast import _core, tiling

ISAS = [
    isa
    for isa in (_core.Isa.baseline, _core.Isa.avx2, _core.Isa.avx512)
    if isa.value <= _core.best_isa().value
]


@pytest.fixture(params=ISAS, ids=lambda isa: isa.name)
def isa(request):
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(_core.best_isa())


def tiled(image, tile_h, tile_w):
    """The image as a pool of tiles in shuffled slots, padding filled with noise."""
    h, w = image.shape[:2]
    rows, columns = -(-h // tile_h), -(-w // tile_w)
    rng = np.random.default_rng(1)
    padded = rng.integers(0, 256, (rows * tile_h, columns * tile_w, 3), dtype=np.uint8)
    padded[:h, :w] = image
    tiles = (
        padded.reshape(rows, tile_h, columns, tile_w, 3)
        .swapaxes(1, 2)
        .reshape(-1, tile_h, tile_w, 3)
    )
    order = rng.permutation(len(tiles))
    slot_of = np.argsort(order).astype(np.int32).reshape(rows, columns)
    return np.ascontiguousarray(tiles[order]), slot_of


def cut(image, boxes, patch_px, tile_h=32, tile_w=40, dtype=np.uint8):
    pool, slot_of = tiled(image, tile_h, tile_w)
    boxes = np.asarray(boxes, np.float64)
    out = np.zeros((len(boxes), patch_px, patch_px, 3), dtype)
    return tiling.cut_patches(
        pool, slot_of, boxes, width=image.shape[1], height=image.shape[0], out=out
    )


# --- cutting ----------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(1, 90), st.integers(1, 120)),
    patch_px=st.integers(1, 40),
    scale=st.floats(0.3, 5),
    corner=st.tuples(st.floats(-3, 60), st.floats(-3, 60)),
)
@settings(max_examples=150)
def test_cut_matches_definition(seed, size, patch_px, scale, corner):
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    box = (corner[0], corner[1], patch_px * scale, patch_px * scale)
    got = cut(image, [box], patch_px)[0].astype(np.float64)
    # Half for rounding, the rest for 14-bit weights and 7-bit rows.
    mean = reference.cut_patch(image, box, patch_px)
    assert np.abs(got - mean).max() <= 0.55
    floats = cut(image, [box], patch_px, dtype=np.float32)[0]
    assert np.abs(floats - mean).max() <= 0.05
    assert np.abs(floats - got).max() <= 0.5 + 1e-5  # the same sums


@pytest.mark.parametrize("scale", [1.0, 2.0, 256.0])
def test_floats_are_exact_where_weights_are(rng, isa, scale):
    image = rng.integers(0, 256, (600, 620, 3), dtype=np.uint8)
    box = (7.0, 9.0, 2 * scale, 2 * scale)
    got = cut(image, [box], 2, dtype=np.float32)[0]
    wanted = image[9:, 7:][: int(2 * scale), : int(2 * scale)].astype(np.float64)
    wanted = wanted.reshape(2, int(scale), 2, int(scale), 3).mean((1, 3))
    np.testing.assert_array_equal(got, wanted.astype(np.float32))


@pytest.mark.parametrize("scale", [1.0, 2.0, 257 / 256, 1.6032, 3.9, 4.0, 0.5])
def test_cut_gives_the_same_bits_on_every_isa(rng, scale):
    image = rng.integers(0, 256, (300, 310, 3), dtype=np.uint8)
    boxes = [(x, y, 61 * scale, 61 * scale) for x, y in [(0, 0), (7, 9), (3.5, 2.25), (40.125, 11)]]
    results = []
    for isa in ISAS:
        _core.set_isa(isa)
        results.append(cut(image, boxes, 61))
    _core.set_isa(_core.best_isa())
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_aligned_cut_is_a_copy(rng, isa):
    image = rng.integers(0, 256, (100, 130, 3), dtype=np.uint8)
    got = cut(image, [(13, 27, 50, 50), (80, 50, 50, 50)], 50)
    np.testing.assert_array_equal(got[0], image[27:77, 13:63])
    np.testing.assert_array_equal(got[1], image[50:100, 80:130])


@pytest.mark.parametrize("x", [0, 15, 16])
@pytest.mark.parametrize("y", [0, 7])
@pytest.mark.parametrize("tile_w", [16, 33, 96])
def test_two_to_one_is_the_rounded_mean_of_four(rng, isa, x, y, tile_w):
    image = rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)
    got = cut(image, [(x, y, 64, 64)], 32, tile_w=tile_w)[0]
    blocks = image[y : y + 64, x : x + 64].reshape(32, 2, 32, 2, 3).astype(int).sum((1, 3))
    np.testing.assert_array_equal(got, (blocks + 2) >> 2)


@given(
    value=st.integers(0, 255),
    scale=st.floats(0.3, 9) | st.floats(20, 2000),
    x=st.floats(0, 20),
)
@settings(max_examples=40)
def test_constant_stays_constant(value, scale, x):
    image = np.full((64, 64, 3), value, np.uint8)
    for dtype in (np.uint8, np.float32):
        assert (cut(image, [(x, 3, 20 * scale, 20 * scale)], 20, dtype=dtype) == value).all()


def hostile(scale, count, bright):
    """Bright where the weights of cells of `scale` pixels are rounded up, or down; (p*s, p*s, 3)."""
    side = int(np.ceil(scale * count))
    shares = reference.axis_weights(0.0, scale * count, count, side).sum(axis=0)
    up = np.rint(shares * 2**14) > shares * 2**14
    up[:: int(scale)] ^= True
    image = np.where((up[:, None] & up[None, :]) == bright, 255, 0).astype(np.uint8)
    return np.repeat(image[..., None], 3, axis=2)


@pytest.mark.parametrize("bright", [False, True])
@pytest.mark.parametrize(
    "scale", [19.77, 31.0, 31.85, 32.0, 33.0, 56.0, 91.3, 128.0, 181.0, 214.0, 300.5, 700.0]
)
def test_large_reductions_stay_within_one(isa, scale, bright):
    count = max(2, int(200 / scale))
    image = hostile(scale, count, bright)
    box = (0.0, 0.0, scale * count, scale * count)
    mean = reference.cut_patch(image, box, count)
    assert np.abs(cut(image, [box], count, 256, 256)[0] - mean).max() <= 1
    assert np.abs(cut(image, [box], count, 256, 256, np.float32)[0] - mean).max() <= 0.5
    first = np.zeros_like(image)  # one bright line per cell: what the rest of the weights went to
    first[:: int(scale)] = first[:, :: int(scale)] = 255
    for picture in (first, 255 - first):
        got = cut(picture, [box], count, tile_h=256, tile_w=256)[0]
        assert np.abs(got - reference.cut_patch(picture, box, count)).max() <= 1


@given(
    seed=st.integers(0, 1000),
    size=st.tuples(st.integers(1, 90), st.integers(1, 400)),
    patch_px=st.integers(1, 4),
    scale=st.floats(20, 500),
    corner=st.tuples(st.floats(-300, 300), st.floats(-300, 300)),
)
@settings(max_examples=60)
def test_large_reductions_match_the_definition_everywhere(seed, size, patch_px, scale, corner):
    image = np.random.default_rng(seed).choice(np.array([0, 255], np.uint8), (*size, 3))
    box = (corner[0], corner[1], patch_px * scale, patch_px * scale)
    results = []
    for isa in ISAS:
        _core.set_isa(isa)
        results.append(cut(image, [box], patch_px)[0])
    _core.set_isa(_core.best_isa())
    assert np.abs(results[0] - reference.cut_patch(image, box, patch_px)).max() <= 1
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_missing_tiles_show_the_fill(isa):
    pool = np.zeros((1, 8, 8, 3), np.uint8)
    slot_of = np.array([[0, -1]], np.int32)
    out = np.zeros((1, 8, 8, 3), np.uint8)
    tiling.cut_patches(
        pool, slot_of, np.array([[4.0, 0, 8, 8]]), width=16, height=8, out=out, fill=(1, 2, 3)
    )
    assert (out[0, :, :4] == 0).all()
    assert (out[0, :, 4:] == (1, 2, 3)).all()


def test_cut_of_nothing_is_nothing():
    assert cut(np.zeros((8, 8, 3), np.uint8), np.zeros((0, 4)), 4).shape == (0, 4, 4, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"pool": np.zeros((1, 8, 8, 3), np.float32)},
            TypeError,
            "pool must be C-contiguous uint8",
        ),
        (
            {"pool": np.zeros((1, 8, 16, 3), np.uint8)[:, :, ::2]},
            ValueError,
            "pool must be .* got strided",
        ),
        (
            {"slot_of": np.full((1, 1), 3, np.int32)},
            ValueError,
            "slot_of must name slots below 1, got 3",
        ),
        ({"boxes": np.array([[0, 0, np.nan, 1.0]])}, ValueError, "boxes must be finite"),
        ({"boxes": np.array([[0.0, 0, 0, 1]])}, ValueError, "boxes must be finite"),
        ({"boxes": np.array([[1e30, 0, 1, 1]])}, ValueError, r"below 2\*\*31"),
        ({"out": np.zeros((2, 4, 4, 3), np.uint8)}, ValueError, "out must be"),
        (
            {"out": np.zeros((1, 4, 4, 3))},
            TypeError,
            r"out must be C-contiguous uint8 or float32 of shape \(1, p, p, 3\), got float64",
        ),
        ({"width": 9}, ValueError, "does not fit slot_of"),
    ],
)
def test_cut_refuses(change, error, message):
    arguments = {
        "pool": np.zeros((1, 8, 8, 3), np.uint8),
        "slot_of": np.zeros((1, 1), np.int32),
        "boxes": np.array([[0.0, 0, 8, 8]]),
        "width": 8,
        "height": 8,
        "out": np.zeros((1, 4, 4, 3), np.uint8),
    } | change
    with pytest.raises(error, match=message):
        tiling.cut_patches(**arguments)


# --- cutting on a GPU ---------------------------------------------------------------------------


def both(gpu, image, boxes, patch_px, tile_h=24, tile_w=32, missing=(), size=None):
    """Patches from the CPU and from the GPU, bytes and floats; `missing`: tiles, (row, column)."""
    pool, slot_of = tiled(image, tile_h, tile_w)
    for tile in missing:
        slot_of[tile] = -1
    height, width = size or image.shape[:2]
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    shape = (len(boxes), patch_px, patch_px, 3)
    arguments = {"width": width, "height": height, "fill": (201, 102, 3)}
    there = [gpu.put(array) for array in (pool, slot_of, boxes)]
    on_cpu, on_gpu = [], []
    for dtype in ("uint8", "float32"):
        wanted = np.zeros(shape, dtype)
        on_cpu += [tiling.cut_patches(pool, slot_of, boxes, out=wanted, **arguments)]
        out = gpu.empty(shape, dtype)
        assert tiling.cut_patches(*there, out=out, **arguments) is out
        on_gpu += [gpu.get(out)]
    return on_cpu, on_gpu


def assert_equal(on_gpu, on_cpu):
    for ours, wanted in zip(on_gpu, on_cpu, strict=True):
        np.testing.assert_array_equal(ours, wanted)


# Widths of tiles: whole chunks of 16 bytes, whole words, neither, and less than a chunk.
TILE_WIDTHS = [48, 20, 37, 3, 1]


@pytest.mark.gpu
@pytest.mark.parametrize("tile_w", TILE_WIDTHS)
@pytest.mark.parametrize("patch_px", [1, 16, 33, 38])
def test_copies_on_a_gpu_are_those_of_the_cpu(gpu, rng, tile_w, patch_px):
    image = rng.integers(0, 256, (61, 97, 3), dtype=np.uint8)
    last_x, last_y = 97 - patch_px, 61 - patch_px
    corners = [(0, 0), (last_x, last_y), *[(x, 2 * x % last_y) for x in range(1, 17)]]
    boxes = [(x, y, patch_px, patch_px) for x, y in corners]
    on_cpu, on_gpu = both(gpu, image, boxes, patch_px, 17, tile_w, [(1, 0), (2, -1)])
    assert_equal(on_gpu, on_cpu)


@pytest.mark.gpu
@pytest.mark.parametrize("tile_w", TILE_WIDTHS)
@pytest.mark.parametrize("scale", [0.01, 0.37, 1.0, 257 / 256, 1.6, 2.0, 3.9, 7.25])
def test_cuts_on_a_gpu_have_the_bits_of_the_cpu(gpu, rng, tile_w, scale):
    image = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    boxes = [
        (x, y, 13 * scale, 13 * scale * stretch)
        for x, y in [(0, 0), (7, 9), (3.5, 2.25), (-4.125, 11), (40.3, -7.7), (100, 80), (-90, 300)]
        for stretch in (1, 1.3)
    ]
    on_cpu, on_gpu = both(gpu, image, boxes, 13, 17, tile_w, [(0, 0), (2, 1), (4, -1)])
    assert_equal(on_gpu, on_cpu)


@pytest.mark.gpu
@pytest.mark.parametrize(("patch_px", "scale"), [(33, 2.0), (68, 1.985), (70, 1.03), (260, 2.0)])
def test_several_pieces_of_a_patch_on_a_gpu(gpu, rng, patch_px, scale):
    image = rng.integers(0, 256, (540, 560, 3), dtype=np.uint8)
    boxes = [(16.0, 3.0, patch_px * scale, patch_px * scale)]
    on_cpu, on_gpu = both(gpu, image, boxes, patch_px, 64, 48, [(1, 1)])
    assert_equal(on_gpu, on_cpu)


@pytest.mark.gpu
@pytest.mark.parametrize("tile_w", [48, 37])
@pytest.mark.parametrize(("patch_px", "scale"), [(90, 31.99), (5, 32.0), (250, 11.05)])
def test_reductions_up_to_32_on_a_gpu(gpu, rng, tile_w, patch_px, scale):
    image = rng.integers(0, 256, (80, 3100, 3), dtype=np.uint8)
    boxes = [(4.7, 3.3, patch_px * scale, 3.0 * patch_px / 30)]
    on_cpu, on_gpu = both(gpu, image, boxes, patch_px, 40, tile_w)
    assert_equal(on_gpu, on_cpu)


@pytest.mark.gpu
@pytest.mark.parametrize("tile_w", [48, 37])
@pytest.mark.parametrize(
    ("patch_px", "scale"), [(3, 32.01), (2, 56.0), (2, 130.7), (1, 300.5), (5, 700.0)]
)
def test_wide_reductions_on_a_gpu(gpu, rng, tile_w, patch_px, scale):
    image = rng.choice(np.array([0, 255], np.uint8), (310, 420, 3))
    side = patch_px * scale
    boxes = [(0, 0, side, side), (-33.3, 71.9, side, side), (390, -500.5, side, side / 100)]
    on_cpu, on_gpu = both(gpu, image, boxes, patch_px, 41, tile_w, [(2, 2)])
    assert_equal(on_gpu, on_cpu)


@pytest.mark.gpu
@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_on_a_gpu_has_the_bits_of_the_cpu(gpu, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    size = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 80)))
    patch_px = data.draw(st.integers(1, 12))
    corner, side = st.floats(-100, 100), st.floats(0.01, 500) | st.just(float(patch_px))
    boxes = data.draw(st.lists(st.tuples(corner, corner, side, side), max_size=3))
    tile_h, tile_w = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 50))
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    on_cpu, on_gpu = both(gpu, image, boxes, patch_px, tile_h, tile_w)
    assert_equal(on_gpu, on_cpu)


@pytest.mark.gpu
@pytest.mark.parametrize("skip", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_arrays_at_odd_addresses_on_a_gpu(gpu, rng, dtype, skip):
    """A pool and an out that begin in the middle of larger ones: no word is aligned."""
    pool = rng.integers(0, 256, (4 + skip, 5, 21, 3), dtype=np.uint8)
    slot_of = np.arange(4, dtype=np.int32).reshape(2, 2)
    boxes = np.array([[0.0, 0, 9, 9], [3.5, 1, 9.2, 8], [1, 0, 27, 9]])
    wanted = np.zeros((3, 9, 9, 3), dtype)
    tiling.cut_patches(pool[skip:], slot_of, boxes, width=42, height=10, out=wanted)
    out = gpu.empty((3 + skip, 9, 9, 3), dtype)
    there = gpu.put(pool)[skip:], gpu.put(slot_of), gpu.put(boxes)
    tiling.cut_patches(*there, width=42, height=10, out=out[skip:])
    np.testing.assert_array_equal(gpu.get(out)[skip:], wanted)
    assert (gpu.get(out)[:skip].view(np.uint8) == 0xA5).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_unsound_boxes_on_a_gpu_show_the_fill(gpu, dtype):
    bad = [0, -1.0, np.nan, np.inf, 1e30]
    boxes = [(0, 0, b, 4) for b in bad] + [(0, 0, 4, b) for b in bad]
    boxes += [(b, 0, 4, 4) for b in bad[2:]] + [(0, -b, 4, 4) for b in bad[2:]]
    out = gpu.empty((len(boxes), 4, 4, 3), dtype)
    pool, slot_of = gpu.put(np.zeros((1, 8, 8, 3), np.uint8)), gpu.put(np.zeros((1, 1), np.int32))
    there = gpu.put(np.array(boxes, np.float64))
    tiling.cut_patches(pool, slot_of, there, width=8, height=8, out=out, fill=(7, 8, 9))
    assert (gpu.get(out) == (7, 8, 9)).all()


@pytest.mark.gpu
def test_cut_refuses_arrays_in_two_places(gpu):
    pool, slot_of = gpu.put(np.zeros((1, 8, 8, 3), np.uint8)), gpu.put(np.zeros((1, 1), np.int32))
    out = np.zeros((1, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"in one place, got pool on GPU 0 .*the CPU"):
        tiling.cut_patches(pool, slot_of, np.array([[0.0, 0, 8, 8]]), width=8, height=8, out=out)


# --- coverage ---------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    box=st.tuples(st.floats(-4, 12), st.floats(-4, 12), st.floats(0.25, 9), st.floats(0.25, 9)),
)
def test_coverage_matches_definition(seed, shape, box):
    mask = np.random.default_rng(seed).integers(0, 2, shape, dtype=np.uint8)
    boxes = np.array([box])
    np.testing.assert_allclose(
        tiling.coverage(mask, boxes), reference.coverage(mask, boxes), atol=1e-9
    )


def test_coverage_of_a_tall_mask_in_bands(rng, monkeypatch):
    mask = rng.integers(0, 2, (120, 30), dtype=np.uint8)
    boxes = np.concatenate([rng.uniform(-5, 120, (300, 2)), rng.uniform(1, 30, (300, 2))], axis=1)
    whole = tiling.coverage(mask, boxes)
    np.testing.assert_allclose(whole, reference.coverage(mask, boxes), atol=1e-9)
    monkeypatch.setattr("histofast.tiling.covering.BAND_ROWS", 10)
    for order in (np.argsort(boxes[:, 1]), np.arange(300)):
        np.testing.assert_allclose(tiling.coverage(mask, boxes[order]), whole[order], atol=1e-9)


def test_a_box_beside_the_tissue_covers_nothing_at_all():
    """Sums of an integral image cancel to 1e-14 or so, which is more than nothing."""
    rng = np.random.default_rng(1)
    mask = np.zeros((60, 70), np.uint8)
    mask[10:40, 5:30] = rng.integers(0, 2, (30, 25))
    corners = rng.uniform(-2, 70, (4000, 2))
    boxes = np.concatenate([corners, rng.uniform(0.5, 9, (4000, 2))], axis=1)
    got, wanted = tiling.coverage(mask, boxes), reference.coverage(mask, boxes)
    assert (wanted == 0).sum() > 1000
    np.testing.assert_array_equal(got == 0, wanted == 0)


@pytest.mark.parametrize("seed", range(4))
def test_min_tissue_0_still_asks_for_tissue(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((600, 700), np.uint8)
    mask[100:400, 50:300] = rng.integers(0, 2, (300, 250))
    slide = slide_of(700 * 31 + 7, 600 * 31 + 5)
    per_x, per_y = slide.levels[0].width / 700, slide.levels[0].height / 600
    tissue = SimpleNamespace(mask=mask, downsample_x=per_x, downsample_y=per_y)
    plan = tiling.plan_patches(slide, tissue, mpp=0.37, patch_px=224, min_tissue=0.0)
    low = np.floor(plan.coords_l0 / (per_x, per_y)).astype(int)
    high = np.ceil((plan.coords_l0 + plan.patch_l0) / (per_x, per_y)).astype(int)
    assert len(plan) > 500
    for (x0, y0), (x1, y1) in zip(low, high, strict=True):
        assert mask[y0:y1, x0:x1].any()


def test_patches_that_touch_the_tissue_with_their_edge_only_have_none():
    mask = np.zeros((300, 300), np.uint8)
    mask[90:210, 90:210] = 1
    tissue = SimpleNamespace(mask=mask, downsample_x=3100 / 300, downsample_y=3100 / 300)
    plan = tiling.plan_patches(slide_of(3100, 3100), tissue, mpp=0.25, patch_px=31, min_tissue=0.0)
    assert len(plan) == 40 * 40


def test_coverage_of_nothing():
    assert tiling.coverage(np.zeros((0, 4), np.uint8), np.ones((2, 4))).tolist() == [0, 0]


# --- planning ---------------------------------------------------------------------------------


def slide_of(width=4000, height=3000, mpp=0.25, downsamples=(1.0, 4.0)):
    levels = [
        SimpleNamespace(width=int(width / d), height=int(height / d), downsample=d)
        for d in downsamples
    ]
    return SimpleNamespace(levels=levels, mpp=mpp)


@given(
    width=st.integers(600, 5000),
    height=st.integers(600, 5000),
    native=st.floats(0.1, 1.0),
    factor=st.floats(1, 4),
    patch_px=st.integers(16, 140),
    overlap=st.floats(0, 0.9),
    edge=st.sampled_from(["drop", "shift"]),
)
def test_patches_stay_inside_and_show_what_they_claim(
    width, height, native, factor, patch_px, overlap, edge
):
    mpp, overlap_px = native * factor, int(overlap * patch_px)
    slide = slide_of(width, height, native)
    plan = tiling.plan_patches(slide, mpp=mpp, patch_px=patch_px, overlap_px=overlap_px, edge=edge)
    boxes = plan.boxes_l0
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= width).all()
    assert (boxes[:, 1] + boxes[:, 3] <= height).all()
    assert abs(plan.patch_l0 - patch_px * mpp / native) <= 0.5 + 1e-6
    stride = (patch_px - overlap_px) * mpp / native
    inner = plan.coords_l0[plan.coords_l0[:, 1] == 0][:, 0]
    inner = inner[:-1] if edge == "shift" else inner
    assert np.abs(inner - np.arange(len(inner)) * stride).max(initial=0) <= 0.5 + 1e-6
    order = np.lexsort((plan.coords_l0[:, 0], plan.coords_l0[:, 1]))
    assert (order == np.arange(len(plan))).all()
    assert len(plan) == plan.grid[0] * plan.grid[1]
    if edge == "shift":
        assert boxes[-1, 0] + boxes[-1, 2] == width
        assert boxes[-1, 1] + boxes[-1, 3] == height


@pytest.mark.parametrize(
    ("mpp", "level"), [(0.25, 0), (0.5, 0), (0.999, 1), (1.0, 1), (1.02, 1), (2.0, 1), (0.98, 0)]
)
def test_level_is_the_coarsest_that_is_fine_enough(mpp, level):
    assert tiling.plan_patches(slide_of(), mpp=mpp, patch_px=64).level == level


def test_tissue_decides():
    mask = np.zeros((30, 40), np.uint8)
    mask[:10, :10] = 1  # the left upper 1000 x 1000 level-0 pixels
    tissue = SimpleNamespace(mask=mask, downsample_x=100.0, downsample_y=100.0)
    plan = tiling.plan_patches(slide_of(), tissue, mpp=0.25, patch_px=400, min_tissue=0.5)
    assert plan.coords_l0.tolist() == [
        [0, 0],
        [400, 0],
        [800, 0],
        [0, 400],
        [400, 400],
        [800, 400],
        [0, 800],
        [400, 800],
    ]
    assert plan.tissue_fraction.tolist() == [1, 1, 0.5, 1, 1, 0.5, 0.5, 0.5]
    none = tiling.plan_patches(
        slide_of(),
        SimpleNamespace(mask=mask * 0, downsample_x=100.0, downsample_y=100.0),
        mpp=0.25,
        min_tissue=0,
    )
    assert len(none) == 0
    assert none.coords_l0.shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"mpp": 0.2},
            "mpp must be at least the slide's own 0.25, got 0.2: .*allow_upsampling=True",
        ),
        ({"mpp": 0.0}, r"mpp must be within 0.05..20 "),
        ({"mpp": float("nan")}, r"mpp must be within 0.05..20 "),
        (
            {"mpp": 0.5, "patch_px": 1501},
            "patch_px must fit the slide: 1501 px at 0.5 um/px are 3002",
        ),
        ({"patch_px": 0}, "patch_px must be at least 1"),
        ({"overlap_px": 256}, r"overlap_px must be within 0..255, got 256"),
        ({"min_tissue": 1.5}, r"min_tissue must be within 0..1, got 1.5"),
        ({"edge": "crop"}, 'edge must be "drop" or "shift", got \'crop\''),
    ],
)
def test_plan_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiling.plan_patches(slide_of(), **arguments)


def test_upsampling_when_allowed():
    plan = tiling.plan_patches(slide_of(), mpp=0.125, patch_px=256, allow_upsampling=True)
    assert (plan.patch_l0, plan.level) == (128, 0)


# --- Tissue at the edges -----------------------------------------------------------------------


def planned(mask, side_l0, *, downsample, **options):
    """A plan on a slide of 0.5 um/px, and the tissue beyond its grid by definition."""
    slide = SimpleNamespace(
        levels=[SimpleNamespace(width=side_l0[0], height=side_l0[1], downsample=1.0)], mpp=0.5
    )
    tissue = SimpleNamespace(mask=mask, downsample_x=downsample, downsample_y=downsample)
    return tiling.plan_patches(slide, tissue, mpp=0.5, min_tissue=0.0, **options)


@pytest.mark.parametrize(
    ("patch_px", "edge", "share"),
    [(300, "drop", 0.19), (250, "drop", 0.0), (300, "shift", 0.0), (600, "drop", 0.64)],
)
def test_the_share_of_tissue_that_the_edge_drops(patch_px, edge, share):
    mask = np.ones((10, 10), np.uint8)
    plan = planned(mask, (1000, 1000), downsample=100.0, patch_px=patch_px, edge=edge)
    assert plan.beyond_grid == pytest.approx(share, abs=1e-12)
    note = (
        f"{share:.1%} of the tissue lies beyond the last whole patch, right or below, and is "
        'dropped: edge="shift" takes it'
    )
    assert plan.notes == ((note,) if share else ())


@given(
    seed=st.integers(0, 99),
    side=st.tuples(st.integers(5, 40), st.integers(5, 40)),
    patch_px=st.integers(20, 50),
)
def test_the_share_beyond_the_grid_is_the_definitions(seed, side, patch_px):
    mask = np.random.default_rng(seed).integers(0, 2, side[::-1], dtype=np.uint8)
    plan = planned(mask, (side[0] * 12, side[1] * 12), downsample=12.0, patch_px=patch_px)
    within = np.array([[0, 0, *(n * patch_px / 12 for n in plan.grid)]])
    tissue = reference.coverage(mask, within)[0] * within[0, 2] * within[0, 3]
    whole = int(mask.sum())
    assert plan.beyond_grid == pytest.approx(1 - tissue / whole if whole else 0.0, abs=1e-9)


def test_a_slide_without_tissue_drops_none():
    plan = planned(np.zeros((4, 4), np.uint8), (400, 400), downsample=100.0, patch_px=300)
    assert (plan.beyond_grid, plan.notes) == (0.0, ())


# --- Patches at given places -----------------------------------------------------------------------


@pytest.mark.parametrize("edge", ["drop", "shift"])
@pytest.mark.parametrize("are_centres", [False, True])
def test_plan_at_is_its_definition(rng, edge, are_centres):
    slide = slide_of(3000, 2000)
    points = rng.uniform(0, [2999, 1999], (200, 2))
    points[::3] = np.rint(points[::3])
    plan = tiling.plan_at(slide, points, are_centres=are_centres, mpp=0.6, patch_px=100, edge=edge)
    wanted = reference.plan_at(
        points,
        width=3000,
        height=2000,
        patch_l0=plan.patch_l0,
        are_centres=are_centres,
        shift=edge == "shift",
    )
    assert plan.patch_l0 == round(100 * 0.6 / slide.mpp)
    assert plan.coords_l0.tolist() == [[*corner] for corner in wanted]
    assert 0 < len(plan) <= 200
    assert (edge == "shift") == (len(plan) == 200)
    dropped = 200 - len(plan)
    told = f"{dropped} patches of coords cross the edge of the slide, and are dropped"
    assert [*plan.notes] == ([f'{told}: edge="shift" takes them'] if dropped else [])
    boxes = plan.boxes_l0
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= 3000).all()
    assert (boxes[:, 1] + boxes[:, 3] <= 2000).all()


def test_plan_at_the_corners_of_a_grid_is_the_grid():
    slide = slide_of(3000, 2000)
    grid = tiling.plan_patches(slide, mpp=0.7, patch_px=96)
    backwards = grid.coords_l0[::-1].astype(np.float64)
    plan = tiling.plan_at(slide, backwards, mpp=0.7, patch_px=96)
    assert np.array_equal(plan.coords_l0, grid.coords_l0)
    assert (plan.patch_l0, plan.level) == (grid.patch_l0, grid.level)
    assert "of a grid" not in repr(plan)
    assert plan._repr_mimebundle_()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[0, 0], [3000, 5]], r"slide of 3000 x 2000 level-0 pixels, got \(3000, 5\): are they of"),
        ([[-1, 0], [0, -2], [9, 9]], r"got \(-1, 0\), and 1 more: are they of another slide"),
        ([[np.nan, 0]], r"got \(nan, 0\)"),
        ([[0, np.inf]], r"got \(0, inf\)"),
        ([[5, 6], [7, 8], [5, 6]], r"must be there once each, got \(5, 6\) 2 times"),
    ],
)
def test_plan_at_refuses(points, message):
    with pytest.raises(ValueError, match=message):
        tiling.plan_at(slide_of(3000, 2000), np.array(points, np.float64))


def test_plan_at_refuses_what_plan_patches_refuses():
    one = np.zeros((1, 2))
    with pytest.raises(ValueError, match="mpp must be at least the slide's own"):
        tiling.plan_at(slide_of(), one, mpp=0.1)
    with pytest.raises(ValueError, match="patch_px must fit the slide"):
        tiling.plan_at(slide_of(), one, patch_px=100_000)
    with pytest.raises(ValueError, match="edge must be"):
        tiling.plan_at(slide_of(), one, edge="keep")
    with pytest.raises(TypeError, match="points_l0 must be"):
        tiling.plan_at(slide_of(), one.astype(np.int64))
    assert len(tiling.plan_at(slide_of(), np.zeros((0, 2)))) == 0
