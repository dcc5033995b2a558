"""Magnifications as scanners call them: whose own scale is kept, and what files and lines say of it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import histofast
from histofast.errors import FeatureError
from histofast.features import options_of, problems_of, read_features, shared_options
from histofast.patches import PatchReader
from histofast.slides import write_png
from histofast.tiling import mpp_at
from small_slides import write_slide
from tiny_encoder import write_encoder


@pytest.fixture
def encoder(tmp_path):
    return write_encoder(tmp_path / "e.onnx", name="tiny")


def slide_at(path, mpp):
    (path.parent / "masks").mkdir(exist_ok=True)
    write_png(path.parent / "masks" / f"{path.stem}.png", np.full((28, 30), 255, np.uint8))
    return write_slide(path, size=(280, 300), mpp=mpp)


def extract(slides, out, encoder, **options):
    given = {"patch_px": 32, "mask": out.parent / "masks", "out": out, "encoder": encoder}
    return histofast.extract(slides, **(given | options))


@pytest.mark.parametrize(
    ("mag", "slide_mpp", "mpp"),
    [
        (40, 0.25, 0.25),
        (40, 0.2520, 0.2520),
        (40, 0.2527, 0.2527),
        (40, 0.2636, 0.2636),
        (40, 0.265, 0.265),
        (40, 0.235, 0.235),
        (40, 0.2349, 0.25),
        (20, 0.2527, 0.5),
        (20, 0.4930, 0.4930),
        (10, 0.2527, 1.0),
    ],
)
def test_a_slide_keeps_its_own_scale_to_within_6_percent(mag, slide_mpp, mpp):
    assert mpp_at(mag, slide_mpp) == mpp


@pytest.mark.parametrize(("slide_mpp", "shown"), [(0.2527, "0.2527"), (0.2636, "0.2636")])
def test_patches_are_the_slides_pixels_and_files_say_both_scales(
    tmp_path, encoder, slide_mpp, shown
):
    path = slide_at(tmp_path / "s.tif", slide_mpp)
    report = extract(path, tmp_path / "f", encoder, mag=40)
    (slide,) = report.of("done")
    assert f"40x is the slide's own {shown} um per pixel, not 0.25" in slide.notes
    assert "40x_32px_0px_overlap" in slide.outputs[0]
    file = read_features(slide.outputs[0])
    assert file.attributes["mpp"] == pytest.approx(slide_mpp, rel=1e-6)
    assert file.attributes["target_magnification"] == 40
    assert file.attributes["patch_size_level0"] == 32
    assert (file.identity["mag"], file.identity["mpp"]) == (40, file.attributes["mpp"])
    assert problems_of(slide.outputs[0]) == []
    with histofast.open_slide(path) as opened:
        whole = opened.read_region((0, 0), size=(300, 280), level=0)
    cut = [whole[y : y + 32, x : x + 32] for x, y in file.coords]
    with histofast.load_encoder(encoder) as loaded:
        np.testing.assert_array_equal(file.features, loaded.encode(np.stack(cut)))
    with PatchReader(path) as reader:
        np.testing.assert_array_equal(reader.read(file, np.arange(3)), cut[:3])


def test_mpp_stays_exact(tmp_path, encoder):
    path = slide_at(tmp_path / "s.tif", 0.2527)
    (slide,) = extract(path, tmp_path / "f", encoder, mpp=0.25).slides
    assert slide.error == (
        "mpp must be at least the slide's own 0.2527, got 0.25: take what scanners call so with "
        "mag=40, ask for a coarser mpp, or accept interpolated pixels with allow_upsampling=True"
    )
    (slide,) = extract(path, tmp_path / "g", encoder, mpp=0.3).slides
    file = read_features(slide.outputs[0])
    assert (file.attributes["mpp"], "mag" in file.identity) == (0.3, False)
    assert not any("own" in note for note in slide.notes)


def test_beyond_the_tolerance_is_resampled_or_refused(tmp_path, encoder):
    path = slide_at(tmp_path / "s.tif", 0.27)
    (slide,) = extract(path, tmp_path / "f", encoder, mag=40).slides
    assert slide.error == (
        "mag must be at most 37, the slide's own, to within 6%, got 40: ask for a lower one, or "
        "accept interpolated pixels with allow_upsampling=True"
    )
    (slide,) = extract(path, tmp_path / "f", encoder, mag=40, allow_upsampling=True).slides
    assert read_features(slide.outputs[0]).attributes["mpp"] == 0.25
    (slide,) = extract(path, tmp_path / "g", encoder, mag=20).slides
    assert read_features(slide.outputs[0]).attributes["patch_size_level0"] == round(32 * 0.5 / 0.27)


def test_slides_of_own_scales_are_one_set_and_exact_ones_another(tmp_path, encoder):
    slides = [slide_at(tmp_path / f"{i}.tif", mpp) for i, mpp in enumerate((0.25, 0.2527, 0.2636))]
    report = extract(slides, tmp_path / "f", encoder, mag=40)
    files = [read_features(slide.outputs[0]) for slide in report.of("done")]
    assert len({file.attributes["mpp"] for file in files}) == 3
    shared = shared_options((file.path, options_of(file)) for file in files)
    assert (shared["mpp"], "mag" in shared) == ("40x", False)
    again = extract(slides, tmp_path / "f", encoder, mag=40)
    assert len(again.of("skipped")) == 3
    message = "is for features made with mpp 40x, asked for is mpp 0.25: choose"
    with pytest.raises(FeatureError, match=message):
        extract(slides[0], tmp_path / "f", encoder, mpp=0.25)


def test_a_scale_is_said_once(tmp_path, encoder):
    with pytest.raises(ValueError, match=r"^mag must not be given beside mpp=0\.5, which is exact"):
        extract("s.tif", tmp_path / "f", encoder, mpp=0.5, mag=20)
    with pytest.raises(TypeError, match=r"^mag must be a number, got '20x'$"):
        extract("s.tif", tmp_path / "f", encoder, mag="20x")


@pytest.mark.parametrize("scale", [{"mpp": 0.5}, {"mag": 20}])
def test_the_nominal_side_is_told_beside_the_exact_one(tmp_path, encoder, scale):
    """Patho-Bench's early fusion wants `patch_size_level0` equal over the slides of a patient."""
    sizes = {"a": 0.25, "b": 0.2527, "c": 0.2636}
    slides = [slide_at(tmp_path / f"{name}.tif", mpp) for name, mpp in sizes.items()]
    report = extract(slides, tmp_path / "f", encoder, nominal_level0=True, **scale)
    plain = extract(slides, tmp_path / "g", encoder, **scale)
    for slide, without in zip(report.of("done"), plain.of("done"), strict=True):
        file, same = read_features(slide.outputs[0]), read_features(without.outputs[0])
        exact = round(32 * 0.5 / sizes[slide.name])
        assert file.attributes["patch_size_level0"] == 64
        assert file.attributes["patch_size_level0_exact"] == file.patch_l0 == exact
        assert same.attributes["patch_size_level0"] == same.patch_l0 == exact
        assert "patch_size_level0_exact" not in same.attributes
        assert (file.identity["nominal_level0"], "nominal_level0" in same.identity) == (True, False)
        np.testing.assert_array_equal(file.features, same.features)
        assert problems_of(slide.outputs[0]) == []
        with PatchReader(slides) as reader:  # finds the very patches again
            rows = np.arange(2)
            np.testing.assert_array_equal(reader.read(file, rows), reader.read(same, rows))
    with pytest.raises(FeatureError, match="made with nominal_level0 True, asked for is nominal_l"):
        extract(slides, tmp_path / "f", encoder, **scale)


def test_patches_have_no_level_0(tmp_path, encoder):
    message = "^nominal_level0 must not be given with patches, which have no level 0$"
    with pytest.raises(ValueError, match=message):
        extract(None, tmp_path / "f", encoder, patches="t.csv", mask=None, nominal_level0=True)


def test_tissue_shows_the_same_patches(cli, tmp_path):
    path = slide_at(tmp_path / "s.tif", 0.2527)
    asked = ["tissue", path, "-o", tmp_path / "qc", "--mag", 40, "--patch-px", 32]
    asked += ["--mask", tmp_path / "masks"]
    (row,) = json.loads(cli(*asked, "--json").out)
    assert "40x is the slide's own 0.2527 um per pixel, not 0.25" in row["notes"]
    assert re.search(r"own 0\.2527 um per pixel, not 0\.25[;)]", cli(*asked).out)
