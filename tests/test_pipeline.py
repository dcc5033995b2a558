"""`extract` as a whole: what it writes, what it skips, what it survives."""

from __future__ import annotations

import csv
import errno
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import histofast
from histofast import features
from histofast._files import Lock, Temporary
from histofast.errors import FeatureError, ModelError, WriteError
from histofast.patches import Job, TissueOptions, list_jobs, select_shard
from histofast.pipeline import ExtractOptions, encoding, extraction
from histofast.slides import read_image, write_array_pyramid
from slide_files import overwrite, picture, tile_extent, write_tiff
from small_slides import content, no_leftovers, run, write_slide
from tiny_encoder import write_encoder

# --- what comes out -------------------------------------------------------------------------------


def test_features_are_the_encoders_of_the_planned_patches(slides, encoder, tmp_path):
    report = run(slides, tmp_path, encoder)
    assert report.exit_code == 0
    assert [s.status for s in report.slides] == ["done"] * 3
    folder = tmp_path / "5x_32px_0px_overlap" / "features_tiny"
    assert sorted(p.name for p in folder.glob("*.h5")) == ["s0.h5", "s1.h5", "s2.h5"]
    with histofast.open_slide(slides / "s1.tif") as slide:
        tissue = histofast.find_tissue(slide)
        plan = histofast.plan_patches(slide, tissue, mpp=2.0, patch_px=32, min_tissue=0.1)
        pixels = np.concatenate([p for p, _ in histofast.iter_patches(slide, plan)])
    file = histofast.read_features(folder / "s1.h5")
    with histofast.load_encoder(encoder) as loaded:
        np.testing.assert_array_equal(file.features, loaded.encode(pixels))
    np.testing.assert_array_equal(file.coords, plan.coords_l0)
    assert file.attributes["patch_size_level0"] == 64
    assert (file.attributes["level0_mpp"], file.attributes["mpp"]) == (1.0, 2.0)
    assert (file.attributes["level0_width"], file.attributes["level0_height"]) == (512, 640)
    assert features.verify([tmp_path]).is_whole
    assert no_leftovers(tmp_path)


def test_report_is_saved(slides, encoder, tmp_path):
    seen = []
    report = run(slides, tmp_path, encoder, on_progress=seen.append)
    saved = json.loads((tmp_path / "run.json").read_text())
    assert report.path == str(tmp_path / "run.json")
    assert [s["name"] for s in saved["slides"]] == ["s0", "s1", "s2"]
    assert {"open", "tissue", "plan", "supply", "encode", "write", "total"} <= set(
        saved["slides"][0]["seconds"]
    )
    assert saved["about"]["encoders"][0]["sha256"]
    finished = [p.finished.name for p in seen if p.finished]
    assert finished == ["s0", "s1", "s2"]
    assert seen[-1].patches_done == report.patches > 0


def test_bytes_do_not_depend_on_threads_batches_or_company(slides, encoder, tmp_path):
    run(slides, tmp_path / "a", encoder)
    run(slides, tmp_path / "b", encoder, threads=1, workers=4, batch_size=5)
    for i in (2, 0, 1):
        run(slides / f"s{i}.tif", tmp_path / "c", encoder, workers=1)
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(tmp_path / "c")


def test_several_encoders_share_one_pass(slides, encoder, tmp_path, monkeypatch):
    other = write_encoder(tmp_path / "other.onnx", name="other", d=5)
    decoded = []
    from histofast.slides import TiffSlide

    read_tile = TiffSlide.read_tile

    def counted(self, level, column, row, out):
        decoded.append((level, column, row))
        read_tile(self, level, column, row, out)

    monkeypatch.setattr(TiffSlide, "read_tile", counted)
    run(slides / "s0.tif", tmp_path / "one", encoder)
    once = sorted(decoded)
    decoded.clear()
    report = run(slides / "s0.tif", tmp_path / "two", [encoder, other])
    assert sorted(decoded) == once
    assert len(report.slides[0].outputs) == 2
    shapes = {histofast.read_features(p).features.shape[1] for p in report.slides[0].outputs}
    assert shapes == {8, 5}
    (alone,) = content(tmp_path / "one").values()
    assert alone == Path(report.slides[0].outputs[0]).read_bytes()


def test_encoders_that_want_different_patches(slides, encoder, tmp_path):
    other = write_encoder(tmp_path / "other.onnx", name="other", patch_px=64)
    with pytest.raises(ValueError, match=r"patch_px must be given .*tiny: 32, other: 64"):
        run(slides, tmp_path, [encoder, other])
    with pytest.raises(ValueError, match="encoders must have different names, got tiny, tiny"):
        run(slides, tmp_path, [encoder, encoder])


@pytest.mark.parametrize("layout", ["clam", "stamp"])
def test_other_layouts(slides, encoder, tmp_path, layout):
    report = run(slides / "s0.tif", tmp_path, encoder, layout=layout)
    assert report.exit_code == 0, report.slides
    assert features.verify([tmp_path]).is_whole
    assert run(slides / "s0.tif", tmp_path, encoder, layout=layout).of("skipped")


def test_half(slides, encoder, tmp_path):
    report = run(slides / "s0.tif", tmp_path, encoder, half=True)
    assert histofast.read_features(report.slides[0].outputs[0]).features.dtype == np.float16
    with pytest.raises(ValueError, match="half must be False for layout clam"):
        run(slides / "s0.tif", tmp_path, encoder, half=True, layout="clam")


@pytest.mark.parametrize("spoil", [Path.unlink, lambda pt: pt.write_bytes(b"")])
def test_a_lost_tensor_of_clam_is_made_again(slides, encoder, tmp_path, spoil):
    report = run(slides / "s0.tif", tmp_path, encoder, layout="clam")
    pt = features.pt_path(report.slides[0].outputs[0])
    whole = pt.read_bytes()
    spoil(pt)
    assert run(slides / "s0.tif", tmp_path, encoder, layout="clam").of("done")
    assert pt.read_bytes() == whole
    assert features.verify([tmp_path]).is_whole


