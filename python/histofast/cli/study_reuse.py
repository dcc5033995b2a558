"""`histofast study reuse`: what features look for, where, which concepts they tell, and what tuning changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from histofast.cli import options
from histofast.cli.picture_study import parts_study


def _number(flag: str, help: str) -> Any:
    return typer.Option(flag, parser=options.whole_number, metavar="N", help=help)


def add_to(app: typer.Typer) -> None:
    """Give the command to the group of studies."""
    parts_study(app, "What features look for, and what of it fine-tuning changed.")(reuse)


def reuse(
    setting: Any,
    network: Annotated[
        str, typer.Option("--network", metavar="NAME", help="that the weights are of")
    ],
    weights: Annotated[
        Path, typer.Option("--weights", metavar="FILE", help="that tuning began with")
    ],
    tuned: Annotated[
        Path,
        typer.Option("--tuned", metavar="RUN", help="of `histofast classify`, the same network"),
    ],
    images: Annotated[
        Path,
        typer.Option(
            "--images", metavar="FOLDER|CSV", help="pictures, or a table: file[, patient, slide]"
        ),
    ],
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            metavar="NAME ...",
            help="that give maps [the last block of each of four scales]",
        ),
    ] = None,
    channels: Annotated[int | None, _number("--channels", "shown of each layer [3]")] = None,
    steps: Annotated[int | None, _number("--steps", "of the search for each channel [128]")] = None,
    pictures: Annotated[
        int | None, _number("--pictures", "to look at, drawn at random [400]")
    ] = None,
    concepts: Annotated[
        list[str] | None,
        typer.Option(
            "--concepts",
            metavar="NAME ...",
            help="contrast, eosin ... [all but nuclei_count, nuclei_area]",
        ),
    ] = None,
    folds: Annotated[int | None, _number("--folds", "of the regression of concepts [5]")] = None,
    permutations: Annotated[int | None, _number("--permutations", "of concepts [20]")] = None,
    random_seeds: options.RandomSeeds = None,
    shown: Annotated[
        int | None, _number("--shown", "pictures whose maps are shown, of each layer [3]")
    ] = None,
    sample: Annotated[
        int | None, _number("--sample", "pictures that maps are measured on [24]")
    ] = None,
    with_trained: Annotated[
        bool, typer.Option("--with-trained", help="also pictures that the run was trained on")
    ] = False,
    seed: options.Seed = None,
) -> Any:
    """Show by layer what channels look for, where, which concepts they tell, what tuning changed.

    histofast study reuse --network densenet121 --weights a.safetensors --tuned run/
    --images patches.csv --out study/

    Every part is a job with a page of its own: the same command goes on where it was interrupted.
    """
    from histofast.studies import Reuse

    return Reuse(
        setting=setting,
        network=network,
        weights=weights,
        tuned=tuned,
        images=images,
        with_trained=with_trained,
        **options.given(
            layers=layers,
            channels=channels,
            steps=steps,
            pictures=pictures,
            concepts=concepts,
            folds=folds,
            permutations=permutations,
            random_seeds=random_seeds,
            shown=shown,
            sample=sample,
            seed=seed,
        ),
    )
