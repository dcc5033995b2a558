"""LayerScale of vision transformers in the weights of the layer before it: (x W + b) g = x (W g) + b g."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


def fold_scales(path: Path) -> int:
    """Fold products with a constant per feature into the linear layers whose output they alone read.

    Weights are scaled where they lie, in the file beside, and are never in memory all at once. What is left of a
    layer is named as its scale was: its output is that.

    Args:
        path: an ONNX file as torch writes it; changed in place.

    Returns:
        How many were folded.
    """
    model = onnx.load(path, load_external_data=False)
    folding = _Folding(model.graph, path.parent)
    folded = [node for node in model.graph.node if node.op_type == "Mul" and folding.fold(node)]
    if folded:
        for node in folded:
            model.graph.node.remove(node)
        path.write_bytes(model.SerializeToString(deterministic=True))
    return len(folded)


class _Folding:
    """A graph, by the names of its constants and of what makes its tensors."""

    def __init__(self, graph: onnx.GraphProto, folder: Path) -> None:
        self._graph, self._folder = graph, folder
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._made_by = {name: node for node in graph.node for name in node.output}
        self._readers = Counter(name for node in graph.node for name in node.input)
        self._readers.update(value.name for value in graph.output)

    def fold(self, mul: onnx.NodeProto) -> bool:
        """Fold a product, which is then to be left out, if it is a scale behind a linear layer."""
        scale, rest = self._with_constant(mul)
        last = self._only_for(rest)
        if scale is None or last is None:
            return False
        bias, product = None, last
        if last.op_type == "Add":
            bias, rest = self._with_constant(last)
            product = self._only_for(rest)
            if bias is None or list(bias.dims) != list(scale.dims) or product is None:
                return False
        found = self._weight(product) if product.op_type == "MatMul" else None
        if found is None or found.shape[1:] != tuple(scale.dims):
            return False
        factors = self._values(scale, "r")
        if bias is not None:
            # Torch writes equal constants once: this one may be of other layers, too.
            scaled = numpy_helper.from_array(self._values(bias, "r") * factors, f"{rest}.bias")
            self._graph.initializer.append(scaled)
            last.input[list(last.input).index(bias.name)] = scaled.name
        found *= factors
        last.output[0], last.name = mul.output[0], mul.name
        del last.metadata_props[:]
        last.metadata_props.extend(mul.metadata_props)
        return True

    def _with_constant(self, node: onnx.NodeProto) -> tuple[onnx.TensorProto | None, str]:
        """Return the one input that is a constant of one axis, and the name of the other."""
        for name, other in (node.input, reversed(node.input)):
            tensor = self._constants.get(name)
            if tensor is not None and len(tensor.dims) == 1 and _is_float(tensor):
                return tensor, other
        return None, ""

    def _only_for(self, tensor: str) -> onnx.NodeProto | None:
        """Return what makes a tensor that is read once."""
        return self._made_by.get(tensor) if self._readers[tensor] == 1 else None

    def _weight(self, product: onnx.NodeProto) -> NDArray[np.float32] | None:
        """Return the weight of a linear layer as it lies in its file, (in, out), to be changed."""
        name = product.input[1]
        turned = self._only_for(name)
        is_turned = turned is not None and turned.op_type == "Transpose"
        if turned is not None and is_turned:
            name = turned.input[0]
        tensor = self._constants.get(name)
        if tensor is None or len(tensor.dims) != 2 or not _is_float(tensor):
            return None
        if self._readers[name] != 1 or tensor.data_location != onnx.TensorProto.EXTERNAL:
            return None
        values = self._values(tensor, "r+")
        return values.T if is_turned else values

    def _values(self, tensor: onnx.TensorProto, mode: Literal["r", "r+"]) -> NDArray[np.float32]:
        values: NDArray[np.float32]
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            values = numpy_helper.to_array(tensor)
            return values
        place = {entry.key: entry.value for entry in tensor.external_data}
        file, offset = self._folder / place["location"], int(place.get("offset", 0))
        values = np.memmap(file, "<f4", mode, offset, tuple(tensor.dims))
        return values


def _is_float(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_type == onnx.TensorProto.FLOAT)
