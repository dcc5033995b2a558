"""The directories of a TIFF file in, levels and tables of tiles out; no pixels are read."""

from __future__ import annotations

import logging
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from histofast._words import clipped, one_line
from histofast.errors import SlideError
from histofast.slides.images import PixelKind, compression_name, tiff_pixel_kind
from histofast.slides.metadata import pyramid_downsample
from histofast.slides.slide import Level
from histofast.slides.tiff_decoders import CODECS, Decode, decoder_of

# tifffile logs what it meets in broken files; without a handler Python prints that on stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_UM_PER = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25400.0}
# Their levels overlap, are scattered over several areas or are padded, which OpenSlide undoes.
_OPENSLIDE_VENDORS = ("hamamatsu", "leica", "philips", "trestle", "ventana")


@dataclass(frozen=True, kw_only=True, slots=True)
class TileTable:
    """Where the tiles of one level lie in the file, and how they decode."""

    offsets: NDArray[np.uint64]
    sizes_bytes: NDArray[np.uint64]
    file_columns: int  # of the stored grid; a padded level shows fewer
    plane_tiles: int  # tiles of one colour plane; the planes follow each other in the table
    decode: Decode


@dataclass(frozen=True, kw_only=True, slots=True)
class TiffLayout:
    """What the directories of a TIFF file say."""

    vendor: str  # what kind of file it is
    tiled: bool  # whether `TiffSlide` can serve it
    reason: str  # why not, when it cannot
    levels: tuple[Level, ...]
    tables: tuple[TileTable, ...]
    mpp: tuple[float, float] | None
    mpp_source: str
    properties: Mapping[str, str]


def read_layout(path: Path) -> TiffLayout:
    """Read the directories of a TIFF file, no pixels.

    Raises:
        SlideError: not a TIFF, truncated, broken, or with pixels that are not grey or RGB.
    """
    size_bytes = path.stat().st_size
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            vendor = _vendor(page)
            if vendor in _OPENSLIDE_VENDORS:
                return _not_ours(vendor, "its pyramid needs OpenSlide")
            _refuse_truncated(path, size_bytes)
            for each in _all_pages(tiff):
                _refuse_lost_segments(path, each, size_bytes)
            return _layout(path, tiff, vendor)
    except SlideError:
        raise
    except Exception as error:
        _refuse_truncated(path, size_bytes)
        raise SlideError(
            f"{path} is not a readable TIFF file: {clipped(one_line(error), 200)}"
        ) from error


def _vendor(page: tifffile.TiffPage) -> str:
    if page.is_ndpi:
        return "hamamatsu"
    if page.is_scn:
        return "leica"
    if page.is_philips:
        return "philips"
    if page.is_bif:
        return "ventana"
    if page.software.startswith("MedScan"):
        return "trestle"
    if page.is_svs:
        return "aperio"
    if page.is_ome:
        return "ome"
    return "generic-tiff"


def _not_ours(vendor: str, reason: str) -> TiffLayout:
    return TiffLayout(
        vendor=vendor,
        tiled=False,
        reason=reason,
        levels=(),
        tables=(),
        mpp=None,
        mpp_source="",
        properties={},
    )


def _all_pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    pages: list[tifffile.TiffPage] = []
    for page in tiff.pages:
        pages.append(page)
        pages.extend(page.pages or ())
    return pages


def _layout(path: Path, tiff: tifffile.TiffFile, vendor: str) -> TiffLayout:
    base = _base_page(list(tiff.pages))
    try:
        kind = tiff_pixel_kind(base)
    except SlideError as error:
        raise SlideError(f"{path}: {error}") from None
    mpp, mpp_source = _mpp(base, vendor)
    properties = _properties(base, vendor)
    if not base.is_tiled:
        return TiffLayout(
            vendor=vendor,
            tiled=False,
            reason="it has no tiles",
            levels=(),
            tables=(),
            mpp=mpp,
            mpp_source=mpp_source,
            properties=properties,
        )
    if int(base.compression) not in CODECS:
        return _not_ours(vendor, f"its compression is {compression_name(base)}")
    _refuse_stack(path, tiff, base)
    levels, tables = [], []
    for page, level in _pyramid(tiff, base, vendor):
        levels.append(level)
        tables.append(_tile_table(path, page, level, kind))
    return TiffLayout(
        vendor=vendor,
        tiled=True,
        reason="",
        levels=tuple(levels),
        tables=tuple(tables),
        mpp=mpp,
        mpp_source=mpp_source,
        properties=properties,
    )


