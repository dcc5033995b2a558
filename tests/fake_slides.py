"""Slides in memory, for tests of what comes after reading: count decodes, break tiles."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

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


class FakeOpenSlide:
    """What the door uses of openslide.OpenSlide: an MRXS-like canvas with a scanned part.

    Level-0 pixel (x, y) is (x % 256, y % 256, 7), half transparent for x < 2100.
    """

    opened = 0
    broken_at: tuple[int, int] | None = None

    def __init__(self, path: Path) -> None:
        type(self).opened += 1
        self.failed = False
        self.properties = {
            "openslide.vendor": "mirax",
            "openslide.mpp-x": "0.25",
            "openslide.mpp-y": "0.25",
            "openslide.objective-power": "40",
            "openslide.background-color": "0A141E",
            "openslide.bounds-x": "2000",
            "openslide.bounds-y": "1000",
            "openslide.bounds-width": "1500",
            "openslide.bounds-height": "800",
        }
        self.level_dimensions = ((5000, 4000), (2500, 2000), (1250, 1000))
        self.level_downsamples = (1.0, 2.0, 4.0)

    def read_region(self, location, level, size):
        assert self.properties, "read after close"
        factor = int(self.level_downsamples[level])
        if self.failed or location == self.broken_at:
            self.failed = True
            raise openslide.OpenSlideError("Cannot read\nraw tile")
        x = location[0] + np.arange(size[0]) * factor
        y = location[1] + np.arange(size[1]) * factor
        rgba = np.zeros((size[1], size[0], 4), np.uint8)
        rgba[..., 0], rgba[..., 1], rgba[..., 2] = x[None, :] % 256, y[:, None] % 256, 7
        rgba[..., 3] = np.where(x < 2100, 128, 255)[None, :]
        return Image.fromarray(rgba, "RGBA")

    def close(self) -> None:
        self.properties = {}
