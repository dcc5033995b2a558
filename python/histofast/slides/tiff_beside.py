"""A page of a TIFF file that shows something beside the scan, decoded whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histofast.errors import SlideError
from histofast.slides.byte_source import ByteSource
from histofast.slides.images import as_rgb, page_samples, refuse_page, tiff_pixel_kind
from histofast.slides.tiff_directories import check_depth, check_pages, check_tiles
from histofast.slides.tiff_layout import checked_tiff


def read_page(source: ByteSource, index: int) -> NDArray[np.uint8]:
    """Decode a page; (h, w, 3) uint8 RGB.

    Raises:
        SlideError: it is broken, of another kind of pixel than grey or RGB, or larger than a picture
            decoded whole may be.
    """
    path = source.place
    with checked_tiff(source) as tiff:
        page = tiff.pages[index]
        check_pages(path, [page])
        check_depth(path, page)
        check_tiles(path, page)
        try:
            kind = tiff_pixel_kind(page)
        except SlideError as error:
            raise SlideError(f"{path}: {error}") from None
        refuse_page(path, page)
        return as_rgb(page_samples(path, page), kind)
