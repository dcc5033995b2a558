"""Eight-bit encoders: float32 graphs rewritten so that whole chains of layers run on integers.

Convolutions, and what joins them, are rounded by the ranges of calibration patches: activations are
uint8 with one scale per tensor, weights int8 with one scale per output channel, biases int32,
written as QuantizeLinear / DequantizeLinear pairs, which ONNX Runtime turns into integer kernels.
Products are rounded by the range in each patch: see `products`. What makes or sums up the tokens of
a transformer stays in float32, its first convolution too, which is a hundredth of the work.

Three rewritings, exact in real arithmetic, come first, and the smoothing of products:

- Pixels are bytes already. The first convolution reads them as they are, with a fourth channel of
  ones in which mean and border are accounted for, so that nothing is standardised or rounded.
- A BatchNorm that no convolution can take in, and an average pooling within the network, become
  convolutions of one channel each: these have integer kernels, BatchNorm and averages have not.
- Where channels of very different ranges share a scale (the concatenations of DenseNet, all of
  whose readers work channel by channel), each channel is stretched to the full range of a byte
  where it is made, and shrunk where it is read: rounding then costs every channel the same.

Reference: Jacob et al., 2018, Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference; stretching channels after Nagel et al., 2019, Data-Free
Quantization Through Weight Equalization and Bias Correction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from histofast.graphs.exact import (
    FILLED,
    LEVELS,
    average_pools_to_convolutions,
    bytes_into_convolutions,
    float_tensors,
    fold_batch_norms,
    is_channelwise,
    set_weights,
    weights_of,
)
from histofast.graphs.graph import Graph, attribute
from histofast.graphs.observing import Place, Seen, observe
from histofast.graphs.products import (
    NORMS,
    grow,
    is_product,
    round_product,
    smooth,
    stream_of_tokens,
)

_INTEGER = ("Conv", "Add", "Concat", "MaxPool")  # what ONNX Runtime keeps in uint8 throughout
_CLIPPING = ("Relu", "Clip")  # part of the rounding that follows, where nothing else reads between
_SAME_SCALE = ("Concat", "MaxPool")  # then they only copy bytes
_TINY = 1e-12
# Values beyond the range are cut off, which costs more than coarser steps: with DenseNet121
# calibrated on blurred patches and used on sharp ones, a quarter halved the loss, and cost nothing
# where both were alike.
_HEADROOM = 1.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """What a tensor holds over the calibration patches, per channel: (c,) float64 each."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]


