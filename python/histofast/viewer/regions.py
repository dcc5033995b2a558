"""What was drawn, or patches between two values, in; a GeoJSON file for QuPath out.

Coordinates count from the pixel that QuPath counts from, which is not level 0's corner where a scan is part of
a larger field.
"""

from __future__ import annotations

import json
import os
import threading
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histofast._files import make_folder, replacing
from histofast._numbers import real_number
from histofast._words import count, text_of

if TYPE_CHECKING:
    from histofast.viewer.catalogue import Catalogue
    from histofast.viewer.layer import Layer
    from histofast.viewer.layers import Layers

MOST_OBJECTS = 50_000  # QuPath is slow with more
MOST_CORNERS = 10_000
_FAR_L0 = 2**31  # no slide is as wide
_NAME_BYTES = 100
_COLOUR = [255, 160, 0]  # of what QuPath shows
_OF_WINDOWS = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{n}{i}" for n in ("com", "lpt") for i in range(1, 10)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A file that was written, and how many objects are in it."""

    path: Path
    objects: int


class Exporter:
    """Writes regions into one folder, never beside it and never over a file. Thread-safe."""

    def __init__(self, catalogue: Catalogue, layers: Layers, folder: Path) -> None:
        """Take the folder, which is made where there is none."""
        self._catalogue, self._layers, self._folder = catalogue, layers, folder
        self._writing = threading.Lock()

    def polygon(self, index: int, name: object, corners: object) -> Exported:
        """Write a drawn region of a slide.

        Args:
            index: of the slide.
            name: of the file, and of the region in QuPath.
            corners: [[x, y], ...] level-0 px.

        Raises:
            TypeError, ValueError: what is no region, or no name.
            FileExistsError: a file of that name is there.
            FileNotFoundError, SlideError: the slide cannot be read.
            WriteError: the folder cannot be written.
        """
        text = text_of("name", name)
        ring = checked_ring(corners)
        mpp = self._catalogue.mpp(index)
        with self._catalogue.slide(index) as slide:
            origin_l0 = slide.origin_l0
        found = object_of(
            ring - origin_l0,
            kind="annotation",
            name=_shown(text),
            measurements={} if mpp is None else {"area um2": area_of(ring) * mpp**2},
        )
        return self._write(text, [found])

    def between(
        self, index: int, name: object, *, layer: object, low: object, high: object
    ) -> Exported:
        """Write the patches whose value of a layer lies from `low` to `high`, both included.

        Raises:
            KeyError: no such layer.
            TypeError, ValueError: a layer of colours; no patches between them, or more than 50,000.
            As `polygon`, and FeatureError.
        """
        text = text_of("name", name)
        least, most = _number("low", low), _number("high", high)
        chosen = self._layer(index, text_of("layer", layer))
        if chosen.kind == "colour":
            raise ValueError(f"layer must have values, got {chosen.name}, which are colours")
        values = self._layers.values(index, chosen.id)
        file = self._catalogue.features(index)
        assert file is not None
        if file.coords is None or file.patch_l0 is None:
            raise ValueError("patches must have a place and a side to be written")
        least = least if chosen.categories is None else max(least, 0)  # below is none of them
        rows = np.flatnonzero((values >= least) & (values <= most))
        if not 0 < len(rows) <= MOST_OBJECTS:
            raise ValueError(
                f"from low to high there must be 1 to {MOST_OBJECTS:,} patches, got {len(rows):,}"
            )
        with self._catalogue.slide(index) as slide:
            corners_l0 = file.coords[rows] - slide.origin_l0
        square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * file.patch_l0
        found = [
            object_of(
                corner + square,
                kind="tile",
                name=_class_of(chosen, value),
                measurements={chosen.name: value},
            )
            for corner, value in zip(corners_l0, values[rows].tolist(), strict=True)
        ]
        return self._write(text, found)

    def _layer(self, index: int, layer_id: str) -> Layer:
        for layer in self._layers.of(index):
            if layer.id == layer_id:
                return layer
        raise KeyError(layer_id)

    def _write(self, name: str, objects: list[dict[str, Any]]) -> Exported:
        path = self._folder / file_name(name)
        document = {"type": "FeatureCollection", "features": objects}
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        make_folder(self._folder)
        with self._writing:
            if os.path.lexists(path):  # a link that leads nowhere too
                raise FileExistsError(f"{path.name} exists: choose another name")
            with replacing(path, overwrite=False) as pending:
                pending.write_text(text, encoding="utf-8")
        return Exported(path=path, objects=len(objects))


def file_name(name: str) -> str:
    """Return a file name that means the same on every system: letters, digits and `-_.()` of a name.

    Example:
        >>> file_name("../../etc/passwd"), file_name("Tumour 1.geojson"), file_name("..")
        ('_.._etc_passwd.geojson', 'Tumour 1.geojson', 'region.geojson')
    """
    plain = unicodedata.normalize("NFC", name).removesuffix(".geojson")
    kept = "".join(c if c.isalnum() or c in " -_.()" else "_" for c in plain).strip(" .")
    kept = kept.encode(errors="ignore")[:_NAME_BYTES].decode(errors="ignore").rstrip(" .")
    if kept.partition(".")[0].lower() in _OF_WINDOWS:
        kept = f"_{kept}"
    return f"{kept or 'region'}.geojson"


def checked_ring(corners: object) -> NDArray[np.float64]:
    """Return the corners (m, 2) of a polygon, as they were drawn, without the first one again at the end.

    Raises:
        ValueError: fewer than three or more than 10,000, what are no numbers, or a polygon without an area.
    """
    wrong = ValueError(
        "polygon must be three or more corners [x, y] in level-0 pixels around an area"
    )
    if not isinstance(corners, list) or not 3 <= len(corners) <= MOST_CORNERS:
        raise wrong
    for corner in corners:
        if not isinstance(corner, list) or len(corner) != 2 or not all(map(_is_place, corner)):
            raise wrong
    ring = np.array(corners, np.float64)
    if (ring[0] == ring[-1]).all():
        ring = ring[:-1]
    if len(ring) < 3 or area_of(ring) == 0:
        raise wrong
    return ring


def area_of(ring: NDArray[np.float64]) -> float:
    """Return the area inside of a ring (m, 2) that does not cross itself."""
    x, y = (ring - ring[0]).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def object_of(
    ring: NDArray[Any], *, kind: str, name: str, measurements: dict[str, float]
) -> dict[str, Any]:
    """Return an object of QuPath 0.4 and later, as GeoJSON has it."""
    closed = [*ring.tolist(), ring[0].tolist()]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [closed]},
        "properties": {
            "objectType": kind,
            "classification": {"name": name, "color": _COLOUR},
            "measurements": measurements,
        },
    }


def _number(name: str, value: Any) -> float:
    found = real_number(name, value)
    if found is None:
        raise TypeError(f"{name} must be a number, got none")
    return float(found)


def _is_place(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _FAR_L0
    )  # not of NaN


def _class_of(layer: Layer, value: float) -> str:
    return layer.name if layer.categories is None else layer.categories[int(value)]


def _shown(name: str) -> str:
    """A name that QuPath can list."""
    printable = "".join(c for c in name if c.isprintable()).strip()
    return printable[:_NAME_BYTES] or count(1, "region")
