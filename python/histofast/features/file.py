"""Features, coordinates and their origin in, whole and checksummed HDF5 files out, and back again.

A feature file is whole or absent: rows go to a hidden temporary file beside the final place, which
is synced and renamed only when every promised row has come. The file carries

- `sha256`: of the stored bytes of the features in row order, then of the coordinates,
- `identity`: canonical JSON of everything that made it, and `identity_sha256`,
- a seal: the last 72 bytes, after the end of the HDF5 file proper, with a sha256 of all the rest.
  It is looked at first: HDF5 itself checks no metadata and may hang on a flipped bit.

Three layouts, of which neighbouring tools read one each; ours is in all of them:

| layout | features | coords | beside it |
|---|---|---|---|
| trident | `features` float32 or float16 | `coords` int64, level-0 px | |
| clam | `features` float32 | `coords` int32, level-0 px | `../pt_files/<slide>.pt`, float32 |
| stamp | `feats` float16 | `coords` float32, um | |
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import struct
import sys
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import filelock
import h5py
import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast.errors import FeatureError, NoSpaceError

if sys.platform != "win32":
    import fcntl

Layout = Literal["trident", "clam", "stamp"]
Value = str | int | float | bool

# Attributes about the file itself, not about its patches.
_OF_FILE = {"identity", "identity_sha256", "sha256"}
# Mark, offset and length of the features, length of the HDF5 file, sha256 of it without features.
_SEAL = struct.Struct("<16sQQQ32s")
_SEAL_MARK = b"histofast-seal-1"
_CHUNK_BYTES = 16 << 20
_PT_AROUND_BYTES = 4096  # more than a .pt file holds besides the numbers
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_METADATA_BYTES = 16384  # of HDF5, beside the arrays and the identity; more than it takes
# What h5py raises on files whose inner structure is damaged.
_DAMAGED = (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, AttributeError)
_TEMPORARY_NAME = re.compile(r"\..+\.(h5|pt)\.\d+\.[0-9a-f]{8}\.tmp")
_HDF5_OPTIONS: dict[str, Any] = {
    # Pinned so that equal input gives equal bytes whatever the HDF5 release prefers.
    "libver": ("earliest", "v110"),
    # A whole file never changes, and network file systems often refuse HDF5's own locks.
    "locking": False,
    "alignment_threshold": 4096,
    "alignment_interval": 4096,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Storage:
    """How a layout names and types its datasets; the first feature dtype is the default."""

    features: str
    feature_dtypes: tuple[str, ...]
    coords_dtype: str


_STORAGE: Mapping[str, _Storage] = {
    "trident": _Storage(
        features="features", feature_dtypes=("float32", "float16"), coords_dtype="<i8"
    ),
    "clam": _Storage(features="features", feature_dtypes=("float32",), coords_dtype="<i4"),
    "stamp": _Storage(features="feats", feature_dtypes=("float16",), coords_dtype="<f4"),
}


def feature_path(
    out: Path | str,
    *,
    mpp: float | None,
    patch_px: int,
    overlap_px: int,
    encoder: str,
    slide: str,
    layout: Layout = "trident",
) -> Path:
    """Return where the feature file of one slide and encoder belongs.

    Args:
        out: folder of all feature files.
        mpp: um per patch pixel; None for ready-made patches of unknown scale.
        patch_px: side of a patch.
        overlap_px: overlap of neighbouring patches.
        encoder: name of the encoder.
        slide: name of the slide.
        layout: the layout decides the folder, so that two layouts never meet in one.

    Returns:
        `<out>/<10 / mpp>x_<patch>px_<overlap>px_overlap/features_<encoder>/<slide>.h5`;
        `clam_<encoder>/h5_files/` and `stamp_<encoder>/` for the other layouts.

    Raises:
        ValueError: a name that is no file name, or an unknown layout.

    Example:
        >>> feature_path("f", mpp=0.5, patch_px=256, overlap_px=0, encoder="uni", slide="a").as_posix()
        'f/20x_256px_0px_overlap/features_uni/a.h5'
    """
    _check_layout(layout)
    for argument, name in (("encoder", encoder), ("slide", slide)):
        if not name or name.startswith(".") or re.search(r"[/\\\0]", name):
            raise ValueError(f"{argument} must be usable as a file name, got {name!r}")
    scale = "" if mpp is None else f"{10 / mpp:g}x_"
    folder = Path(out) / f"{scale}{patch_px}px_{overlap_px}px_overlap"
    kind = "features" if layout == "trident" else layout
    inner = "h5_files" if layout == "clam" else ""
    return folder / f"{kind}_{encoder}" / inner / f"{slide}.h5"


def pt_path(path: Path | str) -> Path:
    """Return the place of the `.pt` file that belongs to a feature file of layout clam."""
    path = Path(path)
    return path.parent.parent / "pt_files" / f"{path.stem}.pt"


class SlideLock:
    """Keeps two processes from making one feature file at the same time.

    The lock is the operating system's: when its owner dies, however it dies, the lock is free. Lock
    files are empty, lie in `<folder>/.locks` and stay there: removing one that somebody is about to
    take would let two owners in.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, SlideLock(f"{folder}/a.h5") as held:
        ...     held
        True
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        self.path = path.parent / ".locks" / f"{path.name}.lock"
        # One object may be taken in the thread that plans and given back in the one that writes.
        self._lock = filelock.FileLock(self.path, thread_local=False)

    def acquire(self) -> bool:
        """Take the lock if it is free, without waiting; whether it is now held.

        Raises:
            FeatureError: the folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            return False
        except OSError as error:
            raise _write_error(self.path, error) from error
        return True

    def release(self) -> None:
        """Give the lock back; safe when it is not held."""
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class _Temporary:
    """A hidden file beside `final`, locked while its owner lives, that becomes `final` or nothing."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final
        self._is_ours = False
        final.parent.mkdir(parents=True, exist_ok=True)
        while True:
            name = f".{final.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
            self.path = final.with_name(name)
            self._is_ours = True  # before it is there: a signal may come right after its making
            self.raw = open(self.path, "x+b", buffering=0)  # noqa: PTH123, SIM115
            # A sweeper may have come between creation and lock; it would have left no name.
            if _try_lock(self.raw.fileno()) and os.fstat(self.raw.fileno()).st_nlink > 0:
                return
            self.raw.close()

    def reserve(self) -> None:
        """Make the file system promise the space of the file as long as it is now."""
        self._allocate(0, os.fstat(self.raw.fileno()).st_size)

    def make_sure_of(self, more_bytes: int) -> None:
        """Raise OSError if the disk has no room for so much more; HDF5 would crash when it writes."""
        size = os.fstat(self.raw.fileno()).st_size
        try:
            self._allocate(size, more_bytes)
        finally:
            os.ftruncate(self.raw.fileno(), size)

    def _allocate(self, start: int, length: int) -> None:
        if not hasattr(os, "posix_fallocate") or length == 0:
            return
        try:
            os.posix_fallocate(self.raw.fileno(), start, length)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:  # reserving is optional
                raise

    def write(self, offset: int, data: NDArray[Any]) -> None:
        """Write the bytes of `data` at `offset`; all of them, or OSError."""
        view = data.data.cast("B") if data.size else memoryview(b"")
        self.raw.seek(offset)
        while view:
            view = view[self.raw.write(view) :]

    def sync(self) -> None:
        """Wait until the file's bytes are on the disk."""
        os.fsync(self.raw.fileno())

    def keep(self) -> None:
        """Give the file its final name, for good."""
        if sys.platform == "win32":
            self.raw.close()
        self.path.replace(self.final)
        self._is_ours = False
        self.raw.close()
        if sys.platform != "win32":
            folder = os.open(self.final.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def discard(self) -> None:
        """Remove the file."""
        if hasattr(self, "raw"):  # else it was interrupted before it was there
            self.raw.close()
        self.path.unlink(missing_ok=True)
        self._is_ours = False

    def __del__(self) -> None:
        # A signal may come between its making and the moment that somebody is there to remove it.
        if self._is_ours:
            with suppress(OSError):
                self.discard()


class _FollowingHash:
    """sha256 of a file that is being written, computed behind the writer in a thread.

    It reads what was written (from the page cache), so it needs no copy of the writer's arrays, and
    it goes on while the writer waits for the disk.
    """

    def __init__(self, path: Path, offset: int) -> None:
        self._sha256 = hashlib.sha256()
        self._file = path.open("rb", buffering=0)
        self._file.seek(offset)
        self._buffer = memoryview(bytearray(1 << 20))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="histofast-sha256")
        self._running: deque[Future[None]] = deque()

    def follow(self, count: int) -> None:
        """Hash the next `count` bytes, which are in the file by now."""
        while self._running and self._running[0].done():
            self._running.popleft().result()
        self._running.append(self._thread.submit(self._read, count))

    def _read(self, count: int) -> None:
        while count:
            got = self._file.readinto(self._buffer[:count])
            if not got:
                raise OSError(errno.EIO, "file ended early")
            self._sha256.update(self._buffer[:got])
            count -= got

    def hexdigest(self, last: NDArray[Any]) -> str:
        """Return the checksum of all that was followed and the bytes of `last`."""
        while self._running:
            self._running.popleft().result()
        self._sha256.update(last.data)
        return self._sha256.hexdigest()

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._file.close()


