"""Tiled TIFF of any vendor: tifffile reads the directories once, imagecodecs decodes the tiles.

A tile that the file leaves out (no bytes; Aperio and others do so) shows what the next finer level
shows there, and white on level 0: that is background which the scanner skipped.
"""

from __future__ import annotations

import logging
import math
import os
import re
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from histofast._arrays import check
from histofast.errors import SlideError, TileError
from histofast.slides.images import PixelKind, compression_name, tiff_pixel_kind, to_rgb
from histofast.slides.jpeg import find_damage
from histofast.slides.metadata import file_identity, one_line, pyramid_downsample
from histofast.slides.slide import Level, Slide

# tifffile logs what it meets in broken files; without a handler Python prints that on stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

# The bytes of a tile (one part per colour plane), its index in the table, where the pixels go.
Decode = Callable[[list[bytes], int, NDArray[np.uint8]], None]

_JPEG, _JPEG_2000_YCBCR = 7, 33003
_JPEG_2000 = (_JPEG_2000_YCBCR, 33005, 34712)
_DEFLATE, _LZW, _ZSTD, _WEBP = (8, 32946), (5,), (50000, 34926), 50001
# What tifffile decodes besides: packbits, LZMA, LERC, PNG, JPEG XR and JPEG XL.
_RARE = (32773, 34925, 34887, 34933, 22610, 34934, 50002)
_CODECS = (1, _JPEG, *_JPEG_2000, *_DEFLATE, *_LZW, *_ZSTD, _WEBP, *_RARE)
_RGB = 2  # libjpeg's number for the colour space

_HAS_PREAD = hasattr(os, "pread")  # not on Windows
_UM_PER = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25400.0}


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


# --- Directories ----------------------------------------------------------------------------------


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
        raise SlideError(f"{path} is not a readable TIFF file: {one_line(error)}") from error


# Their levels overlap, are scattered over several areas or are padded, which OpenSlide undoes.
_OPENSLIDE_VENDORS = ("hamamatsu", "leica", "philips", "trestle", "ventana")


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
    if int(base.compression) not in _CODECS:
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
        and int(page.compression) in _CODECS
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
        decode=_decoder(page, level, kind),
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


# --- What the file says of itself -----------------------------------------------------------------


def _mpp(page: tifffile.TiffPage, vendor: str) -> tuple[tuple[float, float] | None, str]:
    """um per pixel along x and y, and where that stands."""
    if vendor == "ome" and (found := _ome_mpp(page.description)) is not None:
        return found, "OME PhysicalSizeX"
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
    found = []
    for axis in "XY":
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        try:
            found.append(float(pixels.get(f"PhysicalSize{axis}", "")) * _UM_PER[unit])
        except (KeyError, ValueError):
            return None
    return found[0], found[1]


def _ome_element(description: str, tag: str) -> Mapping[str, str] | None:
    """Attributes of the first element called `tag`."""
    try:
        root = ElementTree.fromstring(description.encode())
    except ElementTree.ParseError:
        return None
    found = next((e for e in root.iter() if e.tag.rpartition("}")[2] == tag), None)
    return None if found is None else found.attrib


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


# --- Decoders -------------------------------------------------------------------------------------


def _decoder(page: tifffile.TiffPage, level: Level, kind: PixelKind) -> Decode:
    """The function that decodes the tiles of a page; the fastest that its pixels allow."""
    compression = int(page.compression)
    plain = (
        page.samplesperpixel == 3
        and page.bitspersample == 8
        and page.planarconfig == 1
        and page.fillorder == 1
        and kind == PixelKind()
    )
    if plain and compression == _JPEG:
        return _jpeg_decoder(page, level)
    if plain and compression in _JPEG_2000:
        ycbcr = compression == _JPEG_2000_YCBCR or int(page.photometric) == 6
        return _jpeg_2000_decoder(ycbcr)
    if plain and compression == _WEBP:
        return _webp_decoder()
    if plain and page.predictor in (1, 2):
        codec = {
            **dict.fromkeys(_DEFLATE, "deflate_decode"),
            **dict.fromkeys(_LZW, "lzw_decode"),
            **dict.fromkeys(_ZSTD, "zstd_decode"),
        }.get(compression)
        if codec is not None:
            return _lossless_decoder(getattr(imagecodecs, codec), differences=page.predictor == 2)
    if plain and compression == 1 and page.predictor == 1:
        return _raw_decode
    return _rare_decoder(page, kind)


