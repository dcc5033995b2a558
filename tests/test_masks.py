"""Ready-made masks as people have them: pyramids, palettes, JPEG, numbers of any kind, folders.

Masks are known by construction, or as Pillow and tifffile read them.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import slide_files as files
from histofast.errors import SlideError
from histofast.patches import (
    Job,
    TissueOptions,
    list_jobs,
    sample_patches,
    survey_tissue,
    with_masks,
)
from histofast.pipeline import check_slides
from histofast.slides import open_slide, read_mask
from histofast.tissue import MaskFile, find_tissue

H, W = 120, 200
SHAPE = (ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(H, W)), 9) > 0.01).astype(
    np.uint8
)  # 1 and 0, islands and holes
LABELS = SHAPE * np.random.default_rng(4).integers(1, 3, SHAPE.shape).astype(np.uint8)
VOC = ((0, 0, 0), (255, 0, 0), (0, 255, 0))
WHITE_FIRST = ((255, 255, 255), (200, 0, 0), (0, 0, 200))
BLACK_SECOND = ((255, 255, 255), (0, 0, 0), (0, 0, 200))
layouts = pytest.mark.parametrize("layout", [{}, {"tile": (64, 64)}], ids=["strips", "tiles"])


def pyramid(path: Path, mask: NDArray[Any], factors: tuple[int, ...], **options: Any) -> Path:
    """A mask with every `factor`-th pixel on its levels, as ASAP and CAMELYON have them."""
    with tifffile.TiffWriter(path) as tiff:
        for k in factors:
            tiff.write(
                mask[k // 2 :: k, k // 2 :: k],
                tile=(64, 64),
                photometric="minisblack",
                subfiletype=int(k > 1),
                metadata=None,
                **options,
            )
    return path


# --- Kinds of pixels ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [bool, "u1", "u2", "i4", "u4", "f4"])
@layouts
def test_numbers_of_any_kind(dtype, layout, tmp_path):
    """What is not zero is marked; True too, which tifffile writes in files where 0 is white."""
    tifffile.imwrite(tmp_path / "m.tif", LABELS.astype(dtype), compression="zlib", **layout)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif"), SHAPE)


@layouts
def test_nan_marks_nothing(layout, tmp_path):
    values = np.where(SHAPE == 1, np.float32(0.5), np.float32("nan"))
    tifffile.imwrite(tmp_path / "m.tif", values, **layout)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif"), SHAPE)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_png_count_by_index(bits, tmp_path):
    labels = np.minimum(LABELS, 2**bits - 1)
    for colours in (VOC, WHITE_FIRST):
        image = Image.new("P", (W, H))
        image.putpalette([c for colour in colours for c in colour])
        image.putdata(labels.ravel().tolist())
        image.save(tmp_path / "m.png", bits=bits)
        with Image.open(tmp_path / "m.png") as theirs:
            assert theirs.mode == "P"
            np.testing.assert_array_equal(np.asarray(theirs), labels)
        np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), SHAPE)


@layouts
def test_palettes_of_tiff_count_by_index(layout, tmp_path):
    path = tmp_path / "m.tif"
    for colours in (VOC, WHITE_FIRST):
        colormap = np.zeros((3, 256), np.uint16)
        colormap[:, :3] = np.array(colours).T * 257
        tifffile.imwrite(path, LABELS, photometric="palette", colormap=colormap, **layout)
        np.testing.assert_array_equal(read_mask(path), SHAPE)


def test_clear_entries_of_a_palette_mark_nothing(tmp_path):
    image = Image.new("P", (W, H))
    image.putpalette([c for colour in VOC for c in colour])
    image.putdata(LABELS.ravel().tolist())
    image.save(tmp_path / "m.png", transparency=bytes([0, 255, 0]))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), LABELS == 1)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_palettes_that_say_two_things_are_refused(suffix, tmp_path):
    """White first and black later: by index white is background, by colour black."""
    image = Image.new("P", (W, H))
    image.putpalette([c for colour in BLACK_SECOND for c in colour])
    image.putdata(LABELS.ravel().tolist())
    image.save(tmp_path / f"m.{suffix}")
    with pytest.raises(
        SlideError, match=r"background first in its palette, got \(255, 255, 255\) there"
    ):
        read_mask(tmp_path / f"m.{suffix}")


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.parametrize("quality", [50, 75, 95])
def test_noise_of_jpeg_marks_nothing(quality, suffix, tmp_path):
    path = tmp_path / f"m.{suffix}"
    stream = files.jpeg(SHAPE * np.uint8(255), level=quality)
    if suffix == "jpg":
        path.write_bytes(stream)
        with Image.open(path) as theirs:
            assert (np.asarray(theirs)[SHAPE == 0] > 0).mean() > (0.005 if quality < 95 else 0)
    else:
        tiles = [
            files.jpeg(t[..., 0].copy(), level=quality)
            for t in files.tiles_of(SHAPE[..., None] * np.uint8(255), 64)
        ]
        tifffile.imwrite(
            path, iter(tiles), shape=SHAPE.shape, dtype=np.uint8, tile=(64, 64),
            compression="jpeg", photometric="minisblack",
        )  # fmt: skip
    assert (read_mask(path) != SHAPE).mean() < 0.002
    if quality == 95:
        np.testing.assert_array_equal(read_mask(path), SHAPE)


@pytest.mark.parametrize("codec", ["webp", "jpeg2000", "jpegxl"])
def test_codecs_that_may_keep_values(codec, tmp_path):
    """Without loss labels count as they are, with loss noise marks nothing."""
    path = tmp_path / "m.tif"
    lossless = {} if codec == "jpeg2000" else {"compressionargs": {"lossless": True}}
    lossy = {"lossless": False} if codec == "webp" else {}
    level = {"webp": 60, "jpeg2000": 30, "jpegxl": 60}[codec]
    cases = [
        (LABELS, lossless),
        (LABELS * np.uint8(20), lossless),
        (SHAPE * np.uint8(255), {"compressionargs": {"level": level, **lossy}}),
    ]
    for values, options in cases:
        rgb = np.repeat(values[..., None], 3, axis=2)
        files.write_tiff(path, [rgb], compression=codec, **options)
        assert (read_mask(path) != SHAPE).mean() <= (0.004 if options != lossless else 0)
    with tifffile.TiffFile(path) as tiff:
        assert len(np.unique(tiff.pages[0].asarray())) > 16  # it is noisy


def test_colours_of_jpeg(tmp_path):
    """Annotations in red: colours bleed over two pixels, and no farther."""
    red = SHAPE[..., None] * np.array([255, 0, 0], np.uint8)
    Image.fromarray(red).save(tmp_path / "m.jpg", quality=80)
    wrong = read_mask(tmp_path / "m.jpg") != SHAPE
    edge = ndimage.binary_dilation(SHAPE, iterations=2) != ndimage.binary_erosion(
        SHAPE, iterations=2, border_value=1
    )
    assert not wrong[~edge].any()


def test_a_dark_jpeg_is_refused_and_a_black_one_is_empty(tmp_path):
    (tmp_path / "m.jpg").write_bytes(files.jpeg(LABELS, level=95))
    with pytest.raises(SlideError, match=r"bright pixels, .* got values up to \d: write it as PNG"):
        read_mask(tmp_path / "m.jpg")
    (tmp_path / "m.jpg").write_bytes(files.jpeg(SHAPE * np.uint8(0)))
    assert not read_mask(tmp_path / "m.jpg").any()


def test_white_on_black_is_as_pillow_sees_it(tmp_path):
    """Fax compression has 0 for white; what is white is marked, whatever its number."""
    path = tmp_path / "m.tif"
    for photometric in (0, 1):
        image = Image.fromarray(SHAPE.astype(bool))
        image.save(path, compression="group4", tiffinfo={262: photometric})
        with Image.open(path) as theirs:
            shown = np.asarray(theirs)
        with tifffile.TiffFile(path) as tiff:
            assert tiff.pages[0].photometric == photometric
        np.testing.assert_array_equal(read_mask(path), shown)
    assert 0.2 < shown.mean() < 0.8


def test_masks_that_cannot_be_told_are_refused(tmp_path):
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, np.stack([LABELS] * 3), photometric="minisblack", metadata=None)
    with pytest.raises(SlideError, match="got 3 grey pages of one size"):
        read_mask(path)
    tifffile.imwrite(path, LABELS, photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[0].tags[320].offset
    files.overwrite(path, at + 4, (9).to_bytes(4, "little"))
    with pytest.raises(SlideError, match="a palette must have 3 x 256 numbers, got 9"):
        read_mask(path)


# --- Pyramids -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "factor"),
    [(None, 1), ((W, H), 1), ((W // 2, H // 2), 2), ((70, 40), 2), ((50, 30), 4), ((9, 9), 8)],
)
@pytest.mark.parametrize("compression", ["lzw", "zlib", None])
def test_the_level_that_is_needed_is_read(compression, wanted, factor, tmp_path):
    path = pyramid(tmp_path / "m.tif", LABELS, (1, 2, 4, 8), compression=compression)
    expected = LABELS[factor // 2 :: factor, factor // 2 :: factor] != 0
    np.testing.assert_array_equal(read_mask(path, size_wanted=wanted), expected)


def test_absent_tiles_of_a_mask_mark_nothing(tmp_path):
    path = pyramid(tmp_path / "m.tif", np.ones((H, W), np.uint8), (1,), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags[325]
        step = {3: 2, 4: 4}[int(tag.dtype)]
    files.overwrite(path, tag.valueoffset, bytes(step))
    expected = np.ones((H, W), np.uint8)
    expected[:64, :64] = 0
    np.testing.assert_array_equal(read_mask(path), expected)


def test_masks_of_any_size_are_sampled(tmp_path, monkeypatch):
    """A level beyond the bound is never in memory: pixels under the centres are taken."""
    path = pyramid(tmp_path / "m.tif", LABELS, (1,), compression="zlib")
    monkeypatch.setattr("histofast.slides.masks.MAX_IMAGE_PX", 1000)
    rows, columns = ((np.arange(n) + 0.5) * side / n for n, side in ((30, H), (45, W)))
    expected = SHAPE[rows.astype(int)[:, None], columns.astype(int)]
    np.testing.assert_array_equal(read_mask(path, size_wanted=(45, 30)), expected)
    with pytest.raises(SlideError, match=r"million pixels to be read whole, got 200 x 120"):
        read_mask(path)


def test_a_broken_tile_of_a_mask_is_one_line(tmp_path):
    path = pyramid(tmp_path / "m.tif", LABELS, (1,), compression="zlib")
    at, _ = files.tile_extent(path, 1)
    files.overwrite(path, at, b"no zlib")
    with pytest.raises(SlideError, match=r"m\.tif cannot be decoded: .*column 1, row 0") as caught:
        read_mask(path)
    assert "\n" not in str(caught.value)


def test_a_slides_mask_is_its_pyramids_level(tmp_path):
    """Of a mask as large as the slide the level at the overview's scale is the tissue."""
    slide_path = files.write_tiff(tmp_path / "s.tif", [files.picture(480, 800)], mpp=1.0)
    big = np.kron(LABELS, np.ones((4, 4), np.uint8))  # 480 x 800
    mask = MaskFile(pyramid(tmp_path / "m.tif", big, (1, 2, 4, 8), compression="lzw"))
    with open_slide(slide_path) as slide, ThreadPoolExecutor(1) as pool:
        for mpp, factor in ((8.0, 8), (4.0, 4), (1.0, 1)):
            options = TissueOptions(mpp=mpp)
            found = survey_tissue(slide, options, mask, pool).tissue
            np.testing.assert_array_equal(
                found.mask, big[factor // 2 :: factor, factor // 2 :: factor] != 0
            )
            assert mask.identity(mpp)["overview_mpp"] == mpp
    png = tmp_path / "m.png"
    Image.fromarray(SHAPE * np.uint8(255)).save(png)
    same = [MaskFile(png).identity(mpp) for mpp in (4.0, 8.0)]
    assert same[0] == same[1]  # read whole at any scale


@pytest.mark.parametrize("as_path", [str, Path])
def test_find_tissue_takes_the_path_of_a_mask(tmp_path, as_path):
    """The same as the run takes, whatever the file: of a pyramid the level at the overview's scale."""
    slide_path = files.write_tiff(tmp_path / "s.tif", [files.picture(480, 800)], mpp=1.0)
    big = np.kron(LABELS, np.ones((4, 4), np.uint8))
    masks = [pyramid(tmp_path / "m.tif", big, (1, 2, 4, 8), compression="lzw")]
    Image.fromarray(SHAPE * np.uint8(255)).save(tmp_path / "m.png")
    square = [[[80, 40], [400, 40], [400, 200], [80, 200], [80, 40]]]
    (tmp_path / "f.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": square}))
    wanted = [big[4::8, 4::8] != 0, SHAPE != 0]
    with open_slide(slide_path) as slide, ThreadPoolExecutor(1) as pool:
        for path, mask in zip([*masks, tmp_path / "m.png"], wanted, strict=True):
            np.testing.assert_array_equal(find_tissue(slide, mask=as_path(path)).mask, mask)
        drawn = find_tissue(slide, mask=as_path(tmp_path / "f.geojson"))
        assert drawn.mask[5:25, 10:50].all()
        assert drawn.mask.sum() == 20 * 40
        run = survey_tissue(slide, TissueOptions(), MaskFile(tmp_path / "f.geojson"), pool)
        assert run.tissue.identity == drawn.identity
        moved = find_tissue(slide, mask=as_path(tmp_path / "f.geojson"), origin_l0=(80, 0))
        assert moved.mask[5:25, 20:60].all()


