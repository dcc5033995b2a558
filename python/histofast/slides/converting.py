"""Any slide in, a pyramidal tiled TIFF or OME-TIFF of the same pixels and scale out."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast._files import check_target, make_folder, path_of
from histofast._machine import available_cpus
from histofast._numbers import whole_number
from histofast._remote import Place, place_of
from histofast.errors import TileError
from histofast.slides.ome import ome_xml
from histofast.slides.opening import open_slide
from histofast.slides.slide import Slide
from histofast.slides.stream import Batch, stream_boxes
from histofast.slides.write import write_averaged_pyramid

OME_SUFFIXES = (".ome.tif", ".ome.tiff")
SUFFIXES = (".tif", ".tiff")
_SMALLEST_PX = 1024  # longer side of the coarsest level, at most
_BATCH = 8  # tiles read at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """What `convert` has written.

    Attributes:
        path: of the file.
        width, height: of level 0, px.
        levels: their number, each half as wide and high as the one before.
        mpp: um per level-0 pixel.
        unreadable: tiles of the slide that could not be decoded, and are white.
        reason: why the first of them could not.
    """

    path: Path
    width: int
    height: int
    levels: int
    mpp: float
    unreadable: int = 0
    reason: str = ""


def convert(
    slide: str | Place,
    out: str | Path,
    *,
    mpp_override: float | None = None,
    lossless: bool = False,
    quality: int = 90,
    tile_px: int = 256,
    strict: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    on_count: Callable[[int, int], None] | None = None,
) -> Converted:
    """Write a slide as a pyramid of tiles that OpenSlide, tifffile, QuPath and libvips read.

    Level 0 is that of the slide, pixel by pixel; each further level averages 2 x 2 pixels, until the
    longer side has 1024 at most. Scale and ICC profile are kept; nothing else of the metadata, and no
    label or macro picture, which may name a patient. Tiles are read and written as they come, so memory
    does not grow with the slide.

    Args:
        slide: anything that `open_slide` opens.
        out: the file, `.tif` or `.tiff`; an OME-TIFF, levels in SubIFDs, where it ends with `.ome.tif`.
        mpp_override: um per level-0 pixel, instead of what the slide says.
        lossless: deflated pixels, which equal the slide's; else JPEG, YCbCr 4:2:0.
        quality: of JPEG, 1..100.
        tile_px: side of a tile, a multiple of 16.
        strict: raise where a tile cannot be decoded; else it is white, and counted.
        overwrite: replace `out`.
        workers: threads that decode, and as many that compress; the CPUs available when None.
        on_count: called with the tiles of level 0 that are written and all of them.

    Raises:
        FileNotFoundError: no such slide, or no folder for `out`.
        FileExistsError: `out` is there, and `overwrite` False.
        SlideError, TileError: the slide cannot be read.
        ValueError: an argument out of range, `out` of another suffix or the slide itself.
        WriteError: `out` cannot be written, or the disk is full.

    Determinism: lossless pixels are those of the slide; bytes with one release of tifffile and imagecodecs.
    """
    out, source = path_of("out", out), place_of("slide", slide)
    if not out.name.lower().endswith(SUFFIXES):
        raise ValueError(f"out must end with .tif or .tiff, or .ome.tif, got {out.name}")
    if isinstance(source, Path) and out.exists() and source.exists() and out.samefile(source):
        raise ValueError(f"out must be another file than the slide, got {out} for both")
    quality = whole_number("quality", quality, at_least=1, at_most=100)
    workers = whole_number("workers", workers, at_least=1) or available_cpus()
    make_folder(out.parent)
    check_target(out, overwrite=overwrite)
    is_ome = out.name.lower().endswith(OME_SUFFIXES)
    with (
        open_slide(source, mpp_override=mpp_override) as opened,
        ThreadPoolExecutor(workers, thread_name_prefix="histofast-decode") as pool,
    ):
        width, height = opened.dimensions
        tiles = _Tiles(opened, tile_px, pool, strict=strict, on_count=on_count)
        levels = 1 + max(0, math.ceil(math.log2(max(width, height) / _SMALLEST_PX)))
        write_averaged_pyramid(
            out,
            tiles.at,
            width=width,
            height=height,
            mpp=opened.mpp,
            tile_px=tile_px,
            levels=levels,
            factor=2,
            codec="deflate" if lossless else "jpeg",
            quality=quality,
            description=ome_xml(opened.name, width, height, opened.mpp, opened.mpp)
            if is_ome
            else None,
            place="subifds" if is_ome else "pages",
            icc_profile=opened.icc_profile,
            workers=workers,
        )
        return Converted(
            path=out,
            width=width,
            height=height,
            levels=levels,
            mpp=opened.mpp,
            unreadable=tiles.unreadable,
            reason=tiles.reason,
        )


class _Tiles:
    """The tiles of a slide as another grid cuts it, handed to several threads; read in order, once."""

    def __init__(
        self,
        slide: Slide,
        tile_px: int,
        pool: ThreadPoolExecutor,
        *,
        strict: bool,
        on_count: Callable[[int, int], None] | None,
    ) -> None:
        whole_number("tile_px", tile_px, at_least=16)
        width, height = slide.dimensions
        self._columns, rows = -(-width // tile_px), -(-height // tile_px)
        self._total = self._columns * rows
        self._strict, self._on_count = strict, on_count
        places = np.arange(self._total)
        corners = np.stack([places % self._columns, places // self._columns], axis=1) * tile_px
        boxes = np.concatenate([corners, np.full_like(corners, tile_px)], axis=1)
        self._batches: Iterator[Batch] = stream_boxes(
            slide, 0, boxes.astype(np.float64), patch_px=tile_px, batch_size=_BATCH, workers=pool
        )
        self._lock = threading.Lock()
        self._held: dict[int, NDArray[np.uint8]] = {}
        self._error: BaseException | None = None
        self.unreadable, self.reason = 0, ""

    def at(self, column: int, row: int) -> tuple[NDArray[np.uint8], None]:
        """Return the pixels of a tile; they are asked for nearly in order, so few are held."""
        place = row * self._columns + column
        with self._lock:
            while place not in self._held:
                self._read()
            return self._held.pop(place), None

    def _read(self) -> None:
        if self._error is not None:  # another thread has met it
            raise self._error
        try:
            batch = next(self._batches)
            if batch.unreadable and self._strict:
                raise TileError(f"{batch.unreadable[0].reason} (strict=True)")
        except BaseException as error:
            self._error = error
            raise
        self._held.update(enumerate(batch.pixels, batch.start))
        if batch.unreadable and not self.unreadable:
            self.reason = batch.unreadable[0].reason
        self.unreadable += len(batch.unreadable)
        if self._on_count is not None:
            self._on_count(batch.start + len(batch.pixels), self._total)