def _jpeg_decoder(page: tifffile.TiffPage, level: Level) -> Decode:
    jpeg8_decode = imagecodecs.jpeg8_decode
    tables = page.jpegtables or b""
    # Without a JFIF header nothing in the stream says RGB; with one it is YCbCr, whatever the tag.
    colorspace = _RGB if int(page.photometric) == 2 and not page.is_jfif else None
    options: dict[str, Any] = {
        "tables": tables or None,
        "colorspace": colorspace,
        "outcolorspace": _RGB,
    }
    file_columns = -(-page.imagewidth // page.tilewidth)

    def decode_anew(data: bytes) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = jpeg8_decode(data, **options)
        return pixels

    def decode(parts: list[bytes], index: int, out: NDArray[np.uint8]) -> None:
        data = parts[0]
        pixels = out
        try:
            jpeg8_decode(data, out=out, **options)
        except ValueError:  # of another size than the tile: some writers cut those at the edge
            pixels = decode_anew(data)
            h = min(level.tile_height, level.height - index // file_columns * level.tile_height)
            w = min(level.tile_width, level.width - index % file_columns * level.tile_width)
            _place(pixels, h, w, out)
        reason = find_damage(data, tables, pixels, decode_anew)
        if reason is not None:
            raise ValueError(reason)

    return decode


def _place(pixels: NDArray[np.uint8], h: int, w: int, out: NDArray[np.uint8]) -> None:
    """Copy a picture that must show at least (h, w) pixels into the corner of `out`."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.shape[0] < h or pixels.shape[1] < w:
        raise ValueError(f"it holds a picture of shape {pixels.shape}, not {(*out.shape[:2], 3)}")
    h, w = min(pixels.shape[0], out.shape[0]), min(pixels.shape[1], out.shape[1])
    out[:h, :w] = pixels[:h, :w]


def _jpeg_2000_decoder(ycbcr: bool) -> Decode:
    jpeg2k_decode = imagecodecs.jpeg2k_decode

    def decode(parts: list[bytes], index: int, out: NDArray[np.uint8]) -> None:
        jpeg2k_decode(parts[0], out=out, numthreads=1)
        if ycbcr and not _is_converted(parts[0]):
            out[...] = _ycbcr_to_rgb(out)

    return decode


def _is_converted(data: bytes) -> bool:
    """Whether OpenJPEG gives RGB for a codestream in YCbCr.

    It does where the stream says that its components are a colour transform (MCT) or where the
    chroma is subsampled; it does not for Aperio's plain 4:4:4.
    """
    start = data.find(b"\xff\x4f\xff\x51")
    size = data[start + 4 : start + 4 + 47]  # SIZ from Lsiz on; components at 38, 3 bytes each
    if start < 0 or len(size) < 47:
        return False
    subsampled = any(step != 1 for step in size[39:41] + size[42:44] + size[45:47])
    cod = data.find(b"\xff\x52", start + 51)
    return subsampled or (cod >= 0 and data[cod + 8 : cod + 9] == b"\x01")


def _ycbcr_to_rgb(ycbcr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """JPEG's full-range conversion (ITU-R BT.601, as JFIF has it)."""
    y, cb, cr = (ycbcr[..., i].astype(np.float32) for i in range(3))
    cb -= 128
    cr -= 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    converted: NDArray[np.uint8] = np.rint(rgb).clip(0, 255).astype(np.uint8)
    return converted


def _webp_decoder() -> Decode:
    webp_decode = imagecodecs.webp_decode

    def decode(parts: list[bytes], index: int, out: NDArray[np.uint8]) -> None:
        webp_decode(parts[0], hasalpha=False, out=out)

    return decode


def _lossless_decoder(decompress: Callable[..., Any], *, differences: bool) -> Decode:
    delta_decode = imagecodecs.delta_decode

    def decode(parts: list[bytes], index: int, out: NDArray[np.uint8]) -> None:
        flat = out.reshape(-1)
        if decompress(parts[0], out=flat).size != flat.size:
            raise ValueError("it holds too few bytes")
        if differences:
            delta_decode(out, axis=1, out=out)

    return decode


def _raw_decode(parts: list[bytes], index: int, out: NDArray[np.uint8]) -> None:
    if len(parts[0]) < out.size:
        raise ValueError(f"it holds {len(parts[0])} bytes, not {out.size}")
    out.reshape(-1)[:] = np.frombuffer(parts[0], np.uint8, out.size)


def _rare_decoder(page: tifffile.TiffPage, kind: PixelKind) -> Decode:
    """Through tifffile's own decoder: slower, for any samples; allocates."""
    samples_of = page.decode  # a closure over numbers: it keeps neither the page nor the file
    options = {"jpegtables": page.jpegtables} if int(page.compression) == _JPEG else {}
    plane_tiles = -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)

    def decode(parts: list[bytes], index: int, out: NDArray[np.uint8]) -> None:
        planes = [
            samples_of(data, index + i * plane_tiles, _fullsize=True, **options)[0][0]
            for i, data in enumerate(parts)
        ]
        to_rgb(planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1), kind, out)

    return decode


