"""The writer of pyramids, and the synthetic slides it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile

from histofast.errors import WriteError
from histofast.patches import make_demo_slides, make_labelled_slides, make_slide
from histofast.slides import (
    encode_tile,
    level_sizes,
    open_slide,
    write_array_pyramid,
    write_averaged_pyramid,
    write_pyramid,
)


def picture(height: int, width: int) -> np.ndarray:
    """Smooth in both directions, so that a lossy codec keeps it."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 137 + y / 161), np.cos(x / 153 - y / 129), np.sin((x + y) / 171)]
    return np.stack([127 + 110 * wave for wave in waves], axis=-1).astype(np.uint8)


def levels_of(path: Path) -> list[np.ndarray]:
    with tifffile.TiffFile(path) as tiff:
        return [level.asarray() for level in tiff.series[0].levels]


def means(image: np.ndarray, factor: int) -> np.ndarray:
    """Means of blocks, the incomplete ones at the right and bottom left out."""
    h, w = (n // factor for n in image.shape[:2])
    blocks = image[: h * factor, : w * factor].reshape(h, factor, w, factor, 3)
    return blocks.mean((1, 3))


def dense(image: np.ndarray) -> np.ndarray:
    """Where something absorbs light: neither glass nor the gaps in tissue."""
    return image.min(axis=-1) < 225


class TestPyramid:
    @pytest.mark.parametrize("codec", ["jpeg", "jpeg2000", "webp", "deflate", "lzw", "none"])
    @pytest.mark.parametrize(("place", "factor"), [("pages", 4), ("subifds", 2)])
    def test_all_levels_come_back(
        self, tmp_path: Path, codec: Any, place: Any, factor: int
    ) -> None:
        image = picture(333, 401)
        path = tmp_path / "a.tif"
        write_array_pyramid(
            path,
            image,
            mpp=0.5,
            tile_px=64,
            levels=3,
            factor=factor,
            codec=codec,
            quality=95,
            place=place,
        )
        levels = levels_of(path)
        sizes = [(level.shape[1], level.shape[0]) for level in levels]
        assert sizes == level_sizes(401, 333, levels=3, factor=factor)
        tolerance = 2.5 if codec in ("jpeg", "webp") else 0.51
        for k, level in enumerate(levels):
            expected = means(image.astype(np.float64), factor**k)
            h, w, _ = expected.shape
            assert np.abs(level[:h, :w] - expected).mean() < tolerance
        assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]

    @pytest.mark.parametrize("codec", ["jpeg", "deflate"])
    def test_openslide_reads_it(self, tmp_path: Path, codec: Any) -> None:
        image = picture(700, 900)
        write_array_pyramid(
            tmp_path / "a.tif", image, mpp=0.2468, levels=3, factor=2, codec=codec, quality=95
        )
        with openslide.OpenSlide(tmp_path / "a.tif") as slide:
            assert slide.properties["openslide.vendor"] == "generic-tiff"
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.2468, rel=1e-5)
            assert slide.level_downsamples == pytest.approx((1, 2, 4), rel=0.01)
            region = np.asarray(slide.read_region((100, 50), 0, (640, 600)))[..., :3]
        assert np.abs(region.astype(int) - image[50:650, 100:740]).mean() < 2

    def test_our_reader_reads_it(self, tmp_path: Path) -> None:
        write_array_pyramid(tmp_path / "a.tif", picture(600, 800), mpp=0.25, levels=2)
        with open_slide(tmp_path / "a.tif") as slide:
            assert slide.mpp == pytest.approx(0.25, rel=1e-6)
            assert [level.downsample for level in slide.levels] == [1, 4]

    def test_encoded_tiles_are_written_as_they_are(self, tmp_path: Path) -> None:
        tile = encode_tile(picture(64, 64), quality=70)
        asked = []

        def source(level: int, column: int, row: int) -> bytes:
            asked.append((level, column, row))
            return tile

        write_pyramid(
            tmp_path / "a.tif", source, width=130, height=70, mpp=None, tile_px=64, levels=2
        )
        assert asked == [(0, c, r) for r in range(2) for c in range(3)] + [(1, 0, 0)]
        assert (tmp_path / "a.tif").read_bytes().count(tile) == 7
        with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
            assert "XResolution" not in tiff.pages[0].tags or tiff.pages[0].resolutionunit == 1

    def test_threads_change_nothing(self, tmp_path: Path) -> None:
        image = picture(512, 768)

        def source(column: int, row: int) -> tuple[np.ndarray, None]:
            tile = image[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64]
            return np.ascontiguousarray(tile), None

        for workers in (1, 3):
            write_averaged_pyramid(
                tmp_path / f"{workers}.tif",
                source,
                width=768,
                height=512,
                mpp=0.5,
                tile_px=64,
                levels=3,
                workers=workers,
            )
        assert (tmp_path / "1.tif").read_bytes() == (tmp_path / "3.tif").read_bytes()

    def test_whole_or_absent(self, tmp_path: Path) -> None:
        def source(level: int, column: int, row: int) -> np.ndarray:
            if row == 1:
                raise RuntimeError("the scanner caught fire")
            return np.zeros((64, 64, 3), np.uint8)

        with pytest.raises(RuntimeError, match="caught fire"):
            write_pyramid(
                tmp_path / "a.tif", source, width=64, height=128, mpp=1, tile_px=64, levels=1
            )
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "file").touch()
        with pytest.raises(
            WriteError, match=r"cannot write .*a\.tif: (Not a directory|File exists)"
        ):
            write_array_pyramid(tmp_path / "file" / "a.tif", picture(64, 64), mpp=1)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"mpp": 0}, "mpp must be above 0, got 0"),
            ({"tile_px": 100}, "tile_px must be a multiple of 16, got 100"),
            ({"tile_px": 64, "factor": 3}, "tile_px must be a multiple of factor 3, got 64"),
            ({"levels": 0}, "levels must be at least 1"),
            ({"codec": "gif"}, "codec must be one of jpeg, .*, got 'gif'"),
        ],
    )
    def test_rejections(self, tmp_path: Path, options: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            write_array_pyramid(tmp_path / "a.tif", picture(64, 64), **({"mpp": 1} | options))
        assert list(tmp_path.iterdir()) == []

    def test_wrong_pixels(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="image must be uint8 of shape"):
            write_array_pyramid(tmp_path / "a.tif", picture(64, 64).astype(np.float32), mpp=1)
        with pytest.raises(ValueError, match="tile must be C-contiguous uint8 of shape"):
            write_pyramid(
                tmp_path / "a.tif",
                lambda *_: np.zeros((16, 16, 3), np.uint8),
                width=64,
                height=64,
                mpp=1,
            )


SMALL: dict[str, Any] = {"width_px": 1100, "height_px": 900, "mpp": 1.0, "levels": 2}


class TestSyntheticSlide:
    def test_seed_decides_everything(self, tmp_path: Path) -> None:
        for name, seed in (("a", 3), ("b", 3), ("c", 4)):
            make_slide(tmp_path / f"{name}.tif", seed=seed, **SMALL)
        a, b, c = ((tmp_path / f"{name}.tif").read_bytes() for name in "abc")
        assert a == b
        assert levels_of(tmp_path / "a.tif")[0].shape == (900, 1100, 3)
        different = levels_of(tmp_path / "a.tif")[0] != levels_of(tmp_path / "c.tif")[0]
        assert different.mean() > 0.3
        assert a != c

    @pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
    def test_tissue_fraction(self, tmp_path: Path, fraction: float) -> None:
        make_slide(tmp_path / "a.tif", tissue_fraction=fraction, **SMALL)
        overview = means(levels_of(tmp_path / "a.tif")[0].astype(np.float64), 8)
        assert dense(overview).mean() == pytest.approx(fraction, abs=0.12)
        if fraction == 0:
            assert levels_of(tmp_path / "a.tif")[0].min() > 225

    def test_coarser_levels_show_the_same(self, tmp_path: Path) -> None:
        make_slide(tmp_path / "a.tif", factor=2, quality=95, **SMALL)
        fine, coarse = levels_of(tmp_path / "a.tif")
        assert np.abs(means(fine.astype(np.float64), 2) - coarse).mean() < 2.5

    def test_stains_and_pens_differ(self, tmp_path: Path) -> None:
        def made(**options: Any) -> np.ndarray:
            make_slide(tmp_path / "a.tif", **(SMALL | options))
            return levels_of(tmp_path / "a.tif")[0].astype(int)

        he, ihc, pale = (made(stain=stain) for stain in ("he", "ihc", "pale"))
        assert he[dense(he)].mean() + 15 < pale[dense(pale)].mean()
        pink = he[dense(he)].mean(axis=0)
        assert pink[0] > pink[2] > pink[1]
        brown = (ihc[..., 0] - ihc[..., 2] > 30) & (ihc[..., 1] < ihc[..., 0])
        assert 0.001 < brown.mean() < 0.3
        for pen, is_ink in (
            ("blue", lambda rgb: (rgb[..., 2] > rgb[..., 0] + 80) & (rgb[..., 0] < 100)),
            ("green", lambda rgb: (rgb[..., 1] > rgb[..., 0] + 50) & (rgb[..., 1] > rgb[..., 2])),
            ("black", lambda rgb: rgb.max(axis=-1) < 60),
        ):
            assert is_ink(made(pen=pen)).mean() > 0.02
            assert is_ink(he).mean() < 0.005

    def test_tiles_are_as_complex_as_a_scanners(self, tmp_path: Path) -> None:
        make_slide(tmp_path / "a.tif", width_px=2048, height_px=1024, tissue_fraction=1.0, levels=1)
        with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
            page = tiff.pages[0]
            assert 10_000 < np.median(page.databytecounts) < 25_000
            assert page.photometric.name == "YCBCR"

    @pytest.mark.parametrize("factor", [2, 4])
    def test_repeated_square(self, tmp_path: Path, factor: int) -> None:
        make_slide(
            tmp_path / "a.tif",
            width_px=2300,
            height_px=1500,
            mpp=1.0,
            levels=3,
            factor=factor,
            repeat_px=512,
            quality=90,
        )
        fine, middle, coarse = levels_of(tmp_path / "a.tif")
        np.testing.assert_array_equal(fine[:900, :1700], fine[512:1412, 512:2212])
        for finer, coarser in ((fine, middle), (middle, coarse)):
            expected = means(finer.astype(np.float64), factor)
            h, w, _ = expected.shape
            assert np.abs(expected - coarser[:h, :w]).mean() < 6
        # No seam where the square meets itself.
        steps = np.abs(np.diff(fine[:1024].astype(int), axis=1)).mean(axis=(0, 2))
        assert steps[511] < 2 * np.median(steps)
        assert dense(means(fine.astype(np.float64), 4)).mean() == pytest.approx(0.4, abs=0.15)

    def test_demo_slides(self, tmp_path: Path) -> None:
        paths = make_demo_slides(tmp_path / "slides")
        assert [path.name for path in paths] == ["demo-he.tif", "demo-ihc.tif", "demo-pale-pen.tif"]
        for path in paths:
            with open_slide(path) as slide, openslide.OpenSlide(path) as other:
                assert slide.mpp == pytest.approx(0.5)
                assert len(slide.levels) == other.level_count == 3
                assert other.dimensions == (slide.levels[0].width, slide.levels[0].height)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"stain": "gram"}, "stain must be one of he, ihc, pale, got 'gram'"),
            ({"pen": "red"}, "pen must be None or one of blue, green, black, got 'red'"),
            ({"tissue_fraction": 1.5}, r"tissue_fraction must be within 0\.\.1, got 1\.5"),
            ({"repeat_px": 1000}, "repeat_px must be a power of two"),
            ({"repeat_px": 128}, "repeat_px must be a power of two, .* at least 256"),
            ({"repeat_px": 512, "tile_px": 240}, "repeat_px must be a power of two"),
            ({"mpp": -1}, "mpp must be above 0"),
        ],
    )
    def test_rejections(self, tmp_path: Path, options: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            make_slide(tmp_path / "a.tif", **options)


def test_labelled_slides_are_of_two_kinds(tmp_path):
    paths, table = make_labelled_slides(tmp_path / "slides", n=4)
    assert table.read_text().splitlines() == [
        "slide,label,patient",
        "demo-00,strong,patient-00",
        "demo-01,pale,patient-01",
        "demo-02,strong,patient-02",
        "demo-03,pale,patient-03",
    ]
    darkest = []
    for path in paths:
        with open_slide(path) as slide:
            darkest.append(np.percentile(slide.overview(), 5))
    assert max(darkest[::2]) < min(darkest[1::2])
    with pytest.raises(ValueError, match="n must be at least 4, got 3"):
        make_labelled_slides(tmp_path, n=3)
