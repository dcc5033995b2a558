"""The pixels behind rows of feature files."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest

import histofast
from histofast import encoders, features
from histofast.errors import FeatureError
from histofast.patches import PatchBag, PatchReader
from histofast.slides import slide, write_png
from slide_files import picture
from small_slides import write_slide


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for i in range(2):
        write_slide(folder / f"s{i}.tif", seed=i)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    with (folder / "patches.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "bag"])
        for i in range(12):
            write_png(folder / f"p{i}.png", picture(48, 48, seed=i))
            rows.writerow([f"p{i}.png", f"bag{i % 2}"])
    return folder / "patches.csv"


def files_of(out):
    return [features.read_features(path) for path in sorted(out.rglob("*.h5"))]


def test_pixels_of_slides_give_the_features_again(slides, encoder, tmp_path):
    histofast.extract(slides, out=tmp_path, encoder=encoder, mpp=2.0, patch_px=32, min_tissue=0.1)
    with PatchReader(slides) as reader, encoders.load(encoder, device="cpu") as network:
        assert reader.names == {"s0", "s1"}
        for file in files_of(tmp_path):
            rows = np.arange(1, len(file.features), 3)
            pixels = reader.read(file, rows)
            assert pixels.shape == (len(rows), 32, 32, 3)
            np.testing.assert_array_equal(network.encode(pixels), file.features[rows])


def test_pixels_of_patch_tables(table, encoder, tmp_path):
    histofast.extract(patches=table, out=tmp_path, encoder=encoder, patch_px=32)
    with PatchReader(patches=table) as reader, encoders.load(encoder, device="cpu") as network:
        for file in files_of(tmp_path):
            rows = np.array([0, 4, 5])
            pixels = reader.read(file, rows)
            np.testing.assert_array_equal(network.encode(pixels), file.features[rows])


def test_a_bag_is_hashed_once(table, encoder, tmp_path, monkeypatch):
    histofast.extract(patches=table, out=tmp_path, encoder=encoder, patch_px=32)
    hashed = []
    identity = PatchBag.identity.fget
    monkeypatch.setattr(
        PatchBag, "identity", property(lambda bag: hashed.append(bag.name) or identity(bag))
    )
    with PatchReader(patches=table) as reader:
        first, second = files_of(tmp_path)
        for file in (first, second, first):
            reader.read(file, np.array([0]))
        assert hashed == ["bag0", "bag1"]
        other = dataclasses.replace(first, identity={**first.identity, "patches": "patches:6"})
        with pytest.raises(FeatureError, match="was made of another file than"):
            reader.read(other, np.array([0]))
        reader.read(first, np.array([0]))


def test_a_slide_is_hashed_once(slides, encoder, tmp_path, monkeypatch):
    histofast.extract(slides, out=tmp_path, encoder=encoder, mpp=2.0, patch_px=32, min_tissue=0.1)
    hashed = []
    identity = slide.file_identity

    def counted(path, companions):
        hashed.append(path.stem)
        return identity(path, companions)

    monkeypatch.setattr(slide, "file_identity", counted)
    with PatchReader(slides) as reader:
        first, second = files_of(tmp_path)
        for file in (first, second, first):
            reader.read(file, np.array([0]))
    assert hashed == ["s0", "s1"]


def test_what_cannot_be_found_again(slides, table, encoder, tmp_path):
    histofast.extract(slides, out=tmp_path, encoder=encoder, mpp=2.0, patch_px=32, min_tissue=0.1)
    file = files_of(tmp_path)[0]
    rows = np.array([0])
    with PatchReader(patches=table) as reader:
        with pytest.raises(FeatureError, match=r"s0\.h5 was made of s0, which is not among"):
            reader.read(file, rows)
        foreign = dataclasses.replace(file, identity=None)
        with pytest.raises(FeatureError, match="must be of histofast extract, to find its patches"):
            reader.read(foreign, rows)
    (tmp_path / "other").mkdir()
    write_slide(tmp_path / "other" / "s0.tif", seed=9)
    with (
        PatchReader(tmp_path / "other") as reader,
        pytest.raises(FeatureError, match=r"was made of another file than .*s0\.tif: extract it"),
    ):
        reader.read(file, rows)
    with pytest.raises(ValueError, match="either slides or patches must be given"):
        PatchReader()
    with pytest.raises(FileNotFoundError):
        PatchReader(tmp_path / "none")
