"""`histofast models add`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from histofast.cli import options, standardising
from histofast.cli.output import say

if TYPE_CHECKING:
    from histofast.graphs import Channels, Standardising


def add(
    model: Annotated[Path, typer.Argument(help="ONNX file that takes float images")],
    out: Annotated[Path, typer.Option("--out", "-o", help="ONNX file to write")],
    mean: standardising.Mean = None,
    std: standardising.Std = None,
    channels: standardising.Channels = "rgb",
    scale: standardising.Scale = None,
    size_px: Annotated[
        int | None, typer.Option("--size", metavar="PX", help="fix the patch side [the file's]")
    ] = None,
    patch_px: Annotated[
        int | None,
        typer.Option("--patch-px", "--patch-size", help="patch side it is meant for [--size]"),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option("--mpp", help="um per pixel it is meant for [0.5]")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "--at", metavar="NAME", help="output, or tensor to cut at"),
    ] = None,
    pool: Annotated[
        str, typer.Option("--pool", help="auto, nchw, nhwc, cls (first token) or mean")
    ] = "auto",
    name: Annotated[str | None, typer.Option("--name", help="of the encoder [OUT's]")] = None,
    provenance: Annotated[
        str | None, typer.Option("--provenance", help="where the weights come from")
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="of the weights")] = None,
    tissue: Annotated[
        Any,
        typer.Option(
            "--tissue",
            parser=options.gpu_list,
            metavar="CLASSES",
            help="make a network of tissue for extract --tissue: which of its classes are, e.g. 1 or 0,2",
        ),
    ] = None,
    above: Annotated[
        float | None,
        typer.Option(
            "--above",
            parser=options.number,
            metavar="SCORE",
            help="the same of a network of one score: tissue has more (0 of logits)",
        ),
    ] = None,
    margin_px: Annotated[
        int | None,
        typer.Option(
            "--margin",
            parser=options.whole_number,
            metavar="PX",
            help="with --tissue: how far tiles of --patch-px overlap their neighbours [an eighth]",
        ),
    ] = None,
    overwrite: options.ReplaceOut = False,
) -> None:
    """Turn any ONNX file that takes images into an encoder file, proven equal.

    With --tissue or --above a network of tissue instead: one that maps an image to classes.

    Scaling, mean and deviation go into the graph, a fixed batch is freed, weights beside the file
    are taken in. Nothing is guessed: say the mean and deviation that the network was trained with.
    """
    from histofast.graphs import wrap

    shared: dict[str, Any] = {
        "output": output,
        "name": name,
        "provenance": provenance,
        "licence": licence,
        "overwrite": overwrite,
    }
    if tissue is not None or above is not None:
        if pool != "auto":
            raise ValueError(f"--pool must not be given with --tissue, got {pool}")
        wants = None
        if mean is not None or std is not None or scale is not None:
            wants = standardising.standardising_of(
                mean=mean, std=std, channels=channels, scale=scale
            )
        _add_tissue(
            *(model, out, tissue, wants),
            channels=channels,
            mpp=mpp,
            size_px=size_px,
            patch_px=patch_px,
            above=above,
            margin_px=margin_px,
            **shared,
        )
        return
    if margin_px is not None:
        raise ValueError("--margin must be given with --tissue")
    wants = standardising.standardising_of(mean=mean, std=std, channels=channels, scale=scale)
    if wants is None:
        raise ValueError("--mean must be given: what the network was trained with, or imagenet")
    spec = wrap(
        model,
        out=out,
        mean=wants.mean,
        std=wants.std,
        channels=wants.channels,
        scale=wants.scale,
        size_px=size_px,
        patch_px=patch_px,
        pool=pool,
        **options.given(mpp=mpp),
        **shared,
    )
    size = f"{spec.height_px} px only" if spec.height_px else "any patch size"
    say(
        f"{out}: {spec.name}, {spec.d} features from {spec.layer}, {size}, "
        f"{spec.size_bytes / 1e6:.1f} MB, verified against {model}, sha256 {spec.sha256}"
    )


def _add_tissue(
    model: Path,
    out: Path,
    tissue: list[int] | None,
    wants: Standardising | None,
    *,
    channels: str,
    mpp: float | None,
    size_px: int | None,
    patch_px: int | None,
    **given: Any,
) -> None:
    """Write a network of tissue, and say what it is."""
    from histofast.graphs import wrap_tissue

    if mpp is None:
        raise ValueError("--mpp must be given: the scale that the network was trained at")
    if None not in (size_px, patch_px):
        raise ValueError("--size must not be given beside --patch-px, the side of the tiles")
    standard: dict[str, Any] = {"channels": cast("Channels", channels)}
    if wants is not None:
        standard |= {"mean": wants.mean, "std": wants.std, "scale": wants.scale}
    spec = wrap_tissue(
        model,
        out=out,
        mpp=mpp,
        tissue=tissue or (),
        tile_px=patch_px if size_px is None else size_px,
        **standard,
        **given,
    )
    say(
        f"{out}: {spec.name}, tissue is {spec.tissue} of {spec.network}, tiles of {spec.tile_px} px with "
        f"margins of {spec.margin_px} px at {spec.mpp:g} um per pixel, {spec.size_bytes / 1e6:.1f} MB, "
        f"verified against {model}, sha256 {spec.sha256}"
    )
