"""Keys in, what is drawn for each image out: parameters of transforms, from counters and not in turns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Float = NDArray[np.float64]

# Optical density of red, green, blue (columns) by haematoxylin, eosin and DAB (rows). Ruifrok,
# Johnston, 2001, Anal Quant Cytol Histol 23(4).
HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
# One stream of random numbers for each transform; they are never numbered anew.
FLIPS, TURNS, MAPS, STAINS, TINTS, SHIFTS, SIGMAS, HOLES = range(1, 9)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, odd


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Draws:
    """What was drawn for n images; arrays of no rows leave a transform out.

    Attributes:
        turns: (n,) uint8; 1: left and right are swapped, 2: up and down; 4 q: q quarters to the left.
        maps: (n, 6) float64 a b c d e f; row i, column j shows x = a j + b i + c, y = d j + e i + f.
        stains: (n, 12) float32 of a matrix M by rows and o; densities D = -log2((v + 1) / 256), a row
            of three, become D M + o.
        tints: (n, 3) float32 t; a hue within 0..1 becomes hue + t, saturation and value times 1 + t.
        shifts: (n, 3) float32 added to red, green and blue.
        sigmas: (n,) float32 of a Gaussian, px.
        holes: (n, 3) int32 x, y and side of a square.
    """

    turns: NDArray[np.uint8]
    maps: Float
    stains: NDArray[np.float32]
    tints: NDArray[np.float32]
    shifts: NDArray[np.float32]
    sigmas: NDArray[np.float32]
    holes: NDArray[np.int32]


def uniform(keys: Keys, stream: int, count: int) -> Float:
    """Return (n, count) float64 in [0, 1) that hang on key, stream and place alone.

    A counter through the finaliser of SplitMix64 (Steele, Lea, Flood, 2014), begun at a number that the
    same finaliser makes of key and stream.
    """
    begun = _mixed(_mixed(_mixed(keys[:, 0] + _GOLDEN) ^ keys[:, 1]) + np.uint64(stream))
    counters = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    values = _mixed(begun[:, np.newaxis] + counters)
    found: Float = (values >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return found


def _mixed(x: Keys) -> Keys:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def within(keys: Keys, stream: int, count: int) -> Float:
    """Return (n, count) float64, uniform in [-1, 1)."""
    return 2 * uniform(keys, stream, count) - 1


def normal(keys: Keys, stream: int, count: int) -> Float:
    """Return (n, count) standard normal float64, by Box and Muller."""
    u = uniform(keys, stream, 2 * count)
    found: Float = np.sqrt(-2 * np.log1p(-u[:, :count])) * np.cos(2 * np.pi * u[:, count:])
    return found


# --- Parameters --------------------------------------------------------------------------------


def drawn_turns(keys: Keys, *, flips: bool, quarters: bool) -> NDArray[np.uint8]:
    """Draw flips and quarter turns, each of them evenly."""
    codes = np.zeros(len(keys), np.uint8)
    if flips:
        codes |= ((uniform(keys, FLIPS, 2) < 0.5) @ np.array([1, 2])).astype(np.uint8)
    if quarters:
        codes |= (4 * np.floor(4 * uniform(keys, TURNS, 1)[:, 0])).astype(np.uint8)
    return codes


def drawn_maps(
    keys: Keys,
    size: tuple[int, int],
    *,
    rotate_deg: float,
    translate: float,
    scale: float,
    shear_deg: float,
) -> Float:
    """Draw affine maps about the centre of images of (h, w) px: shear, rotation, scale, translation."""
    h, w = size
    turn, x, y, grow, lean = within(keys, MAPS, 5).T
    angle = np.deg2rad(rotate_deg * turn)
    shear, factor = np.tan(np.deg2rad(shear_deg * lean)), 1 + scale * grow
    cos, sin = np.cos(angle) / factor, np.sin(angle) / factor
    # The inverse of factor * rotation * shear, for it says where a pixel of the result comes from.
    a, b, d, e = cos + shear * sin, sin - shear * cos, -sin, cos
    from_x, from_y = (w - 1) / 2 + translate * w * x, (h - 1) / 2 + translate * h * y
    c = (w - 1) / 2 - a * from_x - b * from_y
    f = (h - 1) / 2 - d * from_x - e * from_y
    return np.ascontiguousarray(np.stack([a, b, c, d, e, f], axis=1))


def drawn_stains(keys: Keys, strength: float) -> NDArray[np.float32]:
    """Draw factors and offsets of haematoxylin, eosin and the rest."""
    drawn = within(keys, STAINS, 6) * strength
    factors, offsets = 1 + drawn[:, :3], drawn[:, 3:]
    matrices = np.linalg.inv(HED) @ (factors[:, :, np.newaxis] * HED)
    offsets = offsets @ HED / np.log(2)  # of natural units, as binary ones
    return np.concatenate([matrices.reshape(-1, 9), offsets], axis=1).astype(np.float32)


def drawn_holes(keys: Keys, size: tuple[int, int], share: float) -> NDArray[np.int32]:
    """Draw squares that lie anywhere within images of (h, w) px."""
    h, w = size
    side = round(share * min(h, w))
    room = np.array([w - side + 1, h - side + 1])
    corners = np.floor(uniform(keys, HOLES, 2) * room)
    return np.concatenate([corners, np.full((len(keys), 1), side)], axis=1).astype(np.int32)
