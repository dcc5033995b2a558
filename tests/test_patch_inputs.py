"""Ready-made patches as people have them: what `extract` takes, and what it keeps of each picture."""

from __future__ import annotations

import numpy as np
import pytest

import histofast
from histofast.errors import FeatureError, SlideError
from histofast.features import FeatureWriter, read_features, verify
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
        assert verify(slide.outputs[0]) == []


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
