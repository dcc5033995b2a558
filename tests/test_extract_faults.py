"""What is wrong with one slide, or beside it, and leaves `extract` going on."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

import histofast
from histofast import features, jobs
from histofast.errors import SlideError
from histofast.patches import Job, list_jobs
from histofast.pipeline import check_slides
from histofast.slides import OpenSlideSlide, TiffSlide, write_png
from slide_files import half, overwrite, tile_extent, write_tiff
from small_slides import content, no_leftovers, run, write_slide


def saved(out):
    return json.loads((out / "run.json").read_text())


# --- whatever a slide meets -----------------------------------------------------------------------

PLACES = {
    "open": (Job, "open"),
    "identity": (TiffSlide, "identity"),
    "survey": ("histofast.pipeline.sources", "survey_tissue"),
    "plan": ("histofast.pipeline.sources", "plan_patches"),
    "decode": (TiffSlide, "read_tile"),
    "stream": ("histofast.pipeline.sources", "stream_slide"),
    "begin": (features.FeatureWriter, "__init__"),
    "append": (features.FeatureWriter, "append"),
    "finish": (features.FeatureWriter, "finish"),
    "encode": (histofast.encoders.EncoderSet, "submit"),
    "close": (TiffSlide, "close"),
    "let go": (features.FeatureWriter, "close"),
}
ERRORS = [
    (KeyError("width"), "KeyError: 'width'"),
    (IndexError("out of bounds"), "IndexError: out of bounds"),
    (AssertionError(), "AssertionError"),
    (ZeroDivisionError("by\nzero"), "ZeroDivisionError: by zero"),
    (MemoryError(), "not enough memory"),
    (MemoryError("8 GiB"), "not enough memory: 8 GiB"),
    (ImportError("no codec"), "ImportError: no codec"),
    (StopIteration(), "StopIteration"),
    (RecursionError("too deep"), "RecursionError: too deep"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), None),
    (EOFError(), "EOFError"),
]


class Fault:
    """Has a function raise the first time that it is called."""

    def __init__(self, patch, owner, name, error):
        self.error, self.met = error, 0
        owner = importlib.import_module(owner) if isinstance(owner, str) else owner
        original = getattr(owner, name)
        is_property = isinstance(original, property)

        def faulty(*arguments, **options):
            self.met += 1
            if self.met == 1:
                if name == "close":
                    original(*arguments)
                raise error
            call = original.fget if is_property else original
            return call(*arguments, **options)

        patch.setattr(owner, name, property(faulty) if is_property else faulty)


@pytest.mark.parametrize("place", PLACES)
def test_any_error_is_of_its_slide_alone(slides, encoder, tmp_path, monkeypatch, place):
    with monkeypatch.context() as patch:
        fault = Fault(patch, *PLACES[place], KeyError("width"))
        report = run(slides, tmp_path, encoder)
    assert fault.met
    assert [s.status for s in report.slides] == ["failed", "done", "done"]
    assert (report.exit_code, report.error, report.interrupted) == (1, "", False)
    failed, done, _ = saved(tmp_path)["slides"]
    assert (failed["status"], failed["error"]) == ("failed", "KeyError: 'width'")
    assert failed["traceback"].startswith("Traceback (most recent call last):")
    assert "in faulty\n" in failed["traceback"]
    assert (done["error"], done["traceback"]) == ("", "")
    assert no_leftovers(tmp_path)
    again = run(slides, tmp_path, encoder)
    if place == "let go":  # its file was there when it failed
        assert {s.status for s in again.slides} == {"skipped"}
    else:
        assert [s.status for s in again.slides] == ["done", "skipped", "skipped"]


@pytest.mark.parametrize(("error", "text"), ERRORS, ids=lambda e: str(e).replace("\n", " "))
def test_an_error_of_any_type_is_one_line(slides, encoder, tmp_path, monkeypatch, error, text):
    Fault(monkeypatch, "histofast.pipeline.sources", "survey_tissue", error)
    report = run(slides, tmp_path, encoder)
    assert [s.status for s in report.slides] == ["failed", "done", "done"]
    assert report.slides[0].error == (text or str(error))


def test_a_dry_run_and_a_check_go_on_too(slides, encoder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Fault(patch, "histofast.pipeline.sources", "survey_tissue", KeyError("width"))
        report = run(slides, tmp_path, encoder, dry_run=True)
    assert [s.status for s in report.slides] == ["failed", "planned", "planned"]
    assert report.slides[0].error == "KeyError: 'width'"
    Fault(monkeypatch, Job, "open", KeyError("width"))
    found = [
        result for _, result in check_slides(slides, out=tmp_path / "qc", patch_px=64, mpp=1.0)
    ]
    assert str(found[0]) == "KeyError: 'width'"
    assert [found_of["patches"] > 0 for found_of in found[1:]] == [True, True]


def test_a_bag_whose_images_meet_anything(encoder, tmp_path, monkeypatch):
    rows = ["file,bag"]
    for i in range(6):
        picture = histofast.slides.read_image(write_slide(tmp_path / "s.tif", seed=i))[
            100:140, 100:140
        ]
        histofast.slides.write_png(tmp_path / f"{i}.png", picture.copy())
        rows.append(f"{i}.png,bag{i // 2}")
    (tmp_path / "patches.csv").write_text("\n".join(rows))
    for name in ("read_image", "resize_patches"):
        with monkeypatch.context() as patch:
            Fault(patch, histofast.patches.fitting, name, IndexError("empty"))
            report = run(
                None, tmp_path / name, encoder, patches=tmp_path / "patches.csv", patch_px=32
            )
        assert [s.status for s in report.slides] == ["failed", "done", "done"]
        assert report.slides[0].error == "IndexError: empty"
        assert len(content(tmp_path / name)) == 2


ODD = """
from histofast.patches import Job

