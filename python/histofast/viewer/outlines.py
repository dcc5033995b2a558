"""Outlines of the tissue of slides, found when somebody asks, those asked for last kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from histofast.slides import Slide
from histofast.tissue import find_tissue
from histofast.viewer.catalogue import Catalogue

_MOST_KEPT = 64
_DECIMALS = 1  # of a level-0 pixel


class Outlines:
    """Polygons of the tissue of slides, as JSON has them."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._kept: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, index: int) -> dict[str, Any]:
        """Return {"polygons": [{"outer": [[x, y], ...], "holes": [...]}]}, level-0 pixels; none
        where the scale of the slide is not known.

        Raises:
            FileNotFoundError, SlideError: the slide cannot be opened, or not one tile be decoded.
        """
        with self._lock:  # one slide at a time: it takes all there is to decode with
            if index not in self._kept:
                with self._catalogue.slide(index) as slide:
                    known = self._catalogue.mpp(index) is not None
                    self._kept[index] = _polygons(slide) if known else {"polygons": []}
                if len(self._kept) > _MOST_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(index)
            return self._kept[index]


def _polygons(slide: Slide) -> dict[str, Any]:
    return {
        "polygons": [
            {
                "outer": outer.round(_DECIMALS).tolist(),
                "holes": [hole.round(_DECIMALS).tolist() for hole in holes],
            }
            for outer, holes in find_tissue(slide).contours()
        ]
    }
