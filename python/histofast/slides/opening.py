"""Which door a file goes through."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from histofast._files import refuse_stand_in, regular_file
from histofast._notes import log_of
from histofast._numbers import mpp_number
from histofast._remote import Address, Place, place_of
from histofast._words import clipped, one_line
from histofast.errors import SlideError
from histofast.slides.byte_source import LocalSource
from histofast.slides.image_slide import ImageSlide
from histofast.slides.images import JPEG_MAGIC, PNG_MAGIC, TIFF_MAGIC, read_image
from histofast.slides.metadata import resolve_mpp
from histofast.slides.remote import open_remote
from histofast.slides.slide import Slide
from histofast.slides.tiff import TiffSlide
from histofast.slides.tiff_layout import TiffLayout, check_for_openslide, read_layout
from histofast.slides.zarr_store import is_zarr

_log = log_of(__name__)

Door = Literal["tifffile", "openslide", "image"]


def open_slide(
    path: str | Place, *, mpp_override: float | None = None, door: Door | None = None
) -> Slide:
    """Open a whole-slide image, or any image as a slide of one level.

    Tiled TIFF of every vendor (SVS, OME-TIFF, generic) is decoded tile by tile with imagecodecs; PNG,
    JPEG and TIFF without tiles are decoded whole; folders of OME-Zarr chunk by chunk; the rest (MRXS,
    NDPI, SCN, BIF, DICOM ...) goes to OpenSlide, whose coordinates are kept.

    Args:
        path: the slide, or the address of a tiled TIFF in a bucket or on a web server. Of formats in
            several files the one that OpenSlide takes: the .mrxs, the .vms, any one .dcm of a series. Of
            OME-Zarr the folder, or an image inside it: `x.zarr/1`.
        mpp_override: level-0 um per pixel, instead of what the file says.
        door: force one of the three ways; for comparisons.

    Returns:
        The open slide, a context manager.

    Raises:
        FileNotFoundError: no such file or object.
        SlideError: it is no file, or empty, truncated, broken or in no known format; it asks for
            more memory than a slide may; its pixels are not grey or RGB; or its mpp is missing,
            absurd or differs between x and y.
        ValueError: `mpp_override` is out of range, or there is no such door.
    """
    place = place_of("slide", path)
    if door not in (None, "tifffile", "openslide", "image"):
        raise ValueError(f"door must be tifffile, openslide or image, got {door!r}")
    if mpp_override is not None:
        mpp_override = mpp_number("mpp_override", mpp_override)
    if isinstance(place, Address):
        return _known(open_remote(place, mpp_override))
    in_folder = is_zarr(place)
    path = place if in_folder else regular_file(place, kind="slide", error=SlideError)
    try:
        return _known((_open_folder if in_folder else _open)(path, mpp_override, door))
    except SlideError:
        raise
    except OSError as error:
        raise SlideError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever it is, it is this slide's failure and no other's
        said = clipped(f"{type(error).__name__}: {one_line(error)}", 200)
        raise SlideError(f"{path} cannot be opened: {said}") from error


def _known(slide: Slide) -> Slide:
    kind = type(slide).__name__
    _log.debug("opened %s by %s, %g um per pixel", slide.path, kind, slide.mpp)
    return slide


def _open_folder(path: Path, mpp: float | None, door: Door | None) -> Slide:
    # Most runs never need it.
    from histofast.slides.zarr_slide import ZarrSlide

    if door is not None:
        raise SlideError(f"{path} is a folder of OME-Zarr, which the door {door} does not read")
    return ZarrSlide(path, mpp=mpp)


def _open(path: Path, mpp: float | None, door: Door | None) -> Slide:
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise SlideError(f"{path} is empty: copy it again")
    suffix = path.suffix.lower()
    if door is None and suffix in (".mrxs", ".vsi"):
        return _open_with_openslide(path, mpp)  # no image, whatever they begin with
    if door == "openslide":
        if head[:4] in TIFF_MAGIC and suffix != ".ndpi":
            check_for_openslide(path)
        return _open_with_openslide(path, mpp)
    if head[:4] in TIFF_MAGIC:
        if suffix == ".ndpi" and door is None and _is_hamamatsu(path):
            return _open_with_openslide(path, mpp)  # its directories are of a kind of their own
        return _open_tiff(path, read_layout(LocalSource(path)), mpp, door)
    if door == "image" or (door is None and head.startswith((PNG_MAGIC, JPEG_MAGIC))):
        scale = resolve_mpp(path, found=None, source="", given=mpp)
        kind = "png" if head.startswith(PNG_MAGIC) else "jpeg"
        return ImageSlide(path, read_image(path), mpp=scale, properties={"vendor": kind})
    if door == "tifffile":
        raise SlideError(f"{path} is not a TIFF file: it begins with {head[:8]!r}")
    return _open_with_openslide(path, mpp)


def _is_hamamatsu(path: Path) -> bool:
    from histofast.slides.openslide import detect

    return detect(path) == "hamamatsu"


def _open_tiff(path: Path, layout: TiffLayout, mpp: float | None, door: Door | None) -> Slide:
    if door == "tifffile" and not layout.tiled:
        raise SlideError(f"{path} cannot be read tile by tile: {layout.reason}")
    if not layout.tiled and layout.reason != "it has no tiles":
        check_for_openslide(path)
        return _open_with_openslide(path, mpp, why=layout.reason)
    scale = resolve_mpp(path, found=layout.mpp, source=layout.mpp_source, given=mpp)
    if layout.tiled and door != "image":
        return TiffSlide(LocalSource(path), layout, mpp=scale)
    properties = {**layout.properties, "door": "image"}
    return ImageSlide(path, read_image(path), mpp=scale, properties=properties)


def _open_with_openslide(path: Path, mpp: float | None, *, why: str = "") -> Slide:
    # Loads a shared library that most runs never need.
    from histofast.slides.openslide import OpenSlideSlide, detect

    if detect(path) is None:
        refuse_stand_in(path, error=SlideError)
        reason = f": {why}, and OpenSlide does not read it" if why else ""
        raise SlideError(f"{path} is in no slide format that histofast reads{reason}")
    return OpenSlideSlide(path, mpp=mpp)
