"""An HDF5 file in, those of its datasets and attributes out that can be read without harm.

HDF5 believes what a file says: it follows links to other files, makes room for any shape, and may loop
for ever over damaged metadata, holding Python's lock. So nothing is touched that nobody asked for, all
that is read lies in the file itself, and no more is read than a file of its size can hold.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from histofast._files import refuse_stand_in, regular_file
from histofast._words import clipped, listed, one_line
from histofast.errors import FeatureError

# What h5py raises on files whose inner structure is damaged.
_DAMAGED = (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, AttributeError)
_OF_FILE = {"identity", "identity_sha256", "sha256"}
# The numbers of other tools' files that something here asks for.
_NUMBERS = (
    *("patch_size", "patch_size_level0", "patch_size_level0_exact", "overlap", "mpp", "level0_mpp"),
    "coords_known",
    *("level0_magnification", "target_magnification", "level0_width", "level0_height"),
    *("patch_level", "level", "downsample", "tile_size_um", "tile_size_px"),
)
_TEXTS = ("unit", "feat_type")
_OF_WHOLE = ("slide", "patient")  # STAMP's word for features of no patches
_TEXT_BYTES = 256
# A compressed dataset may be so much, or this many times its file, and no more.
_MOST_BYTES, _MOST_TIMES = 256 << 20, 100
_DEFLATE_TIMES = 1032  # no more comes out of a deflated byte
_CHECKSUM_BYTES = 4  # of fletcher32, where it was put in first
_CHUNK_PLACE_BYTES = 8  # of a chunk in its index, at the least
_SHOWN = 200  # characters of what HDF5 says
_SCAN_BYTES = 16 << 20
_HEAP_OBJECT_BYTES = 16  # at the least, free space too
_HEAP = b"GCOL\x01\x00\x00\x00"


@contextmanager
def reading(path: Path, *, kind: str = "feature file") -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; what HDF5 stumbles over inside is one line.

    `kind` is what messages call it.

    Raises:
        FileNotFoundError: there is no such file.
        FeatureError: it is no file, no whole HDF5 file, or a damaged one.
    """
    regular_file(path, kind=kind, error=FeatureError)
    try:
        file = h5py.File(path, "r", locking=False)
    except _DAMAGED as error:
        refuse_stand_in(path, error=FeatureError)
        got = "none at all"
        if h5py.is_hdf5(path):
            got = f"a truncated or damaged one of {path.stat().st_size} bytes"
        raise FeatureError(f"{path} must be a whole HDF5 file, got {got}") from error
    try:
        with file:
            yield file
    except _DAMAGED as error:
        why = clipped(one_line(error), _SHOWN)
        raise FeatureError(f"{path} must be a whole {kind}, got {why}") from error


def features_of(file: h5py.File) -> h5py.Dataset:
    """Return the features of a file; (1, n, d) where the writer kept the batch axis of the slide.

    Raises:
        FeatureError: there are none, or such as are not read here.
    """
    for name in ("features", "feats"):
        dataset = dataset_of(file, name, kinds="f")
        if dataset is None:
            continue
        if dataset.ndim != 2 and not (dataset.ndim == 3 and dataset.shape[0] == 1):
            raise FeatureError(
                f"features of {file.filename} must be of shape (n, d), got {dataset.shape}"
            )
        return dataset
    some = [repr(one_line(name)) for name in itertools.islice(file, 4)]
    raise FeatureError(
        f"{file.filename} must have a dataset 'features' or 'feats', got {listed(some) or 'none'}"
    )


def holds_features(path: Path) -> bool:
    """Whether an HDF5 file may be one of patch features, or is none for a reason that its reader tells.

    False for what other tools write beside them: coordinates of patches, and features of whole slides.
    """
    try:
        with reading(path) as file:
            found = [name for name in ("features", "feats") if file.id.links.exists(name.encode())]
            if found:
                dataset = dataset_of(file, found[0], kinds="f")
                is_of_whole = known_attributes(file).get("feat_type") in _OF_WHOLE
                return dataset is None or not (is_of_whole or dataset.ndim == 1)
            return dataset_of(file, "coords", kinds="iuf") is None
    except (FileNotFoundError, FeatureError):
        return True


