"""Any ONNX file read; of weights that lie in other files, those that are large stay there."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import inliner

from histofast._files import refuse_stand_in, regular_file
from histofast._words import clipped, one_line
from histofast.encoders import (
    DATA_SHA256,
    PREFIX,
    Outside,
    check_model,
    check_of_one_making,
    checksums,
    claimed_bytes,
    files_of,
    identity_of,
    places_of,
)
from histofast.errors import ModelError
from histofast.graphs import outside
from histofast.graphs.graph import Graph, names_read

MAX_BYTES = 2**31 - 1  # of one ONNX file: protobuf's limit


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxFile:
    """A file; large weights that it keeps in other files stay there, see `outside`.

    `sha256` is that of the file, or of its data files in the order of their names and then the file:
    `cat model.onnx.data model.onnx | sha256sum`.
    """

    path: Path
    graph: Graph
    sha256: str

    @property
    def is_encoder(self) -> bool:
        """Whether it says that it is in the pixel-in form."""
        return f"{PREFIX}format" in self.graph.props


def read_onnx(path: Path) -> OnnxFile:
    """Read a file and the external data it names.

    Raises:
        FileNotFoundError: no such file.
        ModelError: no sound ONNX file, data files missing, too short, outside its folder or of another
            making, over 2 GB without what is large of them.
    """
    path = regular_file(path, kind="ONNX file", error=ModelError)
    refuse_stand_in(path, error=ModelError)
    model, files = _read(path)
    found = checksums([*files, path])
    props = {entry.key: entry.value for entry in model.metadata_props}
    if DATA_SHA256 in props and files:
        check_of_one_making(path, files[0], told=props[DATA_SHA256], got=found.data)
    if model.functions:
        model = _with_functions_put_in(model, path)
    graph = Graph(model, where=str(path))
    graph.nodes = in_order(graph.nodes, where=graph.where)
    return OnnxFile(path=path, graph=graph, sha256=found.whole)


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model in an encoder file; large weights that lie beside it stay there.

    Raises:
        FileNotFoundError: no such file.
        ModelError: it is no ONNX file, or not a sound one, or its weights are not those beside it.
    """
    path = regular_file(path, kind="ONNX file", error=ModelError)
    refuse_stand_in(path, error=ModelError)
    if len(files_of(path)) > 1:
        identity_of(path)
    return _read(path)[0]


def _read(path: Path) -> tuple[onnx.ModelProto, list[Path]]:
    """Return a model, what is large outside of it, and the other files that it has weights in."""
    if (read_bytes := path.stat().st_size) > MAX_BYTES:
        raise _too_big(path, read_bytes)
    model = model_of(path.read_bytes(), where=str(path), external=True)
    constants = len(model.graph.initializer)
    far = [
        (tensor, i < constants)
        for i, tensor in enumerate(_tensors(model.graph))
        if outside.is_outside(tensor)
    ]
    places = places_of(path, [_claim(tensor) for tensor, _ in far])
    for (tensor, is_constant), place in zip(far, places, strict=True):
        outside.put_outside(tensor, place.file, place.offset, place.length)
        if is_constant and outside.may_be_outside(tensor, place.length):
            continue
        read_bytes += place.length
        if read_bytes > MAX_BYTES:
            raise _too_big(path, read_bytes)
        tensor.CopyFrom(outside.taken_in(tensor))
    by_location = sorted(places, key=lambda place: place.location)
    return model, list(dict.fromkeys(place.file for place in by_location))


def _claim(tensor: onnx.TensorProto) -> Outside:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return Outside.told(entries, claimed_bytes(tensor.dims, tensor.data_type))


def model_of(data: bytes, *, where: str, external: bool = False) -> onnx.ModelProto:
    """Return the model that the bytes of an ONNX file are.

    Args:
        data: of the file.
        where: what to call it in messages.
        external: its weights may lie in other files.

    Raises:
        ModelError: it is no ONNX file, or not a sound one.
    """
    check_model(data, where=where, external=external)
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError):  # ValueError: no text where one should be
        model = onnx.ModelProto()
    if not model.graph.node:
        raise ModelError(f"{where} is not an ONNX file, or is truncated: copy or export it again")
    return model


def read_constants(path: Path) -> dict[str, NDArray[Any]]:
    """Return the weights of an ONNX file by the names of their tensors.

    Raises:
        FileNotFoundError, ModelError: as `read_model`.
    """
    return {entry.name: outside.array_of(entry) for entry in read_model(path).graph.initializer}


def _too_big(path: Path, size_bytes: int) -> ModelError:
    return ModelError(
        f"{path} has {size_bytes / 1e9:.1f} GB, one ONNX file holds at most {MAX_BYTES / 1e9:.1f} GB: "
        "export it with its weights in a file beside it"
    )


def _with_functions_put_in(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # noqa: BLE001  # what it raises is documented nowhere
        raise ModelError(
            f"{path} has functions that cannot be put in ({clipped(one_line(error), 200)}): "
            "export it again without"
        ) from None


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def in_order(nodes: Sequence[onnx.NodeProto], *, where: str) -> list[onnx.NodeProto]:
    """Return the nodes, each behind those it reads from; some converters append theirs.

    Raises:
        ModelError: nodes read from each other in a circle.
    """
    maker = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    sources = [{maker[name] for name in names_read(node) if name in maker} for node in nodes]
    if all(not made or max(made) < i for i, made in enumerate(sources)):
        return list(nodes)
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
    return [nodes[i] for i in order]
