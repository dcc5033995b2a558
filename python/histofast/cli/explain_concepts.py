"""`histofast explain concepts`: what of a picture the layers of a network tell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histofast._machine import TORCH
from histofast.cli import options
from histofast.cli.explained import say_found
from histofast.cli.output import counted_in_turn


def add_to(app: typer.Typer) -> None:
    """Give the command to the group."""
    app.command(short_help="Which concepts the layers of a network tell: texture, stain, colour.")(
        concepts
    )


def concepts(
    images: Annotated[
        Path,
        typer.Option(
            "--images", metavar="FOLDER|CSV", help="pictures, or a table: file[, patient, slide]"
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="of the page")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option("--network", metavar="NAME", help="that the weights are of, e.g. densenet121"),
    ] = None,
    timm_args: options.TimmArgs = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="of a pretrained network")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="FOLDER", help="of `histofast classify`: the same network, trained"
        ),
    ] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", metavar="A,B,...", help="[all blocks]")
    ] = None,
    concepts: options.Concepts = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", metavar="CLASS", help="of the run, whose logit is followed [last]"
        ),
    ] = None,
    px: Annotated[
        int | None,
        typer.Option(
            "--px",
            parser=options.whole_number,
            metavar="PX",
            help="side to resample to [the run's]",
        ),
    ] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", parser=options.whole_number, metavar="N", help="[5]")
    ] = None,
    permutations: Annotated[
        int | None,
        typer.Option(
            "--permutations", parser=options.whole_number, metavar="N", help="of concepts [20]"
        ),
    ] = None,
    random_seeds: options.RandomSeeds = None,
    nuclei_threshold: options.NucleiThreshold = None,
    seed: options.Seed = None,
    device: Annotated[str, options.device(TORCH, help="where networks run")] = "auto",
    threads: options.DecodingThreads = 2,
    overwrite: options.IntoFolder = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Regress concepts of pictures on the features of each layer, beside what chance would tell.

    \b
      histofast explain concepts --network densenet121 --weights a.safetensors --images patches.csv --out concepts/

    Every R2 is of patients (else slides, else pictures) that trained nothing, and stands between shuffled
    concepts and networks with random weights. With --run also how the logit moves along each concept.
    """
    target_folder = options.out_folder(out, of="the page", overwrite=overwrite)

    from histofast.explain import concepts as explain
    from histofast.report import check_installed, save

    check_installed()  # before the work
    with counted_in_turn(quiet=quiet) as on_progress:
        found = explain.explain_concepts(
            images,
            network=options.network_with(network, timm_args),
            weights=weights,
            run=run,
            layers=None if layers is None else options.split(layers),
            concepts=None if concepts is None else options.split(concepts),
            target=target,
            device=device,
            threads=threads,
            on_progress=on_progress,
            **options.given(
                px=px,
                folds=folds,
                permutations=permutations,
                random_seeds=random_seeds,
                nuclei_threshold=nuclei_threshold,
                seed=seed,
            ),
        )
    answer = explain.answer_of(found, command=options.command_line())
    page = save(answer, target_folder)
    say_found(found, answer, page=page, quiet=quiet, as_json=as_json)