def _try_lock(descriptor: int) -> bool:
    """Lock an open file for this process without waiting; whether it is held now."""
    if sys.platform == "win32":
        return True  # an open file cannot be removed there: no lock needed
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            return False
        raise
    return True


def remove_stale_temporaries(folder: Path | str) -> list[Path]:
    """Remove what killed writers left in `folder` and below; those at work are not touched.

    Args:
        folder: where feature files are; may be missing.

    Returns:
        The files removed, sorted.
    """
    removed = []
    for path in sorted(Path(folder).rglob(".*.tmp")):
        if not _TEMPORARY_NAME.fullmatch(path.name):
            continue
        # The sweep is optional. Open for writing: network file systems lock no other file.
        with suppress(OSError), path.open("r+b") as file:
            if _try_lock(file.fileno()):
                path.unlink()
                removed.append(path)
    return removed


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
            `patch_size_level0`, `overlap` (px), `level0_magnification`, `target_magnification`,
            `level0_width`, `level0_height`, `mpp`, `level0_mpp`, `encoder`, and any other. Layout
            stamp needs `patch_size`, `mpp`, `level0_mpp` and `encoder`.
        tissue_fraction: (n,) float32, share of tissue in each patch.
        dtype: "float32" or "float16"; the layout's own when None.
        layout: see the module.

    Raises:
        TypeError, ValueError: arguments that do not agree with each other or the layout.
        FeatureError: the file cannot be created, or the disk has no room for all of it.

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
        dtype: Literal["float32", "float16"] | None = None,
        layout: Layout = "trident",
    ) -> None:
        self.path = Path(path)
        (self.n,) = check("coords", coords, "int64", ("n", 2))
        if d < 1:
            raise ValueError(f"d must be at least 1, got {d}")
        self.d = d
        if tissue_fraction is not None:
            check("tissue_fraction", tissue_fraction, "float32", (self.n,))
        _check_layout(layout)
        self._layout = layout
        self._storage = _STORAGE[layout]
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
        self._tissue_fraction = tissue_fraction
        self._rows = 0
        self._hasher: _FollowingHash | None = None
        self._temporary: _Temporary | None = None
        self._needs_bytes = self.n * (d * self.dtype.itemsize + 24) + _METADATA_BYTES
        try:
            with self._write_errors():
                self._temporary = _Temporary(self.path)
                self._temporary.make_sure_of(self.n * 24 + len(self._identity) + _METADATA_BYTES)
                self._stored_coords, self._offset = self._create(coords)
                self._temporary.reserve()
                self._hasher = _FollowingHash(self._temporary.path, self._offset)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Turn failures to write, h5py's included, into one clear line."""
        try:
            yield
        except (OSError, RuntimeError) as error:  # h5py reports a failed flush as RuntimeError
            raise _write_error(self.path, error, needs_bytes=self._needs_bytes) from error

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
            file.attrs["identity_sha256"] = _sha256_of(self._identity)
        return stored, offset or 0

    def append(self, features: NDArray[np.floating[Any]]) -> None:
        """Write the next rows.

        Args:
            features: (k, d) float32, or float16 if the file is; float32 is rounded to the file's
                dtype.

        Raises:
            TypeError: another dtype.
            ValueError: another shape, or more rows than coordinates.
            FeatureError: a row is not finite, or does not fit float16; the disk is full.
        """
        temporary, hasher = self._open()
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
            hasher.follow(features.nbytes)
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
    ) -> str:
        """Close the file and give it its name.

        Args:
            unreadable: (k, 4) int64, regions that could not be decoded: level-0 x, y, width, height.
            unreadable_patches: (m,) int64, rows of the patches that show such a region, in white.

        Returns:
            sha256 of features and coordinates, hexadecimal.

        Raises:
            TypeError, ValueError: malformed regions, or fewer rows than coordinates.
            FeatureError: the file cannot be completed.
        """
        temporary, hasher = self._open()
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
            sha256 = hasher.hexdigest(self._stored_coords)
            regions_bytes = unreadable.nbytes + unreadable_patches.nbytes
            temporary.make_sure_of(regions_bytes + _METADATA_BYTES)
            with h5py.File(temporary.path, "r+", **_HDF5_OPTIONS) as file:
                regions = file.create_dataset("unreadable", data=unreadable.astype("<i8"))
                regions.attrs["count"] = len(unreadable)
                file.create_dataset("unreadable_patches", data=unreadable_patches.astype("<i8"))
                file.attrs["sha256"] = sha256
            self._seal(temporary)
            temporary.sync()
            if self._layout == "clam":
                self._write_pt(temporary.path)
            hasher.close()  # Windows renames no open file
            temporary.keep()
        self._temporary = None
        return sha256

    def _seal(self, temporary: _Temporary) -> None:
        length = temporary.raw.seek(0, os.SEEK_END)
        features_bytes = self.n * self.d * self.dtype.itemsize
        digest = _sha256_around(temporary.raw, self._offset, features_bytes, length)
        seal = _SEAL.pack(_SEAL_MARK, self._offset, features_bytes, length, digest)
        temporary.write(length, np.frombuffer(seal, np.uint8))

    def _write_pt(self, path: Path) -> None:
        """Write the tensor file that CLAM reads; first, so that the .h5 means both are there."""
        features = np.zeros((0, self.d), self.dtype)
        if self.n:
            features = np.memmap(path, self.dtype, "r", self._offset, (self.n, self.d))
        pt = _Temporary(pt_path(self.path))
        try:
            _write_torch_tensor(pt.raw, features)
            pt.sync()
            pt.keep()
        except BaseException:
            pt.discard()
            raise

    def _open(self) -> tuple[_Temporary, _FollowingHash]:
        if self._temporary is None or self._hasher is None:
            raise ValueError(f"writer of {self.path.name} must be open, got a closed one")
        return self._temporary, self._hasher

    def close(self) -> None:
        """Remove what was written so far; nothing after `finish()`. Safe to call twice."""
        if self._hasher is not None:
            self._hasher.close()
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


