"""Label, macro and thumbnail of a slide: which there are, what they show, and what a broken one costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

import slide_files
from histofast import open_slide
from histofast.errors import SlideError
from histofast.slides import OpenSlideSlide, TiffSlide

SVS = "slides/CMU-1-Small-Region.svs"
BESIDE = {"thumbnail": (60, 90), "label": (50, 40), "macro": (30, 100)}  # height, width


def write_svs(path: Path) -> dict[str, np.ndarray]:
    """Write a slide as Aperio's software lays it out; return its pictures."""
    scan = slide_files.picture(256, 384)
    shown = {
        name: slide_files.picture(h, w, seed=i + 1)
        for i, (name, (h, w)) in enumerate(BESIDE.items())
    }
    with tifffile.TiffWriter(path) as tiff:
        rgb = {"photometric": "rgb", "metadata": None}
        tiff.write(scan, tile=(64, 64), description=slide_files.APERIO, **rgb)
        head = "Aperio Image Library v11.2.1\n"
        tiff.write(shown["thumbnail"], description=f"{head}384x256 -> 90x60", **rgb)
        tiff.write(
            slide_files.half(scan), tile=(64, 64), description=f"{head}384x256 -> 192x128", **rgb
        )
        tiff.write(shown["label"], description=f"{head}label 40x50", subfiletype=1, **rgb)
        tiff.write(shown["macro"], description=f"{head}macro 100x30", subfiletype=9, **rgb)
    return shown


@pytest.fixture
def svs(tmp_path):
    shown = write_svs(tmp_path / "a.svs")
    return tmp_path / "a.svs", shown


@pytest.mark.parametrize("door", ["tifffile", "openslide"])
def test_pictures_are_those_that_were_written(svs, door):
    path, shown = svs
    with open_slide(path, door=door) as slide:
        assert set(slide.associated) == set(shown)
        for name, picture in slide.associated.items():
            np.testing.assert_array_equal(picture, shown[name])
        with pytest.raises(KeyError, match="barcode"):
            slide.associated["barcode"]


@pytest.mark.parametrize("kind", [TiffSlide, OpenSlideSlide])
def test_a_real_slide_shows_what_openslide_shows(kind, data):
    door = "tifffile" if kind is TiffSlide else "openslide"
    with open_slide(data / SVS, door=door) as slide, openslide.OpenSlide(data / SVS) as theirs:
        assert isinstance(slide, kind)
        assert set(slide.associated) == set(theirs.associated_images) == set(BESIDE)
        for name, picture in slide.associated.items():
            wanted = np.asarray(theirs.associated_images[name].convert("RGB"))
            np.testing.assert_array_equal(picture, wanted)


def test_a_real_slide_shows_what_tifffile_reads(data):
    with open_slide(data / SVS) as slide, tifffile.TiffFile(data / SVS) as tiff:
        pages = {"thumbnail": 1, "label": 2, "macro": 3}
        for name, index in pages.items():
            np.testing.assert_array_equal(slide.associated[name], tiff.pages[index].asarray())


def test_ome_names_its_pictures(tmp_path):
    scan, label, macro = (
        slide_files.picture(*size, seed=i)
        for i, size in enumerate(((256, 256), (40, 50), (30, 70)))
    )
    path = tmp_path / "a.ome.tif"
    scale = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(
            scan, tile=(64, 64), photometric="rgb", metadata={"axes": "YXS", "Name": "s", **scale}
        )
        for picture, name in ((label, "label image"), (macro, "macro image")):
            tiff.write(picture, photometric="rgb", metadata={"axes": "YXS", "Name": name})
    with open_slide(path) as slide:
        assert list(slide.associated) == ["label", "macro"]
        np.testing.assert_array_equal(slide.associated["label"], label)
        np.testing.assert_array_equal(slide.associated["macro"], macro)


def test_a_slide_without_them_has_none(tmp_path):
    plain = slide_files.write_tiff(tmp_path / "a.tif", [slide_files.picture(128, 128)])
    with open_slide(plain) as slide:
        assert dict(slide.associated) == {}
    tifffile.imwrite(tmp_path / "b.tif", slide_files.picture(64, 64), photometric="rgb")
    with open_slide(tmp_path / "b.tif", mpp_override=0.5, door="image") as slide:
        assert dict(slide.associated) == {}


@pytest.mark.parametrize("tag", ["ImageWidth", "StripByteCounts", "StripOffsets"])
def test_a_broken_one_is_told_when_it_is_asked_for(svs, tag):
    path, shown = svs
    with tifffile.TiffFile(path) as tiff:
        label = next(page for page in tiff.pages if "label" in page.description)
        at = label.tags[tag].valueoffset
        size = label.tags[tag].dtype.value
    slide_files.overwrite(path, at, b"\xff\xff\xff\x7f" if size != 3 else b"\0\0")
    with open_slide(path) as slide:
        assert set(slide.associated) == set(shown)
        with pytest.raises(SlideError, match=r"^label: "):
            slide.associated["label"]
        np.testing.assert_array_equal(slide.associated["macro"], shown["macro"])
        assert slide.read_region((0, 0), 0, (8, 8)).shape == (8, 8, 3)


def test_one_that_claims_too_much_is_refused_before_there_is_memory(svs):
    path, _ = svs
    with tifffile.TiffFile(path) as tiff:
        label = next(page for page in tiff.pages if "label" in page.description)
        places = [label.tags[tag].offset for tag in ("ImageWidth", "ImageLength")]
    for at in places:  # LONG, 1 value, inline
        slide_files.overwrite(path, at + 2, b"\4\0\1\0\0\0\x40\x9c\0\0")
    with open_slide(path) as slide, pytest.raises(SlideError, match=r"300 million|can hold"):
        slide.associated["label"]
    with open_slide(path, door="openslide") as slide:
        for name in slide.associated:
            if name == "label":
                with pytest.raises(SlideError, match=r"must have a picture of 1 to 300,000,000"):
                    slide.associated[name]


@pytest.mark.parametrize("door", ["tifffile", "openslide"])
def test_a_closed_slide_shows_none(svs, door):
    with open_slide(svs[0], door=door) as slide:
        held = slide.associated
    with pytest.raises(ValueError, match="is closed"):
        held["label"]
