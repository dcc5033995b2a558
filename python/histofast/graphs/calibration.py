"""Encoders at lower precision from slides alone: patches are drawn, split, and the gate applied."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from histofast._numbers import whole_number
from histofast.encoders import EncoderSpec, find, read_spec
from histofast.graphs.agreeing import MIN_PATCHES
from histofast.graphs.precision import (
    LayerSensitivity,
    Precision,
    float_encoder,
    layer_sensitivity,
    write_quantized,
)
from histofast.patches import PatchImages, PatchSample, TissueOptions, sample_patches

Slides = str | Path | Sequence[str | Path] | None

_PATCHES = 256  # half to calibrate, half to measure


def quantize(
    encoder: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    precision: Precision = "int8",
    slides: Slides = None,
    patches: str | Path | PatchImages | None = None,
    n: int = _PATCHES,
    keep: Sequence[str] = (),
    name: str | None = None,
    mpp_override: float | None = None,
    tissue: TissueOptions | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> EncoderSpec:
    """Write an encoder at lower precision, if it passes the gate on real patches.

    Half of the patches are used to choose the scales, the other half to compare the features; from
    eight slides on, the halves have no slide in common. They are drawn at the size and resolution
    that the encoder is meant for.

    Args:
        encoder: name or path of a float32 encoder.
        out: path of the .onnx file.
        precision: "int8" (CPUs) or "float16" (GPUs).
        slides: slides or folders to draw patches from; see `sample_patches`.
        patches: instead, patch images, as `extract` takes them.
        n: patches in all.
        keep: layers that stay in float32; see `write_quantized`.
        name: of the new encoder.
        mpp_override: level-0 um per pixel of the slides.
        tissue: how their tissue is found.
        seed: of the draw.
        overwrite: replace an existing file.

    Raises:
        What `sample_patches` and `write_quantized` raise.
    """
    if Path(out).exists() and not overwrite:
        raise FileExistsError(f"{out} exists: choose another name, or ask to overwrite it")
    float_encoder(encoder)  # before patches are read
    calibration, held_out = _halves(
        encoder,
        slides=slides,
        patches=patches,
        n=n,
        mpp_override=mpp_override,
        tissue=tissue,
        seed=seed,
    )
    return write_quantized(
        encoder,
        out=out,
        precision=precision,
        calibration=calibration.pixels if precision == "int8" else None,
        held_out=held_out.pixels,
        keep=keep,
        name=name,
        overwrite=overwrite,
    )


def sensitivity(
    encoder: str | os.PathLike[str],
    *,
    slides: Slides = None,
    patches: str | Path | PatchImages | None = None,
    n: int = 2 * MIN_PATCHES,
    mpp_override: float | None = None,
    tissue: TissueOptions | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[LayerSensitivity, ...]:
    """Return what each layer costs when it alone runs on integers, the most sensitive first.

    The arguments are those of `quantize`; `on_progress` is called with the layers done and in all.
    """
    float_encoder(encoder, in_one_file=True)  # before patches are read
    calibration, held_out = _halves(
        encoder,
        slides=slides,
        patches=patches,
        n=n,
        mpp_override=mpp_override,
        tissue=tissue,
        seed=seed,
    )
    return layer_sensitivity(
        encoder, calibration=calibration.pixels, held_out=held_out.pixels, on_progress=on_progress
    )


def _halves(
    encoder: str | os.PathLike[str],
    *,
    slides: Slides,
    patches: str | Path | PatchImages | None,
    n: int,
    mpp_override: float | None,
    tissue: TissueOptions | None,
    seed: int,
) -> tuple[PatchSample, PatchSample]:
    spec = read_spec(find(encoder))
    n, seed = whole_number("n", n), whole_number("seed", seed, at_least=0)
    if n < 2 * MIN_PATCHES:
        raise ValueError(
            f"n must be at least {2 * MIN_PATCHES}, half to calibrate and half to measure, got {n}"
        )
    sample = sample_patches(
        slides,
        patches=patches,
        n=n,
        patch_px=spec.height_px or spec.patch_px,
        mpp=spec.mpp,
        mpp_override=mpp_override,
        tissue=tissue,
        seed=seed,
    )
    calibration, held_out = sample.split(len(sample) // 2, seed=seed)
    if min(len(calibration), len(held_out)) < MIN_PATCHES:
        raise ValueError(
            f"slides must give at least {MIN_PATCHES} patches to calibrate and as many to "
            f"measure, got {len(calibration)} and {len(held_out)}: ask for more, or add slides"
        )
    return calibration, held_out
