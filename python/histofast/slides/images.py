"""Images in and out as uint8 arrays.

Any grey, RGB or RGBA picture becomes RGB: grey is replicated, transparency is composited on white,
16-bit samples keep their upper 8 bits (whatever the range in use: 12-bit data in 16-bit samples
comes out dark).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._files import path_of, refuse_stand_in, regular_file
from histofast._remote import Place
from histofast._words import clipped, one_line
from histofast.errors import SlideError
from histofast.slides.codestreams import jpeg_size, largest_stream, png_size
from histofast.slides.jpeg import find_damage
from histofast.slides.tiff_directories import (
    check_directories,
    check_pages,
    check_picture,
    stored_bytes,
)
from histofast.slides.tiff_pages import picture_of
from histofast.slides.tiff_segments import segment_decoder

MAX_IMAGE_PX = 300_000_000  # decoded whole into memory: 0.9 GB
# What no picture of tissue comes near, though one of nothing may: deflate and JPEG end at 1 : 1032.
_MAX_EXPANSION = 2000
_SMALL_BYTES = 64 << 20  # decoded whatever its size in the file
_SUBSAMPLING, _COLORMAP = 530, 320  # tags
# What keeps values, or may not: JPEG; JPEG 2000, JPEG XR, WebP, JPEG XL.
_LOSSY: dict[int, Literal["lossy", "either"]] = {
    **dict.fromkeys((6, 7), "lossy"),
    **dict.fromkeys((33003, 33005, 34712, 22610, 34934, 50001, 50002), "either"),
}
_MASK_BITS = (1, 2, 4, 8, 16, 32, 64)  # of a mask of numbers
_ROWS = 1024  # converted to RGB at a time
# Fax and old-style JPEG are read from strips only; tiles see CODECS of the decoders.
_STRIP_CODECS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 33003, 33005, 34712, 34887, 34925, 34926}
_STRIP_CODECS |= {22610, 34933, 34934, 50000, 50001, 50002}

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"

KindOf = Callable[[tifffile.TiffPage], "PixelKind"]
Alpha = Literal["none", "ignored", "straight", "premultiplied"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelKind:
    """How the samples of a picture read: what `to_rgb` needs besides the array."""

    inverted: bool = False  # 0 is white
    alpha: Alpha = "none"
    ycbcr: bool = False  # no decoder undoes it: planes apart
    mask: Literal["", "exact", "lossy", "either"] = ""  # a mask, compressed so
    palette: bytes = b""  # RGB of each value of a mask


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageForm:
    """How a picture lies in its file.

    Attributes:
        format: "PNG", "JPEG" or "TIFF".
        mode: "grey", "RGB" or "palette", with transparency or not.
        bits: of a sample, once unpacked.
    """

    format: str
    mode: str
    bits: int


def to_rgb(samples: NDArray[Any], kind: PixelKind, out: NDArray[np.uint8]) -> None:
    """Write decoded samples as RGB.

    Args:
        samples: (h, w, s) bool, uint8 or uint16; s is 1 or 3, plus one where there is alpha. Of masks
            any numbers.
        kind: what the samples mean.
        out: (h, w, 3) uint8, overwritten; of masks with `mask_values`, three times.

    Raises:
        ValueError: another type or number of samples.
    """
    if kind.mask:
        out[...] = mask_values(samples, kind)[..., np.newaxis]
        return
    colours = samples.shape[2] - (kind.alpha != "none")
    if colours not in (1, 3) or samples.dtype not in (np.bool_, np.uint8, np.uint16):
        raise ValueError(
            f"samples must be 1 or 3 (plus alpha) of bool, uint8 or uint16, got"
            f" {samples.shape[2]} of {samples.dtype.name} with alpha {kind.alpha}"
        )
    if samples.dtype == np.uint16:
        samples = (samples >> 8).astype(np.uint8)
    elif samples.dtype == np.bool_:
        samples = samples.astype(np.uint8) * np.uint8(255)
    colour = samples[..., :colours]
    if kind.ycbcr:
        colour = ycbcr_to_rgb(colour)
    if kind.inverted:
        colour = 255 - colour
    if kind.alpha in ("straight", "premultiplied"):
        alpha = samples[..., colours:].astype(np.uint16)
        if kind.alpha == "straight":
            colour = (colour * alpha + 255 * (255 - alpha) + 127) // 255
        else:
            colour = np.minimum(colour + (255 - alpha), 255)
    out[...] = colour


def mask_values(samples: NDArray[Any], kind: PixelKind) -> NDArray[np.uint8]:
    """What a mask says of each pixel: (h, w) uint8, 0 where no sample says anything.

    The highest of its colours; of samples that are no bytes 255 for all that is not zero (or NaN).
    Transparent pixels are 0.
    """
    colours = samples.shape[2] - (kind.alpha != "none")
    colour = samples[..., :colours]
    if kind.ycbcr:
        colour = ycbcr_to_rgb(colour)
    if samples.dtype == np.uint8:
        values: NDArray[np.uint8] = (255 - colour if kind.inverted else colour).max(axis=2)
    else:
        is_whole = samples.dtype.kind in "iu"
        white_is_0 = np.iinfo(samples.dtype).max if is_whole else 1
        zero = white_is_0 if kind.inverted else 0
        is_set = np.any((colour != zero) & ~np.isnan(colour), axis=2)
        values = is_set.astype(np.uint8) * np.uint8(255)
    if kind.alpha in ("straight", "premultiplied"):
        values = np.where(samples[..., colours] == 0, np.uint8(0), values)
    return values


def ycbcr_to_rgb(ycbcr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """JPEG's full-range conversion (ITU-R BT.601, as JFIF has it)."""
    y, cb, cr = (ycbcr[..., i].astype(np.float32) for i in range(3))
    cb -= 128
    cr -= 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    converted: NDArray[np.uint8] = np.rint(rgb).clip(0, 255).astype(np.uint8)
    return converted


