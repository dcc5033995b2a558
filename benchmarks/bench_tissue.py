"""Tissue mask of a 2500 x 2500 px overview against the same chain in OpenCV and in scikit-image.

    pytest benchmarks/bench_tissue.py -s

The rivals take turns with the kernel in one run; what counts is the ratio of the medians.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
import skimage.color
import skimage.filters
import skimage.morphology

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
import tissue_pictures
from histofast.tissue import tissue_mask

SIDE = 2500
CLOSE, HOLE, OBJECT = 3, 1562, 312
SQUARE = np.ones((2 * CLOSE + 1, 2 * CLOSE + 1), np.uint8)


@pytest.fixture(scope="module", params=["he", "ihc"])
def image(request):
    return tissue_pictures.overview(stain=request.param, shape=(SIDE, SIDE), noise=3).image


def opencv_saturation(image):
    return cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1]


def opencv_chroma(image):
    red, green, blue = cv2.split(image)
    highest = cv2.max(cv2.max(red, green), blue)
    return cv2.subtract(highest, cv2.min(cv2.min(red, green), blue))


def opencv(image, score=opencv_chroma, threshold=None):
    """Holes and objects by contours, which is several times faster than by labelled components."""
    smooth = cv2.GaussianBlur(score(image), (5, 5), 0, borderType=cv2.BORDER_REPLICATE)
    kind = cv2.THRESH_BINARY | (cv2.THRESH_OTSU if threshold is None else 0)
    _, mask = cv2.threshold(smooth, threshold or 0, 1, kind)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, SQUARE)
    contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if tree is None:
        return np.zeros_like(mask)
    out = np.zeros_like(mask)
    is_hole = tree[0, :, 3] >= 0
    area = np.array([cv2.contourArea(contour) for contour in contours])
    for i in np.flatnonzero(~is_hole & (area >= OBJECT)):
        cv2.drawContours(out, contours, i, 1, cv2.FILLED)
    for i in np.flatnonzero(is_hole & (area > HOLE)):
        cv2.drawContours(out, contours, i, 0, cv2.FILLED)
    return out


def opencv_components(image):
    """The same with the areas counted exactly."""
    smooth = cv2.GaussianBlur(opencv_chroma(image), (5, 5), 0, borderType=cv2.BORDER_REPLICATE)
    _, mask = cv2.threshold(smooth, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, SQUARE)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=8)
    small = (stats[:, cv2.CC_STAT_AREA] <= HOLE).astype(np.uint8)
    mask |= small[labels]
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    large = (stats[:, cv2.CC_STAT_AREA] >= OBJECT).astype(np.uint8)
    large[0] = 0
    return large[labels]


def scikit_image(image):
    saturation = skimage.color.rgb2hsv(image)[..., 1]
    smooth = skimage.filters.gaussian(saturation, 1.0)
    mask = smooth > skimage.filters.threshold_otsu(smooth)
    mask = skimage.morphology.closing(mask, skimage.morphology.footprint_rectangle((7, 7)))
    mask = skimage.morphology.remove_small_holes(mask, max_size=HOLE, connectivity=2)
    return skimage.morphology.remove_small_objects(mask, max_size=OBJECT - 1)


def plain(image):
    return tissue_mask(image, exclude_foreign=False)


def overlap(a, b):
    a, b = a != 0, b != 0
    return (a & b).sum() / (a | b).sum()


def race(table, benchmark, image, what, functions, goal, rounds):
    """Time all in turns; the goal is for the fastest rival."""
    ratios = table.race(
        f"tissue mask, {SIDE} px square{what}",
        lambda: functions["histofast"](image),
        {
            name: lambda function=function: function(image)
            for name, function in functions.items()
            if name != "histofast"
        },
        goals=dict.fromkeys(functions, goal) if goal else {},
        work=image.size / 3e6,
        unit="megapixels/s",
        rounds=rounds,
    )
    benchmark.extra_info.update(ratios)
    benchmark.pedantic(functions["histofast"], args=(image,), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("threads", [1, None], ids=["one thread", "default threads"])
def test_against_opencv(table, benchmark, image, threads):
    before = cv2.getNumThreads()
    if threads:
        cv2.setNumThreads(threads)
    try:
        for threshold in (8, 12):
            ours = tissue_mask(image, threshold=threshold, exclude_foreign=False)
            assert overlap(ours, opencv(image, threshold=threshold)) > 0.998
        functions = {
            "histofast": plain,
            f"OpenCV {cv2.__version__}": opencv,
            "OpenCV, HSV saturation": lambda image: opencv(image, opencv_saturation),
            "OpenCV, exact areas": opencv_components,
        }
        # The kernel has one thread; what OpenCV does with more is for the record.
        what = ", one thread" if threads else ", OpenCV on all threads"
        race(table, benchmark, image, what, functions, 2 if threads else None, 9)
    finally:
        cv2.setNumThreads(before)


def test_against_scikit_image(table, benchmark, image):
    # One Otsu on saturation loses the pale counterstain of the second picture, hence so low.
    assert overlap(plain(image), scikit_image(image)) > 0.65
    functions = {"histofast": plain, f"scikit-image {skimage.__version__}": scikit_image}
    race(table, benchmark, image, "", functions, 15, 3)