def test_the_path_of_a_mask_that_does_not_do_is_told(tmp_path):
    slide_path = files.write_tiff(tmp_path / "s.tif", [files.picture(480, 800)], mpp=1.0)
    wide = tmp_path / "wide.png"
    Image.fromarray(np.ones((10, 100), np.uint8)).save(wide)
    (tmp_path / "b.geojson").write_text("{")
    with open_slide(slide_path) as slide:
        with pytest.raises(FileNotFoundError, match=r"none\.png"):
            find_tissue(slide, mask=tmp_path / "none.png")
        with pytest.raises(
            SlideError, match=f"^mask {wide}: mask must have the aspect of the slide"
        ):
            find_tissue(slide, mask=wide)
        with pytest.raises(SlideError, match=r"b\.geojson must be GeoJSON"):
            find_tissue(slide, mask=tmp_path / "b.geojson")
        with pytest.raises(
            ValueError, match=r"^threshold must be None where a mask is given, got 3$"
        ):
            find_tissue(slide, mask=wide, threshold=3)


# --- Folders --------------------------------------------------------------------------------------


def named(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    "name",
    ["s.png", "s.tif", "s.TIFF", "s.jpg", "s.JPEG", "s.geojson", "s.json", "S.png", "s_mask.png",
     "s_mask.tif", "s_Mask.tif", "s_mask_level2.png", "s_mask.geojson", "s_masks.jpg"],
)  # fmt: skip
def test_masks_of_a_folder_by_name(name, tmp_path):
    folder = named(tmp_path / "masks", name, "t.png", "s2.png", "s2_mask.png", "s.txt", "as.png")
    (job,) = with_masks([Job(name="s", path=tmp_path / "s.svs")], folder)
    assert job.mask == folder / name
    assert not job.problem


