"""How much an ONNX graph computes: shapes of its tensors, and multiply-adds of its nodes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from histofast._files import path_of
from histofast._numbers import whole_number
from histofast.errors import ModelError
from histofast.graphs.graph import Graph
from histofast.graphs.images import ImageInput, image_input, type_of
from histofast.graphs.onnx_file import read_onnx
from histofast.graphs.sizes import refuse_size, runs_on

_LARGE = 1024  # values; shape arithmetic never uses constants of more

# Element type and shape by the name of a tensor.
Shapes = dict[str, tuple[int, tuple[int | None, ...]]]
# The types that matter; others are never cut at.
_ELEM_TYPES = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16}


def flops(model: onnx.ModelProto | str | Path, *, patch_px: int) -> dict[str, int]:
    """Count the floating-point operations of one patch: twice the multiply-adds.

    Counted are convolutions and matrix products, quantised ones and those of attention too; not counted are transposed
    convolutions, sums, norms, activations and pooling.

    Args:
        model: an ONNX graph that takes images, or the path of its file.
        patch_px: side of the patch.

    Returns:
        Operations by the first output of each counted node, in order.

    Raises:
        FileNotFoundError: no such file.
        ModelError: not a graph of images, another patch size than it is fixed to, shapes that
            contradict each other.
    """
    patch_px = whole_number("patch_px", patch_px, at_least=1)
    graph = (
        Graph(model)
        if isinstance(model, onnx.ModelProto)
        else read_onnx(path_of("model", model)).graph
    )
    image = image_input(graph)
    return node_flops(graph, shapes_of(graph, image, patch_px=patch_px), batch=image.batch or 1)


def total_flops(model: onnx.ModelProto | str | Path, *, patch_px: int) -> int:
    """Return the sum of `flops`, for which see there."""
    return sum(flops(model, patch_px=patch_px).values())


def meant_px(graph: Graph, image: ImageInput, *, patch_px: int | None) -> int:
    """Return the patch size to look at a graph with: asked for, fixed, meant, or 224."""
    return patch_px or image.height_px or int(graph.props.get("histofast.patch_px", 224))


def shapes_of(graph: Graph, image: ImageInput, *, patch_px: int) -> Shapes:
    """Return element type and shape of every tensor, for one patch or the batch that is fixed.

    Raises:
        ModelError: another patch size than the graph is fixed to or can be run on, or shapes that
            contradict.
    """
    for fixed_px in (image.height_px, image.width_px):
        if fixed_px not in (None, patch_px):
            raise ModelError(
                f"{graph.where} is fixed to patches of {fixed_px} px, got {patch_px} px"
            )
    try:
        return _shapes(graph, image, patch_px)
    except ModelError:
        if image.height_px is None:
            refuse_size(graph.where, runs_on(graph, image), patch_px)
        raise


def _shapes(graph: Graph, image: ImageInput, patch_px: int) -> Shapes:
    light = graph.sibling()
    shape = image.shape(batch=image.batch or 1, patch_px=patch_px)
    light.inputs = [helper.make_tensor_value_info(image.name, image.elem_type, shape)]
    for name, tensor in graph.constants.items():
        if prod(tensor.dims) > _LARGE:  # inference copies what it is given
            del light.constants[name]
            light.inputs.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    light.outputs = [onnx.ValueInfoProto(name=name) for name in graph.output_names]
    try:
        inferred = onnx.shape_inference.infer_shapes(light.to_model(), data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise ModelError(f"{graph.where}: no shapes: {str(error).splitlines()[0]}") from None
    known = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        elem_type, sizes = type_of(value)
        if sizes is not None:
            known[value.name] = (elem_type, sizes)
    known |= {t.name: (t.data_type, tuple(t.dims)) for t in inferred.initializer}
    made = dict.fromkeys(name for node in graph.nodes for name in node.output if name)
    unknown = [name for name in made if name not in known or None in known[name][1]]
    return known | (_measured(graph, unknown, image, shape) if unknown else {})


def _measured(graph: Graph, names: list[str], image: ImageInput, shape: tuple[int, ...]) -> Shapes:
    """Run the graph to see the shapes that inference does not find: it cannot do all arithmetic."""
    probed = graph.sibling()
    probes = [probed.add("Shape", [name], name=f"{name}.shape") for name in names]
    opened = probed.opened([*names, *probes])
    types = {output.name: output.dtype for output in opened.outputs}
    feed = {image.name: np.zeros(shape, image.dtype)}
    sizes = opened.run(feed, probes, where=f"{graph.where}: no shapes")
    return {
        name: (_ELEM_TYPES.get(types[name], 0), tuple(map(int, size)))
        for name, size in zip(names, sizes, strict=True)
    }


def node_flops(graph: Graph, shapes: Shapes, *, batch: int) -> dict[str, int]:
    """Return the operations of one patch, by the first output of each counted node."""
    counted = {}
    for node in graph.nodes:
        count = _COUNTS.get(node.op_type)
        if count is not None and not (count is _attention and node.domain not in ("", "ai.onnx")):
            counted[node.output[0]] = 2 * count(node, shapes) // batch
    return counted


def _sizes(name: str, shapes: Shapes) -> tuple[int, ...]:
    sizes = tuple(size for size in shapes[name][1] if size is not None)
    assert len(sizes) == len(shapes[name][1]), f"{name} has no shape"
    return sizes


_Count = Callable[[onnx.NodeProto, Shapes], int]


def _convolution(weight: int) -> _Count:
    def count(node: onnx.NodeProto, shapes: Shapes) -> int:
        kernel = _sizes(node.input[weight], shapes)  # (out, in / groups, kh, kw)
        return prod(_sizes(node.output[0], shapes)) * prod(kernel[1:])

    return count


def _product(node: onnx.NodeProto, shapes: Shapes) -> int:
    out = _sizes(node.output[0], shapes)
    return prod(out) * _sizes(node.input[0], shapes)[-1]


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    inner = _sizes(node.input[0], shapes)[0 if transposed else 1]
    return prod(_sizes(node.output[0], shapes)) * inner


def _attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Of queries with keys, and of weights with values, whether heads have an axis or not."""
    made = sum(prod(_sizes(name, shapes)) for name in (node.input[0], node.output[0]))
    return made * _sizes(node.input[1], shapes)[-2]  # (..., keys, d)


_COUNTS: dict[str, _Count] = {
    "Attention": _attention,
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "Gemm": _gemm,
    "MatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
}
