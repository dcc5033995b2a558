"""What pictures of channels are made of, as float64 NumPy says it: priors, transforms, what excites."""

from __future__ import annotations

import numpy as np

# Root of the covariance of colours in photographs, as published with Lucid.
COLOURS = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])


def frequencies(px):
    """Length of the frequency of every coefficient of rfft2, cycles per pixel."""
    fy = np.fft.fftfreq(px)[:, np.newaxis]
    fx = np.fft.rfftfreq(px)[np.newaxis]
    return np.sqrt(fx**2 + fy**2)


def fourier_picture(spectrum):
    """(3, px, px // 2 + 1) complex coefficients into (3, px, px) colours in 0..1."""
    px = spectrum.shape[1]
    scale = px / np.maximum(frequencies(px), 1 / px)
    plain = np.fft.irfft2(scale * spectrum, s=(px, px)) / 4
    mixing = COLOURS / np.linalg.norm(COLOURS, axis=0).max()
    return 1 / (1 + np.exp(-np.einsum("ij,jyx->iyx", mixing, plain)))


def densities(pixels):
    """Binary optical densities of bytes; white is 0."""
    return -np.log2((pixels.astype(np.float64) + 1) / 256)


def looks(patches):
    """Mean density, root of the covariance of densities within patches, magnitudes of plain colours.

    Plain colours are densities, less the patch's mean, times the inverse of the root; magnitudes are
    means over patches under a Hann window, so large that each plain colour has a variance of 1.
    """
    d = densities(patches)  # (n, px, px, 3)
    px = d.shape[1]
    mean = d.mean((0, 1, 2))
    inner = d - d.mean((1, 2), keepdims=True)
    flat = inner.reshape(-1, 3)
    values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    root = vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T
    plain = inner @ np.linalg.pinv(root, rcond=1e-6, hermitian=True)
    hann = np.sin(np.pi * (np.arange(px) + 0.5) / px) ** 2
    tapered = plain * hann[:, np.newaxis, np.newaxis] * hann[np.newaxis, :, np.newaxis]
    magnitude = np.abs(np.fft.fft2(tapered, axes=(1, 2))).mean(0).transpose(2, 0, 1)
    magnitude[:, 0, 0] = 0
    variance = (magnitude**2).sum((1, 2)) / px**4
    magnitude /= np.sqrt(variance)[:, np.newaxis, np.newaxis]
    return mean, root, magnitude[:, :, : px // 2 + 1]


def phase_picture(phases, mean, root, magnitude):
    """(3, px, px // 2 + 1) phases into (plain colours, colours in 0..1), each (3, px, px)."""
    px = phases.shape[1]
    phases = phases.copy()
    for column in (0, px // 2) if px % 2 == 0 else (0,):
        own = phases[:, :, column]
        phases[:, :, column] = own - np.roll(own[:, ::-1], 1, axis=1)  # less that of -ky
    plain = np.fft.irfft2(magnitude * np.exp(1j * phases), s=(px, px))
    density = mean[:, np.newaxis, np.newaxis] + np.einsum("ij,jyx->iyx", root, plain)
    return plain, np.clip(256 * 2.0**-density - 1, 0, 255) / 255


def total_variation(picture):
    """Mean over pixels and colours of the absolute steps to the right and down."""
    steps = np.abs(np.diff(picture, axis=1)).sum() + np.abs(np.diff(picture, axis=2)).sum()
    return steps / picture.size


def window(picture, *, pad, first, second, cut, scale, angle, wrap):
    """What a network sees of a picture: padded, shifted, scaled, turned and shifted again.

    `first` and `second` are (x, y) of the two crops, `cut` by how much each of them makes the side
    smaller, `angle` in degrees; bilinear; beyond the picture it goes on (`wrap`) or is grey.
    """
    px = picture.shape[1]
    side = px + 2 * pad - cut[0]
    scaled = round(side * scale)
    out = scaled - cut[1]
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    seen = np.empty((3, out, out))
    for y in range(out):
        for x in range(out):
            u = x + second[0] + 0.5 - scaled / 2
            v = y + second[1] + 0.5 - scaled / 2
            at_x = (cos * u + sin * v) / scale + side / 2 + first[0] - pad - 0.5
            at_y = (cos * v - sin * u) / scale + side / 2 + first[1] - pad - 0.5
            seen[:, y, x] = _bilinear(picture, at_x, at_y, wrap=wrap)
    return seen


def _bilinear(picture, x, y, *, wrap):
    px = picture.shape[1]
    x0, y0 = int(np.floor(x)), int(np.floor(y))
    value = np.zeros(3)
    for i, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for j, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            inside = 0 <= i < px and 0 <= j < px
            colour = picture[:, i % px, j % px] if wrap or inside else 0.5
            value += wy * wx * colour
    return value


def excitations(maps):
    """(n, c, h, w) maps into (n, c) mean over places, and (c,) whether a channel is dead."""
    flat = maps.transpose(1, 0, 2, 3).reshape(maps.shape[1], -1)
    return maps.mean((2, 3)), flat.max(1) == flat.min(1)
