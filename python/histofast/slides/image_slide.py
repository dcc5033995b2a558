"""The plain image as a slide of one level."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast.errors import TileError
from histofast.slides.icc import profile_of_picture
from histofast.slides.slide import Level, Slide

_TILE_PX = 512


class ImageSlide(Slide):
    """A plain image, decoded into memory, as a slide of one level."""

    path: Path

    def __init__(
        self, path: Path, image: NDArray[np.uint8], *, mpp: float, properties: Mapping[str, str]
    ) -> None:
        """Present `image`, (h, w, 3) uint8, which `path` holds."""
        self.path = path
        self.name = path.stem
        self.mpp = mpp
        self.properties = {"door": "image", **properties}
        self._image: NDArray[np.uint8] | None = image
        height, width = image.shape[:2]
        self.levels = (
            Level(
                width=width,
                height=height,
                downsample=1.0,
                tile_width=min(_TILE_PX, width),
                tile_height=min(_TILE_PX, height),
            ),
        )

    @property
    def icc_profile(self) -> bytes:
        return profile_of_picture(self.path)

    def read_tile(self, level: int, column: int, row: int, out: NDArray[np.uint8]) -> None:
        if self._image is None:
            raise ValueError(f"{self.path} is closed")
        info = self.levels[0]
        check("out", out, "uint8", (info.tile_height, info.tile_width, 3))
        if level != 0 or not (0 <= column < info.columns and 0 <= row < info.rows):
            raise TileError(
                f"{self.path} has no tile (column {column}, row {row}) of level {level}"
            )
        x, y = column * info.tile_width, row * info.tile_height
        part = self._image[y : y + info.tile_height, x : x + info.tile_width]
        out[: part.shape[0], : part.shape[1]] = part

    def close(self) -> None:
        self._image = None
