"""What the doors share besides pixels: scale, pyramid factors and the identity of a file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path

from histofast._numbers import MPP_MAX, MPP_MIN, mpp_number
from histofast._remote import Place
from histofast.errors import SlideError

_REMEDY = "give the right one in an mpp column of the list, or with mpp_override"
_PART_BYTES = 1 << 20
DICOM_HEAD_BYTES = 1 << 16


def resolve_mpp(
    path: Place, *, found: tuple[float, float] | None, source: str, given: float | None
) -> float:
    """Decide the level-0 scale of a slide.

    Args:
        path: the slide, for messages.
        found: um per pixel along x and y as the file says it, None when it says nothing.
        source: where in the file that stands.
        given: the caller's own figure; it wins over whatever the file says.

    Returns:
        um per pixel, within `MPP_MIN`..`MPP_MAX`.

    Raises:
        TypeError, ValueError: `given` is no number, or out of range.
        SlideError: the file says nothing, something absurd, or differs between x and y by over 1 %.
    """
    if given is not None:
        return mpp_number("mpp", given)
    if found is None:
        raise SlideError(f"{path} does not say its mpp (um per pixel): {_REMEDY}")
    if not all(MPP_MIN <= value <= MPP_MAX for value in found):
        said = " x ".join(f"{value:.3g}" for value in dict.fromkeys(found))
        raise SlideError(
            f"mpp of {path} must be within {MPP_MIN}..{MPP_MAX:g} um per pixel, the file says {said} "
            f"({source}): {_REMEDY}"
        )
    x, y = found
    if abs(x - y) > 0.01 * min(x, y):
        raise SlideError(
            f"mpp of {path} must be the same along x and y to within 1 %, the file says {x:.4g} and {y:.4g}"
            f" ({source}): {_REMEDY}"
        )
    return (x + y) / 2


def pyramid_downsample(
    base: tuple[int, int], level: tuple[int, int], tile: tuple[int, int]
) -> float | None:
    """Find the level-0 pixels per pixel of a level.

    Args:
        base: (width, height) of level 0.
        level: (width, height) of the level.
        tile: (width, height) of its tiles; some writers pad levels to whole tiles.

    Returns:
        An integer where both sizes are that fraction of level 0's to within one pixel, or its
        power-of-two fraction padded to whole tiles; otherwise the mean of the two ratios, where it
        puts the far corner right to within one pixel of the level. None where it does not: another
        picture, or one cut differently, whose patches would lie beside their places.

    Example:
        >>> pyramid_downsample((46000, 32914), (11500, 8228), (256, 256))
        4.0
        >>> pyramid_downsample((1000, 600), (512, 512), (256, 256))
        2.0
        >>> pyramid_downsample((1000, 600), (600, 600), (256, 256)) is None
        True
    """
    ratios = [b / s for b, s in zip(base, level, strict=True)]
    mean = sum(ratios) / 2
    for k in (2 ** round(math.log2(mean)), round(mean)):
        if k >= 1 and all(abs(b / k - s) <= 1 for b, s in zip(base, level, strict=True)):
            return float(k)
    if all(abs(b / mean - s) <= 1 for b, s in zip(base, level, strict=True)):
        return mean
    for exponent in range(1, 16):
        parts = [math.ceil(b / 2**exponent) for b in base]
        if all(-(-p // t) * t == s for p, s, t in zip(parts, level, tile, strict=True)):
            return float(2**exponent)
    return None


def shown_size(base: tuple[int, int], level: tuple[int, int], downsample: float) -> tuple[int, int]:
    """(width, height) of a level without what pads it to whole tiles, which is no part of the slide.

    Example:
        >>> shown_size((1000, 600), (512, 512), 2.0)
        (500, 300)
    """
    if not downsample.is_integer():
        return level
    width, height = (min(s, math.ceil(b / downsample)) for b, s in zip(base, level, strict=True))
    return width, height


def file_identity(path: Path, companions: Iterable[Path] = ()) -> str:
    """Describe the content of a file in one short text, without reading all of a large one.

    Args:
        path: the file.
        companions: further files that belong to it; their names and sizes count.

    Returns:
        ``size:<bytes>;sha256:<hex>``, over the whole file when under 3 MiB, else over its first,
        middle and last MiB; with ``;companions:<hex>`` when there are any.

    Raises:
        SlideError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            size_bytes = file.seek(0, 2)
            if size_bytes < 3 * _PART_BYTES:
                parts = [(0, size_bytes)]
            else:
                starts = (0, (size_bytes - _PART_BYTES) // 2, size_bytes - _PART_BYTES)
                parts = [(start, _PART_BYTES) for start in starts]
            for start, count in parts:
                file.seek(start)
                digest.update(file.read(count))
        listing = [f"{p.name}:{p.stat().st_size}" for p in sorted(companions)]
    except OSError as error:
        raise SlideError(f"{path} cannot be read: {error.strerror or error}") from error
    identity = f"size:{size_bytes};sha256:{digest.hexdigest()}"
    if listing:
        identity += f";companions:{hashlib.sha256('|'.join(listing).encode()).hexdigest()}"
    return identity


def dicom_series(path: Path) -> bytes:
    """SeriesInstanceUID of a DICOM file in explicit little-endian, as slides are; else empty."""
    with path.open("rb") as file:
        return series_in(file.read(DICOM_HEAD_BYTES))


def series_in(head: bytes) -> bytes:
    """As `dicom_series`, of the first `DICOM_HEAD_BYTES` of a file."""
    at = head.find(b"\x20\x00\x0e\x00UI")
    if head[128:132] != b"DICM" or at < 0:
        return b""
    length = int.from_bytes(head[at + 6 : at + 8], "little")
    return head[at + 8 : at + 8 + length].rstrip(b"\0 ")
