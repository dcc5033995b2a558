"""`histofast study transfer`: what one data set teaches another."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from histofast.cli.picture_study import picture_study

Network = Annotated[
    str, typer.Option("--network", metavar="NAME", help="resnet18, densenet121, cbr-small ...")
]
Start = Annotated[
    list[str] | None,
    typer.Option(
        "--start",
        metavar="START ...",
        help="random, a file of weights ...: a matrix for each [random]",
    ),
]
Merge = Annotated[
    list[str] | None,
    typer.Option(
        "--merge",
        metavar="METHOD ...",
        help="start from merged networks of all other sets too: mean, ties, stock ...",
    ),
]
HeadOnly = Annotated[
    bool, typer.Option("--head-only", help="train the head alone on the targets as well")
]
Scores = Annotated[
    bool,
    typer.Option(
        "--scores", help="score networks before they are trained on a target: LogME, H-score ..."
    ),
]
Ranks = Annotated[
    bool,
    typer.Option(
        "--ranks",
        help="measure the ranks of all layers after every epoch: adds to the time of training",
    ),
]
Maps = Annotated[
    bool,
    typer.Option(
        "--maps", help="t-SNE of test pictures' features before and after, UMAP if installed"
    ),
]


def add_to(app: typer.Typer) -> None:
    """Give the command to the group of studies."""

    @picture_study(app, "What one data set teaches another: source by target.")
    def transfer(
        setting: Any,
        network: Network,
        start: Start = None,
        merge: Merge = None,
        head_only: HeadOnly = False,
        scores: Scores = False,
        ranks: Ranks = False,
        maps: Maps = False,
    ) -> Any:
        """Train a network on each set of pictures, then on each other; hold it against the target alone.

        \b
          histofast study transfer --data idc/ osteo/ oral/ --network resnet18
            --start random imagenet.safetensors --repeats 3 --out study/

        A matrix for each start: source by target, less the target trained directly on the same splits
        with the same recipe. On the diagonal the target itself is the source, so that what more epochs do is
        seen. A study that was interrupted goes on where it was when started again.
        """
        from histofast.studies import Transfer

        return Transfer(
            setting=setting,
            network=network,
            start=start or ["random"],
            merge=merge or [],
            head_only=head_only,
            scores=scores,
            ranks=ranks,
            maps=maps,
        )
