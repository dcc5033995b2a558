"""Which page of a TIFF file shows its picture; labels, macros and thumbnails do not."""

from __future__ import annotations

import re
from collections.abc import Sequence

import tifffile

from histofast._remote import Place
from histofast.errors import SlideError
from histofast.slides.metadata import pyramid_downsample
from histofast.slides.tiff_directories import MASK, REDUCED, what_is_broken
from histofast.slides.tiff_scale import Ome

# How Aperio's software, and others after it, tell what a page is: a line of its description.
_BESIDE = re.compile(r"^\s*(label|macro|thumbnail)\b", re.IGNORECASE | re.MULTILINE)
_LOOKED_AT = 1000  # characters
_FAR_LARGER = 4  # no photograph of the glass has so many times the pixels of a scan


def picture_of(
    path: Place, tiff: tifffile.TiffFile
) -> tuple[tifffile.TiffPage, list[tifffile.TiffPage]]:
    """Return the page of level 0 and all pages that are sound; see `base_page`.

    A broken label or macro is passed over: a page that is not the first, and in tiles only where it
    has fewer of them than the picture.

    Raises:
        SlideError: another page is broken, so that it may have been the slide.
    """
    pages = list(tiff.pages)
    reasons = [what_is_broken(path, page) for page in pages]
    sound = [page for page, reason in zip(pages, reasons, strict=True) if not reason]
    base = base_page(sound) if sound else None
    for page, reason in zip(pages, reasons, strict=True):
        if not reason:
            continue
        tiles = len(page.dataoffsets) if page.is_tiled else 0
        if base is None or page.index == 0 or tiles > len(base.dataoffsets):
            raise SlideError(reason)
    assert base is not None  # a file has a first page, broken or not
    return base, sound


def base_page(pages: Sequence[tifffile.TiffPage]) -> tifffile.TiffPage:
    """Return the page of level 0: the largest, in tiles or in strips; of equals that in tiles, the first.

    Pages that are marked as reduced, as masks, labels or macros come after all others. One in strips
    that is larger than all in tiles may still be a photograph of the glass: it is the slide if those
    in tiles may show the same, or are few pixels beside it and no pyramid.

    Args:
        pages: of the file, at least one.
    """
    shown = [page for page in pages if not is_beside(page)] or pages[:1]
    whole = [page for page in shown if not int(page.subfiletype) & REDUCED] or shown
    largest = max(whole, key=lambda page: (_area(page), page.is_tiled))
    tiled = [page for page in whole if page.is_tiled]
    if largest.is_tiled or not tiled:
        return largest
    scan = max(tiled, key=_area)
    below = [*pages, *(scan.pages or ())]
    is_pyramid = any(page.is_tiled and _is_reduced(page, scan) for page in below)
    is_far_larger = _area(largest) > _FAR_LARGER * _area(scan)
    return largest if _is_reduced(scan, largest) or (is_far_larger and not is_pyramid) else scan


def is_beside(page: tifffile.TiffPage) -> bool:
    """Whether a page says that it is no picture of the scan but a mask, label, macro or thumbnail."""
    return bool(int(page.subfiletype) & MASK or beside_name(page.description))


def beside_name(text: str) -> str:
    """Return which picture beside the scan a text is of: label, macro, thumbnail; "" where of none."""
    match = _BESIDE.search(text[:_LOOKED_AT])
    return match[1].lower() if match else ""


def pages_beside(
    pages: Sequence[tifffile.TiffPage],
    base: tifffile.TiffPage,
    *,
    is_aperio: bool,
    ome: Ome | None,
    file_name: str,
) -> dict[str, int]:
    """Return which pages are label, macro and thumbnail of a slide: their numbers, by name.

    Aperio's thumbnail is page 1, in strips, and says nothing; OME-XML names pictures by where they lie.
    """
    found: dict[str, int] = {}
    for page in pages:
        kind = page.subfiletype  # whatever its tag holds, where the page is broken
        if page.index == base.index or (isinstance(kind, int) and kind & MASK):
            continue
        texts = [str(page.description)]
        if ome is not None:
            texts = [image.name for image in ome.images if image.is_in(page.index, file_name)]
        said = [name for text in texts if (name := beside_name(text))]
        if not said and is_aperio and page.index == 1 and not page.is_tiled:
            said = ["thumbnail"]
        for name in said:
            found.setdefault(name, page.index)
    return found


def _area(page: tifffile.TiffPage) -> int:
    return int(page.imagewidth) * int(page.imagelength)


def _is_reduced(page: tifffile.TiffPage, of: tifffile.TiffPage) -> bool:
    """Whether a page may show another one at a lower scale."""
    sizes = [(int(p.imagewidth), int(p.imagelength)) for p in (of, page)]
    tile = (page.tilewidth, page.tilelength) if page.is_tiled else (1, 1)
    downsample = pyramid_downsample(sizes[0], sizes[1], tile)
    return downsample is not None and downsample > 1.1