def _check_layout(layout: str) -> None:
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")


def _write_error(
    path: Path, error: BaseException, *, needs_bytes: int | None = None
) -> FeatureError:
    """Say in one line why `path` cannot be written."""
    text = str(error)
    code = getattr(error, "errno", None)
    inner = re.search(r"errno = (\d+)", text)  # HDF5 hides it in the text
    if inner:
        code = int(inner[1])
    if code in _NO_SPACE:
        needs = "" if needs_bytes is None else f" needs {needs_bytes / 1e6:.1f} MB"
        return NoSpaceError(
            f"no space left on {path.parent}: {path.name}{needs}; free some or choose another folder"
        )
    reason = os.strerror(code) if code else text
    return FeatureError(f"cannot write {path}: {reason}")


def _canonical_json(value: Mapping[str, Any]) -> str:
    """The one JSON text of a value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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


def _write_torch_tensor(file: Any, features: NDArray[np.float32]) -> None:
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

    rows = max(1, _CHUNK_BYTES // (4 * d))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(entry("data.pkl"), pickled)
        archive.writestr(entry("byteorder"), "little")
        with archive.open(entry("data/0"), "w", force_zip64=True) as data:
            for start in range(0, n, rows):
                data.write(features[start : start + rows].data)
        archive.writestr(entry("version"), "3\n")


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
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
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
    if path.is_file() and _is_seal_whole(path) is False:
        raise FeatureError(f"{path} must be as it was written, got one changed or damaged since")
    with _open_h5(path) as file:
        try:
            dataset = _features_of(file)
            features = _squeeze(_map(path, dataset) if mmap else dataset[()])
            if features.ndim != 2:
                raise FeatureError(
                    f"features of {path} must be of shape (n, d), got {features.shape}"
                )
            attributes = _read_attributes(file)
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
        except _DAMAGED as error:
            raise FeatureError(f"{path} must be a whole feature file, got {error}") from error


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
        is_complete: whether what belongs beside it is there: in layout clam a `.pt` file of its
            size, elsewhere nothing.
    """

    identity: dict[str, Any]
    unreadable: int
    damaged_patches: int
    is_complete: bool


