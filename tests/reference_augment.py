"""Definition of augmentation: float64 NumPy, one image, what was drawn for it given.

Values stay real from transform to transform, within 0..255, and are rounded once.
"""

from __future__ import annotations

import numpy as np


def turned(image, code):
    if code & 1:
        image = image[:, ::-1]
    if code & 2:
        image = image[::-1]
    return np.rot90(image, code >> 2)


def mirrored(place, size):
    """Beyond the first and the last pixel come the inner ones again, in reverse."""
    if size == 1:
        return np.zeros_like(place)
    period = 2 * (size - 1)
    place = np.mod(place, period)
    return np.minimum(place, period - place)


def mapped(image, six):
    h, w, _ = image.shape
    a, b, c, d, e, f = six
    i, j = np.mgrid[:h, :w]
    x, y = mirrored(a * j + b * i + c, w), mirrored(d * j + e * i + f, h)
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    x1, y1 = np.minimum(x0 + 1, w - 1), np.minimum(y0 + 1, h - 1)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    top = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    bottom = image[y1, x0] * (1 - fx) + image[y1, x1] * fx
    return top * (1 - fy) + bottom * fy


def stained(image, twelve):
    matrix, offset = np.reshape(twelve[:9], (3, 3)), np.asarray(twelve[9:])
    density = -np.log2((image + 1) / 256)
    return np.clip(256 * 2 ** -(density @ matrix + offset) - 1, 0, 255)


def tinted(image, three):
    """Hue, saturation, value and back, as colorsys has them."""
    high, low = image.max(-1), image.min(-1)
    chroma = high - low
    some = np.where(chroma > 0, chroma, 1)
    r, g, b = np.moveaxis(image, -1, 0)
    hue = np.select(
        [high == r, high == g], [(g - b) / some, (b - r) / some + 2], (r - g) / some + 4
    )
    hue = hue + 6 * three[0]
    saturation = np.clip(chroma / np.where(high > 0, high, 1) * (1 + three[1]), 0, 1)
    value = np.clip(high * (1 + three[2]), 0, 255)
    k = (np.array([5.0, 3.0, 1.0]) + hue[..., None]) % 6
    share = np.clip(np.minimum(k, 4 - k), 0, 1)
    return value[..., None] * (1 - saturation[..., None] * share)


def shifted(image, three):
    return np.clip(image + np.asarray(three), 0, 255)


def blurred(image, sigma):
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return image
    t = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (t / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        size = image.shape[axis]
        places = mirrored(np.arange(size)[:, None] + t, size)
        taken = np.moveaxis(np.take(image, places, axis), axis + 1, -1)
        image = taken @ weights
    return image


def cut(image, hole):
    x, y, side = hole
    mean = np.floor(image.mean((0, 1)) + 0.5)
    image = image.copy()
    image[y : y + side, x : x + side] = mean
    return image


def augmented(image, drawn, n):
    """Image n of a batch, (h, w, 3) uint8, as `drawn` (datasets.drawing.Draws) has it."""
    values = image.astype(np.float64)
    if len(drawn.turns):
        values = turned(values, int(drawn.turns[n]))
    if len(drawn.maps):
        values = mapped(values, drawn.maps[n])
    if len(drawn.stains):
        values = stained(values, drawn.stains[n].astype(np.float64))
    if len(drawn.tints):
        values = tinted(values, drawn.tints[n].astype(np.float64))
    if len(drawn.shifts):
        values = shifted(values, drawn.shifts[n].astype(np.float64))
    if len(drawn.sigmas):
        values = blurred(values, float(drawn.sigmas[n]))
    values = np.floor(np.clip(values, 0, 255) + 0.5)
    if len(drawn.holes):
        values = cut(values, drawn.holes[n])
    return values.astype(np.uint8)
