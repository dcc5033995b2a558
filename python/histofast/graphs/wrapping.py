"""A foreign ONNX file becomes an encoder: pixels in, features out, proven equal to the original."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from histofast._files import path_of
from histofast._numbers import whole_number
from histofast.encoders import (
    INPUT,
    NOT_STATED,
    EncoderMetadata,
    EncoderSpec,
    cuts_to_props,
    read_spec,
    read_specs,
)
from histofast.errors import ModelError
from histofast.graphs.batches import with_free_batch
from histofast.graphs.building import standardise_pixels, take_pixels
from histofast.graphs.graph import Graph
from histofast.graphs.images import ImageInput, image_input
from histofast.graphs.names import TensorNames
from histofast.graphs.onnx_file import OnnxFile, read_onnx
from histofast.graphs.original import Original, other_sizes, verify
from histofast.graphs.pooling import check_pool, give_features, pooled
from histofast.graphs.proof import BATCHES, checked_out, checked_patches, max_relative_error
from histofast.graphs.standardising import Channels, Standardising
from histofast.graphs.writing import replacing_encoder, write_model

EXPORTER = "histofast wrap 2"  # raised when the same file would become another one
OLDEST_OPSET = 7  # from here on Sub and Mul broadcast as NumPy does
_INTEGER_OPERATIONS = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


def wrap(
    path: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    mean: Sequence[float],
    std: Sequence[float],
    channels: Channels = "rgb",
    scale: float = 1.0,
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
    weights_sha256: str | None = None,
    work: str | None = None,
    patches: NDArray[np.uint8] | None = None,
    overwrite: bool = False,
) -> EncoderSpec:
    """Turn any ONNX file of one image input into an encoder file.

    Scaling and standardising go in front, pooling behind; a fixed batch is freed, weights in other
    files are taken in, or go into one beside `out` where one file would be over 2 GB. Before the file
    takes its name it runs in batches of 1, 2 and 7, and every row must agree with the original, run
    patch by patch and pooled in float64, to 1e-5 of its norm (1e-3 for float16). A file that takes any size is also run at another one; where only sizes in
    some step are taken, as by a U-Net, the encoder says so.

    Args:
        path: an ONNX file whose one input is a batch of float32 or float16 images, (n, 3, h, w)
            or (n, h, w, 3), in opset 7 or newer.
        out: path of the .onnx file to write.
        mean, std, channels, scale: what the network wants of pixels, see `Standardising`; as they are, three
            numbers of red, green and blue in 0..1.
        size_px: makes a graph that takes any size take this one only. None: the file's own, which
            it must not contradict.
        name: what the encoder is called; None: the stem of `out`.
        patch_px: the patch size it is meant for. None: the fixed size; where there is none it must
            be given, and one that the graph can be run on.
        mpp: the resolution it is meant for, um/px.
        output: which tensor becomes the features: an output of the graph, or a name from `cuts`,
            where the graph is then cut. None: the only output, or the only one of two axes.
        pool: see `truncate`.
        network: what the network is called; None: the stem of `path`.
        layer: what the tensor is called; None: its name.
        provenance: where the weights come from; None: the name of the file.
        licence: the terms of the weights; None: not stated.
        weights_sha256: of the weights that `path` was just exported from; None: they are `path`.
        work: see `encoders.EncoderMetadata`; None: not known.
        patches: (n >= 7, p, p, 3) uint8 to compare on, p the patch size; made up when omitted.
        overwrite: replace an existing file.

    Returns:
        The new file's spec. `weights_sha256` and `made_from` are the foreign file's SHA-256 unless
        told otherwise; if it has weights in other files, that of these by name and then of it
        (`cat model.onnx.data model.onnx | sha256sum`).

    Raises:
        FileExistsError: `out` exists and `overwrite` is False.
        FileNotFoundError: no such file, or no folder to write in.
        ModelError: no ONNX file; weights missing; too new or too old; no image input; already an
            encoder; several outputs; no such tensor; it cannot be pooled; its size contradicts
            `size_px` or `patch_px`, or the graph cannot be run on it (the nearest sizes are told); its results depend on the batch or differ.
        TypeError, ValueError: `mean`, `std`, `channels`, `scale`, `size_px`, `patch_px`, `mpp`, `pool`, `patches` or `out`
            of another type or out of range, or `patch_px` is missing.

    Determinism: the same file and arguments give the same bytes.
    """
    path, out = path_of("path", path), checked_out(out)
    check_pool(pool)
    wants = Standardising(mean=mean, std=std, channels=channels, scale=scale)
    file = _read_foreign(path)
    image = image_input(file.graph)
    size_px, patch_px = _sizes(path, image, size_px=size_px, patch_px=patch_px)
    patches = checked_patches(patches, patch_px)
    names = TensorNames(file.graph)
    tensor = _chosen(names, file.graph, output)
    with replacing_encoder(out, overwrite=overwrite) as pending:
        original = Original(file.graph, image, tensor, wants=wants)
        values = original.values(patches[: max(BATCHES)], of_any_size=size_px is None)
        wanted = pooled(values, pool, where=f"{path}: {tensor!r}")
        metadata = EncoderMetadata(
            name=out.stem if name is None else name,
            network=network or "-".join(path.stem.split()),
            layer=layer or output or names.names[tensor],
            d=wanted.shape[1],
            patch_px=patch_px,
            mpp=mpp,
            precision=_precision(file.graph),
            weights_sha256=weights_sha256 or file.sha256,
            provenance=provenance or path.name,
            licence=licence or NOT_STATED,
            exporter=exporter_of(file.graph),
            made_from=file.sha256 if weights_sha256 is None else None,
            work=work,
        )
        graph, inner = from_pixels(file.graph, image, [tensor], size_px=size_px, wants=wants)
        give_features(graph, inner[tensor], values, pool)
        limit = max_relative_error(metadata.precision)
        verify(path, graph, original, patches, wanted, limit=limit, shown=out)
        if size_px is None:
            step_px = other_sizes(path, graph, original, patch_px, pool, limit=limit, shown=out)
            metadata = replace(metadata, step_px=step_px)
        _write(graph, pending, name=metadata.name, props=metadata.to_props())
    return read_spec(out)


def wrap_cuts(
    path: Path,
    *,
    pending: Path,
    encoders: Mapping[str, EncoderMetadata],
    wants: Standardising,
    size_px: int,
    name: str,
) -> None:
    """Write a file of cuts from a foreign file whose outputs are features already, (n, d) each.

    Nothing is compared: whoever knows what the features must be does that.

    Args:
        path: an ONNX file of one image input.
        pending: of the file to write, as `replacing_encoder` yields it.
        encoders: what each output is, all under names of their own; `exporter` is filled in.
        wants: of pixels.
        size_px: the one patch size.
        name: of the file.

    Raises:
        ModelError: no such ONNX file.
        ValueError: two encoders of one name, or none.
    """
    file = _read_foreign(path)
    image = image_input(file.graph)
    graph, inner = from_pixels(file.graph, image, list(encoders), size_px=size_px, wants=wants)
    assert inner == {output: output for output in encoders}, "they are named as encoders have them"
    graph.outputs = [
        helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["n", metadata.d])
        for output, metadata in encoders.items()
    ]
    exporter = exporter_of(file.graph)
    told = {output: replace(each, exporter=exporter) for output, each in encoders.items()}
    _write(graph, pending, name=name, props=cuts_to_props(told, name=name))


def _write(graph: Graph, pending: Path, *, name: str, props: dict[str, str]) -> None:
    """Write a graph as an encoder file of this name and these entries."""
    graph.name, graph.props = name, props
    write_model(graph.to_model(), pending)
    read_specs(pending)  # one that cannot be read is not to take its name


def wrap_exported(
    path: Path,
    *,
    out: Path,
    features: NDArray[np.float32],
    mean: Sequence[float],
    std: Sequence[float],
    patch_px: int,
    **said: Any,
) -> None:
    """Put pixels in front of a file that was just exported, images (n, 3, p, p) to features (n, d).

    As `wrap`, but nothing is run and nothing proven: for who holds what comes out against what was exported, which
    proves both steps at once.

    Args:
        path: the ONNX file.
        out: of the file to write, in a folder of `replacing_encoder`.
        features: (n, d), what it gives for some patches.
        mean, std: of red, green and blue in 0..1.
        patch_px: side of the patches, which it is fixed to.
        said: what else `EncoderMetadata` has.

    Raises:
        ModelError: no sound ONNX file.
    """
    file = _read_foreign(path)
    tensor = _chosen(TensorNames(file.graph), file.graph, None)
    graph, inner = from_pixels(
        file.graph,
        image_input(file.graph),
        [tensor],
        size_px=patch_px,
        wants=Standardising(mean=mean, std=std),
    )
    give_features(graph, inner[tensor], features, "auto")
    metadata = EncoderMetadata(
        d=features.shape[1],
        patch_px=patch_px,
        precision=_precision(file.graph),
        exporter=exporter_of(file.graph),
        **said,
    )
    graph.name, graph.props = metadata.name, metadata.to_props()
    write_model(graph.to_model(), out)


def _read_foreign(path: Path) -> OnnxFile:
    """Read a file that is to become an encoder.

    Raises:
        FileNotFoundError, ModelError: as `wrap` has it.
    """
    file = read_onnx(path)
    if file.is_encoder:
        raise ModelError(
            f"{path} is an encoder already: use it as it is, or cut it with `truncate`"
        )
    if image_input(file.graph).elem_type == onnx.TensorProto.UINT8:
        raise ModelError(
            f"{path} takes pixels but lacks the metadata of an encoder: export it again"
        )
    if file.graph.opset < OLDEST_OPSET:
        raise ModelError(
            f"{path} is of opset {file.graph.opset}, wanted {OLDEST_OPSET} or newer: convert it "
            "with onnx.version_converter, or export it again"
        )
    return file


def _sizes(
    path: Path, image: ImageInput, *, size_px: int | None, patch_px: int | None
) -> tuple[int | None, int]:
    """Return the size that the encoder is fixed to, or None, and the one that it is meant for."""
    size_px = whole_number("size_px", size_px, at_least=1)
    patch_px = whole_number("patch_px", patch_px, at_least=1)
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


def _chosen(tensors: TensorNames, graph: Graph, asked: str | None) -> str:
    """Return the tensor that becomes the features."""
    if asked is not None:
        return tensors.find(asked)
    names = graph.output_names
    outputs = graph.opened().outputs if len(names) > 1 else ()  # their shapes, from ONNX Runtime
    flat = [output.name for output in outputs if len(output.shape) == 2]
    for candidates in (names, flat):
        if len(candidates) == 1:
            return following(tensors, candidates[0])
    shown = ", ".join(
        f"{output.name!r} ({', '.join(str(size or '?') for size in output.shape)})"
        for output in outputs
    )
    if not outputs:
        raise ModelError(f"{graph.where} has no outputs: export it again")
    raise ModelError(f"{graph.where} has {len(outputs)} outputs, {shown}: choose one with output")


def following(graph: TensorNames, tensor: str) -> str:
    """Return an output that depends on the image."""
    if tensor not in graph.names:
        raise ModelError(
            f"{graph.where}: {tensor!r} must follow from the image, got what is the same for all of "
            "them, or the image itself: choose another output"
        )
    return tensor


def _precision(graph: Graph) -> str:
    """Return what most of the weights are: int8 where products are quantised, float16, float32."""
    kinds = {node.op_type for node in graph.nodes}
    bytes_ = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    quantised = {t.name for t in graph.constants.values() if t.data_type in bytes_ and t.dims}
    if kinds & _INTEGER_OPERATIONS or any(
        node.op_type == "DequantizeLinear" and node.input[0] in quantised for node in graph.nodes
    ):
        return "int8"
    sizes = {onnx.TensorProto.FLOAT: 0, onnx.TensorProto.FLOAT16: 0}
    for tensor in graph.constants.values():
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += int(np.prod(tensor.dims))
    half = sizes[onnx.TensorProto.FLOAT16] > sizes[onnx.TensorProto.FLOAT]
    return "float16" if half else "float32"


def exporter_of(graph: Graph) -> str:
    """Return what made a file, and that it was wrapped here."""
    producer = f"{graph.producer_name} {graph.producer_version or ''}".strip() or "unknown"
    return f"{producer}, opset {graph.opset}, {EXPORTER}"


def from_pixels(
    whole: Graph,
    image: ImageInput,
    tensors: Sequence[str],
    *,
    size_px: int | None,
    wants: Standardising,
) -> tuple[Graph, dict[str, str]]:
    """Return a graph up to some tensors that starts at pixels, of any number of patches.

    Scaling, standardising and channels first go in front.

    Returns:
        The graph, and what the tensors are called in it; names that begin as those in front do make way.
    """
    graph = with_free_batch(whole, image, tensors)
    moved = {
        name: graph.unused(f"inner.{name}")
        for name in sorted(graph.names())
        if name == INPUT or name.startswith(f"{INPUT}.")
    }
    graph.inputs = []
    graph.rename(moved)
    nodes, graph.nodes = graph.nodes, []
    take_pixels(graph, size_px=size_px)
    mean, std = wants.of_rgb
    x = standardise_pixels(graph, mean=mean, std=std, layout=image.layout)
    if wants.channels == "bgr":
        turned = graph.constant(np.array([2, 1, 0], np.int64), name="pixels.order")
        axis = 1 if image.layout == "NCHW" else 3
        x = graph.add("Gather", [x, turned], name="pixels.turned", axis=axis)
    if image.elem_type != onnx.TensorProto.FLOAT:
        x = graph.add("Cast", [x], name="pixels.half", to=image.elem_type)
    graph.nodes.extend(nodes)
    graph.rename({moved.get(image.name, image.name): x})
    return graph, {tensor: moved.get(tensor, tensor) for tensor in tensors}
