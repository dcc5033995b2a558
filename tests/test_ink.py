"""Ink and stains that look like it: what is removed, what is kept, and that it is told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import reference
import stained_pictures
import tissue_pictures
from fake_slides import FakeSlide
from histofast.cli import app
from histofast.features import read_features
from histofast.patches import TissueOptions, sample_patches
from histofast.pipeline import check_slides
from histofast.slides import open_slide
from histofast.tissue import find_tissue, in_no_ink, stained
from reference import foreign_mask
from slide_files import write_tiff
from stained_pictures import ACROSS, ON_GLASS, Stroke

LIKE_INK = ["toluidine blue", "luxol fast blue", "masson", "alcian blue"]


def slide_of(picture):
    h, w = picture.image.shape[:2]
    return FakeSlide(picture.image, tile=(w, h), mpp=8.0)


def blue_and_pink():
    """Tissue and something flat and blue, 5 : 2 in the blue's favour; it may be a pen."""
    picture = tissue_pictures.overview(stain=None)
    picture.image[40:140, 40:140] = (190, 60, 140)
    picture.image[180:280, 40:290] = (28, 48, 170)
    return picture.image


@pytest.mark.parametrize("stain", ["toluidine blue", "luxol fast blue", "alcian blue"])
def test_blue_stains_are_tissue_and_pens_across_them_are_not(stain):
    picture = tissue_pictures.overview(stain=stain)
    removed, kept = (find_tissue(slide_of(picture), ink=ink) for ink in ("remove", "keep"))
    for found in (removed, kept):
        assert found.mask[picture.tissue].mean() > 0.97
        assert found.mask[~picture.tissue].mean() < 0.05
        assert found.notes == ()
    assert (removed.identity.split(", ")[-1], kept.identity.split(", ")[-1]) == (
        "ink remove",
        "ink keep",
    )
    marked = tissue_pictures.overview(stain=stain, pens=("blue", "green"))
    found = find_tissue(slide_of(marked))
    assert found.mask[marked.tissue].mean() > 0.97
    assert found.mask[marked.foreign].mean() < 0.02


def test_a_stain_without_grain_is_taken_for_ink_and_told():
    picture = tissue_pictures.overview(stain="masson")  # its stroma is flat
    removed, kept = (find_tissue(slide_of(picture), ink=ink) for ink in ("remove", "keep"))
    assert kept.mask[picture.tissue].mean() > 0.99
    share = 1 - removed.mask[kept.mask == 1].mean()
    assert share > 0.1
    (note,) = removed.notes
    assert float(note.split(" %")[0]) / 100 == pytest.approx(share, abs=0.03)
    assert note.endswith('taken for pen marks or black: where it is stain, take it with ink="keep"')


# --- The rule ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stain", ["he", *LIKE_INK])
@pytest.mark.parametrize("pens", [(), ("blue", "green"), ("light blue", "red")])
def test_stain_matches_the_definition(stain, pens):
    image = tissue_pictures.overview(stain=stain, pens=pens, shape=(130, 171)).image
    wanted = reference.stained(image)
    np.testing.assert_array_equal(stained(image), wanted)
    np.testing.assert_array_equal(in_no_ink(image, wanted), reference.without_stain(image))
    if not pens:
        assert wanted.any() == (stain not in ("he", "masson"))


@settings(max_examples=30)
@given(
    image=hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)),
        elements=st.sampled_from([20, 60, 150, 240]),
        fill=st.just(240),
    ),
    block=st.tuples(*[st.integers(0, 30)] * 4),
)
def test_any_picture_matches_the_definition(image, block):
    y, x, h, w = block
    image[y : y + h, x : x + w] = (20, 40, 150)
    image[y : y + h : 2, x : x + w : 3] = (90, 100, 200)
    np.testing.assert_array_equal(stained(image), reference.stained(image))
    assert not (foreign_mask(in_no_ink(image, stained(image))) & ~foreign_mask(image)).any()


def test_the_mask_is_the_definitions():
    picture = tissue_pictures.overview(stain="alcian blue", pens=("blue",), shape=(150, 201))
    sizes = {"close_px": 3, "max_hole_px": 1562, "min_area_px": 313}
    want, threshold = reference.tissue_mask(reference.without_stain(picture.image), **sizes)
    found = find_tissue(slide_of(picture))
    np.testing.assert_array_equal(found.mask, want)
    assert found.threshold == threshold


@pytest.fixture(scope="module", params=[4.0, 8.0, 16.0], ids=["4 um", "8 um", "16 um"])
def real(request, data):
    """An overview of a real H&E slide."""
    with open_slide(data / "slides" / "CMU-1-Small-Region.svs") as slide:
        return slide.overview(mpp=request.param)


STROKES = {
    "none": (),
    "on glass": (Stroke(pen="blue", line=ON_GLASS),),
    "across": (Stroke(pen="blue", line=ACROSS),),
    "across, light": (Stroke(pen="light blue", line=ACROSS, cover=0.9),),
    "both": (
        Stroke(pen="blue", line=ON_GLASS, cover=0.9),
        Stroke(pen="green", line=ACROSS, cover=0.9),
    ),
}


