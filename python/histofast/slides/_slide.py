"""What every slide is to the rest of histofast, whatever its format.

A slide is a pyramid of levels; each level is a grid of equally sized tiles that can be decoded
one by one from many threads. Formats without tiles (OpenSlide's, plain images) present blocks of
their own choosing as tiles. Coordinates are level-0 pixels, (x, y), top-left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """One level of the pyramid.

    `downsample` is the level-0 pixels per pixel of this level; an integer whenever the sizes allow
    it (4.0, not 3.9987 because the last row was cut off).
    """

    width: int
    height: int
    downsample: float
    tile_width: int
    tile_height: int

    @property
    def columns(self) -> int:
        """Number of tile columns."""
        return -(-self.width // self.tile_width)

    @property
    def rows(self) -> int:
        """Number of tile rows."""
        return -(-self.height // self.tile_height)


class Slide(ABC):
    """An open slide. A context manager; `close()` is safe to call twice.

    Attributes:
        path: file (or folder, for formats that are one).
        name: what feature files are called after: the file name without its last suffix.
        levels: finest first; level 0 has downsample 1.
        mpp: level-0 um per pixel, already checked to lie in 0.05..20.
        properties: what the file says of itself (vendor, objective power, ...), strings.
        identity: short text that changes when the file's content does (size and sha256 of parts).
    """

    path: Path
    name: str
    levels: tuple[Level, ...]
    mpp: float
    properties: Mapping[str, str]

    @property
    @abstractmethod
    def identity(self) -> str: ...

    @abstractmethod
    def read_tile(self, level: int, column: int, row: int, out: NDArray[np.uint8]) -> None:
        """Decode one tile into `out`, (tile_height, tile_width, 3) uint8 RGB, C-contiguous.

        Thread-safe; releases the GIL while decoding. Pixels past the edge of the level are
        unspecified.

        Raises:
            TileError: the tile is missing, truncated or corrupt; `out` is then unspecified.
        """

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