def read_summary(path: Path | str) -> FeatureSummary | None:
    """As `read_identity`, with what the file says besides."""
    path = Path(path)
    try:
        if not _is_seal_whole(path):
            return None
        with h5py.File(path, "r", locking=False) as file:
            features_bytes = _features_of(file).nbytes
            return FeatureSummary(
                identity=json.loads(file.attrs["identity"]),
                unreadable=int(file["unreadable"].attrs["count"]),
                damaged_patches=len(file["unreadable_patches"]),
                is_complete=file.attrs["layout"] != "clam" or _has_pt(path, features_bytes),
            )
    except (*_DAMAGED, FeatureError):
        return None


def _has_pt(path: Path, features_bytes: int) -> bool:
    try:
        around_bytes = pt_path(path).stat().st_size - features_bytes
    except OSError:
        return False
    return 0 < around_bytes < _PT_AROUND_BYTES


def _sha256_around(file: Any, offset: int, skipped: int, length: int) -> bytes:
    """sha256 of the first `length` bytes of a file, without the `skipped` ones at `offset`."""
    sha256 = hashlib.sha256()
    for start, stop in ((0, offset), (offset + skipped, length)):
        file.seek(start)
        for position in range(start, stop, _CHUNK_BYTES):
            sha256.update(file.read(min(_CHUNK_BYTES, stop - position)))
    return sha256.digest()


