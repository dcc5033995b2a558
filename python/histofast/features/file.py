"""Feature files in, what they hold out: ours in any layout, those of TRIDENT, CLAM and STAMP, plain arrays.

A file of ours carries

- `sha256`: of the stored bytes of the features in row order, then of the coordinates,
- `identity`: canonical JSON of everything that made it, and `identity_sha256`,
- a seal over all the rest, see `seal`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from histofast._files import path_of
from histofast._numbers import whole_number
from histofast.errors import FeatureError
from histofast.features.opening import (
    all_attributes,
    dataset_of,
    features_of,
    known_attributes,
    reading,
)
from histofast.features.plain import is_plain, map_plain
from histofast.features.seal import CHUNK_BYTES, is_seal_whole
from histofast.features.selection import SelectedRows, read_selection
from histofast.features.tensors import has_tensor

_FAR_L0 = 2**40  # no slide is as wide


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeatureFile:
    """What a feature file holds.

    Attributes:
        path: the file.
        features: (n, d) float32 or float16; a read-only map of the file if so asked.
        coords: (n, 2) int64 level-0 (x, y), or None where the file does not tell.
        attributes: of the file and of its coordinates, by name: all of ours, and those of other
            tools' files that something here asks for.
        tissue_fraction: (n,) float32, or None.
        files, labels: (n) names of patch images and what they show; () where there are none.
        selection: which of the slide's patches these are; None: all, or the file does not tell.
        unreadable: (k, 4) int64 level-0 x, y, width, height of what could not be decoded.
        unreadable_patches: (m,) int64 rows of the patches that show some of it, in white.
        identity: what made the file; None if histofast did not write it.
        sha256: of features and coordinates; None if histofast did not write it.
    """

    path: Path
    features: NDArray[Any]
    coords: NDArray[np.int64] | None
    attributes: Mapping[str, Any]
    tissue_fraction: NDArray[np.float32] | None
    unreadable: NDArray[np.int64]
    unreadable_patches: NDArray[np.int64]
    identity: Mapping[str, Any] | None
    sha256: str | None
    files: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    selection: SelectedRows | None = None

    @property
    def patch_l0(self) -> int | None:
        """Side of a patch in level-0 pixels, as it was cut; None where the file does not tell."""
        told = self.attributes.get(
            "patch_size_level0_exact", self.attributes.get("patch_size_level0")
        )
        return None if told is None else int(told)

    def iter_chunks(self, rows: int = 4096) -> Iterator[NDArray[Any]]:
        """Yield (<= rows, d) views of the features, in order."""
        rows = whole_number("rows", rows, at_least=1)
        for start in range(0, len(self.features), rows):
            yield self.features[start : start + rows]


def read_features(path: Path | str, *, mmap: bool = False) -> FeatureFile:
    """Read a feature file: ours in any layout, those of TRIDENT, CLAM and STAMP, and plain arrays.

    Args:
        path: an `.h5` file; or CLAM's `.pt` or an `.npy` file, which hold features and nothing else.
        mmap: map the features instead of reading them; they must be contiguous, as ours are.

    Returns:
        The file's contents; the features are not verified, see `verify`.

    Raises:
        FileNotFoundError: there is no such file.
        FeatureError: it is no whole file of these kinds, holds no features, was changed (ours only, and
            outside the features), or cannot be mapped.
    """
    path = path_of("path", path)
    if is_plain(path):
        return _read_plain(path, mmap=mmap)
    is_ours = _refuse_changed(path)
    with reading(path) as file:
        dataset = features_of(file)
        features = _squeeze(_map(path, dataset) if mmap else dataset[()])
        coords = dataset_of(file, "coords", kinds="iuf")
        attributes = (all_attributes if is_ours else known_attributes)(dataset, coords, file)
        unreadable = _read_or_none(file, "unreadable", (-1, 4), kinds="i")
        unreadable_patches = _read_or_none(file, "unreadable_patches", (-1,), kinds="i")
        return FeatureFile(
            path=path,
            features=features,
            coords=None if coords is None else stored_coords(coords, len(features), attributes),
            attributes=attributes,
            tissue_fraction=_read_or_none(file, "tissue_fraction", (len(features),), kinds="f"),
            unreadable=np.zeros((0, 4), np.int64) if unreadable is None else unreadable,
            unreadable_patches=(
                np.zeros(0, np.int64) if unreadable_patches is None else unreadable_patches
            ),
            identity=json.loads(file.attrs["identity"]) if is_ours else None,
            sha256=file.attrs["sha256"] if is_ours else None,
            files=_texts(file, "files") if is_ours else (),
            labels=_texts(file, "labels") if is_ours else (),
            selection=read_selection(file) if is_ours else None,
        )


def _read_plain(path: Path, *, mmap: bool) -> FeatureFile:
    mapped = map_plain(path)
    if mmap and mapped.size and not isinstance(mapped, np.memmap):
        raise FeatureError(
            f"features of {path} must lie row by row to be mapped: read them without mmap"
        )
    return FeatureFile(
        path=path,
        features=_squeeze(mapped if mmap else np.array(mapped)),
        coords=None,
        attributes={},
        tissue_fraction=None,
        unreadable=np.zeros((0, 4), np.int64),
        unreadable_patches=np.zeros(0, np.int64),
        identity=None,
        sha256=None,
    )


def open_features(path: Path | str) -> FeatureFile:
    """Map a feature file, or read it where it is not one plain run of numbers.

    Raises:
        FileNotFoundError, FeatureError: as `read_features`.
    """
    try:
        return read_features(path, mmap=True)
    except FeatureError:
        return read_features(path, mmap=False)


def content_sha256(path: Path | str) -> str:
    """Return the sha256 of the stored bytes of the features in row order, then of the coordinates.

    A file of ours states it, and is believed when its seal is whole; others are read and hashed.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        FeatureError: it is no whole feature file.
    """
    path = path_of("path", path)
    digest = hashlib.sha256()
    if is_plain(path):
        for chunk in _chunks(open_features(path).features):
            digest.update(chunk.data)
        return digest.hexdigest()
    is_ours = _refuse_changed(path)
    with reading(path) as file:
        if is_ours:
            return str(file.attrs["sha256"])
        for array in (features_of(file), dataset_of(file, "coords", kinds="iuf")):
            for chunk in () if array is None else _chunks(array):
                digest.update(chunk.data)
        return digest.hexdigest()


def read_identity(path: Path | str) -> dict[str, Any] | None:
    """Return what made a feature file, or None for whatever is not one whole file of ours.

    Reads everything but the features, a few kB and the coordinates: a truncated file is told by its
    length, a changed one by its seal. For the features themselves there is `verify`.
    """
    summary = read_summary(path)
    return None if summary is None else summary.identity


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSummary:
    """What a feature file says of itself.

    Attributes:
        identity: what made it.
        unreadable: number of regions that could not be decoded.
        damaged_patches: number of patches that show one.
        seen: what the slide's file looked like when they were met; "" where there are none.
        empty: why there is no patch; "" where there are some, or nobody has said.
        is_complete: whether what belongs beside it is there: in layout clam a `.pt` file that is
            whole but for its numbers, elsewhere nothing.
    """

    identity: dict[str, Any]
    unreadable: int
    damaged_patches: int
    seen: str
    empty: str
    is_complete: bool


def read_summary(path: Path | str) -> FeatureSummary | None:
    """As `read_identity`, with what the file says besides."""
    path = path_of("path", path)
    try:
        if not is_seal_whole(path):
            return None
        with reading(path) as file:
            n, d = features_of(file).shape
            return FeatureSummary(
                identity=json.loads(file.attrs["identity"]),
                unreadable=int(file["unreadable"].attrs["count"]),
                damaged_patches=len(file["unreadable_patches"]),
                seen=str(file["unreadable"].attrs.get("seen", "")),
                empty=str(file["coords"].attrs.get("empty", "")),
                is_complete=file.attrs["layout"] != "clam" or has_tensor(path, (n, d)),
            )
    except (OSError, FeatureError):
        return None


def _refuse_changed(path: Path) -> bool:
    """Whether a file has a seal; refuse one that does not fit its file."""
    seal = is_seal_whole(path)
    if seal is False:
        raise FeatureError(f"{path} must be as it was written, got one changed or damaged since")
    return bool(seal)


def _chunks(array: h5py.Dataset | NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield some rows of a dataset or an array at a time."""
    rows = max(1, CHUNK_BYTES * len(array) // max(1, array.nbytes))
    if (stored := getattr(array, "chunks", None)) is not None:  # none is inflated twice
        rows = -(-rows // stored[0]) * stored[0]
    for start in range(0, len(array), rows):
        yield np.ascontiguousarray(array[start : start + rows])


def _squeeze(array: NDArray[Any]) -> NDArray[Any]:
    """(1, n, d) -> (n, d): some writers keep the batch axis of the slide."""
    return array[0] if array.ndim == 3 and len(array) == 1 else array


def _map(path: Path, dataset: h5py.Dataset) -> NDArray[Any]:
    if dataset.size == 0:
        return np.zeros(dataset.shape, dataset.dtype)
    offset = dataset.id.get_offset()
    if offset is None:
        raise FeatureError(
            f"features of {path} must be contiguous to be mapped, got chunks of {dataset.chunks}: "
            "read them without mmap"
        )
    return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)


def stored_coords(
    dataset: h5py.Dataset, n: int, attributes: Mapping[str, Any]
) -> NDArray[np.int64] | None:
    """Return (n, 2) level-0 pixels; None of um whose scale is not told.

    Raises:
        FeatureError: another shape, NaN or numbers that no slide has.
    """
    path = dataset.file.filename
    coords: NDArray[Any] = _squeeze(dataset[()])
    if coords.shape != (n, 2):
        raise FeatureError(f"coords of {path} must be of shape {(n, 2)}, got {coords.shape}")
    if attributes.get("unit") == "um":
        level0_mpp = attributes.get("level0_mpp")
        if not isinstance(level0_mpp, int | float) or not level0_mpp > 0:
            return None
        coords = coords.astype(np.float64) / level0_mpp
    if coords.dtype.kind == "f":
        coords = np.rint(coords)
    with np.errstate(invalid="ignore"):
        is_far = not (np.abs(coords) < _FAR_L0).all()  # NaN as well
    if is_far:
        raise FeatureError(f"coords of {path} must be pixels of a slide, got NaN or huge ones")
    return coords.astype(np.int64)


def _texts(file: h5py.File, name: str) -> tuple[str, ...]:
    """The texts of a file of ours that is as it was written."""
    return tuple(file[name].asstr()[()].tolist()) if name in file else ()


def _read_or_none(file: h5py.File, name: str, shape: tuple[int, ...], kinds: str) -> Any:
    """A dataset of ours whose first side is any where `shape` says -1."""
    dataset = dataset_of(file, name, kinds=kinds)
    if dataset is None:
        return None
    if len(dataset.shape) != len(shape) or any(
        wanted not in (-1, got) for wanted, got in zip(shape, dataset.shape, strict=True)
    ):
        raise FeatureError(
            f"{name} of {file.filename} must be of shape {shape}, got {dataset.shape}"
        )
    return dataset[()]
