"""A `.npy` file, or one of torch that holds a single tensor, in; its (n, d) features, mapped, out.

CLAM keeps the features of a slide as `pt_files/<slide>.pt`. Nothing of torch is needed, and nothing that
a file names is imported or called: the few instructions of its pickle are those of one tensor, or the
file is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from histofast._files import refuse_stand_in, regular_file
from histofast._words import clipped, first_line, printable
from histofast.errors import FeatureError

_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_SHOWN = 120  # characters of what a library says
PLAIN_SUFFIXES = (".pt", ".npy")
OTHER_SUFFIXES = (".npz", ".zarr", ".parquet", ".feather", ".pkl", ".pickle")  # of arrays
REMEDY = "save the features of each slide as a .npy file, with numpy.save"
_WANTED = {
    ".npy": "a NumPy file, got none",
    ".pt": "a file of torch 1.6 or newer, got none: load it and save it anew",
}
_LOCAL_BYTES = 30  # of a header in an archive, before the name
_MOST_BYTES = 1 << 14  # of a pickle of one tensor, which has some 200
_MOST_RECORDS = 64
_DTYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
}
_REBUILD, _HOOKS = ("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict")
_OF_A_TENSOR = {"PROTO", "FRAME", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE"}
_OF_A_TENSOR |= {
    "GLOBAL",
    "STACK_GLOBAL",
    "BINPERSID",
    "REDUCE",
    "STOP",
    "NONE",
    "NEWFALSE",
    "NEWTRUE",
}
_OF_A_TENSOR |= {"BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"}
_OF_A_TENSOR |= {"BINPUT", "MEMOIZE", "BINGET"}


def is_plain(path: Path) -> bool:
    """Whether a file is called or begins as `.npy` files and those of torch do.

    Raises:
        FileNotFoundError: there is no such file.
        FeatureError: it is no file, or cannot be read.
    """
    if path.suffix in OTHER_SUFFIXES and path.exists():
        raise FeatureError(f"{path} must be an .h5, .pt or .npy file: {REMEDY}")
    regular_file(path, kind="feature file", error=FeatureError)
    if path.suffix in PLAIN_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(_NPY)).startswith((_NPY, _ZIP))
    except OSError as error:
        raise FeatureError(f"cannot read {path}: {error.strerror}") from error


def map_plain(path: Path) -> NDArray[Any]:
    """Map the array of a file that `is_plain`; what does not lie row by row is read.

    Returns:
        (n, d) floating point numbers; bfloat16 as float32. (1, n, d) where the writer kept the batch
        axis of the slide.

    Raises:
        FeatureError: it is damaged, claims more than it has, or holds something else than one array
            of floating point numbers.
    """
    claim, size = _claim_of(path), path.stat().st_size
    if len(claim.shape) != 2 and not (len(claim.shape) == 3 and claim.shape[0] == 1):
        raise FeatureError(f"features of {path} must be of shape (n, d), got {claim.shape}")
    if claim.offset + claim.length * claim.dtype.itemsize > size:
        got = f"{claim.length} numbers of {claim.dtype.itemsize} bytes"
        raise FeatureError(f"features of {path} must fit into its {size} bytes, got {got}")
    return _mapped(path, claim)


def holds_rows(path: Path) -> bool:
    """Whether a plain file may hold features of patches, or holds none for a reason that its reader tells.

    False for what other tools write beside them: coordinates of patches (numbers that are whole, or tables
    of them), and features of whole slides.
    """
    try:
        return len(_claim_of(path).shape) != 1
    except _OtherNumbersError:
        return False
    except (OSError, FeatureError):
        return True


class _OtherNumbersError(FeatureError):
    """An array of NumPy without floating point numbers."""


def _claim_of(path: Path) -> _Claim:
    """Read what the head of a file says; see `map_plain`."""
    try:
        with path.open("rb") as file:
            is_npy = file.read(len(_NPY)) == _NPY
            file.seek(0)
            if not is_npy and file.read(len(_ZIP)) != _ZIP:
                refuse_stand_in(path, error=FeatureError)
                raise FeatureError(f"{path} must be {_WANTED[path.suffix]}")
            file.seek(0)
            return _npy(file, path) if is_npy else _tensor(file, path)
    except FeatureError:
        raise
    except Exception as error:  # zipfile, pickle and NumPy raise whatever damage leads to
        kind = "NumPy file" if path.suffix == ".npy" else "file of one tensor"
        reason = printable(clipped(first_line(error), _SHOWN))  # zipfile quotes the damage itself
        raise FeatureError(f"{path} must be a whole {kind}, got {reason}") from error


class _Claim(NamedTuple):
    """What a file says of its array: `length` numbers from `offset`, seen through shape and strides."""

    dtype: np.dtype[Any]
    offset: int
    length: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in numbers
    first: int = 0
    is_bfloat16: bool = False


def _mapped(path: Path, claim: _Claim) -> NDArray[Any]:
    if 0 in claim.shape:
        return np.zeros(claim.shape, np.float32 if claim.is_bfloat16 else claim.dtype)
    last = claim.first + sum((n - 1) * by for n, by in zip(claim.shape, claim.strides, strict=True))
    if min(claim.first, *claim.strides, *claim.shape) < 0 or last >= claim.length:
        raise FeatureError(
            f"features of {path} must lie in their storage of {claim.length} numbers, got shape "
            f"{claim.shape} with strides {claim.strides}"
        )
    if claim.strides == _by_rows(claim.shape) and not claim.is_bfloat16:
        start = claim.offset + claim.first * claim.dtype.itemsize
        return np.memmap(path, claim.dtype, "r", start, claim.shape)
    stored = np.memmap(path, claim.dtype, "r", claim.offset, (claim.length,))[claim.first :]
    by_bytes = tuple(by * claim.dtype.itemsize for by in claim.strides)
    if np.prod(claim.shape, dtype=object) > claim.length:  # a stride of 0 says a number many times
        raise FeatureError(f"features of {path} must be stored once each, got shape {claim.shape}")
    seen = np.array(np.lib.stride_tricks.as_strided(stored, claim.shape, by_bytes))
    return (seen.astype("<u4") << 16).view("<f4") if claim.is_bfloat16 else seen


def _by_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in numbers, of an array that lies row by row."""
    strides = [1]
    for n in reversed(shape[1:]):
        strides.append(strides[-1] * n)
    return tuple(reversed(strides))