def test_a_folder_without_the_mask_says_what_was_looked_for(tmp_path):
    folder = named(tmp_path / "masks", "t.png", "s_mask_a.png", "s_mask_b.tif")
    jobs = [Job(name=name, path=tmp_path / f"{name}.svs") for name in ("s", "t", "u")]
    s, t, u = with_masks(jobs, folder)
    assert "mask of s must be one file of " in s.problem
    assert s.problem.endswith("got 2: s_mask_a.png, s_mask_b.tif")
    assert (t.mask, t.problem) == (folder / "t.png", "")
    assert u.problem.startswith(
        f"no such mask: {folder} has none called u or u_mask, with one of .png"
    )
    with pytest.raises(SlideError, match="no such mask: "):
        u.open(mpp=None)


def test_slides_among_their_masks(tmp_path):
    """A slide is not its own mask; a list's own mask goes before the folder's."""
    folder = named(tmp_path / "both", "s.tif", "s_mask.tif", "t.png", "own.png")
    jobs = [Job(name="s", path=folder / "s.tif")]
    jobs += [Job(name="t", path=tmp_path / "t.svs", mask=folder / "own.png")]
    s, t = with_masks(jobs, folder)
    assert (s.mask, t.mask) == (folder / "s_mask.tif", folder / "own.png")


