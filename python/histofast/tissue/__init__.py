"""Overview image in, `Tissue` out: where there is tissue on a slide, its contours and a preview."""

from __future__ import annotations

from histofast.tissue.by_network import (
    ByNetwork,
    find_tissue_by,
    mask_by,
    network_identity,
)
from histofast.tissue.finding import (
    INK,
    Ink,
    Tissue,
    find_tissue,
    tissue_from_geojson,
    tissue_from_mask,
)
from histofast.tissue.mask import REVISION, tissue_mask
from histofast.tissue.mask_file import MaskFile, read_points_file
from histofast.tissue.packed import is_geojson
from histofast.tissue.preview import preview
from histofast.tissue.stains import in_no_ink, stained

__all__ = [
    "INK",
    "REVISION",
    "ByNetwork",
    "Ink",
    "MaskFile",
    "Tissue",
    "find_tissue",
    "find_tissue_by",
    "in_no_ink",
    "is_geojson",
    "mask_by",
    "network_identity",
    "preview",
    "read_points_file",
    "stained",
    "tissue_from_geojson",
    "tissue_from_mask",
    "tissue_mask",
]


def __dir__() -> list[str]:
    return __all__
