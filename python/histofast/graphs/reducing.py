"""Encoders of fewer features: principal axes as the last node of the graph."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from histofast._arrays import check
from histofast._numbers import whole_number
from histofast._words import count
from histofast.encoders import OUTPUT, EncoderMetadata, EncoderSpec, find, load, read_spec
from histofast.errors import ModelError
from histofast.graphs.agreeing import MIN_PATCHES
from histofast.graphs.graph import Graph
from histofast.graphs.onnx_file import read_onnx
from histofast.graphs.principal import PrincipalAxes, kept_by, principal_axes
from histofast.graphs.proof import checked_out, max_relative_error, patches_for
from histofast.graphs.writing import replacing_encoder, write_model

_EXPORTER = "histofast principal axes 1"
_DIGITS = 6  # of what is measured, as the file tells it


def write_reduced(
    encoder: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    dims: int,
    features: NDArray[np.float32],
    held_out: NDArray[np.float32],
    told: Mapping[str, Any] | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> EncoderSpec:
    """Write an encoder that gives its features along their principal axes.

    One Gemm is added to the graph: the projection, with the centring in its bias. Before the file takes
    its name it is held against the projection in float64.

    Args:
        encoder: name or path.
        out: path of the .onnx file.
        dims: features that the new encoder gives.
        features: (n, d) float32 of the encoder, of real patches: the axes are fitted on them.
        held_out: (m, d) float32 of other patches, m >= 32: what is kept is measured on them.
        told: what the file shall say of them besides, JSON values.
        name: of the new encoder; None: the old one's and `-pca<dims>`.
        overwrite: replace an existing file.

    Returns:
        The new file's spec. Its `reduction` is a JSON object: `of` (d), `patches` (n), `held_out` (m),
        `variance` (share kept) and `cka` (debiased, to the whole), both on held-out patches, and `told`.

    Raises:
        FileExistsError, FileNotFoundError: of `out` and its folder, or no such encoder.
        ModelError: no encoder of one output, features that are not finite, a file that differs from its
            definition.
        TypeError, ValueError: arrays of other types or shapes, too few patches, `dims` out of range.
    """
    out, dims = checked_out(out), whole_number("dims", dims, at_least=1)
    spec = read_spec(find(encoder))
    check_dims(dims, spec)
    for what, array in (("features", features), ("held_out", held_out)):
        check(what, array, "float32", ("n", spec.d))
        if not np.isfinite(array).all():
            raise ModelError(f"{spec.name} gives NaN or infinity on these patches: see `verify`")
    if len(held_out) < MIN_PATCHES:
        raise ValueError(
            f"patches to measure on must be at least {MIN_PATCHES}, got {len(held_out)}"
        )
    axes = principal_axes(features, dims)
    try:
        kept = kept_by(axes, held_out)
    except ValueError as error:
        raise ModelError(f"{spec.name} cannot be measured on these patches: {error}") from None
    reduction = {
        "of": spec.d,
        "patches": len(features),
        "held_out": kept.n,
        "variance": round(kept.variance, _DIGITS),
        "cka": round(kept.cka, _DIGITS),
        **(told or {}),
    }
    metadata = spec.derived(
        name=name or f"{spec.name}-pca{dims}",
        d=dims,
        exporter=_EXPORTER,
        reduction=json.dumps(reduction, sort_keys=True),
    )
    with replacing_encoder(out, overwrite=overwrite) as pending:
        write_model(_projected(spec.path, axes, metadata), pending)
        _verify(pending, axes, spec, out=out)
    return read_spec(out)


def check_dims(dims: int, spec: EncoderSpec) -> None:
    """Refuse more features than an encoder has.

    Raises:
        ValueError: it has fewer.
    """
    if dims > spec.d:
        raise ValueError(f"dims must be at most {spec.d}, the features of {spec.name}, got {dims}")


def _projected(path: Path, axes: PrincipalAxes, metadata: EncoderMetadata) -> onnx.ModelProto:
    graph: Graph = read_onnx(path).graph
    inner = graph.unused(f"{OUTPUT}.whole")
    graph.rename({OUTPUT: inner})
    weights = graph.constant(axes.axes.astype(np.float32), name=f"{OUTPUT}.axes")
    # The rounded axes are what the Gemm has: the mean goes through them.
    offset = -(axes.axes.astype(np.float32).astype(np.float64) @ axes.mean)
    bias = graph.constant(offset.astype(np.float32), name=f"{OUTPUT}.offset")
    graph.nodes.append(
        helper.make_node("Gemm", [inner, weights, bias], [OUTPUT], name=OUTPUT, transB=1)
    )
    graph.outputs = [
        helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["n", metadata.d])
    ]
    graph.name, graph.props = metadata.name, metadata.to_props()
    return graph.to_model()


def _verify(pending: Path, axes: PrincipalAxes, spec: EncoderSpec, *, out: Path) -> None:
    """Refuse a file whose features are off by more than the whole ones may be."""
    patches = patches_for(spec, 7)
    with load(spec.path, device="cpu", threads=1) as before:
        whole = before.encode(patches)
    with load(pending, device="cpu", threads=1) as after:
        got = after.encode(patches)
    # A projection does not lengthen: what is known to 1e-5 of a row's norm stays so.
    off = np.linalg.norm(got - axes.of(whole), axis=1)
    scale = np.maximum(np.linalg.norm(whole, axis=1), np.linalg.norm(axes.mean))
    error = float((off / np.maximum(scale, np.finfo(np.float32).tiny)).max())
    limit = max_relative_error(spec.precision)
    if not error <= limit:  # also true for NaN
        raise ModelError(
            f"{out} is not written: its features are off by {error:.1e} of the norm of "
            f"{spec.name}'s, wanted at most {limit:.0e}"
        )


def reduction_of(spec: EncoderMetadata) -> dict[str, Any] | None:
    """Return what an encoder says of its reduction, None where it has none.

    Raises:
        ModelError: it is not as it is written.
    """
    if spec.reduction is None:
        return None
    try:
        told = json.loads(spec.reduction)
        said = {**told, "of": int(told["of"]), "patches": int(told["patches"])}
        return said | {name: float(told[name]) for name in ("variance", "cka")}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ModelError(
            f"encoder {spec.name} must say what its features were reduced from, got no sound entry: "
            "make it again with `histofast models reduce`"
        ) from None


def reduction_in_words(spec: EncoderSpec) -> str:
    """Say what a reduced encoder keeps, in a line."""
    told = reduction_of(spec)
    assert told is not None
    return (
        f"{spec.d} of {count(told['of'], 'feature')}, {told['variance']:.1%} of the variance and "
        f"debiased CKA {told['cka']:.4f} to the whole, on {count(told['held_out'], 'patch')} that "
        f"the axes were not fitted on"
    )
