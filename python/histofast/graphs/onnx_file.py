"""Any ONNX file read into memory whole, and what surgery on its graph is made of.

A *constant* here is a tensor that does not depend on the input: an initialiser, or computed from
such. Names are those of tensors; nodes are known by their first output.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from histofast.encoders import INPUT, PREFIX, runtime
from histofast.errors import ModelError

MAX_BYTES = 2**31 - 1  # of one ONNX file: protobuf's limit
_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxFile:
    """A file, its external data included. `sha256` is that of the file, or of the file followed by
    its data files in the order of their names: `cat model.onnx model.onnx.data | sha256sum`.
    """

    path: Path
    model: onnx.ModelProto
    sha256: str

    @property
    def is_encoder(self) -> bool:
        """Whether it says that it is in the pixel-in form."""
        return any(p.key == f"{PREFIX}format" for p in self.model.metadata_props)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageInput:
    """The one input of a graph that takes images; None is a size that the graph leaves open.

    `layout` is NCHW or NHWC; pixels are NHWC uint8.
    """

    name: str
    elem_type: int
    layout: str
    batch: int | None
    height_px: int | None
    width_px: int | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type as NumPy has it."""
        dtype: np.dtype[Any] = np.dtype(helper.tensor_dtype_to_np_dtype(self.elem_type))
        return dtype

    def shape(self, *, batch: int, patch_px: int) -> tuple[int, int, int, int]:
        """Return the shape of a batch of square patches."""
        if self.layout == "NCHW":
            return (batch, 3, patch_px, patch_px)
        return (batch, patch_px, patch_px, 3)


def read_onnx(path: Path) -> OnnxFile:
    """Read a file and the external data it names.

    Raises:
        FileNotFoundError: no such file.
        ModelError: no ONNX file, data files missing, too short or outside its folder, over 2 GB.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no ONNX file at {path}")
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        model = onnx.ModelProto()
    if not model.graph.node:
        raise ModelError(f"{path} is not an ONNX file, or is truncated: copy or export it again")
    outside = [t for t in _tensors(model.graph) if t.data_location == onnx.TensorProto.EXTERNAL]
    files = _data_files(path, outside)
    size_bytes = path.stat().st_size + sum(file.stat().st_size for file in files)
    if size_bytes > MAX_BYTES:
        raise ModelError(
            f"{path} has {size_bytes / 1e9:.1f} GB with its weights, one ONNX file holds at most "
            f"{MAX_BYTES / 1e9:.1f} GB: export it in float16"
        )
    digest = hashlib.sha256()
    for file in (path, *files):
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    for tensor in outside:
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        except (ValueError, onnx.checker.ValidationError) as error:
            line = str(error).splitlines()[0]
            raise ModelError(f"{path}: weights of tensor {tensor.name!r}: {line}") from None
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return OnnxFile(path=path, model=in_order(model, where=str(path)), sha256=digest.hexdigest())


def _data_files(path: Path, tensors: Sequence[onnx.TensorProto]) -> list[Path]:
    folder = path.parent.resolve()
    files = set()
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = (folder / entries.get("location", "")).resolve()
        if folder not in file.parents:
            raise ModelError(f"{path} names weights outside its folder: export it again")
        if not file.is_file():
            raise ModelError(
                f"{path} keeps its weights in {file.name}, which is missing: put it beside the file"
            )
        end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
        if end > file.stat().st_size:
            raise ModelError(f"{file} is truncated: copy or export {path.name} again")
        files.add(file)
    return sorted(files)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def image_input(model: onnx.ModelProto, *, where: str) -> ImageInput:
    """Return the one input, which must be a batch of RGB images.

    Args:
        model: as read.
        where: what to call the file in messages.

    Raises:
        ModelError: several inputs, or another type or shape.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    wanted = "one float32 or float16 input of shape (n, 3, h, w) or (n, h, w, 3)"
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        raise ModelError(f"{where} must have {wanted}, got {len(inputs)} inputs ({names})")
    elem_type, shape = type_of(inputs[0])
    layout = "NCHW"
    if elem_type == onnx.TensorProto.UINT8 and inputs[0].name == INPUT:
        layout = "NHWC"
        fits = True
    else:
        fits = elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    if shape is None:
        shape = (None,) * 4
    if len(shape) == 4 and shape[1] != 3 and shape[3] == 3:
        layout = "NHWC"
    axes = (1, 2, 3) if layout == "NCHW" else (3, 1, 2)
    if not fits or len(shape) != 4 or shape[axes[0]] not in (3, None):
        sizes = ", ".join(str("?" if size is None else size) for size in shape)
        raise ModelError(
            f"{where} must have {wanted}, got {inputs[0].name!r} {type_name(elem_type)} ({sizes})"
        )
    return ImageInput(
        name=inputs[0].name,
        elem_type=elem_type,
        layout=layout,
        batch=shape[0],
        height_px=shape[axes[1]],
        width_px=shape[axes[2]],
    )


