"""`histofast study drift`: what fine-tuning changes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from histofast.cli import options
from histofast.cli.picture_study import picture_study


def add_to(app: typer.Typer) -> None:
    """Give the command to the group of studies."""

    @picture_study(app, "What fine-tuning changes, and whether two sources end alike.")
    def drift(
        setting: Any,
        source: Annotated[
            list[str],
            typer.Option("--source", metavar="NAME=FILE ...", help="weights to begin with"),
        ],
        network: Annotated[
            str,
            typer.Option("--network", metavar="NAME", help="resnet50-keras, resnet18 ..."),
        ],
        random_seeds: Annotated[
            int | None,
            typer.Option(
                "--random-seeds",
                parser=options.whole_number,
                metavar="N",
                help="random networks that are trained as well, on each split [2]",
            ),
        ] = None,
        layers: Annotated[
            list[str] | None,
            typer.Option("--layers", metavar="NAME ...", help="to compare [all blocks]"),
        ] = None,
        published: Annotated[
            bool,
            typer.Option("--published", help="show the published points of gain and similarity"),
        ] = False,
    ) -> Any:
        """Tune networks from several weights and from random ones; compare layers and predictions.

        histofast study drift --source imagenet=a.h5 rad=b.h5 --network resnet50-keras --data set/
        --folds 5 --out study/
        """
        from histofast.studies import Drift

        return Drift(
            setting=setting,
            network=network,
            source=options.named_files("--source", source),
            show_published=published,
            **options.given(random_seeds=random_seeds, layers=layers),
        )
