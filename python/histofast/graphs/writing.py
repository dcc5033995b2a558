"""Encoder files written: one file, or two where one would be larger than protobuf reads."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from histofast._files import replacing_both
from histofast.encoders import DATA_SHA256, DATA_SUFFIX, files_of
from histofast.errors import ModelError
from histofast.graphs import outside
from histofast.graphs.graph import to_bytes

MOST_INSIDE_BYTES = 2**31 - (64 << 20)  # of one file; protobuf ends at 2 GiB
_CHUNK_BYTES = 1 << 24
# Fields of ONNX's messages by their numbers, see onnx.proto3.
_GRAPH, _CONSTANT, _RAW, _LAST = 7, 5, 9, 1 << 29
_OF_LENGTH = 2  # protobuf's kind of what has a length


@contextlib.contextmanager
def replacing_encoder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield where to `write_model`; at the end the encoder takes its name, its weights before it.

    Whatever ends the process, there is the old encoder, the new one, or an ONNX file beside weights
    that are not its own, which is refused when it is read.

    Raises:
        FileExistsError: `out`, or weights beside it, exist and `overwrite` is False.
        FileNotFoundError: the folder does not exist.
        WriteError: the folder cannot be written, or its disk is full.
    """
    data = data_beside(out)
    is_left = _has_data(out)
    with replacing_both(out, data.name, overwrite=overwrite) as pending:
        yield pending
        is_left = is_left and not data_beside(pending).exists()
    if is_left:
        data.unlink(missing_ok=True)


def data_beside(path: Path) -> Path:
    """Return where an encoder keeps weights that its own file has no room for."""
    return path.with_name(path.name + DATA_SUFFIX)


def _has_data(path: Path) -> bool:
    """Whether what lies beside an encoder is its own, or half of one that was interrupted."""
    if not path.is_file():
        return True
    try:
        return data_beside(path).resolve() in files_of(path)
    except (FileNotFoundError, ModelError):
        return False


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, and beside it what would make its file larger than `MOST_INSIDE_BYTES`.

    The same model gives the same bytes, whether its tensors are outside or in memory.

    Args:
        model: not changed.
        path: of the file, in a folder of its own as `replacing_encoder` yields it.
    """
    if outside.size_bytes_of(model) > MOST_INSIDE_BYTES:
        _write_both(model, path)
    elif any(map(outside.is_outside, model.graph.initializer)):
        with path.open("wb") as file:
            for part in _serialised(model):
                file.write(part)
    else:
        path.write_bytes(to_bytes(model))


def _write_both(model: onnx.ModelProto, path: Path) -> None:
    tensors = []
    digest = hashlib.sha256()
    data_path = data_beside(path)
    with data_path.open("w+b") as file:
        for tensor in model.graph.initializer:
            data = outside.bytes_of(tensor)
            if not outside.may_be_outside(tensor, len(data)):
                tensors.append(outside.taken_in(tensor))
                continue
            light = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            outside.put_outside(light, data_path.name, outside.append(file, data), len(data))
            tensors.append(light)
        file.seek(0)
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    written = _part(model, range(_LAST))
    written.graph.CopyFrom(_part(model.graph, range(_LAST)))
    written.graph.initializer.extend(tensors)
    props = [entry for entry in written.metadata_props if entry.key == DATA_SHA256]
    (props[0] if props else written.metadata_props.add(key=DATA_SHA256)).value = digest.hexdigest()
    path.write_bytes(to_bytes(written))


def _part(message: Any, numbers: range) -> Any:
    """Return a copy of those fields of a message that have these numbers, without graph or constants."""
    part = type(message)()
    for field, value in message.ListFields():
        if field.number not in numbers or field.name in ("graph", "initializer"):
            continue
        if hasattr(value, "extend"):
            getattr(part, field.name).extend(value)
        elif field.message_type is not None:
            getattr(part, field.name).CopyFrom(value)
        else:
            setattr(part, field.name, value)
    return part


def _serialised(model: onnx.ModelProto) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a model with all tensors taken in, of which one is in memory at a time.

    They are those that protobuf would write: fields in the order of their numbers.
    """
    graph, before, after = model.graph, range(_GRAPH), range(_GRAPH + 1, _LAST)
    head, tail = (
        _part(graph, numbers) for numbers in (range(_CONSTANT), range(_CONSTANT + 1, _LAST))
    )
    heads = [_head_of(tensor) for tensor in graph.initializer]
    sizes = [len(start) + length for start, length in heads]
    whole = head.ByteSize() + tail.ByteSize()
    whole += sum(len(_key(_CONSTANT, size)) + size for size in sizes)
    yield to_bytes(_part(model, before)) + _key(_GRAPH, whole) + to_bytes(head)
    for tensor, (start, length), size in zip(graph.initializer, heads, sizes, strict=True):
        yield _key(_CONSTANT, size) + start
        if length:
            yield outside.bytes_of(tensor)
    yield to_bytes(tail) + to_bytes(_part(model, after))


def _head_of(tensor: onnx.TensorProto) -> tuple[bytes, int]:
    """Return the bytes of a tensor up to those that are outside, and how many these are."""
    if not outside.is_outside(tensor):
        return to_bytes(tensor), 0
    length = outside.place_of(tensor)[2]
    light = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return to_bytes(light) + _key(_RAW, length), length


def _key(number: int, length: int) -> bytes:
    """Return how protobuf announces a field of so many bytes."""
    found = bytes([number << 3 | _OF_LENGTH])
    while length >= 0x80:
        found += bytes([length & 0x7F | 0x80])
        length >>= 7
    return found + bytes([length])
