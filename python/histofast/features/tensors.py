"""The tensor file beside a feature file of layout clam, byte for byte as `torch.save` reads it.

A zip of four uncompressed members: a pickle that names the shape, the byte order, the plain numbers
and a version. All but the numbers follows from their shape and checksum, so a file is as it was
written or it is not: `torch.load` of older versions runs whatever a pickle says.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from histofast._files import regular_file
from histofast.errors import FeatureError
from histofast.features.layouts import pt_path

_ZIP64_LIMIT = (1 << 31) - 1  # sizes and offsets beyond have fields of their own
_DAY = 1 << 5 | 1  # 1 January 1980
_MODE, _UNIX, _MEMBERS = 0o600 << 16, 3 << 8, 4
_IN_EXTRA = 0xFFFFFFFF
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_CRC_AT = 14  # in a local header


def write_tensor(file: Any, chunks: Iterable[bytes], *, shape: tuple[int, int]) -> None:
    """Write the file of a float32 tensor, whose bytes come in chunks; `file` can seek."""
    head, _ = _around(shape, 0)
    file.write(head)
    crc = 0
    for chunk in chunks:
        crc = zlib.crc32(chunk, crc)
        file.write(chunk)
    head, tail = _around(shape, crc)
    file.write(tail)
    file.seek(0)
    file.write(head)


def has_tensor(path: Path, shape: tuple[int, int]) -> bool:
    """Whether the tensor file of a feature file is there, whole but for what its numbers are."""
    head, tail = _around(shape, 0)
    try:
        with regular_file(pt_path(path), kind="tensor file").open("rb") as file:
            found = file.read(len(head))
            file.seek(4 * shape[0] * shape[1], os.SEEK_CUR)
            found_tail = file.read(len(tail) + 1)
    except (OSError, ValueError):
        return False
    is_long_enough = len(found) == len(head)
    return is_long_enough and (found, found_tail) == _around(shape, _crc_of(found))


class TensorReader:
    """Compares the tensor file beside a feature file of layout clam with its features."""

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self._name, self._shape = path.name, shape
        self._crc = 0
        self._problem = ""
        self._file: Any = None
        try:
            self._file = regular_file(path, kind="tensor file", error=FeatureError).open("rb")
            self._head = self._file.read(len(_around(shape, 0)[0]))
        except (OSError, FeatureError):
            self._problem = f"no whole {path.name} beside it"

    def compare(self, features: NDArray[Any]) -> None:
        """Hold the next rows against the file's."""
        if self._problem:
            return
        ours = np.ascontiguousarray(features, "<f4").tobytes()
        self._crc = zlib.crc32(ours, self._crc)
        try:
            theirs = self._file.read(len(ours))
        except OSError:
            theirs = b""
        if len(theirs) < len(ours):
            self._problem = f"no whole {self._name} beside it"
        elif theirs != ours:
            self._problem = "the .pt file beside it holds other features"

    def close(self) -> list[str]:
        """Return what is wrong with it, in a line; nothing when it is as it was written."""
        if self._file is not None:
            with self._file:
                if not self._problem:
                    head, tail = _around(self._shape, self._crc)
                    if self._head != head or self._file.read(len(tail) + 1) != tail:
                        self._problem = "the .pt file beside it was changed: do not load it"
        return [self._problem] if self._problem else []


# --- the bytes of the archive ---------------------------------------------------------------------


class _Member(NamedTuple):
    name: bytes
    size: int
    crc: int
    is_long: bool = False  # with room for any size, needed or not


def _around(shape: tuple[int, int], crc: int) -> tuple[bytes, bytes]:
    """All bytes of the file before and behind the numbers, of that checksum."""
    head = directory = b""
    for name, content in ((b"data.pkl", _pickled(*shape)), (b"byteorder", b"little")):
        member = _Member(b"archive/" + name, len(content), zlib.crc32(content))
        directory += _central(member, len(head))
        head += _local(member) + content
    numbers = _Member(b"archive/data/0", 4 * shape[0] * shape[1], crc, is_long=True)
    directory += _central(numbers, len(head))
    head += _local(numbers)
    offset = len(head) + numbers.size
    version = b"3\n"
    member = _Member(b"archive/version", len(version), zlib.crc32(version))
    directory += _central(member, offset)
    tail = _local(member) + version
    return head, tail + directory + _end(len(directory), offset + len(tail))


def _crc_of(head: bytes) -> int:
    """The checksum of the numbers that the bytes before them state."""
    local_bytes = len(_local(_Member(b"archive/data/0", 0, 0, is_long=True)))
    (crc,) = struct.unpack_from("<L", head, len(head) - local_bytes + _CRC_AT)
    return int(crc)


def _pickled(n: int, d: int) -> bytes:
    def number(value: int) -> bytes:
        digits = value.to_bytes(9, "little", signed=True)
        return b"\x8a" + struct.pack("<B", len(digits)) + digits  # LONG1

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()  # BINUNICODE

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += number(n * d) + b"tQ"  # tuple, looked up by torch
    size = b"(" + number(n) + number(d) + b"t"
    stride = b"(" + number(d) + number(1) + b"t"
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = b"(" + storage + number(0) + size + stride + b"\x89" + hooks + b"t"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R."


def _local(member: _Member) -> bytes:
    """What stands before a member."""
    name, size, crc, is_long = member
    extra = struct.pack("<2H2Q", 1, 16, size, size) if is_long else b""
    stated = _IN_EXTRA if is_long else size
    fields = (45 if is_long else 20, 0, 0, 0, _DAY, crc, stated, stated, len(name), len(extra))
    return _LOCAL.pack(b"PK\3\4", *fields) + name + extra


def _central(member: _Member, offset: int) -> bytes:
    """The directory's line of a member."""
    name, size, crc, is_long = member
    beyond = [size, size] if size > _ZIP64_LIMIT else []
    stated = _IN_EXTRA if beyond else size
    if offset > _ZIP64_LIMIT:
        beyond.append(offset)
        offset = _IN_EXTRA
    extra = struct.pack(f"<2H{len(beyond)}Q", 1, 8 * len(beyond), *beyond) if beyond else b""
    version = 45 if is_long or beyond else 20
    fields = (_UNIX | version, version, 0, 0, 0, _DAY, crc, stated, stated, len(name), len(extra))
    return _CENTRAL.pack(b"PK\1\2", *fields, 0, 0, 0, _MODE, offset) + name + extra


def _end(directory_bytes: int, offset: int) -> bytes:
    """What stands behind the directory, which begins at `offset`."""
    after = b""
    if offset > _ZIP64_LIMIT:
        counts = (_MEMBERS, _MEMBERS, directory_bytes, offset)
        after += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, *counts)
        after += struct.pack("<4sLQL", b"PK\6\7", 0, offset + directory_bytes, 1)
    last = (directory_bytes, min(offset, _IN_EXTRA), 0)
    return after + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, _MEMBERS, _MEMBERS, *last)
