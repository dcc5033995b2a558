"""Where an ONNX graph can be cut, and cutting it: an encoder truncated, a graph in two halves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from histofast._numbers import whole_number
from histofast.encoders import EncoderSpec, find, load, read_spec, refuse_cuts
from histofast.errors import ModelError
from histofast.graphs.capturing import capture
from histofast.graphs.graph import Graph, untyped
from histofast.graphs.images import image_input
from histofast.graphs.names import TensorNames
from histofast.graphs.onnx_file import in_order, read_onnx
from histofast.graphs.operations import meant_px, node_flops, shapes_of
from histofast.graphs.outside import taken_in
from histofast.graphs.pooling import check_pool, feature_axis, give_features, pooled
from histofast.graphs.proof import checked_out, max_relative_error, patches_for, relative_error
from histofast.graphs.sizes import step_of
from histofast.graphs.writing import replacing_encoder, write_model

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
_EXPORTER = "histofast truncate 1"
_FAR = 0.25  # of the work: the ends of parts are listed where no tensor carries all for so long
# What changes the layout or the type of a tensor, not what it says.
_SAME_CONTENT = {
    "Cast",
    "DequantizeLinear",
    "Dropout",
    "Flatten",
    "Identity",
    "QuantizeLinear",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphCut:
    """A place where one tensor carries everything on from input to output, or where a part ends.

    `name` is what to cut at, and so is each of `aliases`: the parts of the network that end here.
    `shape` is for one patch, its batch axis included; `d` is the number of features after pooling,
    `flops_share` the share of all multiply-adds that it takes. `carries_all` is False where other
    tensors go beside it, as around a U-Net's inner parts. `is_part`: a module of at most half of
    the work ends here that lies in no other such one.
    """

    name: str
    aliases: tuple[str, ...]
    tensor: str
    shape: tuple[int, ...]
    d: int
    flops_share: float
    carries_all: bool = True
    is_part: bool = False


def cuts(
    path: str | os.PathLike[str], *, patch_px: int | None = None, also: Sequence[str] = ()
) -> tuple[GraphCut, ...]:
    """List the places where a graph can be cut, in order; the last one is its end.

    Tensors have the names they have in histofast's own files; in exports of torch those of its
    modules (`layer2.1.relu_1`), and the end of a module may be called by it (`layer2`). Where no
    tensor carries all over a quarter of the work, the ends of parts are listed too (`down_layers.3`
    of a U-Net): modules of at most half of it that lie in no other such one. Those that lie in one
    can be cut at all the same. Left out is what comes before the first multiply-add, what only changes layout or type, and what is
    neither (n, c, h, w), (n, tokens, d) nor (n, d) floating-point numbers.

    Args:
        path: any ONNX file of one image input, or the name of a registered encoder.
        patch_px: patch size to look at it with; None: what the file is fixed to or meant for, else
            224.
        also: further tensors or modules to list; one that a cut is called by gives it its name.

    Raises:
        FileNotFoundError: no such file.
        ModelError: no ONNX file of one image input, another patch size than it takes, a file of cuts,
            or nothing of a name in `also`.
    """
    patch_px = whole_number("patch_px", patch_px, at_least=1)
    file = read_onnx(find(path))
    refuse_cuts(file.graph.props, where=str(file.path))
    tensors = TensorNames(file.graph)
    image = image_input(file.graph)
    patch_px = meant_px(file.graph, image, patch_px=patch_px)
    shapes = shapes_of(file.graph, image, patch_px=patch_px)
    by_node = node_flops(file.graph, shapes, batch=image.batch or 1)
    total, done, found = sum(by_node.values()), 0, []
    asked = {tensor: name for name, tensor in tensors.find_all(also).items()}
    parts = tensors.ends_of_parts(by_node)
    beside = parts & tensors.far_from_carriers(by_node, least_share=_FAR) - tensors.carriers
    for node in tensors.nodes:
        tensor = node.output[0]
        done += by_node.get(tensor, 0)
        carries = tensor in tensors.carriers
        is_new = carries and node.op_type not in _SAME_CONTENT and done > 0
        if not (is_new or tensor in beside or tensor in asked):
            continue
        elem_type, sizes = shapes[tensor]
        shape = tuple(size for size in sizes if size is not None)
        if elem_type in FLOATS and len(shape) in (2, 3, 4) and shape[0] == (image.batch or 1):
            taken = done if carries else _work_for(tensor, file.graph, by_node)
            found.append(
                GraphCut(
                    name=asked.get(tensor, tensors.names[tensor]),
                    aliases=tensors.aliases_of(tensor),
                    tensor=tensor,
                    shape=(1, *shape[1:]),
                    d=shape[feature_axis(shape)],
                    flops_share=taken / total,
                    carries_all=carries,
                    is_part=tensor in parts,
                )
            )
    return tuple(found)


def _work_for(tensor: str, graph: Graph, by_node: Mapping[str, int]) -> int:
    return sum(by_node.get(node.output[0], 0) for node in graph.needed_for([tensor]))


def truncate(
    path: str | os.PathLike[str],
    *,
    at: str,
    out: str | os.PathLike[str],
    pool: str = "auto",
    name: str | None = None,
    overwrite: bool = False,
) -> EncoderSpec:
    """Write the part of an encoder up to a tensor, pooled, as an encoder of its own.

    Before the file takes its name its features are compared with that tensor of the original,
    pooled in float64: they must agree to 1e-5 of their norm (float16: 1e-3).

    Args:
        path: an encoder file, or the name of a registered encoder.
        at: a name or alias from `cuts`, or any tensor of the graph.
        out: path of the .onnx file.
        pool: `nchw` and `nhwc`: mean over h and w of (n, c, h, w) or (n, h, w, c); `cls` and `mean`
            of (n, tokens, d): the first token, or the mean of all; `auto`: nchw, and (n, d) as is.
        name: what the encoder is called; None: the stem of `out`.
        overwrite: replace an existing file.

    Returns:
        The new file's spec. Where the weights come from and what it is meant for stay as they were.

    Raises:
        FileExistsError: `out` exists and `overwrite` is False.
        FileNotFoundError: no such file, or no folder to write in.
        ModelError: no encoder in the pixel-in form, no such tensor (close names are offered), one
            that cannot be pooled in this way, results that differ.
        ValueError: `pool` or `out` out of range.

    Determinism: the same file and arguments give the same bytes.
    """
    out = checked_out(out)
    check_pool(pool)
    file = read_onnx(find(path))
    if not file.is_encoder:
        raise ModelError(
            f"{file.path} is not in the pixel-in form: wrap and cut it in one go with `histofast "
            f"models add {file.path} --at {at}`"
        )
    whole = read_spec(file.path)
    tensor = TensorNames(file.graph).find(at)
    patches = patches_for(whole, 7)
    with replacing_encoder(out, overwrite=overwrite) as pending:
        values = capture(file.path, [tensor], patches)[tensor]
        wanted = pooled(values, pool, where=at)
        graph = file.graph.part(inputs=file.graph.inputs, outputs=[untyped(tensor)])
        give_features(graph, tensor, values, pool)
        metadata = whole.derived(
            name=out.stem if name is None else name,
            layer=at,
            d=wanted.shape[1],
            exporter=_EXPORTER,
            step_px=step_of(graph, whole),
            work=None,
        )
        graph.name, graph.props = metadata.name, metadata.to_props()
        write_model(graph.to_model(), pending)
        with load(pending, device="cpu", threads=1) as encoder:
            error = relative_error(encoder.encode(patches), wanted)
        limit = max_relative_error(whole.precision)
        if not error <= limit:  # also true for NaN
            raise ModelError(
                f"{out} is not written: its features differ from {at!r} of {file.path} by "
                f"{error:.1e} of their norm, wanted at most {limit:.0e}"
            )
    return read_spec(out)


def split(
    model: onnx.ModelProto | str | os.PathLike[str], at: str
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return the part of a graph up to a tensor and the part from there on.

    One after the other they compute what the whole does: bit for bit where ONNX Runtime runs all
    three as they are written (`graph_optimization_level = ORT_DISABLE_ALL`). Its optimiser fuses
    nodes across the cut and lays tensors out in blocks, which sums in another order: by default the
    last bits may differ, by about 5e-7 of the largest output.

    Args:
        model: a graph of one image input, or the path of its file.
        at: a name or alias from `cuts`.

    Returns:
        A model from the graph's input to the tensor, and one from the tensor to the outputs.

    Raises:
        FileNotFoundError: no such file.
        ModelError: no such cut (close names are offered), or a tensor beside which others go on.
    """
    if isinstance(model, onnx.ModelProto):
        graph = Graph(model)
        graph.nodes = in_order(graph.nodes, where=graph.where)
    else:
        graph = read_onnx(find(model)).graph
        graph.constants = {name: taken_in(tensor) for name, tensor in graph.constants.items()}
    tensor = TensorNames(graph).find(at, carrying=True)
    inferred = onnx.shape_inference.infer_shapes(graph.to_model()).graph
    known = {value.name: value for value in inferred.value_info}
    passed = known.get(tensor, onnx.ValueInfoProto(name=tensor))
    head = graph.part(inputs=graph.inputs, outputs=[passed])
    tail = graph.part(inputs=[passed], outputs=graph.outputs)
    return head.to_model(), tail.to_model()
