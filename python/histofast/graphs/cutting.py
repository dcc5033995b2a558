"""Where an ONNX graph can be cut, and cutting it: an encoder truncated, a graph in two halves."""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from histofast._files import replacing
from histofast._words import did_you_mean
from histofast.encoders import OUTPUT, EncoderSpec, find, load, read_spec, refuse_cuts
from histofast.errors import ModelError
from histofast.graphs.building import set_metadata, to_bytes
from histofast.graphs.capturing import capture
from histofast.graphs.onnx_file import (
    dependent_on,
    extract,
    image_input,
    in_order,
    names_in,
    names_read,
    opset_of,
    read_onnx,
    rename,
    scopes_of,
    untyped,
    unused,
)
from histofast.graphs.operations import meant_px, node_flops, shapes_of
from histofast.graphs.stained import stained_noise

POOLS = ("auto", "nchw", "nhwc", "cls", "mean")
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
_EXPORTER = "histofast truncate 1"
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
    """A place where one tensor carries everything on from input to output.

    `name` is what to cut at, and so is each of `aliases`: the parts of the network that end here.
    `shape` is for one patch, its batch axis included; `d` is the number of features after pooling,
    `flops_share` the share of all multiply-adds up to here.
    """

    name: str
    aliases: tuple[str, ...]
    tensor: str
    shape: tuple[int, ...]
    d: int
    flops_share: float


