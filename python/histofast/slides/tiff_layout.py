"""The directories of a TIFF file in, levels and tables of tiles out; no pixels are read."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from histofast._remote import Place
from histofast._words import clipped, one_line
from histofast.errors import SlideError
from histofast.slides.byte_source import ByteSource, LocalSource
from histofast.slides.images import (
    KindOf,
    PixelKind,
    compression_name,
    tiff_pixel_kind,
    to_rgb,
)
from histofast.slides.metadata import pyramid_downsample, shown_size
from histofast.slides.slide import Level
from histofast.slides.tiff_decoders import CODECS, Decode, decoder_of
from histofast.slides.tiff_directories import (
    MAX_TILE_PX,
    check_directories,
    check_pages,
    check_picture,
    check_tiles,
    what_is_broken,
)
from histofast.slides.tiff_pages import is_beside, pages_beside, picture_of
from histofast.slides.tiff_scale import Ome, mpp_of, ome_magnification, read_ome

# tifffile logs what it meets in broken files; without a handler Python prints that on stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_APERIO_CHARACTERS = 1 << 16  # of a description; it has a thousand
_GDAL_TAGS = (42112, 42113)  # its metadata, its value for "no data"
_ICC_PROFILE = 34675
# Their levels overlap, are scattered over several areas or are padded, which OpenSlide undoes.
_OPENSLIDE_VENDORS = ("hamamatsu", "leica", "philips", "trestle", "ventana")


@dataclass(frozen=True, kw_only=True, slots=True)
class TileTable:
    """Where the tiles of one level lie in the file, and how they decode."""

    offsets: NDArray[np.uint64]
    sizes_bytes: NDArray[np.uint64]
    file_columns: int  # of the stored grid; a padded level shows fewer
    plane_tiles: int  # tiles of one colour plane; the planes follow each other in the table
    absent: NDArray[np.uint8] | None  # (1, 1, 3): tiles without bytes, where the file says it
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
    kind: PixelKind
    beside: Mapping[str, int]  # pages of label, macro, thumbnail
    icc_profile: bytes = b""  # of the picture's colours


def read_layout(source: ByteSource, *, kind_of: KindOf = tiff_pixel_kind) -> TiffLayout:
    """Read the directories of a TIFF file, no pixels; `kind_of` says how those of a page read.

    Raises:
        SlideError: not a TIFF, truncated, broken, asking for too much, or with pixels that are not
            grey or RGB.
    """
    with checked_tiff(source) as tiff:
        vendor = _vendor(tiff.pages.first)
        if vendor in _OPENSLIDE_VENDORS:
            return _not_ours(vendor, "its pyramid needs OpenSlide")
        return _layout(source.place, tiff, vendor, kind_of)


def check_for_openslide(path: Path) -> None:
    """Refuse a TIFF file that would have OpenSlide ask for so much memory that the process ends.

    Raises:
        SlideError: it would, or tifffile cannot read it.
    """
    with checked_tiff(LocalSource(path), for_openslide=True) as tiff:
        tiled = [page for page in _all_pages(tiff) if page.is_tiled]
        check_pages(path, tiled)
        for page in tiled:
            check_tiles(path, page)


@contextlib.contextmanager
def checked_tiff(source: ByteSource, *, for_openslide: bool = False) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF file whose directories are in order; whatever goes wrong with it is a SlideError."""
    with source.open() as file:
        check_directories(source.place, file, for_openslide=for_openslide)
        file.seek(0)
        try:
            with tifffile.TiffFile(file, name=source.place.name) as tiff:
                yield tiff
        except SlideError:
            raise
        except Exception as error:
            raise SlideError(
                f"{source.place} is not a readable TIFF file: {clipped(one_line(error), 200)}"
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
        kind=PixelKind(),
        beside={},
    )


def _all_pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    pages: list[tifffile.TiffPage] = []
    for page in tiff.pages:
        pages.append(page)
        pages.extend(page.pages or ())
    return pages


def _layout(path: Place, tiff: tifffile.TiffFile, vendor: str, kind_of: KindOf) -> TiffLayout:
    base, pages = picture_of(path, tiff)
    check_pages(path, [base])
    check_picture(path, base, pages)
    try:
        kind = kind_of(base)
    except SlideError as error:
        raise SlideError(f"{path}: {error}") from None
    first = tiff.pages.first
    ome = read_ome(first.description) if vendor == "ome" else None
    mpp, mpp_source = mpp_of(base, first=first, vendor=vendor, ome=ome, file_name=path.name)
    layout = TiffLayout(
        vendor=vendor,
        tiled=True,
        reason="",
        levels=(),
        tables=(),
        mpp=mpp,
        mpp_source=mpp_source,
        properties=_properties(path, base, vendor, ome),
        kind=kind,
        beside=pages_beside(
            list(tiff.pages), base, is_aperio=vendor == "aperio", ome=ome, file_name=path.name
        ),
        icc_profile=_icc_profile(base),
    )
    if not base.is_tiled:
        return replace(layout, tiled=False, reason="it has no tiles")
    if int(base.compression) not in CODECS:
        return _not_ours(vendor, f"its compression is {compression_name(base)}")
    absent = _absent_colour(base, pages, kind)
    levels, tables = [], []
    pyramid = _pyramid(path, base, pages, vendor, kind_of)
    check_pages(path, [page for page, _ in pyramid[1:]])
    for page, level in pyramid:
        levels.append(level)
        tables.append(_tile_table(path, page, level, kind, absent))
    return replace(layout, levels=tuple(levels), tables=tuple(tables))


