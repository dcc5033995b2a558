"""An ONNX graph opened for rewriting: its nodes in order, its constants as arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


class Editable:
    """Nodes and constants of a model, changed in place and turned into a model again.

    Every node keeps its name; tensors are known by the names of outputs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = []
        self.constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            else:
                copy = onnx.NodeProto()
                copy.CopyFrom(node)
                self.nodes.append(copy)
        self.inputs = [i.name for i in model.graph.input if i.name not in self.constants]
        self.outputs = [o.name for o in model.graph.output]
        self._names = {*self.inputs, *self.constants} | {o for n in self.nodes for o in n.output}

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
        """Return the inputs of a node that are not constants."""
        return [name for name in node.input if name and name not in self.constants]

    def constant(self, array: NDArray[Any], *, name: str) -> str:
        """Add a constant and return its name (`name`, numbered if taken)."""
        name = self.unused(name)
        self.constants[name] = np.asarray(array)
        return name

    def unused(self, name: str) -> str:
        """Return `name`, numbered if it is taken, and take it."""
        free, n = name, 1
        while free in self._names:
            n += 1
            free = f"{name}.{n}"
        self._names.add(free)
        return free

    def insert_after(self, node: onnx.NodeProto, new: Sequence[onnx.NodeProto]) -> None:
        """Put nodes behind a node."""
        at = next(i for i, other in enumerate(self.nodes) if other is node) + 1
        self.nodes[at:at] = new

    def replace(self, node: onnx.NodeProto, new: Sequence[onnx.NodeProto]) -> None:
        """Put nodes in the place of a node."""
        at = next(i for i, other in enumerate(self.nodes) if other is node)
        self.nodes[at : at + 1] = new

    def to_model(self, *, outputs: Iterable[onnx.ValueInfoProto] | None = None) -> onnx.ModelProto:
        """Return the model, with nothing in it that its outputs do not need.

        Args:
            outputs: other outputs than the model's own.
        """
        asked = list(self.model.graph.output if outputs is None else outputs)
        needed = {value.name for value in asked}
        nodes = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(_reads(node))
        graph = helper.make_graph(
            nodes[::-1],
            self.model.graph.name,
            [i for i in self.model.graph.input if i.name in self.inputs],
            asked,
            [numpy_helper.from_array(a, k) for k, a in self.constants.items() if k in needed],
        )
        model = helper.make_model(
            graph,
            ir_version=self.model.ir_version,
            opset_imports=self.model.opset_import,
            producer_name=self.model.producer_name,
        )
        model.metadata_props.extend(self.model.metadata_props)
        return model


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what a node reads, the nodes of its branches and loop bodies included."""
    yield from node.input
    for entry in node.attribute:
        for inner in entry.g.node:
            yield from _reads(inner)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node, or what it is when not given."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default
