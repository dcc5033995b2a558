"""`histofast models merge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from histofast.cli import options
from histofast.cli.flags import told
from histofast.cli.output import say

if TYPE_CHECKING:
    from histofast.networks.starts import Rank


def _rank(text: str | int) -> str | int:
    """Read a rank: `evbmf`, or a number."""
    try:
        return text if text == "evbmf" else int(text)
    except ValueError:
        raise typer.BadParameter(f"must be a whole number or evbmf, got {text!r}") from None


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
        str | None,
        typer.Option(
            "--rank",
            parser=_rank,
            metavar="R|evbmf",
            help="of svd-pre and svd-post: a number, or by each matrix what stands out of noise",
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
    px: options.Px = None,
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
        rank=cast("Rank | None", rank),
        images=images,
        data=data,
        px=px,
        overwrite=overwrite,
        **options.given(scale=scale),
    )
    for note in () if quiet else found.notes:
        say(f"note: {told(note)}", err=True)
    say(f"{found.network}: {found.path}")
