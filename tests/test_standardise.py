"""Pictures of any size and scale to crops of one, divided by group, interrupted or not."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import reference
from histofast import datasets
from histofast.cli import app
from histofast.datasets import Standard, contrast, crops, open_images, standardise
from histofast.errors import NoSpaceError
from histofast.slides import quick_png, read_image, write_png
from slide_files import picture
from strikes import KILLS, contents, strike

SMALL = Standard(patch_px=16, min_contrast=0.01)


@pytest.fixture
def source(tmp_path):
    """Twelve pictures of six patients and two classes, one of them of glass, one of them broken."""
    rows = ["file,label,patient,mpp"]
    for i in range(12):
        file = tmp_path / "raw" / f"p{i // 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = picture(40 + i, 50, seed=i) if i else np.full((40, 50, 3), 240, np.uint8)
        write_png(file, image)
        rows.append(f"p{i // 2}/{i}.png,{'ab'[i // 2 % 2]},p{i // 2},0.5")
    (tmp_path / "raw" / "p5" / "11.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    path = tmp_path / "raw" / "t.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {n: c for n, c in contents(folder).items() if ".locks" not in n and n != "run.json"}


# --- Cutting --------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(2, 64), st.floats(0, 0.95))
def test_crops_cover_an_axis(length, side, overlap):
    length = max(length, side)
    image = np.zeros((side, length, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(length) // 256, np.arange(length) % 256
    found = [crop for batch in crops(image, side=side, overlap=overlap) for crop in batch]
    starts = [256 * int(crop[0, 0, 0]) + int(crop[0, 0, 1]) for crop in found]
    assert (starts[0], starts[-1] + side) == (0, length)
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= max(1, round(side * (1 - overlap)))).all()


@pytest.mark.parametrize("scale", [1.0, 2.0, 1.7, 0.5])
@pytest.mark.parametrize("shape", [(40, 64), (7, 40), (40, 3), (5, 4), (1, 1)])
def test_crops_are_their_definition(scale, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = np.concatenate(list(crops(image, side=9, overlap=0.25, scale=scale)))
    wanted = reference.crops(image, side=9, overlap=0.25, scale=scale)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1.0


def test_crops_at_the_scale_of_the_picture_are_its_pixels():
    image = picture(64, 80, seed=1)
    found = np.concatenate(list(crops(image, side=32, overlap=0.5)))
    assert len(found) == 3 * 4
    np.testing.assert_array_equal(found[5], image[16:48, 16:48])


def test_contrast_is_its_definition(rng):
    for image in (
        picture(33, 20, seed=3),
        rng.integers(0, 256, (17, 3, 3), dtype=np.uint8),
        np.full((4, 4, 3), 9, np.uint8),
        rng.integers(200, 230, (1, 1, 3), dtype=np.uint8),
    ):
        assert contrast(image) == pytest.approx(reference.contrast(image), abs=1e-9)
    black_and_white = np.zeros((10, 10, 3), np.uint8)
    black_and_white[:5] = 255
    assert contrast(black_and_white) == 1.0


def test_quick_png_is_the_picture(tmp_path):
    image = picture(31, 40, seed=2)
    (tmp_path / "a.png").write_bytes(quick_png(image))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)
    with pytest.raises(TypeError, match="image must be C-contiguous uint8"):
        quick_png(image.astype(np.float32))


# --- A folder of crops ----------------------------------------------------------------------------


def test_standardise(source, tmp_path):
    out = tmp_path / "std"
    seen = []
    made = standardise(
        source, out=out, standard=SMALL, folds=3, on_progress=lambda *x: seen.append(x)
    )
    assert seen == [(i + 1, 12) for i in range(12)]
    assert [name for name, _ in made.unreadable] == ["p5/11.png"]
    assert made.dropped == {"a": 12}  # 3 x 4 crops of the one of glass
    images = open_images(out)
    assert len(images) == sum(sum(part.values()) for part in made.counts.values())
    assert (images.group_kind, images.classes, set(images.mpp)) == ("patient", ("a", "b"), {0.5})
    assert {read_image(file).shape for file in images.files} == {(16, 16, 3)}
    raw = open_images(source)
    fold = datasets.split(raw, folds=3)
    told = {
        raw.groups[i]: name for name in ("train", "validation", "test") for i in getattr(fold, name)
    }
    for group, part in zip(images.groups, images.splits, strict=True):
        assert told[group] == part
    first = next(i for i, name in enumerate(images.names) if "p1_2-0" in name)
    np.testing.assert_array_equal(
        read_image(images.files[first]), picture(42, 50, seed=2)[:16, :16]
    )
    assert images.classes[images.targets[first]] == "b"
    about = json.loads((out / "dataset.json").read_text())
    assert (about["pictures"], about["crops"]) == (12, len(images))
    assert sorted(p.name for p in out.iterdir() if p.name[0] != ".") == [
        *("dataset.json", "images", "images.csv", "run.json")
    ]


def test_scale(source, tmp_path):
    made = standardise(
        source, out=tmp_path / "std", standard=Standard(patch_px=16, mpp=1.0, overlap=0.0), folds=3
    )
    images = open_images(made.path)
    assert set(images.mpp) == {1.0}
    index = next(i for i, name in enumerate(images.names) if "p1_2-0" in name)
    wanted = picture(42, 50, seed=2)[:32, :32].reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(read_image(images.files[index]) - wanted).max() <= 0.51


def test_what_is_done_is_not_done_again(source, tmp_path):
    out = tmp_path / "std"
    made = standardise(source, out=out, standard=SMALL, folds=3)
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    assert standardise(source, out=out, standard=SMALL, folds=3) == made
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.png")} == times
    with pytest.raises(ValueError, match=r"holds another run \(patch_px 16, not 20\)"):
        standardise(source, out=out, standard=Standard(patch_px=20), folds=3)
    standardise(
        source, out=out, standard=Standard(patch_px=20, min_contrast=0), folds=3, overwrite=True
    )
    assert {read_image(file).shape for file in out.rglob("*.png")} == {(20, 20, 3)}
    assert len(open_images(out)) == len(list(out.rglob("*.png")))


@pytest.mark.parametrize("threads", [1, 4])
def test_what_was_interrupted_goes_on(source, tmp_path, monkeypatch, threads):
    whole = tmp_path / "whole"
    standardise(source, out=whole, standard=SMALL, folds=3)
    out = tmp_path / "std"

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        standardise(source, out=out, standard=SMALL, folds=3, threads=threads, on_progress=stop)
    assert not (out / "dataset.json").exists()
    done = sorted(out.rglob("p1_2-*.png"))
    done[0].write_bytes(b"torn")
    done[1].unlink()
    with (out / "parts.jsonl").open("a") as parts:
        parts.write('[7, ["ab')
    seen = []
    standardise(
        source,
        out=out,
        standard=SMALL,
        folds=3,
        threads=threads,
        on_progress=lambda *x: seen.append(x),
    )
    assert len(seen) == 12 - 4
    assert files_of(out) == files_of(whole)


def test_a_full_disk_is_one_line_and_goes_on_when_there_is_room(tmp_path, full_disk):
    root = tmp_path / "raw"
    rng = np.random.default_rng(0)
    for i in range(8):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (192, 192, 3), dtype=np.uint8)
        write_png(root / "ab"[i % 2] / f"{i}.png", image)
    whole, out = tmp_path / "whole", full_disk / "std"
    standard = Standard(patch_px=128)
    standardise(root, out=whole, standard=standard, folds=2)
    wanted = files_of(whole)
    filler = full_disk / "filler"
    filler.write_bytes(bytes(250 << 10))
    with pytest.raises(NoSpaceError, match=r"no space left on .*\.png needs 0\.0 MB; free some or"):
        standardise(root, out=out, standard=standard, folds=2)
    there = {name: content for name, content in files_of(out).items() if name.endswith(".png")}
    assert len(there) > 4
    assert there == {name: wanted[name] for name in there}  # none of them half
    assert not (out / "dataset.json").exists()
    subprocess.run(["mount", "-o", "remount,size=4m", str(full_disk)], check=True)
    seen = []
    standardise(
        root, out=out, standard=standard, folds=2, on_progress=lambda *told: seen.append(told)
    )
    assert 0 < len(seen) < 8  # what was done is not done again
    assert files_of(out) == wanted


@pytest.mark.parametrize("inodes", [3, 5, 8])
def test_a_disk_without_room_for_more_files_is_one_line(source, full_disk, inodes):
    subprocess.run(["mount", "-o", f"remount,nr_inodes={inodes}", str(full_disk)], check=True)
    with pytest.raises(NoSpaceError, match=r"no inodes .* left on .*; free some or choose"):
        standardise(source, out=full_disk / "std", standard=SMALL, folds=3)


@pytest.mark.slow
def test_what_is_killed_goes_on(source, tmp_path):
    out = tmp_path / "std"
    command = ["dataset", "standardise", source, "--out", out, "--patch-px", 16, "--folds", 3]
    preload = ("histofast.datasets.standardising", "histofast.cli.dataset", "histofast.slides")
    struck = strike(command, out, preload=preload, kills=min(KILLS, 12))
    assert struck.ended


def test_names_are_safe_and_each_once(tmp_path):
    rows = ["file,label"]
    names = ["a/x.png", "a_x.png", "A/x.png", "ü/é.png", f"{'long' * 40}.png", "../up.png"]
    root = tmp_path / "raw"
    root.mkdir()
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(root / name, picture(20, 20, seed=i))
        rows.append(f"{name},../{'ab'[i % 2]}")
    (root / "t.csv").write_text("\n".join(rows), encoding="utf-8")
    made = standardise(root / "t.csv", out=tmp_path / "out", standard=SMALL, folds=2)
    images = open_images(made.path)
    assert images.classes == ("../a", "../b")
    assert len({str(file).casefold() for file in images.files}) == len(images) == 6 * 4
    assert all(file.resolve().is_relative_to(made.path.resolve()) for file in images.files)
    assert all(name.isascii() and len(name) < 160 for name in images.names)


def test_several_labels(tmp_path):
    root = tmp_path / "raw"
    rows = ["file,tumour,stroma"]
    for i in range(12):
        file = root / f"{i}.png"
        root.mkdir(exist_ok=True)
        write_png(file, picture(20, 20, seed=i))
        rows.append(f"{i}.png,{i % 2},{'NA' if i == 3 else i // 2 % 2}")
    (root / "t.csv").write_text("\n".join(rows))
    raw = open_images(root / "t.csv", labels=("tumour", "stroma"))
    made = standardise(raw, out=tmp_path / "out", standard=SMALL, folds=2)
    images = open_images(made.path)
    assert (images.task, images.classes) == ("multilabel", ("tumour", "stroma"))
    for group, target in zip(images.groups, images.targets, strict=True):
        np.testing.assert_array_equal(target, raw.targets[raw.names.index(group)])
    path = root / "t.csv"
    path.write_text(path.read_text().replace("stroma", "Source"))
    raw = open_images(path, labels=("tumour", "source"))
    with pytest.raises(
        ValueError, match=r"must not be called as other columns .* got 1 \(source\)"
    ):
        standardise(raw, out=tmp_path / "again", standard=SMALL, folds=2)


def test_without_labels_or_a_split(source, tmp_path):
    made = standardise(source, out=tmp_path / "a", standard=SMALL, folds=None)
    images = open_images(made.path)
    assert set(images.splits) == {""}
    assert len(datasets.split(images, folds=3).test)
    loose = tmp_path / "loose"
    loose.mkdir()
    write_png(loose / "1.png", picture(20, 20, seed=0))
    made = standardise(open_images(loose, labelled=False), out=tmp_path / "b", standard=SMALL)
    assert made.counts == {"": {"": 4}}
    assert len(open_images(made.path, labelled=False)) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_px": 4}, "patch_px must be within 8..8192, got 4"),
        ({"overlap": 0.99}, "overlap must be within 0..0.95, got 0.99"),
        ({"mpp": 0.0}, "mpp must be within 0.05..20 um per pixel, got 0"),
        ({"min_contrast": 2}, "min_contrast must be within 0..1, got 2"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Standard(**options)


def test_bad_input(source, tmp_path):
    out = tmp_path / "std"
    with pytest.raises(
        ValueError, match=r"mpp must not be finer than the pictures', got 0.25 for 12"
    ):
        standardise(source, out=out, standard=Standard(mpp=0.25), folds=3)
    source.write_text(source.read_text().replace(",0.5", ",NA"))
    with pytest.raises(
        ValueError, match="must tell um per pixel to be rescaled to 1, got none for 12"
    ):
        standardise(source, out=out, standard=Standard(mpp=1.0), folds=3)
    with pytest.raises(ValueError, match="must give crops with contrast, got none of 12 pictures"):
        standardise(source, out=out, standard=Standard(min_contrast=1), folds=3)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(ValueError, match="out must be new, empty or of a run"):
        standardise(source, out=tmp_path / "full", standard=SMALL, folds=3)
    assert not (out / "dataset.json").exists()


def test_the_command(source, tmp_path):
    out = tmp_path / "std"
    words = [
        "dataset",
        "standardise",
        source,
        "--out",
        out,
        "--patch-px",
        16,
        "--mpp",
        1,
        "--folds",
        3,
    ]
    answer = CliRunner().invoke(app, [*map(str, words)])
    assert answer.exit_code == 0, answer.output
    assert "crops of 12 pictures" in answer.output
    assert "note: left out pictures that cannot be read: 1 (p5/11.png)" in answer.output
    answer = CliRunner().invoke(app, [*map(str, words), "--json", "--quiet"])
    assert json.loads(answer.stdout)["counts"]["train"]
    shutil.rmtree(out)
