"""What a network's weights want of pixels, as options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from histofast.cli import options

if TYPE_CHECKING:
    from histofast.graphs import Standardising

Mean = Annotated[
    str | None,
    typer.Option("--mean", metavar="A,B,C|imagenet", help="of the channels, up to --scale"),
]
Std = Annotated[
    str | None,
    typer.Option("--std", metavar="A,B,C|imagenet", help="likewise [with --mean imagenet]"),
]
Channels = Annotated[
    str, options.choice("--channels", "rgb", "bgr", help="their order; bgr: Caffe's, OpenCV's")
]
Scale = Annotated[
    float | None,
    typer.Option(
        "--scale",
        parser=options.number,
        metavar="1|255",
        help="what white is before --mean: 255 of raw pixels [1]",
    ),
]


def standardising_of(
    *, mean: str | None, std: str | None, channels: str, scale: float | None
) -> Standardising | None:
    """Return what the options say; None where they say nothing."""
    from histofast.graphs import Standardising

    if mean is None and std is None and scale is None and channels == "rgb":
        return None
    if mean is None:
        raise ValueError("--mean must be given beside --std, --channels and --scale")
    if std is None and mean != "imagenet":
        raise ValueError("--std must be given beside --mean")
    up_to = 1.0 if scale is None else scale
    found = {
        name: _channels_of(name, text, channels=channels, scale=up_to)
        for name, text in (("mean", mean), ("std", std or "imagenet"))
    }
    return Standardising(**found, channels="bgr" if channels == "bgr" else "rgb", scale=up_to)


def _channels_of(name: str, text: str, *, channels: str, scale: float) -> tuple[float, ...]:
    """Read three numbers, one number for all three channels, or `imagenet`."""
    from histofast.graphs import IMAGENET

    if text == "imagenet":
        usual = [scale * value for value in getattr(IMAGENET, name)]
        return tuple(usual if channels == "rgb" else usual[::-1])
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3):
        raise ValueError(
            f"--{name} must be three numbers such as 0.5,0.5,0.5, one for all, or imagenet, got {text!r}"
        )
    return values if len(values) == 3 else values * 3