def test_blank_slide_is_a_whole_file_without_patches(encoder, tmp_path):
    blank = np.full((400, 400, 3), 244, np.uint8)
    write_tiff(tmp_path / "blank.tif", [blank], mpp=1.0)
    report = run(tmp_path / "blank.tif", tmp_path / "f", encoder)
    (slide,) = report.slides
    assert (report.exit_code, slide.patches, slide.status) == (0, 0, "empty")
    assert slide.reason == "no tissue was found"
    assert histofast.read_features(report.slides[0].outputs[0]).features.shape == (0, 8)
    assert features.verify([tmp_path / "f"]).is_whole
    before = content(tmp_path)
    (again,) = run(tmp_path / "blank.tif", tmp_path / "f", encoder).slides
    assert (again.status, again.reason) == ("empty", "no tissue was found")
    assert content(tmp_path) == before


def table_of_patches(folder, sides):
    rows = ["file,bag"]
    for i, side in enumerate(sides):
        histofast.slides.write_png(folder / f"{i}.png", picture(side, side, seed=i))
        rows.append(f"{i}.png,bag{side}")
    return write_list(folder / "patches.csv", "\n".join(rows))


def test_dry_run_tries_the_size_of_the_bags(tmp_path):
    table = table_of_patches(tmp_path, [40] * 3 + [48])
    fixed = write_encoder(tmp_path / "fixed.onnx", name="fixed", side=40, patch_px=40)
    for options in ({"dry_run": True}, {}):
        report = run(None, tmp_path / "f", fixed, patches=table, **options)
        status = "done" if not options else "planned"
        assert [(each.status, each.patches) for each in report.slides] == [(status, 3), (status, 1)]
        note = "patch images of 48 px are resampled to 40 px by area averaging"
        assert report.notes.count(note) == 1
        assert report.about.get("estimated_seconds", 1) > 0


def test_dry_run_times_patches_as_they_will_be(tmp_path, encoder, monkeypatch):
    tried = []
    encode = histofast.encoders.EncoderSet.encode

    def seen(self, pixels):
        tried.append(pixels.shape[1:])
        return encode(self, pixels)

    monkeypatch.setattr(histofast.encoders.EncoderSet, "encode", seen)
    table = table_of_patches(tmp_path, [40, 48, 48])
    run(None, tmp_path / "f", encoder, patches=table, dry_run=True)
    assert set(tried) == {(48, 48, 3)}


def test_dry_run_of_nothing_but_failures(tmp_path):
    fixed = write_encoder(tmp_path / "fixed.onnx", name="fixed", side=40, patch_px=40)
    (tmp_path / "a.svs").write_bytes(b"")
    for options in ({}, {"patches": table_of_patches(tmp_path, [30])}):
        given = None if options else tmp_path / "a.svs"
        report = run(given, tmp_path / "f", fixed, dry_run=True, **options)
        assert [s.status for s in report.slides] == ["failed"]
        assert report.about["estimated_seconds"] == 0


def test_dry_run_writes_nothing(slides, encoder, tmp_path):
    report = run(slides, tmp_path / "f", encoder, dry_run=True)
    done = run(slides, tmp_path / "g", encoder)
    assert [s.patches for s in report.slides] == [s.patches for s in done.slides]
    assert report.about["estimated_seconds"] > 0
    assert not (tmp_path / "f").exists()


# --- resume ---------------------------------------------------------------------------------------


def test_what_is_there_is_skipped(slides, encoder, tmp_path):
    run(slides, tmp_path, encoder)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.h5")}
    report = run(slides, tmp_path, encoder)
    assert [s.status for s in report.slides] == ["skipped"] * 3
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.h5")}


def test_a_copied_slide_is_the_same_slide(slides, encoder, tmp_path):
    run(slides / "s0.tif", tmp_path / "f", encoder)
    shutil.copy(slides / "s0.tif", tmp_path / "s0.tif")
    assert run(tmp_path / "s0.tif", tmp_path / "f", encoder).of("skipped")


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"min_tissue": 0.5}, "min_tissue"),
        ({"tissue": TissueOptions(threshold=30)}, "tissue.threshold"),
        ({"edge": "shift"}, "edge"),
        ({"half": True}, "dtype"),
        ({"encoder": "other"}, "encoder.sha256"),
        ({"mpp_override": 1.04}, "level0_mpp"),
    ],
)
def test_files_of_another_making_are_never_taken_for_ours(
    slides, encoder, tmp_path, change, differs
):
    run(slides / "s0.tif", tmp_path / "f", encoder)
    before = content(tmp_path)
    change = dict(change)
    used = encoder
    if change.pop("encoder", None):
        used = write_encoder(tmp_path / "tiny.onnx", scale=0.5)  # same name, other content
    if differs == "level0_mpp":  # of this slide
        report = run(slides / "s0.tif", tmp_path / "f", used, **change)
        (slide,) = report.of("failed")
        assert "was made by something else (level0_mpp: 1.0, not 1.04)" in slide.error
        assert "overwrite=True" in slide.error
    else:
        with pytest.raises(
            FeatureError, match=rf"is for features made with {differs} .* asked for"
        ):
            run(slides / "s1.tif", tmp_path / "f", used, **change)
    assert content(tmp_path) == before
    assert run(slides / "s0.tif", tmp_path / "f", used, overwrite=True, **change).of("done")
    assert content(tmp_path) != before


def test_polygons_are_drawn_at_the_scale_that_tissue_is_looked_for(slides, encoder, tmp_path):
    corners = [[100, 100], [333, 111], [301, 303], [100, 300], [100, 100]]
    mask = tmp_path / "mask.geojson"
    mask.write_text(json.dumps({"type": "Polygon", "coordinates": [corners]}))
    run(slides / "s0.tif", tmp_path, encoder, mask=mask)
    assert run(slides / "s0.tif", tmp_path, encoder, mask=mask).of("skipped")
    coarse = TissueOptions(mpp=60.0, threshold=30)
    (slide,) = run(slides / "s0.tif", tmp_path, encoder, mask=mask, tissue=coarse).of("failed")
    assert "tissue.overview_mpp: 8.0, not 60.0" in slide.error
    assert "threshold" not in slide.error  # there is none to polygons


