"""The stream of patches: right pixels, every tile once, bounded memory, nothing silent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from fake_slides import FakeSlide, noise
from histofast.errors import SlideError, TileError
from histofast.patches import fit_bag, iter_patches, read_patch_table, stream_bag, stream_slide
from histofast.slides import LOOKAHEAD, Schedule, write_png
from histofast.tiling import plan_patches


class Mask:
    """A tissue mask at one pixel per 32 level-0 pixels."""

    def __init__(self, slide, seed=0):
        base = slide.levels[0]
        shape = (base.height // 32, base.width // 32)
        self.mask = np.random.default_rng(seed).integers(0, 2, shape, dtype=np.uint8)
        self.downsample_x = base.width / shape[1]
        self.downsample_y = base.height / shape[0]


@given(
    seed=st.integers(0, 1000),
    mpp=st.sampled_from([0.25, 0.5, 0.2525, 0.37, 1.0, 1.3]),
    overlap_px=st.integers(0, 20),
    tile=st.tuples(st.integers(16, 90), st.integers(16, 90)),
    batch_size=st.integers(1, 9),
    edge=st.sampled_from(["drop", "shift"]),
)
@settings(max_examples=40)
def test_pixels_are_the_definitions_and_tiles_are_decoded_once(
    seed, mpp, overlap_px, tile, batch_size, edge
):
    slide = FakeSlide(noise(300, 410, seed), downsamples=(1, 4), tile=tile)
    plan = plan_patches(
        slide, Mask(slide, seed), mpp=mpp, patch_px=40, overlap_px=overlap_px, edge=edge
    )
    got = list(iter_patches(slide, plan, batch_size=batch_size))
    assert sum(len(pixels) for pixels, _ in got) == len(plan)
    assert set(slide.decoded.values()) <= {1}
    assert all(len(pixels) == batch_size for pixels, _ in got[:-1])
    if not got:
        return
    pixels = np.concatenate([p for p, _ in got])
    np.testing.assert_array_equal(np.concatenate([c for _, c in got]), plan.coords_l0)
    level = slide.images[plan.level]
    touched = set()
    for i, box in enumerate(plan.boxes_level):
        if i % 7 == 0:
            assert np.abs(pixels[i] - reference.cut_patch(level, tuple(box), 40)).max() <= 0.55
        x, y, w, h = box
        touched |= {
            (plan.level, c, r)
            for c in range(int(x // tile[0]), int(min(x + w, level.shape[1]) - 1e-9) // tile[0] + 1)
            for r in range(int(y // tile[1]), int(min(y + h, level.shape[0]) - 1e-9) // tile[1] + 1)
        }
    assert set(slide.decoded) == touched  # no tile under no patch


def test_threads_and_batches_do_not_change_the_bytes():
    slide = FakeSlide(noise(500, 700))
    plan = plan_patches(slide, mpp=0.4, patch_px=64)
    results = []
    for threads, batch_size in [(1, 1), (4, 5), (2, 64)]:
        with ThreadPoolExecutor(threads) as workers:
            stream = iter_patches(slide, plan, batch_size=batch_size, workers=workers)
            results.append(np.concatenate([pixels for pixels, _ in stream]))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_batches_are_independent_of_each_other():
    slide = FakeSlide(noise(300, 300))
    plan = plan_patches(slide, mpp=0.25, patch_px=50)
    kept = [pixels for pixels, _ in iter_patches(slide, plan, batch_size=3)]
    again = [pixels.copy() for pixels, _ in iter_patches(slide, plan, batch_size=3)]
    np.testing.assert_array_equal(np.concatenate(kept), np.concatenate(again))


def test_memory_is_that_of_a_few_rows_of_tiles_whatever_the_height():
    slots = []
    for height in (2_000, 20_000, 60_000):
        x, y = np.meshgrid(np.arange(0, 4000 - 200, 200), np.arange(0, height - 200, 200))
        boxes = np.stack([x.ravel(), y.ravel(), *[np.full(x.size, 200)] * 2], 1).astype(float)
        schedule = Schedule(
            boxes, patch_px=100, batch_size=16, size=(4000, height), tile_size=(256, 256)
        )
        slots.append(schedule.slots)
        assert schedule.decoded == 15 * -(-(int(y.max()) + 200) // 256)
    assert slots[0] == slots[1] == slots[2]
    assert slots[0] <= 3 * 15 + LOOKAHEAD * 16


def test_schedule_loads_before_use_and_releases_after():
    rng = np.random.default_rng(3)
    boxes = np.concatenate([rng.uniform(0, 900, (50, 2)), np.full((50, 2), 90.0)], 1)
    schedule = Schedule(boxes, patch_px=90, batch_size=7, size=(1000, 1000), tile_size=(64, 64))
    held: set[int] = set()
    for batch in range(schedule.batches):
        fresh = {int(r) * schedule.columns + int(c) for c, r in schedule.tiles[batch]}
        assert not fresh & held
        held |= fresh
        for x, y, w, h in boxes[7 * batch : 7 * batch + 7]:
            for column in range(int(x) // 64, int(x + w) // 64 + 1):
                for row in range(int(y) // 64, int(y + h) // 64 + 1):
                    assert row * schedule.columns + column in held
        held -= set(schedule.released[batch].tolist())
    assert not held


def test_unreadable_tiles_are_reported_and_shown_in_white():
    slide = FakeSlide(noise(200, 300), tile=(50, 50), broken={(0, 2, 1)})
    plan = plan_patches(slide, mpp=0.25, patch_px=40)
    batches = list(stream_slide(slide, plan, batch_size=4))
    boxes = np.concatenate([b.unreadable_l0 for b in batches])
    assert boxes.tolist() == [[100, 50, 50, 50]]
    damaged = np.concatenate([b.damaged for b in batches])
    pixels = np.concatenate([b.pixels for b in batches])
    x, y = plan.coords_l0[:, 0], plan.coords_l0[:, 1]
    expected = np.flatnonzero((x < 150) & (x + 40 > 100) & (y < 100) & (y + 40 > 50))
    assert damaged.tolist() == expected.tolist()
    for i in damaged:
        sx, sy = plan.coords_l0[i]
        shown = slide.images[0][sy : sy + 40, sx : sx + 40].copy()
        shown[max(50 - sy, 0) : max(100 - sy, 0), max(100 - sx, 0) : max(150 - sx, 0)] = 255
        np.testing.assert_array_equal(pixels[i], shown)
    assert any("broken" in b.reason for b in batches)
    with pytest.raises(TileError, match=r"tile \(2, 1\) of level 0: broken"):
        list(iter_patches(slide, plan))


def test_stopping_early_leaves_no_task_behind():
    slide = FakeSlide(noise(400, 400))
    plan = plan_patches(slide, mpp=0.25, patch_px=32)
    with ThreadPoolExecutor(2) as workers:
        stream = iter_patches(slide, plan, batch_size=2, workers=workers)
        next(stream)
        stream.close()
        assert workers.submit(lambda: 1).result(timeout=5) == 1


def test_empty_plan_and_bad_batch_size():
    slide = FakeSlide(noise(100, 100))
    empty = Mask(slide)
    empty.mask[:] = 0
    assert list(iter_patches(slide, plan_patches(slide, empty, mpp=0.25, patch_px=20))) == []
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        next(iter_patches(slide, plan_patches(slide, mpp=0.25, patch_px=20), batch_size=0))


# --- what a slide makes of its tiles -------------------------------------------------------------


@pytest.mark.parametrize("downsamples", [(1,), (1, 4), (1, 2, 8)])
def test_overview_is_the_average_of_the_whole_slide(downsamples):
    image = noise(613, 799)
    slide = FakeSlide(image, mpp=0.5, downsamples=downsamples)
    overview = slide.overview(mpp=8.0)
    assert overview.shape == (38, 50, 3)
    level = max(i for i, d in enumerate(downsamples) if d <= 16)
    source = slide.images[level]
    h, w = source.shape[:2]
    rows = reference.axis_weights(0, h, 38, h)
    columns = reference.axis_weights(0, w, 50, w)
    wanted = np.einsum("ih,hwc,jw->ijc", rows, source.astype(float), columns, optimize=True)
    assert np.abs(overview - wanted).max() <= 0.55
    assert set(slide.decoded.values()) == {1}


def test_overview_of_a_coarse_slide_is_the_slide():
    image = noise(60, 70)
    np.testing.assert_array_equal(FakeSlide(image, mpp=10.0).overview(mpp=8.0), image)


def test_overview_of_a_slide_with_no_readable_tile():
    slide = FakeSlide(noise(60, 60), broken={(0, c, r) for c in range(2) for r in range(2)})
    with pytest.raises(SlideError, match="no tile can be decoded, the first: "):
        slide.overview()


@pytest.mark.parametrize("downsamples", [(1, 4), (1, 2, 4)])
def test_a_hole_in_the_overview_is_shown_from_the_finer_levels(downsamples):
    image = noise(612, 800)
    whole = FakeSlide(image, mpp=1.5, downsamples=downsamples)
    top = len(downsamples) - 1
    broken = {(top, 1, 0), (top, 2, 1)}
    if top == 2:  # the level between has a hole at the same place
        broken |= {(1, c, r) for c in range(1, 5) for r in range(3)}
    slide = FakeSlide(image, mpp=1.5, downsamples=downsamples, broken=broken)
    survey = slide.survey(mpp=8.0)
    assert survey.unreadable_l0.tolist() == [[256, 0, 256, 192], [512, 192, 256, 192]]
    assert survey.reason == f"tile (1, 0) of level {top}: broken"
    wanted = whole.overview(mpp=8.0).astype(int)
    assert np.abs(survey.picture - wanted).max() <= 2  # averaged from other numbers
    np.testing.assert_array_equal(slide.overview(mpp=8.0), survey.picture)
    assert len(whole.survey().unreadable_l0) == 0
    assert whole.survey().reason == ""


def test_a_hole_in_the_overview_stays_white_only_where_nothing_can_be_read():
    image = np.full((400, 640, 3), 50, np.uint8)
    slide = FakeSlide(image, mpp=2.0, downsamples=(1, 4), broken={(1, 1, 1), (0, 5, 4)})
    survey = slide.survey(mpp=8.0)
    assert survey.unreadable_l0.tolist() == [[256, 192, 256, 192]]
    white = np.zeros(survey.picture.shape[:2], bool)
    white[48:60, 80:96] = True  # tile (5, 4) of level 0, 4 x 4 pixels to one
    assert (survey.picture[white] == 255).all()
    assert (survey.picture[~white] == 50).all()


def test_tile_boxes_end_with_the_slide():
    slide = FakeSlide(noise(100, 130), downsamples=(1, 2))
    boxes = slide.tile_boxes_l0(1, np.array([[0, 0], [1, 1]], np.int64))
    assert boxes.tolist() == [[0, 0, 128, 96], [128, 96, 2, 4]]


def test_read_region():
    image = noise(200, 260)
    slide = FakeSlide(image, downsamples=(1, 4))
    np.testing.assert_array_equal(slide.read_region((30, 40), 0, (100, 90)), image[40:130, 30:130])
    small = slide.read_region((40, 80), 1, (20, 10))
    np.testing.assert_array_equal(small, slide.images[1][20:30, 10:30])
    outside = slide.read_region((-10, 190), 0, (20, 20))
    assert (outside[:, :10] == 255).all()
    assert (outside[10:] == 255).all()
    np.testing.assert_array_equal(outside[:10, 10:], image[190:200, :10])
    assert slide.read_region((900, 0), 0, (4, 3)).tolist() == np.full((3, 4, 3), 255).tolist()
    with pytest.raises(ValueError, match=r"level must be within 0..1, got 2"):
        slide.read_region((0, 0), 2, (1, 1))
    with pytest.raises(ValueError, match="size must not be negative"):
        slide.read_region((0, 0), 0, (-1, 1))


def averaged(image, x, y, width, height, scale):
    """A region at a whole scale, by the definition: means of scale x scale pixels, white outside."""
    padded = np.full((y + height * scale + 999, x + width * scale + 999, 3), 255.0)
    padded[: image.shape[0], : image.shape[1]] = image
    part = padded[y : y + height * scale, x : x + width * scale]
    return part.reshape(height, scale, width, scale, 3).mean(axis=(1, 3))


@pytest.mark.parametrize("size", [(300, 40), (7, 270), (1, 1)])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_region_at_a_scale_is_area_averaged(size, scale):
    image = noise(700, 690)
    slide = FakeSlide(image, downsamples=(1,))
    found = slide.read_region((33, 21), size=size, mpp=slide.mpp * scale)
    assert found.shape == (size[1], size[0], 3)
    wanted = averaged(image, 33, 21, *size, scale)
    assert np.abs(found - wanted).max() <= 0.5 + 1e-9


def test_a_region_at_a_scale_is_of_the_nearest_finer_level():
    slide = FakeSlide(noise(400, 520), downsamples=(1, 4))
    found = slide.read_region((40, 80), size=(20, 10), mpp=slide.mpp * 4)
    np.testing.assert_array_equal(found, slide.read_region((40, 80), 1, (20, 10)))
    assert slide.read_region((0, 0), size=(0, 5), mpp=1.0 * slide.mpp).shape == (5, 0, 3)


def test_regions_that_cannot_be():
    slide = FakeSlide(noise(200, 260), downsamples=(1, 4))
    with pytest.raises(
        ValueError, match=r"^mpp must be at least the slide's .*: nothing finer was"
    ):
        slide.read_region((0, 0), size=(1, 1), mpp=slide.mpp / 2)
    for asked in ({}, {"level": 0, "mpp": 1.0}):
        with pytest.raises(ValueError, match="level or mpp must be given, and not both"):
            slide.read_region((0, 0), size=(1, 1), **asked)
    with pytest.raises(TypeError, match="size must be"):
        slide.read_region((0, 0), 0)


def test_a_slide_shows_itself():
    slide = FakeSlide(noise(200, 260), downsamples=(1, 4))
    assert slide.dimensions == (260, 200)
    assert slide.thumbnail(130).shape == (100, 130, 3)
    assert slide.thumbnail().shape == (200, 260, 3)
    assert (
        repr(slide) == f"FakeSlide({slide.name!r}, 260 x 200 px, {slide.mpp:.4g} um/px, 2 levels)"
    )
    assert slide._repr_png_().startswith(b"\x89PNG")


# --- tables of patch images -----------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    rows = ["file,bag,label,x,y,split"]
    for bag in ("a", "b"):
        for i in range(5):
            write_png(tmp_path / f"{bag}{i}.png", noise(30, 30, seed=i))
            rows.append(
                f"{bag}{i}.png,{bag},{i % 2},{30 * i},60,{'train' if bag == 'a' else 'test'}"
            )
    (tmp_path / "patches.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "patches.csv"


def test_patch_table(table):
    a, b = read_patch_table(table)
    assert (a.name, len(a), a.split, a.labels) == ("a", 5, "train", ("0", "1", "0", "1", "0"))
    assert a.coords_l0.tolist() == [[30 * i, 60] for i in range(5)]
    unnamed = [replace(bag, names=(), labels=()) for bag in (a, b)]
    assert unnamed[0].identity == unnamed[1].identity  # the same pictures at the same places
    assert len({a.identity, b.identity, replace(a, labels=("1",) * 5).identity}) == 3
    assert a.names == ("a0.png", "a1.png", "a2.png", "a3.png", "a4.png")
    assert fit_bag(a).patch_px == 30
    pixels = np.concatenate([x.pixels for x in stream_bag(a, batch_size=2)])
    np.testing.assert_array_equal(pixels, np.stack([noise(30, 30, seed=i) for i in range(5)]))
    small = next(stream_bag(a, patch_px=15, batch_size=2)).pixels
    blocks = noise(30, 30, seed=0).reshape(15, 2, 15, 2, 3).astype(int).sum((1, 3))
    np.testing.assert_array_equal(small[0], (blocks + 2) >> 2)


def test_patch_table_takes_the_fields_other_names(table):
    table.write_text("path,wsi\na0.png,s\na1.png,s\n")
    (bag,) = read_patch_table(table)
    assert (bag.name, len(bag), bag.coords_l0) == ("s", 2, None)
    assert bag.coords.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have a header and at least one row"),
        ("file,bag\n", "must have a header and at least one row"),
        ("pixels,bag\na,b\n", r"must have a column file \(or path, .*\), got pixels, bag"),
        (
            "file,label\na/1.png,b\nb/1.png,c\n",
            "line 3 must have a file name of its own .* a column slide",
        ),
        ("file,bag\na.png,NA\n", "line 2: bag must be told, got 'NA'"),
        ("file,bag\na.png,\n", "line 2: bag is empty"),
        ("file,bag\na.png,s\na.png,s\n", r"line 3: a.png is there twice \(first in line 2\)"),
        ("file,bag,x\na.png,s,1\n", "must have both of the columns x and y"),
        ("file,bag,x,y\na.png,s,1,nan\n", "line 2: y must be a finite number, got 'nan'"),
        (
            "file,bag,x,y\na.png,s,1e30,0\n",
            r"line 2: x must be a level-0 pixel below 2\*\*63, got '1e",
        ),
        ("file,bag,split\na.png,s,train\nb.png,s,test\n", "bag s must be in one split"),
        ("file,bag\na.png,s,1\n", "line 2: must have 2 cells like the header, got 3"),
    ],
)
def test_patch_table_refuses(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_patch_table(path)


def test_patch_table_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such table"):
        read_patch_table(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\x89PNG\r\n\x1a\n\x00" * 20)
    with pytest.raises(ValueError, match=r"binary\.csv, line 1: must be CSV text"):
        read_patch_table(tmp_path / "binary.csv")


def test_bag_refuses_bad_images(table, tmp_path):
    a, b = read_patch_table(table)
    with pytest.raises(SlideError, match=r"are 30 px, asked for 40 px.*allow_upsampling=True"):
        next(stream_bag(a, patch_px=40))
    assert next(stream_bag(a, patch_px=40, allow_upsampling=True)).pixels.shape == (5, 40, 40, 3)
    write_png(tmp_path / "a3.png", noise(30, 31))
    with pytest.raises(SlideError, match=r"not 30 x 30 px like most, a3\.png \(31 x 30\): leave"):
        list(stream_bag(a))
    (tmp_path / "b1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such image: .*b1\.png"):
        list(stream_bag(b))
    with pytest.raises(SlideError, match=r"no such patch image: .*b1.png"):
        _ = b.identity
