"""What encoders of whole slides are given: as TRIDENT reads our files, and as TITAN places patches."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

import histofast
from histofast.errors import FeatureError
from histofast.features import slide_inputs
from small_slides import run, write_slide
from tiny_encoder import write_encoder

PX = 32
# Slides whose scale makes the step a whole number of pixels, less than one, and more than one.
MPP = {"whole": 1.0, "rounded up": 1.21, "rounded down": 1.22}


class Titan:
    """A stand-in for its slide encoder: the arguments by their names, and where patches are placed."""

    def encode_slide_from_patch_features(self, patch_features, patch_coords, patch_size_lv0):
        assert (patch_features.ndim, patch_features.shape[::2]) == (3, (1, 768))
        assert patch_coords.shape == (1, patch_features.shape[1], 2)
        assert (patch_features.dtype, patch_coords.dtype) == (np.float32, np.int64)
        assert type(patch_size_lv0) is int
        corners = patch_coords[0] - patch_coords[0].min(axis=0)
        cells = corners // patch_size_lv0
        grid = np.zeros((*cells.max(axis=0) + 1, 768), np.float32)
        np.add.at(grid, tuple(cells.T), patch_features[0])
        return grid, cells


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("titan")
    conch = write_encoder(folder / "conch15.onnx", name="conch15", d=768, patch_px=PX)
    found = {}
    for name, mpp in MPP.items():
        slide = write_slide(folder / f"{name}.tif".replace(" ", "-"), mpp=mpp, size=(1200, 1100))
        report = run(slide, folder / "f", conch)
        found[name] = report.slides[0].outputs[0]
    return found


@pytest.mark.parametrize("name", MPP)
def test_trident_reads_what_titan_needs(files, name):
    """`features`, `coords` and the attributes of `coords`, in a batch of one."""
    with h5py.File(files[name]) as file:
        features, coords = file["features"][:], file["coords"][:]
        attributes = dict(file["coords"].attrs)
    assert (features.dtype, coords.dtype) == (np.float32, np.int64)
    side_l0 = attributes["patch_size_level0"]
    assert side_l0 == round(PX * 2.0 / MPP[name])
    grid, cells = Titan().encode_slide_from_patch_features(
        features[None], coords[None], int(side_l0)
    )
    is_apart = len(np.unique(cells, axis=0)) == len(cells)
    assert is_apart == (name != "rounded up")  # why `slide_inputs` is there
    assert grid.shape[2] == 768


@pytest.mark.parametrize("name", MPP)
def test_every_patch_has_a_cell_of_its_own(files, name):
    file = histofast.read_features(files[name])
    given = slide_inputs(file)
    grid, cells = Titan().encode_slide_from_patch_features(
        given.features, given.coords, given.patch_size_level0
    )
    assert len(np.unique(cells, axis=0)) == len(cells)
    step_l0 = PX * 2.0 / MPP[name]
    wanted = np.rint(file.coords / step_l0).astype(int)
    assert np.array_equal(cells, wanted - wanted.min(axis=0))
    assert np.array_equal(grid[tuple(cells.T)], file.features)
    assert len(cells) > 100
    if name == "whole":
        assert np.array_equal(given.coords[0], file.coords)


def test_files_of_other_tools_stay_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    coords = rng.integers(0, 9999, (5, 2))
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["features"] = rng.normal(size=(5, 768)).astype("f4")
        file["coords"] = coords
        file["coords"].attrs["patch_size_level0"] = 1024
        file["coords"].attrs["overlap"] = 0
    given = slide_inputs(histofast.read_features(tmp_path / "theirs.h5"))
    assert np.array_equal(given.coords[0], coords)
    assert given.patch_size_level0 == 1024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"overlap_px": 8},
            "must not overlap to lie on a grid of cells, got 8 px: extract them with",
        ),
        (
            {"edge": "shift"},
            'must lie on a grid, got one .* px beside it: extract them with edge="drop"',
        ),
    ],
)
def test_what_lies_on_no_grid(tmp_path, options, message):
    conch = write_encoder(tmp_path / "conch15.onnx", name="conch15", d=768, patch_px=PX)
    slide = write_slide(tmp_path / "a.tif", mpp=1.21, size=(1210, 1110))
    report = run(slide, tmp_path / "f", conch, min_tissue=0.0, **options)
    with pytest.raises(FeatureError, match=message):
        slide_inputs(histofast.read_features(report.slides[0].outputs[0]))


def test_what_has_no_coordinates(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 768), np.float32))
    with pytest.raises(FeatureError, match="must hold patches with coordinates and their side"):
        slide_inputs(histofast.read_features(tmp_path / "a.npy"))