def test_what_tissue_writes_is_taken_back(tmp_path):
    slide = files.write_tiff(tmp_path / "s.tif", [files.picture(480, 800)], mpp=1.0)
    areas = []
    for mask in (None, tmp_path / "qc", tmp_path / "qc" / "s_mask.png"):
        out = tmp_path / ("qc" if mask is None else "again")
        ((_, found),) = check_slides([slide], out=out, mask=mask, allow_upsampling=True)
        assert not isinstance(found, Exception)
        areas.append(found["tissue_mm2"])
    assert areas[0] > 0
    assert areas == pytest.approx([areas[0]] * 3, rel=0.02)
    assert list_jobs([slide])[0].mask is None


def test_samples_take_the_masks_of_a_list(tmp_path):
    image = np.full((256, 512, 3), (200, 60, 140), np.uint8)
    image[:, 256:] = (140, 60, 200)
    files.write_tiff(tmp_path / "s.tif", [image], mpp=1.0)
    mask = np.zeros((32, 64), np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    (tmp_path / "l.csv").write_text("wsi,mask\ns.tif,m.png\n")
    sample = sample_patches(tmp_path / "l.csv", n=12, patch_px=32, mpp=1.0)
    assert len(sample) == 12
    assert (sample.pixels == (140, 60, 200)).all()


def test_notes_reach_the_user(tmp_path):
    slide = files.write_tiff(tmp_path / "s.tif", [files.picture(480, 800)], mpp=1.0)
    square = [[[10, 10], [400, 10], [400, 400], [10, 400], [10, 10]]]
    shapes = [{"type": "Polygon", "coordinates": square}, {"type": "Point", "coordinates": [1, 1]}]
    features = [{"type": "Feature", "properties": {}, "geometry": shape} for shape in shapes]
    (tmp_path / "m.geojson").write_text(json.dumps(features))
    ((_, found),) = check_slides(
        [slide],
        out=tmp_path / "qc",
        mask=tmp_path / "m.geojson",
        edge="shift",  # else what lies beyond the last patch is noted too
        allow_upsampling=True,
    )
    assert found["notes"] == ["1 point, line or empty feature of the mask passed over"]