def tiff_pixel_kind(page: tifffile.TiffPage) -> PixelKind:
    """Say how the samples of a TIFF page read.

    Raises:
        SlideError: they are nothing that can be shown as RGB; the message names what came, without
            the file's name.
    """
    photometric = int(page.photometric)
    bits = page.bitspersample
    name = getattr(page.photometric, "name", str(photometric))
    wanted = "pixels must be grey or RGB, 8 or 16 bit"
    if photometric not in (0, 1, 2, 6):
        raise SlideError(f"{wanted}, got {name}")
    if page.sampleformat not in (1, None) or bits not in (1, 8, 16):
        raise SlideError(f"{wanted}, got {bits}-bit {page.dtype or 'samples'} ({name})")
    samples = page.samplesperpixel
    colours = 1 if photometric < 2 else 3
    if samples not in (colours, colours + 1):
        raise SlideError(f"{wanted}, got {samples} samples per pixel ({name})")
    alpha: Alpha = "none"
    if samples == colours + 1:
        extra = tuple(page.extrasamples)
        alpha = {(1,): "premultiplied", (2,): "straight"}.get(extra, "ignored")  # type: ignore[assignment]
        if colours == 1 and alpha == "ignored":
            raise SlideError(f"{wanted}, got 2 channels ({name})")
    # JPEG 2000 and WebP hold the colours themselves; elsewhere YCbCr would have to be undone here.
    if photometric == 6 and int(page.compression) not in (6, 7, 33003, 33005, 34712, 50001):
        raise SlideError(f"{wanted}, got YCbCr compressed with {compression_name(page)}")
    is_apart = photometric == 6 and page.planarconfig == 2
    if is_apart and (bits != 8 or page.tags.valueof(_SUBSAMPLING, (1, 1)) != (1, 1)):
        raise SlideError(f"{wanted}, got YCbCr in planes apart of several sizes or {bits} bit")
    return PixelKind(inverted=photometric == 0, alpha=alpha, ycbcr=is_apart)


