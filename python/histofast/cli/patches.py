"""`histofast patches`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from histofast._machine import ONNX_RUNTIME
from histofast.cli import colours, options, slide_runs
from histofast.cli.output import say, say_document
from histofast.cli.progress import show_progress, summarise

if TYPE_CHECKING:
    from histofast.pipeline import PatchFormat
    from histofast.slides import Icc
    from histofast.tiling import Resample


def patches(
    slides: Annotated[
        list[str],  # no paths, which have no two slashes in a row
        typer.Argument(
            help="slides, folders, globs, addresses (s3://...), or a CSV list (wsi[, mpp, mask])"
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="output folder")
    ] = Path("patches"),
    format: Annotated[
        str,
        options.choice("--format", "png", "jpeg", help="the pixels as they are, or smaller files"),
    ] = "png",
    quality: Annotated[
        int,
        typer.Option("--quality", parser=options.whole_number, metavar="Q", help="of JPEG, 1..100"),
    ] = 90,
    mpp: options.Mpp = None,
    mag: options.Mag = None,
    patch_px: options.PatchPx = None,
    overlap: options.Overlap = 0,
    min_tissue: options.MinTissue = 0.25,
    edge: options.Edge = "drop",
    resample: slide_runs.HowResampled = "area",
    threshold: options.Threshold = None,
    ink: options.Ink = None,
    tissue: options.Tissue = None,
    stain: colours.Stain = None,
    stain_target: colours.StainTarget = None,
    icc: colours.Icc = None,
    mask: options.Mask = None,
    coords: slide_runs.Coords = None,
    mpp_override: options.MppOverride = None,
    allow_upsampling: options.AllowUpsampling = False,
    strict: slide_runs.Strict = False,
    fail_fast: slide_runs.FailFast = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace patches of other options")
    ] = False,
    recursive: options.Recursive = False,
    shard: slide_runs.Shard = None,
    device: Annotated[str, options.device(ONNX_RUNTIME, help="where --tissue runs")] = "auto",
    workers: slide_runs.Workers = None,
    as_json: options.AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="say only what failed")] = False,
) -> None:
    """Write the patches that `extract` would encode as picture files.

    \b
      histofast patches slides/ --out patches/ --mpp 0.5 --patch-px 224
      histofast extract --patches patches/patches.csv --out features/

    They come to OUT/<slide>/<x>_<y>.png, named by their level-0 corner, at 0.5 um per pixel and of 256 px unless
    said otherwise. OUT/patches.csv names them all: file, slide, x, y, tissue_fraction, mpp. A run that was
    interrupted goes on with the slide that it was at.
    """
    from histofast.pipeline import write_patches

    with show_progress(quiet=quiet) as on_progress:
        ran = write_patches(
            list(slides),
            out=out,
            format=cast("PatchFormat", format),
            quality=quality,
            mpp=mpp,
            mag=mag,
            patch_px=patch_px,
            overlap_px=overlap,
            min_tissue=min_tissue,
            edge=cast(Literal["drop", "shift"], edge),
            resample=cast("Resample", resample),
            tissue=options.tissue_of(ink, threshold=threshold, network=tissue),
            stain=colours.stain_of(stain, stain_target, icc),
            icc=cast("Icc | None", icc),
            mask=mask,
            coords=coords,
            mpp_override=mpp_override,
            allow_upsampling=allow_upsampling,
            strict=strict,
            fail_fast=fail_fast,
            overwrite=overwrite,
            recursive=recursive,
            shard=shard,
            device=device,
            workers=workers,
            on_progress=on_progress,
        )
    if as_json:
        say_document(json.dumps(asdict(ran), indent=1))
    if not as_json or quiet:
        for line in summarise(ran, quiet=quiet):
            say(line, err=True)
    raise typer.Exit(ran.exit_code)
