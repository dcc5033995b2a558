"""`histofast extract`."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from histofast.cli import _options as o
from histofast.cli._progress import show_progress, summarise


class LayoutName(StrEnum):
    """Whose feature files to write."""

    trident = "trident"
    clam = "clam"
    stamp = "stamp"


class DeviceName(StrEnum):
    """Where the encoder runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class EdgeName(StrEnum):
    """What becomes of patches that would cross the slide's edge."""

    drop = "drop"
    shift = "shift"


def extract(
    slides: Annotated[
        list[Path] | None,
        typer.Argument(help="slides, folders, globs, or a CSV list (wsi[, mpp, mask])"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="output folder")] = Path("features"),
    encoder: Annotated[
        list[str] | None,
        typer.Option("--encoder", "-e", help="name or ONNX file; several share one pass"),
    ] = None,
    patches: Annotated[
        Path | None,
        typer.Option("--patches", help="CSV of patch images: file, bag[, label, x, y, split]"),
    ] = None,
    wsi_dir: Annotated[
        Path | None, typer.Option("--wsi-dir", "--wsi_dir", help="folder of slides")
    ] = None,
    mpp: o.Mpp = None,
    mag: o.Mag = None,
    patch_px: o.PatchPx = None,
    overlap: o.Overlap = 0,
    min_tissue: o.MinTissue = 0.25,
    edge: Annotated[
        EdgeName, typer.Option("--edge", help="patches across the edge: leave out, or move inwards")
    ] = EdgeName.drop,
    threshold: o.Threshold = None,
    mask: o.Mask = None,
    mpp_override: o.MppOverride = None,
    allow_upsampling: o.AllowUpsampling = False,
    half: Annotated[bool, typer.Option("--half", help="store features as float16")] = False,
    layout: Annotated[
        LayoutName, typer.Option("--layout", help="whose feature files to write")
    ] = LayoutName.trident,
    strict: Annotated[
        bool, typer.Option("--strict", help="a slide with an unreadable region fails")
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="stop at the first slide that fails")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace files that something else made")
    ] = False,
    recursive: o.Recursive = False,
    shard: Annotated[
        str | None, typer.Option("--shard", help="i/n: part i of n of the slides, for job arrays")
    ] = None,
    device: Annotated[
        DeviceName, typer.Option("--device", help="where the encoder runs")
    ] = DeviceName.auto,
    threads: Annotated[
        int | None, typer.Option("--threads", help="of the encoder [CPUs available]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="threads that decode [CPUs available]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "--batch_size", help="patches per encoder call")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only count patches and estimate the time")
    ] = False,
    as_json: o.AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Encode slides into feature files.

    Files come to OUT/<mag>x_<patch>px_<overlap>px_overlap/features_<encoder>/<slide>.h5. A run that
    was interrupted goes on where it was when started again.
    """
    from histofast.pipeline import DEFAULT_ENCODER, TissueOptions
    from histofast.pipeline import extract as run

    given = [*(slides or []), *([wsi_dir] if wsi_dir else [])]
    if not given and patches is None:
        raise ValueError("nothing to encode: name slides, a folder, a CSV list or --patches")
    with show_progress(quiet=quiet) as on_progress:
        report = run(
            given or None,
            out=out,
            encoder=encoder or DEFAULT_ENCODER,
            patches=patches,
            mpp=o.mpp_of(mpp, mag),
            patch_px=patch_px,
            overlap_px=overlap,
            min_tissue=min_tissue,
            edge=edge.value,
            tissue=TissueOptions(threshold=threshold),
            mask=mask,
            mpp_override=mpp_override,
            allow_upsampling=allow_upsampling,
            half=half,
            layout=layout.value,
            strict=strict,
            fail_fast=fail_fast,
            overwrite=overwrite,
            recursive=recursive,
            shard=shard,
            device=device.value,
            threads=threads,
            workers=workers,
            batch_size=batch_size,
            dry_run=dry_run,
            on_progress=on_progress,
        )
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=1))
    elif not quiet or report.exit_code:
        typer.echo(summarise(report), err=True)
    raise typer.Exit(report.exit_code)
