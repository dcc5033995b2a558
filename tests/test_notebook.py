"""What notebooks show of slides, tissue, plans and reports."""

from __future__ import annotations

import base64
from types import SimpleNamespace

import imagecodecs
import numpy as np
import pytest

from fake_slides import FakeSlide
from histofast._notebook import png
from histofast.features import VerifyReport
from histofast.pipeline import RunReport, SlideReport
from histofast.tiling import plan_patches
from histofast.tissue import tissue_from_mask

GREEN, BLUE, WHITE = (120, 190, 140), (40, 90, 220), (255, 255, 255)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 1), (64, 300)])
def test_a_picture_is_a_png_of_its_pixels(shape, rng):
    pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(imagecodecs.png_decode(png(pixels)), pixels)


def shown(thing):
    return imagecodecs.png_decode(thing._repr_png_())


def half_tissue():
    """A slide of 2048 x 1024 px, whose left half is tissue."""
    mask = np.zeros((64, 128), np.uint8)
    mask[:, :64] = 1
    return tissue_from_mask(mask, width_l0=2048, height_l0=1024)


def slide_geometry(mpp=0.5):
    return SimpleNamespace(
        levels=[SimpleNamespace(width=2048, height=1024, downsample=1.0)], mpp=mpp
    )


def test_tissue_shows_itself():
    tissue = half_tissue()
    assert repr(tissue) == "Tissue(50.0% of 2,048 x 1,024 px, from a mask)"
    picture = shown(tissue)
    assert picture.shape == (256, 512, 3)
    assert (picture[1:-1, 1:256] == GREEN).all()
    assert (picture[1:-1, 256:-1] == WHITE).all()


def test_a_plan_shows_its_patches():
    plan = plan_patches(slide_geometry(), half_tissue(), mpp=0.5, patch_px=256)
    assert repr(plan) == (
        "PatchPlan(16 patches of 256 px at 0.5 um/px, of a grid of 8 x 4, from level 0)"
    )
    picture = shown(plan)
    assert picture.shape == (256, 512, 3)
    assert (picture[1:63, 1:63] == BLUE).all()  # a quarter of its size
    assert (picture[32, 64:127] == BLUE).all()
    assert (picture[1:-1, 63] == WHITE).all()  # between two patches
    assert (picture[1:-1, 257:-1] == WHITE).all()


def test_patches_with_less_tissue_are_fainter():
    plan = plan_patches(slide_geometry(), half_tissue(), mpp=0.75, patch_px=256, min_tissue=0.1)
    assert sorted(set(plan.tissue_fraction.tolist())) == pytest.approx([2 / 3, 1])
    picture = shown(plan)
    whole, part = picture[40, 10].astype(float), picture[40, 280].astype(float)
    np.testing.assert_allclose(255 - part, (255 - whole) * (0.3 + 0.7 * 2 / 3), atol=1)


def test_many_small_patches_fill_what_they_cover():
    plan = plan_patches(slide_geometry(), half_tissue(), mpp=0.5, patch_px=2)
    assert len(plan) == 512 * 512
    picture = shown(plan)
    assert (picture[1:-1, 1:256] == BLUE).all()
    assert (picture[1:-1, 256:-1] == WHITE).all()


@pytest.mark.parametrize("options", [{"overlap_px": 128}, {"edge": "shift", "patch_px": 240}])
def test_plans_with_overlap_or_shifted_patches_are_shown(options):
    plan = plan_patches(slide_geometry(), **{"mpp": 0.5, "patch_px": 256, **options})
    picture = shown(plan)
    assert (picture[:250, :500, 0] < 128).mean() > 0.9  # all of the slide, but for lines between
    assert (", overlap 128 px" in repr(plan)) == ("overlap_px" in options)


def test_a_plan_without_patches_is_white():
    nothing = tissue_from_mask(np.zeros((64, 128), np.uint8), width_l0=2048, height_l0=1024)
    plan = plan_patches(slide_geometry(), nothing, mpp=0.5, patch_px=256)
    assert repr(plan).startswith("PatchPlan(0 patches of 256 px")
    assert (shown(plan)[1:-1, 1:-1] == WHITE).all()


def test_picture_and_text_come_together(rng):
    slide = FakeSlide(rng.integers(0, 256, (200, 260, 3), dtype=np.uint8), name="<b>")
    found = slide._repr_mimebundle_()
    assert set(found) == {"text/plain", "text/html", "image/png"}
    picture = imagecodecs.png_decode(base64.b64decode(found["image/png"]))
    np.testing.assert_array_equal(picture, slide.thumbnail(512))
    assert max(slide.decoded.values()) == 2  # once here, once for the bundle
    assert f"base64,{found['image/png']}" in found["text/html"]
    assert "FakeSlide(&#x27;&lt;b&gt;&#x27;, 260 x 200 px" in found["text/html"]


def report_of(*slides, **more):
    report = RunReport(seconds=30.0, **more)
    for slide in slides:
        report.add(slide)
    return report


def test_a_report_shows_its_slides():
    done = SlideReport(name="a", path="a", status="done", patches=120, seconds={"total": 12.3})
    failed = SlideReport(name="<x>\x1b", path="b", status="failed", error="is no slide & broken")
    report = report_of(done, failed)
    assert (
        repr(report) == "RunReport(2 slides: 1 done, 1 failed; 120 patches in 30 s (4.0 patches/s))"
    )
    page = report._repr_html_()
    assert "<p>2 slides: 1 done, 1 failed; 120 patches" in page
    assert page.index("&lt;x&gt;\\u001b") < page.index(">a<")  # what failed comes first
    assert ">is no slide &amp; broken<" in page
    assert ">12.3<" in page
    assert "\x1b" not in page


def test_a_report_of_many_slides_is_short():
    many = [SlideReport(name=f"s{i}", path="", status="done") for i in range(25)]
    page = report_of(*many, error="the disk is full")._repr_html_()
    assert page.count("<tr>") == 1 + 20
    assert page.endswith("<p>5 rows more</p>")
    assert "25 slides: 25 done; stopped: the disk is full" in page
    assert repr(RunReport()) == "RunReport(0 slides)"
    assert RunReport()._repr_html_() == "<p>0 slides</p>"


def test_a_verification_shows_what_is_broken(tmp_path):
    found = VerifyReport(files=3, patches=40, problems={tmp_path / "a.h5": ["is <no> file"]})
    assert repr(found) == "VerifyReport(3 feature files, 1 broken; 40 patches in whole ones)"
    assert "is &lt;no&gt; file" in found._repr_html_()
    whole = VerifyReport(files=1, patches=1, problems={}, not_sealed=(tmp_path / "b.h5",))
    assert repr(whole) == (
        "VerifyReport(1 feature file, 0 broken, 1 of other tools and not sealed; 1 patch in whole ones)"
    )
