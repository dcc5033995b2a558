"""`histofast study transfusion`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from histofast.cli import options
from histofast.cli.picture_study import picture_study
from histofast.cli.thresholds import read_thresholds


def add_to(app: typer.Typer) -> None:
    """Give an app the command."""
    picture_study(
        app,
        "Where the gain of pretrained weights is, and whether it is features or scale.",
        recipe="transfusion",
    )(transfusion)


def transfusion(
    setting: Any,
    network: Annotated[
        list[str], typer.Option("--network", metavar="NAME ...", help="each with its starts")
    ],
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights", metavar="NAME=FILE ...", help="pretrained, of these networks [none]"
        ),
    ] = None,
    sizes: Annotated[
        list[int] | None,
        typer.Option(
            "--sizes",
            parser=options.whole_number,
            metavar="N ...",
            help="pictures that train, nested subsets [all of a split]",
        ),
    ] = None,
    ways: Annotated[
        list[str] | None,
        typer.Option(
            "--ways",
            metavar="KIND ...",
            help="random, pretrained, mean-var, transfuse[:LAYER], slim[:LAYER], gabor [all]",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            parser=options.whole_number,
            metavar="N",
            help="of every run [the recipe's epochs on the largest training set]",
        ),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            "--threshold",
            metavar="METRIC=X",
            help="that steps are counted to [95 % of what random and pretrained end at]",
        ),
    ] = None,
) -> Any:
    """Train networks from random, pretrained, mean-var, transfused, slim and Gabor starts.

    histofast study transfusion --network resnet18 cbr-small --weights resnet18=w.safetensors
    --data idc/ --sizes 100 300 1000 --out study/

    The recipe is transfusion unless another one is named; it trains all layers.
    """
    from histofast.studies import Transfusion

    told = None
    if threshold is not None:
        (told,) = read_thresholds([threshold], task="classification")
    return Transfusion(
        setting=setting,
        network=network,
        weights=options.named_files("--weights", weights or []),
        sizes=sizes or (),
        steps=steps,
        threshold=told,
        **options.given(ways=ways),
    )
