"""`histofast convert`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from histofast._words import count
from histofast.cli import options, slide_runs
from histofast.cli.flags import told
from histofast.cli.output import counted, say, say_document


def convert(
    slide: Annotated[
        str, typer.Argument(help="any slide, picture or address that histofast reads")
    ],
    out: Annotated[
        Path,
        typer.Argument(help="file to write, .tif; an OME-TIFF where it ends with .ome.tif"),
    ],
    lossless: Annotated[
        bool, typer.Option("--lossless", help="the very pixels, deflated, instead of JPEG")
    ] = False,
    quality: Annotated[
        int,
        typer.Option("--quality", parser=options.whole_number, metavar="Q", help="of JPEG, 1..100"),
    ] = 90,
    tile: Annotated[
        int,
        typer.Option(
            "--tile-px", parser=options.whole_number, metavar="PX", help="side of a tile, 16 x n"
        ),
    ] = 256,
    mpp_override: options.MppOverride = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="fail at an unreadable region, which is white else")
    ] = False,
    overwrite: options.ReplaceOut = False,
    workers: slide_runs.Workers = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a slide as a pyramidal tiled TIFF, with its scale.

    \b
      histofast convert slide.mrxs slide.tif
      histofast convert scan.png scan.ome.tif --mpp-override 0.5 --lossless

    OpenSlide, QuPath, libvips and tifffile read it. Level 0 is the slide's, each further level half as wide; scale
    and colour profile are kept, labels and macros are not: they may name a patient.
    """
    from histofast.slides import convert as run

    with counted("tiles", quiet=quiet) as on_count:
        made = run(
            slide,
            out,
            mpp_override=mpp_override,
            lossless=lossless,
            quality=quality,
            tile_px=tile,
            strict=strict,
            overwrite=overwrite,
            workers=workers,
            on_count=on_count,
        )
    if as_json:
        say_document(json.dumps(asdict(made) | {"path": str(made.path)}, indent=1))
        return
    levels = count(made.levels, "level")
    say(f"{made.path}: {made.width:,} x {made.height:,} px at {made.mpp:g} um per pixel, {levels}")
    if made.unreadable:
        regions = count(made.unreadable, "unreadable tile")
        are = "is" if made.unreadable == 1 else "are"
        say(f"note: {regions} {are} white, the first: {told(made.reason)}", err=True)