def _icc_profile(base: tifffile.TiffPage) -> bytes:
    """Return the profile that a page carries; what stands there and is none, too: it is refused where used."""
    tag = base.tags.get(_ICC_PROFILE)
    if tag is None:
        return b""
    return tag.value if isinstance(tag.value, bytes) and tag.value else b"none"


def _absent_colour(
    base: tifffile.TiffPage, pages: list[tifffile.TiffPage], kind: PixelKind
) -> NDArray[np.uint8] | None:
    """What tiles without bytes show, (1, 1, 3) uint8, where the file says it; else None.

    GDAL leaves out tiles that hold nothing but its "no data" value, or zeros where it has none, as
    its tags tell; of others nothing is known but that scanners leave out background.
    """
    if kind.mask:
        return np.zeros((1, 1, 3), np.uint8)  # nothing is marked there
    if base.dtype is None or not any(code in base.tags for code in _GDAL_TAGS):
        return None
    samples = np.full((1, 1, base.samplesperpixel), base.nodata, base.dtype)
    colour = np.empty((1, 1, 3), np.uint8)
    to_rgb(samples, kind, colour)
    return colour


def _pyramid(
    path: Place,
    base: tifffile.TiffPage,
    pages: list[tifffile.TiffPage],
    vendor: str,
    kind_of: KindOf,
) -> list[tuple[tifffile.TiffPage, Level]]:
    """The levels of `base`, finest first, each with the page that holds it."""
    candidates = list(base.pages or ())
    # An OME file without SubIFDs may hold several pictures; which belong together is not said.
    if not candidates and vendor != "ome":
        candidates = [page for page in pages if page is not base]
    for page in candidates:
        if reason := what_is_broken(path, page):
            raise SlideError(reason)
    kind = kind_of(base)
    candidates = [
        page
        for page in candidates
        if page.is_tiled
        and 0 < page.tilewidth * page.tilelength <= MAX_TILE_PX
        and not is_beside(page)
        and page.samplesperpixel == base.samplesperpixel
        and page.bitspersample == base.bitspersample
        and int(page.compression) in CODECS
        and _kind_or_none(page, kind_of) == kind
    ]
    candidates.sort(key=lambda page: -page.imagewidth)
    size = base.imagewidth, base.imagelength
    levels = [(base, _level(base, 1.0, size))]
    for page in candidates:
        page_size = page.imagewidth, page.imagelength
        downsample = pyramid_downsample(size, page_size, (page.tilewidth, page.tilelength))
        if downsample is not None and downsample > 1.1 * levels[-1][1].downsample:
            levels.append((page, _level(page, downsample, size)))
    return levels


def _kind_or_none(page: tifffile.TiffPage, kind_of: KindOf) -> PixelKind | None:
    try:
        return kind_of(page)
    except SlideError:
        return None


def _level(page: tifffile.TiffPage, downsample: float, base: tuple[int, int]) -> Level:
    width, height = shown_size(base, (page.imagewidth, page.imagelength), downsample)
    return Level(
        width=width,
        height=height,
        downsample=downsample,
        tile_width=page.tilewidth,
        tile_height=page.tilelength,
    )


def _tile_table(
    path: Place,
    page: tifffile.TiffPage,
    level: Level,
    kind: PixelKind,
    absent: NDArray[np.uint8] | None,
) -> TileTable:
    check_tiles(path, page)
    columns = -(-page.imagewidth // page.tilewidth)
    rows = -(-page.imagelength // page.tilelength)
    tiles = columns * rows * (page.samplesperpixel if page.planarconfig == 2 else 1)
    return TileTable(
        offsets=np.array(page.dataoffsets[:tiles], np.uint64),
        sizes_bytes=np.array(page.databytecounts[:tiles], np.uint64),
        file_columns=columns,
        plane_tiles=columns * rows,
        absent=absent,
        decode=decoder_of(page, (level.width, level.height), kind),
    )


def _properties(
    path: Place, page: tifffile.TiffPage, vendor: str, ome: Ome | None
) -> dict[str, str]:
    properties = {
        "door": "tifffile",
        "vendor": vendor,
        "compression": compression_name(page),
    }
    if vendor == "aperio":
        for part in page.description[:_APERIO_CHARACTERS].split("|")[1:]:
            key, equals, value = part.partition("=")
            if equals:
                properties[f"aperio.{key.strip()}"] = value.strip()
        if "aperio.AppMag" in properties:
            properties["objective_power"] = properties["aperio.AppMag"]
    elif ome is not None:
        magnification = ome_magnification(page, ome=ome, file_name=path.name)
        if magnification is not None:
            properties["objective_power"] = magnification
    return properties
