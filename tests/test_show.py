"""A look at labelled images: counts, colours, a sheet, and copies that a split by group cannot see."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from histofast.cli import app
from histofast.datasets import look_hash, open_images, resampled, show
from histofast.slides import read_image, write_png
from slide_files import picture

SPLITS = ("train", "train", "validation", "test")


@pytest.fixture
def source(tmp_path):
    """Four pictures of each of two classes, of a patient each, in three splits."""
    rows = ["file,label,patient,split"]
    for label in "ab":
        for i, part in enumerate(SPLITS):
            file = tmp_path / "raw" / f"{label}{i}.png"
            file.parent.mkdir(exist_ok=True)
            write_png(file, picture(40, 40, seed=10 * i + ord(label)))
            rows.append(f"{file.name},{label},{label}{i},{part}")
    path = tmp_path / "raw" / "t.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_counts_colours_and_the_sheet(source, tmp_path):
    images = open_images(source)
    look = show(images, out=tmp_path / "look", columns=3, thumb_px=20)
    assert [(s.split, s.label, s.images, s.groups) for s in look.shares] == [
        ("train", "a", 2, 2),
        ("train", "b", 2, 2),
        ("validation", "a", 1, 1),
        ("validation", "b", 1, 1),
        ("test", "a", 1, 1),
        ("test", "b", 1, 1),
    ]
    means = np.array([read_image(images.files[i]).mean((0, 1)) for i in (0, 1)])
    np.testing.assert_allclose(look.shares[0].mean_rgb, means.mean(0), atol=0.01)
    np.testing.assert_allclose(look.shares[0].sd_rgb, means.std(0), atol=0.01)
    assert look.copies == look.unreadable == ()
    sheet = read_image(look.path / "sheet.png")
    assert sheet.shape == (6 * 24 + 4, 3 * 24 + 4, 3)
    np.testing.assert_array_equal(sheet[4:24, 4:24], resampled(read_image(images.files[0]), 20))
    assert (sheet[52:72, 28:] == 255).all()  # a single picture of validation
    with (look.path / "counts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["images"]) for row in rows] == [2, 2, 1, 1, 1, 1]
    again = show(images, out=tmp_path / "again", columns=3, thumb_px=20, threads=4)
    assert again.shares == look.shares
    for name in ("sheet.png", "counts.csv", "copies.csv"):
        assert (again.path / name).read_bytes() == (look.path / name).read_bytes()


def test_copies_across_splits_are_leaks(source, tmp_path):
    folder = source.parent
    (folder / "a3.png").write_bytes((folder / "a0.png").read_bytes())  # test is train
    near = read_image(folder / "b1.png").astype(int)
    near += np.random.default_rng(0).integers(-2, 3, near.shape)
    write_png(folder / "b2.png", np.clip(near, 0, 255).astype(np.uint8))
    (folder / "b0.png").write_bytes((folder / "a1.png").read_bytes())  # of two labels, both train
    look = show(open_images(source), out=tmp_path / "look")
    assert [(c.kind, c.a, c.b, c.is_leak, c.is_conflict) for c in look.copies] == [
        ("same", "a0.png", "a3.png", True, False),
        ("same", "a1.png", "b0.png", False, True),
        ("near", "b1.png", "b2.png", True, False),
    ]
    source.write_text(source.read_text().replace("split", "note"))
    look = show(open_images(source), out=tmp_path / "look")
    assert [c.is_leak for c in look.copies] == [True] * 3  # of two patients each


def test_the_hash_is_its_definition(rng):
    small = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    wanted = 0
    for row in small[:8].astype(float) @ [0.2125, 0.7154, 0.0721]:
        for left, right in pairwise(row):
            wanted = 2 * wanted + int(right > left)
    assert look_hash(small) == wanted
    assert look_hash(np.full((9, 9, 3), 7, np.uint8)) == 0


def test_pictures_that_cannot_be_read_are_told(source, tmp_path):
    (source.parent / "a0.png").write_bytes(b"no picture")
    look = show(open_images(source), out=tmp_path / "look")
    assert [name for name, _ in look.unreadable] == ["a0.png"]
    assert (look.shares[0].images, len(look.copies)) == (2, 0)


def test_several_labels_and_none(source, tmp_path):
    images = open_images(source, labelled=False).part([0, 1, 4])
    assert [s.images for s in show(images, out=tmp_path / "a").shares] == [2, 1]
    text = source.read_text().replace(",a,", ",a;b,").replace("label", "kind")
    source.write_text(text)
    images = open_images(source, label_column="kind", labelled=False)
    shares = show(images, out=tmp_path / "b").shares
    assert [(s.split, s.label, s.images) for s in shares[:2]] == [
        ("train", "a", 2),
        ("train", "b", 4),
    ]
    shares = show(open_images(source, labelled=False), out=tmp_path / "c").shares
    assert [(s.label, s.images) for s in shares] == [("", 4), ("", 2), ("", 2)]
    with pytest.raises(ValueError, match=r"columns must be within 1\.\.100, got 0"):
        show(images, out=tmp_path / "d", columns=0)


def test_the_command(source, tmp_path):
    def run(*words: object) -> tuple[int, str]:
        answer = CliRunner().invoke(app, ["dataset", "show", str(source), *map(str, words)])
        return answer.exit_code, answer.output

    code, said = run("--out", tmp_path / "look")
    assert code == 0, said
    assert "train       a                               2       2" in said
    folder = source.parent
    (folder / "a3.png").write_bytes((folder / "a0.png").read_bytes())
    code, said = run("--out", tmp_path / "look", "--overwrite")
    assert code == 1
    assert (
        "1 copy on two sides of a split, or of two groups, first a0.png and a3.png (same)" in said
    )
    code, said = run("--out", tmp_path / "look", "--overwrite", "--json", "--quiet")
    assert code == 1
    assert json.loads(said)["copies"][0]["is_leak"]
    code, said = run("--out", tmp_path / "look")
    assert code != 0


def test_copies_in_a_real_set(data, tmp_path):
    """A published set has the same field as a picture of tumour and as one without, twice."""
    images = open_images(data / "oral_scc" / "labels.csv")
    numbers = ("100x_348", "100x_71", "400x_60", "400x_61", "100x_69", "100x_350")
    rows = [
        i
        for i, name in enumerate(images.names)
        if name.endswith(tuple(f"{n}.jpg" for n in numbers))
    ]
    rows = sorted({*rows, *range(0, len(images), 10)})
    look = show(images.part(rows), out=tmp_path / "look", thumb_px=32)
    found = {frozenset(map(Path, (c.a, c.b))): (c.kind, c.is_conflict) for c in look.copies}
    img = Path("img")
    assert found == {
        frozenset((img / "OSCC_100x_348.jpg", img / "Normal_100x_71.jpg")): ("near", True),
        frozenset((img / "OSCC_100x_350.jpg", img / "Normal_100x_69.jpg")): ("near", True),
        frozenset((img / "OSCC_400x_60.jpg", img / "OSCC_400x_61.jpg")): ("near", False),
    }
