"""`histofast tissue`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from histofast.cli import _options as o


def tissue(
    slides: Annotated[list[Path], typer.Argument(help="slides, folders, globs, or a CSV list")],
    out: Annotated[Path, typer.Option("--out", "-o", help="output folder")] = Path("qc"),
    mpp: o.Mpp = 0.5,
    mag: o.Mag = None,
    patch_px: o.PatchPx = 256,
    overlap: o.Overlap = 0,
    min_tissue: o.MinTissue = 0.25,
    threshold: o.Threshold = None,
    mask: o.Mask = None,
    mpp_override: o.MppOverride = None,
    recursive: o.Recursive = False,
    as_json: o.AsJson = False,
) -> None:
    """Show where tissue is found and where patches would lie.

    Writes, per slide, <slide>_mask.png, <slide>.geojson (contours for QuPath, level-0 pixels) and
    <slide>_preview.png (tissue and patch grid).
    """
    from histofast.pipeline import TissueOptions, check_slides

    failed = 0
    rows = []
    scale = o.mpp_of(None if mag else mpp, mag)
    assert scale is not None, "--mpp has a default"
    for job, result in check_slides(
        slides,
        out=out,
        mpp=scale,
        patch_px=patch_px or 256,
        overlap_px=overlap,
        min_tissue=min_tissue,
        tissue=TissueOptions(threshold=threshold),
        mask=mask,
        mpp_override=mpp_override,
        recursive=recursive,
    ):
        if isinstance(result, Exception):
            failed += 1
            rows.append({"name": job.name, "error": str(result)})
            if not as_json:
                typer.echo(f"{job.name}: failed: {result}", err=True)
            continue
        rows.append({"name": job.name, **result})
        if not as_json:
            typer.echo(
                f"{job.name}: {result['tissue_mm2']:.2f} mm2 of tissue "
                f"({100 * result['tissue_fraction']:.1f} %), {result['patches']} patches: "
                f"{result['preview']}"
            )
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    raise typer.Exit(1 if failed else 0)
