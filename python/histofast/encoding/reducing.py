"""Encoders of fewer features from slides alone: patches are drawn, axes fitted on some, held against the rest."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from histofast._files import Lock, make_folder, path_of
from histofast._notes import OnNote, log_of, note
from histofast._numbers import whole_number
from histofast._remote import Place
from histofast._words import count
from histofast.encoders import EncoderSpec, find, read_spec, read_specs
from histofast.errors import ModelError
from histofast.patches import split_rows
from histofast.pipeline import FeatureSample, options_asked, pixels_asked, sample_features

_log = log_of(__name__)

LEAST_PATCHES, PATCHES_PER_DIM = 512, 8  # that are drawn
_HELD_OUT = 0.25  # of these

Slides = str | Place | Sequence[str | Place] | None


def reduce(
    encoder: str | os.PathLike[str],
    *,
    out: str | Path,
    dims: int,
    slides: Slides = None,
    n: int | None = None,
    seed: int = 0,
    name: str | None = None,
    overwrite: bool = False,
    on_count: Callable[[int, int], None] | None = None,
    on_note: OnNote | None = None,
    **arguments: Any,
) -> EncoderSpec:
    """Write an encoder that gives the features of another along their first principal axes.

    Patches are drawn at random, evenly from the slides, with the pixels that `extract` would encode. The
    axes are fitted on three quarters of them; on the rest, from eight slides on of other slides, it is
    measured what they keep.

    Args:
        encoder: name or path of an encoder of one output.
        out: path of the .onnx file.
        dims: features that it gives.
        slides: as of `extract`; or `patches=`.
        n: patches in all; None: eight for each of `dims`, 512 at least.
        seed: of the draw.
        name: of the new encoder; None: the old one's and `-pca<dims>`.
        overwrite: replace an existing file.
        on_count: called with the patches encoded and those wanted.
        on_note: called with a line on each slide that is left out.
        arguments: of `extract`, which decide what the encoder sees, and on what it runs: `patches`, `mpp`,
            `patch_px`, `stain`, `tissue`, `device` ...

    Returns:
        The new file's spec; its `reduction` says what it keeps, see `graphs.write_reduced`.

    Raises:
        What `extract` raises before its first slide, and `graphs.write_reduced`.
        ValueError: `dims` is over the features of the encoder, over their rank, or not below the patches
            that it is fitted on; too few patches to measure it.

    Determinism: equal but for last bits on machines of other kinds; a file that is there is what counts.
    """
    from histofast import graphs

    out, dims = path_of("out", out), whole_number("dims", dims, at_least=1)
    n = whole_number("n", n, at_least=1) or max(LEAST_PATCHES, PATCHES_PER_DIM * dims)
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists: choose another name, or ask to overwrite it")
    spec = _one(encoder)
    graphs.check_dims(dims, spec)
    sample = sample_features(
        slides,
        encoder=spec.path,
        n=n,
        seed=seed,
        on_count=on_count,
        on_note=on_note,
        **arguments,
    )
    fitted, held_out = split_rows(
        sample.groups, math.ceil(len(sample.features) * (1 - _HELD_OUT)), seed=seed
    )
    _check_enough(sample, len(fitted), len(held_out), dims)
    return graphs.write_reduced(
        spec.path,
        out=out,
        dims=dims,
        features=sample.features[fitted],
        held_out=sample.features[held_out],
        told={"slides": len(set(sample.sources)), "seed": seed, "pixels": sample.pixels},
        name=name,
        overwrite=overwrite,
    )


def reduced_for_run(
    encoder: str | Path,
    *,
    dims: int,
    folder: Path,
    slides: Slides,
    arguments: dict[str, Any],
    on_count: Callable[[int, int], None] | None = None,
    on_note: OnNote | None = None,
) -> str | Path:
    """Return the reduced encoder that features of a folder are made with; it is fitted once.

    Whoever comes later, with whatever slides, takes the one that is there. Nothing is written in a dry
    run, which goes by the whole encoder where there is no other yet.

    Raises:
        What `reduce` raises.
        ModelError: what is there was made from another encoder, or for other pixels.
    """
    from histofast import graphs

    dims, spec = whole_number("dims", dims, at_least=1), _one(encoder)
    graphs.check_dims(dims, spec)
    path = folder / f"{spec.name}-pca{dims}.onnx"
    if not path.exists():
        if arguments.get("dry_run"):
            return encoder
        heard = {"on_count": on_count, "on_note": on_note}
        _fit_once(path, spec, {**arguments, **heard, "dims": dims, "slides": slides})
    there = read_spec(path)
    _check_same(there, spec, _pixels(spec, arguments))
    told = graphs.reduction_of(there)
    assert told is not None
    fitted_on = f"{count(told['patches'], 'patch')} of {count(told.get('slides', 0), 'slide')}"
    text = f"{path} was fitted on {fitted_on}: {graphs.reduction_in_words(there)}"
    note(_log, text, to=on_note, level=logging.INFO)
    return path


def _fit_once(path: Path, spec: EncoderSpec, arguments: dict[str, Any]) -> None:
    """Write a reduced encoder, unless another process does so now."""
    make_folder(path.parent)
    lock = Lock(path)
    if not lock.acquire():
        text = f"waiting for {lock.holder() or 'another process'}, which makes {path}"
        note(_log, text, to=arguments["on_note"])
        lock.acquire(wait_s=math.inf)
    try:
        if not path.exists():
            given = {name: value for name, value in arguments.items() if name != "overwrite"}
            reduce(spec.path, out=path, **given)
    finally:
        lock.release()


def _one(encoder: str | os.PathLike[str]) -> EncoderSpec:
    path = find(encoder)
    several = read_specs(path)
    if several[0].is_cut:
        raise ModelError(
            f"{path} computes {count(len(several), 'cut')} in one run, dims is for one encoder: export "
            "the one cut by itself"
        )
    return several[0]


def _pixels(spec: EncoderSpec, arguments: dict[str, Any]) -> dict[str, Any]:
    of_pixels = ("mpp", "mag", "patch_px", "patches", "resample", "stain", "icc")
    given = {name: arguments[name] for name in of_pixels if name in arguments}
    return pixels_asked(options_asked(out=Path(), encoder=spec.path, **given), spec)


def _check_enough(sample: FeatureSample, fitted: int, held_out: int, dims: int) -> None:
    from histofast.graphs import MIN_PATCHES

    where = f"{count(len(sample.features), 'patch')} of {count(len(set(sample.sources)), 'slide')}"
    remedy = "ask for fewer, or give more slides"
    if held_out < MIN_PATCHES:
        raise ValueError(
            f"slides must give at least {MIN_PATCHES} patches to measure {dims} dims on, got {held_out} of "
            f"{where}: draw more with n=..., or give more slides"
        )
    if dims >= fitted:
        raise ValueError(
            f"dims must be below the patches that they are fitted on, {fitted} of {where}, got {dims}: "
            f"{remedy}"
        )


def _check_same(there: EncoderSpec, spec: EncoderSpec, pixels: dict[str, Any]) -> None:
    """Refuse a reduced encoder that is not of this one, or was fitted on other pixels."""
    from histofast.graphs import reduction_of

    remedy = "choose another output folder, or name the reduced encoder itself, without dims=..."
    if there.made_from != spec.sha256:
        raise ModelError(
            f"{there.path} was made from another encoder than {spec.path}, whose name is the same: "
            f"{remedy}"
        )
    told = (reduction_of(there) or {}).get("pixels")
    if not isinstance(told, dict):
        raise ModelError(f"{there.path} does not say which pixels it was fitted on: {remedy}")
    for key, value in pixels.items():
        if told.get(key) != value:
            was, wanted = (
                f"{key} {each['method'] if isinstance(each, dict) else each}"
                for each in (told.get(key), value)
            )
            raise ModelError(
                f"{there.path} was fitted on patches of {was}, asked for is {wanted}: {remedy}"
            )
