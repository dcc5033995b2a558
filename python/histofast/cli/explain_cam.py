"""`histofast explain cam`: where in pictures a trained network finds its classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histofast._machine import TORCH
from histofast.cli import options
from histofast.cli.explained import say_found
from histofast.cli.output import counted


def add_to(app: typer.Typer) -> None:
    """Give the command to the group."""
    app.command(short_help="Where in pictures a trained network finds its classes.")(cam)


def cam(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of `histofast classify`")],
    images: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|CSV", help="pictures, or a table: file[, label, patient, slide]"
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="of the page")
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            parser=options.one_of(*options.CAMS),
            metavar="|".join(options.CAMS),
            help="of the maps; repeatable [hirescam]",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option("--layer", metavar="NAME", help="that gives a map [the last stage]"),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="to show; repeatable [the most probable of each picture]",
        ),
    ] = None,
    shown: Annotated[
        int,
        typer.Option(
            "--shown", parser=options.whole_number, metavar="N", help="pictures on the page"
        ),
    ] = 12,
    sample: Annotated[
        int,
        typer.Option(
            "--sample",
            parser=options.whole_number,
            metavar="N",
            help="pictures to measure the maps on; 0: none",
        ),
    ] = 32,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            metavar="FOLDER",
            help="NAME.png for each sampled picture, bright where maps should lie",
        ),
    ] = None,
    random_seeds: options.RandomSeeds = None,
    seed: options.Seed = None,
    device: Annotated[str, options.device(TORCH, help="where the network runs")] = "auto",
    threads: options.DecodingThreads = 2,
    overwrite: options.IntoFolder = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Show where in pictures a trained network finds its classes, beside what chance would show.

    \b
      histofast explain cam run/ images/ --method hirescam --layer layer4 --out cam/

    Writes a page with pictures, their class activation maps and those of the same network with all weights
    drawn anew, pictures.csv with a row for each picture, and cam.npz with all maps.
    """
    target = options.out_folder(out, of="the page", overwrite=overwrite)

    from histofast.explain import cam as explain
    from histofast.report import check_installed, save

    check_installed()  # before the work
    with counted("pictures", quiet=quiet) as on_progress:
        found = explain.explain_pictures(
            run,
            images,
            layer=layer,
            methods=methods or ("hirescam",),
            classes=classes,
            shown=shown,
            sample=sample,
            masks=masks,
            device=device,
            threads=threads,
            on_progress=on_progress,
            **options.given(random_seeds=random_seeds, seed=seed),
        )
    answer = explain.answer_of(found, command=options.command_line())
    explain.save_maps(found, target / "cam.npz")
    page = save(answer, target)
    say_found(found, answer, page=page, quiet=quiet, as_json=as_json)
