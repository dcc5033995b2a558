"""Slides in memory, for tests of what comes after reading: count decodes, break tiles."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import numpy as np

from histofast.errors import TileError
from histofast.slides import Level, Slide


class FakeSlide(Slide):
    """A pyramid made of an image by averaging; `broken` tiles (level, column, row) fail."""

    def __init__(self, image, *, mpp=0.25, downsamples=(1,), tile=(64, 48), broken=(), name="fake"):
        self.path, self.name, self.mpp, self.properties = Path(f"{name}.svs"), name, mpp, {}
        self.images, levels = [], []
        for d in downsamples:
            h, w = image.shape[0] // d, image.shape[1] // d
            cut = image[: h * d, : w * d].reshape(h, d, w, d, 3).mean((1, 3))
            self.images.append(np.rint(cut).astype(np.uint8))
            levels.append(
                Level(
                    width=w, height=h, downsample=float(d), tile_width=tile[0], tile_height=tile[1]
                )
            )
        self.levels = tuple(levels)
        self.broken = set(broken)
        self.decoded = Counter()
        self.lock = threading.Lock()
        self.closed = False

    @property
    def identity(self):
        return f"fake:{self.name}"

    def read_tile(self, level, column, row, out):
        with self.lock:
            self.decoded[level, column, row] += 1
        info = self.levels[level]
        assert 0 <= column < info.columns
        assert 0 <= row < info.rows
        if (level, column, row) in self.broken:
            out[:] = 77
            raise TileError(f"tile ({column}, {row}) of level {level}: broken")
        y, x = row * info.tile_height, column * info.tile_width
        part = self.images[level][y : y + info.tile_height, x : x + info.tile_width]
        out[:] = 99  # what lies past the edge must never be seen
        out[: part.shape[0], : part.shape[1]] = part

    def close(self):
        self.closed = True


def noise(height, width, seed=0):
    """(height, width, 3) uint8 smooth noise, so that a shift by one pixel shows."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4 + 2, width // 4 + 2, 3))
    return np.kron(coarse, np.ones((4, 4, 1)))[:height, :width].astype(np.uint8)
