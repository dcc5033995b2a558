"""Tiles or a picture in, a generic pyramidal TIFF out, as scanners write them.

Tiles are asked for one by one and written as they come, so memory does not grow with the slide. The
file has one page per level (or SubIFDs), its resolution in pixels per cm, and JPEG tiles are YCbCr
4:2:0: OpenSlide, tifffile and libtiff read it. It is whole or absent, as every file of ours.
"""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._files import path_of, replacing, write_error
from histofast._numbers import real_number
from histofast._stopping import stop_if_asked

Codec = Literal["jpeg", "jpeg2000", "webp", "deflate", "lzw", "none"]
Pixels = NDArray[np.uint8]
# (level, column, row) -> the tile's pixels (tile_px, tile_px, 3), or its compressed bytes.
TileSource = Callable[[int, int, int], Pixels | bytes]
# (column, row) -> the level-0 tile's pixels, and its compressed bytes where they are known.
Level0Source = Callable[[int, int], tuple[Pixels, bytes | None]]

# What the tiles of each codec are called in the file, and what their samples mean.
_TIFF_CODEC = {
    "jpeg": ("jpeg", "ycbcr"),
    "jpeg2000": ("jpeg2000", "rgb"),
    "webp": ("webp", "rgb"),
    "deflate": ("adobe_deflate", "rgb"),
    "lzw": ("lzw", "rgb"),
    "none": (None, "rgb"),
}
_CLASSIC_TIFF_BYTES = 1 << 31  # raw pixels; the offsets of a classic TIFF end at twice that