def states_origin(file: h5py.File) -> bool:
    """Whether a file says of itself what only ours do."""
    return any(h5py.h5a.exists(file.id, name.encode()) for name in _OF_FILE)


def dataset_of(file: h5py.File, name: str, *, kinds: str) -> h5py.Dataset | None:
    """Return a dataset that lies in the file and fits into it; None where there is none.

    Args:
        file: the open file.
        name: of the dataset.
        kinds: of numbers that it may hold, as NumPy's `dtype.kind` names them.

    Raises:
        FeatureError: it lies elsewhere, is bigger than the file can hold, or holds something else.
    """
    links, key = file.id.links, name.encode()
    if not links.exists(key):
        return None
    if links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise FeatureError(f"{name} of {file.filename} must lie in the file itself, got a link")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        return None
    check_dataset(file, name, dataset, kinds=kinds)
    return dataset


def check_dataset(file: h5py.File, name: str, dataset: h5py.Dataset, *, kinds: str) -> None:
    """Refuse a dataset that does not lie in the file, or is more than fits into it; see `dataset_of`."""
    made = dataset.id.get_create_plist()
    is_virtual = made.get_layout() == h5py.h5d.VIRTUAL
    if is_virtual or made.get_external_count():
        got = "a virtual dataset" if is_virtual else "external storage"
        raise FeatureError(f"{name} of {file.filename} must lie in the file itself, got {got}")
    if dataset.dtype.kind not in kinds or dataset.dtype.itemsize > 8 or dataset.shape is None:
        wanted = "floating point numbers" if kinds == "f" else "numbers"
        raise FeatureError(f"{name} of {file.filename} must be {wanted}, got {dataset.dtype}")
    _refuse_oversized(file, name, dataset)
    if made.get_nfilters():
        _refuse_bombs(file, name, dataset)


