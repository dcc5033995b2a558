"""Ink and stains that look like it: what is removed, what is kept, and that it is told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer

import tissue_pictures
from fake_slides import FakeSlide
from histofast.cli import app
from histofast.features import read_features
from histofast.patches import TissueOptions, sample_patches
from histofast.pipeline import check_slides
from histofast.tissue import find_tissue
from slide_files import write_tiff

LIKE_INK = ["toluidine blue", "luxol fast blue", "masson", "alcian blue"]


def slide_of(picture):
    h, w = picture.image.shape[:2]
    return FakeSlide(picture.image, tile=(w, h), mpp=8.0)


@pytest.mark.parametrize("stain", LIKE_INK)
def test_blue_stains_lose_tissue_unless_ink_is_kept(stain):
    picture = tissue_pictures.overview(stain=stain)
    slide = slide_of(picture)
    removed, kept = find_tissue(slide), find_tissue(slide, ink="keep")
    assert kept.mask[picture.tissue].mean() > 0.99
    assert kept.mask[~picture.tissue].mean() < 0.05
    assert kept.notes == ()
    share = 1 - removed.mask[kept.mask == 1].mean()
    assert share > 0.1
    (note,) = removed.notes
    said = float(note.split(" %")[0]) / 100
    assert said == pytest.approx(share, abs=0.03)
    assert note.endswith('taken for pen marks or black: where it is stain, take it with ink="keep"')
    assert (removed.identity.split(", ")[-1], kept.identity.split(", ")[-1]) == (
        "ink remove",
        "ink keep",
    )


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
    """A slide in toluidine blue, 8 um per pixel."""
    image = tissue_pictures.overview(stain="toluidine blue").image
    return write_tiff(tmp_path / "blue.tif", [image], mpp=8.0)


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
    assert "(68 % of what could be tissue" in answer.out
    answer = cli("tissue", blue, "--out", tmp_path / "qc", *grid, "--ink", "maybe")
    assert answer.code == 2
    assert "must be one of keep, remove, got 'maybe'" in " ".join(answer.err)


def test_every_command_that_finds_tissue_has_the_option():
    group = typer.main.get_command(app)
    for path in ("extract", "tissue", "similarity", "models quantize", "models bench",
                 "study truncation", "study networks"):  # fmt: skip
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
