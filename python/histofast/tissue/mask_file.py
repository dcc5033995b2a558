"""A mask on disk - a picture of any kind, or GeoJSON - as `find_tissue` takes it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._files import refuse_stand_in, regular_file
from histofast._words import one_line
from histofast.errors import SlideError
from histofast.slides import TIFF_MAGIC, read_mask
from histofast.tissue.mask import REVISION
from histofast.tissue.packed import is_geojson, read_geojson
from histofast.tissue.polygons import AREAS_REVISION

# Keys of an object that say what it is and where; of two nobody knows which is meant.
_SAID_ONCE = ("type", "features", "geometry", "geometries", "coordinates")
_MOST_BYTES = 1 << 28  # of a GeoJSON: ten million points


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
            self._content = read_geojson(path, most_bytes=_MOST_BYTES) if self._is_geojson else b""
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
        try:
            value = json.loads(
                self._content,
                object_pairs_hook=_object,
                parse_int=float,
            )
        except RecursionError:
            raise SlideError(f"{self.path} must be GeoJSON, got lists nested too deeply") from None
        except ValueError as error:
            refuse_stand_in(self.path, error=SlideError)
            raise SlideError(f"{self.path} must be GeoJSON: {one_line(error)}") from error
        # QuPath's scripts write a plain list of features unless they are asked for a collection.
        if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
            return {"type": "FeatureCollection", "features": value}
        if not isinstance(value, dict):
            got = "a list" if isinstance(value, list) else "one value"
            raise SlideError(
                f"{self.path} must be a GeoJSON object, got {got}: export a FeatureCollection"
            )
        return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON that says one thing of its place."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        if twice := [key for key in _SAID_ONCE if keys.count(key) > 1]:
            raise ValueError(f"an object must have its {twice[0]} once, got it twice")
    return found