def tiff_mask_kind(page: tifffile.TiffPage) -> PixelKind:
    """Say how the samples of a TIFF page read as a mask: as `tiff_pixel_kind`, or one number of any kind.

    Raises:
        SlideError: as `tiff_pixel_kind`, and for a palette that does not fit its pixels.
    """
    photometric = int(page.photometric)
    is_number = page.dtype is not None and page.dtype.kind in "buif" and page.samplesperpixel == 1
    if photometric not in (0, 1, 3) or not is_number or page.bitspersample not in _MASK_BITS:
        kind = tiff_pixel_kind(page)
    elif photometric == 3:
        kind = PixelKind(palette=_palette(page))
    else:
        # tifffile calls arrays of bool so, whatever they mean: True is what is marked.
        inverted = photometric == 0 and not page.software.startswith("tifffile")
        if inverted and page.bitspersample in (2, 4):
            raise SlideError(
                f"a mask in which 0 is white must have 1 or 8 bit, got {page.bitspersample}"
            )
        kind = PixelKind(inverted=inverted)
    lossy: Literal["lossy", "either"] | None = _LOSSY.get(int(page.compression))
    return replace(kind, mask=lossy or "exact")


def _palette(page: tifffile.TiffPage) -> bytes:
    colours = np.asarray(page.tags.valueof(_COLORMAP, ()))
    if (
        page.bitspersample > 8
        or colours.size != 3 << page.bitspersample
        or colours.dtype.kind not in "iu"
    ):
        raise SlideError(
            f"a palette must have 3 x {1 << min(page.bitspersample, 8)} numbers, got {colours.size}"
        )
    if colours.max() > 255:  # of 16 bit, as they should be
        colours = colours >> 8
    return colours.reshape(3, -1).T.astype(np.uint8).tobytes()


def compression_name(page: tifffile.TiffPage) -> str:
    """Name the compression of a TIFF page."""
    return str(getattr(page.compression, "name", page.compression))


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Decode a PNG, JPEG or TIFF file (its largest page) into memory.

    Args:
        path: the file; its content decides the format, not its suffix.

    Returns:
        (h, w, 3) uint8 RGB; see the module for grey, 16-bit and transparent pictures.

    Raises:
        FileNotFoundError: no such file.
        SlideError: no file, not such an image, broken, of a kind of pixel that is not grey or RGB,
            or of more pixels than 300 million or than its bytes can hold.
    """
    return read_image_and_form(path)[0]


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (width, height) of a picture, from its header.

    Raises:
        FileNotFoundError, SlideError: as `read_image`, but for what only decoding shows.
    """
    path = regular_file(path_of("path", path), kind="image", error=SlideError)
    with _said_of(path):
        with path.open("rb") as file:
            head = file.read(32)
            whole = head + file.read() if head.startswith(JPEG_MAGIC) else b""
        if head[:4] in TIFF_MAGIC:
            with _opened(path, tiff_pixel_kind) as (page, _):
                return int(page.imagewidth), int(page.imagelength)
    size = png_size(head) if head.startswith(PNG_MAGIC) else jpeg_size(whole)
    if size is not None and min(size) > 0:
        return size
    height, width = read_image(path).shape[:2]
    return width, height


def read_image_and_form(path: str | Path) -> tuple[NDArray[np.uint8], ImageForm]:
    """Decode a file as `read_image` does, and say how the picture lies in it."""
    samples, kind, form = read_samples(path_of("path", path))
    return as_rgb(samples, kind), form


def as_rgb(samples: NDArray[Any], kind: PixelKind) -> NDArray[np.uint8]:
    """Return samples as (h, w, 3) RGB, see `to_rgb`."""
    if samples.dtype == np.uint8 and samples.shape[2] == 3 and kind == PixelKind():
        return samples
    image = np.empty((*samples.shape[:2], 3), np.uint8)
    for top in range(0, len(image), _ROWS):
        to_rgb(samples[top : top + _ROWS], kind, image[top : top + _ROWS])
    return image


