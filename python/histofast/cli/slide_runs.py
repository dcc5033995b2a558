"""Options of the commands that go through slides, encode their patches or write them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histofast.cli.options import choice, whole_number

HowResampled = Annotated[
    str,
    choice(
        "--resample",
        "area",
        "bicubic",
        "bilinear",
        help="how pixels become those of a patch: averaged, or as Pillow resizes",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="a slide with an unreadable region fails")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="stop at the first slide that fails")]
Shard = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="part i of n of the slides, for job arrays"),
]
Coords = Annotated[
    Path | None,
    typer.Option(
        "--coords",
        metavar="CSV|H5|GEOJSON|FOLDER",
        help="own places instead of a grid: slide, x, y (top-left, level 0); h5 of TRIDENT or CLAM, or GeoJSON points (centres), "
        "for several slides a folder of them",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        parser=whole_number,
        metavar="N",
        help="threads that decode and write [the CPUs available]",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        parser=whole_number,
        metavar="N",
        help="threads that encode, on all devices together [the CPUs available]",
    ),
]
