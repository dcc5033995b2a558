"""Any ONNX file read into memory whole, with the weights that lie in other files."""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import inliner, numpy_helper

from histofast._files import refuse_stand_in, regular_file
from histofast._words import clipped, one_line
from histofast.encoders import PREFIX, check_model
from histofast.errors import ModelError
from histofast.graphs.graph import Graph, names_read

MAX_BYTES = 2**31 - 1  # of one ONNX file: protobuf's limit
_DIGITS = 20  # of a place in a file, and no more


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxFile:
    """A file, its external data included. `sha256` is that of the file, or of the file followed by
    its data files in the order of their names: `cat model.onnx model.onnx.data | sha256sum`.
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
        ModelError: no sound ONNX file, data files missing, too short or outside its folder, over
            2 GB with what it reads of them.
    """
    path = regular_file(path, kind="ONNX file", error=ModelError)
    refuse_stand_in(path, error=ModelError)
    if (size_bytes := path.stat().st_size) > MAX_BYTES:
        raise _too_big(path, size_bytes)
    model = model_of(path.read_bytes(), where=str(path), external=True)
    outside = [t for t in _tensors(model.graph) if t.data_location == onnx.TensorProto.EXTERNAL]
    places = _places(path, outside)
    by_location = sorted(places, key=lambda place: place.location)
    files = dict.fromkeys(place.file for place in by_location)
    size_bytes += sum(file.stat().st_size for file in files)
    if size_bytes > MAX_BYTES:
        raise _too_big(path, size_bytes)
    digest = hashlib.sha256()
    for file in (path, *files):
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    for tensor, place in zip(outside, places, strict=True):
        tensor.raw_data = place.read()
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    if model.functions:
        model = _with_functions_put_in(model, path)
    graph = Graph(model, where=str(path))
    graph.nodes = in_order(graph.nodes, where=graph.where)
    return OnnxFile(path=path, graph=graph, sha256=digest.hexdigest())


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model in an encoder file.

    Raises:
        FileNotFoundError: no such file.
        ModelError: it is no ONNX file, not a sound one, or its weights lie in other files.
    """
    path = regular_file(path, kind="ONNX file", error=ModelError)
    refuse_stand_in(path, error=ModelError)
    return model_of(path.read_bytes(), where=str(path))


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
    return {
        entry.name: numpy_helper.to_array(entry) for entry in read_model(path).graph.initializer
    }


class _Place(NamedTuple):
    """Where the numbers of a tensor lie: so many bytes from there in a file of that name."""

    location: str
    file: Path
    offset: int
    length: int

    def read(self) -> bytes:
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.length)


def _places(path: Path, tensors: Sequence[onnx.TensorProto]) -> list[_Place]:
    """Return where the numbers of tensors lie, having checked that all of them are there.

    Raises:
        ModelError: a file is missing, too short or outside the folder, or over 2 GB are read.
    """
    files: dict[str, Path] = {}
    places = []
    read_bytes = path.stat().st_size
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in files:
            files[location] = _data_file(path, location)
        ends = [entries.get(key, "0") for key in ("offset", "length")]
        if not all(end.isdecimal() and len(end) < _DIGITS for end in ends):
            raise ModelError(f"{path} does not say where its weights lie: export it again")
        offset, length = map(int, ends)
        size_bytes = files[location].stat().st_size
        if offset + length > size_bytes:
            raise ModelError(f"{files[location]} is truncated: copy or export {path.name} again")
        length = length or size_bytes - offset
        read_bytes += length
        if read_bytes > MAX_BYTES:  # tensors may name the same bytes again and again
            raise _too_big(path, read_bytes)
        places.append(_Place(location, files[location], offset, length))
    return places


def _data_file(path: Path, location: str) -> Path:
    # Hugging Face keeps both files as links into one folder.
    folders = {path.parent.resolve(), path.resolve().parent}
    try:
        file = (path.parent / location).resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, a NUL
        file = path.parent.resolve()
    if folders.isdisjoint(file.parents):
        raise ModelError(
            f"{path} names weights outside its folder: export it again, or copy both files, not "
            "links to them, into one folder"
        )
    try:
        return regular_file(file, kind="weights file", error=ModelError)
    except FileNotFoundError:
        raise ModelError(
            f"{path} keeps its weights in {one_line(file.name)}, which is missing: put it beside "
            "the file"
        ) from None


def _too_big(path: Path, size_bytes: int) -> ModelError:
    return ModelError(
        f"{path} has {size_bytes / 1e9:.1f} GB with its weights, one ONNX file holds at most "
        f"{MAX_BYTES / 1e9:.1f} GB: export it in float16"
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
