"""An encoder's graph in float16, pixels and features as they were."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

from histofast.graphs import outside
from histofast.graphs.onnx_file import in_order, read_model


def half(path: Path, *, beside: Path) -> onnx.ModelProto:
    """Return the graph of an encoder file, its products and most weights in float16.

    Args:
        path: of a float32 encoder.
        beside: a folder for the weights that are outside, which are converted one at a time.

    Raises:
        FileNotFoundError, ModelError: as `read_model`.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = read_model(path)
    # Standardising stays in float32: the mean of a channel is not a number that float16 has.
    before = [node.name for node in model.graph.node if node.name.startswith("pixels.")]
    far = _taken_out(model)
    kept = [value.name for value in model.graph.output] if far else True
    found = convert_float_to_float16(model, keep_io_types=kept, node_block_list=before)
    _put_back(found, far, beside / "half.data")
    ordered = in_order(found.graph.node, where=str(path))  # it puts the casts last
    nodes = onnx.GraphProto(node=ordered).node
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    return found


def _taken_out(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Turn constants that are outside into inputs, which are given another type without a look."""
    graph = model.graph
    near = [tensor for tensor in graph.initializer if not outside.is_outside(tensor)]
    far = [tensor for tensor in graph.initializer if outside.is_outside(tensor)]
    if far:
        rest = onnx.GraphProto(initializer=near).initializer
        far = list(onnx.GraphProto(initializer=far).initializer)
        del graph.initializer[:]
        graph.initializer.extend(rest)
    for tensor in far:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        graph.input.append(value)
    return {tensor.name: tensor for tensor in far}


def _put_back(model: onnx.ModelProto, far: dict[str, onnx.TensorProto], data: Path) -> None:
    """Turn those inputs into constants again, converted where their type was."""
    if not far:
        return
    from onnxruntime.transformers.float16 import convert_np_to_float16

    inputs = onnx.GraphProto(input=model.graph.input).input
    del model.graph.input[:]
    model.graph.input.extend(value for value in inputs if value.name not in far)
    types = {value.name: value.type.tensor_type.elem_type for value in inputs}
    with data.open("wb") as file:
        for name, tensor in far.items():
            if types[name] != tensor.data_type:
                array = convert_np_to_float16(outside.array_of(tensor))
                tensor.data_type = types[name]
                offset = outside.append(file, array.tobytes())
                outside.put_outside(tensor, data, offset, array.nbytes)
            model.graph.initializer.append(tensor)
