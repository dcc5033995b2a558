"""Slides in, feature files out, by encoders of any kind: names, files and torch modules.

Torch is imported by whoever made a module, never here.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from histofast import pipeline
from histofast._files import path_of
from histofast.pipeline import DEFAULT_ENCODER, ExtractArguments, RunReport

if TYPE_CHECKING:
    from torch.nn import Module

_FOLDER = "encoders"  # in the folder of the features


def extract(
    slides: str | Path | Sequence[str | Path] | None = None,
    *,
    out: str | Path,
    encoder: str | Path | Module | Sequence[str | Path | Module] = DEFAULT_ENCODER,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    name: str | None = None,
    patch_px: int | None = None,
    mpp: float | None = None,
    **options: Unpack[ExtractArguments],
) -> RunReport:
    """Encode slides into feature files, as `pipeline.extract`; the encoder may be a torch module.

    A module becomes an encoder file in `<out>/encoders`, by torch's exporter, and is refused where
    ONNX Runtime does not compute what torch does, to 1e-5 of the features' norm; how near they are
    is told to the log `histofast.networks`, at level INFO. The file is known by the module's weights,
    so that a run is gone on with by the same module, and other weights are another encoder.

    Args:
        slides, out: see `pipeline.extract`.
        encoder: name or ONNX file of one or several encoders; or a torch module that takes
            (n, 3, h, w) float32 and gives (n, d) features or (n, c, h, w) maps, which are averaged.
            Networks of `networks.create` and `networks.adopt` know their mean and deviation.
        mean, std: what the module was trained with, three numbers each, of pixels in 0..1.
        name: of the module as an encoder, and so of its features' folder; None: its class.
        patch_px: side of the patches in pixels, which must be given with a plain module.
        mpp: um per pixel of the patches; None: what the encoder was made for, 0.5 for a module.
        options: the other arguments of `pipeline.extract`, which explains them.

    Raises:
        What `pipeline.extract` raises.
        ModelError: a module that torch cannot export, or whose file differs from it.
        TypeError: neither a name, a path, a torch module nor several of them.
        ValueError: `mean`, `std` or `patch_px` missing for a module; `mean`, `std` or `name` given
            without one, or a name for several.
    """
    several = _several(encoder)
    modules = list(filter(_is_module, several))
    if not modules:
        _refuse_without_module(mean=mean, std=std, name=name)
        return pipeline.extract(
            slides, out=out, encoder=several, patch_px=patch_px, mpp=mpp, **options
        )
    if name is not None and len(modules) > 1:
        raise ValueError(f"name must be of one torch module, got {len(modules)} of them")

    from histofast import networks

    folder = path_of("out", out) / _FOLDER
    files = [
        networks.encoder_file(
            each, folder, mean=mean, std=std, patch_px=patch_px, mpp=mpp, name=name
        )
        if _is_module(each)
        else each
        for each in several
    ]
    return pipeline.extract(slides, out=out, encoder=files, patch_px=patch_px, mpp=mpp, **options)


def _several(encoder: Any) -> list[Any]:
    """Return encoders as a list; a module of modules is one of them.

    Raises:
        TypeError: it is neither one nor several.
    """
    if isinstance(encoder, str | os.PathLike) or _is_module(encoder):
        return [encoder]
    if not isinstance(encoder, Iterable):
        raise TypeError(
            f"encoder must be a name, a path, a torch module or several, got {encoder!r}"
        )
    return list(encoder)


def _is_module(encoder: object) -> bool:
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(encoder, torch.nn.Module)


def _refuse_without_module(**given: object) -> None:
    for argument, value in given.items():
        if value is not None:
            raise ValueError(f"{argument} must be given with a torch module only, got {value!r}")


def _whole_signature() -> inspect.Signature:
    """Return the signature with the options that are handed on, for whoever asks for help."""
    own = inspect.signature(extract)
    shown = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    handed_on = inspect.signature(pipeline.extract).parameters.values()
    more = [p for p in handed_on if p.name not in own.parameters]
    return own.replace(parameters=[*shown, *more])


extract.__signature__ = _whole_signature()  # type: ignore[attr-defined]