def _base_page(pages: list[tifffile.TiffPage]) -> tifffile.TiffPage:
    """The largest tiled page, the first of equals; the first page when none is tiled."""
    tiled = [page for page in pages if page.is_tiled]
    return max(tiled, key=lambda page: page.imagewidth * page.imagelength, default=pages[0])


def _refuse_stack(path: Path, tiff: tifffile.TiffFile, base: tifffile.TiffPage) -> None:
    """Refuse colours or channels that lie in separate pages: one of them would pass for grey."""
    if base.imagedepth > 1:
        raise SlideError(f"{path}: pixels must lie in a plane, got a depth of {base.imagedepth}")
    if base.samplesperpixel > 2:
        return
    same = sum(page.shape == base.shape and page.is_tiled for page in tiff.pages)
    if same > 1:
        raise SlideError(
            f"{path}: pixels must be grey or RGB in one page, got {same} grey pages of one size:"
            " write the colours interleaved (raw2ometiff --rgb)"
        )


def _pyramid(
    tiff: tifffile.TiffFile, base: tifffile.TiffPage, vendor: str
) -> list[tuple[tifffile.TiffPage, Level]]:
    """The levels of `base`, finest first, each with the page that holds it."""
    candidates = list(base.pages or ())
    # An OME file without SubIFDs may hold several pictures; which belong together is not said.
    if not candidates and vendor != "ome":
        candidates = [page for page in tiff.pages if page is not base]
    candidates = [
        page
        for page in candidates
        if page.is_tiled
        and not page.subfiletype & 4  # a mask
        and page.samplesperpixel == base.samplesperpixel
        and page.bitspersample == base.bitspersample
        and int(page.compression) in CODECS
    ]
    candidates.sort(key=lambda page: -page.imagewidth)
    size = base.imagewidth, base.imagelength
    levels = [(base, _level(base, 1.0, size))]
    for page in candidates:
        page_size = page.imagewidth, page.imagelength
        if 0 in page_size:
            continue
        downsample = pyramid_downsample(size, page_size, (page.tilewidth, page.tilelength))
        if downsample is not None and downsample > 1.1 * levels[-1][1].downsample:
            levels.append((page, _level(page, downsample, size)))
    return levels


def _level(page: tifffile.TiffPage, downsample: float, base: tuple[int, int]) -> Level:
    width, height = page.imagewidth, page.imagelength
    if downsample.is_integer():  # padding up to whole tiles is no part of the slide
        width = min(width, math.ceil(base[0] / downsample))
        height = min(height, math.ceil(base[1] / downsample))
    return Level(
        width=width,
        height=height,
        downsample=downsample,
        tile_width=page.tilewidth,
        tile_height=page.tilelength,
    )


