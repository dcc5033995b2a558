"""Products with constant weights on integers: where vision transformers spend their time.

Weights are int8 with one scale per output column. Activations are uint8 with one scale, that of the
range that they have in the patch at hand: nothing is cut off, whatever the patch, and ONNX Runtime
does it all in one kernel. Patches that run together would share a range; on a CPU none do. Norms, softmax, attention and activation functions stay in float32.

Before that, exact in real arithmetic, comes smoothing: channels whose activations reach far, which
would make the steps of all others coarse, are shrunk, and their rows of weights grow. A norm before
the product takes the factors into its own weights; elsewhere a multiplication is put in, where it
pays. How strongly is chosen for each product from what its patches hold, by the expected error.

Reference: Xiao et al., 2023, SmoothQuant: Accurate and Efficient Post-Training Quantization for
Large Language Models, equation 4. The strength is theirs for all layers alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from histofast.graphs.exact import LEVELS, weights_of
from histofast.graphs.graph import Graph, attribute
from histofast.graphs.observing import Seen

STRENGTHS = (0.5, 0.625, 0.75, 0.875)
NORMS = {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
# What hands on the values of the tokens, or sums them up.
_PASSING = {
    "Add",
    "Concat",
    "Flatten",
    "Gather",
    "Identity",
    "Mul",
    "Reshape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
_LEAST = 0.1  # of the mean channel: smaller ones decide nothing, and may be larger elsewhere
_WORTH = 0.75  # of the error left is what a multiplication of its own must reach
_STEPS = 127
_TINY = 1e-12


def is_product(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node multiplies activations with a constant matrix of float32."""
    return (
        node.op_type in ("MatMul", "Gemm")
        and node.input[1] in graph.constants
        and node.input[0] not in graph.constants
        and not attribute(node, "transA", 0)
        and graph.array(node.input[1]).dtype == np.float32
        and graph.array(node.input[1]).ndim == 2
    )


def stream_of_tokens(graph: Graph) -> set[str]:
    """Return the tensors that norms of tokens read, and those that these are summed up from.

    The residual stream of a transformer: a few of its channels are far beyond the others, so that
    one scale for all of them is one for none.
    """
    producers = graph.producers()
    found: set[str] = set()
    waiting = [node.input[0] for node in graph.nodes if _is_norm(graph, node)]
    while waiting:
        tensor = waiting.pop()
        if tensor in found or tensor not in producers:
            continue
        found.add(tensor)
        if producers[tensor].op_type in _PASSING:
            waiting += producers[tensor].input
    return found


