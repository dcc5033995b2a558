"""`histofast study selection`: how many patches an expensive encoder must see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from histofast.cli import options
from histofast.cli.picture_study import parts_study
from histofast.cli.selecting import KeepRandom


def add_to(app: typer.Typer) -> None:
    """Give the command to the group of studies."""
    parts_study(app, "How many patches an expensive encoder must see.")(selection)


def selection(
    setting: Any,
    cheap: Annotated[
        Path, typer.Option("--cheap", metavar="FOLDER", help="features of what chooses")
    ],
    costly: Annotated[
        Path, typer.Option("--costly", metavar="FOLDER", help="features of all patches")
    ],
    labels: options.Labels,
    slide_table: options.SlideTable = None,
    keep: Annotated[
        list[float] | None,
        typer.Option(
            "--keep",
            parser=options.number,
            metavar="SHARE ...",
            help="of a slide's patches, by attention [0.05 0.1 0.2 0.5]",
        ),
    ] = None,
    keep_random: KeepRandom = None,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="of slides: attention, gated, clam ...")
    ] = "attention",
    select_model: Annotated[
        str | None,
        typer.Option("--select-model", metavar="NAME", help="of what chooses [that of --model]"),
    ] = None,
    task: Annotated[
        str, options.choice("--task", *options.TASKS, help="what the labels are")
    ] = "classification",
    missing: Annotated[
        str,
        options.choice(
            "--missing", *options.MISSING, help="labels without slides, slides without labels"
        ),
    ] = "error",
    folds: Annotated[
        int | None, typer.Option("--folds", parser=options.whole_number, metavar="N", help="[5]")
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            "--repeats", parser=options.whole_number, metavar="N", help="of all folds [3]"
        ),
    ] = None,
    epochs: options.Epochs = None,
    lr: Annotated[
        float | None, typer.Option("--lr", parser=options.number, metavar="RATE", help="[1e-3]")
    ] = None,
    seed: options.Seed = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            parser=options.number,
            metavar="X",
            help="a loss that counts as none [0.05]",
        ),
    ] = None,
    cheap_encoder: Annotated[
        Path | None,
        typer.Option("--cheap-encoder", metavar="NAME|FILE", help="timed, for hours"),
    ] = None,
    costly_encoder: Annotated[
        Path | None,
        typer.Option("--costly-encoder", metavar="NAME|FILE", help="timed, for hours"),
    ] = None,
) -> Any:
    """Train models of slides on shares of patches: by a cheap encoder's attention, random, all.

    histofast study selection --cheap feats/features_a --costly feats/features_b
    --labels labels.csv --out study/

    Nothing is encoded. What chooses is trained within each fold. The same command goes on where it
    was interrupted.
    """
    from histofast.mil import TrainConfig
    from histofast.studies import SelectionStudy

    return SelectionStudy(
        setting=setting,
        cheap=cheap,
        costly=costly,
        labels=options.labels_of(labels, slide_table),
        model=model,
        select_model=select_model,
        task=cast(Literal["classification", "regression", "survival"], task),
        missing=cast(Literal["error", "skip"], missing),
        config=TrainConfig(**options.given(folds=folds, epochs=epochs, lr=lr, seed=seed)),
        cheap_encoder=cheap_encoder,
        costly_encoder=costly_encoder,
        **options.given(keep=keep, keep_random=keep_random, repeats=repeats, tolerance=tolerance),
    )
