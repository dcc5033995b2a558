"""Real pictures in, what they have in common out: mean density, its colours, its magnitudes by frequency."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BATCH = 64
_FLAT = 1e-9  # variance below that of one byte that is another, in any picture that is kept
_LEAST = 1e-6  # of the largest: a colour that varies less does not vary

Float = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Looks:
    """What pictures look like, whatever they show.

    Densities are binary optical ones, -log2((v + 1) / 256). *Plain colours* are densities, less
    those of the mean, times the inverse of `root`: uncorrelated, each of variance 1.

    Attributes:
        mean: (3,) density of all pixels.
        root: (3, 3) symmetric root of the covariance of densities within pictures.
        magnitude: (3, px, px // 2 + 1) of the plain colours' rfft2, under a Hann window: the mean over
            pictures, scaled so that each plain colour has a variance of 1; 0 at frequency 0.
    """

    mean: Float
    root: Float
    magnitude: Float

    @property
    def px(self) -> int:
        """Side of the pictures."""
        return int(self.magnitude.shape[1])

    @property
    def sha256(self) -> str:
        """Of all numbers, rounded as float32."""
        parts = (self.mean, self.root, self.magnitude)
        return hashlib.sha256(b"".join(p.astype(np.float32).tobytes() for p in parts)).hexdigest()


def looks_of(pixels: NDArray[np.uint8]) -> Looks:
    """Measure what pictures have in common.

    Args:
        pixels: (n, px, px, 3) uint8.

    Raises:
        ValueError: no picture has two colours.

    Determinism: the same pictures in the same order give the same numbers on one machine.
    """
    n, px = pixels.shape[:2]
    total, outer = np.zeros(3), np.zeros((3, 3))
    for part in _densities(pixels):
        total += part.sum((0, 1, 2))
        flat = _within(part).reshape(-1, 3)
        outer += flat.T @ flat
    places = n * px * px
    values, vectors = np.linalg.eigh(outer / places)
    if values[-1] < _FLAT:
        raise ValueError(
            f"images must have colours that vary, got {n} of one colour each: name pictures of "
            "tissue"
        )
    lengths = np.sqrt(np.maximum(values, 0))
    varies = lengths > _LEAST * lengths[-1]
    inverse = np.divide(1, lengths, out=np.zeros(3), where=varies)
    unmixing = (vectors * inverse) @ vectors.T
    magnitude = np.zeros((3, px, px // 2 + 1))
    taper = np.outer(_hann(px), _hann(px))  # else a picture's edges make a cross of streaks
    for part in _densities(pixels):
        plain = taper * (_within(part) @ unmixing).transpose(0, 3, 1, 2)
        magnitude += np.abs(np.fft.rfft2(plain)).sum(0)
    magnitude[:, 0, 0] = 0
    return Looks(
        mean=total / places,
        root=(vectors * lengths) @ vectors.T,
        magnitude=magnitude / np.sqrt(_variance(magnitude))[:, np.newaxis, np.newaxis],
    )


def _hann(px: int) -> Float:
    """Return a window that is 0 beyond both ends, never at a pixel."""
    found: Float = np.sin(np.pi * (np.arange(px) + 0.5) / px) ** 2
    return found


def _variance(magnitude: Float) -> Float:
    """Return (3,) the variance of pictures with these magnitudes, by Parseval."""
    px = magnitude.shape[1]
    twice = np.full(px // 2 + 1, 2.0)  # each column stands for two of the whole spectrum
    twice[0] = 1.0
    if px % 2 == 0:
        twice[-1] = 1.0
    found: Float = (magnitude**2 * twice).sum((1, 2)) / px**4
    return found


def _densities(pixels: NDArray[np.uint8]) -> Iterator[Float]:
    """Yield the densities of a few pictures at a time."""
    for begin in range(0, len(pixels), _BATCH):
        yield -np.log2((pixels[begin : begin + _BATCH].astype(np.float64) + 1) / 256)


def _within(densities: Float) -> Float:
    inner: Float = densities - densities.mean((1, 2), keepdims=True)
    return inner
