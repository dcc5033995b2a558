"""Ready-made masks in: files of any kind of image, (h, w) uint8 of 0 and 1 out.

*Values* are what a mask's file says of each pixel, uint8; 0 is background. Lossy files do not keep
them: there a pixel counts as far as it is bright.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from histofast._files import path_of, regular_file
from histofast.errors import SlideError, TileError
from histofast.slides.byte_source import LocalSource
from histofast.slides.images import (
    MAX_IMAGE_PX,
    PNG_MAGIC,
    TIFF_MAGIC,
    PixelKind,
    mask_values,
    read_samples,
    tiff_mask_kind,
)
from histofast.slides.slide import Level
from histofast.slides.tiff import TiffSlide
from histofast.slides.tiff_layout import TiffLayout, read_layout

_MOST_LABELS = 16
_DARK = 32  # a lossy mask with nothing brighter may be labels or noise


def read_mask(path: str | Path, *, size_wanted: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Decode a mask: a pixel belongs to it when any of its samples, alpha apart, is not zero.

    In a palette it is the index that counts, so 0 is background whatever its colour. JPEG does not keep
    values: there, and in TIFFs of JPEG streams, a pixel belongs when it is brighter than a quarter of
    the brightest. So it is with JPEG 2000, WebP and their like if there are more than 16 values.

    Args:
        path: PNG, JPEG or TIFF.
        size_wanted: (width, height) that is enough. Of a TIFF in tiles the coarsest level that has
            as many pixels is read; one of over 300 million is brought to this size, the pixels taken
            that lie under the centres. None reads level 0.

    Returns:
        (h, w) uint8, 0 or 1. Transparent pixels are 0.

    Raises:
        FileNotFoundError: no such file.
        SlideError: as `read_image`; a palette whose background cannot be told, a lossy file too dark
            to tell its mask from noise.
    """
    path = regular_file(path_of("path", path), kind="image", error=SlideError)
    try:
        with path.open("rb") as file:
            head = file.read(26)
    except OSError as error:
        raise SlideError(f"{path} cannot be read: {error.strerror or error}") from error
    if head[:4] in TIFF_MAGIC:
        layout = read_layout(LocalSource(path), kind_of=tiff_mask_kind)
        if layout.tiled:
            return _of_tiles(path, layout, size_wanted)
    if head.startswith(PNG_MAGIC) and head[25:26] == b"\x03":
        return _of_palette(path)
    samples, kind, form = read_samples(path, kind_of=tiff_mask_kind)
    if form.format == "JPEG":
        kind = replace(kind, mask="lossy")
    return _mask_of(path, mask_values(samples, kind), kind)


def _mask_of(path: Path, values: NDArray[np.uint8], kind: PixelKind) -> NDArray[np.uint8]:
    """The mask that values stand for."""
    if kind.palette:
        _check_background(path, np.unique(values), kind.palette)
    is_lossy = kind.mask == "lossy"
    if kind.mask == "either":  # labels are few, noise has any value
        is_lossy = len(np.unique(values)) > _MOST_LABELS
    return _bright(path, values) if is_lossy else (values != 0).view(np.uint8)


def _bright(path: Path, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mask of values that were compressed with loss."""
    most = int(values.max(initial=0))
    if 0 < most < _DARK:
        raise SlideError(
            f"{path} must be a mask of bright pixels, as JPEG does not keep small values, got values"
            f" up to {most}: write it as PNG"
        )
    return (values > most // 4).view(np.uint8)


# --- Palettes -------------------------------------------------------------------------------------


def _of_palette(path: Path) -> NDArray[np.uint8]:
    read_samples(path)  # whatever is wrong with the file is told as of any picture
    data, palette, alpha = _without_palette(path.read_bytes())
    spread: NDArray[np.uint8] = imagecodecs.png_decode(data)
    values = spread // (255 // (2 ** data[24] - 1))  # libpng spreads small greys over 0..255
    if palette:
        _check_background(path, np.unique(values), palette)
    clear = np.isin(values, np.flatnonzero(np.frombuffer(alpha, np.uint8) == 0))
    mask: NDArray[np.bool_] = (values != 0) & ~clear
    return mask.view(np.uint8)


def _without_palette(data: bytes) -> tuple[bytes, bytes, bytes]:
    """A PNG of indices as one of greys, RGB of its palette, and the opacity of its first entries."""
    header = bytearray(data[12:29])  # "IHDR" and what it says
    header[13] = 0  # grey
    kept = data[:12] + bytes(header) + zlib.crc32(header).to_bytes(4, "big")
    palette, alpha, at = b"", b"", 33
    while at < len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + length]
        if name == b"PLTE":
            palette = content
        elif name == b"tRNS":
            alpha = content
        elif name in (b"IDAT", b"IEND"):
            kept += data[at : at + 12 + length]
        at += 12 + length
    return kept, palette, alpha


def _check_background(path: Path, used: NDArray[np.uint8], palette: bytes) -> None:
    """Refuse a palette of which black is an entry in use and not the first.

    Label maps have background first; programs that count colours put them in any order.
    """
    colours = [tuple(palette[3 * i : 3 * i + 3]) for i in (0, *used.tolist())]
    if any(colours[0]) and (0, 0, 0) in colours:
        raise SlideError(
            f"{path} must have its background first in its palette, got {colours[0]} there and black"
            " elsewhere: write it in grey, 0 for background"
        )


# --- Tiles ----------------------------------------------------------------------------------------


def _of_tiles(
    path: Path, layout: TiffLayout, size_wanted: tuple[int, int] | None
) -> NDArray[np.uint8]:
    index = 0
    if size_wanted is not None:
        fine = [i for i, level in enumerate(layout.levels) if _has(level, size_wanted)]
        index = max(fine, default=0)
    level = layout.levels[index]
    size = level.width, level.height
    if level.width * level.height > MAX_IMAGE_PX:
        if size_wanted is None:
            raise SlideError(
                f"{path} must have at most {MAX_IMAGE_PX // 10**6} million pixels to be read whole, got"
                f" {level.width} x {level.height}: write it with reduced levels"
            )
        size = size_wanted
    with TiffSlide(LocalSource(path), layout, mpp=1.0) as slide:
        try:
            values = _sampled(slide, index, size)
        except TileError as error:
            raise SlideError(f"{path} cannot be decoded: {error}") from error
    return _mask_of(path, values, layout.kind)


def _has(level: Level, size: tuple[int, int]) -> bool:
    """Whether a level has as many pixels, to within its rounding."""
    return level.width >= size[0] - 1 and level.height >= size[1] - 1


def _sampled(slide: TiffSlide, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The values of a level under the centres of (width, height) pixels; each tile is decoded once."""
    level = slide.levels[index]
    x, y = (
        ((np.arange(n) + 0.5) * side / n).astype(np.int64)
        for n, side in zip(size, (level.width, level.height), strict=True)
    )
    values = np.zeros((size[1], size[0]), np.uint8)
    tile = np.empty((level.tile_height, level.tile_width, 3), np.uint8)
    for row in np.unique(y // level.tile_height).tolist():
        down = np.flatnonzero(y // level.tile_height == row)
        for column in np.unique(x // level.tile_width).tolist():
            across = np.flatnonzero(x // level.tile_width == column)
            slide.read_tile(index, column, row, tile)
            part = tile[y[down] % level.tile_height][:, x[across] % level.tile_width, 0]
            values[down[0] : down[-1] + 1, across[0] : across[-1] + 1] = part
    return values