def _form_of(
    samples: NDArray[Any], kind: PixelKind, *, format: str, is_palette: bool = False
) -> ImageForm:
    colours = samples.shape[2] - (kind.alpha != "none")
    mode = "palette" if is_palette else "grey" if colours == 1 else "RGB"
    if kind.alpha in ("straight", "premultiplied"):
        mode += " with transparency"
    bits = 1 if samples.dtype == np.bool_ else 8 * samples.dtype.itemsize
    return ImageForm(format=format, mode=mode, bits=bits)


def write_png(path: str | Path, image: NDArray[np.uint8]) -> None:
    """Write a PNG file.

    Args:
        path: the file, overwritten.
        image: (h, w) grey or (h, w, 3) RGB, uint8.

    Raises:
        TypeError: another dtype.
        ValueError: another shape, or strided.
        OSError: the file cannot be written.
    """
    grey = getattr(image, "ndim", 3) == 2
    check("image", image, "uint8", ("h", "w") if grey else ("h", "w", 3))
    path_of("path", path).write_bytes(imagecodecs.png_encode(image, level=6))


def quick_png(image: NDArray[np.uint8]) -> bytes:
    """Return a (h, w, 3) uint8 RGB image as PNG: a quarter of the time of `write_png`, a tenth more bytes.

    Raises:
        TypeError: another dtype.
        ValueError: another shape, or strided.
    """
    check("image", image, "uint8", ("h", "w", 3))
    png = imagecodecs.PNG
    return bytes(
        imagecodecs.png_encode(image, level=1, strategy=png.STRATEGY.RLE, filter=png.FILTER.PAETH)
    )


