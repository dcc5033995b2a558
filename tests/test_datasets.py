"""Labelled images: tables and folders in, targets, groups and splits out."""

from __future__ import annotations

import numpy as np
import pytest

from histofast.datasets import open_images
from histofast.learning import folds
from histofast.slides import write_png


@pytest.fixture
def make(tmp_path):
    """Write a table, and the pictures that it names."""

    def write(*lines):
        path = tmp_path / "t.csv"
        path.write_text("\n".join(lines) + "\n")
        for line in lines[1:]:
            file = tmp_path / line.replace(";", ",").replace("\t", ",").split(",")[0]
            file.parent.mkdir(parents=True, exist_ok=True)
            write_png(file, np.zeros((8, 8, 3), np.uint8))
        return path

    return write


def test_a_table_of_patients(make):
    rows = [f"{i}.png,{'ab'[i % 2]},p{i // 2}" for i in range(12)]
    images = open_images(make("File,Label,Patient ID", *rows))
    assert images.classes == ("a", "b")
    assert images.targets.tolist() == [0, 1] * 6
    assert images.group_kind == "patient"
    assert len(set(images.groups)) == 6
    fold = folds(images, n=3, seed=0)[0]
    sides = [{images.groups[i] for i in part} for part in (fold.train, fold.validation, fold.test)]
    assert not (sides[0] & sides[1])
    assert not (sides[0] & sides[2])
    assert not (sides[1] & sides[2])


def test_a_folder_of_classes(tmp_path):
    for name in ("a/1", "a/2", "b/1", "b/deep/2"):
        file = tmp_path / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_png(file, np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    images = open_images(tmp_path)
    assert images.names == ("a/1.png", "a/2.png", "b/1.png", "b/deep/2.png")
    assert images.targets.tolist() == [0, 0, 1, 1]
    assert images.group_kind == "image"
    assert "both sides of a split" in images.notes[0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("file,label", "1.png,a", "2.png,a"), "at least two classes, got only a of 2 pictures"),
        (
            ("file,label,patient", "1.png,a,p", "2.png,a,p", "3.png,b,q", "4.png,b,r"),
            "two patients or more of every class, got one of a: it cannot train and be tested",
        ),
        (("file,label", "1.png,a", "1.png,b"), "line 3: 1.png must have one label, got b, and a"),
        (("file,label", "1.png,a", "./1.png,b"), "one label, got another for the same file"),
        (
            ("file,label,case,split", "1.png,a,p,train", "2.png,b,p,test"),
            "must have each patient in one split, got several for 1 \\(p\\)",
        ),
        (("file,label,case", "1.png,a,p", "2.png,b,NA"), "line 3: case must be told, got 'NA'"),
    ],
)
def test_bad_tables(make, lines, message):
    with pytest.raises(ValueError, match=message) as error:
        open_images(make(*lines))
    assert "\n" not in str(error.value)
