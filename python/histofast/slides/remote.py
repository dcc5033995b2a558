"""Slides that are read where they are: in a bucket, or on a web server."""

from __future__ import annotations

from histofast._remote import Address, RemoteFile
from histofast._words import clipped, one_line
from histofast.errors import SlideError
from histofast.slides.images import TIFF_MAGIC
from histofast.slides.metadata import resolve_mpp
from histofast.slides.slide import Slide
from histofast.slides.tiff import TiffSlide
from histofast.slides.tiff_layout import read_layout
from histofast.slides.zarr_slide import ZarrSlide
from histofast.slides.zarr_store import is_zarr

# Whatever they begin with, these are read by OpenSlide, most of them in several files.
_BY_OPENSLIDE = frozenset({".mrxs", ".vsi", ".ndpi", ".dcm", ".vms", ".vmu"})


class NeedsFile(SlideError):
    """A slide that cannot be read in parts: it must be copied first."""

    def __init__(self, address: Address, why: str) -> None:
        super().__init__(
            f"{address} must be a tiled TIFF or OME-Zarr to be read where it is, got {why}: copy it here, or "
            "have it copied while it is encoded with stage=..."
        )


def open_remote(address: Address, mpp: float | None) -> Slide:
    """Open a tiled TIFF or an OME-Zarr by its address; `mpp` is the level-0 scale, instead of what it says.

    Raises:
        FileNotFoundError: no such object.
        NeedsFile: it is something else.
        SlideError: it is empty or broken, or cannot be had.
    """
    if address.suffix.lower() in _BY_OPENSLIDE:
        raise NeedsFile(address, f"one of the files {address.suffix}, which OpenSlide reads")
    source = None if is_zarr(address) else RemoteFile(address)
    try:
        return ZarrSlide(address, mpp=mpp) if source is None else _opened(source, mpp)
    except SlideError:
        if source is not None:
            source.close()
        raise
    except Exception as error:  # whatever it is, it is this slide's failure and no other's
        if source is not None:
            source.close()
        said = clipped(f"{type(error).__name__}: {one_line(error)}", 200)
        raise SlideError(f"{address} cannot be opened: {said}") from error


def _opened(source: RemoteFile, mpp: float | None) -> Slide:
    head, address = source.read(0, 16), source.place
    if not head:
        raise SlideError(f"{address} is empty: copy it again")
    if head[:4] not in TIFF_MAGIC:
        raise NeedsFile(address, f"a file that begins with {head[:8]!r}")
    layout = read_layout(source)
    if not layout.tiled:
        raise NeedsFile(address, f"one that is not read tile by tile ({layout.reason})")
    scale = resolve_mpp(address, found=layout.mpp, source=layout.mpp_source, given=mpp)
    source.forget_directories()
    return TiffSlide(source, layout, mpp=scale)