def test_the_pixels_of_a_mask_do_not_depend_on_options(slides, encoder, tmp_path):
    histofast.slides.write_png(tmp_path / "mask.png", np.ones((80, 64), np.uint8))
    options = {"mask": tmp_path / "mask.png"}
    run(slides / "s0.tif", tmp_path, encoder, **options)
    coarse = TissueOptions(mpp=60.0)
    assert run(slides / "s0.tif", tmp_path, encoder, tissue=coarse, **options).of("skipped")


def test_numbers_of_numpy_are_numbers(slides, encoder, tmp_path):
    run(slides / "s0.tif", tmp_path / "f", encoder, mpp=2.0, patch_px=32, min_tissue=0.25)
    report = run(
        slides / "s0.tif",
        tmp_path / "g",
        encoder,
        mpp=np.float32(2),
        patch_px=np.int64(32),
        overlap_px=np.uint8(0),
        min_tissue=np.float16(0.25),
        batch_size=np.int32(8),
        threads=np.int64(1),
        workers=np.int64(2),
        tissue=TissueOptions(
            mpp=np.float64(8), min_area_um2=20_000, max_hole_um2=np.int64(100_000)
        ),
    )
    assert report.exit_code == 0
    assert content(tmp_path / "f") == content(tmp_path / "g")
    assert json.loads((tmp_path / "g" / "run.json").read_text())["about"]["options"]["mpp"] == 2.0
    with pytest.raises(TypeError, match=r"patch_px must be a whole number, got 32\.5"):
        run(slides, tmp_path, encoder, patch_px=32.5)
    with pytest.raises(TypeError, match="mpp must be a number, got '2'"):
        run(slides, tmp_path, encoder, mpp="2")
    with pytest.raises(TypeError, match=r"threshold must be a whole number, got 1\.5"):
        TissueOptions(threshold=1.5)


@pytest.mark.parametrize(("provider", "counts"), [("CUDA", True), ("CPU", False)])
def test_batch_size_counts_where_bytes_may_depend_on_it(
    slides, encoder, tmp_path, monkeypatch, provider, counts
):
    """With an encoder that says it is on a GPU."""
    load = encoding.load_all

    def pretend(*arguments, **options):
        loaded = load(*arguments, **options)
        loaded.provider = f"{provider}ExecutionProvider"
        return loaded

    monkeypatch.setattr(encoding, "load_all", pretend)
    run(slides / "s0.tif", tmp_path, encoder, batch_size=8)
    assert run(slides / "s0.tif", tmp_path, encoder, batch_size=8).of("skipped")
    report = run(slides / "s0.tif", tmp_path, encoder, batch_size=16)
    assert len(report.of("failed")) == counts
    if counts:
        assert "encoder.batch_size: 8, not 16" in report.slides[0].error


def test_notes_on_encoders_are_reported(slides, encoder, tmp_path, monkeypatch):
    load = encoding.load_all

    def noted(name, **options):
        loaded = load(name, **options)
        loaded.device_note = "" if loaded.name == "quiet" else "better elsewhere"
        return loaded

    monkeypatch.setattr(encoding, "load_all", noted)
    quiet = write_encoder(tmp_path / "quiet.onnx", name="quiet")
    report = run(slides / "s0.tif", tmp_path / "f", [encoder, quiet])
    assert report.notes == ["tiny: better elsewhere"]
    saved = json.loads((tmp_path / "f" / "run.json").read_text())
    assert saved["notes"] == ["tiny: better elsewhere"]
    assert report.exit_code == 0


def test_a_broken_feature_file_is_in_the_way(slides, encoder, tmp_path):
    report = run(slides / "s0.tif", tmp_path, encoder)
    path = Path(report.slides[0].outputs[0])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    (slide,) = run(slides / "s0.tif", tmp_path, encoder).of("failed")
    assert "is no feature file of histofast, or a broken one" in slide.error
    assert run(slides / "s0.tif", tmp_path, encoder, overwrite=True).of("done")
    assert path.read_bytes() == whole


# --- what goes wrong ------------------------------------------------------------------------------