@pytest.mark.parametrize("strokes", STROKES)
@pytest.mark.parametrize("stain", stained_pictures.DYES)
def test_real_grain_is_tissue_in_any_dye_and_strokes_are_not(real, stain, strokes):
    """Share of tissue that stays, and of strokes that are removed; in H&E nothing is lost by the rule."""
    image, tissue, ink = stained_pictures.overview(real, stain, *STROKES[strokes])
    is_foreign, is_stain = reference.foreign_mask(image), stained(image)
    removed = is_foreign & ~is_stain
    lost, before = removed[tissue].mean(), is_foreign[tissue].mean()
    assert lost < max(0.035, 0.5 * before)
    if ink.any():
        assert removed[ink].mean() > 0.83
    if stain == "he":
        assert removed[ink].sum() == is_foreign[ink].sum()
        assert not is_stain.any()


def test_what_toluidine_blue_lost_before(real):
    """The figures that the rule is there for: a quarter to a half of the tissue, now nothing."""
    image, tissue, _ = stained_pictures.overview(real, "toluidine blue")
    is_foreign = reference.foreign_mask(image)
    assert is_foreign[tissue].mean() > 0.2
    assert (is_foreign & ~stained(image))[tissue].mean() < 0.005


# --- What is said -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stain", ["he", "pale", "ihc"])
def test_nothing_is_said_where_little_is_removed(stain):
    assert find_tissue(slide_of(tissue_pictures.overview(stain=stain))).notes == ()


def test_pen_marks_are_told_and_stay_out():
    picture = tissue_pictures.overview(stain="he", pens=("blue", "green"))
    found = find_tissue(slide_of(picture))
    assert found.mask[picture.foreign].mean() < 0.001
    assert "taken for pen marks" in found.notes[0]


def test_what_ink_may_be():
    slide = slide_of(tissue_pictures.overview())
    for make in (lambda: find_tissue(slide, ink="yes"), lambda: TissueOptions(ink="yes")):
        with pytest.raises(ValueError, match=r"^ink must be one of remove, keep, got 'yes'$"):
            make()
    texts = [TissueOptions(ink=ink).identity for ink in ("remove", "keep")]
    assert [text["ink"] for text in texts] == ["remove", "keep"]


@pytest.fixture
def blue(tmp_path):
    """A slide that is mostly flat blue, 8 um per pixel."""
    return write_tiff(tmp_path / "blue.tif", [blue_and_pink()], mpp=8.0)


def test_check_slides_tells_and_keeps(blue, tmp_path):
    options = {"out": tmp_path / "qc", "mpp": 8.0, "patch_px": 16}
    ((_, removed),) = check_slides([blue], **options)
    ((_, kept),) = check_slides([blue], **options, tissue=TissueOptions(ink="keep"))
    assert kept["tissue_mm2"] > 2 * removed["tissue_mm2"]
    assert (len(removed["notes"]), kept["notes"]) == (1, [])


def test_commands_say_the_flag(cli, blue, encoder, tmp_path):
    grid = ["--mpp", "8", "--patch-px", "32", "--min-tissue", "0.1"]
    command = ["extract", blue, "--out", tmp_path / "f", "-e", encoder, *grid]
    answer = cli(*command)
    assert "where it is stain, take it with --ink keep)" in "\n".join(answer.err)
    report = json.loads((tmp_path / "f" / "run.json").read_text())
    assert 'ink="keep"' in report["slides"][0]["notes"][0]
    answer = cli(*command, "--ink", "keep", "--overwrite")
    assert "taken for pen marks" not in "\n".join(answer.err)
    (file,) = (tmp_path / "f").rglob("*.h5")
    assert read_features(file).identity["tissue"]["ink"] == "keep"
    answer = cli("tissue", blue, "--out", tmp_path / "qc", *grid)
    assert "(71 % of what could be tissue" in answer.out
    answer = cli("tissue", blue, "--out", tmp_path / "qc", *grid, "--ink", "maybe")
    assert answer.code == 2
    assert "must be one of keep, remove, got 'maybe'" in " ".join(answer.err)


def test_every_command_that_finds_tissue_has_the_option():
    group = typer.main.get_command(app)
    for path in ("extract", "tissue", "similarity", "models quantize", "models bench",
                 "models reduce", "study truncation", "study networks"):  # fmt: skip
        command = group
        for name in path.split():
            command = command.commands[name]
        assert any("--ink" in option.opts for option in command.params), path


def test_the_mask_is_what_the_note_counts():
    """By construction: half of the tissue is the blue of a pen."""
    image = np.full((100, 100, 3), 245, np.uint8)
    image[20:80, 20:50] = (190, 60, 140)
    image[20:80, 50:80] = (28, 48, 170)
    found = find_tissue(FakeSlide(image, tile=(100, 100), mpp=8.0), min_area_um2=0)
    assert found.mask[22:78, 22:47].all()
    assert not found.mask[22:78, 53:78].any()
    assert int(found.notes[0].split(" %")[0]) == pytest.approx(50, abs=6)  # edges are smoothed


def test_samples_find_tissue_as_asked(blue):
    """Patches that calibrate, time and compare encoders come from what is found so."""
    drawn = [
        len(sample_patches([blue], n=1000, patch_px=16, mpp=8.0, tissue=tissue))
        for tissue in (None, TissueOptions(ink="keep"))
    ]
    assert drawn[1] > 1.5 * drawn[0] > 0
