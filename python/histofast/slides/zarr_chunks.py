"""The bytes of a chunk in, its samples out, by imagecodecs; no chunk takes more room than its shape asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

CHECKSUM = "crc32c"
_CHECKSUM_BYTES = 4
_BLOSC_HEADER_BYTES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Coding:
    """How the samples of a chunk became bytes.

    Attributes:
        order: its axes as they were written, the last one fastest.
        steps: what was then done to the bytes, in order: one of `COMPRESSORS`, `CHECKSUM`.
    """

    order: tuple[int, ...]
    steps: tuple[str, ...]

    @property
    def compression(self) -> str:
        """What it was compressed by."""
        return next((step for step in self.steps if step != CHECKSUM), "none")


def decoded(data: bytes, coding: Coding, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a chunk of `shape`, uint8, along its axes.

    Raises:
        ValueError: it holds more or fewer samples than that, or is damaged.
        Exception: imagecodecs' own errors.
    """
    # What follows a compressor is of no known length; before it only checksums were added.
    sizes = [math.prod(shape) + _CHECKSUM_BYTES * i for i in range(len(coding.steps))]
    content: bytes | NDArray[np.uint8] = data
    for step, most in zip(reversed(coding.steps), reversed(sizes), strict=True):
        content = _checked(content) if step == CHECKSUM else _expanded(step, content, most)
    if len(content) != math.prod(shape):
        raise ValueError(f"it holds {len(content):,} samples, not {math.prod(shape):,}")
    samples = np.frombuffer(content, np.uint8)
    written = samples.reshape([shape[axis] for axis in coding.order])
    return written.transpose(np.argsort(coding.order))


def _expanded(step: str, data: bytes | NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    if step == "blosc":
        _refuse_blosc(bytes(data[:_BLOSC_HEADER_BYTES]), len(data), size)
    out = np.empty(size, np.uint8)
    found: NDArray[np.uint8] = COMPRESSORS[step](data, out=out)
    if len(found) != size:
        raise ValueError(f"it holds {len(found):,} bytes, not {size:,}")
    return found


def _refuse_blosc(header: bytes, stored: int, size: int) -> None:
    """Refuse what claims other lengths than it has: its decoder believes them, and reads as far."""
    claims = [int.from_bytes(header[at : at + 4], "little") for at in (4, 12)]
    if len(header) < _BLOSC_HEADER_BYTES or claims != [size, stored]:
        raise ValueError(
            f"its blosc data are of {claims[1]:,} bytes for {claims[0]:,}, not {stored:,} for {size:,}"
        )


def _checked(data: bytes | NDArray[np.uint8]) -> bytes | NDArray[np.uint8]:
    """Cut the checksum off what it is of.

    Raises:
        ValueError: it is another's.
    """
    import google_crc32c  # comes with zarr

    if len(data) < _CHECKSUM_BYTES:
        raise ValueError("it is shorter than its checksum")
    content, said = data[:-_CHECKSUM_BYTES], bytes(data[-_CHECKSUM_BYTES:])
    if google_crc32c.value(bytes(content)) != int.from_bytes(said, "little"):
        raise ValueError("its checksum is another's: it is damaged")
    return content


COMPRESSORS: dict[str, Callable[..., Any]] = {
    "blosc": partial(imagecodecs.blosc_decode, numthreads=1),
    "zstd": imagecodecs.zstd_decode,
    "gzip": imagecodecs.gzip_decode,
    "zlib": imagecodecs.zlib_decode,
    "lz4": partial(imagecodecs.lz4_decode, header=True),
    "bz2": imagecodecs.bz2_decode,
}
"""Those that chunks are read in, by their names in both formats."""
