"""The slides door: pixels, scale and errors of every kind of file that can be written here.

MRXS, NDPI, SCN, BIF and DICOM slides cannot be had: OpenSlide's door is tested with the TIFFs that it
reads too, and its dealing with bounds, transparency and broken handles with a fake of the object that
OpenSlide returns.
"""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

import slide_files as files
from fake_slides import FakeOpenSlide
from histofast.errors import SlideError, TileError
from histofast.slides import (
    SLIDE_SUFFIXES,
    OpenSlideSlide,
    find_damage,
    find_slides,
    open_slide,
    pyramid_downsample,
    read_image,
    read_image_and_form,
    read_mask,
    write_png,
)

H, W = 300, 420
LOSSLESS: dict[str, dict[str, Any]] = {
    "none": {},
    "bigtiff": {"bigtiff": True},
    "deflate": {"compression": "zlib"},
    "deflate predictor": {"compression": "zlib", "predictor": 2},
    "lzw": {"compression": "lzw"},
    "lzw predictor": {"compression": "lzw", "predictor": 2},
    "zstd": {"compression": "zstd"},
    "lzma": {"compression": "lzma"},
    "packbits": {"compression": "packbits"},
    "png": {"compression": "png"},
    "webp": {"compression": "webp", "compressionargs": {"lossless": True}},
    "jpeg xl": {"compression": "jpegxl", "compressionargs": {"lossless": True}},
    "jpeg 2000": {"compression": "jpeg2000"},
    "aperio 33005": {"compression": 33005, "description": files.APERIO},
    "oblong tiles": {"tile_px": (48, 80)},
}
LOSSY: dict[str, dict[str, Any]] = {
    "jpeg 420": {"compression": "jpeg", "compressionargs": {"level": 95}},
    "jpeg 444": {"compression": "jpeg", "compressionargs": {"level": 95}, "subsampling": (1, 1)},
    "jpeg aperio": {"compression": "jpeg", "description": files.APERIO},
    "webp lossy": {"compression": "webp", "compressionargs": {"level": 95}},
}


@pytest.fixture(scope="module")
def pyramid() -> list[NDArray[np.uint8]]:
    image = files.picture(H, W)
    return [image, files.half(image), files.half(image, 2)]


def whole(slide: Any, level: int = 0) -> NDArray[np.uint8]:
    info = slide.levels[level]
    return slide.read_region((0, 0), level, (info.width, info.height))


def difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(np.float64) - b).mean())


def shift(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> tuple[int, ...]:
    """Where the circular cross-correlation of two pictures peaks."""
    fa, fb = (np.fft.rfft2(x.mean(2) - x.mean()) for x in (a, b))
    spectrum = fa * fb.conj()
    peak = np.fft.irfft2(spectrum / (np.abs(spectrum) + 1e-9), s=a.shape[:2])
    return tuple(int(i) for i in np.unravel_index(peak.argmax(), peak.shape))


# --- Pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("subifds", [False, True], ids=["pages", "subifds"])
@pytest.mark.parametrize("codec", [*LOSSLESS, *LOSSY])
def test_tiff_shows_what_was_written(codec, subifds, pyramid, tmp_path):
    options = LOSSLESS.get(codec) or LOSSY.get(codec, {})
    path = files.write_tiff(tmp_path / "a.tif", pyramid, subifds=subifds, **options)
    with open_slide(path) as slide:
        assert slide.properties["door"] == "tifffile"
        assert [level.downsample for level in slide.levels] == [1.0, 2.0, 4.0]
        for i, written in enumerate(pyramid):
            shown = whole(slide, i)
            if codec in LOSSLESS:
                np.testing.assert_array_equal(shown, written)
            else:
                assert difference(shown, written) < 4  # halved chroma


@pytest.mark.parametrize(
    "codec", ["none", "deflate predictor", "lzw", "jpeg 420", "jpeg 444", "aperio 33005"]
)
def test_both_doors_agree_on_pyramids(codec, pyramid, tmp_path):
    options = LOSSLESS.get(codec) or LOSSY.get(codec, {})
    path = files.write_tiff(tmp_path / "a.tif", pyramid, **options)
    with open_slide(path) as ours, open_slide(path, door="openslide") as theirs:
        assert theirs.properties["door"] == "openslide"
        assert ours.mpp == pytest.approx(theirs.mpp)
        for i, level in enumerate(ours.levels):
            other = theirs.levels[i]
            assert (level.width, level.height, level.downsample) == (
                other.width,
                other.height,
                other.downsample,
            )
            a, b = whole(ours, i), whole(theirs, i)
            assert difference(a, b) < 1
            assert shift(a, b) == (0, 0)


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "CMU-1-Small-Region.jpeg.tiff"])
def test_both_doors_agree_on_real_slides(name, data):
    path = data / "slides" / name
    with (
        open_slide(path, mpp_override=0.5) as ours,
        open_slide(path, mpp_override=0.5, door="openslide") as theirs,
    ):
        a, b = whole(ours), whole(theirs)
    assert a.shape == (2967, 2220, 3)
    assert difference(a, b) < 1
    assert shift(a, b) == (0, 0)
    assert shift(np.roll(a, (3, -5), (0, 1)), b) == (3, 2220 - 5)


def test_both_files_of_one_real_slide_agree(data):
    paths = [data / "slides" / f"CMU-1-Small-Region.{end}" for end in ("svs", "jpeg.tiff")]
    with open_slide(paths[0]) as svs, open_slide(paths[1], mpp_override=0.5) as generic:
        a, b = whole(svs), whole(generic)
    assert difference(a, b) < 4
    assert shift(a, b) == (0, 0)


