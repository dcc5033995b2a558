"""The tensor file beside a feature file of layout clam, as `torch.save` writes it."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.features.layouts import pt_path
from histofast.features.seal import CHUNK_BYTES

_PT_AROUND_BYTES = 4096  # more than a .pt file holds besides the numbers


def write_tensor(file: Any, features: NDArray[np.float32]) -> None:
    """Write features as `torch.save(tensor)` does: a zip of a pickle and the plain numbers."""

    def number(value: int) -> bytes:
        digits = value.to_bytes(9, "little", signed=True)
        return b"\x8a" + struct.pack("<B", len(digits)) + digits  # LONG1

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()  # BINUNICODE

    n, d = features.shape
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += number(n * d) + b"tQ"  # tuple, looked up by torch
    size = b"(" + number(n) + number(d) + b"t"
    stride = b"(" + number(d) + number(1) + b"t"
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = b"(" + storage + number(0) + size + stride + b"\x89" + hooks + b"t"
    pickled = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R."

    def entry(name: str) -> zipfile.ZipInfo:
        return zipfile.ZipInfo(f"archive/{name}", date_time=(1980, 1, 1, 0, 0, 0))

    rows = max(1, CHUNK_BYTES // (4 * d))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(entry("data.pkl"), pickled)
        archive.writestr(entry("byteorder"), "little")
        with archive.open(entry("data/0"), "w", force_zip64=True) as data:
            for start in range(0, n, rows):
                data.write(features[start : start + rows].data)
        archive.writestr(entry("version"), "3\n")


def has_tensor(path: Path, features_bytes: int) -> bool:
    try:
        around_bytes = pt_path(path).stat().st_size - features_bytes
    except OSError:
        return False
    return 0 < around_bytes < _PT_AROUND_BYTES


class TensorReader:
    """Compares the tensor file beside a feature file of layout clam with its features."""

    def __init__(self, path: Path) -> None:
        self.problems: list[str] = []
        self._archive: zipfile.ZipFile | None = None
        try:
            self._archive = zipfile.ZipFile(path)
            self._data = self._archive.open("archive/data/0")
        except (OSError, KeyError, zipfile.BadZipFile):
            self.problems.append(f"no whole {path.name} beside it")
        self._differs = False

    def compare(self, features: NDArray[Any]) -> None:
        if self.problems or self._differs:
            return
        try:
            self._differs = self._data.read(features.nbytes) != features.tobytes()
        except (OSError, zipfile.BadZipFile):
            self._differs = True

    def close(self) -> list[str]:
        if self._archive is not None:
            if not self.problems:
                with self._data:
                    self._differs = self._differs or bool(self._data.read(1))
            self._archive.close()
        return ["the .pt file beside it holds other features"] if self._differs else []
