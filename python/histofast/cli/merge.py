"""`histofast models merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histofast.cli import options
from histofast.cli.flags import told
from histofast.cli.output import say


def merge(
    parts: Annotated[
        list[Path], typer.Argument(metavar="PARTS...", help="weights files, or runs of classify")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="safetensors file to write")
    ],
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            help="mean, greedy, task, ties, stock, svd-pre, svd-post or iso",
        ),
    ] = "mean",
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="FILE", help="what all began with: task, ties, stock, iso"),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option("--network", metavar="NAME", help="[the one that the first part fits]"),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            "--rank", parser=options.whole_number, metavar="R", help="of svd-pre and svd-post"
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale", parser=options.number, metavar="S", help="of the sum: task, ties, iso [1]"
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="PATH",
            help="pictures of the target, to measure the statistics of BatchNorms anew",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="PATH", help="labelled pictures that greedy chooses by"),
    ] = None,
    px: Annotated[
        int | None,
        typer.Option(
            "--px", parser=options.whole_number, metavar="PX", help="resample pictures to this side"
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a file that exists")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Merge checkpoints of one network into one.

    \b
      histofast models merge a.safetensors b.safetensors --base imagenet.safetensors --method ties --out m.safetensors
      histofast models merge run-a/ run-b/ --images pictures/ --out m.safetensors

    The file is weights without a head: a start for classify, and weights for models export.
    """
    from histofast.classify import merge as run_merge

    found = run_merge(
        parts,
        out=out,
        method=method,
        base=base,
        network=network,
        rank=rank,
        images=images,
        data=data,
        px=px,
        overwrite=overwrite,
        **options.given(scale=scale),
    )
    for note in () if quiet else found.notes:
        say(f"note: {told(note)}", err=True)
    say(f"{found.network}: {found.path}")