@pytest.mark.parametrize("space", ["rgb", "ycbcr"])
def test_jpeg_with_shared_tables(space, tmp_path):
    image = files.picture(100, 150)
    options = {"colorspace": "RGB", "outcolorspace": "RGB"} if space == "rgb" else {}
    streams = [files.jpeg(tile, **options) for tile in files.tiles_of(image, 64)]
    tables = files.split_tables(streams[0])[0]
    path = files.write_encoded(
        tmp_path / "a.tif",
        [files.split_tables(stream)[1] for stream in streams],
        shape=(100, 150, 3),
        tile_px=64,
        compression="jpeg",
        photometric=space,
        compressionargs={"outcolorspace": space},
        extratags=[(347, 7, len(tables), tables, True)],
    )
    with open_slide(path, mpp_override=0.5) as ours:
        assert difference(whole(ours), image) < 2.5
        with open_slide(path, mpp_override=0.5, door="openslide") as theirs:
            assert difference(whole(ours), whole(theirs)) < 1


def test_aperio_jpeg_2000_in_ycbcr(tmp_path):
    image = files.picture(100, 150)
    ycbcr = [files.rgb_to_ycbcr(tile) for tile in files.tiles_of(image, 64)]
    full = [imagecodecs.jpeg2k_encode(t, level=0, mct=False, codecformat="j2k") for t in ycbcr]
    cases = [(full, image), ([files.QUADRANTS_422], files.QUADRANTS)]
    for i, (tiles, expected) in enumerate(cases):
        path = files.write_encoded(
            tmp_path / f"{i}.svs",
            tiles,
            shape=expected.shape,
            tile_px=64,
            compression=33003,
            description=files.APERIO,
        )
        with open_slide(path) as ours, open_slide(path, door="openslide") as theirs:
            assert difference(whole(ours), expected) < 1.5
            assert difference(whole(ours), whole(theirs)) < 1