class Odd(Exception):  # pickle cannot make it again
    def __init__(self, one, two):
        super().__init__(one)

def faulty(self, *, mpp, original=Job.open):
    if self.name == "s1":
        raise Odd("width", 0)
    return original(self, mpp=mpp)

Job.open = faulty
"""


def test_any_error_in_a_process_of_its_own_is_of_its_slide(slides, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("histofast.pipeline.extraction.devices_of", lambda *_: ["cpu", "cpu"])
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(ODD)  # every process begins with it
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), *filter(None, sys.path)])
    )
    report = run(slides, tmp_path / "f", encoder, gpus=[0, 1])
    assert {s.name: s.status for s in report.slides} == {"s0": "done", "s1": "failed", "s2": "done"}
    (failed,) = report.of("failed")
    assert failed.error == "Odd: width"
    assert "in faulty\n" in failed.traceback
    assert (report.error, report.interrupted) == ("", False)


def test_what_is_of_no_slide_stops_the_run_and_is_told(slides, encoder, tmp_path, monkeypatch):
    """Not even a report that says less than it knows."""
    take = jobs.local._Here.take
    calls = []

    def fails(self):
        calls.append(self)
        if len(calls) == 2:
            raise KeyError("no such job")
        return take(self)

    monkeypatch.setattr(jobs.local._Here, "take", fails)
    with pytest.raises(KeyError):
        run(slides, tmp_path, encoder)
    report = saved(tmp_path)
    assert report["error"] == "KeyError: 'no such job'"
    assert not report["interrupted"]


def test_stopping_is_no_failure_of_the_slide_at_hand(slides, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("histofast.pipeline.supply.QUEUED_BATCHES", 1)

    def interrupt(progress):
        if progress.slide_patches_done:
            raise KeyboardInterrupt

    report = run(slides, tmp_path, encoder, on_progress=interrupt, batch_size=2)
    assert [s.status for s in report.slides] == ["interrupted"] * 3
    assert report.exit_code == 130


def test_small_files_that_fail_do_not_stop_the_others(data, slides, encoder, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(data / "cases", folder)
    shutil.copy(slides / "s0.tif", folder / "z.tif")
    report = run(folder, tmp_path / "f", encoder, mpp_override=1.0)
    status = {s.name: s.status for s in report.slides}
    assert (status["one_byte_changed"], status["width_0"], status["z"]) == (
        "failed",
        "failed",
        "done",
    )
    assert sum(s.seconds.get("total", 0) for s in report.slides) < 10
    again = run(folder, tmp_path / "f", encoder, mpp_override=1.0)
    assert {s.name: s.status for s in again.slides}["z"] == "skipped"


# --- slides with nothing to encode ----------------------------------------------------------------


def inked(path):
    """A white slide on which somebody has drawn."""
    image = np.full((640, 512, 3), 245, np.uint8)
    image[200:400, 100:400] = (40, 60, 200)
    return write_tiff(path, [image, half(image, 2)], compression="jpeg", mpp=1.0)


def test_a_slide_with_nothing_to_encode_is_empty_and_says_why(slides, encoder, tmp_path, cli):
    inked(tmp_path / "ink.tif")
    (tmp_path / "masks").mkdir()
    write_png(tmp_path / "masks" / "s0.png", np.zeros((80, 64), np.uint8))
    found = {
        "ink": ([tmp_path / "ink.tif"], {}),
        "mask": ([slides / "s0.tif"], {"mask": tmp_path / "masks"}),
        "share": ([slides / "s0.tif"], {"mpp": 8.0, "patch_px": 64, "min_tissue": 0.9}),
    }
    reasons = {
        "ink": "all that could be tissue was taken for pen marks or black",
        "mask": f"the mask {tmp_path / 'masks' / 's0.png'} marks nothing",
        "share": "no patch has min_tissue of 0.9, the most that one has is 0.7",
    }
    for name, (given, options) in found.items():
        for dry in ({"dry_run": True}, {}, {}):  # the second time its file is there
            report = run(given, tmp_path / name, encoder, **options, **dry)
            (slide,) = report.slides
            assert (slide.status, slide.reason, slide.error) == ("empty", reasons[name], "")
            assert (report.exit_code, slide.patches) == (0, 0)
        (entry,) = saved(tmp_path / name)["slides"]
        assert (entry["status"], entry["reason"]) == ("empty", reasons[name])
        file = histofast.read_features(slide.outputs[0])
        assert file.features.shape == (0, 8)
        assert file.attributes["empty"] == reasons[name]
    assert features.verify([tmp_path]).is_whole
    answer = cli("extract", slides / "s0.tif", "-o", tmp_path / "share", "-e", encoder,
                 "--mpp", 8, "--patch-px", 64, "--min-tissue", 0.9)  # fmt: skip
    assert answer.code == 0
    told = "no patch has --min-tissue of 0.9, the most that one has is 0.7"
    assert f"[1/1] s0: empty: {told}" in answer.err
    assert any(line.startswith("1 slide: 1 empty") for line in answer.err)


# --- slides that change ---------------------------------------------------------------------------


def changing(monkeypatch, change):
    """Have something happen while the second batch of a slide is made."""
    stream = histofast.patches.stream_slide

    def streamed(slide, *arguments, **options):
        for i, batch in enumerate(stream(slide, *arguments, **options)):
            if i == 1:
                change(slide.path)
            yield batch

    monkeypatch.setattr("histofast.pipeline.sources.stream_slide", streamed)


def overwrite_in_place(path):
    """With the same size and, as `cp --preserve` does, the same time of the last write."""
    before = path.stat()
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_another(path):
    before = path.stat()
    shutil.copy2(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "grows": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "another size"),
    "in place": (overwrite_in_place, "another time of change"),
    "touched": (lambda path: path.touch(), "another time of change"),
    "replaced": (replace_by_another, "another time of change"),
    "removed": (Path.unlink, "it is gone"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_slide_that_changes_while_it_is_encoded_has_failed(
    slides, encoder, tmp_path, monkeypatch, change
):
    folder = tmp_path / "in"
    shutil.copytree(slides, folder)
    happens, what = CHANGES[change]
    with monkeypatch.context() as patch:
        changing(patch, lambda path: happens(path) if path.stem == "s1" else None)
        report = run(folder, tmp_path / "f", encoder, batch_size=4)
    assert [s.status for s in report.slides] == ["done", "failed", "done"]
    assert report.slides[1].error == (
        f"{folder / 's1.tif'} was changed while it was encoded ({what}): start again when it is whole"
    )
    assert {Path(name).stem for name in content(tmp_path / "f")} == {"s0", "s2"}
    assert no_leftovers(tmp_path)
    if change != "removed":
        assert run(folder, tmp_path / "f", encoder).of("done")


def test_other_content_is_found_even_where_it_cannot_be_read(
    slides, encoder, tmp_path, monkeypatch
):
    """The change is what is told, not the tiles that could not be decoded for it."""
    path = tmp_path / "s.tif"
    shutil.copy(slides / "s0.tif", path)

    def spoil(_):
        path.write_bytes(bytes(path.stat().st_size))
        raise SlideError("cannot decode this")

    changing(monkeypatch, spoil)
    (slide,) = run(path, tmp_path / "f", encoder, batch_size=4).of("failed")
    assert "was changed while it was encoded" in slide.error
    assert "cannot decode this" in slide.traceback


def test_images_of_a_bag_that_change_are_found(slides, encoder, tmp_path, monkeypatch):
    picture = histofast.slides.read_image(slides / "s0.tif")
    for i in range(8):
        write_png(tmp_path / f"{i}.png", picture[100 + i : 132 + i, 100:132].copy())
    names = "\n".join(f"{i}.png,bag" for i in range(8))
    (tmp_path / "patches.csv").write_text(f"file,bag\n{names}\n")
    stream = histofast.patches.stream_fitted

    def streamed(*arguments, **options):
        write_png(tmp_path / "7.png", picture[:32, :32].copy())
        yield from stream(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("histofast.pipeline.sources.stream_fitted", streamed)
        report = run(None, tmp_path / "f", encoder, patches=tmp_path / "patches.csv")
    (slide,) = report.of("failed")
    assert slide.error.startswith(f"{tmp_path / '7.png'} was changed while it was encoded")
    assert run(None, tmp_path / "f", encoder, patches=tmp_path / "patches.csv").exit_code == 0


def test_all_files_of_a_slide_are_watched(slides, encoder, tmp_path, monkeypatch):
    path, other = tmp_path / "s.tif", tmp_path / "s" / "Data0000.dat"
    shutil.copy(slides / "s0.tif", path)
    other.parent.mkdir()
    other.write_bytes(b"x")
    monkeypatch.setattr(TiffSlide, "files", property(lambda _: (path, other)))
    changing(monkeypatch, lambda _: other.write_bytes(b"y"))
    (slide,) = run(path, tmp_path / "f", encoder, batch_size=4).of("failed")
    assert slide.error.startswith(f"{other} was changed while it was encoded")


def test_openslide_names_all_files_of_a_slide(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a.mrxs", "a/Index.dat", "a/Data0000.dat"):
        (tmp_path / name).write_bytes(b"x")
    slide = object.__new__(OpenSlideSlide)
    slide.path, slide._files = tmp_path / "a.mrxs", ()
    assert {path.name for path in slide.files} == {"a.mrxs", "Index.dat", "Data0000.dat"}


def hurt(path):
    offset, size = tile_extent(path, 3 * 8 + 4)
    overwrite(path, offset, b"\xff\xd8" + bytes(size - 2))


def test_a_repaired_slide_is_encoded_again(encoder, tmp_path, monkeypatch):
    """Of a large file the identity knows three MiB only: as if no part of it had changed."""
    monkeypatch.setattr(TiffSlide, "identity", property(lambda slide: slide.name))
    path = write_slide(tmp_path / "s.tif")
    whole = run(path, tmp_path / "whole", encoder).slides[0]
    intact = path.read_bytes()
    hurt(path)
    (slide,) = run(path, tmp_path / "f", encoder).slides
    assert (slide.status, slide.unreadable) == ("done", 1)
    assert run(path, tmp_path / "f", encoder).of("skipped")
    assert run(path, tmp_path / "f", encoder, overwrite=True).of("done")
    times = path.stat()
    path.write_bytes(intact)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    (slide,) = run(path, tmp_path / "f", encoder).slides
    assert (slide.status, slide.unreadable) == ("done", 0)
    assert Path(slide.outputs[0]).read_bytes() == Path(whole.outputs[0]).read_bytes()
    for options in ({}, {"overwrite": True}):
        path.touch()
        assert run(path, tmp_path / "f", encoder, **options).of("skipped")


def test_a_damaged_slide_that_was_touched_gives_the_same_features(encoder, tmp_path):
    path = write_slide(tmp_path / "s.tif")
    hurt(path)
    first = histofast.read_features(run(path, tmp_path / "f", encoder).slides[0].outputs[0])
    path.touch()
    (slide,) = run(path, tmp_path / "f", encoder, strict=False).of("done")
    second = histofast.read_features(slide.outputs[0])
    assert (first.sha256, first.identity) == (second.sha256, second.identity)
    assert run(path, tmp_path / "f", encoder).of("skipped")


# --- what a folder holds beside slides ------------------------------------------------------------


def errors_of(report):
    return {s.name: s.error for s in report.slides if s.status == "failed"}


def test_links_are_told_of(slides, encoder, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(slides / "s0.tif", folder / "real.tif")
    (folder / "a_second.tif").symlink_to("real.tif")
    (folder / "b_third.svs").symlink_to(folder / "a_second.tif")
    (folder / "dangling.tif").symlink_to(tmp_path / "gone.tif")
    (folder / "loop.tif").symlink_to("loop.tif")
    (folder / "linked.tif").symlink_to(slides / "s1.tif")
    report = run(folder, tmp_path / "f", encoder)
    errors = errors_of(report)
    assert sorted(s.name for s in report.of("done")) == ["linked", "real"]
    assert set(errors) == {"a_second", "b_third", "dangling", "loop"}
    second = f"is a second name of {folder / 'real.tif'}: give one of them, or make it a copy"
    assert errors["a_second"] == f"{folder / 'a_second.tif'} {second}"
    assert errors["b_third"].endswith(second)
    assert errors["dangling"].endswith(
        f"is a link to {tmp_path / 'gone.tif'}, which cannot be reached: No such file or directory"
    )
    assert "Too many levels of symbolic links" in errors["loop"]
    assert run([folder / "dangling.tif", slides], tmp_path / "g", encoder).exit_code == 1


def test_one_slide_given_twice_is_one(slides, tmp_path):
    (tmp_path / "way").symlink_to(slides)
    jobs_of_both = list_jobs(
        [slides, slides / "s0.tif", f"{slides}/../{slides.name}", tmp_path / "way"]
    )
    assert [(job.name, job.problem) for job in jobs_of_both] == [(f"s{i}", "") for i in range(3)]


def test_folders_that_are_links_are_looked_into_once(slides, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "elsewhere").symlink_to(slides)
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "deep" / "again").symlink_to(slides)
    assert [job.name for job in list_jobs(tmp_path / "in", recursive=True)] == ["s0", "s1", "s2"]


@pytest.fixture
def closed(monkeypatch):
    """Have folders of the name "closed" be ones that nobody may look into."""
    scandir = os.scandir

    def refuse(path="."):
        if Path(os.fsdecode(path)).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


@pytest.mark.usefixtures("closed")
def test_a_folder_that_cannot_be_read_is_told_of(slides, encoder, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(slides, folder / "open")
    shutil.copytree(slides, folder / "closed")
    why = f"{folder / 'closed'} cannot be looked into for slides: Permission denied"
    for given, options in (
        (folder, {"recursive": True}),
        (f"{folder}/*/*.tif", {}),
        (f"{folder}/**/*.tif", {}),
        ([folder / "closed", folder / "open"], {}),
    ):
        report = run(given, tmp_path / "f", encoder, **options)
        assert errors_of(report) == {"closed": why}
        assert len(report.slides) == 4
    assert errors_of(run(folder / "closed", tmp_path / "f", encoder)) == {"closed": why}


def test_a_problem_is_called_by_its_path_where_a_slide_has_its_name(slides, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(slides / "s0.tif", tmp_path / "in" / "s0.tif")
    (tmp_path / "in" / "s0.svs").symlink_to("nowhere")
    found = {job.name: bool(job.problem) for job in list_jobs(tmp_path / "in")}
    assert found == {"s0": False, str(tmp_path / "in" / "s0.svs"): True}


def test_what_is_no_file_is_refused_at_once(slides, encoder, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(slides / "s0.tif", folder / "s0.tif")
    os.mkfifo(folder / "pipe.tif")
    os.mkfifo(folder / "series.dcm")
    (folder / "folder.svs").mkdir()
    (folder / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "socket.tif"))
        table = tmp_path / "list.csv"
        table.write_text("wsi\n" + "\n".join(map(str, sorted(folder.iterdir()))))
        for given, expected in ((folder, "done"), (table, "skipped")):
            report = run(given, tmp_path / "f", encoder)
            errors = errors_of(report)
            assert set(errors) == {"pipe", "series", "folder.svs", "device", "socket"}
            assert [s.status for s in report.slides if s.name == "s0"] == [expected]
            assert errors["pipe"] == f"slide {folder / 'pipe.tif'} must be a file, got a named pipe"
            assert all("\n" not in text for text in errors.values())
            assert not report.of("interrupted")


def test_images_and_masks_that_are_no_files_are_refused_at_once(slides, encoder, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.geojson")
    (tmp_path / "patches.csv").write_text("file,bag\npipe.png,a\n")
    report = run(None, tmp_path / "f", encoder, patches=tmp_path / "patches.csv")
    assert "pipe" in errors_of(report)["a"]
    for mask in ("pipe.png", "pipe.geojson"):
        report = run(slides / "s0.tif", tmp_path / "f", encoder, mask=tmp_path / mask)
        assert "must be a file, got a named pipe" in errors_of(report)["s0"]


def test_names_are_taken_as_they_are(slides, encoder, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    names = ["new\nline", "=cmd('calc')!A0", "esc\x1b[31mred", "bidi\u202e", "tab\there", " "]
    for name in names:
        shutil.copy(slides / "s0.tif", folder / f"{name}.tif")
    shutil.copy(slides / "s0.tif", os.fsencode(folder) + b"/not\xffutf8.tif")
    report = run(folder, tmp_path / "f", encoder)
    assert sorted(s.name for s in report.of("done")) == sorted(names)
    (failed,) = report.of("failed")
    assert failed.error.endswith("must have a name in UTF-8: rename it")
    assert "not\\udcffutf8" in failed.error
    assert sorted(
        s["name"] for s in saved(tmp_path / "f")["slides"] if s["status"] == "done"
    ) == sorted(names)
    assert {Path(s.outputs[0]).stem for s in report.of("done")} == set(names)
    again = run(folder, tmp_path / "f", encoder, shard="1/1")
    assert len(again.of("skipped")) == len(names)
