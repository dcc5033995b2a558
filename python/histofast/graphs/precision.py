"""Encoders at lower precision, written only if their features agree with float32's.

The agreement is measured on real patches that played no part in choosing the scales.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._words import did_you_mean
from histofast.encoders import Encoder, EncoderSpec, files_of, find, load, read_spec
from histofast.errors import ModelError
from histofast.graphs.agreeing import MIN_PATCHES, Agreement, agreement, cosines
from histofast.graphs.graph import set_metadata, to_bytes
from histofast.graphs.half import half
from histofast.graphs.int8 import Int8Writer, belongs_to
from histofast.graphs.onnx_file import read_model
from histofast.graphs.overflow import refuse_overflow
from histofast.graphs.proof import checked_out
from histofast.graphs.writing import replacing_encoder, write_model

Precision = Literal["int8", "float16"]

_EXPORTER = {"int8": "histofast int8 2", "float16": "onnxruntime.transformers float16"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSensitivity:
    """What a layer alone costs when it alone runs on integers: 1 - median cosine to float32."""

    layer: str
    loss: float


def write_quantized(
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
        precision: "int8": integers in convolutions and products, for CPUs with VNNI (of vision
            transformers all else stays in float32); "float16": half the memory, for GPUs.
        held_out: (n, h, w, 3) uint8 real patches that the agreement is measured on.
        calibration: (m, h, w, 3) uint8 other real patches that the scales come from; int8 only.
        keep: names of layers, or of groups of them (`layer4`), that stay in float32; int8 only.
        name: of the new encoder; None: the old one's and the precision.
        overwrite: replace an existing file.

    Returns:
        The new file's spec; its `agreement` says what was measured.

    Raises:
        FileExistsError, FileNotFoundError: of `out` and its folder, or no such encoder.
        ModelError: the agreement is below the gate, or inner values do not fit float16 (nothing is
            written), the encoder is not float32, or has nothing to quantise, or no such layer to keep (close ones are offered).
        TypeError, ValueError: wrong arrays, fewer than 32 patches, arguments that do not fit.

    Determinism: bitwise on one kind of CPU.
    """
    if precision not in _EXPORTER:
        raise ValueError(f"precision must be int8 or float16, got {precision!r}")
    out = checked_out(out)
    if (precision == "int8") != (calibration is not None):
        raise ValueError(f"calibration must be given for int8 and only then, got {precision}")
    if keep and precision != "int8":
        raise ValueError(f"keep must be empty for {precision}, got {', '.join(keep)}")
    _checked("held_out", held_out)
    spec = float_encoder(encoder)
    new = spec.derived(
        name=name or f"{spec.name}-{precision}",
        precision=precision,
        exporter=_EXPORTER[precision],
        reduction=spec.reduction,
    )
    with replacing_encoder(out, overwrite=overwrite) as pending:
        if precision == "int8":
            model = _int8(spec, _checked("calibration", calibration), keep)
        else:
            refuse_overflow(spec, held_out[:MIN_PATCHES], out=out)
            model = half(spec.path, beside=pending.parent)
        set_metadata(model, new.to_props())
        write_model(model, pending)
        with load(spec.path, device="cpu") as before, load(pending, device="cpu") as after:
            found = _measured(before, after, held_out)
        if shortfalls := found.shortfalls():
            remedy = (
                ": leave its most sensitive layers in float32 with keep=... (`histofast models "
                "quantize --sensitivity` names them), or calibrate on more varied patches"
            )
            raise ModelError(
                f"{out} is not written: its features differ from those of {spec.name} "
                f"({'; '.join(shortfalls)}; {found.n} patches)"
                f"{remedy if precision == 'int8' else ''}"
            )
        set_metadata(model, replace(new, agreement=found.to_json()).to_props())
        write_model(model, pending)
    return read_spec(out)


def layer_sensitivity(
    encoder: str | os.PathLike[str],
    *,
    calibration: NDArray[np.uint8],
    held_out: NDArray[np.uint8],
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[LayerSensitivity, ...]:
    """Quantise one layer at a time and return what each costs, the most sensitive first.

    Args:
        encoder: name or path of a float32 encoder.
        calibration: (m, h, w, 3) uint8, as for `write_quantized`.
        held_out: (n, h, w, 3) uint8, as for `write_quantized`.
        on_progress: called with the layers done and the layers in all.

    Raises:
        What `write_quantized` raises of its arguments.
        ModelError: the encoder keeps its weights in a second file.
    """
    _checked("held_out", held_out)
    spec = float_encoder(encoder, in_one_file=True)
    with load(spec.path, device="cpu") as before:
        reference = before.encode(held_out)
        writer = Int8Writer(read_model(spec.path), _checked("calibration", calibration))
        found = []
        for done, layer in enumerate(writer.layers, start=1):
            session = before.sibling(to_bytes(writer.write(only=[layer])))
            with session as after:
                cosine = cosines(reference, after.encode(held_out))
            found.append(LayerSensitivity(layer=layer, loss=float(1 - np.median(cosine))))
            if on_progress is not None:
                on_progress(done, len(writer.layers))
    return tuple(sorted(found, key=lambda entry: -entry.loss))


def _checked(what: str, patches: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    assert patches is not None
    n, _, _ = check(what, patches, "uint8", ("n", "h", "w", 3))
    if n < MIN_PATCHES:
        raise ValueError(f"{what} must be at least {MIN_PATCHES} patches, got {n}")
    return patches


def float_encoder(encoder: str | os.PathLike[str], *, in_one_file: bool = False) -> EncoderSpec:
    """Return an encoder that lower precision can start from.

    Raises:
        FileNotFoundError: no such file.
        ModelError: it is not float32, or keeps its weights in a second file and must not.
    """
    spec = read_spec(find(encoder))
    if in_one_file and len(files_of(spec.path)) > 1:
        raise ModelError(
            f"{spec.path} keeps its weights in a second file, what layers cost is measured on encoders "
            "of one: measure a cut of it (`histofast models truncate`)"
        )
    if spec.precision != "float32":
        raise ModelError(
            f"{spec.path} is of precision {spec.precision}: start from the float32 encoder it was "
            "made from"
        )
    return spec


def _int8(
    spec: EncoderSpec, calibration: NDArray[np.uint8], keep: Sequence[str]
) -> onnx.ModelProto:
    writer = Int8Writer(read_model(spec.path), calibration)
    if not writer.layers:
        raise ModelError(
            f"{spec.path} has no convolution or product with constant weights: nothing to quantise"
        )
    for group in keep:
        if not any(belongs_to(layer, group) for layer in writer.layers):
            hint = did_you_mean(group, _groups(writer.layers))
            raise ModelError(f"keep must name layers of {spec.name}, got {group!r}{hint}")
    return writer.write(keep=keep)


def _groups(layers: Sequence[str]) -> list[str]:
    parts = [layer.split(".") for layer in layers]
    return sorted({".".join(p[:i]) for p in parts for i in range(1, len(p) + 1)})


def _measured(before: Encoder, after: Encoder, patches: NDArray[np.uint8]) -> Agreement:
    try:
        return agreement(before.encode(patches), after.encode(patches))
    except ValueError as error:
        raise ModelError(
            f"{before.spec.name} cannot be compared on these patches: {error}"
        ) from None
