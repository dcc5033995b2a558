"""Standardising pictures of 1,024 px against the way of HistoKT: scikit-image's rescale, crops, PNG.

    pytest benchmarks/bench_standardise.py -s

Both read the same files (JPEG, as osteosarcoma's are, or PNG) at 0.5 um per pixel, bring them to 1.0,
cut 272 px with an overlap of a quarter at the same places, drop what has no contrast and write PNG.
Theirs interpolates after a Gaussian, in one process, as published; ours averages areas, in two threads
and in one, and hashes what it reads and writes. The goal is for two threads: 8 x.
"""

from __future__ import annotations

import time
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from histofast.datasets import Images, Standard, standardise
from histofast.patches import make_slide
from histofast.slides import open_slide, write_png

pytest.importorskip("skimage", reason="needs scikit-image: the group bench of pyproject.toml")
from skimage.exposure import is_low_contrast
from skimage.io import imread, imsave
from skimage.transform import rescale
from skimage.util import img_as_ubyte

COUNT, PX, SIDE, STRIDE, GOAL = 16, 1024, 272, 204, 8.0


def images_in(folder: Path, suffix: str) -> Images:
    slide_path = folder / "s.tif"
    make_slide(slide_path, width_px=4 * PX, height_px=4 * PX, seed=1, tissue_fraction=0.9)
    with open_slide(slide_path) as slide:
        files = []
        for i in range(COUNT):
            files.append(folder / f"{i}{suffix}")
            pixels = slide.read_region((i % 4 * PX, i // 4 * PX), 0, (PX, PX))
            if suffix == ".png":
                write_png(files[-1], pixels)
            else:
                files[-1].write_bytes(imagecodecs.jpeg8_encode(pixels, level=90))
    names = tuple(file.name for file in files)
    return Images(
        path=folder,
        names=names,
        files=tuple(files),
        task="classification",
        classes=("a", "b"),
        targets=np.arange(COUNT) % 2,
        groups=names,
        group_kind="image",
        splits=("",) * COUNT,
        mpp=(0.5,) * COUNT,
    )


def theirs(images: Images, out: Path) -> int:
    kept = 0
    out.mkdir()
    for file in images.files:
        image = rescale(imread(file), 0.5, channel_axis=2)
        starts = [*range(0, image.shape[0] - SIDE + 1, STRIDE), image.shape[0] - SIDE]
        for j, (y, x) in enumerate((y, x) for y in starts for x in starts):
            crop = img_as_ubyte(image[y : y + SIDE, x : x + SIDE])
            if not is_low_contrast(crop, lower_percentile=5, upper_percentile=99):
                imsave(out / f"{file.stem}-{j}.png", crop, check_contrast=False)
                kept += 1
    return kept


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_standardise(tmp_path, suffix):
    images = images_in(tmp_path, suffix)
    seconds: dict[str, list[float]] = {"theirs": [], "1 thread": [], "2 threads": []}
    kept = {}
    for repeat in range(3):
        for name, taken in seconds.items():
            out = tmp_path / f"{name}-{repeat}"
            began = time.perf_counter()
            if name == "theirs":
                kept[name] = theirs(images, out)
            else:
                made = standardise(
                    images, out=out, standard=Standard(mpp=1.0), folds=2, threads=int(name[0])
                )
                kept[name] = sum(sum(part.values()) for part in made.counts.values())
            taken.append(time.perf_counter() - began)
    assert kept["1 thread"] == kept["2 threads"]
    assert abs(kept["theirs"] - kept["1 thread"]) <= 0.05 * kept["theirs"]
    for name, taken in seconds.items():
        ratio = min(seconds["theirs"]) / min(taken)
        print(
            f"{suffix} {name:10} {COUNT / min(taken):7.1f} pictures/s, {kept[name] / min(taken):7.1f} crops/s: "
            f"{ratio:.1f} x (goal {GOAL:g} x)"
        )
