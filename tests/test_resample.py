"""Resizing as the makers of encoders did it: bit for bit Pillow's, wherever patches are resized."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import histofast
import reference
import slide_files
from histofast.errors import FeatureError
from histofast.features import read_features
from histofast.patches import PatchReader, fit_bag, read_patch_table, stream_bag
from histofast.slides import open_slide, resize_image, resize_patches, write_png
from histofast.tiling import plan_patches

PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
filters = pytest.mark.parametrize("resample", PILLOW)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def pillows(image, size, resample, box=None):
    return np.asarray(Image.fromarray(image).resize(size, PILLOW[resample], box=box))


@filters
@pytest.mark.parametrize("from_px", [(64, 64), (37, 53), (1, 1), (5, 200), (513, 512), (31, 31)])
@pytest.mark.parametrize("to_px", [(32, 32), (1, 7), (64, 50)])
def test_it_is_pillows(resample, from_px, to_px):
    image = noise(*from_px)
    out = np.empty((*to_px, 3), np.uint8)
    assert resize_image(image, resample=resample, out=out) is out
    np.testing.assert_array_equal(out, pillows(image, to_px[::-1], resample))


@filters
@pytest.mark.parametrize(
    "box", [(0.25, 0.5, 40.75, 39.5), (3, 4, 35, 36), (0, 0, 8, 8), (10.1, 11.7, 49.9, 50)]
)
def test_a_box_is_pillows(resample, box):
    image, out = noise(50, 60), np.empty((16, 16, 3), np.uint8)
    resize_image(image, resample=resample, out=out, box=box)
    np.testing.assert_array_equal(out, pillows(image, (16, 16), resample, box))


@filters
@pytest.mark.parametrize("from_px", [(40, 40), (33, 70), (9, 9)])
def test_it_matches_the_definition(resample, from_px):
    image, out = noise(*from_px, seed=1), np.empty((20, 20, 3), np.uint8)
    resize_image(image, resample=resample, out=out)
    wanted = reference.resize_image(image, (20, 20), resample)
    assert np.abs(out - wanted).max() <= 1.01  # rounded twice


@filters
def test_grey_stays_and_the_same_size_is_a_copy(resample):
    grey = np.full((50, 70, 3), 77, np.uint8)
    assert (resize_image(grey, resample=resample, out=np.empty((9, 9, 3), np.uint8)) == 77).all()
    image = noise(30, 40)
    copy = resize_image(image, resample=resample, out=np.empty_like(image))
    np.testing.assert_array_equal(copy, image)


def test_what_is_refused():
    image, out = noise(8, 8), np.empty((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"^resample must be bicubic or bilinear, got 'area'$"):
        resize_image(image, resample="area", out=out)
    for box in ((0, 0, 9, 8), (-1, 0, 4, 4), (3, 3, 3, 5), (0, 0, float("nan"), 4)):
        with pytest.raises(ValueError, match=r"^box must lie in the image, 8 x 8 px, got "):
            resize_image(image, resample="bicubic", out=out, box=box)
    with pytest.raises(TypeError, match=r"^image must be"):
        resize_image(image.astype(np.float32), resample="bicubic", out=out)
    with pytest.raises(ValueError, match=r"^out must be"):
        resize_image(image, resample="bicubic", out=np.empty((4, 4), np.uint8))


# --- Slides -----------------------------------------------------------------------------------------


@filters
@pytest.mark.parametrize("mpp", [1.0, 0.9, 0.5, 0.4])
def test_patches_of_a_slide_are_regions_that_pillow_resized(tmp_path, resample, mpp):
    image = noise(300, 400)
    path = slide_files.write_tiff(tmp_path / "s.tif", [image], mpp=0.5)
    with open_slide(path) as slide:
        plan = plan_patches(
            slide, mpp=mpp, patch_px=40, edge="shift", allow_upsampling=True, resample=resample
        )
        for patches, coords in histofast.iter_patches(slide, plan):
            for patch, (x, y) in zip(patches, coords, strict=True):
                region = image[y : y + plan.patch_l0, x : x + plan.patch_l0]
                np.testing.assert_array_equal(patch, pillows(region, (40, 40), resample))


@filters
def test_fractions_of_a_level_are_honoured(resample):
    """A box between pixels: what it touches is cut out, and Pillow resizes the box in it."""
    level = noise(64, 64)
    boxes = np.array([[3.25, 4.5, 20.5, 20.5], [40.5, 40.25, 23.5, 23.75]])
    out = np.empty((2, 8, 8, 3), np.uint8)
    slots = np.zeros((1, 1), np.int32)
    resize_patches(level[None], slots, boxes, width=64, height=64, resample=resample, out=out)
    for (x, y, w, h), patch in zip(boxes, out, strict=True):
        x0, y0, x1, y1 = int(x), int(y), int(np.ceil(x + w)), int(np.ceil(y + h))
        within = (x - x0, y - y0, x + w - x0, y + h - y0)
        wanted = pillows(level[y0:y1, x0:x1], (8, 8), resample, within)
        np.testing.assert_array_equal(patch, wanted)


def test_a_plan_says_how():
    with pytest.raises(
        ValueError, match=r"^resample must be one of area, bicubic, bilinear, got 'cubic'$"
    ):
        plan_patches(None, resample="cubic")


# --- Ready-made patches, and runs -------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    for i in range(3):
        write_png(tmp_path / f"{i}.png", noise(64, 64, seed=i))
    (tmp_path / "t.csv").write_text("file,slide\n0.png,s\n1.png,s\n2.png,s\n")
    return tmp_path / "t.csv"


@filters
def test_ready_made_patches_are_resized_so(table, resample):
    (bag,) = read_patch_table(table)
    fitted = fit_bag(bag, patch_px=24, resample=resample)
    for i, file in enumerate(fitted.bag.files):
        wanted = pillows(noise(64, 64, seed=i), (24, 24), resample)
        np.testing.assert_array_equal(fitted.load(file), wanted)
    averaged = np.concatenate([batch.pixels for batch in stream_bag(bag, patch_px=24)])
    assert (averaged[0] != fitted.load(bag.files[0])).any()


@pytest.mark.parametrize("kind", ["slides", "patches"])
def test_a_run_says_it_and_reads_the_same_pixels_again(tmp_path, encoder, table, kind):
    image = slide_files.picture(256, 256)
    slide = slide_files.write_tiff(tmp_path / "s.tif", [image], mpp=0.5)
    given = {"slides": slide} if kind == "slides" else {"patches": table}
    asked = {"mpp": 1.0, "patch_px": 32, "out": tmp_path / "f", "encoder": encoder}
    mask = np.ones((8, 8), np.uint8)
    write_png(tmp_path / "m.png", mask)
    if kind == "slides":
        asked["mask"] = tmp_path / "m.png"
    report = histofast.extract(**given, **asked, resample="bicubic")
    assert report.exit_code == 0
    (entry,) = report.slides
    file = read_features(entry.outputs[0])
    assert file.identity["resample"] == file.attributes["resample"] == "bicubic"
    if kind == "patches":
        assert "resampled to 32 px by bicubic resizing" in " ".join(report.notes)
    with PatchReader(**given) as reader:
        first = reader.read(file, np.array([0]))[0]
    source = image[:64, :64] if kind == "slides" else noise(64, 64, seed=0)
    np.testing.assert_array_equal(first, pillows(source, (32, 32), "bicubic"))
    with pytest.raises(
        FeatureError, match="made with resample bicubic, asked for is resample area"
    ):
        histofast.extract(**given, **asked)


def test_the_command_has_the_option(cli, encoder, table, tmp_path):
    command = [
        "extract",
        "--patches",
        table,
        "-e",
        encoder,
        "--patch-px",
        "32",
        "-o",
        tmp_path / "f",
    ]
    assert cli(*command, "--resample", "bilinear").code == 0
    (path,) = (tmp_path / "f").rglob("*.h5")
    assert read_features(path).attributes["resample"] == "bilinear"
    answer = cli(*command, "--resample", "lanczos")
    assert answer.code == 2
    assert "must be one of area, bicubic, bilinear, got 'lanczos'" in " ".join(answer.err)
