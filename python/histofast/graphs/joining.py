"""Many cuts of one encoder file as one file that computes all of them in one run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.encoders import (
    INPUT,
    OUTPUT,
    EncoderMetadata,
    EncoderSpec,
    cut_name,
    cuts_to_props,
    find,
    load_all,
    read_spec,
    read_specs,
)
from histofast.errors import ModelError
from histofast.graphs.cutting import cuts
from histofast.graphs.graph import untyped
from histofast.graphs.names import TensorNames
from histofast.graphs.onnx_file import OnnxFile, read_onnx
from histofast.graphs.pooling import add_features, check_pool, pooled
from histofast.graphs.proof import (
    BATCHES,
    checked_out,
    max_relative_error,
    patches_for,
    relative_error,
)
from histofast.graphs.sizes import step_of
from histofast.graphs.writing import replacing_encoder, write_model

_EXPORTER = "histofast join_cuts 1"
_POOLINGS = {"GlobalAveragePool", "ReduceMean"}
_RANKS = {"nchw": 4, "nhwc": 4, "cls": 3, "mean": 3}


def join_cuts(
    path: str | os.PathLike[str],
    *,
    at: Sequence[str] | None = None,
    out: str | os.PathLike[str],
    pool: str = "auto",
    name: str | None = None,
    overwrite: bool = False,
) -> tuple[EncoderSpec, ...]:
    """Write a file that computes the features of many cuts of an encoder in one run.

    Before the file takes its name the features of each cut, in batches of 1, 2 and 7, are compared
    with that tensor of the original, pooled in float64: they must agree to 1e-5 of their norm
    (float16: 1e-3).

    Args:
        path: an encoder file, or the name of a registered encoder.
        at: names or aliases of `cuts`, or other tensors or modules; None: all cuts that lie in no
            module of another (no dot in the name), or all where there are none such. Then an
            average over the picture is left out, which has the features of the cut before it.
        out: path of the .onnx file.
        pool: see `truncate`; it is for the tensors that have as many axes, others are pooled by
            `auto`.
        name: what the encoders' names begin with, before `-<cut>`; None: the stem of `out`.
        overwrite: replace an existing file.

    Returns:
        The spec of each cut, in the order of the graph. Where the weights come from and what they
        are meant for stay as they were.

    Raises:
        FileExistsError: `out` exists and `overwrite` is False.
        FileNotFoundError: no such file, or no folder to write in.
        ModelError: no encoder in the pixel-in form, one in int8, no such cut (close names are
            offered), one that cannot be pooled, results that differ.
        ValueError: `at`, `pool` or `out` out of range, or two cuts whose encoders would have one
            name.

    Determinism: the same file and arguments give the same bytes.
    """
    out = checked_out(out)
    check_pool(pool)
    if at is not None and not at:
        raise ValueError("at must name at least one cut, got none: leave it out for all")
    whole = read_spec(find(path))
    if whole.precision == "int8":  # its inner tensors are rounded and rescaled per channel
        raise ModelError(
            f"{whole.path} is int8, whose inner tensors are not the layers' values: join the cuts "
            "of the float32 encoder that it was made from"
        )
    file = read_onnx(whole.path)
    tensors = _chosen(file, at)
    stem = out.stem if name is None else name
    with replacing_encoder(out, overwrite=overwrite) as pending:
        patches = patches_for(whole, max(BATCHES))
        first, wanted = _originals(file, tensors, patches, pool)
        graph = file.graph.part(
            inputs=file.graph.inputs,
            outputs=[untyped(tensor) for tensor in dict.fromkeys(tensors.values())],
        )
        step_px = step_of(graph, whole)
        graph.outputs = []
        encoders: dict[str, EncoderMetadata] = {}
        for cut, tensor in tensors.items():
            how = _pool_for(first[cut], pool)
            output = add_features(graph, tensor, first[cut], how, output=f"{OUTPUT}.{cut}")
            encoders[output] = whole.derived(
                name=cut_name(stem, cut),
                layer=cut,
                d=wanted[cut].shape[1],
                exporter=_EXPORTER,
                step_px=step_px,
                work=None,
            )
        graph.name, graph.props = stem, cuts_to_props(encoders, name=stem)
        write_model(graph.to_model(), pending)
        _verify(
            pending,
            patches,
            wanted,
            limit=max_relative_error(whole.precision),
            whole=whole,
            out=out,
        )
    return read_specs(out)


def _chosen(file: OnnxFile, at: Sequence[str] | None) -> dict[str, str]:
    """Return the tensor of each cut, in the order of the graph."""
    if at is None:
        operations = {node.output[0]: node.op_type for node in file.graph.nodes}
        others = [c for c in cuts(file.path) if operations[c.tensor] not in _POOLINGS]
        outer = [cut for cut in others if "." not in cut.name]
        return {cut.name: cut.tensor for cut in outer or others}
    return TensorNames(file.graph).find_all(at)


def _pool_for(values: NDArray[Any], pool: str) -> str:
    return pool if _RANKS.get(pool) == values.ndim else "auto"


def _originals(
    file: OnnxFile, tensors: dict[str, str], patches: NDArray[np.uint8], pool: str
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.float64]]]:
    """Return each cut's tensor for the first patch, and its features for all, (n, d) float64."""
    names = list(dict.fromkeys(tensors.values()))
    opened = file.graph.opened(names)
    first: dict[str, NDArray[Any]] = {}
    rows: dict[str, list[NDArray[np.float64]]] = {cut: [] for cut in tensors}
    for i in range(len(patches)):  # one by one: the tensors of all cuts are large
        found = dict(zip(names, opened.run({INPUT: patches[i : i + 1]}, names), strict=True))
        for cut, tensor in tensors.items():
            values = found[tensor]
            first.setdefault(cut, values)
            rows[cut].append(pooled(values, _pool_for(values, pool), where=cut))
    return first, {cut: np.concatenate(features) for cut, features in rows.items()}


def _verify(
    file: Path,
    patches: NDArray[np.uint8],
    wanted: dict[str, NDArray[np.float64]],
    *,
    limit: float,
    whole: EncoderSpec,
    out: Path,
) -> None:
    """Refuse a file whose features differ from the original's tensors.

    Raises:
        ModelError: by more than `limit`, in the cut that is named.
    """
    with load_all(file, device="cpu", threads=1) as joined:
        for n in BATCHES:
            got = joined.encode_together(patches[:n])
            for spec, features in zip(joined.specs, got, strict=True):
                error = relative_error(features, wanted[spec.layer][:n])
                if not error <= limit:  # also true for NaN
                    raise ModelError(
                        f"{out} is not written: its features differ from {spec.layer!r} of "
                        f"{whole.path} by {error:.1e} of their norm (batch of {n}), wanted at most "
                        f"{limit:.0e}"
                    )
