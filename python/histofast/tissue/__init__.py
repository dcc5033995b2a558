"""Overview image in, `Tissue` out: where there is tissue on a slide, its contours and a preview."""

from __future__ import annotations

from histofast.tissue.mask import (
    REVISION,
    Tissue,
    find_tissue,
    preview,
    tissue_from_geojson,
    tissue_from_mask,
    tissue_mask,
)

__all__ = [
    "REVISION",
    "Tissue",
    "find_tissue",
    "preview",
    "tissue_from_geojson",
    "tissue_from_mask",
    "tissue_mask",
]
