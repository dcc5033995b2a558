"""Batches of training images in, changed ones out; what is drawn for an image hangs on its key alone.

Every transform draws from a stream of its own: switching one on changes nothing of the others. Order:
flips and quarter turns, affine map, colour, blur, cutout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._numbers import whole_number

Pixels = NDArray[np.uint8]
Float = NDArray[np.float64]

# Optical density per unit of haematoxylin, eosin and DAB. Ruifrok, Johnston, 2001.
HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_FLIP, _TURN, _AFFINE, _HED, _HSV, _PCA, _BLUR, _CUTOUT = range(1, 9)  # streams


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """What is drawn for each training image; False or 0: nothing of it.

    Attributes:
        flips: left and right, up and down, each with probability 1/2.
        quarter_turns: by 0, 90, 180 or 270 degrees.
        rotate_deg: uniform within +- degrees.
        translate: along each axis, uniform within +- this share of the side.
        scale: enlarged by a factor uniform within 1 +- this, below 1.
        shear_deg: uniform within +- degrees, along x.
        hed: haematoxylin, eosin and residual each times 1 +- this, plus +- this in units of natural
            optical density. Tellez et al., 2018, arXiv 1808.05896; their light form has 0.05.
        hsv: hue within +- this share of a turn; saturation and value times 1 +- this.
        rgb_pca: deviation of the normal factors of each principal component of the image's own colours,
            in their deviations. After Krizhevsky et al., 2012, who took those of the data set.
        blur_sigma: deviation of a Gaussian, uniform from 0 to this, px.
        cutout: side of a square that gets the image's mean colour, as a share of the side; it lies
            anywhere within. DeVries, Taylor, 2017, arXiv 1708.04552.

    What an affine map asks for beyond the edge is mirrored there.

    Raises:
        ValueError: a value out of range.
    """

    flips: bool = False
    quarter_turns: bool = False
    rotate_deg: float = 0.0
    translate: float = 0.0
    scale: float = 0.0
    shear_deg: float = 0.0
    hed: float = 0.0
    hsv: float = 0.0
    rgb_pca: float = 0.0
    blur_sigma: float = 0.0
    cutout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        most = {"rotate_deg": 180, "shear_deg": 80, "blur_sigma": 20, "scale": 0.9, "rgb_pca": 10}
        for part in fields(self):
            value = getattr(self, part.name)
            if part.type == "bool":
                if not isinstance(value, bool):
                    raise ValueError(f"{part.name} must be true or false, got {value!r}")
            elif not 0 <= value <= most.get(part.name, 1):
                raise ValueError(f"{part.name} must be 0 to {most.get(part.name, 1)}, got {value}")


def augment(
    pixels: Pixels,
    augmentation: Augmentation,
    *,
    keys: NDArray[np.uint64],
    threads: int = 1,
    out: Pixels | None = None,
) -> Pixels:
    """Return images as they are learnt from.

    Args:
        pixels: (n, px, px, 3) uint8 RGB.
        augmentation: what is drawn.
        keys: (n, 2) uint64 of each image; of seed and epoch, and of the image. The same key draws the
            same, wherever in whatever batch the image is.
        threads: that share the images; the result does not depend on them.
        out: (n, px, px, 3) uint8 to write into; not `pixels`.

    Raises:
        TypeError, ValueError: arrays of another type or shape.
    """
    n, h, w = check("pixels", pixels, "uint8", ("n", "h", "w", 3))
    check("keys", keys, "uint64", (n, 2))
    whole_number("threads", threads, at_least=1)
    if h != w:
        raise ValueError(f"pixels must be square images, got {h} x {w}")
    out = np.empty_like(pixels) if out is None else out
    check("out", out, "uint8", (n, h, w, 3))
    for i in range(n):
        out[i] = _augmented(pixels[i], augmentation, keys[i])
    return out


def _augmented(image: Pixels, a: Augmentation, key: NDArray[np.uint64]) -> Pixels:
    if a.flips:
        across, down = uniform(key, _FLIP, 2) < 0.5
        image = image[:, ::-1] if across else image
        image = image[::-1] if down else image
    if a.quarter_turns:
        image = np.rot90(image, int(4 * uniform(key, _TURN, 1)[0]))
    if a.rotate_deg or a.translate or a.scale or a.shear_deg:
        image = _mapped(image, *drawn_map(a, key, image.shape[0]))
    if a.hed:
        image = _stained(image, *drawn_stain(a.hed, key))
    if a.hsv:
        image = _tinted(image, _within(key, _HSV, 3) * a.hsv)
    if a.rgb_pca:
        image = _shifted(image, a.rgb_pca * normal(key, _PCA, 3))
    if a.blur_sigma:
        image = _blurred(image, float(uniform(key, _BLUR, 1)[0] * a.blur_sigma))
    if a.cutout:
        image = _cut(image, a.cutout, uniform(key, _CUTOUT, 2))
    return image


# --- Draws -------------------------------------------------------------------------------------


def uniform(key: NDArray[np.uint64], stream: int, count: int) -> Float:
    """Return (count,) float64 in [0, 1) that hang on key, stream and place: SplitMix64's mixing."""
    with np.errstate(over="ignore"):
        seed = _mixed(_mixed(key[0] + np.uint64(stream)) ^ key[1])
        values = _mixed(
            seed + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        )
    found: Float = (values >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return found


def _mixed(x: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def normal(key: NDArray[np.uint64], stream: int, count: int) -> Float:
    """Return (count,) standard normal numbers, by Box and Muller."""
    u = uniform(key, stream, 2 * count)
    found: Float = np.sqrt(-2 * np.log1p(-u[:count])) * np.cos(2 * np.pi * u[count:])
    return found


def _within(key: NDArray[np.uint64], stream: int, count: int) -> Float:
    return 2 * uniform(key, stream, count) - 1


def drawn_map(a: Augmentation, key: NDArray[np.uint64], px: int) -> tuple[Float, Float]:
    """Return the (2, 2) matrix and (2,) offset that take a place (x, y) of the result to the image's.

    Places are relative to the centre, in px.
    """
    turn, x, y, grow, lean = _within(key, _AFFINE, 5)
    angle, shear = math.radians(a.rotate_deg * turn), math.tan(math.radians(a.shear_deg * lean))
    forward = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = forward @ np.array([[1, shear], [0, 1]]) * (1 + a.scale * grow)
    inverse = np.linalg.inv(forward)
    return inverse, -inverse @ (np.array([x, y]) * a.translate * px)


def drawn_stain(strength: float, key: NDArray[np.uint64]) -> tuple[Float, Float]:
    """Return the (3, 3) matrix and (3,) offset that optical densities (as rows) go through."""
    drawn = _within(key, _HED, 6) * strength
    return np.linalg.inv(HED) @ np.diag(1 + drawn[:3]) @ HED, drawn[3:] @ HED


# --- Transforms --------------------------------------------------------------------------------


def _mapped(image: Pixels, matrix: Float, offset: Float) -> Pixels:
    px = image.shape[0]
    at = np.arange(px) - (px - 1) / 2
    x = matrix[0, 0] * at + (matrix[0, 1] * at[:, None] + offset[0] + (px - 1) / 2)
    y = matrix[1, 0] * at + (matrix[1, 1] * at[:, None] + offset[1] + (px - 1) / 2)
    x, y = _mirrored(x, px), _mirrored(y, px)
    x0, y0 = x.astype(np.int64), y.astype(np.int64)
    x1, y1 = np.minimum(x0 + 1, px - 1), np.minimum(y0 + 1, px - 1)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    top = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    bottom = image[y1, x0] * (1 - fx) + image[y1, x1] * fx
    return _rounded(top * (1 - fy) + bottom * fy)


def _mirrored(at: Float, px: int) -> Float:
    """Reflect places beyond the first and last pixel, without doubling these."""
    if px == 1:
        return np.zeros_like(at)
    return np.abs((at + (px - 1)) % (2 * (px - 1)) - (px - 1))


_DENSITY = -np.log((np.arange(256) + 1) / 256)


def _stained(image: Pixels, matrix: Float, offset: Float) -> Pixels:
    return _rounded(256 * np.exp(-(_DENSITY[image] @ matrix + offset)) - 1)


def _tinted(image: Pixels, drawn: Float) -> Pixels:
    rgb = image / 255.0
    high, low = rgb.max(-1), rgb.min(-1)
    chroma = high - low
    safe = np.where(chroma > 0, chroma, 1)
    r, g, b = np.moveaxis(rgb, -1, 0)
    hue = np.select(
        [high == r, high == g], [(g - b) / safe % 6, (b - r) / safe + 2], (r - g) / safe + 4
    )
    hue = (hue / 6 + drawn[0]) * 6
    value = np.clip(high * (1 + drawn[2]), 0, 1)
    saturation = np.clip(chroma / np.where(high > 0, high, 1) * (1 + drawn[1]), 0, 1)
    k = (np.array([5.0, 3.0, 1.0]) + hue[..., None]) % 6
    ramp = np.clip(np.minimum(k, 4 - k), 0, 1)
    return _rounded(255 * (value * (1 - saturation * np.moveaxis(ramp, -1, 0))).transpose(1, 2, 0))


def _shifted(image: Pixels, drawn: Float) -> Pixels:
    flat = image.reshape(-1, 3).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(flat, rowvar=False))
    # A vector's sign is no property of the picture.
    vectors = vectors * np.where(vectors.sum(0) < 0, -1, 1)
    return _rounded(image + vectors @ (drawn * np.sqrt(np.maximum(values, 0))))


def _blurred(image: Pixels, sigma: float) -> Pixels:
    from scipy.ndimage import gaussian_filter  # a tenth of a second that few spend

    blurred = gaussian_filter(image.astype(np.float64), (sigma, sigma, 0), mode="mirror")
    return _rounded(blurred)


def _cut(image: Pixels, share: float, at: Float) -> Pixels:
    px = image.shape[0]
    side = round(share * px)
    x, y = (at * (px - side + 1)).astype(np.int64)
    image = image.copy()
    image[y : y + side, x : x + side] = np.rint(image.mean((0, 1)))
    return image


def _rounded(values: Float) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
