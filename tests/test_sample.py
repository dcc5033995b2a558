"""Patches drawn at random from slides and tables."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from histofast.errors import SlideError
from histofast.patches import PatchSample, sample_patches
from histofast.slides import read_image, write_png
from slide_files import picture


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of 12 patch images, and a table of them in three bags."""
    folder = tmp_path_factory.mktemp("images")
    with (folder / "patches.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "bag"])
        for i in range(12):
            write_png(folder / f"p{i}.png", picture(48, 48, seed=i))
            table.writerow([f"p{i}.png", f"bag{i % 3}"])
    return folder


def test_patches_come_evenly_from_all_slides(slides):
    sample = sample_patches(slides, n=12, patch_px=32, mpp=2.0)
    assert sample.pixels.shape == (12, 32, 32, 3)
    assert sorted(sample.sources) == ["s0"] * 4 + ["s1"] * 4 + ["s2"] * 4
    assert sample.pixels.std() > 10  # tissue, no glass


def test_the_draw_is_the_seeds(slides):
    a, b, c = (sample_patches(slides, n=6, patch_px=32, mpp=2.0, seed=s).pixels for s in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_what_one_slide_lacks_comes_from_the_others_and_from_overlap(slides):
    whole = sample_patches(slides / "s0.tif", n=1000, patch_px=64, mpp=2.0)
    apart = (640 - 128) // 128 * ((512 - 128) // 128)
    assert apart < len(whole) < 1000
    assert len({patch.tobytes() for patch in whole.pixels}) == len(whole)


def test_tables_and_folders_of_patch_images(images, tmp_path):
    sample = sample_patches(patches=images / "patches.csv", n=9, patch_px=48, mpp=1.0)
    assert sorted(sample.sources) == ["bag0"] * 3 + ["bag1"] * 3 + ["bag2"] * 3
    known = {read_image(file).tobytes() for file in images.glob("*.png")}
    assert {patch.tobytes() for patch in sample.pixels} <= known
    for file in images.glob("*.png"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    sample = sample_patches(tmp_path, n=5, patch_px=24, mpp=1.0)
    assert sample.pixels.shape == (5, 24, 24, 3)
    assert len(set(sample.sources)) == 5


def test_from_eight_sources_on_the_parts_share_none(rng):
    pixels = rng.integers(0, 256, (40, 2, 2, 3), dtype=np.uint8)
    for count in (4, 10):
        sources = tuple(f"s{i % count}" for i in range(40))
        a, b = PatchSample(pixels=pixels, sources=sources).split(20)
        assert (len(a), len(b)) == (20, 20)
        assert np.array_equal(
            np.sort(np.concatenate([a.pixels, b.pixels]).reshape(40, -1), axis=0),
            np.sort(pixels.reshape(40, -1), axis=0),
        )
        assert set(a.sources).isdisjoint(b.sources) is (count == 10)


def test_bad_sources_are_refused(slides, images, tmp_path):
    with pytest.raises(ValueError, match="either slides or patches must be given"):
        sample_patches(n=4, patch_px=32, mpp=1.0)
    with pytest.raises(ValueError, match="either slides or patches must be given"):
        sample_patches(slides, patches=images / "patches.csv", n=4, patch_px=32, mpp=1.0)
    with pytest.raises(FileNotFoundError):
        sample_patches(tmp_path / "none.tif", n=4, patch_px=32, mpp=1.0)
    (tmp_path / "cut.tif").write_bytes((slides / "s0.tif").read_bytes()[:500])
    with pytest.raises(SlideError, match=r"cut\.tif"):
        sample_patches(tmp_path / "cut.tif", n=4, patch_px=32, mpp=1.0)
    write_png(tmp_path / "glass.png", np.full((512, 512, 3), 245, np.uint8))
    with pytest.raises(ValueError, match="no patch with tissue in 1 slides"):
        sample_patches([tmp_path / "glass.png"], n=4, patch_px=64, mpp=1.0, mpp_override=1.0)
