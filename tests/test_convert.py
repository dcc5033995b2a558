"""`histofast convert`: any slide to a pyramid that other tools read."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import openslide
import pytest
import tifffile

from fake_slides import FakeSlide, noise
from histofast import slides
from histofast.errors import TileError
from histofast.slides import convert, open_slide, read_image, write_png
from slide_files import picture
from small_slides import no_leftovers, write_slide

converting = slides.converting


def whole(slide, level=0):
    size = slide.levels[level]
    return slide.read_region((0, 0), level, (size.width, size.height))


def halved(image):
    """Means of 2 x 2 pixels, halves rounded up; what lies beyond the edge is the edge."""
    h, w, _ = image.shape
    padded = np.pad(image, [(0, h % 2), (0, w % 2), (0, 0)], mode="edge").astype(int)
    sums = padded.reshape(-(-h // 2), 2, -(-w // 2), 2, 3).sum(axis=(1, 3))
    return ((sums + 2) // 4).astype(np.uint8)


@pytest.mark.parametrize("tile_px", [16, 112, 256])
def test_lossless_is_the_slide_pixel_by_pixel(tmp_path, tile_px):
    """Of tiles that fit no grid of the slide's, at a size that is no multiple of either."""
    source = write_slide(tmp_path / "a.tif", size=(611, 1301), mpp=0.2527)
    made = convert(source, tmp_path / "b.tif", lossless=True, tile_px=tile_px)
    assert (made.width, made.height, made.levels, made.mpp) == (1301, 611, 2, pytest.approx(0.2527))
    with open_slide(source) as before, open_slide(tmp_path / "b.tif") as after:
        assert after.mpp == pytest.approx(before.mpp, rel=1e-9)
        assert after.levels[0].tile_width == tile_px
        assert np.array_equal(whole(after), whole(before))
        assert np.array_equal(whole(after, 1), halved(whole(before)))
    assert no_leftovers(tmp_path)


@pytest.mark.parametrize("name", ["b.tif", "b.ome.tif"])
@pytest.mark.parametrize("lossless", [True, False])
def test_other_tools_read_it_at_its_scale(tmp_path, name, lossless):
    source = write_slide(tmp_path / "a.tif", size=(1100, 2100), mpp=0.2527)
    with open_slide(source) as slide:
        wanted = whole(slide)
    convert(source, tmp_path / name, lossless=lossless, quality=95)
    most = 0 if lossless else 4
    with tifffile.TiffFile(tmp_path / name) as tiff:
        series = tiff.series[0]
        assert [level.shape for level in series.levels] == [
            (1100, 2100, 3),
            (550, 1050, 3),
            (275, 525, 3),
        ]
        assert np.abs(series.asarray().astype(int) - wanted).mean() <= most
        assert tiff.is_ome == name.endswith(".ome.tif")
        if tiff.is_ome:
            assert 'PhysicalSizeX="0.2527"' in tiff.ome_metadata
        page = tiff.pages[0]
        numerator, denominator = page.tags["XResolution"].value
        assert 10_000 * denominator / numerator == pytest.approx(0.2527, rel=1e-8)
    if name == "b.tif":
        with openslide.OpenSlide(tmp_path / name) as slide:
            assert slide.level_dimensions == ((2100, 1100), (1050, 550), (525, 275))
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.2527, rel=1e-6)
            assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.2527, rel=1e-6)
            pixels = np.asarray(slide.read_region((0, 0), 0, (2100, 1100)))[..., :3]
            assert np.abs(pixels.astype(int) - wanted).mean() <= most
    with open_slide(tmp_path / name) as slide:
        assert slide.mpp == pytest.approx(0.2527)
        assert len(slide.levels) == 3


def test_jpeg_is_of_the_quality_that_is_asked_for(tmp_path):
    source = write_slide(tmp_path / "a.tif", compression=None, compressionargs=None)
    sizes = []
    for quality in (30, 95):
        convert(source, tmp_path / f"{quality}.tif", quality=quality)
        sizes.append((tmp_path / f"{quality}.tif").stat().st_size)
    assert sizes[0] < sizes[1] / 2


def test_the_scale_can_be_given(cli, tmp_path):
    """A picture says none: it is told, and the file says it."""
    write_png(tmp_path / "a.png", picture(300, 400))
    answer = cli("convert", tmp_path / "a.png", tmp_path / "b.tif", "-q")
    assert answer.code == 1
    assert "--mpp-override" in answer.err[0]
    arguments = ("--mpp-override", "0.5", "--lossless", "-q")
    answer = cli("convert", tmp_path / "a.png", tmp_path / "b.tif", *arguments)
    assert answer.code == 0, answer.err
    assert answer.out == f"{tmp_path / 'b.tif'}: 400 x 300 px at 0.5 um per pixel, 1 level\n"
    with open_slide(tmp_path / "b.tif") as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert np.array_equal(whole(slide), read_image(tmp_path / "a.png"))


