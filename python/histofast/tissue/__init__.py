"""Overview image in, `Tissue` out: where there is tissue on a slide, its contours and a preview."""

from __future__ import annotations

from histofast.tissue.finding import (
    AREAS_REVISION,
    INK,
    REVISION,
    Ink,
    Tissue,
    find_tissue,
    tissue_from_geojson,
    tissue_from_mask,
)
from histofast.tissue.mask import tissue_mask
from histofast.tissue.preview import preview

__all__ = [
    "AREAS_REVISION",
    "INK",
    "REVISION",
    "Ink",
    "Tissue",
    "find_tissue",
    "preview",
    "tissue_from_geojson",
    "tissue_from_mask",
    "tissue_mask",
]


def __dir__() -> list[str]:
    return __all__