def cuts(path: str | os.PathLike[str], *, patch_px: int | None = None) -> tuple[GraphCut, ...]:
    """List the places where a graph can be cut, in order; the last one is its end.

    Tensors have the names they have in histofast's own files; in exports of torch those of its
    modules (`layer2.1.relu_1`), and the end of a module may be called by it (`layer2`). Left out is
    what comes before the first multiply-add, what only changes layout or type, and what is neither
    (n, c, h, w), (n, tokens, d) nor (n, d) floating-point numbers.

    Args:
        path: any ONNX file of one image input, or the name of a registered encoder.
        patch_px: patch size to look at it with; None: what the file is fixed to or meant for, else
            224.

    Raises:
        FileNotFoundError: no such file.
        ModelError: no ONNX file of one image input, another patch size than it is fixed to, or a file
            of cuts.
    """
    file = read_onnx(find(path))
    refuse_cuts({p.key: p.value for p in file.model.metadata_props}, where=str(file.path))
    graph = NamedGraph(file.model, where=str(file.path))
    image = image_input(file.model, where=str(file.path))
    patch_px = meant_px(file, image, patch_px=patch_px)
    shapes = shapes_of(file.model, image, patch_px=patch_px, where=str(file.path))
    by_node = node_flops(file.model, shapes, batch=image.batch or 1)
    total, done, found = sum(by_node.values()), 0, []
    for node in graph.nodes:
        tensor = node.output[0]
        done += by_node.get(tensor, 0)
        if tensor not in graph.carriers or not done or node.op_type in _SAME_CONTENT:
            continue
        elem_type, sizes = shapes[tensor]
        shape = tuple(size for size in sizes if size is not None)
        if elem_type in FLOATS and len(shape) in (2, 3, 4) and shape[0] == (image.batch or 1):
            found.append(
                GraphCut(
                    name=graph.names[tensor],
                    aliases=graph.aliases_of(tensor),
                    tensor=tensor,
                    shape=(1, *shape[1:]),
                    d=shape[_feature_axis(shape)],
                    flops_share=done / total,
                )
            )
    return tuple(found)


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
    tensor = NamedGraph(file.model, where=str(file.path)).find(at)
    patches = patches_for(whole, 7)
    with replacing(out, overwrite=overwrite) as pending:
        values = capture(file.path, [tensor], patches)[tensor]
        wanted = pooled(values, pool, where=at)
        model = extract(file.model, inputs=file.model.graph.input[:1], outputs=[untyped(tensor)])
        give_features(model, tensor, values, pool)
        metadata = whole.derived(
            name=out.stem if name is None else name, layer=at, d=wanted.shape[1], exporter=_EXPORTER
        )
        model.graph.name = metadata.name
        set_metadata(model, metadata.to_props())
        pending.write_bytes(to_bytes(model))
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
    if not isinstance(model, onnx.ModelProto):
        file = read_onnx(find(model))
        model, where = file.model, str(file.path)
    else:
        where = model.graph.name or "the graph"
        model = in_order(model, where=where)
    graph = NamedGraph(model, where=where)
    tensor = graph.find(at, carrying=True)
    known = {
        value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    passed = known.get(tensor, onnx.ValueInfoProto(name=tensor))
    constants = {t.name for t in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    head = extract(model, inputs=inputs, outputs=[passed])
    return head, extract(model, inputs=[passed], outputs=model.graph.output)


class NamedGraph:
    """A graph with the names that its tensors go by.

    `nodes` are those between input and outputs, in order; `carriers` are the tensors that carry
    everything on alone; `names` has the name of each tensor.
    """

    def __init__(self, model: onnx.ModelProto, *, where: str) -> None:
        self.where = where
        image = image_input(model, where=where)
        dependent = dependent_on(model.graph, image.name)
        needed = {value.name for value in model.graph.output}
        nodes = []
        for node in reversed(model.graph.node):
            if not needed.isdisjoint(node.output):
                needed.update(names_read(node))
                if not dependent.isdisjoint(node.output):
                    nodes.append(node)
        self.nodes: list[onnx.NodeProto] = nodes[::-1]
        self.carriers = self._carriers(image.name, {v.name for v in model.graph.output})
        self.names, self._ends = _named(self.nodes)

    def _carriers(self, start: str, outputs: set[str]) -> set[str]:
        """Walk along the graph: a tensor that is alone in being needed later carries all."""
        last_read = {name: i for i, node in enumerate(self.nodes) for name in names_read(node)}
        last_read |= dict.fromkeys(outputs, len(self.nodes))
        alive, found = {start}, set()
        for i, node in enumerate(self.nodes):
            alive = {name for name in (*alive, *node.output) if last_read.get(name, -1) > i}
            if alive == {node.output[0]}:
                found.add(node.output[0])
        return found

    def aliases_of(self, tensor: str) -> tuple[str, ...]:
        """Return the modules that end with this tensor, the largest first."""
        taken = set(self.names.values()) | self.names.keys()
        return tuple(a for a, end in self._ends.items() if end == tensor and a not in taken)

    def find(self, at: str, *, carrying: bool = False) -> str:
        """Return the tensor of a name.

        Args:
            at: a tensor, a name, or an alias of a tensor that carries all.
            carrying: refuse every tensor that does not carry all.

        Raises:
            ModelError: there is none, or it does not carry all.
        """
        named = {name: tensor for tensor, name in self.names.items()}
        ends = {alias: end for alias, end in self._ends.items() if end in self.carriers}
        tensor = at if at in self.names else named.get(at) or ends.get(at)
        if tensor is not None and (tensor in self.carriers or not carrying):
            return tensor
        known = {n for n, t in named.items() if t in self.carriers or not carrying} | ends.keys()
        near = did_you_mean(at, sorted(known))
        hint = near or ": list them with `histofast models truncate --list`"
        if tensor is not None or at in self._ends:
            raise ModelError(
                f"{self.where}: {at!r} does not carry everything on, other tensors go beside it"
                f"{hint}"
            )
        raise ModelError(f"{self.where} has no tensor {at!r}{hint}")


def _named(nodes: Sequence[onnx.NodeProto]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the name of each node's tensor, and the last tensor of each module.

    What ends a module is named for it, for the innermost of several; else for what it does there.
    """
    scopes: dict[str, str] = {}
    names: dict[str, str] = {}
    for node in nodes:
        tensor, noted = node.output[0], scopes_of(node)
        if noted is not None:  # "['', 'layer1', 'layer1.0', 'layer1.0.relu', 'relu_2']"
            scope, operation = ["", *ast.literal_eval(noted)][-2:]
            scope = scope.removeprefix("_empty_nn_module_stack_from_metadata_hook")
        elif node.name.startswith("/"):  # /layer1/layer1.0/relu/Relu
            *parts, operation = node.name[1:].split("/")
            scope = _dotted(parts)
        else:
            scopes[tensor] = names[tensor] = tensor
            continue
        scopes[tensor], names[tensor] = scope, f"{scope}.{operation}".lstrip(".")
    ends: dict[str, str] = {}
    for tensor, scope in scopes.items():
        parts = scope.split(".") if scope else []
        ends.update({".".join(parts[: i + 1]): tensor for i in range(len(parts))})
    names |= {tensor: module for module, tensor in sorted(ends.items()) if names[tensor] != tensor}
    times = Counter(names.values())
    return {
        tensor: name if times[name] == 1 and (name == tensor or name not in scopes) else tensor
        for tensor, name in names.items()
    }, ends


def _dotted(parts: Sequence[str]) -> str:
    """Turn `layer1`, `layer1.0`, `relu` into `layer1.0.relu`: a child of a list repeats its parent."""
    kept: list[str] = []
    for part in parts:
        if kept and part.startswith(f"{kept[-1].rpartition('.')[2]}."):
            part = part.partition(".")[2]
        kept.append(part)
    return ".".join(kept)


def check_pool(pool: str) -> None:
    """Refuse a way of pooling that does not exist.

    Raises:
        ValueError: not one of `POOLS`.
    """
    if pool not in POOLS:
        raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")


def checked_out(out: str | os.PathLike[str]) -> Path:
    """Return the path of a file to write.

    Raises:
        ValueError: it is not to be an .onnx file.
    """
    path = Path(out)
    if path.suffix != ".onnx":
        raise ValueError(f"out must end in .onnx, got {path}")
    return path


def _is_channels_last(shape: Sequence[int]) -> bool:
    """Whether (n, h, w, c) is likelier than (n, c, h, w): patches are squares."""
    return len(shape) == 4 and shape[1] == shape[2] != shape[3]


def _feature_axis(shape: Sequence[int]) -> int:
    return 1 if len(shape) == 2 or (len(shape) == 4 and not _is_channels_last(shape)) else -1


def _pooling(shape: Sequence[int], pool: str, *, where: str) -> str:
    """Return how a tensor becomes (n, d): one of `POOLS`, or `none` for one that is.

    Raises:
        ModelError: it cannot, or not in the way that was asked for.
    """
    shown = f"{where} is of shape ({', '.join(map(str, ('n', *shape[1:])))})"
    rank = {"nchw": 4, "nhwc": 4, "cls": 3, "mean": 3}.get(pool)
    if rank == len(shape):
        return pool
    if rank is not None:
        raise ModelError(f"{shown}, pool {pool} is for tensors of {rank} axes: try pool auto")
    if len(shape) == 3:
        raise ModelError(
            f"{shown}: choose its features with pool cls (the first token) or mean (of all tokens)"
        )
    if _is_channels_last(shape):
        raise ModelError(f"{shown}: say which axis has its features with pool nchw or nhwc")
    if len(shape) not in (2, 4):
        raise ModelError(f"{shown}, wanted (n, c, h, w), (n, tokens, d) or (n, d): cut elsewhere")
    return "none" if len(shape) == 2 else "nchw"


def pooled(values: NDArray[np.floating], pool: str, *, where: str) -> NDArray[np.float64]:
    """Return the features of a tensor, (n, d), as the graph made by `give_features` has them.

    Raises:
        ModelError: it holds no floating-point numbers, or cannot be pooled in this way.
    """
    if values.dtype not in (np.float32, np.float16):
        raise ModelError(f"{where} holds {values.dtype}, wanted float32 or float16: cut elsewhere")
    x = values.astype(np.float64)
    how = _pooling(values.shape, pool, where=where)
    if how == "cls":
        return x[:, 0]
    axes = {"none": (), "nchw": (2, 3), "nhwc": (1, 2), "mean": (1,)}[how]
    features: NDArray[np.float64] = x.mean(axis=axes) if axes else x
    return features


def give_features(
    model: onnx.ModelProto, tensor: str, values: NDArray[np.floating], pool: str
) -> None:
    """Let a graph end in `features`: a tensor of it, pooled, as float32.

    Args:
        model: changed in place.
        tensor: one of its tensors.
        values: what it is for some patches.
        pool: one of `POOLS`.
    """
    graph = model.graph
    if OUTPUT in names_in(graph):
        inner = unused(graph, f"{OUTPUT}.inner")
        rename(graph, {OUTPUT: inner})
        tensor = inner if tensor == OUTPUT else tensor
    del graph.output[:]
    add_features(model, tensor, values, pool, output=OUTPUT)


def add_features(
    model: onnx.ModelProto,
    tensor: str,
    values: NDArray[np.floating],
    pool: str,
    *,
    output: str,
) -> None:
    """Give a graph one more output: a tensor of it, pooled, as float32.

    Args:
        model: changed in place.
        tensor: one of its tensors.
        values: what it is for some patches.
        pool: one of `POOLS`.
        output: a name that nothing in the graph has.
    """
    graph = model.graph
    how = _pooling(values.shape, pool, where=tensor)
    x = tensor

    def add(operation: str, *more: str, name: str, **attributes: object) -> str:
        made = name if name == output else unused(graph, name)
        graph.node.append(helper.make_node(operation, [x, *more], [made], name=made, **attributes))
        return made

    def constant(name: str, value: NDArray[np.int64]) -> str:
        name = unused(graph, name)
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    if values.dtype != np.float32:
        x = add("Cast", name="pooled.float", to=onnx.TensorProto.FLOAT)
    if how == "nhwc":
        x = add("Transpose", name="pooled.planes", perm=(0, 3, 1, 2))
    if how in ("nchw", "nhwc"):
        x = add("GlobalAveragePool", name="pooled")
        x = add("Flatten", name="pooled.flat", axis=1)
    elif how == "cls":
        x = add("Gather", constant("pooled.token", np.array(0)), name="pooled", axis=1)
    elif how == "mean" and opset_of(model) < 18:
        x = add("ReduceMean", name="pooled", axes=[1], keepdims=0)
    elif how == "mean":
        x = add("ReduceMean", constant("pooled.axes", np.array([1])), name="pooled", keepdims=0)
    add("Identity", name=output)
    d = pooled(values[:1], pool, where=tensor).shape[1]
    graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["n", d]))


def max_relative_error(precision: str) -> float:
    """Return how much features may differ from their definition, as a share of their norm."""
    return 1e-3 if precision == "float16" else 1e-5


def patches_for(spec: EncoderSpec, n: int) -> NDArray[np.uint8]:
    """Return (n, h, w, 3) made-up patches of a size that an encoder takes."""
    height_px, width_px = spec.height_px or spec.patch_px, spec.width_px or spec.patch_px
    patches = stained_noise(n, max(height_px, width_px))
    return np.ascontiguousarray(patches[:, :height_px, :width_px])


def relative_error(got: NDArray[np.floating], wanted: NDArray[np.floating]) -> float:
    """Return the largest distance between rows, each as a share of the wanted row's norm."""
    norms = np.linalg.norm(wanted, axis=1)
    errors = np.linalg.norm(got - wanted, axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
    return float(errors.max())