def test_bad_slides_do_not_stop_the_others(slides, encoder, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(slides, folder)
    (folder / "a_empty.svs").write_bytes(b"")
    (folder / "b_text.svs").write_text("not a slide at all")
    whole = (slides / "s0.tif").read_bytes()
    (folder / "t_cut.tif").write_bytes(whole[: len(whole) // 2])
    write_tiff(folder / "u_no_mpp.tif", [picture(300, 300)], mpp=None)
    write_tiff(folder / "v_small.tif", [picture(40, 40)], mpp=1.0)
    write_tiff(folder / "w_coarse.tif", [picture(300, 300)], mpp=4.0)
    report = run(folder, tmp_path / "f", encoder)
    assert report.exit_code == 1
    assert len(report.of("done")) == 3
    errors = {s.name: s.error for s in report.of("failed")}
    assert set(errors) == {"a_empty", "b_text", "t_cut", "u_no_mpp", "v_small", "w_coarse"}
    assert "mpp_override" in errors["u_no_mpp"]
    assert "patch_px must fit the slide" in errors["v_small"]
    assert "allow_upsampling=True" in errors["w_coarse"]
    assert all("\n" not in text and text for text in errors.values())
    saved = json.loads((tmp_path / "f" / "run.json").read_text())
    assert {s["name"] for s in saved["slides"] if s["status"] == "failed"} == set(errors)
    assert len(content(tmp_path / "f")) == 3


def test_fail_fast(slides, encoder, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(slides, folder)
    (folder / "a_empty.svs").write_bytes(b"")
    report = run(folder, tmp_path / "f", encoder, fail_fast=True)
    assert [s.status for s in report.slides] == ["failed"] + ["interrupted"] * 3
    assert report.exit_code == 1
    assert not content(tmp_path / "f")
    assert no_leftovers(tmp_path)


def test_an_unreadable_tile_is_counted_and_listed(encoder, tmp_path):
    path = write_slide(tmp_path / "hurt.tif")
    offset, size = tile_extent(path, 3 * 8 + 4)  # column 4, row 3 of level 0
    overwrite(path, offset, b"\xff\xd8" + bytes(size - 2))
    report = run(path, tmp_path / "f", encoder)
    assert report.exit_code == 0
    (slide,) = report.slides
    assert slide.unreadable == 1
    assert slide.damaged_patches >= 1
    file = histofast.read_features(slide.outputs[0])
    assert file.unreadable.tolist() == [[256, 192, 64, 64]]
    x, y = file.coords.T
    expected = np.flatnonzero((x < 320) & (x + 64 > 256) & (y < 256) & (y + 64 > 192))
    assert file.unreadable_patches.tolist() == expected.tolist()
    (slide,) = run(path, tmp_path / "g", encoder, strict=True).of("failed")
    assert "strict=True" in slide.error
    assert not content(tmp_path / "g")


def hurt_tile(path, index, *, page=0):
    offset, size = tile_extent(path, index, page=page)
    overwrite(path, offset, b"\xff\xd8" + bytes(size - 2))


def test_an_unreadable_tile_of_the_overview_is_counted_and_listed(encoder, tmp_path):
    """Level 1 is what tissue is found on, level 0 what patches are cut from."""
    whole = run(write_slide(tmp_path / "whole.tif", size=(1280, 1024)), tmp_path / "w", encoder)
    path = write_slide(tmp_path / "hurt.tif", size=(1280, 1024))
    for index in (5, 6, 9, 10):
        hurt_tile(path, index, page=1)
    (slide,) = run(path, tmp_path / "f", encoder).slides
    assert (slide.status, slide.unreadable, slide.damaged_patches) == ("done", 4, 0)
    # Level 0 shows what level 1 does not, but for the traces of JPEG.
    assert abs(slide.patches - whole.slides[0].patches) <= 2
    file = histofast.read_features(slide.outputs[0])
    assert file.unreadable.tolist() == [[x, y, 256, 256] for y in (256, 512) for x in (256, 512)]
    assert file.unreadable_patches.tolist() == []
    assert features.verify([tmp_path / "f"]).is_whole
    for options in ({}, {"dry_run": True}):
        (slide,) = run(path, tmp_path / "g", encoder, strict=True, **options).of("failed")
        assert "tile (column 1, row 1) of level 1 cannot be decoded" in slide.error
        assert "(strict=True)" in slide.error
    assert not content(tmp_path / "g")


def test_an_unreadable_tile_is_listed_once(encoder, tmp_path):
    """Of a slide of one level both the overview and the patches need it."""
    image = np.full((1280, 1024, 3), 245, np.uint8)
    image[64:-64, 64:-64] = picture(1152, 896)
    path = write_tiff(tmp_path / "hurt.tif", [image], compression="jpeg", mpp=1.0, tile_px=256)
    hurt_tile(path, 5)
    hurt_tile(path, 0)
    (slide,) = run(path, tmp_path / "f", encoder, edge="shift").slides
    file = histofast.read_features(slide.outputs[0])
    assert (slide.status, slide.unreadable) == ("done", 2)
    assert file.unreadable.tolist() == [[0, 0, 256, 256], [256, 256, 256, 256]]
    (slide,) = run(path, tmp_path / "g", encoder, strict=True).of("failed")
    assert "tile (column 0, row 0) of level 0" in slide.error


def test_a_skipped_slide_has_no_error_of_the_one_before(slides, encoder, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(slides / "s1.tif", folder / "b.tif")
    run(folder / "b.tif", tmp_path / "f", encoder)
    hurt_tile(write_slide(folder / "a.tif"), 3 * 8 + 4)
    report = run(folder, tmp_path / "f", encoder, strict=True)
    assert [(s.name, s.status) for s in report.slides] == [("a", "failed"), ("b", "skipped")]
    assert report.slides[1].error == ""


def test_strict_looks_at_what_is_there(encoder, tmp_path):
    path = write_slide(tmp_path / "hurt.tif")
    intact = path.read_bytes()
    hurt_tile(path, 3 * 8 + 4)
    (done,) = run(path, tmp_path / "f", encoder).slides
    (slide,) = run(path, tmp_path / "f", encoder).of("skipped")
    assert (slide.unreadable, slide.damaged_patches) == (1, done.damaged_patches)
    before = content(tmp_path)
    (slide,) = run(path, tmp_path / "f", encoder, strict=True).of("failed")
    assert "lists 1 unreadable region, which strict=True refuses: copy the" in slide.error
    (slide,) = run(path, tmp_path / "f", encoder, strict=True, overwrite=True).of("failed")
    assert "(strict=True)" in slide.error
    assert content(tmp_path) == before
    path.write_bytes(intact)
    (slide,) = run(path, tmp_path / "f", encoder, strict=True, overwrite=True).of("done")
    assert slide.unreadable == 0
    assert run(path, tmp_path / "f", encoder, strict=True).of("skipped")


def test_a_report_that_cannot_be_written(slides, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("histofast.pipeline.reports.SAVE_S", 0.0)
    folder = tmp_path / "in"
    shutil.copytree(slides, folder)
    (folder / "a_empty.svs").write_bytes(b"")
    (tmp_path / "f" / "run.json").mkdir(parents=True)
    report = run(folder, tmp_path / "f", encoder)
    assert [s.status for s in report.slides] == ["failed", "done", "done", "done"]
    assert (report.exit_code, report.error, report.path) == (1, "", "")
    assert report.unsaved == f"cannot write {tmp_path / 'f' / 'run.json'}: Is a directory"
    report = run(slides, tmp_path / "f", encoder)
    assert len(report.of("skipped")) == 3
    assert (report.exit_code, bool(report.unsaved)) == (1, True)
    assert no_leftovers(tmp_path)

    def make_room(progress):
        if progress.slides_done == 1 and (tmp_path / "g" / "run.json").is_dir():
            assert not (tmp_path / "g" / "run.json").rmdir()

    (tmp_path / "g" / "run.json").mkdir(parents=True)
    report = run(slides, tmp_path / "g", encoder, on_progress=make_room)
    assert (report.exit_code, report.unsaved) == (0, "")
    saved = json.loads((tmp_path / "g" / "run.json").read_text())
    assert saved["path"] == report.path == str(tmp_path / "g" / "run.json")


def test_an_encoder_that_yields_infinity(slides, tmp_path):
    bad = write_encoder(tmp_path / "bad.onnx", name="bad", scale=float("inf"))
    (slide,) = run(slides / "s0.tif", tmp_path / "f", bad).of("failed")
    assert "NaN or infinity" in slide.error
    assert not content(tmp_path / "f")
    assert no_leftovers(tmp_path)


def test_no_space_stops_the_run(slides, encoder, tmp_path, monkeypatch):
    def full(self, offset, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Temporary, "write", full)
    report = run(slides, tmp_path, encoder)
    assert [s.status for s in report.slides] == ["failed", "interrupted", "interrupted"]
    assert "no space left" in report.error
    assert report.exit_code == 1
    assert no_leftovers(tmp_path)


def test_a_disk_that_is_really_full(slides, encoder, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small tmpfs here")
    try:
        (disk / "filler").write_bytes(bytes(56 << 10))
        report = run(slides, disk, encoder)
        assert report.exit_code == 1
        assert "no space left" in report.error
        assert not content(disk)
        (disk / "filler").unlink()
        assert run(slides / "s0.tif", disk, encoder).exit_code == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_output_folder_that_cannot_be_one(slides, encoder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot write to"):
        run(slides, tmp_path / "file", encoder)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"encoder": []}, ValueError, "encoder must name at least one"),
        ({"encoder": "densnet121-t2"}, ModelError, "densenet121-t2"),
        ({"mpp": 0.001}, ValueError, r"mpp must be within 0.05..20 um per pixel, got 0.001"),
        ({"mpp": 0}, ValueError, r"mpp must be within 0.05..20 um per pixel, got 0"),
        ({"patch_px": 0}, ValueError, r"patch_px must be at least 1, got 0"),
        ({"mpp_override": 50.0}, ValueError, r"mpp_override must be within"),
        ({"overlap_px": 32}, ValueError, r"overlap_px must be within 0..31, got 32"),
        ({"min_tissue": 2.0}, ValueError, r"min_tissue must be within 0..1"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"shard": "0/3"}, ValueError, r"shard must be i/n with 1 <= i <= n, got '0/3'"),
        ({"shard": "x"}, ValueError, "shard must be i/n"),
        ({"layout": "nobody"}, ValueError, "layout must be one of trident, clam, stamp"),
        ({"edge": "crop"}, ValueError, "edge must be one of drop, shift"),
        ({"device": "tpu"}, ValueError, "device must be one of auto, cpu"),
        ({"patches": "p.csv"}, ValueError, "slides or patches must be given, and not both"),
        ({"mask": "none.png"}, FileNotFoundError, "no such mask"),
        (
            {"encoder": 3},
            TypeError,
            "encoder must be a name, a path, a torch module or several, got 3",
        ),
        ({"encoder": [b"a"]}, TypeError, "encoder must be a path, got b'a'"),
        ({"mpp": "0.5"}, TypeError, "mpp must be a number, got '0.5'"),
        ({"mpp": float("nan")}, ValueError, "mpp must be within .* got nan"),
        ({"mpp_override": "0.5"}, TypeError, "mpp_override must be a number, got '0.5'"),
        ({"min_tissue": "a lot"}, TypeError, "min_tissue must be a number, got 'a lot'"),
        ({"min_tissue": None}, TypeError, "min_tissue must be a number, got None"),
        ({"overlap_px": "0"}, TypeError, "overlap_px must be a whole number, got '0'"),
        ({"overlap_px": None}, TypeError, "overlap_px must be a number, got None"),
        ({"overlap_px": -1}, ValueError, "overlap_px must be within 0..31, got -1"),
        ({"patch_px": "32"}, TypeError, "patch_px must be a whole number, got '32'"),
        ({"threads": "2"}, TypeError, "threads must be a whole number, got '2'"),
        ({"workers": 1.5}, TypeError, r"workers must be a whole number, got 1\.5"),
        ({"batch_size": True}, TypeError, "batch_size must be a whole number, got True"),
        ({"edge": 1}, ValueError, "edge must be one of drop, shift, got 1"),
        ({"layout": None}, ValueError, "layout must be one of trident, clam, stamp, got None"),
        ({"half": "yes"}, TypeError, "half must be True or False, got 'yes'"),
        ({"strict": 1}, TypeError, "strict must be True or False, got 1"),
        ({"recursive": "no"}, TypeError, "recursive must be True or False, got 'no'"),
        ({"dry_run": "no"}, TypeError, "dry_run must be True or False, got 'no'"),
        ({"tissue": 8.0}, TypeError, r"tissue must be TissueOptions or .*, got 8\.0"),
        ({"shard": 1}, TypeError, "shard must be a text, got 1"),
        ({"device": None}, TypeError, "device must be a text, got None"),
        ({"gpus": 0}, TypeError, "gpus must be a list of whole numbers, got 0"),
        ({"mask": 3}, TypeError, "mask must be a path, got 3"),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_slide(
    slides, encoder, tmp_path, options, error, message
):
    options = {"encoder": encoder} | options
    with pytest.raises(error, match=message):
        run(slides, tmp_path / "f", options.pop("encoder"), **options)
    assert not (tmp_path / "f").exists()


def test_wrong_paths_are_refused(slides, encoder, tmp_path):
    with pytest.raises(TypeError, match="slides must be a path or several, got 3"):
        run(3, tmp_path / "f", encoder)
    with pytest.raises(TypeError, match="slides must be a path, got None"):
        run([slides, None], tmp_path / "f", encoder)
    with pytest.raises(TypeError, match="out must be a path, got None"):
        run(slides, None, encoder)
    with pytest.raises(TypeError, match="patches must be a path, got 3"):
        run(None, tmp_path / "f", encoder, patches=3)


def test_options_are_checked_when_they_are_made(tmp_path):
    options = ExtractOptions(out=str(tmp_path), patch_px=np.int64(3), strict=np.True_, threads=None)
    assert (options.out, options.patch_px, options.strict) == (tmp_path, 3, True)
    assert type(options.patch_px) is int
    assert options.threads >= 1
    with pytest.raises(AttributeError, match="cannot assign to field"):
        options.out = tmp_path / "elsewhere"
    with pytest.raises(ValueError, match="patch_px must be at least 1, got 0"):
        replace(options, patch_px=0)
    with pytest.raises(ValueError, match="encoder must name at least one encoder, got none"):
        ExtractOptions(out=tmp_path, encoders=())


def test_fixed_patch_size(slides, tmp_path):
    fixed = write_encoder(tmp_path / "fixed.onnx", name="fixed", side=32)
    with pytest.raises(ValueError, match="patch_px must be 32 for encoder fixed, got 64"):
        run(slides, tmp_path / "f", fixed, patch_px=64)
    assert run(slides / "s0.tif", tmp_path / "f", fixed).exit_code == 0


# --- several batches under way --------------------------------------------------------------------


class Deferred:
    """An encoder that works as one on a GPU does: a result is there when it is asked for."""

    def __init__(self, encoder, in_flight=3, fails_at=None, device="cuda:0"):
        self.encoder, self.in_flight, self.fails_at = encoder, in_flight, fails_at
        self.device, self.busy_s = device, 0.0
        self.open, self.most, self.submitted, self.discarded = [], 0, 0, 0

    def __getattr__(self, name):
        return getattr(self.encoder, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        assert not self.open, "all must be asked for or discarded"
        self.encoder.close()

    def submit(self, pixels):
        assert len(self.open) < self.in_flight
        pending = DeferredBatch(self, pixels.copy(), self.submitted == self.fails_at)
        self.open.append(pending)
        self.submitted += 1
        self.most = max(self.most, len(self.open))
        return pending


class DeferredBatch:
    def __init__(self, owner, pixels, fails):
        self.owner, self.pixels, self.fails = owner, pixels, fails

    def result(self):
        assert self.owner.open.pop(0) is self, "in the order of submission, and once"
        begin = time.perf_counter()
        found = self.owner.encoder.encode(self.pixels)
        self.owner.busy_s += time.perf_counter() - begin
        if self.fails:
            raise ModelError("the GPU is out of memory")
        return found

    def discard(self):
        assert self.owner.open.pop(0) is self
        self.owner.discarded += 1


@pytest.fixture
def deferred(monkeypatch):
    """Have `extract` use deferred encoders, with the given options; gives those it loads."""
    loaded, options, load = [], {}, encoding.load_all

    def load_deferred(name, **others):
        loaded.append(Deferred(load(name, **others), **options))
        return loaded[-1]

    monkeypatch.setattr(encoding, "load_all", load_deferred)
    return loaded, options


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_batches_under_way_change_no_bytes(slides, encoder, tmp_path, deferred, in_flight):
    loaded, options = deferred
    options["in_flight"] = in_flight
    other = write_encoder(tmp_path / "other.onnx", name="other", d=5)
    seen = []
    report = run(slides, tmp_path / "f", [encoder, other], batch_size=4, on_progress=seen.append)
    assert [s.status for s in report.slides] == ["done"] * 3
    assert [one.most for one in loaded] == [in_flight] * 2
    assert [one.discarded for one in loaded] == [0, 0]
    assert seen[-1].patches_done == report.patches
    counts = [p.slide_patches_done for p in seen if p.name == "s1" and not p.finished]
    assert counts == sorted(counts)
    assert counts[-1] == report.slides[1].patches
    monkeypatched, encoding.load_all = encoding.load_all, histofast.encoders.load_all
    run(slides, tmp_path / "g", [encoder, other], batch_size=4)
    encoding.load_all = monkeypatched
    assert content(tmp_path / "f") == content(tmp_path / "g")


@pytest.mark.parametrize("fails_at", [0, 1, 4, 10])
def test_a_batch_under_way_that_fails_fails_its_slide_alone(
    slides, encoder, tmp_path, deferred, fails_at
):
    (loaded, options), other = deferred, write_encoder(tmp_path / "o.onnx", name="other", d=5)
    options["fails_at"] = fails_at
    report = run(slides, tmp_path / "f", [encoder, other], batch_size=4)
    assert [s.status for s in report.slides].count("failed") == 1
    assert [s.error for s in report.of("failed")] == ["the GPU is out of memory"]
    written = sorted(Path(name).stem for name in content(tmp_path / "f"))
    assert written == sorted(2 * [slide.name for slide in report.of("done")])
    assert no_leftovers(tmp_path)
    assert {one.submitted > fails_at for one in loaded} == {True}


def test_ctrl_c_with_batches_under_way(slides, encoder, tmp_path, deferred):
    def interrupt(progress):
        if progress.slides_done == 1 and progress.slide_patches_done:
            raise KeyboardInterrupt

    report = run(slides, tmp_path, encoder, on_progress=interrupt, batch_size=4)
    assert [s.status for s in report.slides] == ["done", "interrupted", "interrupted"]
    assert deferred[0][0].discarded == 2
    assert [Path(name).name for name in content(tmp_path)] == ["s0.h5"]
    assert no_leftovers(tmp_path)


def test_what_limits_a_run_is_reported(slides, encoder, tmp_path, monkeypatch):
    report = run(slides, tmp_path / "f", encoder)
    (device,) = report.devices
    assert (device.device, device.slides, device.patches) == ("cpu", 3, report.patches)
    assert 0 < device.busy <= 1
    saved = json.loads((tmp_path / "f" / "run.json").read_text())
    assert (saved["limit"], saved["devices"][0]["busy"]) == (report.limit, device.busy)
    assert {"wait", "encode", "write"} <= set(saved["slides"][0]["seconds"])

    def slowed(kind, name):
        method = getattr(kind, name)

        def slow(self, *arguments, **options):
            time.sleep(0.02)
            return method(self, *arguments, **options)

        return kind, name, slow

    for limit, kind, name in (
        ("writing", features.FeatureWriter, "append"),
        ("encoding", histofast.encoders.EncoderSet, "submit"),
        ("decoding", histofast.slides.tiff.TiffSlide, "read_tile"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(*slowed(kind, name))
            report = run(slides, tmp_path / limit, encoder, batch_size=8)
        assert report.limit == limit
    again = run(slides, tmp_path / "f", encoder)
    assert (again.limit, again.devices[0].patches) == ("", 0)


# --- jobs -----------------------------------------------------------------------------------------


def test_two_slides_of_one_name(slides, tmp_path):
    (tmp_path / "s0.svs").write_bytes(b"")
    with pytest.raises(ValueError, match=r"both .*s0.svs and .*s0.tif are 's0': rename one"):
        list_jobs([slides / "s0.tif", tmp_path / "s0.svs"])


def write_list(path, text):
    path.write_text(text)
    return path


def test_csv_list(slides, encoder, tmp_path):
    lines = [f"{slides / 's0.tif'},1.2,", f"{slides / 's1.tif'},,"]
    table = write_list(tmp_path / "l.csv", "\n".join(["wsi,mpp,note", *lines]))
    report = run(table, tmp_path / "f", encoder)
    mpps = [histofast.read_features(s.outputs[0]).attributes["level0_mpp"] for s in report.slides]
    assert mpps == [1.2, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,mpp\na,1\n", r"must have a column file \(or .*\), got picture, mpp"),
        ("wsi,mpp\na.svs,fast\n", "line 2: mpp must be a finite number, got 'fast'"),
        ("wsi,mpp\na.svs,90\n", r"line 2: mpp must be within 0.05..20 um per pixel, got 90"),
        ("wsi\n", "must have a header and at least one row"),
        ("wsi,mpp\n,0.5\n", "line 2: wsi is empty"),
        ("wsi\na.svs\na.svs\n", "slides must be given once each, got .*a.svs twice"),
    ],
)
def test_csv_list_refuses(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        list_jobs(write_list(tmp_path / "l.csv", text))


def test_csv_list_with_a_slide_that_is_not_there(slides, encoder, tmp_path):
    table = write_list(tmp_path / "l.csv", f"wsi\nnone.svs\n{slides / 's0.tif'}\n")
    report = run(table, tmp_path / "f", encoder)
    assert [s.status for s in report.slides] == ["failed", "done"]
    assert "none.svs" in report.slides[0].error


def test_shards_are_a_stable_partition():
    jobs = [Job(name=f"slide-{i}", path=Path(f"{i}.svs")) for i in range(200)]
    parts = [select_shard(jobs, f"{i}/7") for i in range(1, 8)]
    assert sorted(j.name for part in parts for j in part) == sorted(j.name for j in jobs)
    assert all(parts)
    fewer = [j for i, j in enumerate(jobs) if i % 3]
    for i, part in enumerate(parts, start=1):
        assert [j for j in part if j in fewer] == select_shard(fewer, f"{i}/7")


def test_shards_together_are_the_whole(slides, encoder, tmp_path):
    run(slides, tmp_path / "all", encoder)
    for i in (1, 2):
        run(slides, tmp_path / "parts", encoder, shard=f"{i}/2")
    assert content(tmp_path / "parts") == content(tmp_path / "all")
    assert (tmp_path / "parts" / "run-1of2.json").is_file()


def test_ready_masks(slides, encoder, tmp_path):
    mask = np.zeros((80, 64), np.uint8)
    mask[40:, 32:] = 1
    histofast.slides.write_png(tmp_path / "s0.png", mask * 255)
    report = run(slides / "s0.tif", tmp_path / "f", encoder, mask=tmp_path / "s0.png")
    coords = histofast.read_features(report.slides[0].outputs[0]).coords
    assert coords.tolist() == [[x, y] for y in range(320, 640, 64) for x in range(256, 512, 64)]
    square = [[[0, 0], [128, 0], [128, 128], [0, 128], [0, 0]]]
    text = json.dumps({"type": "Polygon", "coordinates": square})
    (tmp_path / "s0.geojson").write_text(text)
    report = run(slides / "s0.tif", tmp_path / "g", encoder, mask=tmp_path / "s0.geojson")
    coords = histofast.read_features(report.slides[0].outputs[0]).coords
    assert coords.tolist() == [[0, 0], [64, 0], [0, 64], [64, 64]]
    (tmp_path / "s0.png").unlink()
    (tmp_path / "s0.geojson").write_text("{")
    report = run(slides, tmp_path / "h", encoder, mask=tmp_path)
    assert "must be GeoJSON" in report.slides[0].error
    assert "no such mask: " in report.slides[1].error
    with pytest.raises(ValueError, match="mask must be a folder of masks"):
        run(slides, tmp_path / "h", encoder, mask=tmp_path / "s0.geojson")


def test_patches_csv(encoder, tmp_path):
    rows = ["file,bag,label,x,y"]
    images = [picture(40, 40, seed=i) for i in range(6)]
    for i, image in enumerate(images):
        histofast.slides.write_png(tmp_path / f"{i}.png", image)
        rows.append(f"{i}.png,{'a' if i < 4 else 'b'},1,{40 * i},0")
    table = write_list(tmp_path / "patches.csv", "\n".join(rows))
    report = run(None, tmp_path / "f", encoder, patches=table)
    assert [(s.name, s.patches, s.status) for s in report.slides] == [
        ("a", 4, "done"),
        ("b", 2, "done"),
    ]
    file = histofast.read_features(report.slides[0].outputs[0])
    with histofast.load_encoder(encoder) as loaded:
        np.testing.assert_array_equal(file.features, loaded.encode(np.stack(images[:4])))
    assert file.coords[:, 0].tolist() == [0, 40, 80, 120]
    assert features.verify([tmp_path / "f"]).is_whole
    assert len(run(None, tmp_path / "f", encoder, patches=table).of("skipped")) == 2
    (tmp_path / "5.png").write_bytes(b"\x89PNG broken")
    report = run(None, tmp_path / "g", encoder, patches=table)
    assert [s.status for s in report.slides] == ["done", "failed"]
    assert "5.png" in report.slides[1].error


def test_real_patches(data, encoder, tmp_path):
    """The real table names no slides: a patient is a bag."""
    report = run(None, tmp_path, encoder, patches=data / "idc_dense" / "labels.csv", mpp=4.0)
    assert {s.name: s.patches for s in report.of("done")} == {"14082": 478, "14306": 431}
    assert features.verify([tmp_path]).is_whole


def test_stitched_idc_slides(data, encoder, tmp_path):
    """Two real patients' patches, put back where they were: two slides with a known tissue area."""
    with (data / "idc_dense" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    covered = {}
    for patient in ("14082", "14306"):
        mine = [r for r in rows if r["patient"] == patient]
        canvas = np.full((2500, 3000, 3), 244, np.uint8)
        for row in mine:
            x, y = int(row["x"]), int(row["y"])
            canvas[y : y + 50, x : x + 50] = read_image(data / "idc_dense" / row["file"])
        covered[patient] = len(mine) * 50 * 50
        write_array_pyramid(tmp_path / f"{patient}.tif", canvas, mpp=4.0, levels=3, factor=2)
    report = run(tmp_path, tmp_path / "f", encoder, mpp=4.0, patch_px=50, min_tissue=0.5)
    assert [s.status for s in report.slides] == ["done", "done"], report.slides
    assert features.verify([tmp_path / "f"]).is_whole
    for slide in report.slides:
        assert 0.7 < slide.patches * 2500 / covered[slide.name] < 1.2
    report = run(tmp_path, tmp_path / "g", encoder, mpp=8.0, patch_px=64)
    assert report.exit_code == 0


# --- interruptions and company --------------------------------------------------------------------


def test_ctrl_c_leaves_whole_files_only(slides, encoder, tmp_path):
    def interrupt(progress):
        if progress.slides_done == 1 and progress.slide_patches_done:
            raise KeyboardInterrupt

    report = run(slides, tmp_path, encoder, on_progress=interrupt, batch_size=4)
    assert report.exit_code == 130
    assert [s.status for s in report.slides] == ["done", "interrupted", "interrupted"]
    assert json.loads((tmp_path / "run.json").read_text())["interrupted"]
    assert [Path(name).name for name in content(tmp_path)] == ["s0.h5"]
    assert no_leftovers(tmp_path)
    assert run(slides, tmp_path, encoder).exit_code == 0


def test_a_slide_that_another_run_is_making_is_left_to_it(slides, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "POLL_S", 0.02)
    done = run(slides, tmp_path / "g", encoder)
    path = tmp_path / "f" / Path(done.slides[1].outputs[0]).relative_to(tmp_path / "g")
    other = Lock(path)
    assert other.acquire()

    def let_go(progress):
        if progress.slides_done == 2 and progress.finished:  # the other run finishes its slide
            path.write_bytes(Path(done.slides[1].outputs[0]).read_bytes())
            other.release()

    report = run(slides, tmp_path / "f", encoder, on_progress=let_go)
    assert {s.name: s.status for s in report.slides} == {
        "s0": "done",
        "s2": "done",
        "s1": "skipped",
    }
    assert content(tmp_path / "f") == content(tmp_path / "g")


def test_errors_after_the_lock_give_it_back(slides, encoder, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise ValueError("planning failed")

    monkeypatch.setattr("histofast.pipeline.sources.plan_patches", fails)
    report = run(slides / "s0.tif", tmp_path, encoder)
    assert (report.slides[0].status, report.slides[0].error) == ("failed", "planning failed")
    with Lock(Path(report.slides[0].outputs[0])) as held:
        assert held


SCRIPT = """
import sys, histofast, histofast.pipeline
print(flush=True)
sys.stdin.readline()
report = histofast.extract(sys.argv[1], out=sys.argv[2], encoder=sys.argv[3], min_tissue=0.1,
                           batch_size=4, threads=1, workers=2)
sys.exit(report.exit_code)
"""


def start(slides, out, encoder):
    """Start a process that waits for a line: one that is late finds all done, and says so in its report."""
    arguments = [sys.executable, "-c", SCRIPT, str(slides), str(out), str(encoder)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.fixture(scope="module")
def ten_slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ten")
    for i in range(10):
        write_slide(folder / f"s{i}.tif", seed=i, size=(1280, 1024))
    return folder


def test_two_processes_share_a_folder(ten_slides, encoder, tmp_path):
    run(ten_slides, tmp_path / "alone", encoder)
    both = [start(ten_slides, tmp_path / "f", encoder) for _ in range(2)]
    for process in both:
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in both:
        process.communicate(timeout=120)
        assert process.returncode == 0
    reports = [json.loads(p.read_text()) for p in (tmp_path / "f").glob("run*.json")]
    done = [s["name"] for r in reports for s in r["slides"] if s["status"] == "done"]
    assert sorted(done) == sorted({f"s{i}" for i in range(10)})  # each exactly once
    assert content(tmp_path / "f") == content(tmp_path / "alone")
