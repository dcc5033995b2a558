"""Broken documents and chunks of OME-Zarr: read all the same, or refused in one line, in little time and memory."""

from __future__ import annotations

import functools
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import fuzzing
import slide_files as files
from broken_files import CONTENTS
from extras import need
from histofast.slides import open_slide, stream_boxes

need("zarr")

from zarr_files import write_zarr

BOXES = np.array([(x, y, 32, 32) for y in (0, 40) for x in (0, 40, 80)], np.float64)
# What stands in the place of which part of which slide, by the suffix of the broken file.
PARTS = {
    ".attributes": ("a.zarr", ".zattrs"),
    ".array": ("a.zarr", "0/.zarray"),
    ".chunk": ("a.zarr", "0/0.0.0"),
    ".group": ("b.zarr", "zarr.json"),
    ".level": ("b.zarr", "0/zarr.json"),
    ".shard": ("b.zarr", "0/c/0/0/0"),
}


def write_both(folder: Path) -> Path:
    image = files.picture(96, 128)
    levels = [image, files.half(image)]
    write_zarr(folder / "a.zarr", levels, axes="cyx", tile_px=32)
    write_zarr(folder / "b.zarr", levels, version="0.5", axes="cyx", tile_px=32, shard=2)
    return folder


@functools.cache
def good() -> Path:
    return write_both(Path(tempfile.mkdtemp()))


def read_part(path: Path) -> None:
    """Read a slide in which the file is the part that its suffix says."""
    name, key = PARTS[path.suffix]
    broken = good() / f"broken-{name}"
    shutil.copytree(good() / name, broken)
    try:
        shutil.copyfile(path, broken / key)
        with (
            open_slide(broken, mpp_override=0.5) as slide,
            ThreadPoolExecutor(1) as workers,
        ):
            slide.survey(mpp=2.0, workers=workers)
            level = slide.levels[0]
            inside = (BOXES[:, 0] + 32 <= level.width) & (BOXES[:, 1] + 32 <= level.height)
            for _ in stream_boxes(
                slide, 0, BOXES[inside], patch_px=32, batch_size=8, workers=workers
            ):
                pass
            assert slide.identity
            assert slide.files
    finally:
        shutil.rmtree(broken)


@pytest.mark.parametrize("suffix", PARTS)
def test_no_content_strays(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    found = {}
    for name, content in CONTENTS.items():
        path.write_bytes(content)
        if (what := fuzzing.how_it_strayed(read_part, path)) is not None:
            found[name] = what
    assert not found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["documents", "bytes"])
def test_fuzz_zarr(kind, tmp_path):
    write_both(tmp_path / "good")
    originals = []
    for suffix, (name, key) in PARTS.items():
        if (suffix in (".chunk", ".shard")) == (kind == "bytes"):
            originals.append(tmp_path / f"x{suffix}")
            shutil.copyfile(tmp_path / "good" / name / key, originals[-1])
    (tmp_path / "attacked").mkdir()
    strays = fuzzing.attack(read_part, originals, tmp_path / "attacked", text=kind == "documents")
    assert not strays, fuzzing.told(strays)
