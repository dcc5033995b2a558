"""Labelled images: tables and folders in; targets, groups and splits out."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histofast.datasets import (
    Decoded,
    Images,
    Standard,
    contents_of,
    decode,
    evenly,
    open_images,
    split,
    standardise,
)
from histofast.learning import folds, write_json
from histofast.patches import read_patch_table
from histofast.slides import write_png
from slide_files import picture

GROUPS_NOT_TOLD = (
    "neither patients nor slides are told: pictures count as groups, and pictures of one patient "
    "may be on both sides of a split"
)
PIXELS = np.zeros((2, 2, 3), np.uint8)


@pytest.fixture
def make(tmp_path):
    """Write a table, and the pictures that it names."""

    def write(*lines: str, absent: Iterable[str] = ()) -> Path:
        path = tmp_path / "t.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for line in lines[1:]:
            name = re.split("[,;\t]", line)[0].strip('"')
            if name and name not in absent:
                put(tmp_path / name)
        return path

    return write


def put(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_png(file, PIXELS)


def tree(root: Path, *names: str) -> Path:
    put(*(root / f"{name}.png" for name in names))
    return root


def of_groups(*classes: str, groups: int = 4) -> list[str]:
    """Rows of two pictures in each group, and each group of one class."""
    return [
        f"{name}{i}{j}.png,{name},{name}{i}"
        for name in classes
        for i in range(groups)
        for j in "xy"
    ]


# --- Tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_as_programs_save_it(make, separator, mark):
    rows = ["a.png,tumour,007,0.5", "b.png,normal,07,NA", "c.png,normal,7,", "d.png,tumour,1,1.0"]
    lines = [line.replace(",", separator) for line in ("File Path,LABEL,Patient-ID,MPP", "", *rows)]
    images = open_images(make(mark + lines[0], *lines[1:]))
    assert images.names == ("a.png", "b.png", "c.png", "d.png")
    assert [file.name for file in images.files] == list(images.names)
    assert (images.task, images.classes) == ("classification", ("normal", "tumour"))
    assert images.targets.tolist() == [1, 0, 0, 1]
    assert images.targets.dtype == np.int64
    assert (images.groups, images.group_kind) == (("007", "07", "7", "1"), "patient")
    assert images.mpp == (0.5, None, None, 1.0)
    assert images.splits == ("",) * 4
    assert images.notes == ()


def test_labels_stay_as_they_are_spelt(make):
    images = open_images(make("file,label", "1.png,007", "2.png,7", "3.png,007", "4.png,7"))
    assert images.classes == ("007", "7")
    images = open_images(make("file,label", "1.png,10", "2.png,9", "3.png,10", "4.png,9"))
    assert images.classes == ("9", "10")


def test_a_decimal_comma(make):
    rows = [f"{i}.png;{'ab'[i % 2]};0,25" for i in range(4)]
    assert open_images(make("file;label;mpp", *rows)).mpp == (0.25,) * 4
    rows = [f'{i}.png,{"ab"[i % 2]},"0,25"' for i in range(4)]
    assert open_images(make("file,label,mpp", *rows)).mpp == (0.25,) * 4
    with pytest.raises(ValueError, match=r"line 2: mpp must be a finite number, got '1\.234,5'"):
        open_images(make("file;label;mpp", "1.png;a;1.234,5"))


@pytest.mark.parametrize("cell", ["", "NA", "n/a", "NaN", "null", '"#N/A"'])
def test_a_missing_label_is_left_out_and_counted(make, cell):
    rows = ["1.png,a", f"gone.png,{cell}", "2.png,b", "3.png,a", f"4.png,{cell}", "5.png,b"]
    images = open_images(make("file,label", *rows, absent=["gone.png"]))
    assert images.names == ("1.png", "2.png", "3.png", "5.png")
    assert images.notes[0] == "left out 2 pictures without a label, first in line 3"


def test_the_kind_of_groups_is_what_is_told(make):
    def kind(header: str, **options: str) -> tuple[str, tuple[str, ...]]:
        rows = [f"{i}.png,{'ab'[i % 2]},u{i},v{i // 2}" for i in range(6)]
        images = open_images(make(f"file,label,{header}", *rows), **options)
        return images.group_kind, images.groups[:2]

    assert kind("slide,patient") == ("patient", ("v0", "v0"))
    assert kind("wsi id,x_name") == ("slide", ("u0", "u1"))
    assert kind("patient,Group") == ("group", ("v0", "v0"))
    assert kind("lab,centre") == ("image", ("0.png", "1.png"))
    assert kind("slide,patient", group_column="slide") == ("slide", ("u0", "u1"))
    assert kind("patient,lab", group_column="LAB") == ("group", ("v0", "v0"))
    assert kind("patient,group", group_column="patient") == ("patient", ("u0", "u1"))


def test_what_may_leak_is_noted(make):
    rows = [f"{i}.png,{'ab'[i % 2]},s{i},p{i // 4}" for i in range(8)]
    path = make("file,label,slide,case", *rows)
    assert open_images(path).notes == ()
    (note,) = open_images(path, group_column="slide").notes
    assert note == (
        "patients that are told have several slides and may be on both sides of a split: 2 (p0, p1)"
    )
    notes = open_images(make("file,label,lab,donor", *rows)).notes
    assert notes[0].startswith("columns that may be patients and are not read: donor: call the")
    assert notes[1].startswith("neither patients nor slides are told: pictures count as groups")


def test_told_splits(make):
    rows = [f"{i}.png,{'ab'[i % 2]},{s}" for i, s in enumerate(["Train", "train", "VAL", "valid"])]
    rows += ["4.png,a,test", "5.png,b,Testing"]
    images = open_images(make("file,label,split", *rows))
    assert images.splits == ("train", "train", "validation", "validation", "test", "test")
    fold = split(images)
    assert [part.tolist() for part in (fold.train, fold.validation, fold.test)] == [
        [0, 1],
        [2, 3],
        [4, 5],
    ]
    with pytest.raises(ValueError, match="fold must be 0 where the splits are told, got 1"):
        split(images, fold=1)


# --- Several labels -------------------------------------------------------------------------------


def test_lists_of_labels(make):
    path = make("file,label", "1.png,a;b", "2.png,b", "3.png, c ;a;", '4.png,"c"', "5.png,;")
    images = open_images(path)
    assert (images.task, images.classes) == ("multilabel", ("a", "b", "c"))
    assert images.targets.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0]]
    path = make("file;label", '1.png;"a;b"', "2.png;b", '3.png;"a"', "4.png;b", "5.png;a")
    assert open_images(path).classes == ("a", "b")


def test_the_task_decides_what_a_semicolon_is(make):
    path = make("file,label", "1.png,a;b", "2.png,a;b", "3.png,c", "4.png,c")
    assert open_images(path, task="classification").classes == ("a;b", "c")
    path = make("file,label", "1.png,a", "2.png,a", "3.png,c", "4.png,c")
    assert open_images(path, task="multilabel").targets.shape == (4, 2)


def test_columns_of_labels(make):
    rows = ["1.png,1,0", "2.png,0,1.0", "3.png,yes,", "4.png,NA,0", "5.png,FALSE,1", "6.png,,na"]
    images = open_images(make("file,Tumour,In situ", *rows), labels=["tumour", "in_situ"])
    assert (images.task, images.classes) == ("multilabel", ("tumour", "in_situ"))
    np.testing.assert_array_equal(
        images.targets, [[1, 0], [0, 1], [1, np.nan], [np.nan, 0], [0, 1]]
    )
    assert images.notes[:3] == (
        "left out 1 picture without a label, first in line 7",
        "tumour is not known of 1 picture",
        "in_situ is not known of 1 picture",
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"labels": ()}, ValueError, "labels must be different names of columns, got none"),
        ({"labels": ("a", "a")}, ValueError, "labels must be different names of columns, got a, a"),
        ({"labels": "ab"}, TypeError, "labels must be names of columns, got one text, 'ab'"),
        ({"labels": (1,)}, TypeError, "labels must be a text, got 1"),
        (
            {"labels": ("a",), "label_column": "b"},
            ValueError,
            "label_column must be left out where",
        ),
        ({"labels": ("a",), "task": "classification"}, ValueError, "task must be multilabel where"),
        ({"task": "regression"}, ValueError, "task must be one of classification, multilabel, got"),
        ({"labels": ("a", "z")}, ValueError, r"must have a column z, got file, label, a"),
        ({"label_column": "lable"}, ValueError, r"lable, got .*: did you mean label\?"),
        ({"group_column": "who"}, ValueError, r"must have a column who, got file, label, a"),
        ({"labels": ("a",)}, ValueError, "line 4: a must be 0 or 1, got '2'"),
    ],
)
def test_arguments_that_do_not_fit(make, options, error, message):
    path = make("file,label,a", "1.png,x,0", "2.png,y,1", "3.png,x,2", "4.png,y,0")
    with pytest.raises(error, match=message):
        open_images(path, **options)


# --- Folders --------------------------------------------------------------------------------------


def test_a_folder_of_classes(tmp_path):
    tree(tmp_path, "b/1", "a/1", "a/10", "a/2", "b/deep/er/2", ".hidden/3", "a/.4")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "readme.txt").write_text("x")
    images = open_images(tmp_path)
    assert images.names == ("a/1.png", "a/10.png", "a/2.png", "b/1.png", "b/deep/er/2.png")
    assert images.files[4] == tmp_path / "b/deep/er/2.png"
    assert (images.classes, images.targets.tolist()) == (("a", "b"), [0, 0, 0, 1, 1])
    assert (images.groups, images.group_kind) == (images.names, "image")
    assert images.notes == (
        "left out what is no PNG, JPEG or TIFF: 4 (.hidden, a/.4.png, a/Thumbs.db, ...)",
        GROUPS_NOT_TOLD,
    )


@pytest.mark.parametrize("name", ["{split}/{label}/{i}", "{label}/{split}/{i}"])
def test_a_folder_of_splits(tmp_path, name):
    told = {"Train": "train", "val": "validation", "test": "test"}
    for part in told:
        tree(tmp_path, *(name.format(split=part, label="ab"[i % 2], i=i) for i in range(4)))
    images = open_images(tmp_path)
    assert images.classes == ("a", "b")
    for place, found in zip(images.names, images.splits, strict=True):
        assert [told[part] for part in place.split("/") if part in told] == [found]
    assert len(split(images).test) == 4


def test_a_folder_whose_name_has_a_semicolon_is_one_class(tmp_path):
    assert open_images(tree(tmp_path, "a;b/1", "a;b/2", "c/1", "c/2")).classes == ("a;b", "c")


def test_links_are_followed_but_not_in_circles(tmp_path):
    root = tree(tmp_path / "set", "a/1", "a/2", "b/1")
    elsewhere = tree(tmp_path / "elsewhere", "x")
    (root / "b" / "linked").symlink_to(elsewhere)
    (root / "b" / "round").symlink_to(root)
    (root / "b" / "2.png").symlink_to(tmp_path / "gone.png")
    (root / "b" / "loop").symlink_to(root / "b" / "loop")
    images = open_images(root)
    assert images.names == ("a/1.png", "a/2.png", "b/1.png", "b/linked/x.png")
    assert images.notes[0] == "left out what is no PNG, JPEG or TIFF: 1 (b/loop)"
    assert (
        images.notes[1]
        == f"left out b/2.png is no file that can be read, b/round is a link to {root}"
    )


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_no_table_can_hold_is_left_out(tmp_path):
    root = tree(tmp_path, "a/1", "a/2", "b/1", "b/2", "b/new\nline")
    images = open_images(root)
    assert len(images) == 4
    assert "must have a name of printable UTF-8: rename it" in images.notes[0]
    assert "\n" not in "".join(images.notes)


BAD_FOLDERS = {
    "nothing": (
        (),
        r"must have pictures \(PNG, JPEG or TIFF\) in a folder for each class, got none$",
    ),
    "loose": (
        ("1", "2"),
        "must have a folder for each class, got pictures only: make one for each",
    ),
    "beside": (("a/1", "b/1", "2"), r"within the folders of their classes, got 1 \(2.png\) beside"),
    "cases": (("a/1", "A/1", "b/1"), "got A and a, which differ in case only: join them"),
    "cases in splits": (
        ("train/b/1", "train/a/1", "test/B/1", "test/a/2"),
        "got B and b, which differ in case only",
    ),
    "missing": (("NA/1", "b/1"), "got NA, which tables read as no label: rename it"),
    "one class": (
        ("a/1", "a/2"),
        "must have at least two classes, got only a of 2 pictures: add pictures of another, or",
    ),
    "one picture": (
        ("a/1", "a/2", "b/1"),
        "must have two pictures or more of every class, got fewer of b: it cannot train and be tested",
    ),
    "unlearned": (
        ("train/a/1", "train/a/2", "test/a/3", "test/b/1", "test/b/2"),
        "must have pictures of every class to train on, got none of b",
    ),
}


@pytest.mark.parametrize(("names", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_folders_that_are_no_set(tmp_path, names, message):
    if message.startswith("got ") and (tmp_path / "probe").mkdir() is None:
        if (tmp_path / "PROBE").exists():
            pytest.skip("case does not matter to this file system")
        (tmp_path / "probe").rmdir()
    with pytest.raises(ValueError, match=message) as error:
        open_images(tree(tmp_path, *names))
    assert "\n" not in str(error.value)


def test_the_table_that_was_meant(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label\n")
    meant = re.escape(f": was the table meant, {tmp_path / 'labels.csv'}?")
    for names in ((), ("1", "2"), ("img/1", "img/2")):
        tree(tmp_path, *names)
        if names == ("img/1", "img/2"):
            (tmp_path / "1.png").unlink()
            (tmp_path / "2.png").unlink()
            with pytest.raises(ValueError, match=f"got only img{meant}"):
                read_patch_table(tmp_path)
        with pytest.raises(ValueError, match=meant):
            open_images(tmp_path)


def test_columns_are_of_tables(tmp_path):
    tree(tmp_path, "a/1", "b/1")
    for options in ({"labels": ["x"]}, {"label_column": "x"}, {"group_column": "x"}):
        with pytest.raises(
            ValueError, match="must be a table where columns are named, got a folder"
        ):
            open_images(tmp_path, **options)
    with pytest.raises(FileNotFoundError, match="no such table"):
        open_images(tmp_path / "none")
    with pytest.raises(TypeError, match="path must be a path"):
        open_images(3)


# --- What would leak, or could not be trained -----------------------------------------------------

BAD_TABLES = {
    "no pictures": (("path_to,label", "1.png,a"), r"must have a column file \(or path"),
    "no labels": (
        ("file,class", "1.png,a"),
        "must have a column label, got file, class: name it with",
    ),
    "none": (("file,label", "1.png,NA", "2.png,"), "must have labels, got none in 2 rows"),
    "one class": (("file,label", "1.png,a", "2.png,a"), "got only a of 2 pictures"),
    "one group": (
        ("file,label,patient", "1.png,a,p", "2.png,a,p", "3.png,b,q", "4.png,b,r"),
        "two patients or more of every class, got fewer of a: it cannot train and be tested; .*or tell groups with group_column",
    ),
    "one with a label": (
        ("file,label", "1.png,a;b", "2.png,a", "3.png,c", "4.png,c"),
        "two pictures or more with every class, got fewer with b",
    ),
    "one without": (
        ("file,label", "1.png,a;b", "2.png,a;b", "3.png,a"),
        "two pictures or more without every class, got fewer without a, b",
    ),
    "cases": (
        ("file,label", "1.png,Tumour", "2.png,tumour", "3.png,b"),
        "got Tumour and tumour, which differ in case only: write them in one way",
    ),
    "two labels": (
        ("file,label", "1.png,a", "1.png,b"),
        "line 3: 1.png must have one label, got b, and a in line 2: several labels of a picture",
    ),
    "twice": (
        ("file,label", "1.png,a", "1.png,a"),
        r"line 3: 1.png is there twice \(first in line 2",
    ),
    "two names": (
        ("file,label", "1.png,a", "2.png,b", "./1.png,b"),
        "line 4: ./1.png must be there with one label, got the same file as 1.png of a: remove one",
    ),
    "two names of one label": (
        ("file,label", "d/1.png,a", "2.png,b", "d/../d/1.png,a"),
        "line 4: d/../d/1.png must be there once, got the same file as d/1.png of a: remove one",
    ),
    "leak": (
        ("file,label,case,split", "1.png,a,p,train", "2.png,b,p,test"),
        r"must have each patient in one split, got several for 1 \(p\): mend the splits",
    ),
    "some splits": (
        ("file,label,split", "1.png,a,train", "2.png,b,test", "3.png,a,", "4.png,b,NA"),
        r"a split for all pictures or for none, got none for 2 \(3.png, 4.png\)",
    ),
    "split": (
        ("file,label,split", "1.png,a,train", "2.png,b,maybe"),
        "line 3: split must be train, val or test, got 'maybe'",
    ),
    "group": (
        ("file,label,case", "1.png,a,p", "2.png,b,NA"),
        "line 3: case must be told, got 'NA'",
    ),
    "no group": (("file,label,slide", "1.png,a,p", "2.png,b,"), "line 3: slide is empty"),
}


@pytest.mark.parametrize(("lines", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_tables_that_are_no_set(make, lines, message):
    with pytest.raises(ValueError, match=message) as error:
        open_images(make(*lines))
    assert "\n" not in str(error.value)
    assert str(error.value).count("t.csv") == 1


def test_pictures_that_are_not_there_are_listed(make, tmp_path):
    rows = [f"{i}.png,{'ab'[i % 2]}" for i in range(9)]
    gone = [f"{i}.png" for i in range(2, 7)]
    message = re.escape(
        "must name pictures that are there, got 5 (2.png, 3.png, 4.png, ...) that are not: their "
        f"paths are relative to {tmp_path}"
    )
    with pytest.raises(ValueError, match=message):
        open_images(make("file,label", *rows, absent=gone))
    (tmp_path / "2.png").mkdir()
    with pytest.raises(
        ValueError, match=r"line 4: picture .*2\.png must be a file, got a folder: replace it"
    ):
        open_images(make("file,label", *rows, absent=gone[1:]))


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_a_picture_that_becomes_a_pipe_is_left_out_and_nobody_waits_for_it(make, tmp_path):
    rows = [f"{i}.png,{'ab'[i % 2]},p{i}" for i in range(8)]
    path = make("file,label,patient", *rows)
    for i in range(8):
        write_png(tmp_path / f"{i}.png", picture(20, 20, seed=i))
    images = open_images(path)
    (tmp_path / "3.png").unlink()
    os.mkfifo(tmp_path / "3.png")
    with pytest.raises(
        ValueError, match=r"line 5: picture .*3\.png must be a file, got a named pipe"
    ):
        open_images(path)
    assert [bool(content) for content in contents_of(images)] == [i != 3 for i in range(8)]
    found = decode(images, cache=tmp_path / "cache")
    made = standardise(
        images, out=tmp_path / "std", standard=Standard(patch_px=8, min_contrast=0), folds=2
    )
    for unreadable in (found.unreadable, made.unreadable):
        ((name, reason),) = unreadable
        assert name == "3.png"
        assert "must be a file, got a named pipe" in reason


# --- Pictures to predict --------------------------------------------------------------------------


def test_pictures_without_labels(make, tmp_path):
    images = open_images(tree(tmp_path / "loose", "1", "deep/2"), labelled=False)
    assert images.names == ("1.png", "deep/2.png")
    assert (images.has_targets, images.classes, images.targets.tolist()) == (False, (), [])
    assert not images.part([1]).has_targets
    images = open_images(make("file,label", "1.png,a", "2.png,"), labelled=False)
    assert (images.has_targets, len(images)) == (False, 2)
    images = open_images(make("file", "1.png", "2.png"), labelled=False)
    assert (images.has_targets, images.group_kind) == (False, "image")


def test_labels_of_pictures_to_predict_are_there_if_all_have_one(make, tmp_path):
    images = open_images(make("file,label", "1.png,a", "2.png,a"), labelled=False)
    assert (images.classes, images.targets.tolist()) == (("a",), [0, 0])
    images = open_images(tree(tmp_path / "set", "b/1", "a/1"), labelled=False)
    assert (images.classes, images.targets.tolist()) == (("a", "b"), [0, 1])


# --- A standardised folder ------------------------------------------------------------------------


@pytest.fixture
def standardised(tmp_path):
    def write(header: str, *rows: str, **told: object) -> Path:
        (tmp_path / "images.csv").write_text("\n".join((header, *rows)) + "\n")
        put(*(tmp_path / row.split(",")[0] for row in rows))
        write_json(tmp_path / "dataset.json", told)
        return tmp_path

    return write


def test_a_standardised_folder(standardised):
    rows = [
        f"{s}/{i}.png,{'ab'[int(i) % 2]},g{s}{i},{s},1.0,{i}.tif"
        for s in ("train", "test")
        for i in "0123"
    ]
    folder = standardised(
        "file,label,group,split,mpp,source",
        *rows,
        task="classification",
        classes=["a", "b"],
        group_kind="patient",
    )
    images = open_images(folder)
    assert (images.path, images.group_kind) == (folder / "images.csv", "patient")
    assert (images.groups[0], images.splits[0], images.mpp[0]) == ("gtrain0", "train", 1.0)
    (folder / "dataset.json").write_text("{}")
    with pytest.raises(Exception, match=r"dataset\.json must be as it was written"):
        open_images(folder)


def test_a_standardised_folder_of_several_labels(standardised):
    rows = [f"{i}.png,{i % 2},{i // 2 % 2},{i},,1.0,{i}.tif" for i in range(8)]
    told = {"task": "multilabel", "classes": ["x", "y"], "group_kind": "image"}
    images = open_images(standardised("file,x,y,group,split,mpp,source", *rows, **told))
    assert (images.task, images.classes, images.group_kind) == ("multilabel", ("x", "y"), "image")
    assert images.targets[:4].tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert "both sides of a split" in images.notes[0]


# --- Parts and splits -----------------------------------------------------------------------------


def test_part(make):
    images = open_images(make("file,label,patient", *of_groups("a", "b")))
    part = images.part(np.array([9, 0, 3]))
    assert part.names == tuple(images.names[i] for i in (9, 0, 3))
    assert part.groups == ("b0", "a0", "a1")
    assert part.targets.tolist() == [1, 0, 0]
    assert part.classes == images.classes
    assert (len(part), part.files[0]) == (3, images.files[9])


def made(groups: list[int], targets: list[int], classes: int) -> Images:
    names = tuple(f"{i}.png" for i in range(len(groups)))
    return Images(
        path=Path("t.csv"),
        names=names,
        files=tuple(map(Path, names)),
        task="classification",
        classes=tuple("abcdef"[:classes]),
        targets=np.array(targets, np.int64),
        groups=tuple(f"g{group}" for group in groups),
        group_kind="patient",
        splits=("",) * len(names),
        mpp=(None,) * len(names),
    )


@given(
    sizes=st.lists(st.integers(1, 4), min_size=12, max_size=24),
    classes=st.integers(2, 3),
    n=st.integers(2, 4),
    seed=st.integers(0, 2**32),
)
def test_every_image_is_tested_once_and_no_group_is_divided(sizes, classes, n, seed):
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    targets = [group % classes for group in groups]
    images = made(groups, targets, classes)
    tested = []
    for fold in range(n):
        found = split(images, fold=fold, folds=n, seed=seed)
        parts = [found.train, found.validation, found.test]
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(images)))
        sides = [{images.groups[i] for i in part} for part in parts]
        assert all(sides)
        assert sum(map(len, sides)) == len(set().union(*sides))
        for part in (found.train, found.test):
            assert set(images.targets[part]) == set(range(classes))
        tested += found.test.tolist()
    assert sorted(tested) == list(range(len(images)))


def test_several_labels_are_dealt_alike(make):
    """Each label, and its absence, is in every part as long as there are groups of it."""
    rng = np.random.default_rng(0)
    cells = (rng.random((60, 3)) < [0.5, 0.2, 0.8]).astype(int).astype(object)
    cells[rng.random((60, 3)) < 0.1] = "NA"
    rows = [f"{i}.png,p{i // 2},{','.join(map(str, row))}" for i, row in enumerate(cells)]
    images = open_images(make("file,patient,a,b,c", *rows), labels=("a", "b", "c"))
    for fold in folds(images, n=4, seed=3):
        sides = [{images.groups[i] for i in p} for p in (fold.train, fold.validation, fold.test)]
        assert sum(map(len, sides)) == len(set().union(*sides)) == 30
        for part in (fold.train, fold.test):
            for column in images.targets[part].T:
                assert {0.0, 1.0} <= set(column.tolist())
    share = np.nanmean(images.targets, axis=0)
    tested = [np.nanmean(images.targets[f.test], axis=0) for f in folds(images, n=4, seed=3)]
    assert np.abs(tested - share).max() < 0.2
    with pytest.raises(
        ValueError, match=r"the number of patients of every class, got 20 for \d+ with"
    ):
        split(images, folds=20)


def test_messages_of_folds_name_the_groups(make):
    path = make("file,label", *[f"{i}.png,{'ab'[i % 2]}" for i in range(6)])
    with pytest.raises(
        ValueError, match="folds must be at most the number of pictures, 6, got 7: ask"
    ):
        split(open_images(path), folds=7)
    with pytest.raises(
        ValueError, match="folds must be at most the number of pictures of every class, got 4 for 3"
    ):
        split(open_images(path), folds=4)


def test_split_is_a_fold_of_learning(make):
    images = open_images(make("file,label,patient", *of_groups("a", "b", groups=6)))
    for i, fold in enumerate(folds(images, n=3, seed=7)):
        found = split(images, fold=i, folds=3, seed=7)
        for name in ("train", "validation", "test"):
            np.testing.assert_array_equal(getattr(found, name), getattr(fold, name))
    with pytest.raises(ValueError, match=r"fold must be within 0\.\.2, got 3"):
        split(images, fold=3, folds=3)
    with pytest.raises(ValueError, match="folds must be at least 2, got 1"):
        split(images, folds=1)


# --- Real sets ------------------------------------------------------------------------------------


def test_real_sets(data):
    idc = open_images(data / "idc_patches" / "labels.csv")
    assert (len(idc), len(set(idc.groups)), idc.group_kind) == (2968, 110, "patient")
    assert np.bincount(idc.targets).tolist() == [2168, 800]
    assert len(split(idc).test) > 400
    bone = open_images(data / "osteosarcoma" / "labels.csv")
    assert (len(bone.classes), len(set(bone.groups)), bone.group_kind) == (3, 4, "patient")
    assert set(bone.mpp) == {1.0}
    by_slide = open_images(data / "osteosarcoma" / "labels.csv", group_column="slide")
    assert (len(set(by_slide.groups)), by_slide.group_kind) == (26, "slide")
    assert len(split(by_slide).test) > 6
    oral = open_images(data / "oral_scc" / "labels.csv")
    assert (len(oral), oral.classes, oral.group_kind) == (906, ("Normal", "OSCC"), "image")
    assert "may be on both sides of a split" in oral.notes[0]
    with pytest.raises(ValueError, match=r"got only img: was the table meant, .*labels\.csv\?"):
        open_images(data / "oral_scc")


# --- Places --------------------------------------------------------------------------------------


@given(
    known=st.sets(st.integers(0, 30), min_size=1),
    asked=st.lists(st.integers(0, 30), unique=True),
    most=st.none() | st.integers(1, 12),
)
def test_places_are_of_the_images_that_could_be_read(known, asked, most):
    rows = np.array(sorted(known))
    found = Decoded(
        pixels=np.zeros((len(rows), 8, 8, 3), np.uint8),
        rows=rows,
        sha256=(),
        unreadable=(),
        path=Path("pixels.u8"),
    )
    wanted = [row for row in asked if row in known]
    if most is not None and len(wanted) > most:
        wanted = [wanted[i * len(wanted) // most] for i in range(most)]
    places = found.places_of(np.array(asked, np.int64), most=most)
    assert rows[places].tolist() == wanted


def test_of_few_all_are_taken_evenly():
    assert evenly(np.arange(10), 4).tolist() == [0, 2, 5, 7]
    assert evenly(np.arange(3), 4).tolist() == [0, 1, 2]
    assert evenly(np.arange(0), 4).tolist() == []
