"""A foreign ONNX file becomes an encoder: pixels in, features out, proven equal to the original."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from histofast._arrays import check
from histofast._files import replacing
from histofast.encoders import INPUT, OUTPUT, EncoderMetadata, EncoderSpec, read_spec
from histofast.errors import ModelError
from histofast.graphs.building import set_metadata, to_bytes
from histofast.graphs.cutting import (
    NamedGraph,
    check_pool,
    checked_out,
    give_features,
    max_relative_error,
    pooled,
    relative_error,
)
from histofast.graphs.onnx_file import (
    ImageInput,
    OnnxFile,
    constant_values,
    dependent_on,
    extract,
    image_input,
    names_in,
    opset_of,
    read_onnx,
    rename,
    run,
    session_of,
    untyped,
    unused,
    with_outputs,
)
from histofast.graphs.stained import stained_noise

EXPORTER = "histofast wrap 1"  # raised when the same file would become another one
_OLDEST_OPSET = 7  # from here on Sub and Mul broadcast as NumPy does
_BATCHES = (1, 2, 7)
_INTEGER_OPERATIONS = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


def wrap(
    path: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    mean: Sequence[float],
    std: Sequence[float],
    size_px: int | None = None,
    name: str | None = None,
    patch_px: int | None = None,
    mpp: float = 0.5,
    output: str | None = None,
    pool: str = "auto",
    network: str | None = None,
    layer: str | None = None,
    provenance: str | None = None,
    licence: str | None = None,
    patches: NDArray[np.uint8] | None = None,
    overwrite: bool = False,
) -> EncoderSpec:
    """Turn any ONNX file of one image input into an encoder file.

    Scaling and standardising go in front, pooling behind; a fixed batch is freed, weights in other
    files are taken in. Before the file takes its name it runs in batches of 1, 2 and 7, and every
    row must agree with the original, run patch by patch and pooled in float64, to 1e-5 of its norm
    (1e-3 for float16). A file that takes any size is also run at another one.

    Args:
        path: an ONNX file whose one input is a batch of float32 or float16 RGB images, (n, 3, h, w)
            or (n, h, w, 3), in opset 7 or newer.
        out: path of the .onnx file to write.
        mean: per-channel mean that the network expects to be subtracted, in [0, 1] units, RGB.
        std: per-channel standard deviation, same units, all > 0.
        size_px: makes a graph that takes any size take this one only. None: the file's own, which
            it must not contradict.
        name: what the encoder is called; None: the stem of `out`.
        patch_px: the patch size it is meant for. None: the fixed size; where there is none it must
            be given.
        mpp: the resolution it is meant for, um/px.
        output: which tensor becomes the features: an output of the graph, or a name from `cuts`,
            where the graph is then cut. None: the only output, or the only one of two axes.
        pool: see `truncate`.
        network: what the network is called; None: the stem of `path`.
        layer: what the tensor is called; None: its name.
        provenance: where the weights come from; None: the name of the file.
        licence: the terms of the weights; None: not stated.
        patches: (n >= 7, p, p, 3) uint8 to compare on, p the patch size; made up when omitted.
        overwrite: replace an existing file.

    Returns:
        The new file's spec. `weights_sha256` and `made_from` are the foreign file's SHA-256; if it
        has weights in other files, that of all of them one after the other, the ONNX file first,
        then by name (`cat model.onnx model.onnx.data | sha256sum`).

    Raises:
        FileExistsError: `out` exists and `overwrite` is False.
        FileNotFoundError: no such file, or no folder to write in.
        ModelError: no ONNX file; weights missing; too new or too old; no image input; already an
            encoder; several outputs; no such tensor; it cannot be pooled; its size contradicts
            `size_px` or `patch_px`; its results depend on the batch or differ.
        ValueError: `mean`, `std`, `size_px`, `patch_px`, `pool`, `patches` or `out` out of range,
            or `patch_px` is missing.

    Determinism: the same file and arguments give the same bytes.
    """
    path, out = Path(path), checked_out(out)
    check_pool(pool)
    _check_channels("mean", mean)
    _check_channels("std", std)
    if min(std) <= 0:
        raise ValueError(f"std must be positive, got {tuple(std)}")
    file = read_onnx(path)
    if file.is_encoder:
        raise ModelError(
            f"{path} is an encoder already: use it as it is, or cut it with `truncate`"
        )
    image = image_input(file.model, where=str(path))
    if image.elem_type == onnx.TensorProto.UINT8:
        raise ModelError(
            f"{path} takes pixels but lacks the metadata of an encoder: export it again"
        )
    opset = opset_of(file.model)
    if opset < _OLDEST_OPSET:
        raise ModelError(
            f"{path} is of opset {opset}, wanted {_OLDEST_OPSET} or newer: convert it with "
            "onnx.version_converter, or export it again"
        )
    size_px, patch_px = _sizes(path, image, size_px=size_px, patch_px=patch_px)
    if patches is None:
        patches = stained_noise(max(_BATCHES), patch_px)
    (n,) = check("patches", patches, "uint8", ("n", patch_px, patch_px, 3))
    if n < max(_BATCHES):
        raise ValueError(f"patches must be at least {max(_BATCHES)}, got {n}")

    graph = NamedGraph(file.model, where=str(path))
    tensor = _chosen(graph, session_of(file.model, where=str(path)).get_outputs(), output)
    with replacing(out, overwrite=overwrite) as pending:
        original = _Original(file, image, tensor, mean=mean, std=std)
        values = original.run(patches[: max(_BATCHES)])
        wanted = pooled(values, pool, where=f"{path}: {tensor!r}")
        metadata = EncoderMetadata(
            name=out.stem if name is None else name,
            network=_word(path.stem) if network is None else network,
            layer=(output or graph.names[tensor]) if layer is None else layer,
            d=wanted.shape[1],
            patch_px=patch_px,
            mpp=mpp,
            precision=_precision(file.model),
            weights_sha256=file.sha256,
            provenance=provenance or path.name,
            licence=licence or "not stated",
            exporter=_exporter(file.model),
            made_from=file.sha256,
        )
        model = _with_free_batch(file, image, tensor)
        inner = _take_pixels(model, image, tensor, size_px=size_px, mean=mean, std=std)
        give_features(model, inner, values, pool)
        model.graph.name = metadata.name
        set_metadata(model, metadata.to_props())
        limit = max_relative_error(metadata.precision)
        _verify(path, model, original, patches, wanted, limit=limit, shown=out)
        if size_px is None:
            _verify_other_size(path, model, original, patch_px, pool, limit=limit, shown=out)
        pending.write_bytes(to_bytes(model))
        read_spec(pending)
    return read_spec(out)


def _check_channels(name: str, values: Sequence[float]) -> None:
    if len(values) != 3 or not np.isfinite(values).all():
        raise ValueError(f"{name} must be three finite numbers, got {tuple(values)}")


def _word(text: str) -> str:
    return "-".join(text.split())


def _sizes(
    path: Path, image: ImageInput, *, size_px: int | None, patch_px: int | None
) -> tuple[int | None, int]:
    """Return the size that the encoder is fixed to, or None, and the one that it is meant for."""
    for name, value in (("size_px", size_px), ("patch_px", patch_px)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    own = {px for px in (image.height_px, image.width_px) if px is not None}
    if len(own) == 2:
        raise ModelError(
            f"{path} takes {image.height_px} x {image.width_px} px, wanted squares: export it again"
        )
    own_px = next(iter(own), None)
    if own_px is not None and size_px not in (None, own_px):
        raise ModelError(f"{path} takes {own_px} px only, size_px is {size_px}: leave it out")
    size_px = own_px or size_px
    if size_px is not None and patch_px not in (None, size_px):
        raise ModelError(f"{path} takes {size_px} px only, patch_px is {patch_px}: leave it out")
    meant_px = size_px or patch_px
    if meant_px is None:
        raise ValueError(
            f"patch_px must be given, {path} takes patches of any size: say which it is meant for"
        )
    return size_px, meant_px


def _chosen(graph: NamedGraph, outputs: Sequence[Any], asked: str | None) -> str:
    """Return the tensor that becomes the features."""
    if asked is not None:
        return graph.find(asked)
    names = [output.name for output in outputs]
    flat = [output.name for output in outputs if len(output.shape) == 2]
    for candidates in (names, flat):
        if len(candidates) == 1:
            return str(candidates[0])
    shown = ", ".join(
        f"{output.name!r} ({', '.join(str(size or '?') for size in output.shape)})"
        for output in outputs
    )
    raise ModelError(f"{graph.where} has {len(outputs)} outputs, {shown}: choose one with output")


def _precision(model: onnx.ModelProto) -> str:
    """Return what most of the weights are: int8 where products are quantised, float16, float32."""
    kinds = {node.op_type for node in model.graph.node}
    bytes_ = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    quantised = {t.name for t in model.graph.initializer if t.data_type in bytes_ and t.dims}
    if kinds & _INTEGER_OPERATIONS or any(
        node.op_type == "DequantizeLinear" and node.input[0] in quantised
        for node in model.graph.node
    ):
        return "int8"
    sizes = {onnx.TensorProto.FLOAT: 0, onnx.TensorProto.FLOAT16: 0}
    for tensor in model.graph.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += int(np.prod(tensor.dims))
    half = sizes[onnx.TensorProto.FLOAT16] > sizes[onnx.TensorProto.FLOAT]
    return "float16" if half else "float32"


def _exporter(model: onnx.ModelProto) -> str:
    producer = f"{model.producer_name} {model.producer_version}".strip() or "unknown"
    return f"{producer}, {EXPORTER}"


# --- The batch -----------------------------------------------------------------------------------


def _with_free_batch(file: OnnxFile, image: ImageInput, tensor: str) -> onnx.ModelProto:
    """Return the part of the graph up to a tensor, in which no constant holds the fixed batch.

    That each patch still gives what it gave is not known here but found out by `_verify`.
    """
    model = extract(
        file.model,
        inputs=[value for value in file.model.graph.input if value.name == image.name],
        outputs=[untyped(tensor)],
    )
    if image.batch is None:
        return model
    dependent = dependent_on(model.graph, image.name)
    asked = {
        name
        for node in model.graph.node
        if node.op_type in ("Reshape", "Expand", "Concat") and not dependent.isdisjoint(node.output)
        for name in (node.input if node.op_type == "Concat" else node.input[1:2])
        if name not in dependent
    }
    values = constant_values(model, asked)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if not dependent.isdisjoint(node.output):
            if node.op_type in ("Reshape", "Expand") and node.input[1] in values:
                target = _free_target(node.op_type, values[node.input[1]], image.batch)
                node.input[1] = _constant(model.graph, node.input[1], target)
            elif node.op_type == "Concat":
                _free_concat(model.graph, node, values, dependent, image.batch)
        model.graph.node.append(node)
    return model


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
    graph: onnx.GraphProto,
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
        one = _constant(graph, f"{name}.one", value[:1])
        rest = _constant(graph, f"{name}.rest", np.ones(value.ndim - 1, np.int64))
        first = _constant(graph, f"{name}.first", np.zeros(1, np.int64))
        x = _add(graph, "Shape", [like], f"{name}.like")
        x = _add(graph, "Gather", [x, first], f"{name}.batch", axis=0)
        x = _add(graph, "Concat", [x, rest], f"{name}.shape", axis=0)
        node.input[i] = _add(graph, "Expand", [one, x], f"{name}.repeated")


def _constant(graph: onnx.GraphProto, name: str, value: NDArray[Any]) -> str:
    name = unused(graph, name)
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name


def _add(
    graph: onnx.GraphProto, operation: str, inputs: Sequence[str], name: str, **attributes: Any
) -> str:
    name = unused(graph, name)
    graph.node.append(helper.make_node(operation, inputs, [name], name=name, **attributes))
    return name


# --- The front -----------------------------------------------------------------------------------


def _take_pixels(
    model: onnx.ModelProto,
    image: ImageInput,
    tensor: str,
    *,
    size_px: int | None,
    mean: Sequence[float],
    std: Sequence[float],
) -> str:
    """Let a graph start at pixels: scaling, standardising and channels first go in front.

    Returns:
        What the tensor is called now; names that begin as those in front do make way.
    """
    graph = model.graph
    moved = {
        name: unused(graph, f"inner.{name}")
        for name in sorted(names_in(graph))
        if name == INPUT or name.startswith(f"{INPUT}.")
    }
    rename(graph, moved)
    nodes = list(graph.node)
    del graph.node[:], graph.input[:]
    offset, scale = _standardising(mean, std)
    shape = (1, 3, 1, 1) if image.layout == "NCHW" else (1, 1, 1, 3)
    x = INPUT
    if image.layout == "NCHW":
        x = _add(graph, "Transpose", [x], "pixels.planes", perm=(0, 3, 1, 2))
    x = _add(graph, "Cast", [x], "pixels.float", to=onnx.TensorProto.FLOAT)
    x = _add(
        graph,
        "Sub",
        [x, _constant(graph, "pixels.mean", offset.reshape(shape))],
        "pixels.centred",
    )
    x = _add(
        graph,
        "Mul",
        [x, _constant(graph, "pixels.scale", scale.reshape(shape))],
        "pixels.standardised",
    )
    if image.elem_type != onnx.TensorProto.FLOAT:
        x = _add(graph, "Cast", [x], "pixels.half", to=image.elem_type)
    graph.node.extend(nodes)
    rename(graph, {moved.get(image.name, image.name): x})
    sizes = [size_px, size_px] if size_px else ["h", "w"]
    graph.input.append(
        helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, ["n", *sizes, 3])
    )
    return moved.get(tensor, tensor)


def _standardising(
    mean: Sequence[float], std: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what to subtract from pixels and what to multiply the rest with, as `PixelGraph`."""
    offset = (np.asarray(mean, np.float64) * 255).astype(np.float32)
    return offset, (1 / (np.asarray(std, np.float64) * 255)).astype(np.float32)


