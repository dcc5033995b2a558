"""A mask on disk - a picture of any kind, or GeoJSON - as `find_tissue` takes it; and points on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._files import regular_file
from histofast.errors import SlideError
from histofast.slides import TIFF_MAGIC, read_mask
from histofast.tissue.mask import REVISION
from histofast.tissue.packed import MOST_BYTES, is_geojson, parsed_geojson, read_geojson
from histofast.tissue.polygons import AREAS_REVISION, read_points


class MaskFile:
    """A ready-made mask on disk."""

    def __init__(self, path: Path) -> None:
        """Read what makes it known; of a GeoJSON all.

        Raises:
            FileNotFoundError, SlideError: it cannot be read, or is too large.
        """
        self.path = regular_file(path, kind="mask", error=SlideError)
        self._is_geojson = is_geojson(path)
        try:
            self._content = (
                read_geojson(path, most_bytes=MOST_BYTES, kind="mask") if self._is_geojson else b""
            )
            with path.open("rb") as file:
                # Of a picture no more than its digest: a pyramid may be larger than the memory.
                self._is_tiff = file.read(4) in TIFF_MAGIC
                file.seek(0)
                self._digest = "mask:" + hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise SlideError(f"cannot read mask {path}: {error.strerror}") from error

    def identity(self, mpp: float) -> str | dict[str, Any]:
        """What makes the mask, and the scale of the overview where it decides what is read.

        Polygons are drawn at that scale, and of a pyramid one level is read.
        """
        if not (self._is_geojson or self._is_tiff):
            return self._digest
        return {
            "mask": self._digest,
            "overview_mpp": mpp,
            "revision": REVISION,
            **({"areas": AREAS_REVISION} if self._is_geojson else {}),
        }

    def read(self, size_wanted: tuple[int, int]) -> NDArray[np.uint8] | dict[str, Any]:
        """Return what `find_tissue` takes for the mask of a slide.

        Args:
            size_wanted: (width, height) of a picture that is enough.

        Raises:
            SlideError: no such mask, see `slides.read_mask`, or no GeoJSON.
        """
        if not self._is_geojson:
            return read_mask(self.path, size_wanted=size_wanted)
        return parsed_geojson(self._content, of=self.path)


def read_points_file(path: Path) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Read the points of a GeoJSON file, plain or packed; see `read_points`.

    Raises:
        FileNotFoundError, SlideError: it cannot be read, is too large, or holds no points.
    """
    regular_file(path, kind="file of points", error=SlideError)
    try:
        content = read_geojson(path, most_bytes=MOST_BYTES, kind="file of points")
    except OSError as error:
        raise SlideError(f"cannot read {path}: {error.strerror}") from error
    try:
        return read_points(parsed_geojson(content, of=path))
    except ValueError as error:
        raise SlideError(f"{path}: {error}") from error
