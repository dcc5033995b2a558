"""An HDF5 file of another tool in, its arrays by their paths out, in memory that the file accounts for.

The guards are those of `opening`: nothing outside the file, no links, no room before the claims are held
against the file's size. What a file holds twice, or within itself, is refused.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from histofast._words import listed
from histofast.errors import FeatureError
from histofast.features.opening import (
    check_dataset,
    reading,
    refuse_looping_heaps,
    short_text,
)

_MOST_PARTS = 100_000  # groups and datasets
_DEEPEST = 16  # groups within groups
# All arrays together may be so much, or this many times the file: trained numbers hardly compress.
_MOST_BYTES, _MOST_TIMES = 256 << 20, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignArrays:
    """What `read_arrays` found: floating point arrays, and the names that groups give themselves.

    Both by the path within the file, such as `layers/conv2d/vars/0`.
    """

    arrays: dict[str, NDArray[Any]]
    names: dict[str, str]


def read_arrays(path: Path, *, kind: str, left: Collection[str] = ()) -> ForeignArrays:
    """Read all floating point arrays of an HDF5 file.

    Args:
        path: of the file.
        kind: what to call it in messages, e.g. "weights file".
        left: groups at the top of the file that are not looked into.

    Raises:
        FileNotFoundError: there is no such file.
        FeatureError: no whole HDF5 file; one with links, with groups within themselves, or with more
            than it can hold.
    """
    with reading(path, kind=kind) as file:
        refuse_looping_heaps(path, kind=kind)
        walk = _Walk(file, left={name.encode() for name in left})
        walk.into(file.id, (), 0)
        arrays = {name: np.asarray(dataset[()]) for name, dataset in walk.datasets.items()}
        return ForeignArrays(arrays=arrays, names=walk.names)


class _Walk:
    """From group to group; datasets are checked, and not read."""

    def __init__(self, file: h5py.File, *, left: Collection[bytes]) -> None:
        self._file, self._left = file, left
        self._file_bytes = Path(file.filename).stat().st_size
        self._seen = {h5py.h5o.get_info(file.id).addr}
        self._parts = self._bytes = 0
        self.datasets: dict[str, h5py.Dataset] = {}
        self.names: dict[str, str] = {}

    def into(self, group: h5py.h5g.GroupID, above: tuple[str, ...], depth: int) -> None:
        if depth > _DEEPEST:
            self._refuse(above, f"groups within groups, over {_DEEPEST} deep")
        found: list[tuple[bytes, bool]] = []

        def note(
            name: bytes, info: h5py.h5l.LinkInfo
        ) -> bool | None:  # h5py dies of what it raises
            found.append((name, info.type == h5py.h5l.TYPE_HARD))
            return True if self._parts + len(found) > _MOST_PARTS else None

        group.links.iterate(note, info=True)
        self._parts += len(found)
        if self._parts > _MOST_PARTS:
            self._refuse(above, f"over {_MOST_PARTS:,} parts")
        for name, is_hard in found:
            path = (*above, name.decode(errors="replace"))
            if not is_hard:
                self._refuse(path, "a link")
            if depth or name not in self._left:
                self._take(group, name, path, depth)

    def _take(
        self, group: h5py.h5g.GroupID, name: bytes, path: tuple[str, ...], depth: int
    ) -> None:
        part = h5py.h5o.open(group, name)
        address = h5py.h5o.get_info(part).addr
        if address in self._seen:
            self._refuse(path, "what it holds elsewhere as well")
        self._seen.add(address)
        if isinstance(part, h5py.h5g.GroupID):
            if h5py.h5a.exists(part, b"name"):
                text = short_text(h5py.h5a.open(part, b"name"))
                if text is not None:
                    self.names["/".join(path)] = text
            self.into(part, path, depth + 1)
        elif isinstance(part, h5py.h5d.DatasetID):
            dataset = h5py.Dataset(part)
            if dataset.dtype.kind != "f" or dataset.shape is None:
                return
            check_dataset(self._file, "/".join(path), dataset, kinds="f")
            self._bytes += dataset.nbytes
            if self._bytes > max(_MOST_BYTES, _MOST_TIMES * self._file_bytes):
                self._refuse((), f"arrays of {self._bytes} bytes and more")
            self.datasets["/".join(path)] = dataset

    def _refuse(self, path: tuple[str, ...], got: str) -> None:
        where = f"{listed(['/'.join(path)])} of " if path else ""
        raise FeatureError(
            f"{where}{self._file.filename} must lie in its {self._file_bytes} bytes once, got {got}"
        )
