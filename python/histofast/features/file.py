"""Feature files in, what they hold out: ours in any layout, and those of TRIDENT, CLAM and STAMP.

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

from histofast._numbers import whole_number
from histofast.errors import FeatureError
from histofast.features.seal import CHUNK_BYTES, is_seal_whole
from histofast.features.tensors import has_tensor

# Attributes about the file itself, not about its patches.
_OF_FILE = {"identity", "identity_sha256", "sha256"}
# What h5py raises on files whose inner structure is damaged.
DAMAGED = (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, AttributeError)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeatureFile:
    """What a feature file holds.

    Attributes:
        path: the file.
        features: (n, d) float32 or float16; a read-only map of the file if so asked.
        coords: (n, 2) int64 level-0 (x, y), or None where the file does not tell.
        attributes: of the file and of its coordinates, by name.
        tissue_fraction: (n,) float32, or None.
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

    def iter_chunks(self, rows: int = 4096) -> Iterator[NDArray[Any]]:
        """Yield (<= rows, d) views of the features, in order."""
        rows = whole_number("rows", rows, at_least=1)
        for start in range(0, len(self.features), rows):
            yield self.features[start : start + rows]


def read_features(path: Path | str, *, mmap: bool = False) -> FeatureFile:
    """Read a feature file: ours in any layout, and those of TRIDENT, CLAM and STAMP.

    Args:
        path: the `.h5` file.
        mmap: map the features instead of reading them; they must be contiguous, as ours are.

    Returns:
        The file's contents; the features are not verified, see `verify`.

    Raises:
        FileNotFoundError: there is no such file.
        FeatureError: it is no whole HDF5 file, holds no features, was changed (ours only, and
            outside the features), or cannot be mapped.
    """
    path = Path(path)
    _refuse_changed(path)
    with open_h5(path) as file:
        try:
            dataset = features_of(file)
            features = _squeeze(_map(path, dataset) if mmap else dataset[()])
            if features.ndim != 2:
                raise FeatureError(
                    f"features of {path} must be of shape (n, d), got {features.shape}"
                )
            attributes = read_attributes(file)
            identity = file.attrs.get("identity")
            return FeatureFile(
                path=path,
                features=features,
                coords=_read_coords(file, attributes),
                attributes=attributes,
                tissue_fraction=file["tissue_fraction"][()] if "tissue_fraction" in file else None,
                unreadable=_read_or_empty(file, "unreadable", (0, 4)),
                unreadable_patches=_read_or_empty(file, "unreadable_patches", (0,)),
                identity=None if identity is None else json.loads(identity),
                sha256=file.attrs.get("sha256"),
            )
        except DAMAGED as error:
            raise _damaged(path, error) from error


def content_sha256(path: Path | str) -> str:
    """Return the sha256 of the stored bytes of the features in row order, then of the coordinates.

    A file of ours states it, and is believed when its seal is whole; others are read and hashed.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        FeatureError: it is no whole feature file.
    """
    path = Path(path)
    is_sealed = _refuse_changed(path)
    with open_h5(path) as file:
        try:
            if is_sealed:
                return str(file.attrs["sha256"])
            digest = hashlib.sha256()
            for array in (features_of(file), file.get("coords")):
                for chunk in () if array is None else _chunks(array):
                    digest.update(chunk.data)
            return digest.hexdigest()
        except DAMAGED as error:
            raise _damaged(path, error) from error


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
        is_complete: whether what belongs beside it is there: in layout clam a `.pt` file that is
            whole but for its numbers, elsewhere nothing.
    """

    identity: dict[str, Any]
    unreadable: int
    damaged_patches: int
    is_complete: bool


def read_summary(path: Path | str) -> FeatureSummary | None:
    """As `read_identity`, with what the file says besides."""
    path = Path(path)
    try:
        if not is_seal_whole(path):
            return None
        with h5py.File(path, "r", locking=False) as file:
            n, d = features_of(file).shape
            return FeatureSummary(
                identity=json.loads(file.attrs["identity"]),
                unreadable=int(file["unreadable"].attrs["count"]),
                damaged_patches=len(file["unreadable_patches"]),
                is_complete=file.attrs["layout"] != "clam" or has_tensor(path, (n, d)),
            )
    except (*DAMAGED, FeatureError):
        return None


def _refuse_changed(path: Path) -> bool:
    """Whether a file has a seal; refuse one that does not fit its file."""
    seal = is_seal_whole(path) if path.is_file() else None
    if seal is False:
        raise FeatureError(f"{path} must be as it was written, got one changed or damaged since")
    return bool(seal)


def _damaged(path: Path, error: Exception) -> FeatureError:
    return FeatureError(f"{path} must be a whole feature file, got {error}")


def _chunks(dataset: h5py.Dataset) -> Iterator[NDArray[Any]]:
    """Yield some rows of a dataset at a time."""
    rows = max(1, CHUNK_BYTES * len(dataset) // max(1, dataset.nbytes))
    for start in range(0, len(dataset), rows):
        yield np.ascontiguousarray(dataset[start : start + rows])


def open_h5(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"no such feature file: {path}") from None
    except OSError as error:
        got = "none at all"
        if path.is_file() and h5py.is_hdf5(path):
            got = f"a truncated or damaged one of {path.stat().st_size} bytes"
        raise FeatureError(f"{path} must be a whole HDF5 file, got {got}") from error


def features_of(file: h5py.File) -> h5py.Dataset:
    for name in ("features", "feats"):
        if isinstance(file.get(name), h5py.Dataset):
            return file[name]
    raise FeatureError(
        f"{file.filename} must have a dataset 'features' or 'feats', "
        f"got {', '.join(map(repr, file)) or 'none'}"
    )


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


def read_attributes(file: h5py.File) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for group in (features_of(file), file.get("coords"), file):
        for key, value in () if group is None else group.attrs.items():
            if key in _OF_FILE:
                continue
            if isinstance(value, bytes):
                value = value.decode()
            attributes[key] = value.item() if isinstance(value, np.generic) else value
    return attributes


def _read_coords(file: h5py.File, attributes: Mapping[str, Any]) -> NDArray[np.int64] | None:
    if "coords" not in file:
        return None
    coords = _squeeze(file["coords"][()])
    if attributes.get("unit") == "um":
        if "level0_mpp" not in attributes:
            return None
        coords = np.rint(coords.astype(np.float64) / attributes["level0_mpp"])
    return coords.astype(np.int64)


def _read_or_empty(file: h5py.File, name: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
    array: NDArray[np.int64] = file[name][()] if name in file else np.zeros(shape, np.int64)
    return array