def write_pyramid(
    path: Path | str,
    tile_source: TileSource,
    *,
    width: int,
    height: int,
    mpp: float | None,
    tile_px: int = 256,
    levels: int = 4,
    factor: int = 4,
    codec: Codec = "jpeg",
    quality: int = 80,
    description: str | None = None,
    place: Literal["pages", "subifds"] = "pages",
    icc_profile: bytes = b"",
    workers: int = 1,
) -> None:
    """Write a pyramid whose tiles, on all levels, come from a function.

    Args:
        path: the file to make; replaced if it is there.
        tile_source: called with (level, column, row), level by level and row by row, from `workers`
            threads. Returns pixels, or bytes compressed with `codec` (see `encode_tile`). Tiles at
            the right and bottom edge are full tiles too; what lies outside is not seen.
        width: of level 0, px.
        height: of level 0, px.
        mpp: um per level-0 pixel; None writes no resolution.
        tile_px: side of a tile, a multiple of 16.
        levels: number of levels; level k is `factor ** k` times smaller, rounded up.
        factor: between neighbouring levels; 4 as in Aperio slides, 2 is common as well.
        codec: how tiles are compressed; OpenSlide reads no JPEG 2000 and no WebP in such files.
        quality: of JPEG and WebP, 1..100; JPEG 2000 is lossless.
        description: of the first page (ASCII).
        place: levels as pages of their own, which OpenSlide needs, or in SubIFDs of the first.
        icc_profile: of the colours, kept with the first page; b"" where there is none.
        workers: threads that call `tile_source` and compress.

    Raises:
        TypeError, ValueError: malformed arguments or tiles.
        WriteError: the file cannot be written.

    Determinism: equal tiles give equal bytes with one release of tifffile and imagecodecs.
    """
    path = path_of("path", path)
    _check_pyramid(
        width=width,
        height=height,
        mpp=mpp,
        tile_px=tile_px,
        levels=levels,
        factor=factor,
        codec=codec,
    )

    encoded = partial(_encoded, tile_source, tile_px=tile_px, codec=codec, quality=quality)
    sizes = level_sizes(width, height, levels=levels, factor=factor)
    raw_bytes = sum(w * h * 3 for w, h in sizes)
    subifds = levels - 1 if place == "subifds" else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(path, overwrite=True) as pending,
            ThreadPoolExecutor(workers, thread_name_prefix="histofast-write") as pool,
            tifffile.TiffWriter(pending, bigtiff=raw_bytes >= _CLASSIC_TIFF_BYTES) as tiff,
        ):
            for level, (level_width, level_height) in enumerate(sizes):
                columns, rows = -(-level_width // tile_px), -(-level_height // tile_px)
                options = _page_options(codec, None if mpp is None else mpp * width / level_width)
                if level:
                    options["subfiletype"] = 1  # a reduced picture of another page
                else:
                    options |= {"description": description, "subifds": subifds}
                    options |= {"iccprofile": icc_profile or None}
                places = ((level, c, r) for r in range(rows) for c in range(columns))
                tiff.write(
                    _in_order(pool, encoded, places, ahead=2 * workers),
                    shape=(level_height, level_width, 3),
                    dtype=np.uint8,
                    tile=(tile_px, tile_px),
                    **options,
                )
    except OSError as error:
        raise write_error(path, error) from error


def _encoded(
    tile_source: TileSource,
    level: int,
    column: int,
    row: int,
    *,
    tile_px: int,
    codec: Codec,
    quality: int,
) -> bytes:
    tile = tile_source(level, column, row)
    if isinstance(tile, bytes):
        return tile
    check("tile", tile, "uint8", (tile_px, tile_px, 3))
    return encode_tile(tile, codec=codec, quality=quality)


def _page_options(codec: Codec, mpp: float | None) -> dict[str, Any]:
    """What tifffile is told of every page; `mpp` is the page's own."""
    compression, photometric = _TIFF_CODEC[codec]
    options: dict[str, Any] = {
        "photometric": photometric,
        "compression": compression,
        "software": "histofast",
        "metadata": None,
    }
    if codec == "jpeg":
        options["subsampling"] = (2, 2)
    if mpp is not None:
        per_cm = Fraction(10_000 / mpp).limit_denominator(10**4)
        resolution = (per_cm.numerator, per_cm.denominator)
        options |= {"resolution": (resolution,) * 2, "resolutionunit": "CENTIMETER"}
    return options


def write_averaged_pyramid(
    path: Path | str,
    level0_source: Level0Source,
    *,
    width: int,
    height: int,
    mpp: float | None,
    tile_px: int = 256,
    levels: int = 4,
    factor: int = 4,
    codec: Codec = "jpeg",
    quality: int = 80,
    description: str | None = None,
    place: Literal["pages", "subifds"] = "pages",
    icc_profile: bytes = b"",
    workers: int = 1,
) -> None:
    """Write a pyramid from level-0 tiles; the coarser levels are means of `factor` x `factor` px.

    Tiles of coarser levels wait for their turn in a nameless file beside `path`.

    Args:
        path: see `write_pyramid`, as for all others.
        level0_source: called with (column, row) from `workers` threads. Returns the tile's pixels,
            and its compressed bytes or None; the pixels are what is averaged. `tile_px` must be a
            multiple of `factor`.

    Raises:
        TypeError, ValueError: malformed arguments or tiles.
        WriteError: the file cannot be written.
    """
    _check_pyramid(
        width=width,
        height=height,
        mpp=mpp,
        tile_px=tile_px,
        levels=levels,
        factor=factor,
        codec=codec,
    )
    if levels > 1 and tile_px % factor:
        raise ValueError(f"tile_px must be a multiple of factor {factor}, got {tile_px}")
    path = path_of("path", path)
    with _Spilled(path) as spilled:
        averaging = _Averaging(
            level0_source,
            spilled,
            sizes=level_sizes(width, height, levels=levels, factor=factor),
            tile_px=tile_px,
            factor=factor,
            codec=codec,
            quality=quality,
        )
        write_pyramid(
            path,
            averaging.tile,
            width=width,
            height=height,
            mpp=mpp,
            tile_px=tile_px,
            levels=levels,
            factor=factor,
            codec=codec,
            quality=quality,
            description=description,
            place=place,
            icc_profile=icc_profile,
            workers=workers,
        )


def write_array_pyramid(
    path: Path | str,
    image: Pixels,
    *,
    mpp: float | None,
    tile_px: int = 256,
    levels: int = 4,
    factor: int = 4,
    codec: Codec = "jpeg",
    quality: int = 80,
    description: str | None = None,
    place: Literal["pages", "subifds"] = "pages",
) -> None:
    """Write a pyramid of a picture in memory.

    Args:
        path: see `write_pyramid`, as for all others.
        image: (h, w, 3) uint8 RGB, level 0.

    Raises:
        TypeError, ValueError: malformed arguments.
        WriteError: the file cannot be written.
    """
    height, width = check("image", image, "uint8", ("h", "w", 3), contiguous=False)

    def level0_source(column: int, row: int) -> tuple[Pixels, None]:
        part = image[row * tile_px : (row + 1) * tile_px, column * tile_px : (column + 1) * tile_px]
        missing = [(0, tile_px - part.shape[0]), (0, tile_px - part.shape[1]), (0, 0)]
        return np.ascontiguousarray(np.pad(part, missing, mode="edge")), None

    write_averaged_pyramid(
        path,
        level0_source,
        width=width,
        height=height,
        mpp=mpp,
        tile_px=tile_px,
        levels=levels,
        factor=factor,
        codec=codec,
        quality=quality,
        description=description,
        place=place,
    )


def encode_tile(pixels: Pixels, *, codec: Codec = "jpeg", quality: int = 80) -> bytes:
    """Compress one tile as `write_pyramid` does, for tiles that are used many times."""
    encoded: bytes | bytearray
    if codec == "jpeg":
        encoded = imagecodecs.jpeg8_encode(
            pixels, level=quality, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
        )
    elif codec == "jpeg2000":
        encoded = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="J2K")
    elif codec == "webp":
        encoded = imagecodecs.webp_encode(pixels, level=quality, lossless=False)
    elif codec == "deflate":
        encoded = imagecodecs.zlib_encode(pixels.tobytes())
    elif codec == "lzw":
        encoded = imagecodecs.lzw_encode(pixels.tobytes())
    else:
        encoded = pixels.tobytes()
    return bytes(encoded)


