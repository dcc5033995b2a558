"""Encoders at lower precision, written only if their features agree with float32's.

The agreement is measured on real patches that played no part in choosing the scales.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._files import replacing
from histofast._words import did_you_mean
from histofast.encoders import Encoder, EncoderSpec, find, load, read_spec
from histofast.errors import ModelError
from histofast.similarity import cka

Precision = Literal["int8", "float16"]

MIN_PATCHES = 32  # fewer neither show what activations reach nor what the worst patches lose
_EXPORTER = {"int8": "histofast int8 1", "float16": "onnxruntime.transformers float16"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How well features agree with those of a reference, over n patches.

    `median_cosine` and `p1_cosine` (1st percentile) are of the cosine between the two feature
    vectors of each patch, `cka` is the debiased linear CKA of all of them.
    """

    n: int
    median_cosine: float
    p1_cosine: float
    cka: float

    def shortfalls(self) -> list[str]:
        """Return what is below the gate, in words; empty: passed."""
        wanted = asdict(GATE)
        return [
            f"{key.replace('_', ' ').replace('p1', '1st-percentile')} {got:.4f}, wanted at least "
            f"{wanted[key]:g}"
            for key, got in asdict(self).items()
            if key != "n" and not got >= wanted[key]  # also true for NaN
        ]

    def to_json(self) -> str:
        """Return what the file's metadata says."""
        values = {k: v if k == "n" else round(v, 6) for k, v in asdict(self).items()}
        return json.dumps(values, sort_keys=True)


GATE = Agreement(n=MIN_PATCHES, median_cosine=0.99, p1_cosine=0.97, cka=0.99)


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSensitivity:
    """What a layer alone costs when it alone runs on integers: 1 - median cosine to float32."""

    layer: str
    loss: float


def agreement(reference: NDArray[np.float32], features: NDArray[np.float32]) -> Agreement:
    """Compare features with reference features of the same patches.

    Args:
        reference: (n, d) float32, n >= 4.
        features: (n, d) float32, row i of the same patch.

    Raises:
        ValueError: other shapes, NaN or infinity, features that do not vary, a row of zeros.
    """
    n, d = check("reference", reference, "float32", ("n", "d"))
    check("features", features, "float32", (n, d))
    similarity = cka(reference, features)
    empty = ~(reference.any(axis=1) & features.any(axis=1))
    if empty.any():
        raise ValueError(f"features must not be all zero, got {empty.sum()} of {n} rows")
    cosines = _cosines(reference, features)
    return Agreement(
        n=n,
        median_cosine=float(np.median(cosines)),
        p1_cosine=float(np.percentile(cosines, 1)),
        cka=similarity,
    )


def quantize(
    encoder: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    precision: Precision,
    held_out: NDArray[np.uint8],
    calibration: NDArray[np.uint8] | None = None,
    keep: Sequence[str] = (),
    name: str | None = None,
    overwrite: bool = False,
) -> EncoderSpec:
    """Write an encoder at lower precision, if its features agree with those of the original.

    Args:
        encoder: name or path of a float32 encoder.
        out: path of the .onnx file.
        precision: "int8": integers in convolutions and products, for CPUs with VNNI; "float16":
            half the memory, for GPUs.
        held_out: (n, h, w, 3) uint8 real patches that the agreement is measured on.
        calibration: (m, h, w, 3) uint8 other real patches that the scales come from; int8 only.
        keep: names of layers, or of groups of them (`layer4`), that stay in float32; int8 only.
        name: of the new encoder; None: the old one's and the precision.
        overwrite: replace an existing file.

    Returns:
        The new file's spec; its `agreement` says what was measured.

    Raises:
        FileExistsError, FileNotFoundError: of `out` and its folder, or no such encoder.
        ModelError: the agreement is below the gate (nothing is written), the encoder is not
            float32, or has nothing to quantise, or no such layer to keep (close ones are offered).
        TypeError, ValueError: wrong arrays, fewer than 32 patches, arguments that do not fit.

    Determinism: bitwise on one kind of CPU.
    """
    out = Path(out)
    if precision not in _EXPORTER:
        raise ValueError(f"precision must be int8 or float16, got {precision!r}")
    if out.suffix != ".onnx":
        raise ValueError(f"out must end in .onnx, got {out}")
    if (precision == "int8") != (calibration is not None):
        raise ValueError(f"calibration must be given for int8 and only then, got {precision}")
    if keep and precision != "int8":
        raise ValueError(f"keep must be empty for {precision}, got {', '.join(keep)}")
    _checked("held_out", held_out)
    from histofast.graphs import building  # onnx is heavy: only who asks pays

    spec = _float_encoder(encoder)
    new = spec.derived(
        name=name or f"{spec.name}-{precision}",
        precision=precision,
        exporter=_EXPORTER[precision],
    )
    with replacing(out, overwrite=overwrite) as pending:
        if precision == "int8":
            model = _int8(spec, _checked("calibration", calibration), keep)
        else:
            model = _half(spec)
        building.set_metadata(model, new.to_props())
        pending.write_bytes(building.to_bytes(model))
        with load(spec.path, device="cpu") as before, load(pending, device="cpu") as after:
            found = _measured(before, after, held_out)
        if shortfalls := found.shortfalls():
            remedy = (
                ": leave its most sensitive layers in float32 (`--sensitivity` names them, `--keep` "
                "keeps them), or calibrate on more varied patches"
            )
            raise ModelError(
                f"{out} is not written: its features differ from those of {spec.name} "
                f"({'; '.join(shortfalls)}; {found.n} patches)"
                f"{remedy if precision == 'int8' else ''}"
            )
        building.set_metadata(model, replace(new, agreement=found.to_json()).to_props())
        pending.write_bytes(building.to_bytes(model))
    return read_spec(out)


