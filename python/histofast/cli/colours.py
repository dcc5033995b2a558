"""Options of colours: stains brought to a target's, ICC profiles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from histofast.cli.options import choice

if TYPE_CHECKING:
    from histofast.patches import StainOptions


Stain = Annotated[
    str | None,
    choice(
        "--stain",
        *("macenko", "reinhard"),
        help="bring the colours of every slide to those of --stain-target",
    ),
]
StainTarget = Annotated[
    str | None,
    typer.Option(
        "--stain-target",
        metavar="FILE|default",
        help="slide or picture of tissue whose colours are wanted [default: published ones]",
    ),
]


Icc = Annotated[
    str | None,
    choice(
        "--icc", "srgb", help="bring colours to sRGB by the slides' ICC profiles, before --stain"
    ),
]


def stain_of(method: str | None, target: str | None, icc: str | None) -> StainOptions | None:
    """Return what --stain and --stain-target say."""
    if method is None:
        if target is not None:
            raise ValueError("--stain-target must be given with --stain: it says how")
        return None
    from histofast.patches import StainOptions

    path = None if target in (None, "default") else Path(str(target))
    return StainOptions(method=cast(Any, method), target=path, icc=cast(Any, icc))
