"""`histofast explain channels`: which pictures excite single channels of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from histofast._machine import TORCH
from histofast.cli import flags, options
from histofast.cli.flags import told
from histofast.cli.output import counted_in_turn, say, say_document


def add_to(app: typer.Typer) -> None:
    """Give the command to the group."""
    app.command(
        short_help="Which pictures excite single channels of a network.", cls=flags.Several
    )(channels)


def channels(
    network: Annotated[
        str, typer.Option("--network", metavar="NAME", help="that the weights are of")
    ],
    weights: Annotated[
        str, typer.Option("--weights", metavar="START", help="a file, run:FOLDER, or another start")
    ],
    layer: Annotated[
        str, typer.Option("--layer", metavar="NAME", help="that gives maps, e.g. denseblock3")
    ],
    images: Annotated[
        Path,
        typer.Option(
            "--images",
            metavar="FOLDER|CSV",
            help="real pictures, or a table: file[, patient, slide]",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="of the page and the pictures")
    ],
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="START", help="other weights of the network, to show beside"
        ),
    ] = None,
    channels: Annotated[
        list[int] | None,
        typer.Option(
            "--channels",
            parser=options.whole_number,
            metavar="N...",
            help="to show, from 0 [--n of them]",
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            parser=options.whole_number,
            metavar="N",
            help="channels to show, evenly taken from all [16]",
        ),
    ] = None,
    px: Annotated[
        int | None,
        typer.Option(
            "--px", parser=options.whole_number, metavar="PX", help="side of all pictures [128]"
        ),
    ] = None,
    prior: Annotated[
        str | None,
        options.choice(
            "--prior",
            *("own", "published"),
            help="frequencies and colours of the real pictures, or of photographs as published [own]",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            parser=options.whole_number,
            metavar="N",
            help="of each search [512; 3584 with --prior published]",
        ),
    ] = None,
    pictures: Annotated[
        int | None,
        typer.Option(
            "--pictures",
            parser=options.whole_number,
            metavar="N",
            help="real ones to look at, drawn at random [1000]",
        ),
    ] = None,
    seed: options.Seed = None,
    device: Annotated[str, options.device(TORCH, help="where networks run")] = "auto",
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", parser=options.whole_number, metavar="N", help="channels side by side"
        ),
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", parser=options.whole_number, metavar="N", help="of torch, in each"
        ),
    ] = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Search for pictures that excite channels; show each beside the real ones that excite it most.

    histofast explain channels --network densenet121 --weights a.safetensors --layer denseblock3
    --images patches.csv --out vis/ --against tuned.safetensors

    The same command goes on where it was interrupted.
    """
    from histofast.datasets import open_images
    from histofast.explain import channels as explain

    asked = explain.Options(
        **options.given(
            channels=None if channels is None else tuple(channels),
            n=n,
            px=px,
            prior=cast(Literal["own", "published"] | None, prior),
            steps=steps,
            pictures=pictures,
            seed=seed,
        )
    )
    with counted_in_turn(quiet=quiet) as on_progress:
        look = explain.show(
            network,
            weights,
            layer=layer,
            images=open_images(images, labelled=False),
            out=out,
            options=asked,
            against=against,
            device=device,
            jobs=jobs,
            threads=threads,
            command=options.command_line(),
            on_progress=on_progress,
        )
    for note in () if quiet else look.notes:
        say(f"note: {told(note)}", err=True)
    if as_json:
        say_document((out / "channels.json").read_text("utf-8"))
        return
    for line in explain.findings(look):
        say(line)
    say(f"report: {out / 'index.html'}")
