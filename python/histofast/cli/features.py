"""`histofast features`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from histofast._words import count
from histofast.cli import options
from histofast.cli.flags import Group, told
from histofast.cli.output import counted, say, say_document

app = typer.Typer(cls=Group, help="Feature files for other tools.", rich_markup_mode=None)


@app.callback()
def _root() -> None:
    """Feature files for other tools."""


@app.command(short_help="Write features as Parquet or AnnData.")
def export(
    features: Annotated[
        list[Path],
        typer.Argument(
            metavar="FEATURES...",
            help="folder of feature files of one encoder, or files and folders",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help=".parquet, or .h5ad or .zarr (AnnData)"),
    ],
    overwrite: options.ReplaceOut = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Write the features of many slides as one file, a row for each patch.

    \b
      histofast features export features/ --out patches.parquet
      histofast features export features/ --out patches.h5ad
      histofast features export features/ --out patches.zarr

    Parquet has slide, x, y, tissue_fraction, label and features; AnnData has them as obs and X, with centres of
    patches in level-0 pixels as obsm["spatial"], for scanpy, squidpy and SpatialData.
    """
    from histofast.features import export_features

    with counted("slides", quiet=quiet) as on_count:
        made = export_features(features, out, overwrite=overwrite, on_count=on_count)
    for note in () if quiet else made.notes:
        say(f"note: {told(note)}", err=True)
    if as_json:
        say_document(json.dumps(asdict(made) | {"path": str(made.path)}, indent=1))
        return
    of = f"{count(made.patches, 'patch')} of {count(made.slides, 'slide')}"
    say(f"{made.path}: {of}, {count(made.d, 'feature')} each")
