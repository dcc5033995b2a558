"""Options of `extract` that say which patches of a slide are worth its encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histofast.cli import options

if TYPE_CHECKING:
    from histofast.pipeline import Selection

Select = Annotated[
    Path | None,
    typer.Option(
        "--select",
        metavar="RUN",
        help="of `histofast train` on a cheap encoder's features: encode what it attends to",
    ),
]
Keep = Annotated[
    float | None,
    typer.Option(
        "--keep",
        parser=options.number,
        metavar="SHARE",
        help="of a slide's patches, those of the highest attention [0.2]",
    ),
]
KeepRandom = Annotated[
    float | None,
    typer.Option(
        "--keep-random",
        parser=options.number,
        metavar="SHARE",
        help="of the other patches, drawn at random [0.1]",
    ),
]
SelectEncoder = Annotated[
    Path | None,
    typer.Option(
        "--select-encoder", metavar="FILE", help="of the run of --select [found by its name]"
    ),
]


def selection_of(
    run: Path | None,
    *,
    keep: float | None,
    keep_random: float | None,
    seed: int | None,
    encoder: Path | None,
) -> Selection | None:
    """Return what --select and what belongs to it say."""
    if run is None:
        given = options.given(keep=keep, keep_random=keep_random, seed=seed, select_encoder=encoder)
        if given:
            flag = next(iter(given)).replace("_", "-")
            raise ValueError(f"--{flag} must be given with --select, which names the run")
        return None
    from histofast.mil import selection

    numbers = options.given(keep=keep, keep_random=keep_random, seed=seed)
    return selection(run, select_encoder=encoder, **numbers)
