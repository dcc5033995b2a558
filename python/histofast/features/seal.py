"""The seal of a feature file: its last 72 bytes, after the end of the HDF5 file proper.

It holds a sha256 of all the rest but the features, and is looked at first: HDF5 itself checks no
metadata and may hang on a flipped bit.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from histofast._files import Temporary, regular_file
from histofast._words import one_line
from histofast.errors import FeatureError

# Mark, offset and length of the features, length of the HDF5 file, sha256 of it without features.
_SEAL = struct.Struct("<16sQQQ32s")
_SEAL_MARK = b"histofast-seal-1"
CHUNK_BYTES = 16 << 20


def _sha256_around(file: Any, offset: int, skipped: int, length: int) -> bytes:
    """sha256 of the first `length` bytes of a file, without the `skipped` ones at `offset`."""
    sha256 = hashlib.sha256()
    for start, stop in ((0, offset), (offset + skipped, length)):
        file.seek(start)
        for position in range(start, stop, CHUNK_BYTES):
            sha256.update(file.read(min(CHUNK_BYTES, stop - position)))
    return sha256.digest()


def seal(temporary: Temporary, offset: int, features_bytes: int) -> None:
    """Seal a file that is complete but for this; its features begin at `offset`."""
    length = temporary.raw.seek(0, os.SEEK_END)
    digest = _sha256_around(temporary.raw, offset, features_bytes, length)
    sealed = _SEAL.pack(_SEAL_MARK, offset, features_bytes, length, digest)
    temporary.write(length, np.frombuffer(sealed, np.uint8))


def is_seal_whole(path: Path) -> bool | None:
    """Whether all but the features is as it was written; None for a file without a seal.

    Raises:
        FileNotFoundError: there is no such file.
        FeatureError: it is no file, or cannot be read.
    """
    regular_file(path, kind="feature file", error=FeatureError)
    try:
        return _is_whole(path)
    except OSError as error:
        raise FeatureError(f"cannot read {path}: {one_line(error.strerror)}") from error


def _is_whole(path: Path) -> bool | None:
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END) - _SEAL.size
        if length < 0:
            return None
        file.seek(length)
        mark, offset, skipped, sealed_length, digest = _SEAL.unpack(file.read(_SEAL.size))
        if mark != _SEAL_MARK:
            return None
        if sealed_length != length or offset + skipped > length:
            return False
        whole: bool = _sha256_around(file, offset, skipped, length) == digest
        return whole
