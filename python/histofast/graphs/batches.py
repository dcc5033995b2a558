"""A graph that was exported for a fixed number of images takes any number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from histofast.graphs.graph import Graph, untyped
from histofast.graphs.images import ImageInput


def with_free_batch(whole: Graph, image: ImageInput, tensors: Sequence[str]) -> Graph:
    """Return the part of the graph up to some tensors, in which no constant holds the fixed batch.

    That each patch still gives what it gave is not known here but found out by `verify`.
    """
    graph = whole.part(inputs=whole.inputs, outputs=list(map(untyped, tensors)))
    if image.batch is None:
        return graph
    dependent = graph.dependent_on(image.name)
    asked = {
        name
        for node in graph.nodes
        if node.op_type in ("Reshape", "Expand", "Concat") and not dependent.isdisjoint(node.output)
        for name in (node.input if node.op_type == "Concat" else node.input[1:2])
        if name not in dependent
    }
    values = graph.values_of(asked)
    nodes, graph.nodes = graph.nodes, []
    for node in nodes:
        if not dependent.isdisjoint(node.output):
            if node.op_type in ("Reshape", "Expand") and node.input[1] in values:
                target = _free_target(node.op_type, values[node.input[1]], image.batch)
                node.input[1] = graph.constant(target, name=node.input[1])
            elif node.op_type == "Concat":
                _free_concat(graph, node, values, dependent, image.batch)
        graph.nodes.append(node)
    return graph


def _free_target(operation: str, target: NDArray[Any], batch: int) -> NDArray[Any]:
    """Return the shape to ask for instead of one that starts with the batch.

    A target without -1 may start with -1 whatever it starts with: that is the size it had.
    """
    free = target.copy()
    if target.size == 0:
        return free
    if operation == "Expand":
        free[0] = 1 if target[0] == batch else target[0]  # 1 leaves the tensor's own size
    elif -1 not in target[1:]:
        free[0] = -1
    elif target[0] == batch:
        free[0] = 0  # the size that the tensor has on this axis
    return free


def _free_concat(
    graph: Graph,
    node: onnx.NodeProto,
    values: dict[str, NDArray[Any]],
    dependent: set[str],
    batch: int,
) -> None:
    """Repeat constants that are joined to the patches' tensors (class tokens) for every patch."""
    axis = next(a.i for a in node.attribute if a.name == "axis")
    like = next(name for name in node.input if name in dependent)
    for i, name in enumerate(node.input):
        value = values.get(name)
        if value is None or axis in (0, -value.ndim) or value.shape[0] != batch:
            continue
        if (value != value[:1]).any():  # not the same for each patch
            continue
        one = graph.constant(value[:1], name=f"{name}.one")
        rest = graph.constant(np.ones(value.ndim - 1, np.int64), name=f"{name}.rest")
        first = graph.constant(np.zeros(1, np.int64), name=f"{name}.first")
        x = graph.add("Shape", [like], name=f"{name}.like")
        x = graph.add("Gather", [x, first], name=f"{name}.batch", axis=0)
        x = graph.add("Concat", [x, rest], name=f"{name}.shape", axis=0)
        node.input[i] = graph.add("Expand", [one, x], name=f"{name}.repeated")