def _is_seal_whole(path: Path) -> bool | None:
    """Whether all but the features is as it was written; None for a file without a seal."""
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


def _open_h5(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"no such feature file: {path}") from None
    except OSError as error:
        got = "none at all"
        if path.is_file() and h5py.is_hdf5(path):
            got = f"a truncated or damaged one of {path.stat().st_size} bytes"
        raise FeatureError(f"{path} must be a whole HDF5 file, got {got}") from error


def _features_of(file: h5py.File) -> h5py.Dataset:
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


def _read_attributes(file: h5py.File) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for group in (_features_of(file), file.get("coords"), file):
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


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What `verify_folder` found.

    Attributes:
        files: number of files looked at.
        patches: rows in those without a problem.
        problems: by file, in order of their paths; only files that have some.
    """

    files: int
    patches: int
    problems: Mapping[Path, list[str]]

    @property
    def is_whole(self) -> bool:
        """Whether no file has a problem."""
        return not self.problems


def verify(path: Path | str, *, encoders_sha256: Mapping[str, str] | None = None) -> list[str]:
    """Return what is wrong with a feature file, one line each; nothing means it is whole.

    Whole: it opens, its datasets agree in length, every number is finite, everything has the
    checksum it had when written, and identity and attributes agree.

    Args:
        path: the file.
        encoders_sha256: sha256 of the encoder files to be had, by name; a file made by an encoder
            of one of these names must have been made by that very file.
    """
    return _verify(Path(path), encoders_sha256 or {})[0]


def verify_folder(
    paths: Iterable[Path | str], *, encoders_sha256: Mapping[str, str] | None = None
) -> VerifyReport:
    """Verify feature files, and all `.h5` files in folders and below them.

    Args:
        paths: files and folders.
        encoders_sha256: see `verify`.

    Raises:
        FileNotFoundError: one of `paths` is missing.
    """
    given = [Path(path) for path in paths]
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            files += sorted(p for p in path.rglob("*.h5") if not p.name.startswith("."))
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"no such feature file or folder: {path}")
    files = list(dict.fromkeys(files))
    expected = dict(encoders_sha256 or {})
    problems: dict[Path, list[str]] = {}
    patches = 0
    unused = set(expected)
    for path in files:
        found, n = _verify(path, expected)
        if found:
            problems[path] = found
        else:
            patches += n
        if unused:
            encoder = (read_identity(path) or {}).get("encoder")
            unused.discard(encoder.get("name") if isinstance(encoder, dict) else encoder)
    # Nothing was compared with these: silence would pass for agreement.
    for name in sorted(unused):
        problems.setdefault(given[0], []).append(f"no file made by an encoder named {name}")
    return VerifyReport(files=len(files), patches=patches, problems=problems)


def _verify(path: Path, encoders_sha256: Mapping[str, str]) -> tuple[list[str], int]:
    try:
        sealed = _is_seal_whole(path)
        if sealed is False:
            return ["changed or damaged since it was written, outside the features"], 0
        with _open_h5(path) as file:
            dataset = _features_of(file)
            if sealed is None:
                return ["no seal: not written by histofast, or changed since"], 0
            if dataset.ndim != 2 or file["coords"].shape != (dataset.shape[0], 2):
                return [f"features {dataset.shape} and coords {file['coords'].shape} disagree"], 0
            problems = _verify_numbers(file, dataset)
            problems += _verify_origin(file, dataset, encoders_sha256)
            return problems, dataset.shape[0]
    except FileNotFoundError:
        return [f"no such feature file: {path}"], 0
    except FeatureError as error:
        return [str(error)], 0
    except _DAMAGED as error:
        return [f"damaged: {error}"], 0


def _verify_numbers(file: h5py.File, dataset: h5py.Dataset) -> list[str]:
    """Everything that needs the features, in one pass over them."""
    problems = []
    n, d = dataset.shape
    sha256 = hashlib.sha256()
    first_bad: int | None = None
    rows = max(1, _CHUNK_BYTES // (dataset.dtype.itemsize * max(1, d)))
    pt = None
    if file.attrs.get("layout") == "clam":
        pt = _PtReader(pt_path(file.filename))
        problems += pt.problems
    for start in range(0, n, rows):
        chunk = dataset[start : start + rows]
        sha256.update(chunk.data)
        if pt is not None:
            pt.compare(chunk)
        if first_bad is None:
            bad = ~np.isfinite(chunk).all(axis=1)
            first_bad = start + int(bad.argmax()) if bad.any() else None
    if pt is not None:
        problems += pt.close()
    sha256.update(file["coords"][()].data)
    if first_bad is not None:
        problems.append(f"features are not finite, first in row {first_bad}")
    if sha256.hexdigest() != file.attrs["sha256"]:
        problems.append("features or coords do not have the checksum the file states")
    if "tissue_fraction" in file and file["tissue_fraction"].shape != (n,):
        problems.append(f"tissue_fraction {file['tissue_fraction'].shape} does not fit {n} patches")
    return problems


class _PtReader:
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


def _verify_origin(
    file: h5py.File, dataset: h5py.Dataset, encoders_sha256: Mapping[str, str]
) -> list[str]:
    """Is the file made by what it says?"""
    text = file.attrs["identity"]
    if _sha256_of(text) != file.attrs["identity_sha256"]:
        return ["the identity does not have the hash the file states"]
    identity = json.loads(text)
    attributes = _read_attributes(file)
    attributes.update(d=dataset.shape[1], n=dataset.shape[0], dtype=dataset.dtype.name)
    # The encoder and the slide both have a name in the identity.
    problems = [
        f"{key} is {attributes[key]!r}, but the identity says {value!r}"
        for key, value in _leaves(identity)
        if key in attributes and key != "name" and not _same(attributes[key], value)
    ]
    encoder = identity.get("encoder")
    if isinstance(encoder, Mapping):
        name, sha256 = encoder.get("name"), encoder.get("sha256")
        stated = attributes.get("encoder", name)
        if stated != name:
            problems.append(f"encoder is {stated!r}, but the identity says {name!r}")
        wanted = encoders_sha256.get(str(name), sha256)
        if wanted != sha256:
            problems.append(
                f"made by another file of encoder {name}: sha256 {str(sha256)[:12]} instead of "
                f"{str(wanted)[:12]}"
            )
    return problems


def _leaves(value: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    """Names and values at any depth; checksums have their own names and are left out."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner)
        elif isinstance(inner, str | int | float) and not key.endswith("sha256"):
            yield key, inner


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return str(one) == str(other)
    return bool(one == other)
