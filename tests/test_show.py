"""A look at labelled images: counts, forms, colours, a page, and copies that a split by group cannot see."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from typer.testing import CliRunner

from extras import need
from histofast.cli import app
from histofast.datasets import open_images, show
from histofast.errors import WriteError
from histofast.slides import read_image, write_png
from slide_files import picture

need("matplotlib", "jinja2")

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


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_counts_colours_and_the_page(source, tmp_path):
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
    assert (look.images, look.groups, look.contents, look.searched, look.flat) == (8, 8, 8, 8, 0)
    assert [int(row["images"]) for row in rows_of(look.path / "counts.csv")] == [2, 2, 1, 1, 1, 1]
    assert look.findings == (
        "8 pictures: a (4) and b (4). 4 train, 2 validation and 2 test.",
        "No picture is there twice, not as a file nor nearly, turned or mirrored.",
    )
    page = (look.path / "index.html").read_text()
    assert all(sentence in page for sentence in look.findings)
    assert page.count("data:image/png") == 6  # a strip for each split and class
    assert "http" not in page.replace("http://www.w3.org", "")
    told = json.loads((look.path / "look.json").read_text())
    assert (told["source"], told["shares"][0]["images"]) == ("raw/t.csv", 2)
    again = show(images, out=tmp_path / "again", columns=3, thumb_px=20, threads=4)
    assert again.shares == look.shares
    for name in ("sheet.png", "counts.csv", "copies.csv", "forms.csv", "index.html"):
        assert (again.path / name).read_bytes() == (look.path / name).read_bytes()


def test_copies_across_splits_are_leaks(source, tmp_path):
    folder = source.parent
    (folder / "a3.png").write_bytes((folder / "a0.png").read_bytes())  # test is train
    near = read_image(folder / "b1.png").astype(int)
    near += np.random.default_rng(0).integers(-2, 3, near.shape)
    write_png(folder / "b2.png", np.clip(near, 0, 255).astype(np.uint8))
    (folder / "b0.png").write_bytes((folder / "a1.png").read_bytes())  # of two labels, both train
    turned = np.rot90(read_image(folder / "b3.png")[:, ::-1])
    (folder / "a2.png").write_bytes(imagecodecs.jpeg8_encode(turned.copy(), level=90))
    look = show(open_images(source), out=tmp_path / "look")
    assert [(c.kind, c.turn, c.a, c.b, c.is_leak, c.is_conflict) for c in look.copies] == [
        ("near", "mirrored, turned by 90°", "a2.png", "b3.png", True, True),
        ("same", "", "a0.png", "a3.png", True, False),
        ("near", "", "b1.png", "b2.png", True, False),
        ("same", "", "a1.png", "b0.png", False, True),
    ]
    assert look.findings[1:] == (
        "3 pairs of copies (1 byte for byte, 2 nearly) are on two sides of the split: "
        + "what is tested on was trained on, or chosen by.",
        "2 pairs of copies (1 byte for byte, 1 nearly) are under two labels: at least one is wrong.",
    )
    first = rows_of(look.path / "copies.csv")[0]
    assert (first["a"], first["split_b"], first["label_b"], first["leak"]) == (
        "a2.png",
        "test",
        "b",
        "1",
    )
    assert (look.path / "pairs.png").is_file()
    source.write_text(source.read_text().replace("split", "note"))
    look = show(open_images(source), out=tmp_path / "look")
    assert [c.is_leak for c in look.copies] == [True] * 4  # of two patients each
    assert "are of two patients: a split could part them" in look.findings[1]
    for name in ("a0", "a1", "a2", "b1"):
        write_png(folder / f"{name}.png", picture(40, 40, seed=99 + ord(name[0]) * int(name[1])))
    look = show(open_images(source), out=tmp_path / "look")
    assert look.copies == ()
    assert not (look.path / "pairs.png").exists()  # of the look before


def test_copies_of_one_side_and_label_count_twice(source, tmp_path):
    folder = source.parent
    (folder / "a1.png").write_bytes((folder / "a0.png").read_bytes())
    look = show(open_images(source), out=tmp_path / "look")
    assert look.findings[1] == (
        "1 pair of copies (byte for byte) is on one side and under one label: it counts twice."
    )
    assert (look.copies_found, look.contents) == (1, 7)


def test_pictures_that_cannot_be_read_are_told(source, tmp_path):
    (source.parent / "a0.png").write_bytes(b"no picture")
    look = show(open_images(source), out=tmp_path / "look")
    assert look.unreadable == (
        ("a0.png", "a0.png must be a PNG, JPEG or TIFF image, it starts with b'no pictu'"),
    )
    assert (look.shares[0].images, len(look.copies)) == (2, 0)
    assert look.findings[1] == "1 picture cannot be read: a0.png."
    for label in "ab":
        for i in range(4):
            (source.parent / f"{label}{i}.png").write_bytes(b"no picture")
    look = show(open_images(source), out=tmp_path / "none")
    assert look.shares[0].mean_rgb is None
    assert not (look.path / "sheet.png").exists()
    assert "8 pictures cannot be read" in (look.path / "index.html").read_text()
    assert json.loads((look.path / "look.json").read_text())["shares"][0]["mean_rgb"] is None


def test_forms_of_files_and_what_they_give_away(source, tmp_path):
    folder = source.parent
    a = picture(40, 40, seed=1)
    alpha = np.dstack([picture(40, 40, seed=2), np.full((40, 40), 255, np.uint8)])
    (folder / "a0.png").write_bytes(imagecodecs.png_encode(a[..., 0].astype(np.uint16) * 257))
    (folder / "a1.png").write_bytes(imagecodecs.png_encode(alpha))
    (folder / "a2.png").write_bytes(imagecodecs.jpeg8_encode(picture(40, 30, seed=3), level=90))
    look = show(open_images(source), out=tmp_path / "look")
    assert [
        (f.width_px, f.height_px, f.format, f.mode, f.bits, f.images, f.labels) for f in look.forms
    ] == [
        (40, 40, "PNG", "RGB", 8, 5, {"a": 1, "b": 4}),
        (40, 40, "PNG", "grey", 16, 1, {"a": 1}),
        (40, 40, "PNG", "RGB with transparency", 8, 1, {"a": 1}),
        (30, 40, "JPEG", "RGB", 8, 1, {"a": 1}),
    ]
    assert rows_of(look.path / "forms.csv")[0]["classes"] == "a (1) and b (4)"
    rows = source.read_text()
    for i in range(4, 10):
        write_png(folder / f"c{i}.png", picture(24, 24, seed=200 + i))
        rows += f"c{i}.png,c,c{i},train\n"
    source.write_text(rows)
    look = show(open_images(source), out=tmp_path / "look")
    assert look.findings[-1] == (
        "All 6 pictures of 24 x 24 px (PNG, RGB, 8 bit) are of class c: a network can tell them by "
        "size or file, not by tissue."
    )


def test_without_groups_it_says_what_it_cannot_show(source, tmp_path):
    source.write_text(source.read_text().replace("patient", "note"))
    look = show(open_images(source), out=tmp_path / "look")
    assert look.group_kind == "image"
    assert look.findings[-1].startswith("Neither patients nor slides are told. Pictures of one")


def test_many_classes_are_bounded_on_the_page(rng, tmp_path):
    for k in range(45):
        folder = tmp_path / "raw" / f"c{k:02}"
        folder.mkdir(parents=True)
        for i in range(2):
            write_png(folder / f"{i}.png", rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    look = show(open_images(tmp_path / "raw"), out=tmp_path / "look", columns=1, thumb_px=8)
    page = (look.path / "index.html").read_text()
    assert page.count("data:image/png") == 40
    assert "5 more are in it" in page
    assert len(rows_of(look.path / "counts.csv")) == 45


FULL = """
import resource, sys
from histofast.datasets import open_images, show
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    show(open_images(sys.argv[1]), out=sys.argv[2])
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_is_one_line(source, tmp_path):
    command = [sys.executable, "-c", FULL, str(source), str(tmp_path / "look")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("WriteError ")
    assert len(done.stdout.splitlines()) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file"):
        show(open_images(source), out=tmp_path / "file" / "look")


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
        "1 pair of copies (byte for byte) is on two sides of the split: what is tested on was trained "
        "on, or chosen by." in said
    )
    code, said = run("--out", tmp_path / "look", "--overwrite", "--json", "--quiet")
    assert code == 1
    assert json.loads(said)["copies"][0]["is_leak"]
    code, said = run("--out", tmp_path / "look")
    assert code != 0


def test_copies_in_a_real_set(data, tmp_path):
    """A published set holds six fields twice, three of them turned, three under both labels."""
    images = open_images(data / "oral_scc" / "labels.csv")
    twice = {
        ("OSCC_100x_348", "Normal_100x_71"): ("", True),
        ("OSCC_100x_349", "Normal_100x_70"): ("turned by 270°", True),
        ("Normal_100x_69", "OSCC_100x_350"): ("", True),
        ("OSCC_400x_473", "OSCC_400x_364"): ("turned by 180°", False),
        ("OSCC_400x_60", "OSCC_400x_61"): ("", False),
        ("OSCC_400x_362", "OSCC_400x_471"): ("turned by 90°", False),
    }
    wanted = {name for pair in twice for name in pair}
    rows = {i for i, name in enumerate(images.names) if Path(name).stem in wanted}
    rows = sorted(rows | set(range(0, len(images), 10)))
    look = show(images.part(rows), out=tmp_path / "look", thumb_px=32)
    found = {(Path(c.a).stem, Path(c.b).stem): (c.turn, c.is_conflict) for c in look.copies}
    assert found == twice
