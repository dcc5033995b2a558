"""Tensors that stay in files: mapped where they are looked at, never in memory all at once.

In a graph in memory such a tensor names the absolute path of its file. Only in files that are written
does it name one beside them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

SMALL_BYTES = 1 << 14  # of a tensor that is in memory anyway, wherever it lay
# Shape arithmetic needs integers at hand; texts have no bytes that could be mapped.
_IN_MEMORY = {
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
    onnx.TensorProto.BOOL,
    onnx.TensorProto.STRING,
}
_PAGE_BYTES = 4096  # where tensors begin in a file, so that they can be mapped as they are


def is_outside(tensor: onnx.TensorProto) -> bool:
    """Whether the numbers of a tensor lie in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def may_be_outside(tensor: onnx.TensorProto, length: int) -> bool:
    """Whether a tensor of so many bytes is worth it."""
    return length >= SMALL_BYTES and tensor.data_type not in _IN_MEMORY


def put_outside(
    tensor: onnx.TensorProto, location: str | os.PathLike[str], offset: int, length: int
) -> None:
    """Let a tensor have its numbers in a file."""
    for field in ("raw_data", "float_data", "int32_data", "double_data", "uint64_data"):
        tensor.ClearField(field)
    del tensor.external_data[:]
    entries = {"location": os.fspath(location), "offset": str(offset), "length": str(length)}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    tensor.data_location = onnx.TensorProto.EXTERNAL


def place_of(tensor: onnx.TensorProto) -> tuple[Path, int, int]:
    """Return file, first byte and number of bytes of a tensor that is outside."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return Path(entries["location"]), int(entries["offset"]), int(entries["length"])


def bytes_of(tensor: onnx.TensorProto) -> memoryview:
    """Return the numbers of a tensor as they lie in memory or, mapped, in its file."""
    if not is_outside(tensor):
        if tensor.HasField("raw_data"):
            return memoryview(tensor.raw_data)
        return memoryview(numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data)
    file, offset, length = place_of(tensor)
    if length == 0:
        return memoryview(b"")
    return np.memmap(file, np.uint8, mode="r", offset=offset, shape=(length,)).data


def array_of(tensor: onnx.TensorProto) -> NDArray[Any]:
    """Return the value of a tensor, not to be written to; mapped if it is outside."""
    array: NDArray[Any]
    if not is_outside(tensor):
        array = numpy_helper.to_array(tensor)
        return array
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    data = bytes_of(tensor)
    if len(data) == dtype.itemsize * int(np.prod(tensor.dims)):
        array = np.frombuffer(data, dtype).reshape(tuple(tensor.dims))
        return array
    array = numpy_helper.to_array(taken_in(tensor))  # several numbers to a byte
    return array


def taken_in(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return a tensor with its numbers in memory: a copy, if it is outside."""
    if not is_outside(tensor):
        return tensor
    copied = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    copied.raw_data = bytes_of(tensor).tobytes()
    return copied


def size_bytes_of(model: onnx.ModelProto) -> int:
    """Return the bytes that a model is, weights that are outside included."""
    far = sum(place_of(tensor)[2] for tensor in model.graph.initializer if is_outside(tensor))
    return int(model.ByteSize()) + far


def append(file: BinaryIO, data: memoryview | bytes) -> int:
    """Write the numbers of a tensor at the end of a file, from a whole page on; return where."""
    end = file.seek(0, os.SEEK_END)
    offset = -(-end // _PAGE_BYTES) * _PAGE_BYTES
    file.write(bytes(offset - end))
    file.write(data)
    return offset


def in_one_folder(tensors: Iterable[onnx.TensorProto]) -> Path | None:
    """Let tensors name their files from one folder on, and return it; None if none is outside.

    ONNX Runtime takes no absolute paths.
    """
    outside = [tensor for tensor in tensors if is_outside(tensor)]
    if not outside:
        return None
    places = [place_of(tensor) for tensor in outside]
    folder = Path(os.path.commonpath([file.parent for file, _, _ in places]))
    for tensor, (file, offset, length) in zip(outside, places, strict=True):
        put_outside(tensor, file.relative_to(folder).as_posix(), offset, length)
    return folder
