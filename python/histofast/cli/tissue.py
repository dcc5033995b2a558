"""`histofast tissue`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from histofast._words import count, one_line
from histofast.cli import options as o
from histofast.cli.flags import told


def tissue(
    slides: Annotated[list[Path], typer.Argument(help="slides, folders, globs, or a CSV list")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="output folder")
    ] = Path("qc"),
    mpp: o.Mpp = None,
    mag: o.Mag = None,
    patch_px: o.PatchPx = 256,
    overlap: o.Overlap = 0,
    min_tissue: o.MinTissue = 0.25,
    edge: o.Edge = "drop",
    threshold: o.Threshold = None,
    mask: o.Mask = None,
    mpp_override: o.MppOverride = None,
    allow_upsampling: o.AllowUpsampling = False,
    recursive: o.Recursive = False,
    as_json: o.AsJson = False,
) -> None:
    """Show where tissue is found and where patches would lie.

    Writes, per slide, <slide>_mask.png, <slide>.geojson (contours for QuPath, level-0 pixels) and
    <slide>_preview.png (tissue and patch grid, at 0.5 um per pixel unless said otherwise).
    """
    from histofast.patches import TissueOptions
    from histofast.pipeline import check_slides

    scale = o.mpp_of(mpp, mag)
    rows = []
    for job, result in check_slides(
        slides,
        out=out,
        mpp=0.5 if scale is None else scale,
        patch_px=256 if patch_px is None else patch_px,
        overlap_px=overlap,
        min_tissue=min_tissue,
        edge=cast(Literal["drop", "shift"], edge),
        tissue=TissueOptions(threshold=threshold),
        mask=mask,
        mpp_override=mpp_override,
        allow_upsampling=allow_upsampling,
        recursive=recursive,
    ):
        if isinstance(result, Exception):
            rows.append({"name": job.name, "error": told(result)})
            typer.echo(f"{one_line(job.name)}: failed: {told(result)}", err=True)
            continue
        rows.append({"name": job.name, **result})
        if not as_json:
            unreadable = (
                f", {count(result['unreadable'], 'unreadable region')}"
                if result["unreadable"]
                else ""
            )
            typer.echo(
                f"{one_line(job.name)}: {result['tissue_mm2']:.2f} mm2 of tissue "
                f"({100 * result['tissue_fraction']:.1f} %), {result['patches']} patches"
                f"{unreadable}: {result['preview']}"
            )
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    raise typer.Exit(int(any("error" in row for row in rows)))
