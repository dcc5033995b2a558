"""ICC profiles: what a slide or picture carries, and every colour that it gives as sRGB has it.

A profile is (k,) bytes as the file has them; b"" where there is none.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from histofast import _core
from histofast._arrays import check
from histofast._words import clipped, one_line
from histofast.errors import SlideError
from histofast.slides.byte_source import LocalSource
from histofast.slides.images import JPEG_MAGIC, PNG_MAGIC, TIFF_MAGIC
from histofast.slides.tiff_layout import read_layout

Icc = Literal["srgb"]

MAX_PROFILE_BYTES = 16 << 20
_HEADER_BYTES = 132  # of a profile, with the number of its tags
_SIGNATURE, _SPACE, _INTENT = slice(36, 40), slice(16, 20), slice(64, 68)
_REDS = 32  # of the table that are computed at a time
_APP2, _SCAN, _IN_APP2 = 0xE2, 0xDA, b"ICC_PROFILE\0"


def checked_icc(icc: object) -> Icc | None:
    """Return what colours are brought to.

    Raises:
        ValueError: nothing that is known.
    """
    if icc is None or icc == "srgb":
        return icc
    raise ValueError(f"icc must be {' or '.join(get_args(Icc))}, got {icc!r}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ColourTable:
    """Every colour as a profile shows it, in sRGB.

    Attributes:
        colours: (256, 256, 256, 3) uint8 by red, green, blue; read-only.
        sha256: of the profile.
    """

    colours: NDArray[np.uint8]
    sha256: str

    def apply(self, pixels: NDArray[np.uint8], *, threads: int = 1) -> NDArray[np.uint8]:
        """Return (n, h, w, 3) uint8 pixels in sRGB.

        Raises:
            TypeError, ValueError: pixels of another type or shape, or strided.

        Determinism: bitwise, whatever the threads; the table is that of one version of littleCMS.
        """
        check("pixels", pixels, "uint8", ("n", "h", "w", 3))
        out = np.empty_like(pixels)
        _core.map_colours(pixels, self.colours, threads, out)
        return out


def srgb_table(profile: bytes, *, of: str) -> ColourTable:
    """Return what littleCMS makes of all colours, by the intent that the profile asks for.

    Args:
        profile: of RGB.
        of: whose it is, in messages.

    Raises:
        SlideError: it is broken, or not of RGB.
    """
    said = f"the ICC profile of {of}"
    remedy = "encode it without icc"
    if not _HEADER_BYTES <= len(profile) <= MAX_PROFILE_BYTES or profile[_SIGNATURE] != b"acsp":
        raise SlideError(f"{said} is broken, {len(profile)} bytes that are no profile: {remedy}")
    space = profile[_SPACE]
    if space != b"RGB ":
        shown = clipped(one_line(space.decode("latin-1").strip()), 20)
        raise SlideError(f"{said} must be of RGB, got {shown!r}: {remedy}")
    try:
        return _table(profile)
    except (imagecodecs.CmsError, ValueError) as error:
        told = clipped(one_line(error), 200)
        raise SlideError(f"{said} is broken, littleCMS says {told!r}: {remedy}") from None


@lru_cache(maxsize=2)  # slides of one scanner share a profile; two are at hand at a time
def _table(profile: bytes) -> ColourTable:
    intent = int.from_bytes(profile[_INTENT], "big") & 3
    target = imagecodecs.cms_profile("srgb")
    levels = np.arange(256, dtype=np.uint8)
    colours = np.empty((256, 256, 256, 3), np.uint8)
    for first in range(0, 256, _REDS):
        reds = levels[first : first + _REDS]
        given = np.stack(np.meshgrid(reds, levels, levels, indexing="ij"), axis=-1)
        colours[first : first + _REDS] = imagecodecs.cms_transform(
            given.reshape(-1, 256, 3),
            profile,
            target,
            colorspace="rgb",
            outcolorspace="rgb",
            intent=intent,
        ).reshape(given.shape)
    colours.flags.writeable = False
    return ColourTable(colours=colours, sha256=hashlib.sha256(profile).hexdigest())


def profile_of_picture(path: Path) -> bytes:
    """Return the profile in a PNG, JPEG or TIFF file.

    Raises:
        SlideError: it cannot be read, or claims more than it has.
    """
    with path.open("rb") as file:
        head = file.read(8)
        if head[:4] in TIFF_MAGIC:
            return read_layout(LocalSource(path)).icc_profile
        file.seek(0)
        try:
            if head.startswith(PNG_MAGIC):
                return _in_png(file)
            return _in_jpeg(file) if head.startswith(JPEG_MAGIC) else b""
        except (ValueError, zlib.error) as error:
            raise SlideError(
                f"the ICC profile of {path} is broken, {one_line(error)}: encode it without icc"
            ) from None


def _in_png(file: BinaryIO) -> bytes:
    """Read the chunk iCCP: a name, 0, the method 0, the profile deflated."""
    file.seek(len(PNG_MAGIC))
    while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
        length = int.from_bytes(head[:4], "big")
        if head[4:] != b"iCCP":
            file.seek(length + 4, 1)
            continue
        if length > MAX_PROFILE_BYTES:
            raise ValueError(f"it has {length:,} bytes")
        packed = file.read(length).partition(b"\0")[2][1:]
        inflate = zlib.decompressobj()
        profile = inflate.decompress(packed, MAX_PROFILE_BYTES)
        if not inflate.eof:
            raise ValueError("it ends too early, or is too large")
        return profile
    return b""


def _in_jpeg(file: BinaryIO) -> bytes:
    """Read the segments APP2, whose parts are numbered from 1 and say how many they are."""
    file.seek(2)
    parts: dict[int, bytes] = {}
    count = 0
    while len(head := file.read(4)) == 4 and head[0] == 0xFF and head[1] != _SCAN:
        length = int.from_bytes(head[2:], "big") - 2
        if length < 0:
            break
        data = file.read(length)
        if head[1] == _APP2 and data.startswith(_IN_APP2) and len(data) >= len(_IN_APP2) + 2:
            number, count = data[len(_IN_APP2)], data[len(_IN_APP2) + 1]
            parts[number] = data[len(_IN_APP2) + 2 :]
    if sorted(parts) != list(range(1, count + 1)):
        raise ValueError(f"{len(parts)} of its {count} parts are there")
    return b"".join(parts[number] for number in sorted(parts))