@pytest.mark.parametrize(
    ("written", "options", "expected"),
    [
        ("grey", {"photometric": "minisblack"}, lambda s: s),
        ("grey", {"photometric": "miniswhite"}, lambda s: 255 - s),
        ("grey", {"photometric": "minisblack", "compression": "jpeg2000"}, lambda s: s),
        ("grey16", {"photometric": "minisblack", "compression": "zlib"}, lambda s: s >> 8),
        ("rgb16", {"predictor": 2, "compression": "lzw"}, lambda s: s >> 8),
        ("rgba", {"extrasamples": ["unassalpha"]}, "straight"),
        ("rgba", {"extrasamples": ["unassalpha"], "compression": "webp"}, "straight"),
        ("rgba", {"extrasamples": ["unspecified"]}, lambda s: s[..., :3]),
        ("premultiplied", {"extrasamples": ["assocalpha"]}, "premultiplied"),
        ("planar", {"planarconfig": "separate", "compression": "zlib"}, "planar"),
        ("bits", {"photometric": "minisblack", "compression": "packbits"}, lambda s: s * 255),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_other_kinds_of_pixels(written, options, expected, tmp_path):
    rgb = files.picture(100, 150)
    alpha = np.broadcast_to(np.linspace(0, 255, 150).astype(np.uint8)[None, :, None], (100, 150, 1))
    opaque = alpha.astype(np.float64) / 255
    samples = {
        "grey": rgb[..., 0],
        "grey16": rgb[..., 0].astype(np.uint16) * 257,
        "rgb16": rgb.astype(np.uint16) * 257,
        "rgba": np.concatenate([rgb, alpha], axis=2),
        "premultiplied": np.concatenate([(rgb * opaque).astype(np.uint8), alpha], axis=2),
        "planar": np.ascontiguousarray(np.moveaxis(rgb, -1, 0)),
        "bits": rgb[..., 0] > 128,
    }[written]
    if options.get("compression") == "webp":
        options = {**options, "compressionargs": {"lossless": True}}
    with_alpha = rgb * opaque + 255 * (1 - opaque)
    wanted = {"straight": with_alpha, "premultiplied": with_alpha, "planar": rgb}.get(
        expected if isinstance(expected, str) else ""
    )
    if wanted is None:
        wanted = expected(samples)
        if wanted.ndim == 2:
            wanted = np.repeat(wanted[..., None], 3, axis=2)
    path = files.write_tiff(tmp_path / "a.tif", [samples], **options)
    with open_slide(path) as slide:
        assert np.abs(whole(slide).astype(np.float64) - wanted).max() <= 1.01
    assert np.abs(read_image(path).astype(np.float64) - wanted).max() <= 1.01


def test_plain_images_are_slides_of_one_level(tmp_path):
    image = files.picture(700, 600)
    write_png(tmp_path / "a.png", image)
    (tmp_path / "a.jpg").write_bytes(files.jpeg(image))
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
    for name, tolerance in (("a.png", 0.0), ("a.jpg", 2.5), ("a.tif", 0.0)):
        with open_slide(tmp_path / name, mpp_override=0.5) as slide:
            assert slide.properties["door"] == "image"
            (level,) = slide.levels
            assert (level.width, level.height, level.tile_width) == (600, 700, 512)
            assert difference(whole(slide), image) <= tolerance
            with pytest.raises(TileError, match="no tile"):
                slide.read_tile(0, 2, 0, np.empty((512, 512, 3), np.uint8))


def test_a_tile_smaller_than_the_grid_at_the_edge(tmp_path):
    image = files.picture(64, 100)
    tiles = [files.jpeg(image[:, :64]), files.jpeg(image[:, 64:])]
    path = files.write_encoded(
        tmp_path / "a.tif", tiles, shape=(64, 100, 3), tile_px=64, compression="jpeg",
        photometric="ycbcr",
    )  # fmt: skip
    with open_slide(path, mpp_override=0.5) as slide:
        assert difference(whole(slide), image) < 2.5


def test_absent_tiles_show_the_finer_level_and_white_at_level_0(pyramid, tmp_path):
    path = files.write_tiff(tmp_path / "a.svs", pyramid, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        for page, index in ((0, 0), (1, 0), (1, 1)):
            sizes = tiff.pages[page].tags[325]
            step = {3: 2, 4: 4}[int(sizes.dtype)]
            files.overwrite(path, sizes.valueoffset + step * index, bytes(step))
    with open_slide(path) as slide:
        base, reduced = whole(slide), whole(slide, 1)
    assert (base[:64, :64] == 255).all()
    np.testing.assert_array_equal(base[64:], pyramid[0][64:])
    assert (reduced[:32, :32] == 255).all()
    np.testing.assert_array_equal(reduced[64:], pyramid[1][64:])
    np.testing.assert_array_equal(reduced[32:64, 32:128], pyramid[0][65:128:2, 65:256:2])


def test_threads_read_what_one_reads(pyramid, tmp_path):
    path = files.write_tiff(tmp_path / "a.tif", pyramid, compression="jpeg")
    for door in ("tifffile", "openslide"):
        with open_slide(path, door=door) as slide:
            info = slide.levels[0]
            grid = [(c, r) for r in range(info.rows) for c in range(info.columns)] * 4

            def read(at, slide=slide, info=info):
                out = np.zeros((info.tile_height, info.tile_width, 3), np.uint8)
                slide.read_tile(0, *at, out)
                return out

            with ThreadPoolExecutor(4) as pool:
                for at, tile in zip(grid, pool.map(read, grid), strict=True):
                    np.testing.assert_array_equal(tile, read(at))


def test_decoding_allocates_no_picture(tmp_path):
    image = files.picture(512, 512)
    path = files.write_tiff(tmp_path / "a.tif", [image], tile_px=256, compression="jpeg")
    out = np.empty((256, 256, 3), np.uint8)
    with open_slide(path) as slide:
        slide.read_tile(0, 0, 0, out)
        tracemalloc.start()
        slide.read_tile(0, 1, 1, out)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    compressed = files.tile_extent(path, 3)[1]
    assert peak < compressed + 16_000 < out.nbytes


def test_out_is_checked(pyramid, tmp_path):
    path = files.write_tiff(tmp_path / "a.tif", pyramid)
    with open_slide(path) as slide:
        with pytest.raises(
            ValueError, match=r"out must be C-contiguous uint8 of shape \(64, 64, 3"
        ):
            slide.read_tile(0, 0, 0, np.empty((64, 65, 3), np.uint8))
        with pytest.raises(TypeError, match="got float32"):
            slide.read_tile(0, 0, 0, np.empty((64, 64, 3), np.float32))
        with pytest.raises(TileError, match=r"column 7, row 0\) of level 0.*no such tile"):
            slide.read_tile(0, 7, 0, np.empty((64, 64, 3), np.uint8))
    slide.close()
    with pytest.raises(ValueError, match="is closed"):
        slide.read_tile(0, 0, 0, np.empty((64, 64, 3), np.uint8))


# --- Levels and scale -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "level", "expected"),
    [
        ((46000, 32914), (11500, 8228), 4.0),
        ((46000, 32914), (2875, 2057), 16.0),
        ((1001, 603), (501, 301), 2.0),  # rounded up and down
        ((1000, 600), (333, 200), 3.0),
        ((60000, 45000), (58, 43), 1024.0),
        ((1000, 600), (512, 512), 2.0),  # padded to whole tiles
        ((1000, 600), (400, 240), 2.5),
        ((1000, 600), (600, 600), None),
        ((1000, 600), (300, 240), None),
        ((1000, 1000), (399, 400), pytest.approx(2.503132832)),  # off by a pixel
        ((4000, 4000), (1000, 994), None),  # cut: the far corner would be off by 12 px
        ((46000, 32914), (11500, 8200), None),
    ],
)
def test_downsample(base, level, expected):
    assert pyramid_downsample(base, level, (256, 256)) == expected


def test_pictures_that_are_no_levels_are_skipped(tmp_path):
    image = files.picture(400, 600)
    path = tmp_path / "a.svs"
    with tifffile.TiffWriter(path) as tiff:
        common: dict[str, Any] = {"photometric": "rgb", "metadata": None, "compression": "zlib"}
        tiff.write(image, tile=(128, 128), description=files.APERIO, **common)
        tiff.write(files.half(image), description="Aperio thumbnail", **common)  # no tiles
        tiff.write(files.half(image), tile=(128, 128), **common)
        tiff.write(files.picture(200, 200), tile=(128, 128), **common)  # another aspect
        tiff.write(files.half(image)[..., 0], tile=(128, 128), **{**common, "photometric": 1})
        tiff.write(files.half(image, 2), tile=(128, 128), **common)
        tiff.write(files.picture(90, 60), description="label", subfiletype=1, **common)
    with open_slide(path) as slide:
        assert [(v.width, v.height, v.downsample) for v in slide.levels] == [
            (600, 400, 1.0),
            (300, 200, 2.0),
            (150, 100, 4.0),
        ]
        assert slide.properties["vendor"] == "aperio"
        assert slide.properties["objective_power"] == "20"
        assert slide.mpp == 0.499


def test_padding_to_whole_tiles_is_cut_off(tmp_path):
    image = files.picture(300, 420)
    padded = np.pad(files.half(image), ((0, 106), (0, 46), (0, 0)))  # 256 x 256
    path = files.write_tiff(tmp_path / "a.tif", [image, padded], tile_px=128)
    with open_slide(path) as slide:
        assert (slide.levels[1].width, slide.levels[1].height) == (210, 150)
        np.testing.assert_array_equal(whole(slide, 1), files.half(image))


def test_ome_tiff(pyramid, tmp_path):
    path = tmp_path / "a.ome.tif"
    sizes = {"PhysicalSizeX": 252, "PhysicalSizeXUnit": "nm"}
    sizes |= {"PhysicalSizeY": 0.2521, "PhysicalSizeYUnit": "µm"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        options: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"}
        tiff.write(pyramid[0], subifds=2, metadata={"axes": "YXS", **sizes}, **options)
        tiff.write(pyramid[1], subfiletype=1, **options)
        tiff.write(pyramid[2], subfiletype=1, **options)
        tiff.write(files.half(pyramid[0])[::-1].copy(), metadata={"axes": "YXS"}, **options)
    with open_slide(path) as slide:
        assert slide.properties["vendor"] == "ome"
        assert slide.name == "a.ome"
        assert slide.mpp == pytest.approx(0.25205)
        assert [level.downsample for level in slide.levels] == [1.0, 2.0, 4.0]
        for i, written in enumerate(pyramid):
            np.testing.assert_array_equal(whole(slide, i), written)


@pytest.mark.parametrize(
    ("mpp", "given", "expected"),
    [
        (0.25, None, 0.25),
        ((0.25, 0.251), None, 0.2505),
        (0.25, 0.5, 0.5),
        (0.005, 0.5, 0.5),
        (None, 0.5, 0.5),
        (None, None, "does not say its mpp"),
        (0.00499, None, r"within 0.05..20 um per pixel, .* says 0.00499 \(TIFF resolution tags\)"),
        (353.0, None, "says 353 "),
        ((0.25, 0.26), None, "the same along x and y to within 1 %, .* says 0.25 and 0.26"),
    ],
)
def test_mpp(mpp, given, expected, tmp_path):
    path = files.write_tiff(tmp_path / "a.tif", [files.picture(64, 64)], mpp=mpp)
    if not isinstance(expected, str):
        with open_slide(path, mpp_override=given) as slide:
            assert slide.mpp == pytest.approx(expected)
        return
    with pytest.raises(SlideError, match=expected) as caught:
        open_slide(path, mpp_override=given)
    assert "mpp_override" in str(caught.value)
    assert "mpp column" in str(caught.value)
    with pytest.raises(SlideError, match="mpp_override"):
        open_slide(path, mpp_override=given, door="openslide")


@pytest.mark.parametrize(
    ("unit", "resolution", "expected"),
    [("INCH", (50800, 50800), 0.5), ("CENTIMETER", (20000, 20000), 0.5), ("NONE", (2, 2), None)],
)
def test_mpp_units(unit, resolution, expected, tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        files.picture(64, 64),
        tile=(64, 64),
        photometric="rgb",
        resolution=resolution,
        resolutionunit=unit,
        metadata=None,
    )
    if expected is None:
        with pytest.raises(SlideError, match="does not say its mpp"):
            open_slide(path)
    else:
        with open_slide(path) as slide:
            assert slide.mpp == pytest.approx(expected)


def test_mpp_of_real_slides(data):
    with open_slide(data / "slides" / "CMU-1-Small-Region.svs") as slide:
        assert slide.mpp == 0.499
    with pytest.raises(SlideError, match=r"0\.00499"):
        open_slide(data / "slides" / "CMU-1-Small-Region.jpeg.tiff")


@pytest.mark.parametrize("mpp", [0, -1, 0.04, 20.1, float("nan")])
def test_a_wrong_override_is_refused(mpp, tmp_path):
    path = files.write_tiff(tmp_path / "a.tif", [files.picture(64, 64)])
    with pytest.raises(
        ValueError, match=f"mpp_override must be within 0.05..20 um per pixel, got {mpp}"
    ):
        open_slide(path, mpp_override=mpp)


# --- Bad input ------------------------------------------------------------------------------------


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def tiff(path: Path, samples: NDArray[Any], **options: Any) -> Path:
    return files.write_tiff(path, [samples], **options)


GREY = {"photometric": "minisblack"}
REFUSED = {
    "no such slide": lambda d: d / "none.svs",
    "must be a file, got a folder": lambda d: d,
    "is empty": lambda d: write(d / "a.svs", b""),
    "in no slide format that histofast reads$": lambda d: write(d / "a.svs", b"slide, case\n" * 9),
    "no slide format that": lambda d: write(d / "a.mrxs", b"\xff\xd8\xff\xe0" + bytes(40)),
    "is not a readable TIFF file": lambda d: write(d / "a.svs", b"II*\0" + bytes(30)),
    "directories form a loop": lambda d: write(
        d / "a.tif", b"II*\0\x08\0\0\0" + b"\x01\0" + b"\0\x01\3\0\1\0\0\0\1\0\0\0" + b"\x08\0\0\0"
    ),
    "got PALETTE": lambda d: tiff(
        d / "a.tif",
        np.zeros((64, 64), np.uint8),
        photometric="palette",
        colormap=np.zeros((3, 256), np.uint16),
    ),
    "got SEPARATED": lambda d: tiff(
        d / "a.tif", np.zeros((64, 64, 4), np.uint8), photometric="separated"
    ),
    "got 32-bit float32": lambda d: tiff(d / "a.tif", np.zeros((64, 64), np.float32), **GREY),
    "got 16-bit int16": lambda d: tiff(d / "a.tif", np.zeros((64, 64), np.int16), **GREY),
    "got 3 samples per pixel": lambda d: tiff(
        d / "a.tif", np.zeros((64, 64, 3), np.uint8), planarconfig="contig", **GREY
    ),
    "got YCbCr compressed with": lambda d: tiff(
        d / "a.tif",
        np.zeros((64, 64, 3), np.uint8),
        photometric="ycbcr",
        compression="zlib",
        subsampling=(1, 1),
    ),
    "got 3 grey pages": lambda d: tiff(d / "a.tif", np.zeros((3, 64, 64), np.uint8), **GREY),
    "compression is .*JETRAW|cannot be": lambda d: files.write_encoded(
        d / "a.tif", [b"0123456789"], shape=(64, 64, 3), tile_px=64, compression=34892
    ),
    "cannot be decoded: .*input": lambda d: write(
        d / "a.png", bytes(imagecodecs.png_encode(files.picture(90, 90)))[:4000]
    ),
    "the JPEG data end early": lambda d: write(
        d / "a.jpg", files.jpeg(files.picture(90, 90), level=90)[:1500]
    ),
    "got CMYK: save it as RGB": lambda d: write(d / "a.jpg", cmyk_jpeg()),
    "at most 300 million pixels, .* has 60000 x 60000": lambda d: write(
        d / "a.png",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60000).to_bytes(4, "big") * 2 + bytes(20),
    ),
}


def cmyk_jpeg() -> bytes:
    samples = np.zeros((32, 32, 4), np.uint8)
    return bytes(imagecodecs.jpeg8_encode(samples, colorspace="CMYK", outcolorspace="CMYK"))


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_refused_in_one_line(message, tmp_path):
    path = REFUSED[message](tmp_path)
    wanted = FileNotFoundError if message == "no such slide" else SlideError
    with pytest.raises(wanted, match=message) as caught:
        open_slide(path, mpp_override=0.5)
    assert type(caught.value) is wanted
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("percent", [1, 30, 60, 99])
def test_truncated_slides_are_refused(percent, bigtiff, pyramid, tmp_path):
    path = files.write_tiff(tmp_path / "a.svs", pyramid, compression="jpeg", bigtiff=bigtiff)
    write(path, path.read_bytes()[: path.stat().st_size * percent // 100])
    with pytest.raises(SlideError, match="is truncated"):
        open_slide(path)


@pytest.mark.parametrize("percent", [30, 60, 99])
def test_a_truncated_real_slide_is_refused(percent, data, tmp_path):
    content = (data / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    path = write(tmp_path / "a.svs", content[: len(content) * percent // 100])
    with pytest.raises(SlideError, match="is truncated: a directory should be at byte"):
        open_slide(path)


def test_broken_files_print_nothing(pyramid, tmp_path):
    whole_file = files.write_tiff(tmp_path / "whole.svs", pyramid, compression="jpeg").read_bytes()
    rng = np.random.default_rng(0)
    for i in range(60):
        content = bytearray(whole_file[: int(rng.integers(16, len(whole_file)))])
        for at in rng.integers(4, min(len(content), 1500), 12):
            content[at] = rng.integers(256)
        write(tmp_path / f"{i}.svs", bytes(content))
    script = (
        "import sys; from pathlib import Path; from histofast.errors import SlideError\n"
        "from histofast.slides import open_slide\n"
        "for path in Path(sys.argv[1]).glob('*.svs'):\n"
        "    try: open_slide(path, mpp_override=0.5).close()\n"
        "    except SlideError: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not logging.getLogger("tifffile").disabled


def test_forced_doors(tmp_path):
    tiled = files.write_tiff(tmp_path / "a.tif", [files.picture(100, 100)])
    striped = tmp_path / "b.tif"
    tifffile.imwrite(striped, files.picture(100, 100), photometric="rgb")
    png = tmp_path / "c.png"
    write_png(png, files.picture(10, 10))
    with open_slide(tiled, door="image") as slide:
        assert slide.properties["door"] == "image"
    with pytest.raises(SlideError, match="cannot be read tile by tile: it has no tiles"):
        open_slide(striped, mpp_override=1, door="tifffile")
    with pytest.raises(SlideError, match="is not a TIFF file"):
        open_slide(png, mpp_override=1, door="tifffile")
    with pytest.raises(SlideError, match="no slide format that histofast reads"):
        open_slide(png, mpp_override=1, door="openslide")
    with pytest.raises(ValueError, match="door must be tifffile, openslide or image, got 'x'"):
        open_slide(png, mpp_override=1, door="x")  # type: ignore[arg-type]


# --- Corrupt tiles --------------------------------------------------------------------------------


def read_all(path: Path) -> list[tuple[int, int]]:
    """The tiles of level 0 that cannot be read."""
    failed = []
    with open_slide(path) as slide:
        info = slide.levels[0]
        out = np.empty((info.tile_height, info.tile_width, 3), np.uint8)
        for r in range(info.rows):
            for c in range(info.columns):
                try:
                    slide.read_tile(0, c, r, out)
                except TileError as error:
                    assert f"tile (column {c}, row {r}) of level 0 cannot be" in str(error)  # noqa: PT017
                    failed.append((c, r))
    return failed


@pytest.fixture
def jpeg_slide(tmp_path):
    return files.write_tiff(
        tmp_path / "a.tif", [files.picture(512, 768)], tile_px=256, compression="jpeg"
    )


def test_intact_tiles_pass(jpeg_slide, data):
    assert read_all(jpeg_slide) == []
    assert read_all(data / "slides" / "CMU-1-Small-Region.svs") == []


@pytest.mark.parametrize("damage", ["zeros", "ff", "half", "head"])
def test_a_damaged_jpeg_tile_is_noticed(damage, jpeg_slide):
    offset, count = files.tile_extent(jpeg_slide, 4)
    at, content = {
        "zeros": (offset + count // 2, bytes(200)),
        "ff": (offset + count // 2, b"\xff" * 200),
        "half": (offset + count // 2, bytes(count - count // 2)),
        "head": (offset, bytes(20)),
    }[damage]
    files.overwrite(jpeg_slide, at, content)
    assert read_all(jpeg_slide) == [(1, 1)]


def test_random_damage_is_mostly_noticed(jpeg_slide, rng):
    offset, count = files.tile_extent(jpeg_slide, 4)
    intact = jpeg_slide.read_bytes()
    noticed = 0
    for _ in range(20):
        content = bytearray(intact)
        at = offset + int(rng.integers(700, count - 300))
        content[at : at + 200] = rng.bytes(200)
        jpeg_slide.write_bytes(content)
        failed = read_all(jpeg_slide)
        assert failed in ([], [(1, 1)])
        noticed += len(failed)
    assert noticed >= 8  # the rest decodes as a legal picture


@pytest.mark.parametrize("codec", ["zlib", "lzw", "zstd", "webp", "jpeg2000"])
def test_other_codecs_notice_a_cut_tile(codec, tmp_path):
    path = files.write_tiff(
        tmp_path / "a.tif", [files.picture(128, 192)], tile_px=64, compression=codec
    )
    count = files.tile_extent(path, 4)[1]
    with tifffile.TiffFile(path) as tiff_file:
        sizes = tiff_file.pages[0].tags[325]
        step = {3: 2, 4: 4}[int(sizes.dtype)]
    files.overwrite(path, sizes.valueoffset + step * 4, (count // 2).to_bytes(step, "little"))
    assert read_all(path) == [(1, 1)]


def test_a_file_that_shrinks_after_opening(jpeg_slide):
    with open_slide(jpeg_slide) as slide:
        offset, count = files.tile_extent(jpeg_slide, 5)
        os.truncate(jpeg_slide, offset + count // 2)
        with pytest.raises(TileError, match="lie past the end of the file"):
            slide.read_tile(0, 2, 1, np.empty((256, 256, 3), np.uint8))


def test_a_lack_of_memory_is_no_damage(tmp_path, monkeypatch):
    path = files.write_tiff(tmp_path / "a.tif", [files.picture(64, 64)], compression="png")

    def decode(*arguments, **options):
        raise MemoryError

    out = np.empty((64, 64, 3), np.uint8)
    with open_slide(path) as slide:
        monkeypatch.setattr(slide._tables[0].__class__, "decode", decode)
        with pytest.raises(MemoryError):
            slide.read_tile(0, 0, 0, out)


def test_flat_pictures_are_not_taken_for_damage():
    def decode(data):
        return imagecodecs.jpeg8_decode(data)

    for value in (0, 127, 128, 129, 255):
        for options in ({}, {"optimize": True}, {"subsampling": "444"}):
            stream = files.jpeg(np.full((256, 256, 3), value, np.uint8), **options)
            assert find_damage(stream, b"", decode(stream), decode) is None


# --- OpenSlide ------------------------------------------------------------------------------------


@pytest.fixture
def fake_openslide(monkeypatch, tmp_path):
    monkeypatch.setattr("histofast.slides.openslide.openslide.OpenSlide", FakeOpenSlide)
    monkeypatch.setattr(FakeOpenSlide, "opened", 0)
    monkeypatch.setattr(FakeOpenSlide, "broken_at", None)
    path = write(tmp_path / "a.mrxs", b"index")
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "Data0000.dat", b"1234")
    return path


def test_openslide_keeps_its_own_coordinates(fake_openslide):
    with OpenSlideSlide(fake_openslide) as slide:
        assert slide.bounds_l0 == (2000, 1000, 1500, 800)
        assert (slide.levels[0].width, slide.levels[0].height) == (5000, 4000)
        assert slide.properties["objective_power"] == "40"
        for level, factor in enumerate((1, 2, 4)):
            region = slide.read_region((2200, 1100), level, (50, 40))
            assert region[0, 0].tolist() == [2200 % 256, 1100 % 256, 7]
            assert region[30, 20].tolist() == [
                (2200 + 20 * factor) % 256,
                (1100 + 30 * factor) % 256,
                7,
            ]


def test_openslide_background_shows_through(fake_openslide):
    background = np.array([10, 20, 30])
    with OpenSlideSlide(fake_openslide) as slide:
        out = np.empty((1024, 1024, 3), np.uint8)
        slide.read_tile(0, 0, 0, out)  # beyond the bounds
        assert (out == background).all()
        pixel = slide.read_region((2050, 1100), 0, (1, 1))[0, 0]
        colour = np.array([2050 % 256, 1100 % 256, 7])
        assert np.abs(pixel - (colour * 128 + background * 127) / 255).max() <= 1
        FakeOpenSlide.broken_at = (0, 0)
        slide.read_tile(0, 0, 0, out)  # still not read


def test_openslide_survives_a_broken_tile(fake_openslide):
    FakeOpenSlide.broken_at = (2048, 1024)
    out = np.empty((1024, 1024, 3), np.uint8)
    with OpenSlideSlide(fake_openslide) as slide:
        with pytest.raises(
            TileError, match=r"column 2, row 1\) of level 0 .*: Cannot read raw tile$"
        ):
            slide.read_tile(0, 2, 1, out)
        slide.read_tile(0, 3, 1, out)
        assert out[0, 0].tolist() == [3072 % 256, 1024 % 256, 7]


def test_a_broken_region_of_a_real_slide_leaves_the_others(tmp_path):
    image = np.tile(files.picture(512, 512), (4, 4, 1))
    path = files.write_tiff(tmp_path / "a.tif", [image], tile_px=256, compression="jpeg")
    offset, _ = files.tile_extent(path, 0)
    files.overwrite(path, offset, bytes(20))
    out = np.empty((1024, 1024, 3), np.uint8)
    with open_slide(path, door="openslide") as slide:

        def read(at):
            try:
                slide.read_tile(0, *at, np.empty_like(out))
            except TileError:
                return "unreadable"
            return "read"

        grid = [(0, 0), (1, 0), (0, 1), (1, 1)] * 3
        with ThreadPoolExecutor(4) as pool:
            said = list(pool.map(read, grid))
        assert said == ["unreadable", "read", "read", "read"] * 3
        slide.read_tile(0, 1, 1, out)
        assert difference(out, image[1024:, 1024:]) < 4
        survey = slide.survey(mpp=4)
        assert survey.unreadable_l0.tolist() == [[0, 0, 1024, 1024]]


@pytest.mark.parametrize(
    ("what", "value", "said"),
    [
        ("level_dimensions", ((0, 4000),), "must have 1 to 1,000,000,000,000 pixels, got 0 x 4000"),
        ("level_dimensions", ((2**40, 2**40),), "must have 1 to 1,000,000,000,000 pixels, got"),
        ("level_dimensions", openslide.OpenSlideError("in a\nbad state"), "opened: in a bad state"),
        (
            "level_downsamples",
            openslide.OpenSlideError("in a\nbad state"),
            "opened: in a bad state",
        ),
        ("level_dimensions", (), "IndexError"),
    ],
    ids=["no width", "huge", "error state", "error state later", "no levels"],
)
def test_openslide_says_what_it_cannot_open(fake_openslide, monkeypatch, what, value, said):
    closed = []

    class Odd(FakeOpenSlide):
        def __init__(self, path):
            super().__init__(path)
            del self.__dict__[what]

        def __getattr__(self, name):
            if isinstance(value, Exception):
                raise value
            return value

        @staticmethod
        def detect_format(path):
            return "mirax"

        def close(self):
            closed.append(True)

    monkeypatch.setattr("histofast.slides.openslide.openslide.OpenSlide", Odd)
    with pytest.raises(SlideError, match=said) as caught:
        open_slide(fake_openslide)
    assert "\n" not in str(caught.value)
    assert closed


def test_bounds_that_show_nothing_are_not_believed(fake_openslide, monkeypatch):
    class Odd(FakeOpenSlide):
        def __init__(self, path):
            super().__init__(path)
            self.properties["openslide.bounds-width"] = "0"

    monkeypatch.setattr("histofast.slides.openslide.openslide.OpenSlide", Odd)
    with OpenSlideSlide(fake_openslide) as slide:
        assert slide.bounds_l0 == (0, 0, 5000, 4000)


def test_openslide_counts_the_companions_of_mrxs(fake_openslide):
    before = OpenSlideSlide(fake_openslide).identity
    assert ";companions:" in before
    write(fake_openslide.parent / "a" / "Data0001.dat", b"1")
    assert OpenSlideSlide(fake_openslide).identity != before


@pytest.mark.parametrize("name", ["1.dcm", "slide.vms"])
def test_openslide_counts_the_other_files(fake_openslide, name):
    folder = fake_openslide.parent
    content = b"[Virtual Microscope]\r\nImageFile=2.dcm\r\n" if "vms" in name else dicom("1.2")
    write(folder / name, content)
    write(folder / "2.dcm", dicom("1.2"))
    write(folder / "3.dcm", dicom("9.9"))  # another slide's
    before = OpenSlideSlide(folder / name).identity
    assert ";companions:" in before
    write(folder / "3.dcm", dicom("9.9") + b"more")
    assert OpenSlideSlide(folder / name).identity == before
    write(folder / "2.dcm", dicom("1.2") + b"more")
    assert OpenSlideSlide(folder / name).identity != before


def test_openslide_refuses_missing_mpp_and_closes(fake_openslide, monkeypatch):
    monkeypatch.setattr("histofast.slides.openslide._mpp", lambda properties: None)
    with pytest.raises(SlideError, match="does not say its mpp"):
        OpenSlideSlide(fake_openslide)


@pytest.mark.parametrize(
    ("software", "description"),
    [
        ("Philips DP v1.0", "<DataObject></DataObject>"),
        ("MedScan", "Background Color=FFFFFF;"),
    ],
    ids=["philips", "trestle"],
)
def test_vendors_left_to_openslide(software, description, tmp_path):
    path = files.write_tiff(
        tmp_path / "a.tif",
        [files.picture(64, 64)],
        software=software,
        description=description,
        compression="jpeg",
    )
    with pytest.raises(SlideError, match="tile by tile: its pyramid needs OpenSlide"):
        open_slide(path, mpp_override=0.5, door="tifffile")
    with open_slide(path, mpp_override=0.5) as slide:
        assert slide.properties["door"] == "openslide"


# --- Identity, images, lists ----------------------------------------------------------------------


def test_identity(tmp_path):
    content = np.random.default_rng(0).bytes(4 << 20)
    png = tmp_path / "small.png"
    write_png(png, files.picture(40, 40))
    before = open_slide(png, mpp_override=1).identity
    assert re.fullmatch(rf"size:{png.stat().st_size};sha256:[0-9a-f]{{64}}", before)
    big = files.write_tiff(
        tmp_path / "big.tif", [np.frombuffer(content[: 1200 * 1100 * 3], np.uint8).reshape(1200, 1100, 3)]
    )  # fmt: skip
    with open_slide(big) as slide:
        identity = slide.identity
    with open_slide(big) as slide:
        assert slide.identity == identity
    files.overwrite(big, big.stat().st_size // 2, b"\x01\x02\x03\x04")
    with open_slide(big) as slide:
        assert slide.identity != identity


def test_images_and_masks_round_trip(tmp_path):
    image = files.picture(70, 50)
    write_png(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)
    mask = (image[..., 0] > 128).astype(np.uint8)
    for i, stored in enumerate((mask, mask * 255, np.repeat(mask[..., None] * 9, 3, axis=2))):
        write_png(tmp_path / f"{i}.png", np.ascontiguousarray(stored))
        np.testing.assert_array_equal(read_mask(tmp_path / f"{i}.png"), mask)
    tifffile.imwrite(tmp_path / "m.tif", mask.astype(bool), photometric="minisblack")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif"), mask)
    transparent = np.dstack([image | 1, mask * 255])
    (tmp_path / "t.png").write_bytes(imagecodecs.png_encode(transparent))
    np.testing.assert_array_equal(read_mask(tmp_path / "t.png"), mask)
    shown = read_image(tmp_path / "t.png")
    np.testing.assert_array_equal(shown, np.where(mask[..., None], image | 1, 255))
    sixteen = image[..., 0].astype(np.uint16) << 8
    (tmp_path / "s.png").write_bytes(imagecodecs.png_encode(sixteen))
    np.testing.assert_array_equal(
        read_image(tmp_path / "s.png"), np.repeat(image[..., :1], 3, axis=2)
    )


def palette_png(image):
    file = io.BytesIO()
    Image.fromarray(image).convert("P").save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("suffix", "content", "told"),
    [
        ("png", lambda image: imagecodecs.png_encode(image), ("PNG", "RGB", 8)),
        ("png", lambda image: imagecodecs.png_encode(image[..., 0].copy()), ("PNG", "grey", 8)),
        (
            "png",
            lambda image: imagecodecs.png_encode(np.dstack([image, image[..., :1]])),
            ("PNG", "RGB with transparency", 8),
        ),
        (
            "png",
            lambda image: imagecodecs.png_encode(image.astype(np.uint16)),
            ("PNG", "RGB", 16),
        ),
        ("png", lambda image: palette_png(image), ("PNG", "palette", 8)),
        ("jpg", lambda image: imagecodecs.jpeg8_encode(image, level=90), ("JPEG", "RGB", 8)),
    ],
)
def test_the_form_of_a_picture_is_told(tmp_path, suffix, content, told):
    path = write(tmp_path / f"a.{suffix}", content(files.picture(20, 30)))
    image, form = read_image_and_form(path)
    assert (form.format, form.mode, form.bits) == told
    np.testing.assert_array_equal(image, read_image(path))
    assert image.shape == (20, 30, 3)


def test_the_form_of_a_tiff_is_told(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", files.picture(20, 30)[..., 0] > 99)
    form = read_image_and_form(tmp_path / "a.tif")[1]
    assert (form.format, form.mode, form.bits) == ("TIFF", "grey", 1)


def test_images_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such image"):
        read_image(tmp_path / "none.png")
    with pytest.raises(
        SlideError, match="must be a PNG, JPEG or TIFF image, it starts with b'text"
    ):
        read_mask(write(tmp_path / "a.png", b"text, no image"))
    with pytest.raises(SlideError, match="TIFF image, it is empty: copy or export it again"):
        read_image(write(tmp_path / "a.png", b""))
    with pytest.raises(TypeError, match=r"image must be .*got float64"):
        write_png(tmp_path / "b.png", np.zeros((4, 4)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="image must be"):
        write_png(tmp_path / "b.png", np.zeros((4, 4, 4), np.uint8))


def dicom(series: str) -> bytes:
    uid = series.encode() + b"\0" * (len(series) % 2)
    element = b"\x20\x00\x0e\x00UI" + len(uid).to_bytes(2, "little") + uid
    return bytes(128) + b"DICM" + bytes(60) + element + bytes(99)


def test_files_in_folders_are_not_looked_at_one_by_one(tmp_path, monkeypatch):
    for name in ("a.svs", "notes.txt", "deep/b.svs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, b"x")
    looked_at = set()
    stat = Path.stat

    def look(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if follow_symlinks:
            looked_at.add(path.name)
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", look)
    found = find_slides([tmp_path], recursive=True)
    assert [slide.path.name for slide in found] == ["a.svs", "b.svs"]
    assert "deep" in looked_at
    assert not looked_at & {"a.svs", "b.svs", "notes.txt"}


def test_find_slides(tmp_path):
    for name in ("b.svs", "a.TIFF", "c.txt", ".hidden.svs", "deep/d.ndpi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, b"x")
    for name, series in (("1.dcm", "1.2.3"), ("2.dcm", "1.2.3"), ("3.dcm", "1.2.34")):
        write(tmp_path / name, dicom(series))

    def names(*paths: Any, **options: Any) -> list[str]:
        return [slide.path.name for slide in find_slides(paths, **options)]

    assert names(tmp_path) == ["1.dcm", "3.dcm", "a.TIFF", "b.svs"]
    assert names(tmp_path, recursive=True) == ["1.dcm", "3.dcm", "a.TIFF", "b.svs", "d.ndpi"]
    assert names(tmp_path / "c.txt", tmp_path / "b.svs", tmp_path) == [
        "1.dcm", "3.dcm", "a.TIFF", "b.svs", "c.txt",
    ]  # fmt: skip
    assert names(f"{tmp_path}/*.s*", str(tmp_path / "**" / "*.ndpi")) == ["b.svs", "d.ndpi"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SlideError, match=r"no slide in .*empty: looked for .*\.svs.*subfolders"):
        find_slides([tmp_path / "empty"])
    with pytest.raises(SlideError, match=r"no slide in .*txt"):
        find_slides([f"{tmp_path}/*.txt"])
    for missing in ("none.svs", "*.none"):
        with pytest.raises(FileNotFoundError, match="no such slide"):
            find_slides([tmp_path / missing])
    assert all(suffix == suffix.lower() for suffix in SLIDE_SUFFIXES)
