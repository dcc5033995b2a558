"""How the tiles of a page of a TIFF file become pixels: imagecodecs, by the fastest way there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from histofast.slides.codestreams import has_jfif, jpeg_size, refuse_jpeg, refuse_jpeg_2000
from histofast.slides.images import PixelKind, to_rgb, ycbcr_to_rgb
from histofast.slides.jpeg import find_damage
from histofast.slides.tiff_segments import segment_decoder

# The bytes of a tile (one part per colour plane), its index in the table, where the pixels go.
Decode = Callable[[list[bytes], int, NDArray[np.uint8]], None]
_JPEG, _JPEG_2000_YCBCR = 7, 33003
_JPEG_2000 = (_JPEG_2000_YCBCR, 33005, 34712)
_DEFLATE, _LZW, _ZSTD, _WEBP = (8, 32946), (5,), (50000, 34926), 50001
# What tifffile decodes besides: packbits, LZMA, LERC, PNG, JPEG XR and JPEG XL.
_RARE = (32773, 34925, 34887, 34933, 22610, 34934, 50002)
CODECS = (1, _JPEG, *_JPEG_2000, *_DEFLATE, *_LZW, *_ZSTD, _WEBP, *_RARE)
_RGB = 2  # libjpeg's number for the colour space


def decoder_of(page: tifffile.TiffPage, size: tuple[int, int], kind: PixelKind) -> Decode:
    """Return the function that decodes the tiles of a page; the fastest that its pixels allow.

    `size` is (width, height) of what is shown of the page.
    """
    compression = int(page.compression)
    plain = (
        page.samplesperpixel == 3
        and page.bitspersample == 8
        and page.planarconfig == 1
        and page.fillorder == 1
        and kind == PixelKind()
    )
    if plain and compression == _JPEG:
        return _jpeg_decoder(page, size)
    if plain and compression in _JPEG_2000:
        ycbcr = compression == _JPEG_2000_YCBCR or int(page.photometric) == 6
        return _jpeg_2000_decoder(page, ycbcr)
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


def _jpeg_decoder(page: tifffile.TiffPage, size: tuple[int, int]) -> Decode:
    jpeg8_decode = imagecodecs.jpeg8_decode
    tables = page.jpegtables or b""
    if jpeg_size(tables) is not None:  # the decoder would take that for every tile's size
        raise ValueError("its shared JPEG tables hold a picture")
    is_rgb = int(page.photometric) == 2
    tile_width, tile_height = page.tilewidth, page.tilelength
    file_columns = -(-page.imagewidth // tile_width)

    def options_of(data: bytes) -> dict[str, Any]:
        # Without a JFIF header nothing in the stream says RGB; with one it is YCbCr, whatever the
        # tag. Tiles of one level differ where it was put together from several files.
        colorspace = _RGB if is_rgb and not has_jfif(data) else None
        return {"tables": tables or None, "colorspace": colorspace, "outcolorspace": _RGB}

    def decode_anew(data: bytes) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = jpeg8_decode(data, **options_of(data))
        return pixels

    def decode(parts: list[bytes], index: int, out: NDArray[np.uint8]) -> None:
        data = parts[0]
        refuse_jpeg(data, (tile_width, tile_height))
        pixels = out
        try:
            jpeg8_decode(data, out=out, **options_of(data))
        except ValueError:  # of another size than the tile: some writers cut those at the edge
            pixels = decode_anew(data)
            h = min(tile_height, size[1] - index // file_columns * tile_height)
            w = min(tile_width, size[0] - index % file_columns * tile_width)
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


def _jpeg_2000_decoder(page: tifffile.TiffPage, ycbcr: bool) -> Decode:
    jpeg2k_decode = imagecodecs.jpeg2k_decode
    whole = page.tilewidth, page.tilelength

    def decode(parts: list[bytes], index: int, out: NDArray[np.uint8]) -> None:
        refuse_jpeg_2000(parts[0], whole)
        jpeg2k_decode(parts[0], out=out, numthreads=1)
        if ycbcr and not _is_converted(parts[0]):
            out[...] = ycbcr_to_rgb(out)

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
    samples_of = segment_decoder(page)
    options = {"jpegtables": page.jpegtables} if int(page.compression) == _JPEG else {}
    plane_tiles = -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)

    def decode(parts: list[bytes], index: int, out: NDArray[np.uint8]) -> None:
        planes = [
            samples_of(data, index + i * plane_tiles, _fullsize=True, **options)[0][0]
            for i, data in enumerate(parts)
        ]
        to_rgb(planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1), kind, out)

    return decode
