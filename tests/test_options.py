"""Options of public functions: numbers of any type are taken, what is no number is one line."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import histofast
from histofast import slides
from histofast.features import FeatureWriter
from histofast.patches import make_slide
from histofast.tissue import tissue_from_mask, tissue_mask
from small_slides import write_slide

LEVEL = SimpleNamespace(width=512, height=640, downsample=1.0)
GEOMETRY = SimpleNamespace(levels=[LEVEL], mpp=1.0)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("options") / "s.tif"
    write_slide(path)
    with histofast.open_slide(path) as opened:
        yield opened


def plan(**options):
    return histofast.plan_patches(GEOMETRY, **{"mpp": 1.0, "patch_px": 64, **options})


def test_numpy_numbers_are_taken(slide):
    ours = histofast.find_tissue(slide, mpp=8.0, threshold=20, min_area_um2=100.0)
    theirs = histofast.find_tissue(
        slide, mpp=np.float32(8), threshold=np.int64(20), min_area_um2=np.int32(100)
    )
    assert ours.identity == theirs.identity
    assert plan(patch_px=np.int64(32), mpp=np.float32(1)).identity == plan(patch_px=32).identity
    batches = histofast.iter_patches(slide, plan(), batch_size=np.int64(3))
    assert len(next(batches)[0]) == 3
    with histofast.open_slide(slide.path, mpp_override=np.float64(0.5)) as scaled:
        assert type(scaled.mpp) is float


def write(path, **options):
    given = {"coords": np.zeros((1, 2), np.int64), "d": 2, "identity": {}, "attributes": {}}
    return FeatureWriter(path, **{**given, **options})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, p: plan(mpp="1"), "mpp must be a number, got '1'"),
        (lambda s, p: plan(patch_px="64"), "patch_px must be a whole number, got '64'"),
        (lambda s, p: plan(patch_px=64.0), "patch_px must be a whole number, got 64.0"),
        (lambda s, p: plan(overlap_px="8"), "overlap_px must be a whole number, got '8'"),
        (lambda s, p: plan(min_tissue="0"), "min_tissue must be a number, got '0'"),
        (lambda s, p: histofast.find_tissue(s, mpp="8"), "mpp must be a number, got '8'"),
        (
            lambda s, p: histofast.find_tissue(s, threshold="9"),
            "threshold must be a whole number, got '9'",
        ),
        (
            lambda s, p: histofast.find_tissue(s, max_hole_um2="9"),
            "max_hole_um2 must be a number, got '9'",
        ),
        (
            lambda s, p: tissue_mask(np.zeros((4, 4, 3), np.uint8), close_px="3"),
            "close_px must be a whole number, got '3'",
        ),
        (
            lambda s, p: tissue_from_mask(np.ones((4, 4), bool), width_l0="4", height_l0=4),
            "width_l0 must be a whole number, got '4'",
        ),
        (
            lambda s, p: next(histofast.iter_patches(s, plan(), batch_size="8")),
            "batch_size must be a whole number, got '8'",
        ),
        (
            lambda s, p: histofast.open_slide(s.path, mpp_override="0.5"),
            "mpp_override must be a number, got '0.5'",
        ),
        (lambda s, p: s.overview(mpp="8"), "mpp must be a number, got '8'"),
        (
            lambda s, p: s.read_region((0, 0), "0", (1, 1)),
            "level must be a whole number, got '0'",
        ),
        (lambda s, p: write(p / "a.h5", d="2"), "d must be a whole number, got '2'"),
        (lambda s, p: make_slide(p / "a.tif", mpp="1"), "mpp must be a number, got '1'"),
        (
            lambda s, p: slides.write_array_pyramid(
                p / "a", np.zeros((9, 9, 3), np.uint8), mpp="1"
            ),
            "mpp must be a number, got '1'",
        ),
        (
            lambda s, p: histofast.feature_path(
                p, mpp="1", patch_px=1, overlap_px=0, encoder="a", slide="b"
            ),
            "mpp must be a number, got '1'",
        ),
    ],
)
def test_what_is_no_number_is_one_line(slide, tmp_path, call, message):
    with pytest.raises(TypeError, match=f"^{message}$"):
        call(slide, tmp_path)