def type_of(value: onnx.ValueInfoProto) -> tuple[int, tuple[int | None, ...] | None]:
    """Return the element type and the shape; an unknown size is None, an unknown rank no shape."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    sizes = (d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return tensor.elem_type, tuple(size if size and size > 0 else None for size in sizes)


def type_name(elem_type: int) -> str:
    """Return what NumPy calls an element type."""
    if elem_type == onnx.TensorProto.UNDEFINED:
        return "of unknown type"
    return str(helper.tensor_dtype_to_np_dtype(elem_type))


def names_read(node: onnx.NodeProto) -> list[str]:
    """Return the tensors that a node reads, those that its inner graphs take from outside too."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            made = {tensor.name for tensor in graph.initializer} | {v.name for v in graph.input}
            made |= {name for inner in graph.node for name in inner.output}
            read = [name for inner in graph.node for name in names_read(inner)]
            read += [value.name for value in graph.output]
            names += [name for name in read if name not in made]
    return names


def dependent_on(graph: onnx.GraphProto, name: str) -> set[str]:
    """Return all tensors that depend on the tensor `name`, itself included."""
    found = {name}
    for node in graph.node:
        if not found.isdisjoint(names_read(node)):
            found.update(output for output in node.output if output)
    return found


def extract(
    model: onnx.ModelProto,
    *,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """Return the part of a model between tensors, with the constants that it needs and no others.

    Shapes of inner tensors are left out: they may be those of a batch that is no longer fixed.
    """
    given = {value.name for value in inputs}
    needed = {value.name for value in outputs} - given
    nodes = []
    for node in reversed(model.graph.node):
        if not needed.isdisjoint(node.output):
            nodes.append(node)
            needed.update(set(names_read(node)) - given)
    part = onnx.ModelProto(
        ir_version=max(4, model.ir_version),  # before 4 every constant had to be an input as well
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        opset_import=model.opset_import,
    )
    part.graph.name = model.graph.name
    part.graph.node.extend(reversed(nodes))
    part.graph.initializer.extend(t for t in model.graph.initializer if t.name in needed)
    part.graph.sparse_initializer.extend(
        t for t in model.graph.sparse_initializer if t.values.name in needed
    )
    part.graph.quantization_annotation.extend(
        a for a in model.graph.quantization_annotation if a.tensor_name in needed
    )
    part.graph.input.extend(inputs)
    part.graph.output.extend(outputs)
    for node in part.graph.node:
        # What exporters note of themselves has paths of their machine in it.
        kept = [(p.key, p.value) for p in node.metadata_props if p.key == _SCOPES]
        del node.metadata_props[:]
        for key, value in kept:
            node.metadata_props.add(key=key, value=value)
        node.ClearField("doc_string")
    return part


def in_order(model: onnx.ModelProto, *, where: str) -> onnx.ModelProto:
    """Return the model with every node behind those it reads from; some converters append theirs.

    Raises:
        ModelError: nodes read from each other in a circle.
    """
    nodes = model.graph.node
    maker = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    sources = [{maker[name] for name in names_read(node) if name in maker} for node in nodes]
    if all(not made or max(made) < i for i, made in enumerate(sources)):
        return model
    readers = defaultdict(list)
    for i, made in enumerate(sources):
        for source in made:
            readers[source].append(i)
    ready = [i for i, made in enumerate(sources) if not made]
    order = []
    while ready:
        i = heapq.heappop(ready)  # of several the first, so that the order stays where it can
        order.append(i)
        for reader in readers[i]:
            sources[reader].discard(i)
            if not sources[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        raise ModelError(
            f"{where} has nodes that read from each other in a circle: export it again"
        )
    ordered = onnx.ModelProto()
    ordered.CopyFrom(model)
    del ordered.graph.node[:]
    ordered.graph.node.extend(nodes[i] for i in order)
    return ordered


def scopes_of(node: onnx.NodeProto) -> str | None:
    """Return the scopes that torch's exporter noted for a node, as it wrote them."""
    return next((p.value for p in node.metadata_props if p.key == _SCOPES), None)


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors wherever they are made and read, and nodes of these names.

    What the graph says of its own inputs and outputs stays.
    """
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        node.name = names.get(node.name, node.name)
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                if name in names:
                    field[i] = names[name]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                rename(inner, names)
                for value in inner.output:
                    value.name = names.get(value.name, value.name)


def names_in(graph: onnx.GraphProto) -> set[str]:
    """Return the names of all tensors and nodes."""
    taken = {t.name for t in graph.initializer} | {v.name for v in graph.input}
    taken |= {name for node in graph.node for name in (node.name, *node.output)}
    return taken - {""}


def unused(graph: onnx.GraphProto, name: str) -> str:
    """Return `name`, numbered if a tensor or a node of the graph has it."""
    taken = names_in(graph)
    free, n = name, 1
    while free in taken:
        n += 1
        free = f"{name}.{n}"
    return free


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model uses."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def untyped(name: str) -> onnx.ValueInfoProto:
    """Return an output whose type ONNX Runtime finds out."""
    return helper.make_empty_tensor_value_info(name)


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return a copy of a model that gives other tensors than its own outputs."""
    own = {value.name: value for value in model.graph.output}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(own.get(name, untyped(name)) for name in names)
    return copy


def session_of(model: onnx.ModelProto, *, where: str) -> Any:
    """Return a session on the CPU.

    Raises:
        ModelError: ONNX Runtime refuses the model.
    """
    try:
        return runtime.make_session(model.SerializeToString())
    except runtime.runtime_errors() as error:
        version = runtime.runtime().__version__
        told = reason(error)
        remedy = ""
        if "opset" in told.lower() or "IR version" in told:
            remedy = ": export it with opset 18, or update onnxruntime"
        raise ModelError(
            f"{where} cannot be loaded by onnxruntime {version}: {told.rstrip('.')}{remedy}"
        ) from None


def run(
    session: Any, outputs: Sequence[str], feed: Mapping[str, NDArray[Any]], *, where: str
) -> list[NDArray[Any]]:
    """Return outputs of a session.

    Raises:
        ModelError: the graph fails on what it is fed.
    """
    try:
        arrays: list[NDArray[Any]] = session.run(list(outputs), dict(feed))
    except runtime.runtime_errors() as error:
        raise ModelError(f"{where}: {reason(error)}") from None
    return arrays


def reason(error: Exception) -> str:
    """Return the first line of what ONNX Runtime says, without its source lines."""
    return re.sub(r"/\S+:\d+ [^()]*\([^()]*\) ", "", runtime.first_line(error))


def constant_values(model: onnx.ModelProto, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return the values of constants.

    Raises:
        ModelError: ONNX Runtime cannot compute them.
    """
    initialisers = {t.name: t for t in model.graph.initializer}
    wanted = sorted(set(names))
    values = {n: numpy_helper.to_array(initialisers[n]) for n in wanted if n in initialisers}
    if rest := [n for n in wanted if n not in values]:
        part = extract(model, inputs=[], outputs=[untyped(name) for name in rest])
        session = session_of(part, where="the constant part of the graph")
        values |= dict(zip(rest, session.run(rest, {}), strict=True))
    return values