def level_sizes(width: int, height: int, *, levels: int, factor: int) -> list[tuple[int, int]]:
    """(width, height) of each level: `factor ** k` times smaller, rounded up.

    Example:
        >>> level_sizes(1000, 600, levels=3, factor=4)
        [(1000, 600), (250, 150), (63, 38)]
    """
    return [(-(-width // factor**k), -(-height // factor**k)) for k in range(levels)]


class _Spilled:
    """Compressed tiles on disk until their turn: of a large slide memory would not hold them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._path.parent)
        except OSError as error:
            raise write_error(self._path, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, level: int, column: int, row: int, encoded: bytes) -> None:
        """Keep a tile."""
        with self._lock:
            start = self._file.seek(0, 2)
            self._file.write(encoded)
            self._places[level, column, row] = (start, len(encoded))

    def pop(self, level: int, column: int, row: int) -> bytes:
        """Hand out a tile that was kept."""
        with self._lock:
            start, length = self._places.pop((level, column, row))
            self._file.seek(start)
            return self._file.read(length)


class _Level:
    """The tiles of one coarse level while their parts come in, in any order."""

    def __init__(self, *, width: int, height: int, tile_px: int) -> None:
        self.columns, self.rows = -(-width // tile_px), -(-height // tile_px)
        self._tile_px = tile_px
        self._open: dict[tuple[int, int], tuple[Pixels, list[None]]] = {}

    def put(self, column: int, row: int, part: Pixels, *, x: int, y: int, parts: int) -> bool:
        """Put a part into its tile; whether that was the last of `parts`."""
        shape = (self._tile_px, self._tile_px, 3)
        # setdefault and append are atomic: whoever brings the last part sees the full count.
        tile, put = self._open.setdefault((column, row), (np.zeros(shape, np.uint8), []))
        tile[y : y + part.shape[0], x : x + part.shape[1]] = part
        put.append(None)
        return len(put) == parts

    def take(self, column: int, row: int) -> Pixels:
        """Hand out a complete tile and forget it."""
        return self._open.pop((column, row))[0]


class _Averaging:
    """The tiles of all levels, from those of level 0 as they come; a `TileSource`."""

    def __init__(
        self,
        level0_source: Level0Source,
        spilled: _Spilled,
        *,
        sizes: list[tuple[int, int]],
        tile_px: int,
        factor: int,
        codec: Codec,
        quality: int,
    ) -> None:
        self._source, self._tile_px, self._factor = level0_source, tile_px, factor
        self._codec, self._quality, self._spilled = codec, quality, spilled
        self._levels = [_Level(width=w, height=h, tile_px=tile_px) for w, h in sizes]

    def tile(self, level: int, column: int, row: int) -> bytes:
        """Return a compressed tile; those of coarser levels are complete by their turn."""
        if level:
            return self._spilled.pop(level, column, row)
        pixels, encoded = self._source(column, row)
        check("tile", pixels, "uint8", (self._tile_px, self._tile_px, 3))
        self._add(0, column, row, pixels)
        return encoded or encode_tile(pixels, codec=self._codec, quality=self._quality)

    def _add(self, level: int, column: int, row: int, tile: Pixels) -> None:
        """Let a finished tile have its part in the level above it."""
        if level + 1 == len(self._levels):
            return
        here, above, factor = self._levels[level], self._levels[level + 1], self._factor
        outer_column, inner_column = divmod(column, factor)
        outer_row, inner_row = divmod(row, factor)
        part_px = self._tile_px // factor
        is_complete = above.put(
            outer_column,
            outer_row,
            average_blocks(tile, factor),
            x=inner_column * part_px,
            y=inner_row * part_px,
            parts=min(factor, here.columns - outer_column * factor)
            * min(factor, here.rows - outer_row * factor),
        )
        if is_complete:
            whole = above.take(outer_column, outer_row)
            encoded = encode_tile(whole, codec=self._codec, quality=self._quality)
            self._spilled.put(level + 1, outer_column, outer_row, encoded)
            self._add(level + 1, outer_column, outer_row, whole)


def average_blocks(tile: Pixels, factor: int) -> Pixels:
    """Means of factor x factor pixels, halves rounded up."""
    h, w, _ = tile.shape
    blocks = tile.reshape(h // factor, factor, w // factor, factor * 3)
    columns = blocks.sum(axis=1, dtype=np.uint16).reshape(h // factor, w // factor, factor, 3)
    sums = columns.sum(axis=2, dtype=np.uint32)
    means: Pixels = ((sums + factor**2 // 2) // factor**2).astype(np.uint8)
    return means


def _in_order(
    pool: ThreadPoolExecutor,
    job: Callable[[int, int, int], bytes],
    places: Iterator[tuple[int, int, int]],
    *,
    ahead: int,
) -> Iterator[bytes]:
    """Results of `job` in the order of `places`, at most `ahead` of them waiting."""
    running: deque[Future[bytes]] = deque()
    for place in places:
        stop_if_asked()
        running.append(pool.submit(job, *place))
        if len(running) > ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _check_pyramid(
    *,
    width: int,
    height: int,
    mpp: float | None,
    tile_px: int,
    levels: int,
    factor: int,
    codec: str,
) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"width and height must be at least 1, got {width} and {height}")
    real_number("mpp", mpp, above=0)
    if tile_px < 16 or tile_px % 16:
        raise ValueError(f"tile_px must be a multiple of 16, got {tile_px}")
    if levels < 1 or factor < 2:
        raise ValueError(
            f"levels must be at least 1 and factor at least 2, got {levels} and {factor}"
        )
    if codec not in get_args(Codec):
        raise ValueError(f"codec must be one of {', '.join(get_args(Codec))}, got {codec!r}")