# --- The slide ------------------------------------------------------------------------------------


class TiffSlide(Slide):
    """A tiled TIFF whose tiles are decoded straight from the file into the caller's array."""

    def __init__(self, path: Path, layout: TiffLayout, *, mpp: float) -> None:
        """Serve the file whose directories gave `layout`; `mpp` is the level-0 scale."""
        self.path = path
        self.name = path.stem
        self.mpp = mpp
        self.levels = layout.levels
        self.properties = dict(layout.properties)
        self._tables = layout.tables
        self._file: BinaryIO | None = path.open("rb", buffering=0)
        self._seek_lock = threading.Lock()
        self._identity = ""

    @property
    def identity(self) -> str:
        if not self._identity:
            self._identity = file_identity(self.path)
        return self._identity

    def read_tile(self, level: int, column: int, row: int, out: NDArray[np.uint8]) -> None:
        info = self.levels[level]
        shape = (info.tile_height, info.tile_width, 3)
        if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            check("out", out, "uint8", shape)
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        try:
            if not (0 <= column < info.columns and 0 <= row < info.rows):
                raise ValueError("there is no such tile")
            table = self._tables[level]
            index = row * table.file_columns + column
            parts = [
                self._read_bytes(table.offsets.item(i), table.sizes_bytes.item(i))
                for i in range(index, table.offsets.size, table.plane_tiles)
            ]
            if all(parts):
                table.decode(parts, index, out)
            else:
                self._fill_absent(level, column, row, out)
        except TileError:
            raise
        except Exception as error:
            raise TileError(
                f"{self.path}: tile (column {column}, row {row}) of level {level} cannot be"
                f" decoded: {one_line(error)}"
            ) from error

    def _read_bytes(self, offset: int, count: int) -> bytes:
        """Read part of the file; empty for a tile that the file leaves out."""
        if count == 0 or offset == 0:
            return b""
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        if _HAS_PREAD:
            data = os.pread(self._file.fileno(), count, offset)
        else:
            with self._seek_lock:
                self._file.seek(offset)
                data = self._file.read(count)
        if len(data) != count:
            raise ValueError(f"its {count} bytes at {offset:,} lie past the end of the file")
        return data

    def _fill_absent(self, level: int, column: int, row: int, out: NDArray[np.uint8]) -> None:
        """Show what the next finer level has there (its nearest pixels), white where it has none."""
        out.fill(255)
        if level == 0:
            return
        info, finer, table = self.levels[level], self.levels[level - 1], self._tables[level - 1]
        ratio = info.downsample / finer.downsample
        # The finer pixel under the centre of each pixel of the tile.
        x = ((np.arange(info.tile_width) + column * info.tile_width + 0.5) * ratio).astype(np.int64)
        y = ((np.arange(info.tile_height) + row * info.tile_height + 0.5) * ratio).astype(np.int64)
        x, y = x[x < finer.width], y[y < finer.height]
        tile = np.empty((finer.tile_height, finer.tile_width, 3), np.uint8)
        for r in np.unique(y // finer.tile_height).tolist():
            for c in np.unique(x // finer.tile_width).tolist():
                if level == 1 and table.sizes_bytes[r * table.file_columns + c] == 0:
                    continue  # stays white
                self.read_tile(level - 1, c, r, tile)
                in_y, in_x = y // finer.tile_height == r, x // finer.tile_width == c
                pixels = tile[y[in_y] % finer.tile_height][:, x[in_x] % finer.tile_width]
                out[np.ix_(np.flatnonzero(in_y), np.flatnonzero(in_x))] = pixels

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
