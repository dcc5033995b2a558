"""`histofast patches`: patches as picture files, which `extract` reads again."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import histofast
from histofast.features import read_features
from histofast.pipeline import write_patches
from histofast.slides import open_slide, read_image
from small_slides import no_leftovers, run

PLAN = {"mpp": 2.0, "patch_px": 32, "min_tissue": 0.1}


def table_of(out):
    with (out / "patches.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files_of(out):
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*.png")}


def times_of(out):
    return {p.name: p.stat().st_mtime_ns for p in out.rglob("*.png")}


@pytest.mark.parametrize(
    "plan",
    [{}, {"overlap_px": 8, "edge": "shift"}, {"mag": 10, "mpp": None}, {"stain": "reinhard"}],
    ids=["plain", "overlap", "mag", "stain"],
)
def test_png_files_have_the_very_features_of_the_slides(slides, encoder, tmp_path, plan):
    plan = PLAN | plan
    report = write_patches(slides, out=tmp_path / "p", **plan)
    assert [slide.status for slide in report.slides] == ["done"] * 3
    of_slides = run(slides, tmp_path / "a", encoder, **plan)
    table = tmp_path / "p" / "patches.csv"
    of_files = histofast.extract(patches=table, out=tmp_path / "b", encoder=encoder)
    assert report.patches == of_slides.patches == of_files.patches > 30
    for a, b in zip(
        sorted(slide.outputs[0] for slide in of_slides.slides),
        sorted(slide.outputs[0] for slide in of_files.slides),
        strict=True,
    ):
        ours, theirs = read_features(a), read_features(b)
        assert np.array_equal(ours.coords, theirs.coords)
        assert ours.features.tobytes() == theirs.features.tobytes()


def test_the_table_says_what_the_plan_says(slides, tmp_path):
    write_patches(slides, out=tmp_path, **PLAN)
    rows = table_of(tmp_path)
    assert [*rows[0]] == ["file", "slide", "x", "y", "tissue_fraction", "mpp"]
    assert [*dict.fromkeys(row["slide"] for row in rows)] == ["s0", "s1", "s2"]
    assert {row["file"] for row in rows} == set(files_of(tmp_path))
    with open_slide(slides / "s1.tif") as slide:
        plan = histofast.plan_patches(slide, histofast.find_tissue(slide), **PLAN)
        pixels = np.concatenate([batch for batch, _ in histofast.iter_patches(slide, plan)])
    ours = [row for row in rows if row["slide"] == "s1"]
    assert [[int(row["x"]), int(row["y"])] for row in ours] == plan.coords_l0.tolist()
    assert [np.float32(row["tissue_fraction"]) for row in ours] == [*plan.tissue_fraction]
    assert {row["mpp"] for row in ours} == {"2.0"}
    for row, wanted in zip(ours, pixels, strict=True):
        assert row["file"] == f"s1/{row['x']}_{row['y']}.png"
        assert np.array_equal(read_image(tmp_path / row["file"]), wanted)


def test_jpeg_is_near_and_of_the_quality_that_is_asked_for(slides, tmp_path):
    write_patches(slides / "s0.tif", out=tmp_path / "png", **PLAN)
    sizes = []
    for quality in (40, 95):
        out = tmp_path / str(quality)
        write_patches(slides / "s0.tif", out=out, format="jpeg", quality=quality, **PLAN)
        sizes.append(sum(path.stat().st_size for path in out.rglob("*.jpg")))
        errors = [
            np.abs(read_image(path).astype(int) - read_image(exact).astype(int)).mean()
            for path in sorted(out.rglob("*.jpg"))
            for exact in [tmp_path / "png" / "s0" / f"{path.stem}.png"]
        ]
        assert 0 < np.mean(errors) < 16
    assert sizes[0] < sizes[1]


def test_a_run_goes_on_where_it_was(slides, tmp_path):
    write_patches(slides, out=tmp_path, **PLAN)
    before, times = files_of(tmp_path), times_of(tmp_path)
    # As a killed run leaves it: half a file, one too few, one of another plan, no marker.
    (tmp_path / "s1" / "done.json").unlink()
    first, second, *_ = sorted((tmp_path / "s1").glob("*.png"))
    first.write_bytes(first.read_bytes()[:9])
    second.unlink()
    (tmp_path / "s1" / "7_7.png").write_bytes(b"of another plan")
    (tmp_path / "s1" / "mine.png").write_bytes(b"of somebody else")
    report = write_patches(slides, out=tmp_path, **PLAN)
    assert {slide.name: slide.status for slide in report.slides} == {
        "s0": "skipped",
        "s1": "done",
        "s2": "skipped",
    }
    assert files_of(tmp_path) == before | {"s1/mine.png": b"of somebody else"}
    kept = {p.name for p in (tmp_path / "s0").glob("*.png")}
    kept -= {p.name for p in (tmp_path / "s1").glob("*.png")}
    assert all(times_of(tmp_path / "s0")[name] == times[name] for name in kept)
    assert no_leftovers(tmp_path)


def test_an_interruption_leaves_whole_slides(slides, tmp_path):
    def interrupt(progress):
        if progress.slides_done == 1 and progress.slide_patches_done:
            raise KeyboardInterrupt

    report = write_patches(slides, out=tmp_path, on_progress=interrupt, **PLAN)
    assert report.exit_code == 130
    assert [slide.status for slide in report.slides] == ["done", "interrupted", "interrupted"]
    assert {row["slide"] for row in table_of(tmp_path)} == {"s0"}
    assert not (tmp_path / "s1" / "done.json").exists()


def test_other_options_are_refused_and_replaced_when_asked(slides, tmp_path):
    write_patches(slides / "s0.tif", out=tmp_path, **PLAN)
    finer = PLAN | {"patch_px": 48}
    report = write_patches(slides / "s0.tif", out=tmp_path, **finer)
    assert report.exit_code == 1
    assert "was made by something else (patch_px: 32, not 48)" in report.slides[0].error
    report = write_patches(slides / "s0.tif", out=tmp_path, overwrite=True, **finer)
    assert report.exit_code == 0
    assert {row["file"] for row in table_of(tmp_path)} == set(files_of(tmp_path))
    assert read_image(tmp_path / table_of(tmp_path)[0]["file"]).shape == (48, 48, 3)


def test_shards_together_are_the_whole(slides, tmp_path):
    write_patches(slides, out=tmp_path / "whole", **PLAN)
    for shard in ("2/2", "1/2"):
        write_patches(slides, out=tmp_path / "parts", shard=shard, **PLAN)
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    assert table_of(tmp_path / "parts") == table_of(tmp_path / "whole")


def test_a_bad_slide_is_one_failed_slide(cli, slides, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.svs").write_bytes(b"II*\0" + bytes(40))
    for name in ("s0.tif", "s1.tif"):
        (tmp_path / "in" / name).write_bytes((slides / name).read_bytes())
    plan = ["--mpp", "2", "--patch-px", "32", "--min-tissue", "0.1"]
    answer = cli("patches", tmp_path / "in", "-o", tmp_path / "p", *plan)
    assert answer.code == 1
    assert sum("bad: failed: " in line for line in answer.err) == 1
    assert any(line.startswith("3 slides: 2 done, 1 failed") for line in answer.err)
    assert {row["slide"] for row in table_of(tmp_path / "p")} == {"s0", "s1"}
    assert cli("patches", tmp_path / "in", "-o", tmp_path / "p", "-q", *plan).code == 1


def test_a_slide_without_tissue_is_empty(slides, tmp_path):
    report = write_patches(slides / "s0.tif", out=tmp_path, **PLAN | {"min_tissue": 1.0, "mpp": 16})
    assert [slide.status for slide in report.slides] == ["empty"]
    assert table_of(tmp_path) == []


def test_a_full_disk_ends_the_run(full_disk, slides):
    (full_disk / "filler").write_bytes(bytes(1000 << 10))
    report = write_patches(slides, out=full_disk, **PLAN)
    assert report.exit_code == 1
    assert "no space left" in report.error
    assert not list(full_disk.rglob("done.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "gif"], "must be one of png, jpeg, got 'gif'"),
        (["--quality", "0"], "--quality must be within 1..100, got 0"),
        (["--overlap", "32"], "--overlap must be within 0..31, got 32"),
        (["--mag", "20"], "--mag must not be given beside --mpp 2"),
        (["--patch-px", "0"], "--patch-px must be at least 1, got 0"),
    ],
)
def test_mistakes_are_answered_in_one_line(cli, slides, tmp_path, arguments, message):
    plan = ["--mpp", "2", "--patch-px", "32"]
    answer = cli("patches", slides, "-o", tmp_path / "p", *plan, *arguments)
    assert answer.code == 2
    (line,) = answer.err
    assert message in line
    assert not (tmp_path / "p").exists()
