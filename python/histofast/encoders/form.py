"""What a graph takes and gives and what its file says of itself: from the file, or a session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from histofast._words import clipped, one_line
from histofast.encoders.protobuf import BrokenMessageError, Span, fields, spans, text
from histofast.errors import ModelError

# Fields of ONNX's messages by their numbers, see onnx.proto3.
_GRAPH, _METADATA = 7, 14  # of a model
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12  # of a graph
_TENSOR_NAME = 8
_KEY, _VALUE = 1, 2  # of an entry of metadata
_NAME, _TYPE = 1, 2  # of a value
_TENSOR = 1  # of a type
_ELEM_TYPE, _SHAPE = 1, 2  # of a tensor's type
_DIM = 1  # of a shape
_DIM_VALUE, _DIM_PARAM = 1, 2  # of a dimension
_DTYPES = [
    "undefined",
    "float32",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "int64",
    "string",
    "bool",
    "float16",
    "float64",
    "uint32",
    "uint64",
    "complex64",
    "complex128",
    "bfloat16",
]
_WIDEST = 60  # characters of a name in a message
_MOST_AXES = 8  # of a value, in a message
_RUNTIME_DTYPES = {"float": "float32", "double": "float64"}  # where ONNX Runtime's names differ


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """An input or an output. A size that is left open is its name or None; () is not known."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else shown(size) for size in self.shape[:_MOST_AXES])
        more = ", ..." * (len(self.shape) > _MOST_AXES)
        return f"'{shown(self.name)}' {self.dtype} ({sizes}{more})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """The inputs, the outputs and the metadata entries of an ONNX file."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    props: dict[str, str]


def shown(name: object) -> str:
    """Return a name in a file as a message has it; files spell them as they like."""
    return clipped(one_line(str(name) or "?"), _WIDEST)


def form_of(session: Any) -> Form:
    """Return the form of the graph that a session of ONNX Runtime runs."""
    return Form(
        inputs=tuple(map(_of_runtime, session.get_inputs())),
        outputs=tuple(map(_of_runtime, session.get_outputs())),
        props=session.get_modelmeta().custom_metadata_map,
    )


def _of_runtime(value: Any) -> Value:
    dtype = value.type.removeprefix("tensor(").removesuffix(")")
    return Value(name=value.name, dtype=_RUNTIME_DTYPES.get(dtype, dtype), shape=tuple(value.shape))


def read_form(path: Path) -> Form:
    """Read the form of a file, and nothing of its weights.

    Shapes are those that the file states; ONNX Runtime also finds those that follow from others.

    Raises:
        ModelError: no ONNX file, or a truncated one.
    """
    props: dict[str, str] = {}
    constants: list[Span] = []
    values: dict[int, list[Value]] = {_INPUT: [], _OUTPUT: []}
    nodes = 0
    try:
        with path.open("rb") as file:
            for field, span in spans(file, (0, path.stat().st_size), _GRAPH, _METADATA):
                if field == _METADATA:
                    entry = dict(spans(file, span, _KEY, _VALUE))
                    key, value = (text(file, entry.get(n, (0, 0))) for n in (_KEY, _VALUE))
                    props[key] = value
                    continue
                for part, inner in spans(file, span, _NODE, _INITIALIZER, _INPUT, _OUTPUT):
                    if part in values:
                        values[part].append(_value(file, inner))
                    elif part == _INITIALIZER:
                        constants.append(inner)
                    else:
                        nodes += 1
            inputs = values[_INPUT]
            if len(inputs) > 1:  # old files name every constant among them
                names = {_name(file, constant, _TENSOR_NAME) for constant in constants}
                inputs = [value for value in inputs if value.name not in names]
    except BrokenMessageError:
        nodes = 0
    if nodes == 0:
        raise ModelError(f"{path} is not an ONNX file, or is truncated: copy or export it again")
    return Form(inputs=tuple(inputs), outputs=tuple(values[_OUTPUT]), props=props)


def _name(file: BinaryIO, span: Span, field: int) -> str:
    for _, inner in spans(file, span, field):
        return text(file, inner)
    return ""


def _value(file: BinaryIO, span: Span) -> Value:
    dtype = _DTYPES[0]
    shape: tuple[int | str | None, ...] = ()
    for _, of_type in spans(file, span, _TYPE):
        for _, of_tensor in spans(file, of_type, _TENSOR):
            for field, value in fields(file, of_tensor):
                if field == _ELEM_TYPE and isinstance(value, int):
                    dtype = _DTYPES[value] if value < len(_DTYPES) else f"type {value}"
                elif field == _SHAPE and not isinstance(value, int):
                    shape = tuple(_size(file, dim) for _, dim in spans(file, value, _DIM))
    return Value(name=_name(file, span, _NAME), dtype=dtype, shape=shape)


def _size(file: BinaryIO, span: Span) -> int | str | None:
    size: int | str | None = None
    for field, value in fields(file, span):
        if field == _DIM_VALUE and isinstance(value, int):
            size = value if value < 1 << 63 else None  # a negative one is unknown
        elif field == _DIM_PARAM and not isinstance(value, int):
            size = text(file, value) or None
    return size
