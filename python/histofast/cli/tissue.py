"""`histofast tissue`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from histofast._machine import ONNX_RUNTIME
from histofast._words import count, one_line
from histofast.cli import options
from histofast.cli.flags import told
from histofast.cli.output import say, say_document
from histofast.cli.progress import noted


def tissue(
    slides: Annotated[list[Path], typer.Argument(help="slides, folders, globs, or a CSV list")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="output folder")
    ] = Path("qc"),
    mpp: options.Mpp = None,
    mag: options.Mag = None,
    patch_px: options.PatchPx = 256,
    overlap: options.Overlap = 0,
    min_tissue: options.MinTissue = 0.25,
    edge: options.Edge = "drop",
    threshold: options.Threshold = None,
    ink: options.Ink = None,
    network: options.Tissue = None,
    mask: options.Mask = None,
    mpp_override: options.MppOverride = None,
    allow_upsampling: options.AllowUpsampling = False,
    recursive: options.Recursive = False,
    device: Annotated[str, options.device(ONNX_RUNTIME, help="where --tissue runs")] = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Show where tissue is found and where patches would lie.

    Writes, per slide, <slide>_mask.png, <slide>.geojson (contours for QuPath, level-0 pixels) and
    <slide>_preview.png (tissue and patch grid, at 0.5 um per pixel unless said otherwise).
    """
    from histofast.pipeline import check_slides

    rows = []
    for job, result in check_slides(
        slides,
        out=out,
        mpp=mpp,
        mag=mag,
        patch_px=256 if patch_px is None else patch_px,
        overlap_px=overlap,
        min_tissue=min_tissue,
        edge=cast(Literal["drop", "shift"], edge),
        tissue=options.tissue_of(ink, threshold=threshold, network=network),
        mask=mask,
        mpp_override=mpp_override,
        allow_upsampling=allow_upsampling,
        recursive=recursive,
        device=device,
    ):
        if isinstance(result, Exception):
            rows.append({"name": job.name, "error": told(result)})
            say(f"{one_line(job.name)}: failed: {told(result)}", err=True)
            continue
        rows.append({"name": job.name, **result})
        if not as_json:
            unreadable = (
                f", {count(result['unreadable'], 'unreadable region')}"
                if result["unreadable"]
                else ""
            )
            say(
                f"{one_line(job.name)}: {result['tissue_mm2']:.2f} mm2 of tissue "
                f"({100 * result['tissue_fraction']:.1f} %), {result['patches']} patches"
                f"{unreadable}{noted(result['notes'])}: {result['preview']}"
            )
    if as_json:
        say_document(json.dumps(rows, indent=1))
    raise typer.Exit(int(any("error" in row for row in rows)))
