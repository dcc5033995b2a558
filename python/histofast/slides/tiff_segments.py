"""Tiles and strips through tifffile's decoders, which would allocate whatever a stream claims.

JPEG and JPEG 2000 are asked for their size first; PNG, WebP, JPEG XR, JPEG XL and LERC are decoded
into arrays of the right size, which imagecodecs compares before it begins; the rest is bounded by
tifffile.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from histofast.slides.codestreams import (
    has_jfif,
    jpeg_size,
    refuse_greedy_lzma,
    refuse_jpeg,
    refuse_jpeg_2000,
)

JPEG, JPEG_2000 = (6, 7), (33003, 33005, 34712)
_LZMA, _WEBP = 34925, 50001
_INTO_ARRAYS: dict[int, Callable[..., Any]] = {
    **dict.fromkeys(JPEG_2000, imagecodecs.jpeg2k_decode),
    34887: imagecodecs.lerc_decode,
    34933: imagecodecs.png_decode,
    **dict.fromkeys((22610, 34934), imagecodecs.jpegxr_decode),
    _WEBP: imagecodecs.webp_decode,
    50002: imagecodecs.jpegxl_decode,
}
# As tifffile's: the segment's bytes and index in; samples, place and shape out.
_Decode = Callable[..., tuple[Any, tuple[int, ...], tuple[int, int, int, int]]]


def segment_decoder(page: tifffile.TiffPage) -> _Decode:
    """Return `page.decode` with the same signature, for streams of any origin.

    What comes back raises as imagecodecs does for broken data, and ValueError for a stream that
    claims another size than its tile or strip.
    """
    decode: _Decode = page.decode  # a closure over numbers: it keeps neither the page nor the file
    compression = int(page.compression)
    whole = (
        (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    )
    if compression in JPEG:
        if jpeg_size(page.jpegtables or b"") is not None:
            raise ValueError("its shared JPEG tables hold a picture")
        return _behind(_by_stream(page), lambda data: refuse_jpeg(data, whole))
    if compression == _LZMA:
        return _behind(decode, refuse_greedy_lzma)
    if compression in _INTO_ARRAYS and page.dtype is not None:
        into = _into_arrays(page, decode, whole)
        if compression not in JPEG_2000:
            return into
        return _behind(into, lambda data: refuse_jpeg_2000(data, whole))
    return decode


def _behind(decode: _Decode, look: Callable[[bytes], None]) -> _Decode:
    def looked_at(data: bytes | None, index: int, **options: Any) -> Any:
        if data is not None:
            look(data)
        return decode(data, index, **options)

    return looked_at


def _by_stream(page: tifffile.TiffPage) -> _Decode:
    """Decode JPEG streams each by its own header; tifffile takes the first one's for all."""
    decoders = {}
    for jfif in (False, True):
        twin = copy.copy(page)
        twin.__dict__.pop("decode", None)  # made once, with what follows
        twin.is_jfif = jfif
        decoders[jfif] = twin.decode

    def decode(data: bytes | None, index: int, **options: Any) -> Any:
        return decoders[data is not None and has_jfif(data)](data, index, **options)

    return decode


def _into_arrays(page: tifffile.TiffPage, decode: _Decode, whole: tuple[int, int]) -> _Decode:
    compression = int(page.compression)
    codec = _INTO_ARRAYS[compression]
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    options = {"hasalpha": samples == 4} if compression == _WEBP else {}
    dtype, size = page.dtype, (page.imagewidth, page.imagelength)

    def decode_into(data: bytes | None, index: int, **settings: Any) -> Any:
        _, place, shape = decode(None, index, **settings)
        if data is None:
            return None, place, shape
        segment = np.zeros(shape, dtype)  # (1, h, w, samples)
        for h, w in _heights_widths(place, shape, whole, size):
            picture = np.empty((h, w, samples), dtype)
            try:
                codec(data, out=picture, **options)
            except ValueError as error:  # of another size; broken data are codecs' own errors
                reason = error
                continue
            h, w = min(h, shape[1]), min(w, shape[2])
            segment[0, :h, :w] = picture[:h, :w]
            return segment, place, shape
        raise reason

    return decode_into


def _heights_widths(
    place: tuple[int, ...], shape: tuple[int, ...], whole: tuple[int, int], size: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """The sizes (h, w) that writers give a segment, whole or cut at the edge of the picture."""
    cut_h, cut_w = min(whole[1], size[1] - place[2]), min(whole[0], size[0] - place[3])
    yield from dict.fromkeys(
        [(shape[1], shape[2]), (whole[1], whole[0]), (cut_h, cut_w), (cut_h, whole[0])]
    )