class Int8Writer:
    """Quantises one model; calibrated once, written as often as wanted."""

    def __init__(self, model: onnx.ModelProto, patches: NDArray[np.uint8]) -> None:
        """Rewrite and calibrate.

        Args:
            model: float32, in the pixel-in form.
            patches: (n, h, w, 3) uint8 to measure the ranges of activations on.
        """
        graph = Graph(model)
        graph.fold_constants_in()
        graph.producer_version = None  # that of another file
        self._graph = graph.pruned()
        fold_batch_norms(self._graph)
        average_pools_to_convolutions(self._graph)
        self._stream = stream_of_tokens(self._graph)
        self._bytes = bytes_into_convolutions(self._graph, but=self._stream)
        self._floats = float_tensors(self._graph)
        self._of_maps = self._made_by_convolutions()
        self._consumers = self._graph.consumers()
        seen = self._observe(patches)
        self._ranges = self._ranges_of(seen)
        self._scales: dict[str, tuple[float, int]] = {}
        self._choose_scales()
        products = [node for node in self._graph.nodes if is_product(self._graph, node)]
        of_products = {tensor: found for (tensor, axis), found in seen.items() if axis < 0}
        self._factors = smooth(self._graph, products, of_products)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the nodes that can run on integers and take time, in order."""
        nodes = self._graph.nodes
        found = [n.name for n in nodes if self._is_weighted(n) and self._is_integer(n)]
        return tuple(name for name in found if name != FILLED)

    def write(
        self, *, only: Iterable[str] | None = None, keep: Sequence[str] = ()
    ) -> onnx.ModelProto:
        """Return the quantised model.

        Args:
            only: names of the layers to quantise; None: all, and what joins them.
            keep: names of layers or of groups of them (`layer4`, `layer4.1`) to leave in float32.
        """
        graph = self._graph.pruned()
        chosen = None if only is None else set(only)
        quantised = [
            node
            for node in graph.nodes
            if (node.name in chosen if chosen is not None else self._is_integer(node))
            and not any(belongs_to(node.name, group) for group in keep)
        ]
        names = {node.name for node in quantised}
        # A dict and not a set: its order is that of the graph, and so are the bytes of the file.
        rounded = dict.fromkeys(t for node in quantised for t in self._rounded_around(node))
        for tensor in self._bytes[:1]:
            rounded.pop(tensor, None)  # dequantised where it is made
        for node in list(graph.nodes):
            factors = self._factors.get(node.output[0])
            if node.name in names and is_product(graph, node):
                round_product(graph, node, factors)
                continue
            if factors is not None:
                grow(graph, node, factors)
            if node.name in names and self._is_weighted(node):
                self._round_weights(graph, node)
            elif self._is_weighted(node) and node.input[0] in {*rounded, *self._bytes}:
                _shield(graph, node)
        producers = graph.producers()
        for tensor in rounded:
            _round_tensor(graph, producers[tensor], tensor, *self._scales[tensor])
        return graph.pruned().to_model()

    # --- what is quantised ---------------------------------------------------------------------

    def _is_weighted(self, node: onnx.NodeProto) -> bool:
        if is_product(self._graph, node):
            return True
        constants = self._graph.constants
        return (
            node.op_type == "Conv"
            and node.input[1] in constants
            and node.input[0] not in constants
            and self._graph.array(node.input[1]).dtype == np.float32
        )

    def _is_integer(self, node: onnx.NodeProto) -> bool:
        if is_product(self._graph, node):
            return True
        if node.op_type not in _INTEGER or node.output[0] in self._stream:
            return False
        # An addition of a constant gains nothing; arithmetic of shapes is in integers already.
        return self._is_weighted(node) or (
            node.op_type != "Conv"
            and node.output[0] in self._of_maps
            and self._floats.issuperset((*node.input, node.output[0]))
        )

    def _made_by_convolutions(self) -> set[str]:
        """Return the tensors that come from convolutions on integers, no product or norm between."""
        found: set[str] = set()
        for node in self._graph.nodes:
            if node.op_type == "Conv":
                is_one = self._is_weighted(node) and node.output[0] not in self._stream
            else:
                ends = is_product(self._graph, node) or node.op_type in NORMS
                is_one = not ends and not found.isdisjoint(node.input)
            if is_one:
                found.update(node.output)
        return found

    def _rounded_around(self, node: onnx.NodeProto) -> list[str]:
        """Return the tensors that must be in bytes, of scales known before, for a node's integers."""
        if is_product(self._graph, node):
            return []
        return [*self._graph.activations(node), self._clipped(node.output[0])]

    def _clipped(self, tensor: str) -> str:
        """Return the tensor behind a ReLU that alone reads this one, else the tensor itself."""
        readers = self._consumers[tensor]
        if len(readers) == 1 and readers[0].op_type in _CLIPPING:
            return str(readers[0].output[0])
        return tensor

    # --- ranges and scales ---------------------------------------------------------------------

    def _observe(self, patches: NDArray[np.uint8]) -> dict[Place, Seen]:
        """Return what integers are read from: maps by their channels, and tokens by theirs."""
        integer = [node for node in self._graph.nodes if self._is_integer(node)]
        places = [(t, 1) for node in integer for t in self._rounded_around(node)]
        places += [(n.input[0], -1) for n in integer if is_product(self._graph, n)]
        return observe(self._graph.pruned(), places, patches)

    def _ranges_of(self, seen: dict[Place, Seen]) -> dict[str, Range]:
        ranges = {}
        producers = self._graph.producers()
        for (tensor, axis), found in seen.items():
            if axis < 0:
                continue
            low, high, mean = (v.astype("f8") for v in (found.low, found.high, found.mean))
            ranges[tensor] = Range(low=low.min(0), high=high.max(0), mean=mean.mean(0))
            if tensor not in self._bytes:
                ranges[tensor] = _with_headroom(
                    ranges[tensor], most=_clipped_to(self._graph, producers[tensor])
                )
        return ranges

    def _choose_scales(self) -> None:
        for group in self._groups_of_one_scale():
            if self._can_stretch(group):
                self._stretch(group)
                names = self._rename_stretched(group)
                self._scales.update(dict.fromkeys(names, (1 / LEVELS, 0)))
                continue
            # Zero must be a level: convolutions pad with it.
            low = min(0.0, *(float(self._ranges[t].low.min()) for t in group))
            high = max(0.0, *(float(self._ranges[t].high.max()) for t in group))
            scale = max(high - low, _TINY) / LEVELS
            self._scales.update(dict.fromkeys(group, (scale, round(-low / scale))))
        self._scales.update(dict.fromkeys(self._bytes, (1.0, 0)))

    def _groups_of_one_scale(self) -> list[list[str]]:
        """Return the tensors in groups joined by nodes that only copy bytes."""
        group_of = {tensor: [tensor] for tensor in self._ranges}
        for node in self._graph.nodes:
            if node.op_type in _SAME_SCALE and self._is_integer(node):
                for tensor in node.input:
                    ours, theirs = group_of[node.output[0]], group_of[tensor]
                    if ours is not theirs:
                        ours += theirs
                        group_of.update(dict.fromkeys(theirs, ours))
        return list({id(group): group for group in group_of.values()}.values())

    # --- one range for all channels ------------------------------------------------------------

    def _can_stretch(self, group: Sequence[str]) -> bool:
        """Whether all makers are convolutions and all readers work channel by channel."""
        producers = self._graph.producers()
        joined = [producers[t] for t in group]
        if not any(node.op_type == "Concat" for node in joined):
            return False
        if any(attribute(node, "axis", 1) != 1 for node in joined if node.op_type == "Concat"):
            return False
        for node in joined:
            made_by = producers.get(node.input[0]) if node.op_type == "Relu" else node
            if node.op_type not in _SAME_SCALE and (
                made_by is None or made_by.op_type != "Conv" or not self._is_weighted(made_by)
            ):
                return False
        return all(
            reader.op_type in (*_SAME_SCALE, "GlobalAveragePool")
            or is_channelwise(self._graph, reader)
            for tensor in group
            for reader in self._consumers[tensor]
        )

    def _stretch(self, group: Sequence[str]) -> None:
        """Map every channel's range to 0..1 where it is made, and back where it is read."""
        graph = self._graph
        producers = graph.producers()
        mapped: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        for node in list(graph.nodes):
            if not node.output or node.output[0] not in group:
                continue
            tensor = node.output[0]
            if node.op_type == "Concat":
                low, width = (np.concatenate([mapped[i][k] for i in node.input]) for k in (0, 1))
            elif node.op_type == "MaxPool":
                low, width = mapped[node.input[0]]
            else:
                conv = producers[node.input[0]] if node.op_type == "Relu" else node
                found = self._ranges[tensor]
                # Zero stays zero behind a ReLU.
                low = np.zeros_like(found.low) if node.op_type == "Relu" else found.low
                width = np.maximum(found.high - low, _TINY)
                weight, bias = weights_of(graph, conv)
                per_row = width.reshape(-1, *[1] * (weight.ndim - 1))
                set_weights(graph, conv, weight / per_row, (bias - low) / width)
            mapped[tensor] = low, width
        for tensor in group:
            low, width = mapped[tensor]
            for reader in self._consumers[tensor]:
                if reader.op_type == "GlobalAveragePool":
                    shape = (1, -1, 1, 1)
                    output, inner = reader.output[0], graph.unused(f"{reader.output[0]}.stretched")
                    width_of = graph.constant(
                        width.astype("f4").reshape(shape), name=f"{output}.width"
                    )
                    low_of = graph.constant(low.astype("f4").reshape(shape), name=f"{output}.low")
                    shrunk = graph.unused(f"{output}.shrunk")
                    reader.output[0] = inner
                    graph.insert_after(
                        reader,
                        [
                            helper.make_node("Mul", [inner, width_of], [shrunk], name=shrunk),
                            helper.make_node("Add", [shrunk, low_of], [output], name=low_of),
                        ],
                    )
                elif reader.op_type not in _SAME_SCALE:
                    weight, bias = weights_of(graph, reader)
                    set_weights(
                        graph,
                        reader,
                        weight * width[:, None, None, None],
                        bias + weight[:, 0, 0, 0] * low,
                    )
            found = self._ranges[tensor]
            self._ranges[tensor] = Range(
                low=(found.low - low) / width,
                high=(found.high - low) / width,
                mean=(found.mean - low) / width,
            )

    def _rename_stretched(self, group: Sequence[str]) -> list[str]:
        """Give stretched tensors other names: whoever looks for a layer must not find these."""
        graph, producers = self._graph, self._graph.producers()
        before_relu = [producers[t].input[0] for t in group if producers[t].op_type == "Relu"]
        new = {t: graph.unused(f"{t}.stretched") for t in (*before_relu, *group)}
        for node in graph.nodes:
            for names in (node.input, node.output):
                names[:] = [new.get(name, name) for name in names]
        self._ranges = {new.get(t, t): found for t, found in self._ranges.items()}
        self._floats = {new.get(t, t) for t in self._floats}
        self._of_maps = {new.get(t, t) for t in self._of_maps}
        self._consumers = graph.consumers()
        return [new[t] for t in group]

    # --- writing -------------------------------------------------------------------------------

    def _round_weights(self, graph: Graph, conv: onnx.NodeProto) -> None:
        weight, bias = weights_of(graph, conv)
        others = tuple(range(1, weight.ndim))
        per_channel = [-1, *[1] * len(others)]
        scale_in, _ = self._scales[conv.input[0]]
        scale = np.maximum(np.abs(weight).max(axis=others) / 127, _TINY)
        # A bias must fit an int32 at the scale of the sums.
        scale = np.maximum(scale, np.abs(bias) / (scale_in * 2.0**30)).astype(np.float32)
        steps = np.clip(np.rint(weight / scale.astype("f8").reshape(per_channel)), -127, 127)
        name = conv.input[1]
        conv.input[1] = _dequantised(graph, conv, name, steps.astype(np.int8), scale)
        rounded = steps * scale.astype("f8").reshape(per_channel)
        bias = bias + self._mean_error(conv, weight - rounded)
        scale_sum = np.float32(scale_in) * scale
        steps = np.clip(np.rint(bias / scale_sum.astype("f8")), -(2**31) + 1, 2**31 - 1)
        bias_name = conv.input[2] if len(conv.input) > 2 else f"{conv.name}.bias"
        del conv.input[2:]
        conv.input.append(_dequantised(graph, conv, bias_name, steps.astype(np.int32), scale_sum))

    def _mean_error(self, conv: onnx.NodeProto, error: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what rounding the weights takes from each output on average."""
        mean = self._ranges[conv.input[0]].mean  # (channels,)
        per_input = error.sum(axis=tuple(range(2, error.ndim)))  # (out, in / groups)
        group = attribute(conv, "group", 1)
        means = mean.reshape(group, -1).repeat(len(error) // group, axis=0)
        summed: NDArray[np.float64] = (per_input * means).sum(axis=1)
        return summed


def _with_headroom(found: Range, *, most: float) -> Range:
    """Widen a range by what other slides may reach, but not below a ReLU's zero or above `most`."""
    low = found.mean + (found.low - found.mean) * _HEADROOM
    high = found.mean + (found.high - found.mean) * _HEADROOM
    return Range(
        low=np.where(found.low >= 0, np.maximum(low, 0), low),
        high=np.minimum(high, most),
        mean=found.mean,
    )


def _clipped_to(graph: Graph, node: onnx.NodeProto) -> float:
    """Return the upper bound of what a node gives, if it is a clipping to a constant."""
    if node.op_type != "Clip" or len(node.input) < 3 or node.input[2] not in graph.constants:
        return np.inf
    return float(graph.array(node.input[2]))


def belongs_to(layer: str, group: str) -> bool:
    """Whether a layer is `group` or inside it: `layer4.1` holds `layer4.1.conv2`."""
    return layer == group or layer.startswith((f"{group}.", f"{group}/"))


def _round_tensor(
    graph: Graph, producer: onnx.NodeProto, tensor: str, scale: float, zero: int
) -> None:
    """Put a rounding to bytes behind a tensor; all readers read the rounded one."""
    scale_of = graph.constant(np.array(scale, np.float32), name=f"{tensor}.scale")
    zero_of = graph.constant(np.array(zero, np.uint8), name=f"{tensor}.zero")
    steps, values = graph.unused(f"{tensor}.bytes"), graph.unused(f"{tensor}.rounded")
    for node in graph.nodes:
        for i, name in enumerate(node.input):
            if name == tensor:
                node.input[i] = values
    graph.insert_after(
        producer,
        [
            helper.make_node("QuantizeLinear", [tensor, scale_of, zero_of], [steps], name=steps),
            helper.make_node("DequantizeLinear", [steps, scale_of, zero_of], [values], name=values),
        ],
    )


def _shield(graph: Graph, node: onnx.NodeProto) -> None:
    """Keep ONNX Runtime from rounding the weights of a float32 layer between rounded tensors.

    It does so, with one scale for all channels, where nothing but a ReLU or a pooling stands before
    the next rounding; a leaky ReLU of slope 0 or 1 is a ReLU or nothing, and is not looked through.
    """
    output = node.output[0]
    readers = graph.consumers()[output]
    if len(readers) == 1 and readers[0].op_type == "Relu":
        readers[0].op_type = "LeakyRelu"
        readers[0].attribute.append(helper.make_attribute("alpha", 0.0))
        return
    inner = graph.unused(f"{output}.float")
    node.output[0] = inner
    graph.insert_after(
        node, [helper.make_node("LeakyRelu", [inner], [output], name=inner, alpha=1.0)]
    )


def _dequantised(
    graph: Graph,
    node: onnx.NodeProto,
    name: str,
    steps: NDArray[Any],
    scale: NDArray[np.float32],
) -> str:
    """Put constants of integers in front of a node, to be read as floats; return their name."""
    values = graph.unused(f"{name}.rounded")
    inputs = [
        graph.constant(steps, name=f"{name}.steps"),
        graph.constant(scale, name=f"{name}.scale"),
        graph.constant(np.zeros_like(scale, dtype=steps.dtype), name=f"{name}.zero"),
    ]
    at = next(i for i, other in enumerate(graph.nodes) if other is node)
    graph.nodes.insert(
        at, helper.make_node("DequantizeLinear", inputs, [values], name=values, axis=0)
    )
    return values
