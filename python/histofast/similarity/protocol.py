"""The comparison of feature maps that published tables were made with, as a preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.similarity.correlation import cca
from histofast.similarity.matrix import check_count


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """The constants of the published comparison of layers.

    Attributes:
        n_rows: positions of maps, about; round(n_rows / (h w)) whole images, at least 1.
        n_channels: channels drawn, the same in both; all where there are no more.
        n_repeats: times that images and channels are drawn anew.
    """

    n_rows: int = 10_000
    n_channels: int = 64
    n_repeats: int = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolResult:
    """Mean canonical correlation of two layers by the published protocol.

    Attributes:
        value: mean over the repeats.
        repeats: (n_repeats,) mean canonical correlation of each.
        n_images, n_rows, n_channels: what each repeat was made of.
    """

    value: float
    repeats: NDArray[np.float64]
    n_images: int
    n_rows: int
    n_channels: int


def published_protocol(
    x: NDArray[np.floating[Any]],
    y: NDArray[np.floating[Any]],
    *,
    protocol: Protocol | None = None,
    seed: int | np.random.Generator = 0,
) -> ProtocolResult:
    """Compare two layers' maps as the published per-layer tables do.

    Space is folded into rows: about 10,000 positions of shuffled images; 64 channels are drawn, the
    same ones in both; the mean canonical correlation is averaged over 5 repeats. Positions of one
    image are not independent, so no interval can be had from them.

    Args:
        x: (n, c, h, w) maps of n images.
        y: (n, c, h, w) maps of the same images and place by the other network.
        protocol: other constants than the published ones.
        seed: seed, or generator.

    Raises:
        TypeError: not arrays of floating point numbers, constants that are not integers.
        ValueError: maps of different shapes, fewer images than a repeat takes, constants below 1;
            as `cca`.

    Determinism: by the seed.

    Reference: Raghu, Zhang, Kleinberg, Bengio, 2019, Transfusion; Juodelyte, Jimenez-Sanchez,
    Cheplygina, 2023, Revisiting hidden representations in transfer learning for medical imaging.

    Example:
        >>> maps = np.random.default_rng(0).normal(size=(4, 3, 50, 50))
        >>> found = published_protocol(maps, 2 * maps)
        >>> round(found.value, 6), found.n_images
        (1.0, 4)
    """
    constants = protocol or Protocol()
    for name in ("n_rows", "n_channels", "n_repeats"):
        check_count(name, getattr(constants, name), at_least=1)
    for name, maps in (("x", x), ("y", y)):
        if not isinstance(maps, np.ndarray) or not np.issubdtype(maps.dtype, np.floating):
            got = maps.dtype.name if isinstance(maps, np.ndarray) else type(maps).__name__
            raise TypeError(f"{name} must be floating point maps (n, c, h, w), got {got}")
        if maps.ndim != 4 or 0 in maps.shape:
            raise ValueError(f"{name} must be of shape (n, c, h, w), got {maps.shape}")
    if x.shape != y.shape:
        raise ValueError(
            f"x and y must have the same shape, got {x.shape} and {y.shape}: pool the larger maps"
        )
    n, c, h, w = x.shape
    n_images = max(1, round(constants.n_rows / (h * w)))
    if n < n_images:
        raise ValueError(
            f"x and y must have {n_images} images of {h} x {w} for {constants.n_rows} rows, got {n}"
        )
    n_channels = min(constants.n_channels, c)
    rng = np.random.default_rng(seed)
    repeats = np.empty(constants.n_repeats)
    for repeat in range(constants.n_repeats):
        images = rng.permutation(n)[:n_images]
        channels = rng.permutation(c)[:n_channels]
        rows_x, rows_y = (
            np.moveaxis(maps[images][:, channels], 1, -1).reshape(-1, n_channels) for maps in (x, y)
        )
        repeats[repeat] = cca(rows_x, rows_y).mean_rho
    return ProtocolResult(
        value=float(repeats.mean()),
        repeats=repeats,
        n_images=n_images,
        n_rows=n_images * h * w,
        n_channels=n_channels,
    )