def _tile_table(path: Path, page: tifffile.TiffPage, level: Level, kind: PixelKind) -> TileTable:
    columns = -(-page.imagewidth // page.tilewidth)
    rows = -(-page.imagelength // page.tilelength)
    tiles = columns * rows * (page.samplesperpixel if page.planarconfig == 2 else 1)
    if len(page.dataoffsets) < tiles or len(page.databytecounts) < tiles:
        raise SlideError(
            f"{path} is truncated: a level of {tiles} tiles lists only {len(page.dataoffsets)}: copy it again"
        )
    return TileTable(
        offsets=np.array(page.dataoffsets[:tiles], np.uint64),
        sizes_bytes=np.array(page.databytecounts[:tiles], np.uint64),
        file_columns=columns,
        plane_tiles=columns * rows,
        decode=decoder_of(page, (level.width, level.height), kind),
    )


def _refuse_truncated(path: Path, size_bytes: int) -> None:
    """Walk the chain of directories and refuse one that leads past the end of the file."""
    with path.open("rb") as file:
        header = file.read(16).ljust(16, b"\0")
        order = "<" if header[:2] == b"II" else ">"
        big = header[2] == 43 or header[3] == 43
        (at,) = struct.unpack(order + ("Q" if big else "I"), header[8:16] if big else header[4:8])
        count_format, entry_bytes, next_format = ("Q", 20, "Q") if big else ("H", 12, "I")
        seen: set[int] = set()
        while at:
            if at in seen:
                raise SlideError(f"{path} is not a readable TIFF file: its directories form a loop")
            seen.add(at)
            count = _unpack_at(file, at, order + count_format)
            following = None
            if count is not None:
                link = at + struct.calcsize(order + count_format) + count * entry_bytes
                following = _unpack_at(file, link, order + next_format)
            if following is None:
                raise SlideError(
                    f"{path} is truncated: a directory should be at byte {at:,}, the file ends at"
                    f" byte {size_bytes:,}: copy it again"
                )
            at = following


def _unpack_at(file: BinaryIO, at: int, number_format: str) -> int | None:
    wanted = struct.calcsize(number_format)
    if at >= 1 << 62:
        return None
    file.seek(at)
    data = file.read(wanted)
    return int(struct.unpack(number_format, data)[0]) if len(data) == wanted else None


def _refuse_lost_segments(path: Path, page: tifffile.TiffPage, size_bytes: int) -> None:
    """Refuse a page some of whose tiles or strips lie past the end of the file."""
    offsets = np.array(page.dataoffsets, np.uint64)
    sizes = np.array(page.databytecounts, np.uint64)
    if offsets.shape != sizes.shape:
        raise SlideError(
            f"{path} is truncated: {offsets.size} tile offsets, {sizes.size} tile sizes: copy it again"
        )
    end = np.uint64(size_bytes)
    lost = int(np.count_nonzero((sizes > 0) & ((offsets > end) | (sizes > end - offsets))))
    if lost:
        raise SlideError(
            f"{path} is truncated: {lost} of {sizes.size} tiles of a {page.imagewidth} x"
            f" {page.imagelength} picture lie past its end at byte {size_bytes:,}: copy it again"
        )


def _mpp(page: tifffile.TiffPage, vendor: str) -> tuple[tuple[float, float] | None, str]:
    """um per pixel along x and y, and where that stands."""
    if vendor == "ome" and (scale := _ome_mpp(page.description)) is not None:
        return scale, "OME PhysicalSizeX"
    if vendor == "aperio" and (match := re.search(r"\bMPP\s*=\s*([\d.,eE+-]+)", page.description)):
        try:
            value = float(match[1].replace(",", "."))
        except ValueError:
            return None, ""
        return (value, value), "Aperio MPP"
    um_per_unit = {2: 25400.0, 3: 10000.0}.get(int(page.tags.valueof(296, 1) or 1))
    if um_per_unit is None:
        return None, ""
    resolutions = [page.tags.valueof(code) for code in (282, 283)]
    try:
        x, y = (numerator / denominator for numerator, denominator in resolutions)
        return (um_per_unit / x, um_per_unit / y), "TIFF resolution tags"
    except (TypeError, ValueError, ZeroDivisionError):
        return None, ""


def _ome_mpp(description: str) -> tuple[float, float] | None:
    pixels = _ome_element(description, "Pixels")
    if pixels is None:
        return None
    scale = []
    for axis in "XY":
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        try:
            scale.append(float(pixels.get(f"PhysicalSize{axis}", "")) * _UM_PER[unit])
        except (KeyError, ValueError):
            return None
    return scale[0], scale[1]


def _ome_element(description: str, tag: str) -> Mapping[str, str] | None:
    """Attributes of the first element called `tag`."""
    try:
        root = ElementTree.fromstring(description.encode())
    except ElementTree.ParseError:
        return None
    element = next((e for e in root.iter() if e.tag.rpartition("}")[2] == tag), None)
    return None if element is None else element.attrib


def _properties(page: tifffile.TiffPage, vendor: str) -> dict[str, str]:
    properties = {
        "door": "tifffile",
        "vendor": vendor,
        "compression": compression_name(page),
    }
    if vendor == "aperio":
        for part in page.description.split("|")[1:]:
            key, equals, value = part.partition("=")
            if equals:
                properties[f"aperio.{key.strip()}"] = value.strip()
        if "aperio.AppMag" in properties:
            properties["objective_power"] = properties["aperio.AppMag"]
    elif vendor == "ome":
        objective = _ome_element(page.description, "Objective") or {}
        if "NominalMagnification" in objective:
            properties["objective_power"] = objective["NominalMagnification"]
    return properties
