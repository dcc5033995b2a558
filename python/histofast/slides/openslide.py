"""Everything else that OpenSlide opens: MRXS, NDPI, SCN, BIF, VMS, DICOM, Philips TIFF ...

Coordinates are those of OpenSlide's own `read_region`, the frame that TRIDENT, CLAM and other
readers of feature files use. In formats with empty margins (MRXS above all) the scanned part is
`bounds_l0`; outside it tiles are background without a look into the file. QuPath counts from the
corner of that part: subtract it from coordinates that go there.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._files import regular_file
from histofast._words import clipped, one_line
from histofast.errors import SlideError, TileError
from histofast.slides.associated import Associated
from histofast.slides.images import MAX_IMAGE_PX
from histofast.slides.metadata import (
    dicom_series,
    pyramid_downsample,
    resolve_mpp,
)
from histofast.slides.openslide_files import INDEX_CHARACTERS, named_in_index
from histofast.slides.slide import Level, Slide

_BLOCK_PX = 1024
_SEVERAL_FILES = frozenset({".mrxs", ".dcm", ".vms", ".vmu"})
_SIDES = ("width", "height")
_MAX_PX = 10**12  # of level 0; a glass slide at 0.05 um/px has as many


class OpenSlideSlide(Slide):
    """A slide that OpenSlide decodes, in blocks presented as tiles."""

    path: Path

    def __init__(self, path: Path, *, mpp: float | None = None) -> None:
        """Open `path`; `mpp` overrides what the file says.

        Raises:
            SlideError: OpenSlide cannot open it, or its mpp is missing or absurd.
            ValueError: `mpp` is out of range.
        """
        self.path = path
        self.name = path.stem
        _refuse_pipes(path)
        self._handle: openslide.OpenSlide | None = _open(path)
        self._retry_lock = threading.Lock()
        self._files = tuple[Path, ...]()
        try:
            self._describe(self._handle, mpp)
        except openslide.OpenSlideError as error:
            self._handle.close()
            raise SlideError(f"{path} cannot be opened: {clipped(one_line(error), 200)}") from error
        except BaseException:
            self._handle.close()
            raise

    def _describe(self, handle: openslide.OpenSlide, mpp: float | None) -> None:
        properties = dict(handle.properties)
        self.mpp = resolve_mpp(
            self.path, found=_mpp(properties), source="OpenSlide's mpp-x, mpp-y", given=mpp
        )
        vendor = properties.get("openslide.vendor", "")
        self.properties = {"door": "openslide", "vendor": vendor, **properties}
        if "openslide.objective-power" in properties:
            self.properties["objective_power"] = properties["openslide.objective-power"]
        # What OpenSlide divides level-0 coordinates by; not always whole where `Level`'s is.
        self._factors = handle.level_downsamples
        sizes = handle.level_dimensions
        width, height = sizes[0]
        if not (width > 0 and height > 0 and width * height <= _MAX_PX):
            raise SlideError(
                f"{self.path} must have 1 to {_MAX_PX:,} pixels, got {width} x {height}: copy or"
                " export it again"
            )
        self._file_level, self.levels = _levels(sizes)
        colour = properties.get("openslide.background-color", "FFFFFF")
        self._background = np.frombuffer(bytes.fromhex(colour), np.uint8)
        self.bounds_l0 = _bounds(properties, sizes[0])

    @property
    def files(self) -> tuple[Path, ...]:
        if not self._files:
            self._files = (self.path, *_companions(self.path))
        return self._files

    @property
    def origin_l0(self) -> tuple[int, int]:
        return self.bounds_l0[:2]

    @property
    def associated(self) -> Mapping[str, NDArray[np.uint8]]:
        if self._handle is None:
            raise ValueError(f"{self.path} is closed")
        return Associated(tuple(self._handle.associated_images), self._read_beside)

    @property
    def icc_profile(self) -> bytes:
        if self._handle is None:
            raise ValueError(f"{self.path} is closed")
        # The bytes as they are: its `color_profile` is what Pillow's littleCMS makes of them.
        try:
            return openslide.lowlevel.read_icc_profile(self._handle._osr) or b""
        except openslide.OpenSlideError as error:
            said = clipped(one_line(error), 200)
            raise SlideError(f"the ICC profile of {self.path} cannot be read: {said}") from error

    def _read_beside(self, name: str) -> NDArray[np.uint8]:
        """Read with a handle of its own: a failure would break the slide's for good."""
        if self._handle is None:
            raise ValueError(f"{self.path} is closed")
        with contextlib.closing(_open(self.path)) as handle:
            try:
                _refuse_large(self.path, handle, name)
                pixels = np.asarray(handle.associated_images[name])
            except openslide.OpenSlideError as error:
                said = clipped(one_line(error), 200)
                raise SlideError(f"{self.path} cannot be decoded: {said}") from error
        picture = np.empty((*pixels.shape[:2], 3), np.uint8)
        _composite(pixels, np.full(3, 255, np.uint8), picture)
        return picture

    def read_tile(self, level: int, column: int, row: int, out: NDArray[np.uint8]) -> None:
        info = self.levels[level]
        check("out", out, "uint8", (info.tile_height, info.tile_width, 3))
        handle = self._handle
        if handle is None:
            raise ValueError(f"{self.path} is closed")
        if not (0 <= column < info.columns and 0 <= row < info.rows):
            raise TileError(
                f"{self.path} has no tile (column {column}, row {row}) of level {level}"
            )
        factor = self._factors[self._file_level[level]]
        x_l0 = round(column * info.tile_width * factor)
        y_l0 = round(row * info.tile_height * factor)
        x, y, width, height = self.bounds_l0
        if not (
            x - info.tile_width * factor < x_l0 < x + width
            and y - info.tile_height * factor < y_l0 < y + height
        ):
            out[...] = self._background
            return
        size = info.tile_width, info.tile_height
        try:
            try:
                rgba = handle.read_region((x_l0, y_l0), self._file_level[level], size)
            except openslide.OpenSlideError:
                # One failure breaks a handle for good, under every thread: ask a fresh one.
                with self._retry_lock:
                    rgba = self._read_alone((x_l0, y_l0), self._file_level[level], size)
            pixels = np.asarray(rgba)
        except MemoryError:  # no damage to the tile
            raise
        except Exception as error:
            raise TileError(
                f"{self.path}: tile (column {column}, row {row}) of level {level} cannot be"
                f" decoded: {clipped(one_line(error), 200)}"
            ) from error
        _composite(pixels, self._background, out)

    def _read_alone(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> object:
        """Read with a handle of its own, and replace the broken one."""
        if self._handle is not None:
            self._handle = _open(self.path)  # readers that still hold the old one close it
        with contextlib.closing(_open(self.path)) as handle:
            return handle.read_region(location, level, size)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


def detect(path: Path) -> str | None:
    """OpenSlide's name of the format of a file; None when it is none of its formats.

    Raises:
        SlideError: see `_refuse_pipes`; OpenSlide looks into the other files as well.
    """
    _refuse_pipes(path)
    try:
        vendor: str | None = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return None
    return vendor


def _refuse_pipes(path: Path) -> None:
    """Refuse a slide in several files with something among them that OpenSlide would wait for.

    Raises:
        SlideError: there is a named pipe, a socket or a device, or a folder cannot be listed.
    """
    folder = path.with_suffix("") if path.suffix.lower() == ".mrxs" else path.parent
    if path.suffix.lower() in _SEVERAL_FILES and folder.is_dir():
        try:
            with os.scandir(folder) as entries:  # of thousands of instances: none is looked at
                among = [
                    folder / entry.name
                    for entry in entries
                    if not entry.is_file(follow_symlinks=False)
                ]
        except OSError as error:
            raise SlideError(f"{folder} cannot be listed: {error.strerror or error}") from error
        for other in among:
            if other.exists() and not other.is_dir():
                regular_file(other, kind=f"part of slide {path.name},", error=SlideError)


def _companions(path: Path) -> list[Path]:
    """The other files of a slide that is in several, in any order."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".mrxs":
            folder = path.with_suffix("")
            return [p for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
        if suffix == ".dcm":
            series = dicom_series(path)
            return [
                p
                for p in path.parent.iterdir()
                if p.suffix.lower() == suffix and p.name != path.name and p.is_file()
                if dicom_series(p) == series
            ]
        if suffix in (".vms", ".vmu"):  # a text of lines `ImageFile=name`
            with path.open(encoding="latin-1") as file:
                named = named_in_index(file.read(INDEX_CHARACTERS))
            return [p for p in path.parent.iterdir() if p.name in named and p.is_file()]
    except OSError as error:
        raise SlideError(f"{path} cannot be read: {error.strerror or error}") from error
    return []


def _open(path: Path) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideError(f"{path} is in no format that OpenSlide reads") from error
    except openslide.OpenSlideError as error:
        raise SlideError(f"{path} cannot be opened: {clipped(one_line(error), 200)}") from error


def _refuse_large(path: Path, handle: openslide.OpenSlide, name: str) -> None:
    """Refuse a picture beside the scan that is larger than one decoded whole may be."""
    sides = [handle.properties.get(f"openslide.associated.{name}.{side}") for side in _SIDES]
    width, height = (int(side) if side and side.isdecimal() else 0 for side in sides)
    if not 0 < width * height <= MAX_IMAGE_PX:
        raise SlideError(
            f"{path} must have a picture of 1 to {MAX_IMAGE_PX:,} pixels there, got {width} x {height}"
        )


def _mpp(properties: dict[str, str]) -> tuple[float, float] | None:
    try:
        return float(properties["openslide.mpp-x"]), float(properties["openslide.mpp-y"])
    except (KeyError, ValueError):
        return None


def _bounds(properties: dict[str, str], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the scanned part, in level-0 pixels."""
    names = ("x", "y", "width", "height")
    try:
        x, y, width, height = (int(properties[f"openslide.bounds-{name}"]) for name in names)
    except (KeyError, ValueError):
        return 0, 0, *size
    if not (0 <= x < size[0] and 0 <= y < size[1] and width > 0 and height > 0):
        return 0, 0, *size
    return x, y, width, height


def _levels(sizes: tuple[tuple[int, int], ...]) -> tuple[list[int], tuple[Level, ...]]:
    """OpenSlide's levels that are true reductions of level 0: their numbers, and what they are."""
    numbers, levels = [], []
    for number, (width, height) in enumerate(sizes):
        if width <= 0 or height <= 0:
            continue
        block = min(_BLOCK_PX, width), min(_BLOCK_PX, height)
        downsample = pyramid_downsample(sizes[0], (width, height), block) if number else 1.0
        if downsample is None:
            continue
        numbers.append(number)
        levels.append(
            Level(
                width=width,
                height=height,
                downsample=downsample,
                tile_width=block[0],
                tile_height=block[1],
            )
        )
    return numbers, tuple(levels)


def _composite(
    rgba: NDArray[np.uint8], background: NDArray[np.uint8], out: NDArray[np.uint8]
) -> None:
    """Lay (h, w, 4) straight-alpha pixels over a plain colour."""
    alpha = rgba[..., 3:]
    if alpha.min() == 255:
        out[...] = rgba[..., :3]
        return
    weight = alpha.astype(np.uint16)
    out[...] = (rgba[..., :3] * weight + background * (255 - weight) + 127) // 255