def test_the_profile_of_colours_is_kept(tmp_path, monkeypatch):
    image = noise(90, 130)
    slide = FakeSlide(image, mpp=0.5)
    monkeypatch.setattr(FakeSlide, "icc_profile", property(lambda _: b"a profile" * 20))
    monkeypatch.setattr(converting, "open_slide", lambda *_, **__: slide)
    convert("fake.svs", tmp_path / "b.tif", lossless=True)
    with open_slide(tmp_path / "b.tif") as after:
        assert after.icc_profile == b"a profile" * 20
        assert np.array_equal(whole(after), image)


def test_every_tile_is_decoded_once_and_few_are_held(tmp_path, monkeypatch):
    slide = FakeSlide(noise(700, 900), mpp=0.5)
    monkeypatch.setattr(converting, "open_slide", lambda *_, **__: slide)
    most, told = [0], []
    take = converting._Tiles.at

    def counted(self, column, row):
        found = take(self, column, row)
        most[0] = max(most[0], len(self._held))
        return found

    monkeypatch.setattr(converting._Tiles, "at", counted)
    convert(
        "fake.svs", tmp_path / "b.tif", tile_px=32, workers=2, on_count=lambda *t: told.append(t)
    )
    assert set(slide.decoded.values()) == {1}
    assert most[0] <= 2 * converting._BATCH + 4
    assert told[-1] == (29 * 22, 29 * 22)
    assert all(a[0] < b[0] for a, b in itertools.pairwise(told))


def test_a_region_that_cannot_be_read_is_white_and_told(cli, tmp_path, monkeypatch):
    image = noise(300, 400)
    slide = FakeSlide(image, mpp=0.5, broken=[(0, 2, 1)])
    monkeypatch.setattr(converting, "open_slide", lambda *_, **__: slide)
    made = convert("fake.svs", tmp_path / "b.tif", lossless=True)
    assert made.unreadable == 1
    assert made.reason.endswith("broken")
    white = image.copy()
    white[48:96, 128:192] = 255
    with open_slide(tmp_path / "b.tif") as after:
        assert np.array_equal(whole(after), white)
    before = threading.active_count()
    with pytest.raises(TileError, match=r"broken \(strict=True\)"):
        convert("fake.svs", tmp_path / "c.tif", strict=True, workers=4)
    assert not (tmp_path / "c.tif").exists()
    assert no_leftovers(tmp_path)
    assert threading.active_count() == before
    answer = cli("convert", "fake.svs", tmp_path / "d.tif", "-q")
    assert answer.code == 0
    assert answer.err[0].startswith("note: 1 unreadable tile is white, the first: ")
    answer = cli("convert", "fake.svs", tmp_path / "e.tif", "-q", "--strict")
    assert answer.code == 1
    assert "broken (--strict)" in answer.err[0]


@pytest.mark.parametrize(
    ("out", "options", "code", "message"),
    [
        ("b.png", (), 2, "out must end with .tif or .tiff, or .ome.tif, got b.png"),
        ("a.tif", ("--overwrite",), 2, "out must be another file than the slide"),
        ("c.tif", (), 1, "c.tif exists: choose another name, or ask to overwrite it"),
        ("b.tif", ("--tile-px", "100"), 2, "--tile-px must be a multiple of 16, got 100"),
        ("b.tif", ("--tile-px", "0"), 2, "--tile-px must be at least 16, got 0"),
        ("b.tif", ("--quality", "101"), 2, "--quality must be within 1..100, got 101"),
    ],
)
def test_mistakes_are_answered_in_one_line(cli, tmp_path, monkeypatch, out, options, code, message):
    monkeypatch.chdir(tmp_path)
    write_slide(tmp_path / "a.tif")
    (tmp_path / "c.tif").write_bytes(b"mine")
    answer = cli("convert", "a.tif", out, "-q", *options)
    assert answer.code == code
    (line,) = answer.err
    assert message in line
    assert (tmp_path / "c.tif").read_bytes() == b"mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "c.tif"]


def test_a_full_disk_leaves_nothing(full_disk, tmp_path):
    write_slide(tmp_path / "a.tif", size=(1200, 1200), compression=None, compressionargs=None)
    from histofast.errors import NoSpaceError

    with pytest.raises(NoSpaceError, match="no space left"):
        convert(tmp_path / "a.tif", full_disk / "b.tif", lossless=True)
    assert not list(full_disk.iterdir())


def test_a_real_slide(data, tmp_path):
    source = data / "slides" / "CMU-1-Small-Region.svs"
    made = convert(source, tmp_path / "b.tif", lossless=True)
    with open_slide(source) as before, open_slide(tmp_path / "b.tif") as after:
        assert after.mpp == pytest.approx(before.mpp, rel=1e-8)
        assert after.icc_profile == before.icc_profile
        assert np.array_equal(whole(after), whole(before))
    assert made.levels == 3