def _is_norm(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type != "ReduceMean":  # as files of before opset 17 spell a norm
        return node.op_type in NORMS
    axes = attribute(node, "axes", None)
    if axes is None and len(node.input) > 1 and node.input[1] in graph.constants:
        axes = graph.array(node.input[1]).tolist()
    return bool(axes == [-1])


# --- smoothing ---------------------------------------------------------------------------------


def smoothing(seen: Seen, weight: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return what to divide activations by, and what share of the expected error is left then.

    Args:
        seen: the activations, of c channels.
        weight: (c, d), of all products that read them.

    Returns:
        (c,) float64 of geometric mean 1, and the share; (ones, 1.0) where nothing gains.
    """
    reach = _at_least(np.maximum(np.abs(seen.low), np.abs(seen.high)).max(axis=0).astype("f8"))
    rows = _at_least(np.abs(weight).max(axis=1))
    best = np.ones(len(weight))
    alone = least = _expected_error(seen, weight, best)
    for strength in STRENGTHS if reach.any() and rows.any() else ():
        factors = reach**strength / rows ** (1 - strength)
        factors /= np.exp(np.log(factors).mean())
        error = _expected_error(seen, weight, factors)
        if error < least:
            best, least = factors, error
    return best, least / max(alone, _TINY**2)


def _at_least(reach: NDArray[np.float64]) -> NDArray[np.float64]:
    raised: NDArray[np.float64] = np.maximum(reach, _LEAST * reach.mean())
    return raised


def _expected_error(seen: Seen, weight: NDArray[np.float64], factors: NDArray[np.float64]) -> float:
    """Mean squared error of a row of the product, summed over its columns: step**2 / 12 a value."""
    high, low = (seen.high / factors).max(axis=1), (seen.low / factors).min(axis=1)  # (n,)
    step = (np.maximum(high, 0) - np.minimum(low, 0)) / LEVELS
    grown = weight * factors[:, None]
    steps = np.abs(grown).max(axis=0) / _STEPS
    squares = (seen.square.mean(axis=0) / factors**2).sum()
    return float(((step**2).mean() * (grown**2).sum() + (steps**2).sum() * squares) / 12)


def smooth(
    graph: Graph, products: Sequence[onnx.NodeProto], seen: Mapping[str, Seen]
) -> dict[str, NDArray[np.float64]]:
    """Smooth the inputs of products, in place.

    Tensors that change are given other names: whoever looks for a layer must not find these.

    Returns:
        Per product, by its output, what its rows of weights are to be multiplied with: by
        `round_product` or `grow`, so that the weights of all are never in memory twice.
    """
    found: dict[str, NDArray[np.float64]] = {}
    consumers, producers = graph.consumers(), graph.producers()
    for tensor in dict.fromkeys(node.input[0] for node in products):
        readers = [node for node in products if node.input[0] == tensor]
        weight = np.concatenate([_columns(graph, node) for node in readers], axis=1)
        factors, left = smoothing(seen[tensor], weight)
        maker = producers[tensor]
        is_ours = len(consumers[tensor]) == len(readers) and tensor not in graph.output_names
        in_norm = is_ours and _takes_factors(graph, maker, len(factors))
        if left >= (1 if in_norm else _WORTH):
            continue
        smoothed = graph.unused(f"{tensor}.smoothed")
        inverse = (1 / factors).astype(np.float32)
        if in_norm:
            for i in range(1, len(maker.input)):
                value = graph.array(maker.input[i]) * inverse
                maker.input[i] = graph.constant(value, name=maker.input[i])
            maker.output[0] = smoothed
        else:
            by = graph.constant(inverse, name=f"{tensor}.factors")
            graph.insert_after(
                maker, [helper.make_node("Mul", [tensor, by], [smoothed], name=smoothed)]
            )
        for node in readers:
            node.input[0] = smoothed
            found[node.output[0]] = factors
    return found


def grow(graph: Graph, node: onnx.NodeProto, factors: NDArray[np.float64]) -> None:
    """Multiply the rows of weights of a product that stays in float32 with what `smooth` gave."""
    by = factors if attribute(node, "transB", 0) else factors[:, None]
    weight = graph.array(node.input[1]) * by
    node.input[1] = graph.constant(weight.astype(np.float32), name=node.input[1])


def _takes_factors(graph: Graph, node: onnx.NodeProto, channels: int) -> bool:
    """Whether a node is a norm whose own weights are one for each channel."""
    return node.op_type in NORMS and all(
        name in graph.constants and graph.array(name).shape == (channels,)
        for name in node.input[1:]
    )


# --- integers ----------------------------------------------------------------------------------


def round_product(
    graph: Graph, node: onnx.NodeProto, factors: NDArray[np.float64] | None = None
) -> None:
    """Put a product of integers in the place of one; what it reads is rounded once for all.

    Args:
        graph: changed in place.
        node: of it.
        factors: what `smooth` gave for it.
    """
    output = node.output[0]
    weight = _columns(graph, node)
    if factors is not None:
        weight = weight * factors[:, None]
    scale = np.maximum(np.abs(weight).max(axis=0) / _STEPS, _TINY).astype(np.float32)
    steps = np.rint(weight / scale.astype("f8")).astype(np.int8)
    bytes_, step, zero = _rounded(graph, node)
    steps_of = graph.constant(steps, name=f"{node.input[1]}.steps")
    scale_of = graph.constant(scale, name=f"{node.input[1]}.scale")
    has_bias = len(node.input) > 2
    sums, values, unit = (
        graph.unused(f"{output}.{what}") for what in ("sums", "sums.values", "unit")
    )
    product = graph.unused(f"{output}.product") if has_bias else output
    new = [
        helper.make_node("MatMulInteger", [bytes_, steps_of, zero], [sums], name=sums),
        helper.make_node("Cast", [sums], [values], name=values, to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [step, scale_of], [unit], name=unit),
        helper.make_node("Mul", [values, unit], [product], name=product),
    ]
    if has_bias:
        _, bias = weights_of(graph, node)
        bias_of = graph.constant(bias.astype(np.float32), name=node.input[2])
        new.append(helper.make_node("Add", [product, bias_of], [output]))
    new[-1].name = node.name
    graph.replace(node, new)


def _rounded(graph: Graph, node: onnx.NodeProto) -> Sequence[str]:
    """Return bytes, step and zero of what a node reads, put in front of it where they are not there."""
    tensor = node.input[0]
    for other in graph.consumers()[tensor]:
        if other.op_type == "DynamicQuantizeLinear":
            return list(other.output)
    names = [graph.unused(f"{tensor}.{what}") for what in ("bytes", "step", "zero")]
    graph.insert_before(
        node, [helper.make_node("DynamicQuantizeLinear", [tensor], names, name=names[0])]
    )
    return names


def _columns(graph: Graph, node: onnx.NodeProto) -> NDArray[np.float64]:
    """Return the weights of a product as they act, (channels in, channels out)."""
    weight, _ = weights_of(graph, node)
    return weight.T if attribute(node, "transB", 0) else weight
