"""What a network sees of a picture at each step of a search: padded, shifted, scaled, turned, shifted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_GREY = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Transforms:
    """From what the transforms of a stage are drawn, all of them alike.

    Attributes:
        pad_px: added on each side.
        first_px, second_px: how far the picture is shifted, before and after it is scaled and turned;
            its side becomes smaller by as much.
        scales: that it may be made larger by.
        angles_deg: that it may be turned by.
    """

    pad_px: int
    first_px: int
    second_px: int
    scales: tuple[float, ...]
    angles_deg: tuple[float, ...]


# As published: Graziani et al., 2019, with the transforms of Lucid.
_ANGLES = tuple(float(angle) for angle in range(-10, 11)) + (0.0,) * 5
STANDARD = Transforms(
    pad_px=12,
    first_px=8,
    second_px=4,
    scales=tuple(1 + (i - 5) / 50 for i in range(11)),
    angles_deg=_ANGLES,
)
LIGHT = Transforms(pad_px=0, first_px=8, second_px=2, scales=(1.0,), angles_deg=_ANGLES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """One draw of `Transforms`: where what is seen comes from."""

    pad_px: int
    cut_px: tuple[int, int]
    first: tuple[int, int]
    second: tuple[int, int]
    scale: float
    angle_deg: float


def drawn(transforms: Transforms, rng: np.random.Generator) -> Window:
    """Draw transforms."""
    first, second = transforms.first_px, transforms.second_px
    return Window(
        pad_px=transforms.pad_px,
        cut_px=(first, second),
        first=_pair(rng, first),
        second=_pair(rng, second),
        scale=transforms.scales[int(rng.integers(len(transforms.scales)))],
        angle_deg=transforms.angles_deg[int(rng.integers(len(transforms.angles_deg)))],
    )


def seen(picture: Tensor, window: Window, *, wraps: bool) -> Tensor:
    """Return what is seen of a picture, resampled once, bilinearly.

    Args:
        picture: (1, 3, px, px).
        window: see `drawn`.
        wraps: whether the picture goes on beyond its sides; else it lies on grey.

    Returns:
        (1, 3, s, s); s follows from the window.
    """
    px = picture.shape[-1]
    side = px + 2 * window.pad_px - window.cut_px[0]
    scaled = round(side * window.scale)
    shown = scaled - window.cut_px[1]
    angle = math.radians(window.angle_deg)
    cos, sin = math.cos(angle) / window.scale, math.sin(angle) / window.scale
    # Affine in places of the result, both counted in pixels from the centre of the first one.
    u, v = (window.second[k] + 0.5 - scaled / 2 for k in (0, 1))
    from_x, from_y = (side / 2 + window.first[k] - window.pad_px - 0.5 for k in (0, 1))
    x0, y0 = cos * u + sin * v + from_x, cos * v - sin * u + from_y
    margin = _margin(px, x0, y0, cos, sin, shown) if wraps else 0
    if margin:
        picture = functional.pad(picture, (margin,) * 4, mode="circular")
    whole = px + 2 * margin
    to_unit = 2 / whole  # grid_sample counts from -1 to 1 between the outer edges
    step = to_unit * torch.arange(shown, dtype=torch.float32, device=picture.device)
    x = to_unit * (x0 + margin + 0.5) - 1 + cos * step[None, :] + sin * step[:, None]
    y = to_unit * (y0 + margin + 0.5) - 1 + cos * step[:, None] - sin * step[None, :]
    grid = torch.stack([x, y], dim=-1)[None]
    grey = 0.0 if wraps else _GREY
    found: Tensor = grey + functional.grid_sample(
        picture - grey, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return found


def _margin(px: int, x0: float, y0: float, cos: float, sin: float, shown: int) -> int:
    """Return how far what is seen reaches beyond the picture, in whole pixels."""
    last = shown - 1
    corners = [(i, j) for i in (0, last) for j in (0, last)]
    xs = [x0 + cos * i + sin * j for i, j in corners]
    ys = [y0 + cos * j - sin * i for i, j in corners]
    low, high = min(*xs, *ys), max(*xs, *ys)
    return max(0, math.ceil(-low), math.ceil(high - (px - 1))) + 1


def _pair(rng: np.random.Generator, most: int) -> tuple[int, int]:
    x, y = rng.integers(most + 1, size=2)
    return int(x), int(y)
