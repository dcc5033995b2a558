"""An ONNX graph taken apart: the form in which graphs are looked at, built and changed here.

A *constant* is a tensor that does not depend on the input: an initialiser, or computed from such.
Names are those of tensors; nodes are known by their first output.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from histofast.encoders import OpenGraph
from histofast.graphs.outside import array_of, in_one_folder, is_outside

OPSET, IR_VERSION = 18, 8  # old enough for every ONNX Runtime of the last years
_OLDEST_IR = 4  # before it every constant had to be an input as well
_SCOPES = "pkg.torch.onnx.name_scopes"


class Graph:
    """Nodes in order, constants, inputs and outputs; put together again by `to_model`.

    `where` is what messages call it. The names that it gives are numbered where they are taken.
    """

    def __init__(self, model: onnx.ModelProto, *, where: str = "") -> None:
        """Take a model apart; its nodes and constants are not copied, they change with the graph."""
        self.where = where or model.graph.name or "the graph"
        self.name: str = model.graph.name
        self.props = {entry.key: entry.value for entry in model.metadata_props}
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = [v for v in model.graph.input if v.name not in self.constants]
        self.outputs: list[onnx.ValueInfoProto] = list(model.graph.output)
        self._sparse = list(model.graph.sparse_initializer)
        self._annotations = list(model.graph.quantization_annotation)
        self._ir_version = max(_OLDEST_IR, model.ir_version)
        self._opsets = list(model.opset_import)
        self.producer_name: str = model.producer_name
        self.producer_version = (
            model.producer_version if model.HasField("producer_version") else None
        )
        self._arrays: dict[str, NDArray[Any]] = {}
        self._taken = self.names()

    def to_model(self, outputs: Iterable[onnx.ValueInfoProto] | None = None) -> onnx.ModelProto:
        """Return the graph as a model.

        Args:
            outputs: other outputs than its own.
        """
        model = onnx.ModelProto(
            ir_version=self._ir_version,
            producer_name=self.producer_name,
            opset_import=self._opsets,
        )
        if self.producer_version is not None:
            model.producer_version = self.producer_version
        model.graph.name = self.name
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(self.constants.values())
        model.graph.sparse_initializer.extend(self._sparse)
        model.graph.quantization_annotation.extend(self._annotations)
        model.graph.input.extend(self.inputs)
        model.graph.output.extend(self.outputs if outputs is None else outputs)
        set_metadata(model, self.props)
        return model

    def opened(self, tensors: Iterable[str] | None = None) -> OpenGraph:
        """Return the graph ready to run on the CPU.

        Args:
            tensors: what it gives instead of its outputs.

        Raises:
            ModelError: ONNX Runtime refuses it.
        """
        own = {value.name: value for value in self.outputs}
        outputs = None if tensors is None else [own.get(name, untyped(name)) for name in tensors]
        model = self.to_model(outputs)
        folder = in_one_folder(model.graph.initializer)
        return OpenGraph(model.SerializeToString(), where=self.where, folder=folder)

    # --- looking ---------------------------------------------------------------------------------

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators that it uses."""
        return next((o.version for o in self._opsets if o.domain in ("", "ai.onnx")), 1)

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs."""
        return [value.name for value in self.outputs]

    def names(self) -> set[str]:
        """Return the names of all tensors and nodes."""
        taken = self.constants.keys() | {value.name for value in self.inputs}
        taken |= {name for node in self.nodes for name in (node.name, *node.output)}
        return taken - {""}

    def array(self, name: str) -> NDArray[Any]:
        """Return the value of an initialiser, not to be written to."""
        if name not in self._arrays:
            self._arrays[name] = array_of(self.constants[name])
        return self._arrays[name]

    def values_of(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return the values of constants.

        Raises:
            ModelError: ONNX Runtime cannot compute them.
        """
        wanted = sorted(set(names))
        values = {name: self.array(name) for name in wanted if name in self.constants}
        if rest := [name for name in wanted if name not in values]:
            part = self.part(inputs=[], outputs=[untyped(name) for name in rest])
            part.where = "the constant part of the graph"
            values |= dict(zip(rest, part.opened().run({}, rest), strict=True))
        return values

    def producers(self) -> dict[str, onnx.NodeProto]:
        """Return the node that makes each tensor."""
        return {output: node for node in self.nodes for output in node.output}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Return the nodes that read each tensor, a node once per reading."""
        found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                found[name].append(node)
        return found

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """Return the inputs of a node that are no initialisers."""
        return [name for name in node.input if name and name not in self.constants]

    def dependent_on(self, name: str) -> set[str]:
        """Return all tensors that depend on the tensor `name`, itself included."""
        found = {name}
        for node in self.nodes:
            if not found.isdisjoint(names_read(node)):
                found.update(output for output in node.output if output)
        return found

    def needed_for(self, outputs: Iterable[str], given: Iterable[str] = ()) -> list[onnx.NodeProto]:
        """Return the nodes that tensors come from, in order, where `given` are there already."""
        there = set(given)
        needed, nodes = set(outputs) - there, []
        for node in reversed(self.nodes):
            if not needed.isdisjoint(node.output):
                nodes.append(node)
                needed.update(set(names_read(node)) - there)
        return nodes[::-1]

    # --- changing --------------------------------------------------------------------------------

    def is_free(self, name: str) -> bool:
        """Whether no tensor and no node has this name."""
        return name not in self._taken

    def unused(self, name: str) -> str:
        """Return `name`, numbered if it is taken, and take it."""
        free, n = name, 1
        while free in self._taken:
            n += 1
            free = f"{name}.{n}"
        self._taken.add(free)
        return free

    def constant(self, array: NDArray[Any], *, name: str) -> str:
        """Add a constant and return its name (`name`, numbered if taken)."""
        name = self.unused(name)
        self.constants[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def add(self, op: str, inputs: Sequence[str], *, name: str, **attributes: Any) -> str:
        """Add a node of one output and return the output's name (`name`, numbered if taken)."""
        name = self.unused(name)
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def insert_after(self, node: onnx.NodeProto, new: Sequence[onnx.NodeProto]) -> None:
        """Put nodes behind a node."""
        at = self._place_of(node) + 1
        self.nodes[at:at] = new

    def insert_before(self, node: onnx.NodeProto, new: Sequence[onnx.NodeProto]) -> None:
        """Put nodes in front of a node."""
        at = self._place_of(node)
        self.nodes[at:at] = new

    def replace(self, node: onnx.NodeProto, new: Sequence[onnx.NodeProto]) -> None:
        """Put nodes in the place of a node."""
        at = self._place_of(node)
        self.nodes[at : at + 1] = new

    def rename(self, names: Mapping[str, str]) -> None:
        """Rename tensors wherever they are made and read, and nodes of these names.

        What the graph says of its own inputs and outputs stays.
        """
        for name in self.constants.keys() & names.keys():
            self.constants[name] = _copy(self.constants[name])  # other graphs may share it
            self.constants[name].name = names[name]
        self.constants = {tensor.name: tensor for tensor in self.constants.values()}
        self._arrays.clear()
        _rename(self.nodes, names)
        self._taken = self.names()

    def fold_constants_in(self) -> None:
        """Turn nodes that hold a constant into initialisers, all of them plain arrays or outside."""
        held = [n for n in self.nodes if n.op_type == "Constant" and n.attribute[0].name == "value"]
        far = {name: tensor for name, tensor in self.constants.items() if is_outside(tensor)}
        found = {name: self.array(name) for name in self.constants if name not in far}
        found |= {node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in held}
        self.nodes = [node for node in self.nodes if not any(node is other for other in held)]
        self._arrays = found
        self.constants = far | {name: numpy_helper.from_array(a, name) for name, a in found.items()}

    def sibling(self) -> Graph:
        """Return a graph of the same nodes and constants: what is added to one, the other lacks."""
        other = copy.copy(self)
        for key in ("nodes", "constants", "inputs", "outputs", "props", "_arrays", "_taken"):
            setattr(other, key, copy.copy(getattr(self, key)))
        return other

    def pruned(self, outputs: Sequence[onnx.ValueInfoProto] | None = None) -> Graph:
        """Return a copy with nothing in it that its outputs do not need, or others than its own."""
        return self._restricted(self.inputs, self.outputs if outputs is None else outputs)

    def part(
        self, *, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> Graph:
        """Return a copy of what lies between tensors, with the constants that it needs, no others.

        What exporters note of themselves is left out: it has paths of their machine in it.
        """
        part = self._restricted(inputs, outputs)
        part.props = {}
        part.producer_version = part.producer_version or ""
        for node in part.nodes:
            kept = [(p.key, p.value) for p in node.metadata_props if p.key == _SCOPES]
            del node.metadata_props[:]
            for key, value in kept:
                node.metadata_props.add(key=key, value=value)
            node.ClearField("doc_string")
        return part

    def _restricted(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> Graph:
        given = {value.name for value in inputs}
        asked = {value.name for value in outputs}
        nodes = self.needed_for(asked, given)
        needed = asked.union(*map(names_read, nodes)) - given
        part = self.sibling()
        part.nodes = [_copy(node) for node in nodes]
        part.constants = {name: t for name, t in self.constants.items() if name in needed}
        part.inputs, part.outputs = list(inputs), list(outputs)
        part._sparse = [t for t in self._sparse if t.values.name in needed]
        part._annotations = [a for a in self._annotations if a.tensor_name in needed]
        part._taken = part.names()
        return part

    def _place_of(self, node: onnx.NodeProto) -> int:
        return next(i for i, other in enumerate(self.nodes) if other is node)


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


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node, or what it is when not given."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


def scopes_of(node: onnx.NodeProto) -> str | None:
    """Return the scopes that torch's exporter noted for a node, as it wrote them."""
    return next((p.value for p in node.metadata_props if p.key == _SCOPES), None)


def untyped(name: str) -> onnx.ValueInfoProto:
    """Return an output whose type ONNX Runtime finds out."""
    return helper.make_empty_tensor_value_info(name)


def set_metadata(model: onnx.ModelProto, props: Mapping[str, str]) -> None:
    """Replace the metadata entries of a model."""
    del model.metadata_props[:]
    for key, value in props.items():
        model.metadata_props.add(key=key, value=value)


def to_bytes(model: Message) -> bytes:
    """Return the bytes of a model, or of a part of it; the same one gives the same bytes."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    for node in nodes:
        node.name = names.get(node.name, node.name)
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                if name in names:
                    field[i] = names[name]
        for entry in node.attribute:
            for inner in (entry.g, *entry.graphs):
                _rename(inner.node, names)
                for tensor in (*inner.initializer, *inner.output):
                    tensor.name = names.get(tensor.name, tensor.name)