# --- The proof -----------------------------------------------------------------------------------


class _Original:
    """The foreign graph, run patch by patch on standardised patches; a fixed batch is filled up."""

    def __init__(
        self,
        file: OnnxFile,
        image: ImageInput,
        tensor: str,
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self._where = str(file.path)
        self._image = image
        self._tensor = tensor
        self._session = session_of(with_outputs(file.model, [tensor]), where=self._where)
        self._offset, self._scale = _standardising(mean, std)

    def run(self, patches: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the tensor for all patches.

        Raises:
            ModelError: the graph fails, or the tensor's first axis does not count patches.
        """
        x = (patches.astype(np.float32) - self._offset) * self._scale
        if self._image.layout == "NCHW":
            x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        x = x.astype(self._image.dtype)
        batch = self._image.batch or 1
        found = []
        for i in range(len(x)):
            feed = {self._image.name: np.repeat(x[i : i + 1], batch, axis=0)}
            (values,) = run(self._session, [self._tensor], feed, where=self._where)
            if values.ndim == 0 or len(values) != batch:
                raise ModelError(
                    f"{self._where}: {self._tensor!r} is of shape {values.shape}, wanted one value "
                    "per patch on the first axis: choose another output"
                )
            found.append(values[:1])
        return np.concatenate(found)


def _verify(
    path: Path,
    model: onnx.ModelProto,
    original: _Original,
    patches: NDArray[np.uint8],
    wanted: NDArray[np.float64],
    *,
    limit: float,
    shown: Path,
) -> None:
    """Refuse an encoder whose features differ from the original's in batches of 1, 2 and 7.

    Raises:
        ModelError: they do, or depend on the batch, or another size does not go in.
    """
    session = session_of(model, where=str(shown))
    for n in (n for n in _BATCHES if n <= len(patches)):
        told = f"{shown} is not written: "
        try:
            (got,) = run(session, [OUTPUT], {INPUT: patches[:n]}, where=f"a batch of {n} fails")
        except ModelError as error:
            raise ModelError(f"{told}{error}: export {path.name} with a free batch axis") from None
        if got.shape == wanted[:n].shape:
            largest = relative_error(got, wanted[:n])
            off = f"by {largest:.1e} of their norm, wanted at most {limit:.0e}"
        else:
            largest, off = np.inf, f"in shape, {got.shape} instead of {wanted[:n].shape}"
        if largest <= limit:
            continue
        if n == 1:
            raise ModelError(f"{told}its features differ from those of {path.name} {off}")
        first = _first_dependent(model, patches)
        raise ModelError(
            f"{told}features depend on what else is in the batch"
            f"{f', first in {first!r}' if first else ''} (batch of {n}, they differ {off}): "
            f"export {path.name} with a free batch axis"
        )


def _verify_other_size(
    path: Path,
    model: onnx.ModelProto,
    original: _Original,
    patch_px: int,
    pool: str,
    *,
    limit: float,
    shown: Path,
) -> None:
    """Refuse an encoder that is to take any size but does not.

    Raises:
        ModelError: it fails on another size, or differs from the original there.
    """
    other_px = -(-patch_px // 64) * 32  # about half of it; networks like multiples of 32
    other_px = 2 * patch_px if other_px == patch_px else other_px
    patches = stained_noise(2, other_px)
    try:
        wanted = pooled(original.run(patches), pool, where=path.name)
        _verify(path, model, original, patches, wanted, limit=limit, shown=shown)
    except ModelError as error:
        raise ModelError(
            f"{path} says that it takes any size, but not {other_px} px ({error}): "
            f"fix it with size_px {patch_px}"
        ) from None


def _first_dependent(model: onnx.ModelProto, patches: NDArray[np.uint8]) -> str | None:
    """Return the first tensor that two patches together give otherwise than each alone."""
    dependent = dependent_on(model.graph, INPUT)
    names = [n.output[0] for n in model.graph.node if n.output[0] in dependent]
    session = session_of(with_outputs(model, names), where="the graph")
    values = [
        run(session, names, {INPUT: some}, where="the graph")
        for some in (patches[:1], patches[1:2], patches[:2])
    ]
    for name, one, other, both in zip(names, *values, strict=True):
        if one.dtype.kind != "f" or one.ndim == 0 or len(one) != 1:
            continue
        wanted = np.concatenate([one, other]).astype(np.float64)
        tolerance = 1e-2 * np.abs(wanted).max()
        if both.shape != wanted.shape or not np.abs(both - wanted).max() <= tolerance:
            return str(name)
    return None