def read_samples(
    path: Path, *, kind_of: KindOf = tiff_pixel_kind
) -> tuple[NDArray[Any], PixelKind, ImageForm]:
    """Decode a file to (h, w, s), what the samples mean and how they were stored.

    `kind_of` says of a TIFF page how its samples read, or refuses it.
    """
    regular_file(path, kind="image", error=SlideError)
    with _said_of(path):
        with path.open("rb") as file:
            head = file.read(8)
        if head[:4] in TIFF_MAGIC:
            return _decode_tiff(path, kind_of)
        if head.startswith(PNG_MAGIC):
            return _decode_png(path)
        if head.startswith(JPEG_MAGIC):
            return _decode_jpeg(path)
    refuse_stand_in(path, error=SlideError)
    got = f"it starts with {head!r}" if head else "it is empty: copy or export it again"
    raise SlideError(f"{path} must be a PNG, JPEG or TIFF image, {got}")


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file is a SlideError that names it."""
    try:
        yield
    except SlideError:
        raise
    except OSError as error:
        raise SlideError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        raise SlideError(f"{path} cannot be decoded: {clipped(one_line(error), 200)}") from error


def _decode_png(path: Path) -> tuple[NDArray[Any], PixelKind, ImageForm]:
    data = path.read_bytes()
    size = png_size(data)
    bits_px = {2: 3, 4: 2, 6: 4}.get(data[25], 1) * data[24]
    _refuse_size(path, size, bits_px=bits_px, stored_bytes=len(data))
    samples = _planes(imagecodecs.png_decode(data))
    transparent = samples.shape[2] in (2, 4)
    kind = PixelKind(alpha="straight" if transparent else "none")
    return samples, kind, _form_of(samples, kind, format="PNG", is_palette=data[25] == 3)


def _decode_jpeg(path: Path) -> tuple[NDArray[Any], PixelKind, ImageForm]:
    data = path.read_bytes()
    size = jpeg_size(data)
    _refuse_size(path, size, bits_px=24, stored_bytes=len(data))
    samples = _planes(imagecodecs.jpeg_decode(data))
    if samples.shape[1::-1] != size:
        raise SlideError(
            f"{path} is corrupt: {samples.shape[1]} x {samples.shape[0]} pixels come out, its header"
            f" says {size}"
        )
    if samples.shape[2] == 4:
        raise SlideError(
            f"{path}: pixels must be grey or RGB, 8 or 16 bit, got CMYK: save it as RGB"
        )
    damage = find_damage(data, b"", samples, lambda data: _planes(imagecodecs.jpeg_decode(data)))
    if damage is not None:
        raise SlideError(f"{path} is corrupt: {damage}")
    return samples, PixelKind(), _form_of(samples, PixelKind(), format="JPEG")


def _planes(samples: NDArray[Any]) -> NDArray[Any]:
    return samples[..., np.newaxis] if samples.ndim == 2 else samples


def _decode_tiff(path: Path, kind_of: KindOf) -> tuple[NDArray[Any], PixelKind, ImageForm]:
    with _opened(path, kind_of) as (page, kind):
        samples = page_samples(path, page)
    return samples, kind, _form_of(samples, kind, format="TIFF")


@contextmanager
def _opened(path: Path, kind_of: KindOf) -> Iterator[tuple[tifffile.TiffPage, PixelKind]]:
    """Open a TIFF file and find the page of its picture, which is one that can be decoded."""
    with path.open("rb") as file:
        check_directories(path, file)
        file.seek(0)
        with tifffile.TiffFile(file, name=path.name) as tiff:
            page, pages = picture_of(path, tiff)
            check_pages(path, [page])
            check_picture(path, page, pages)
            try:
                kind = kind_of(page)
            except SlideError as error:
                raise SlideError(f"{path}: {error}") from None
            refuse_page(path, page)
            yield page, kind


def refuse_page(path: Place, page: tifffile.TiffPage) -> None:
    """Refuse a page in a compression that is not read, or that its bytes cannot hold.

    Raises:
        SlideError: it is.
    """
    if int(page.compression) not in _STRIP_CODECS:
        raise SlideError(
            f"{path}: its compression, {compression_name(page)}, is none that histofast reads"
        )
    _refuse_size(
        path,
        (page.imagewidth, page.imagelength),
        bits_px=page.samplesperpixel * page.bitspersample,
        stored_bytes=stored_bytes(page),
    )
    _refuse_long_segments(path, page)


def page_samples(path: Place, page: tifffile.TiffPage) -> NDArray[Any]:
    """Decode a page that `refuse_page` let pass; (h, w, s)."""
    page.decode = segment_decoder(page)
    samples = page.asarray(squeeze=False)[:, 0]  # (planes, h, w, contiguous samples)
    samples = np.moveaxis(samples[..., 0], 0, -1) if samples.shape[0] > 1 else samples[0]
    return np.ascontiguousarray(samples)


def _refuse_long_segments(path: Place, page: tifffile.TiffPage) -> None:
    """Refuse strips or tiles of more bytes than one can hold: all of them would be read."""
    most = largest_stream(
        page.tilewidth * page.tilelength if page.is_tiled else page.imagewidth * page.rowsperstrip
    )
    longest = max(page.databytecounts, default=0)
    if longest > most:
        raise SlideError(
            f"{path} is corrupt: a strip of its size has at most {most:,} bytes, got {longest:,}"
        )


def _refuse_size(
    path: Place, size: tuple[int, int] | None, *, bits_px: int, stored_bytes: int
) -> None:
    """Refuse a picture by what its header says, before there is memory for it."""
    width, height = size or (0, 0)
    if width <= 0 or height <= 0:
        raise SlideError(f"{path} is corrupt: its header says {width} x {height} pixels")
    if width * height > MAX_IMAGE_PX:
        raise SlideError(
            f"an image without tiles must have at most {MAX_IMAGE_PX // 10**6} million pixels,"
            f" {path} has {width} x {height}: convert it to a tiled pyramidal TIFF and open it as a slide,"
            " or cut it into smaller pictures"
        )
    if width * height * bits_px // 8 > max(_SMALL_BYTES, _MAX_EXPANSION * stored_bytes):
        raise SlideError(
            f"{path} says {width} x {height} pixels, more than its {stored_bytes:,} bytes can hold"
            f" (1 : {_MAX_EXPANSION}): copy or export it again"
        )
