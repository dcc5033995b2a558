"""Rows of features in, one whole feature file out.

Rows go to a hidden temporary file beside the final place, which is synced and renamed only when every
promised row has come.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._files import Temporary, path_of, replacing, write_error
from histofast._numbers import whole_number
from histofast.errors import FeatureError
from histofast.features.layouts import STORAGE, Layout, check_layout, pt_path
from histofast.features.seal import seal
from histofast.features.selection import SelectedRows, write_selection
from histofast.features.tensors import write_tensor

Value = str | int | float | bool
_METADATA_BYTES = 16384  # of HDF5, beside the arrays and the identity; more than it takes
_HDF5_OPTIONS: dict[str, Any] = {
    # Pinned so that equal input gives equal bytes whatever the HDF5 release prefers.
    "libver": ("earliest", "v110"),
    # A whole file never changes, and network file systems often refuse HDF5's own locks.
    "locking": False,
    "alignment_threshold": 4096,
    "alignment_interval": 4096,
}


class FeatureWriter:
    """Writes one feature file, row by row, in memory that does not grow with it.

    A context manager: leaving it without `finish()`, by an exception or not, leaves no file. A
    killed process leaves a hidden `.tmp` file that `remove_stale_temporaries` finds.

    Args:
        path: final place, see `feature_path`; replaced if it is there.
        coords: (n, 2) int64, level-0 (x, y) of the top-left corner of each patch.
        d: features per patch.
        identity: what makes the file what it is (slide, encoder, tiling, version); JSON values.
            Resuming compares it. Where it repeats an attribute's name, at any depth, `verify`
            wants both to agree.
        attributes: of the coordinates, as the field names them: `name`, `patch_size` (px),
            `patch_size_level0` (`patch_size_level0_exact` where that is nominal), `overlap` (px), `level0_magnification`, `target_magnification`,
            `level0_width`, `level0_height`, `mpp`, `level0_mpp`, `encoder`, `encoder_licence`, and any other. Layout
            stamp needs `patch_size`, `mpp`, `level0_mpp` and `encoder`.
        tissue_fraction: (n,) float32, share of tissue in each patch.
        files, labels: (n) names of patch images and what they show, or ().
        selection: which of the slide's patches these are; None: all of them.
        dtype: "float32" or "float16"; the layout's own when None.
        layout: see `layouts`.

    Raises:
        TypeError, ValueError: arguments that do not agree with each other or the layout.
        WriteError: the file cannot be created, or the disk has no room for all of it.

    Determinism: equal arguments and features give equal bytes with one h5py release.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        coords: NDArray[np.int64],
        d: int,
        identity: Mapping[str, Any],
        attributes: Mapping[str, Value],
        tissue_fraction: NDArray[np.float32] | None = None,
        files: Sequence[str] = (),
        labels: Sequence[str] = (),
        selection: SelectedRows | None = None,
        dtype: Literal["float32", "float16"] | None = None,
        layout: Layout = "trident",
    ) -> None:
        self.path = path_of("path", path)
        (self.n,) = check("coords", coords, "int64", ("n", 2))
        self.d = whole_number("d", d, at_least=1)
        if tissue_fraction is not None:
            check("tissue_fraction", tissue_fraction, "float32", (self.n,))
        if selection is not None:
            selection.check(self.n)
        check_layout(layout)
        self._layout = layout
        self._storage = STORAGE[layout]
        name = dtype or self._storage.feature_dtypes[0]
        if name not in self._storage.feature_dtypes:
            wanted = " or ".join(self._storage.feature_dtypes)
            raise ValueError(f"dtype must be {wanted} for layout {layout}, got {name}")
        self.dtype = np.dtype(name).newbyteorder("<")
        self._attributes = _plain_attributes(attributes)
        if layout == "stamp":
            for key in ("patch_size", "mpp", "level0_mpp", "encoder"):
                if key not in self._attributes:
                    raise ValueError(f"attributes must have {key!r} for layout stamp, got none")
        self._identity = _canonical_json(identity)
        self._tissue_fraction, self._selection = tissue_fraction, selection
        self._texts = {
            name: _texts(name, texts, n=self.n)
            for name, texts in (("files", files), ("labels", labels))
            if texts
        }
        self._rows = 0
        self._sha256 = hashlib.sha256()
        self._temporary: Temporary | None = None
        beside_bytes = self.n * (24 if selection is None else 49)
        beside_bytes += sum(texts.nbytes for texts in self._texts.values())
        self._needs_bytes = self.n * self.d * self.dtype.itemsize + beside_bytes + _METADATA_BYTES
        try:
            with self._write_errors():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._temporary = Temporary(self.path)
                self._temporary.make_sure_of_length(self._needs_bytes + len(self._identity))
                self._temporary.make_sure_of(beside_bytes + len(self._identity) + _METADATA_BYTES)
                self._stored_coords, self._offset = self._create(coords)
                self._temporary.reserve()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Turn failures to write, h5py's included, into one clear line."""
        try:
            yield
        except (OSError, RuntimeError) as error:  # h5py reports a failed flush as RuntimeError
            raise write_error(self.path, error, needs_bytes=self._needs_bytes) from error

    def _create(self, coords: NDArray[np.int64]) -> tuple[NDArray[Any], int]:
        """Lay the file out; return the coordinates as stored and where the features go."""
        assert self._temporary is not None
        with h5py.File(self._temporary.path, "w", **_HDF5_OPTIONS) as file:
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            # Space now, contents later and not through HDF5: the rows are one plain run of bytes.
            properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            properties.set_obj_track_times(False)  # or the bytes depend on the second
            features = h5py.Dataset(
                h5py.h5d.create(
                    file.id,
                    self._storage.features.encode(),
                    h5py.h5t.py_create(self.dtype),
                    h5py.h5s.create_simple((self.n, self.d)),
                    properties,
                )
            )
            offset = features.id.get_offset()
            stored = np.ascontiguousarray(coords, self._storage.coords_dtype)
            if self._layout == "stamp":
                level0_mpp = float(self._attributes["level0_mpp"])
                stored = (coords * level0_mpp).astype(self._storage.coords_dtype)
            dataset = file.create_dataset("coords", data=stored)
            dataset.attrs.update(self._attributes)
            if self._tissue_fraction is not None:
                file.create_dataset("tissue_fraction", data=self._tissue_fraction.astype("<f4"))
            if self._selection is not None:
                write_selection(file, self._selection)
            for name, texts in self._texts.items():
                kind = h5py.string_dtype("utf-8", texts.dtype.itemsize)
                file.create_dataset(name, data=texts.astype(kind))
            if "encoder" in self._attributes:
                features.attrs["encoder"] = self._attributes["encoder"]
            if self._layout == "stamp":
                patch_px = self._attributes["patch_size"]
                file.attrs["unit"] = "um"
                file.attrs["tile_size_um"] = float(patch_px) * float(self._attributes["mpp"])
                file.attrs["tile_size_px"] = patch_px
                file.attrs["extractor"] = self._attributes["encoder"]
                file.attrs["feat_type"] = "tile"
            file.attrs["layout"] = self._layout
            file.attrs["identity"] = self._identity
            file.attrs["identity_sha256"] = hashlib.sha256(self._identity.encode()).hexdigest()
        return stored, offset or 0

    def append(self, features: NDArray[np.floating[Any]]) -> None:
        """Write the next rows.

        Args:
            features: (k, d) float32, or float16 if the file is; float32 is rounded to the file's
                dtype.

        Raises:
            TypeError: another dtype.
            ValueError: another shape, or more rows than coordinates.
            FeatureError: a row is not finite, or does not fit float16.
            WriteError: it cannot be written; the disk is full.
        """
        temporary = self._open()
        half = self.dtype.itemsize == 2 and getattr(features, "dtype", None) == np.float16
        (k,) = check("features", features, "float16" if half else "float32", ("k", self.d))
        if self._rows + k > self.n:
            raise ValueError(
                f"features must have {self.n} rows in all, as many as coords, "
                f"got {self._rows + k} or more"
            )
        self._refuse_infinite(features, "finite")
        if features.dtype != self.dtype:
            with np.errstate(over="ignore"):
                features = features.astype(self.dtype)
            self._refuse_infinite(features, "small enough for float16")
        with self._write_errors():
            temporary.write(self._offset + self._rows * self.d * self.dtype.itemsize, features)
        self._sha256.update(features.data)
        self._rows += k

    def _refuse_infinite(self, features: NDArray[Any], wanted: str) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            # One pass: NaN and infinity survive any sum. A sum that overflows is looked at below.
            if np.isfinite(features.sum(dtype=np.float32)):
                return
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if bad.size:
            raise FeatureError(
                f"features of {self.path.name} must be {wanted}, got NaN or infinity in "
                f"{bad.size} of {len(features)} rows, first in row {self._rows + bad[0]}"
            )

    def finish(
        self,
        *,
        unreadable: NDArray[np.int64] | None = None,
        unreadable_patches: NDArray[np.int64] | None = None,
        seen: str = "",
    ) -> str:
        """Close the file and give it its name.

        Args:
            unreadable: (k, 4) int64, regions that could not be decoded: level-0 x, y, width, height.
            unreadable_patches: (m,) int64, rows of the patches that show such a region, in white.
            seen: what the slide's file looked like, to know a repaired one; kept with regions only,
                for files without any depend on the content of the slide alone.

        Returns:
            sha256 of features and coordinates, hexadecimal.

        Raises:
            TypeError, ValueError: malformed regions, or fewer rows than coordinates.
            WriteError: the file cannot be completed.
        """
        temporary = self._open()
        if self._rows != self.n:
            raise ValueError(
                f"features must have {self.n} rows in all, as many as coords, got {self._rows}"
            )
        if unreadable is None:
            unreadable = np.zeros((0, 4), np.int64)
        if unreadable_patches is None:
            unreadable_patches = np.zeros(0, np.int64)
        check("unreadable", unreadable, "int64", ("k", 4))
        check("unreadable_patches", unreadable_patches, "int64", ("m",))
        outside = (unreadable_patches < 0) | (unreadable_patches >= self.n)
        if outside.any():
            raise ValueError(
                f"unreadable_patches must be rows 0..{self.n - 1}, "
                f"got {unreadable_patches[outside][0]}"
            )
        with self._write_errors():
            temporary.sync()  # the features; what follows is small
            self._sha256.update(self._stored_coords.data)
            sha256 = self._sha256.hexdigest()
            regions_bytes = unreadable.nbytes + unreadable_patches.nbytes
            temporary.make_sure_of(regions_bytes + _METADATA_BYTES)
            with h5py.File(temporary.path, "r+", **_HDF5_OPTIONS) as file:
                regions = file.create_dataset("unreadable", data=unreadable.astype("<i8"))
                regions.attrs["count"] = len(unreadable)
                if len(unreadable):
                    regions.attrs["seen"] = seen
                file.create_dataset("unreadable_patches", data=unreadable_patches.astype("<i8"))
                file.attrs["sha256"] = sha256
            seal(temporary, self._offset, self.n * self.d * self.dtype.itemsize)
            temporary.sync()
            if self._layout == "clam":
                self._write_pt(temporary)
            temporary.keep()
        self._temporary = None
        return sha256

    def _write_pt(self, temporary: Temporary) -> None:
        """Write the tensor file that CLAM reads; first, so that the .h5 means both are there."""
        place = pt_path(self.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        features_bytes = self.n * self.d * self.dtype.itemsize
        with replacing(place, overwrite=True) as pending, pending.open("wb") as file:
            chunks = temporary.read(self._offset, features_bytes)
            write_tensor(file, chunks, shape=(self.n, self.d))

    def _open(self) -> Temporary:
        if self._temporary is None:
            raise ValueError(f"writer of {self.path.name} must be open, got a closed one")
        return self._temporary

    def close(self) -> None:
        """Remove what was written so far; nothing after `finish()`. Safe to call twice."""
        if self._temporary is not None:
            self._temporary.discard()
            self._temporary = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        unfinished = self._temporary is not None
        self.close()
        if unfinished and exc_type is None:
            raise ValueError(f"writer of {self.path.name} must be finished, got no finish()")


def _texts(name: str, texts: Sequence[str], *, n: int) -> NDArray[np.bytes_]:
    """Texts as HDF5 stores them: UTF-8 of one length, for others lie in heaps."""
    if len(texts) != n:
        raise ValueError(f"{name} must be {n}, one per patch, got {len(texts)}")
    return np.array([text.encode() for text in texts] or [b""], np.bytes_)[:n]


def _canonical_json(value: Mapping[str, Any]) -> str:
    """The one JSON text of a value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain_attributes(attributes: Mapping[str, Any]) -> dict[str, Value]:
    plain: dict[str, Value] = {}
    for key in sorted(attributes):
        value = attributes[key]
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(value, str | int | float):
            raise TypeError(
                f"attributes[{key!r}] must be a string or a number, got {type(value).__name__}"
            )
        plain[key] = value
    return plain
