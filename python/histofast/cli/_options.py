"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Mpp = Annotated[float | None, typer.Option("--mpp", help="um per pixel of the patches [encoder's]")]
Mag = Annotated[
    float | None, typer.Option("--mag", help="magnification instead of --mpp: 20 means 0.5 um/px")
]
PatchPx = Annotated[
    int | None,
    typer.Option("--patch-px", "--patch-size", "--patch_size", help="side of a patch [encoder's]"),
]
Overlap = Annotated[int, typer.Option("--overlap", help="overlap of neighbours in patch pixels")]
MinTissue = Annotated[
    float, typer.Option("--min-tissue", help="least share of tissue in a patch, 0..1")
]
MppOverride = Annotated[
    float | None,
    typer.Option("--mpp-override", help="level-0 um/px, instead of what the slide says"),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        "--mask", help="PNG or GeoJSON instead of finding tissue; a folder for several slides"
    ),
]
Threshold = Annotated[
    int | None, typer.Option("--threshold", help="tissue threshold 0..255 [Otsu's]")
]
AllowUpsampling = Annotated[
    bool, typer.Option("--allow-upsampling", help="take slides coarser than --mpp")
]
Recursive = Annotated[
    bool, typer.Option("--recursive", "-r", help="look for slides in sub-folders too")
]
AsJson = Annotated[bool, typer.Option("--json", help="print the report as JSON")]


def mpp_of(mpp: float | None, mag: float | None) -> float | None:
    """Resolve --mpp and --mag to um per pixel."""
    if mpp is not None and mag is not None:
        raise ValueError("--mpp and --mag must not both be given")
    if mag is None:
        return mpp
    if not mag > 0:
        raise ValueError(f"--mag must be above 0, got {mag:g}")
    return 10 / mag
