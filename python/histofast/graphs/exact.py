"""Rewritings of a graph that change nothing in real arithmetic, so that its layers can be integers.

Pixels go into the first convolution as the bytes that they are, with a fourth channel of ones in
which mean and border are accounted for. BatchNorms that no convolution can take in, and average
poolings within the network, become convolutions of one channel each.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from histofast.encoders import INPUT
from histofast.graphs.graph import Graph, attribute

LEVELS = 255
FILLED = "pixels.filled"  # the pixels with their fourth channel


def fold_batch_norms(graph: Graph) -> None:
    """Take BatchNorms into the convolution before them, or make them convolutions themselves."""
    producers, consumers = graph.producers(), graph.consumers()
    for node in list(graph.nodes):
        if node.op_type != "BatchNormalization":
            continue
        scale, shift, mean, var = (graph.array(i).astype("f8") for i in node.input[1:5])
        factor = scale / np.sqrt(var + attribute(node, "epsilon", 1e-5))
        offset = shift - mean * factor
        before = producers.get(node.input[0])
        if (
            before is not None
            and before.op_type == "Conv"
            and before.input[1] in graph.constants
            and len(consumers[node.input[0]]) == 1
            and node.input[0] not in graph.output_names
        ):
            weight, bias = weights_of(graph, before)
            rows = factor.reshape(-1, *[1] * (weight.ndim - 1))
            set_weights(graph, before, weight * rows, bias * factor + offset)
            before.output[0] = node.output[0]
            producers[node.output[0]] = before
            graph.replace(node, [])
        else:
            channels = len(factor)
            weight_of = graph.constant(
                factor.astype("f4").reshape(channels, 1, 1, 1), name=f"{node.output[0]}.weight"
            )
            bias_of = graph.constant(offset.astype("f4"), name=f"{node.output[0]}.bias")
            conv = helper.make_node(
                "Conv",
                [node.input[0], weight_of, bias_of],
                list(node.output[:1]),
                name=node.name,
                group=channels,
                kernel_shape=[1, 1],
            )
            producers[node.output[0]] = conv
            graph.replace(node, [conv])


def average_pools_to_convolutions(graph: Graph) -> None:
    types = _inferred(graph)
    for node in list(graph.nodes):
        if node.op_type != "AveragePool" or attribute(node, "ceil_mode", 0):
            continue
        pads = attribute(node, "pads", [0])
        if any(pads) and not attribute(node, "count_include_pad", 0):
            continue  # the border is averaged over fewer pixels
        sizes = list(types[node.input[0]].shape.dim) if node.input[0] in types else []
        channels = sizes[1].dim_value if len(sizes) == 4 else 0
        kernel = attribute(node, "kernel_shape", [])
        if not channels or len(kernel) != 2:
            continue
        weight = np.full((channels, 1, *kernel), 1 / np.prod(kernel), np.float32)
        weight_of = graph.constant(weight, name=f"{node.output[0]}.weight")
        bias_of = graph.constant(np.zeros(channels, "f4"), name=f"{node.output[0]}.bias")
        conv = helper.make_node(
            "Conv",
            [node.input[0], weight_of, bias_of],
            list(node.output),
            name=node.name,
            group=channels,
            kernel_shape=kernel,
            strides=attribute(node, "strides", [1, 1]),
            pads=attribute(node, "pads", [0, 0, 0, 0]),
        )
        graph.replace(node, [conv])


def bytes_into_convolutions(graph: Graph, *, but: Container[str]) -> tuple[str, ...]:
    """Let the first convolutions read the pixels themselves; return the tensor they read, if so.

    x = (p / 255 - mean) / std is linear in the bytes p and in a channel that is 255 within the
    picture; both are 0 in a convolution's padding, as x is. The channel is added by a convolution
    of one pixel, exactly: ONNX Runtime's Pad takes longer for it.

    Args:
        graph: changed in place.
        but: tensors whose convolutions stay as they are.

    Returns:
        The tensors that are bytes as they are: the pixels, and those with the fourth channel.
    """
    chain = [graph.consumers().get(INPUT, [])]
    constants: list[NDArray[np.float64]] = []
    for op in ("Transpose", "Cast", "Sub", "Mul"):
        nodes = chain[-1]
        if len(nodes) != 1 or nodes[0].op_type != op:
            return ()
        if len(nodes[0].input) == 2:
            constants.append(graph.array(nodes[0].input[1]).astype("f8").reshape(-1))
        chain.append(graph.consumers()[nodes[0].output[0]])
    readers = chain[-1]
    if not readers or any(
        r.op_type != "Conv"
        or r.output[0] in but
        or r.input[1] not in graph.constants
        or attribute(r, "group", 1) != 1
        for r in readers
    ):
        return ()
    offset, scale = constants  # in units of bytes
    planes = graph.unused("pixels.bytes")
    values = graph.unused("pixels.bytes.values")
    filled = graph.unused(FILLED)
    unit = graph.constant(np.array(1, np.float32), name="pixels.bytes.scale")
    zero = graph.constant(np.array(0, np.uint8), name="pixels.bytes.zero")
    same = graph.constant(np.eye(4, 3, dtype="f4")[:, :, None, None], name=f"{FILLED}.weight")
    full = graph.constant(np.array([0, 0, 0, LEVELS], np.float32), name=f"{FILLED}.bias")
    graph.nodes[:0] = [
        helper.make_node("Transpose", [INPUT], [planes], name=planes, perm=[0, 3, 1, 2]),
        helper.make_node("DequantizeLinear", [planes, unit, zero], [values], name=values),
        helper.make_node("Conv", [values, same, full], [filled], name=filled, kernel_shape=[1, 1]),
    ]
    for conv in readers:
        weight, bias = weights_of(graph, conv)
        of_bytes = weight * scale[:, None, None]
        of_ones = -(of_bytes * (offset / LEVELS)[:, None, None]).sum(axis=1, keepdims=True)
        set_weights(graph, conv, np.concatenate([of_bytes, of_ones], axis=1), bias)
        conv.input[0] = filled
    return values, filled


def _inferred(graph: Graph) -> dict[str, Any]:
    """Return the tensor types that can be inferred, by name; constants are not among them."""
    inferred = onnx.shape_inference.infer_shapes(graph.to_model()).graph
    return {
        value.name: value.type.tensor_type
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }


def float_tensors(graph: Graph) -> set[str]:
    found = _inferred(graph)
    return {name for name, kind in found.items() if kind.elem_type == onnx.TensorProto.FLOAT}


def is_channelwise(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node multiplies and shifts each channel by itself, without padding."""
    if node.op_type != "Conv" or node.input[1] not in graph.constants:
        return False
    shape = graph.array(node.input[1]).shape
    return bool(shape[1:] == (1, 1, 1) and attribute(node, "group", 1) == shape[0])


def weights_of(
    graph: Graph, node: onnx.NodeProto
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weight and bias of a node as they act, zeros where it has no bias."""
    weight = graph.array(node.input[1]).astype("f8")
    if node.op_type == "Gemm":
        weight = weight * attribute(node, "alpha", 1.0)
    by_row = node.op_type == "Conv" or attribute(node, "transB", 0)
    rows = len(weight) if by_row else weight.shape[-1]
    if len(node.input) < 3:
        return weight, np.zeros(rows)
    bias = graph.array(node.input[2]).astype("f8") * attribute(node, "beta", 1.0)
    return weight, np.broadcast_to(bias.reshape(-1), rows)


def set_weights(
    graph: Graph,
    conv: onnx.NodeProto,
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
) -> None:
    # New constants: another node may share the old ones.
    conv.input[1] = graph.constant(weight.astype(np.float32), name=conv.input[1])
    bias_name = conv.input[2] if len(conv.input) > 2 else f"{conv.name}.bias"
    del conv.input[2:]
    conv.input.append(graph.constant(bias.astype(np.float32), name=bias_name))
