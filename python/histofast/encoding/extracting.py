"""Slides in, feature files out, by encoders of any kind: names, files and torch modules.

Torch is imported by whoever made a module, never here.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from histofast import pipeline
from histofast._files import path_of
from histofast._remote import Place
from histofast.encoding.reducing import reduced_for_run
from histofast.pipeline import DEFAULT_ENCODER, ExtractArguments, Progress, RunReport

if TYPE_CHECKING:
    from torch.nn import Module

_FOLDER = "encoders"  # in the folder of the features


def extract(
    slides: str | Place | Sequence[str | Place] | None = None,
    *,
    out: str | Path,
    encoder: str | Path | Module | Sequence[str | Path | Module] = DEFAULT_ENCODER,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    name: str | None = None,
    patch_px: int | None = None,
    mpp: float | None = None,
    dims: int | None = None,
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
        dims: features of each patch instead of all: those along the principal axes of each encoder, fitted
            once on patches of these slides. The reduced encoder is `<out>/encoders/<name>-pca<dims>.onnx`;
            later runs in `out`, of other slides too, take the one that is there. See `encoding.reduce`.
        options: the other arguments of `pipeline.extract`, which explains them.

    Raises:
        What `pipeline.extract` raises.
        ModelError: a module that torch cannot export, or whose file differs from it; a reduced encoder
            that was made from another encoder, or for other pixels.
        TypeError: neither a name, a path, a torch module nor several of them.
        ValueError: `mean`, `std` or `patch_px` missing for a module; `mean`, `std` or `name` given
            without one, or a name for several; `dims` over the features of an encoder or their rank, or
            too few patches for them.
    """
    several = _several(encoder)
    folder = path_of("out", out) / _FOLDER
    given = {"mean": mean, "std": std, "name": name}
    several = _with_files(several, folder, given, {"patch_px": patch_px, "mpp": mpp})
    if dims is not None:
        arguments: dict[str, Any] = {**options, "patch_px": patch_px, "mpp": mpp}
        several = _reduced(several, folder, dims, slides, arguments)
    return pipeline.extract(slides, out=out, encoder=several, patch_px=patch_px, mpp=mpp, **options)


def _reduced(
    several: list[Any], folder: Path, dims: int, slides: Any, arguments: dict[str, Any]
) -> list[str | Path]:
    """Return reduced encoders in the place of whole ones; what is told is told as that of the run."""
    on_progress = arguments.get("on_progress")
    start_s = time.perf_counter()

    def tell(name: str, done: int = 0, total: int = 0, *, note: str = "") -> None:
        if on_progress is not None:
            progress = Progress(
                slides_total=0,
                slides_done=0,
                patches_done=done,
                seconds=time.perf_counter() - start_s,
                name=name,
                slide_patches=total,
                slide_patches_done=done,
                note=note,
            )
            on_progress(progress)

    return [
        reduced_for_run(
            each,
            dims=dims,
            folder=folder,
            slides=slides,
            arguments=arguments,
            on_count=partial(tell, "axes"),
            on_note=lambda text: tell("axes", note=text),
        )
        for each in several
    ]


def _with_files(
    several: list[Any], folder: Path, given: dict[str, Any], options: dict[str, Any]
) -> list[Any]:
    """Return encoders with files in the place of modules."""
    modules = list(filter(_is_module, several))
    if not modules:
        _refuse_without_module(**given)
        return several
    if given["name"] is not None and len(modules) > 1:
        raise ValueError(f"name must be of one torch module, got {len(modules)} of them")

    from histofast import networks

    return [
        networks.encoder_file(each, folder, **given, **options) if _is_module(each) else each
        for each in several
    ]


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
