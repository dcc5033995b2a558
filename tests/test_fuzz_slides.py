"""Broken slides and pictures: read all the same, or refused in one line, in little time and memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

import fuzzing
import slide_files as files
from histofast.errors import SlideError
from histofast.slides import (
    image_size,
    open_slide,
    read_image,
    read_mask,
    srgb_table,
    stream_boxes,
)

pytestmark = pytest.mark.slow

PATCH_PX = 32
FEW = min(500, fuzzing.MUTANTS)
BOXES = np.array([(x, y, PATCH_PX, PATCH_PX) for y in (0, 40) for x in (0, 40, 80)], np.float64)


def read_slide(path: Path) -> None:
    """Open, look over the whole, cut one batch of patches."""
    _read(path, None)


def read_with_openslide(path: Path) -> None:
    """As `read_slide`, all of it by OpenSlide."""
    _read(path, "openslide")


def _read(path: Path, door: Any) -> None:
    with open_slide(path, mpp_override=0.5, door=door) as slide, ThreadPoolExecutor(1) as workers:
        slide.survey(mpp=2.0, workers=workers)
        level = slide.levels[0]
        inside = (BOXES[:, 0] + PATCH_PX <= level.width) & (BOXES[:, 1] + PATCH_PX <= level.height)
        for _ in stream_boxes(
            slide, 0, BOXES[inside], patch_px=PATCH_PX, batch_size=8, workers=workers
        ):
            pass
        assert slide.identity
        for name in slide.associated:
            with contextlib.suppress(SlideError):  # a matter of its own
                assert slide.associated[name].dtype == np.uint8


def read_plain(path: Path) -> None:
    """As a patch, a mask and a slide of one level."""
    size = image_size(path)
    image = read_image(path)
    assert image.shape[1::-1] == size
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    read_mask(path)
    _read(path, None)


def pyramid(path: Path, **options: Any) -> Path:
    image = files.picture(128, 160)
    return files.write_tiff(path, [image, files.half(image)], **options)


def shared_tables(path: Path) -> Path:
    tiles = [
        files.split_tables(files.jpeg(tile)) for tile in files.tiles_of(files.picture(96, 96), 32)
    ]
    return files.write_encoded(
        path,
        [rest for _, rest in tiles],
        shape=(96, 96, 3),
        tile_px=32,
        compression="jpeg",
        photometric="ycbcr",
        description=files.APERIO,
        extratags=[(347, 7, None, tiles[0][0], True)],
    )


def strips(path: Path, **options: Any) -> Path:
    options = {"photometric": "rgb", "rowsperstrip": 16, "metadata": None, **options}
    tifffile.imwrite(path, files.picture(96, 128), **options)
    return path


def gdal(path: Path) -> Path:
    """Level 0 in strips, an overview in tiles, one of them absent."""
    image = files.picture(96, 128)
    options: dict[str, Any] = {"photometric": "rgb", "compression": "zlib", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, rowsperstrip=16, **options)
        tiff.write(files.half(image), tile=(32, 32), subfiletype=1, **options)
    return path


TILED: dict[str, Callable[[Path], Path]] = {
    "shared tables": shared_tables,
    "deflate predictor": lambda p: pyramid(p, compression="zlib", predictor=2),
    "subifds": lambda p: pyramid(p, compression="jpeg", subifds=True),
    "bigtiff": lambda p: pyramid(p, compression="lzw", bigtiff=True),
    "jpeg 2000": lambda p: pyramid(p, compression="jpeg2000"),
    "aperio 33003": lambda p: pyramid(p, compression=33003, description=files.APERIO),
    "webp": lambda p: pyramid(p, compression="webp"),
    "none": lambda p: pyramid(p),
}
STRIPS: dict[str, Callable[[Path], Path]] = {
    "jpeg strips": lambda p: strips(p, compression="jpeg"),
    "deflate strips": lambda p: strips(p, compression="zlib", predictor=2),
    "raw strips": lambda p: strips(p),
    "planes": lambda p: files.write_tiff(
        p,
        [np.moveaxis(files.picture(64, 96), -1, 0).copy()],
        planarconfig="separate",
        compression="zlib",
    ),
    "gdal": gdal,
}
RARE: dict[str, Callable[[Path], Path]] = {
    "png": lambda p: pyramid(p, compression="png"),
    "jpeg xl": lambda p: pyramid(p, compression="jpegxl"),
    "jpeg xr": lambda p: pyramid(p, compression="jpegxr"),
    "lerc": lambda p: pyramid(p, compression="lerc"),
    "zstd": lambda p: pyramid(p, compression="zstd"),
    "lzma": lambda p: pyramid(p, compression="lzma"),
    "packbits": lambda p: pyramid(p, compression="packbits"),
    "alpha": lambda p: files.write_tiff(
        p,
        [np.dstack([files.picture(64, 64), files.picture(64, 64)[..., :1]])],
        extrasamples=["unassalpha"],
        compression="webp",
    ),
    "grey 16": lambda p: files.write_tiff(
        p,
        [files.picture(64, 96)[..., 0].astype(np.uint16) * 257],
        photometric="minisblack",
        compression="jpeg2000",
    ),
    "ome": lambda p: pyramid(p, ome=True, subifds=True, compression="jpeg"),
}


def originals(kinds: dict[str, Callable[[Path], Path]], folder: Path) -> list[Path]:
    return [make(folder / f"{name.replace(' ', '-')}.tif") for name, make in kinds.items()]


def attack(read: Any, paths: list[Path], folder: Path, *, mutants: int = fuzzing.MUTANTS) -> None:
    attacked = folder / "attacked"
    attacked.mkdir()
    strays = fuzzing.attack(read, paths, attacked, mutants=mutants)
    assert not strays, fuzzing.told(strays)


def test_tiled_tiff(tmp_path):
    attack(read_slide, originals(TILED, tmp_path), tmp_path)


def test_strips(tmp_path):
    attack(read_plain, originals(STRIPS, tmp_path), tmp_path)


def test_rare_codecs(tmp_path):
    attack(read_slide, originals(RARE, tmp_path), tmp_path, mutants=FEW)


def test_jpeg(tmp_path):
    image = files.picture(96, 96)
    streams = {
        "a": files.jpeg(image),
        "b": files.jpeg(image, subsampling="444", optimize=True),
        "grey": bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(image[..., 0]))),
    }
    paths = [tmp_path / f"{name}.jpg" for name in streams]
    for path, stream in zip(paths, streams.values(), strict=True):
        path.write_bytes(stream)
    attack(read_plain, paths, tmp_path)


def test_png(tmp_path):
    image = files.picture(64, 64)
    kinds = [image, image[..., 0].copy(), np.dstack([image, image[..., :1]])]
    kinds.append(image.astype(np.uint16) * 257)
    paths = [tmp_path / f"{i}.png" for i in range(len(kinds))]
    for path, samples in zip(paths, kinds, strict=True):
        path.write_bytes(imagecodecs.png_encode(samples))
    attack(read_plain, paths, tmp_path)


def read_profile(path: Path) -> None:
    srgb_table(path.read_bytes(), of=str(path))


def test_profiles(tmp_path):
    path = tmp_path / "p.icc"
    path.write_bytes(imagecodecs.cms_profile("srgb"))
    attack(read_profile, [path], tmp_path, mutants=fuzzing.MUTANTS // 50)  # a table takes a second


def test_openslide(tmp_path):
    kinds = {
        "generic": lambda p: pyramid(p, compression="jpeg"),
        "lzw": lambda p: pyramid(p, compression="lzw", bigtiff=True),
        "aperio": lambda p: pyramid(p, compression=33003, description=files.APERIO),
    }
    attack(read_with_openslide, originals(kinds, tmp_path), tmp_path, mutants=FEW)


def test_pictures_beside_the_scan(tmp_path):
    def aperio(path: Path) -> Path:
        rgb: dict[str, Any] = {"photometric": "rgb", "metadata": None}
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(files.picture(128, 160), tile=(64, 64), description=files.APERIO, **rgb)
            for name, how in (("thumbnail", "jpeg"), ("label", "lzw"), ("macro", "deflate")):
                said = f"Aperio Image Library v11.2.1\n{name} 40x30"
                tiff.write(files.picture(30, 40), compression=how, description=said, **rgb)
        return path

    path = aperio(tmp_path / "a.tif")
    attack(read_slide, [path], tmp_path, mutants=FEW)
    (tmp_path / "openslide").mkdir()
    attack(read_with_openslide, [path], tmp_path / "openslide", mutants=FEW)


def test_vendors_of_openslide(tmp_path):
    kinds = {
        "trestle": lambda p: pyramid(
            p, compression="jpeg", software="MedScan", description="Background Color=FFFFFF;"
        ),
        "philips": lambda p: pyramid(
            p, compression="jpeg", software="Philips DP v1.0", description=PHILIPS
        ),
    }
    attack(read_slide, originals(kinds, tmp_path), tmp_path, mutants=FEW)


PHILIPS = "<DataObject></DataObject>"
