"""Ready-made patches as people have them: what `extract` takes, and what it keeps of each picture."""

from __future__ import annotations

import numpy as np
import pytest

import histofast
from extras import need
from histofast.errors import FeatureError, SlideError
from histofast.features import FeatureWriter, problems_of, read_features
from histofast.patches import PatchImages, PatchReader, read_patch_table, sample_patches
from histofast.slides import write_png
from tiny_encoder import write_encoder


@pytest.fixture
def encoder(tmp_path):
    return write_encoder(tmp_path / "e.onnx", name="tiny")


def picture(seed, side=40):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A folder of classes with two pictures each."""
    for i, name in enumerate(["no/1.png", "no/2.png", "ja ü/3.png", "ja ü/4.png"]):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(tmp_path / "set" / name, picture(i))
    return tmp_path / "set"


def extract(out, encoder, **options):
    return histofast.extract(options.pop("slides", None), out=out, encoder=encoder, **options)


@pytest.mark.parametrize("layout", ["trident", "clam", "stamp"])
def test_names_and_labels_are_kept_with_the_features(tmp_path, encoder, layout):
    for i in range(4):
        write_png(tmp_path / f"{i}.png", picture(i))
    table = tmp_path / "t.csv"
    table.write_text("file,slide,label\n0.png,a,no\n1.png,b,ja ü\n2.png,a,\n3.png,b,007\n", "utf-8")
    given = {"patches": table, "layout": layout}
    if layout == "stamp":
        given["mpp"] = 0.5
    report = extract(tmp_path / "f", encoder, **given)
    assert report.exit_code == (1 if layout == "stamp" else 0)  # which needs a level-0 scale
    for slide in report.of("done"):
        file = read_features(slide.outputs[0])
        files, labels = {
            "a": (("0.png", "2.png"), ("no", "")),
            "b": (("1.png", "3.png"), ("ja ü", "007")),
        }[slide.name]
        assert (file.files, file.labels) == (files, labels)
        assert problems_of(slide.outputs[0]) == []


def test_a_folder_of_classes_keeps_its_labels(tmp_path, encoder, folder):
    report = extract(tmp_path / "f", encoder, patches=folder)
    found = {
        file.files[0]: file.labels
        for file in (read_features(slide.outputs[0]) for slide in report.slides)
    }
    assert found == {
        "ja ü/3.png": ("ja ü",),
        "ja ü/4.png": ("ja ü",),
        "no/1.png": ("no",),
        "no/2.png": ("no",),
    }


def test_without_labels_there_are_none(tmp_path, encoder):
    write_png(tmp_path / "0.png", picture(0))
    (tmp_path / "t.csv").write_text("file\n0.png\n")
    (slide,) = extract(tmp_path / "f", encoder, patches=tmp_path / "t.csv").slides
    file = read_features(slide.outputs[0])
    assert (file.files, file.labels) == (("0.png",), ())


def test_another_label_is_another_file(tmp_path, encoder):
    write_png(tmp_path / "0.png", picture(0))
    table = tmp_path / "t.csv"
    for label, status in (("1", "done"), ("1", "skipped"), ("2", "failed")):
        table.write_text(f"file,label\n0.png,{label}\n")
        (slide,) = extract(tmp_path / "f", encoder, patches=table).slides
        assert slide.status == status
    assert "was made by something else" in slide.error


def test_names_are_as_many_as_patches(tmp_path):
    with pytest.raises(ValueError, match=r"^files must be 2, one per patch, got 1$"):
        FeatureWriter(
            tmp_path / "a.h5",
            coords=np.zeros((2, 2), np.int64),
            d=1,
            identity={},
            attributes={},
            files=["x"],
        )


def test_a_folder_of_plain_pictures_is_told_to_be_patches(tmp_path, encoder, folder):
    message = (
        r"slides must say their scale, got plain pictures only, 2 \(1\.png, 2\.png\): take them as "
        r'ready-made patches with patches=".*/no", or tell their scale with mpp_override$'
    )
    with pytest.raises(ValueError, match=message):
        extract(tmp_path / "f", encoder, slides=folder / "no")
    assert not (tmp_path / "f").exists()
    with pytest.raises(
        SlideError, match=r"no slide in .*, or take its pictures as patches with patc"
    ):
        extract(tmp_path / "f", encoder, slides=folder)
    (tmp_path / "none").mkdir()
    with pytest.raises(SlideError, match=r"not in its subfolders$"):
        extract(tmp_path / "f", encoder, slides=tmp_path / "none")


def test_hints_name_flags_on_the_command_line(cli, tmp_path, encoder, folder):
    answer = cli("extract", folder / "no", "-e", encoder, "-o", tmp_path / "f")
    assert answer.code == 2
    assert (
        f"with --patches {folder / 'no'}, or tell their scale with --mpp-override" in answer.err[-1]
    )


def test_texts_of_other_tools_are_not_read(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = np.zeros((2, 3), np.float32)
        file["labels"] = np.array([b"a", b"b"])
    assert read_features(tmp_path / "a.h5").labels == ()
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["labels"] = np.zeros(2)
    with pytest.raises(FeatureError, match="must have a dataset 'features'"):
        read_features(tmp_path / "b.h5")


# --- Bags --------------------------------------------------------------------------------------

TABLE = "file,Site,label\nx/10_idx5_a.png,c1,0\nx/10_idx5_b.png,c1,1\ny/9_idx5_c.png,c2,1\n"


@pytest.mark.parametrize(
    ("bag_from", "bags"),
    [
        (None, {"10_idx5_a": ["a"], "10_idx5_b": ["b"], "9_idx5_c": ["c"]}),
        ("site", {"c1": ["a", "b"], "c2": ["c"]}),
        ("folder", {"x": ["a", "b"], "y": ["c"]}),
        (r"(\d+)_idx", {"10": ["a", "b"], "9": ["c"]}),
        (r"_([ab]|c)\.png$", {"a": ["a"], "b": ["b"], "c": ["c"]}),
    ],
)
def test_bags_from(tmp_path, bag_from, bags):
    (tmp_path / "t.csv").write_text(TABLE)
    found = read_patch_table(tmp_path / "t.csv", bag_from=bag_from)
    assert {bag.name: [name[-5] for name in bag.names] for bag in found} == bags


@pytest.mark.parametrize("column", ["Patient", "slide", "group"])
def test_bags_from_a_column_that_is_known(tmp_path, column):
    (tmp_path / "t.csv").write_text(f"file,{column},other\n1.png,p,s\n2.png,p,s\n3.png,q,s\n")
    found = read_patch_table(tmp_path / "t.csv", bag_from=column)
    assert {bag.name: len(bag) for bag in found} == {"p": 2, "q": 1}


@pytest.mark.parametrize("column", ["Slide (H&E)", "(a)(b)", "(", "folder", r"(\d+)_idx"])
def test_a_column_comes_before_expressions_and_folders(tmp_path, column):
    """A column whose name has a parenthesis was taken for an expression."""
    (tmp_path / "t.csv").write_text(f"file,{column}\nx/1_idx.png,p\nx/2_idx.png,q\ny/3_idx.png,p\n")
    for asked in (column, column.lower()):
        found = read_patch_table(tmp_path / "t.csv", bag_from=asked)
        assert {bag.name: len(bag) for bag in found} == {"p": 2, "q": 1}


def test_an_expression_is_no_other_spelling_of_a_column(tmp_path):
    (tmp_path / "t.csv").write_text("file,idx\na_idx.png,p\nb_idx.png,p\n")
    found = read_patch_table(tmp_path / "t.csv", bag_from="(.)_idx")
    assert [bag.name for bag in found] == ["a", "b"]


def test_bags_from_folders_and_their_classes(tmp_path):
    for name in ("no/s1/1.png", "no/s1/2.png", "yes/s2/3.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    found = read_patch_table(tmp_path / "set", bag_from="folder")
    assert [(bag.name, bag.names, bag.labels) for bag in found] == [
        ("s1", ("no/s1/1.png", "no/s1/2.png"), ("no", "no")),
        ("s2", ("yes/s2/3.png",), ("yes",)),
    ]
    found = read_patch_table(tmp_path / "set" / "no", bag_from="folder")
    assert [(bag.name, len(bag), bag.labels) for bag in found] == [("s1", 2, ("", ""))]
    (tmp_path / "set" / "yes" / "s1").mkdir()
    (tmp_path / "set" / "yes" / "s1" / "4.png").touch()
    with pytest.raises(
        ValueError, match="folders of different names where they are bags, got no/s1 and"
    ):
        read_patch_table(tmp_path / "set", bag_from="folder")


@pytest.mark.parametrize("bag_from", [None, r"/(\w+)\.png"])
def test_a_picture_called_like_its_class_keeps_its_label(tmp_path, bag_from):
    for name in ("no/no.png", "yes/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    found = read_patch_table(tmp_path, bag_from=bag_from)
    assert [(bag.name, bag.labels) for bag in found] == [("no", ("no",)), ("1", ("yes",))]


@pytest.mark.parametrize(
    ("bag_from", "error", "message"),
    [
        (3, TypeError, "bag_from must be a text, got 3"),
        ("(", ValueError, r"bag_from must be a regular expression, got '\(' \("),
        ("(a)(b)", ValueError, r"bag_from must have one group, got 2 in '\(a\)\(b\)': write \(\?:"),
        (
            "(idx6)",
            ValueError,
            r"line 2 must have bag_from in its name, got x/10_idx5_a\.png and '\(idx6",
        ),
        ("sight", ValueError, "must have a column sight, got file, Site, label"),
    ],
)
def test_bags_from_nothing_are_refused(tmp_path, bag_from, error, message):
    (tmp_path / "t.csv").write_text(TABLE)
    with pytest.raises(error, match=message):
        read_patch_table(tmp_path / "t.csv", bag_from=bag_from)


def test_bags_of_pictures_beside_folders(tmp_path):
    (tmp_path / "t.csv").write_text("file\n1.png\n")
    with pytest.raises(
        ValueError, match=r"line 2 must lie in a folder, which is its bag, got 1\.png"
    ):
        read_patch_table(tmp_path / "t.csv", bag_from="folder")


def test_rows_of_bags_from_names_are_found_again(tmp_path, encoder, folder):
    """What `finetune` reads: the pixels behind features, by the same rule of bags."""
    images = PatchImages(folder, bag_from="folder")
    report = histofast.extract(patches=images, encoder=encoder, out=tmp_path / "f")
    file = read_features(report.of("done")[0].outputs[0])
    with PatchReader(patches=images) as reader:
        pixels = reader.read(file, np.arange(len(file.features)))
        assert reader.names == {slide.name for slide in report.slides}
    with histofast.load_encoder(encoder) as loaded:
        np.testing.assert_array_equal(loaded.encode(pixels), file.features)


def test_samples_are_even_over_bags(tmp_path):
    lines = ["file"]
    for bag, n in (("a", 30), ("b", 2), ("c", 2)):
        for i in range(n):
            name = f"{bag}{i}.png"
            write_png(tmp_path / name, np.full((8, 8, 3), ord(bag), np.uint8))
            lines.append(name)
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    images = PatchImages(tmp_path / "t.csv", bag_from=r"([abc])\d+")
    sample = sample_patches(patches=images, n=6, patch_px=8, mpp=0.5)
    assert sample.sources == ("a", "a", "b", "b", "c", "c")
    assert sample.pixels[:, 0, 0, 0].tolist() == [97, 97, 98, 98, 99, 99]


def test_pictures_without_bags_are_compared_on(tmp_path, encoder):
    compare = need("histofast.comparison").compare
    lines = ["file,label"]
    for i in range(36):
        write_png(tmp_path / f"{i}.png", picture(i))
        lines.append(f"{i}.png,{i % 2}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    found = compare(encoder, encoder, tmp_path / "t.csv", n=36).comparison
    assert (found.n, found.groups) == (36, 36)
    images = PatchImages(tmp_path / "t.csv", bag_from=r"(\d)\.png")
    assert compare(encoder, encoder, images, n=36).comparison.groups == 10


def test_what_is_told_of_patch_images_needs_some(cli, tmp_path, encoder):
    for command, more in (
        (("extract", "s.svs", "-o", tmp_path), "--bag-from=folder"),
        (("models", "bench", encoder), "--odd-patches=pad"),
        (("models", "quantize", encoder, "--calibrate", "s.svs"), "--bag-from=folder"),
    ):
        answer = cli(*command, more)
        assert answer.code == 2
        flag = more.partition("=")[0]
        assert f"{flag} is about patch images: name them with --patches" in answer.err[-1]


def test_commands_without_bags_say_what_they_have(cli, tmp_path):
    answer = cli("classify", tmp_path, "--bag-from", "folder", "--out", tmp_path / "o")
    assert answer.code == 2
    assert "no such option: --bag-from" in answer.err[-1]
    assert ", which extract, " in answer.err[-1]
    assert "have: here it is --group-column (see histofast classify --help)" in answer.err[-1]
    answer = cli("verify", tmp_path, "--odd-patches", "pad")
    assert "have (see histofast verify --help)" in answer.err[-1]


def test_bags_from_on_the_command_line(cli, tmp_path, encoder, folder):
    answer = cli(
        "extract", "--patches", folder, "--bag-from", "folder", "-e", encoder, "-o", tmp_path / "f"
    )
    assert answer.code == 0
    found = {p.stem: read_features(p).files for p in (tmp_path / "f").rglob("*.h5")}
    assert found == {"no": ("no/1.png", "no/2.png"), "ja ü": ("ja ü/3.png", "ja ü/4.png")}
