"""What a network's weights want of pixels, told as those who trained it tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from histofast._numbers import real_number

Channels = Literal["rgb", "bgr"]
_RANGES = (1.0, 255.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standardising:
    """Pixels are brought to 0..`scale`, less `mean`, over `std`, their channels in the order of `channels`.

    Attributes:
        mean: per channel, in that order and scale.
        std: likewise, all > 0.
        channels: "rgb", or "bgr" as Caffe and OpenCV have them.
        scale: what a white pixel is before: 1, or 255 where raw pixels are taken.

    Raises:
        TypeError: no numbers.
        ValueError: not three, not finite, std of 0 or less, another order or scale; a mean above the scale.
    """

    mean: Sequence[float]
    std: Sequence[float]
    channels: Channels = "rgb"
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, _three(name, getattr(self, name)))
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if self.channels not in get_args(Channels):
            raise ValueError(f"channels must be rgb or bgr, got {self.channels!r}")
        object.__setattr__(self, "scale", real_number("scale", self.scale))
        if self.scale not in _RANGES:
            raise ValueError(f"scale must be 1 or 255, got {self.scale:g}")
        if max(self.mean) > self.scale:
            raise ValueError(
                f"mean must be within 0..{self.scale:g} as pixels are, got {self.mean}: of pixels up to "
                "255 say scale=255"
            )

    @property
    def of_rgb(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Mean and standard deviation of red, green and blue in 0..1."""
        step = 1 if self.channels == "rgb" else -1
        mean, std = (
            (float(values[0]), float(values[1]), float(values[2]))
            for values in (
                [value / self.scale for value in given][::step] for given in (self.mean, self.std)
            )
        )
        return mean, std


def _three(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    given = np.asarray(values)
    if given.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be three finite numbers, got {values!r}")
    if given.shape != (3,) or not np.isfinite(given).all():
        raise ValueError(
            f"{name} must be three finite numbers, got {tuple(given.ravel().tolist())}"
        )
    first, second, third = map(float, given)
    return first, second, third


IMAGENET = Standardising(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
