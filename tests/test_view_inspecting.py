"""What is said of a patch is what its files say, and its pixels are those that the encoder saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from histofast.errors import FeatureError
from histofast.features import read_features
from histofast.patches import PatchReader, StainOptions
from histofast.slides import open_slide
from histofast.viewer import Layers
from histofast.viewer.inspecting import about_patch, pixels_of_patch, rank_of
from small_viewers import catalogue_of, write_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, encoder)
    (folder / "labels.csv").write_text("slide,label\ns0,yes\n")
    return folder


@pytest.fixture
def catalogue(cohort):
    with catalogue_of(cohort, labels=cohort / "labels.csv") as opened:
        yield opened


def test_ranks_count_those_above(rng):
    values = np.array([0.5, 2, np.nan, 2, -np.inf, 1], np.float32)
    assert [rank_of(values, row) for row in range(6)] == [
        (4, 4),
        (1, 4),
        None,
        (1, 4),
        None,
        (3, 4),
    ]


def test_a_patch_is_told_as_its_files_have_it(catalogue):
    file = catalogue.features(0)
    told = about_patch(catalogue, Layers(catalogue), 0, 5)
    x, y = file.coords[5].tolist()
    assert (told["row"], told["x"], told["y"], told["side_l0"]) == (5, x, y, 64)
    assert (told["x_um"], told["y_um"], told["side_um"]) == (x * 1.0, y * 1.0, 64.0)
    assert told["tissue_fraction"] == pytest.approx(float(file.tissue_fraction[5]))
    assert (told["unreadable"], told["label"], told["prediction"]) == (False, "yes", None)
    assert (told["pixels"], told["notes"]) == ("exact", [])
    (rank,) = told["ranks"]
    higher = (file.tissue_fraction > file.tissue_fraction[5]).sum()
    assert (rank["layer"], rank["rank"], rank["of"]) == ("tissue", 1 + higher, len(file.features))
    assert about_patch(catalogue, Layers(catalogue), 1, 0)["label"] is None


def test_what_is_no_number_is_not_told(catalogue, monkeypatch):
    file = catalogue.features(0)
    unknown = replace(file, tissue_fraction=np.full(len(file.features), np.nan, np.float32))
    monkeypatch.setattr(catalogue, "features", lambda index: unknown)
    told = about_patch(catalogue, Layers(catalogue), 0, 5)
    assert (told["tissue_fraction"], told["ranks"]) == (None, [])


def test_a_patch_that_is_not_there_is_refused(catalogue):
    n = len(catalogue.features(0).features)
    for row in (-1, n):
        with pytest.raises(IndexError, match=rf"patch must be within 0\.\.{n - 1}, got {row}"):
            about_patch(catalogue, Layers(catalogue), 0, row)


@pytest.mark.parametrize(
    "options", [{}, {"stain": StainOptions(method="macenko")}, {"overlap_px": 8}]
)
def test_pixels_are_what_the_encoder_saw(tmp_path, encoder, options):
    write_cohort(tmp_path, encoder, slides=1, **options)
    with catalogue_of(tmp_path) as catalogue, PatchReader(tmp_path / "slides") as reader:
        file = catalogue.features(0)
        rows = np.array([0, 3, len(file.features) - 1])
        wanted = reader.read(file, rows)
        for row, pixels in zip(rows.tolist(), wanted, strict=True):
            np.testing.assert_array_equal(pixels_of_patch(catalogue, 0, row), pixels)


def test_pixels_of_another_slide_are_refused(cohort, catalogue, monkeypatch):
    other = catalogue.features(1)
    monkeypatch.setattr(catalogue, "features", lambda index: other)
    with pytest.raises(FeatureError, match=r"s1\.h5 was made of another file than .*s0\.tif"):
        pixels_of_patch(catalogue, 0, 0)


def test_features_of_other_tools_show_the_same_square_of_the_slide(cohort, catalogue, monkeypatch):
    file = read_features(catalogue.entries[0].features)
    told = {name: file.attributes[name] for name in ("patch_size", "patch_size_level0")}
    foreign = replace(file, identity=None, attributes=told)
    monkeypatch.setattr(catalogue, "features", lambda index: foreign)
    assert about_patch(catalogue, Layers(catalogue), 0, 2)["pixels"] == "region"
    with open_slide(cohort / "slides" / "s0.tif") as slide:
        x, y = file.coords[2].tolist()
        wanted = slide.read_region((x, y), size=(32, 32), mpp=2.0)
    np.testing.assert_array_equal(pixels_of_patch(catalogue, 0, 2), wanted)
    monkeypatch.setattr(catalogue, "features", lambda index: replace(foreign, attributes={}))
    assert about_patch(catalogue, Layers(catalogue), 0, 2)["pixels"] is None
    with pytest.raises(FeatureError, match="does not tell the side of its patches"):
        pixels_of_patch(catalogue, 0, 2)