def _refuse_oversized(file: h5py.File, name: str, dataset: h5py.Dataset) -> None:
    file_bytes = Path(file.filename).stat().st_size
    most, what = file_bytes, f"{dataset.nbytes} bytes of shape {dataset.shape}"
    wanted = dataset.nbytes
    if dataset.chunks is not None:
        most = max(_MOST_BYTES, _MOST_TIMES * file_bytes)
        counts = [
            -(-side // chunk) for side, chunk in zip(dataset.shape, dataset.chunks, strict=True)
        ]
        chunk_bytes = int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize
        if chunk_bytes > wanted:
            wanted, what = chunk_bytes, f"chunks of {chunk_bytes} bytes"
        if int(np.prod(counts, dtype=object)) * _CHUNK_PLACE_BYTES > file_bytes:
            wanted, what = most + 1, f"{int(np.prod(counts, dtype=object))} chunks"
    if wanted > most:
        raise FeatureError(
            f"{name} of {file.filename} must fit into its {file_bytes} bytes, got {what}"
        )


def _refuse_bombs(file: h5py.File, name: str, dataset: h5py.Dataset) -> None:
    """Refuse deflated chunks that hold more than a chunk: HDF5 makes room for all that comes out."""
    harmless = _MOST_BYTES // _DEFLATE_TIMES
    codes = dataset.id.get_create_plist()
    is_deflated = any(
        codes.get_filter(number)[0] == h5py.h5z.FILTER_DEFLATE
        for number in range(codes.get_nfilters())
    )
    file_bytes = Path(file.filename).stat().st_size
    if not is_deflated or file_bytes <= harmless:
        return
    if not hasattr(dataset.id, "chunk_iter"):  # HDF5 before 1.12.3
        return
    chunk_bytes = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize
    large: list[h5py.h5d.StoreInfo] = []

    def look(chunk: h5py.h5d.StoreInfo) -> None:
        if chunk.size > harmless:
            large.append(chunk)

    dataset.id.chunk_iter(look)
    for chunk in large:
        if chunk.size > file_bytes:
            raise FeatureError(
                f"{name} of {file.filename} must fit into its {file_bytes} bytes, got a chunk of "
                f"{chunk.size}"
            )
        _, stored = dataset.id.read_direct_chunk(chunk.chunk_offset)
        if _is_longer(stored, chunk_bytes + _CHECKSUM_BYTES):
            raise FeatureError(
                f"{name} of {file.filename} must have chunks of {chunk_bytes} bytes, got more in one"
            )


def _is_longer(deflated: bytes, most: int) -> bool:
    """Whether more than `most` bytes come out, without room for them."""
    stream, found = zlib.decompressobj(), 0
    try:
        while deflated and not stream.eof and found <= most:
            found += len(stream.decompress(deflated, _SCAN_BYTES))
            deflated = stream.unconsumed_tail
    except zlib.error:
        return False  # HDF5 meets it as well
    return found > most


def all_attributes(*groups: Any) -> dict[str, Any]:
    """Return the attributes of a file of ours and of its datasets, but for those about the file itself.

    Args:
        groups: features, coordinates if there are any (else None), file: the later ones win.
    """
    attributes: dict[str, Any] = {}
    for group in filter(None, groups):
        for key, value in group.attrs.items():
            if key in _OF_FILE:
                continue
            if isinstance(value, bytes):
                value = value.decode()
            attributes[key] = value.item() if isinstance(value, np.generic) else value
    return attributes


def known_attributes(*groups: Any) -> dict[str, Any]:
    """As `all_attributes`, of another tool's file: those that something here asks for."""
    attributes: dict[str, Any] = {}
    for group in filter(None, groups):
        for key in _NUMBERS + _TEXTS:
            if key in group.attrs:
                value = _plain(group.file, group.attrs.get_id(key), is_text=key in _TEXTS)
                if value is not None:
                    attributes[key] = value
    return attributes


def _plain(file: h5py.File, attribute: h5py.h5a.AttrID, *, is_text: bool) -> Any:
    """The one number or short text of an attribute; None where it is anything else."""
    if is_text:
        if attribute.dtype.kind == "O":
            refuse_looping_heaps(Path(file.filename))
        return short_text(attribute)
    dtype = attribute.dtype
    if attribute.shape not in ((), (1,)) or dtype.kind not in "iufb" or dtype.itemsize > 8:
        return None
    value = np.empty(attribute.shape, dtype)
    attribute.read(value)
    return value.reshape(()).item()


def short_text(attribute: h5py.h5a.AttrID) -> str | None:
    """The one short text of an attribute of a file without looping heaps; None if it is anything else."""
    dtype = attribute.dtype
    is_short = dtype.kind == "S" and dtype.itemsize <= _TEXT_BYTES
    is_any = dtype.kind == "O" and h5py.check_string_dtype(dtype) is not None
    if attribute.shape not in ((), (1,)) or not (is_short or is_any):
        return None
    value = np.empty(attribute.shape, dtype)
    attribute.read(value)
    plain = value.reshape(()).item()
    return plain.decode() if isinstance(plain, bytes) else str(plain)


def refuse_looping_heaps(path: Path, *, kind: str = "feature file") -> None:
    """Refuse a file with a heap of texts in which free space of no bytes is followed by itself.

    HDF5 steps from object to object of a heap by their sizes, the damaged ones too.
    """
    with path.open("rb") as file:
        start, before = 0, b""
        while block := file.read(_SCAN_BYTES):
            window = before + block
            at = window.find(_HEAP)
            while at >= 0:
                _refuse_looping_heap(path, start + at, kind=kind)
                at = window.find(_HEAP, at + 1)
            before = window[-len(_HEAP) + 1 :]
            start += len(window) - len(before)


def _refuse_looping_heap(path: Path, offset: int, *, kind: str) -> None:
    with path.open("rb") as file:
        file.seek(offset + 8)
        (size,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        at, end = offset + 16, offset + size
        while at + _HEAP_OBJECT_BYTES <= end:
            file.seek(at)
            header = file.read(_HEAP_OBJECT_BYTES)
            if len(header) < _HEAP_OBJECT_BYTES:
                return  # HDF5 sees the end of the file as well
            index, object_bytes = struct.unpack("<H6xQ", header)
            step = object_bytes if index == 0 else 16 + (object_bytes + 7) // 8 * 8
            if step < _HEAP_OBJECT_BYTES:
                raise FeatureError(f"{path} must be a whole {kind}, got a damaged heap of texts")
            at += step