def sensitivity(
    encoder: str | os.PathLike[str],
    *,
    calibration: NDArray[np.uint8],
    held_out: NDArray[np.uint8],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[LayerSensitivity, ...]:
    """Quantise one layer at a time and return what each costs, the most sensitive first.

    Args:
        encoder: name or path of a float32 encoder.
        calibration: (m, h, w, 3) uint8, as for `quantize`.
        held_out: (n, h, w, 3) uint8, as for `quantize`.
        progress: called with the layers done and the layers in all.

    Raises:
        What `quantize` raises of its arguments.
    """
    _checked("held_out", held_out)
    from histofast.graphs import building, int8

    spec = _float_encoder(encoder)
    with load(spec.path, device="cpu") as before:
        reference = before.encode(held_out)
        writer = int8.Int8Writer(
            building.read_model(spec.path), _checked("calibration", calibration)
        )
        found = []
        for done, layer in enumerate(writer.layers, start=1):
            session = before.sibling(building.to_bytes(writer.write(only=[layer])))
            with session as after:
                cosines = _cosines(reference, after.encode(held_out))
            found.append(LayerSensitivity(layer=layer, loss=float(1 - np.median(cosines))))
            if progress is not None:
                progress(done, len(writer.layers))
    return tuple(sorted(found, key=lambda entry: -entry.loss))


def _cosines(reference: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine between the rows of two (n, d) arrays: (n,), 0 for a row of zeros."""
    a, b = reference.astype("f8"), features.astype("f8")
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float64] = (a * b).sum(axis=1) / np.maximum(norms, np.finfo("f8").tiny)
    return cosines


def _checked(what: str, patches: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    assert patches is not None
    n, _, _ = check(what, patches, "uint8", ("n", "h", "w", 3))
    if n < MIN_PATCHES:
        raise ValueError(f"{what} must be at least {MIN_PATCHES} patches, got {n}")
    return patches


def _float_encoder(encoder: str | os.PathLike[str]) -> EncoderSpec:
    spec = read_spec(find(encoder))
    if spec.precision != "float32":
        raise ModelError(
            f"{spec.path} is of precision {spec.precision}: start from the float32 encoder it was "
            "made from"
        )
    return spec


def _int8(spec: EncoderSpec, calibration: NDArray[np.uint8], keep: Sequence[str]) -> Any:
    from histofast.graphs import building, int8

    writer = int8.Int8Writer(building.read_model(spec.path), calibration)
    if not writer.layers:
        raise ModelError(
            f"{spec.path} has no convolution or product with constant weights: nothing to quantise"
        )
    for group in keep:
        if not any(int8.belongs_to(layer, group) for layer in writer.layers):
            near = did_you_mean(group, _groups(writer.layers))
            raise ModelError(f"keep must name layers of {spec.name}, got {group!r}{near}")
    return writer.write(keep=keep)


def _groups(layers: Sequence[str]) -> list[str]:
    parts = [layer.split(".") for layer in layers]
    return sorted({".".join(p[:i]) for p in parts for i in range(1, len(p) + 1)})


def _half(spec: EncoderSpec) -> Any:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    from histofast.graphs import building
    from histofast.graphs.onnx_file import in_order

    model = building.read_model(spec.path)
    # Standardising stays in float32: the mean of a channel is not a number that float16 has.
    before = [node.name for node in model.graph.node if node.name.startswith("pixels.")]
    half = convert_float_to_float16(model, keep_io_types=True, node_block_list=before)
    return in_order(half, where=str(spec.path))  # it puts the casts last, which ONNX forbids


def _measured(before: Encoder, after: Encoder, patches: NDArray[np.uint8]) -> Agreement:
    try:
        return agreement(before.encode(patches), after.encode(patches))
    except ValueError as error:
        raise ModelError(
            f"{before.spec.name} cannot be compared on these patches: {error}"
        ) from None