def _npy(file: BinaryIO, path: Path) -> _Claim:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"version {version}")
    shape, is_by_columns, dtype = read[version](file)
    if dtype.kind != "f" or dtype.itemsize > 8:
        got = "a table" if dtype.names else str(dtype)
        raise _OtherNumbersError(
            f"features of {path} must be floating point numbers of at most 8 bytes, got {got}"
        )
    count = int(np.prod(shape, dtype=object))
    strides = _by_rows(shape[::-1])[::-1] if is_by_columns else _by_rows(shape)
    return _Claim(dtype, file.tell(), count, tuple(shape), strides)


# --- Files of torch ----------------------------------------------------------------------------


class _Storage(NamedTuple):
    kind: str
    key: str
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _OneTensor(pickle.Unpickler):
    """Reads a pickle in which nothing but a tensor and its storage is named."""

    path = Path()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == _REBUILD:
            return lambda storage, first, shape, strides, *_: _Tensor(
                storage, first, shape, strides
            )
        if (module, name) == _HOOKS:
            return lambda *_: None
        if module == "torch" and name in _DTYPES:
            return name
        if module == "torch" and name.endswith("Storage"):
            raise _OtherNumbersError(
                f"features of {self.path} must be floating point numbers, got a tensor of {name}"
            )
        raise ValueError(f"{module}.{name}, which no tensor of floating point numbers needs")

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, count = pid
        return _Storage(str(kind), str(key), int(count))


def _tensor(file: BinaryIO, path: Path) -> _Claim:
    archive = zipfile.ZipFile(file)
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) > _MOST_RECORDS:
        raise ValueError(f"{len(entries)} records: is it a model?")
    folder = next(iter(entries), "").partition("/")[0]
    content = entries[f"{folder}/data.pkl"]
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise ValueError("compressed records")
    if content.file_size > _MOST_BYTES:
        raise ValueError(f"a pickle of {content.file_size} bytes: is it a model?")
    order = entries.get(f"{folder}/byteorder")
    if order is not None and archive.read(order) != b"little":
        raise ValueError("numbers of another byte order")
    found = _unpickled(archive.read(content), path)
    if not isinstance(found, _Tensor) or not isinstance(found.storage, _Storage):
        raise FeatureError(f"{path} must hold one tensor, got something else: is it a model?")
    shape, strides = (tuple(map(int, each)) for each in (found.shape, found.strides))
    if len(shape) != len(strides):
        raise ValueError(f"shape {shape} with strides {strides}")
    entry, dtype = (
        entries[f"{folder}/data/{found.storage.key}"],
        np.dtype(_DTYPES[found.storage.kind]),
    )
    if not 0 <= found.storage.length * dtype.itemsize <= entry.file_size:
        raise ValueError(f"{found.storage.length} numbers in a record of {entry.file_size} bytes")
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_BYTES)
    name_bytes, extra_bytes = struct.unpack_from("<2H", header, _LOCAL_BYTES - 4)
    return _Claim(
        dtype=dtype.newbyteorder("<"),
        offset=entry.header_offset + _LOCAL_BYTES + name_bytes + extra_bytes,
        length=found.storage.length,
        shape=shape,
        strides=strides,
        first=int(found.first),
        is_bfloat16=found.storage.kind == "BFloat16Storage",
    )


def _unpickled(content: bytes, path: Path) -> Any:
    for opcode, _, _ in pickletools.genops(content):
        if opcode.name not in _OF_A_TENSOR:
            raise ValueError(f"more than one tensor ({opcode.name})")
    tensor = _OneTensor(io.BytesIO(content))
    tensor.path = path
    return tensor.load()
