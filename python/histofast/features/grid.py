"""What encoders of whole slides take: features, corners on an even grid, and the side of a patch.

Encoders of TITAN's kind place a patch in the cell `(corner - least corner) // side` of whole pixels. Exact
patches lie on steps that are no whole pixels: where the side is the step rounded up, two of them fall into
one cell, whose features would be added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histofast.errors import FeatureError
from histofast.features.file import FeatureFile

_OFF_L0 = 1  # that a corner may be beside the grid, for it is rounded


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SlideInputs:
    """What an encoder of whole slides takes of one slide.

    Attributes:
        features: (1, n, d) float32.
        coords: (1, n, 2) int64 level-0 corners, whole multiples of `patch_size_level0` apart.
        patch_size_level0: side of a patch, level-0 pixels.
    """

    features: NDArray[np.float32]
    coords: NDArray[np.int64]
    patch_size_level0: int


def slide_inputs(file: FeatureFile) -> SlideInputs:
    """Return the features of a slide as TITAN's `encode_slide_from_patch_features` takes them.

    Corners are moved to the grid of whole multiples of the side, by their column and row: a few pixels on
    a slide. Those of files of other tools stay as they are.

    Args:
        file: from `read_features`; not of ready-made patches.

    Raises:
        FeatureError: no patches, no coordinates or no side of them; patches that overlap, or that do not
            lie on a grid.
    """
    side_l0 = file.attributes.get("patch_size_level0")
    if file.coords is None or side_l0 is None or not len(file.features):
        raise FeatureError(
            f"{file.path} must hold patches with coordinates and their side at level 0, got none: "
            "extract features of slides"
        )
    overlap_px = file.attributes.get("overlap", 0)
    if overlap_px:
        raise FeatureError(
            f"patches of {file.path} must not overlap to lie on a grid of cells, got {overlap_px} px: extract "
            "them with overlap_px=0"
        )
    coords = file.coords
    if file.identity is not None:
        coords = _cells_of(file) * int(side_l0)
    return SlideInputs(
        features=np.asarray(file.features, np.float32)[None],
        coords=np.ascontiguousarray(coords)[None],
        patch_size_level0=int(side_l0),
    )


def _cells_of(file: FeatureFile) -> NDArray[np.int64]:
    """Return (n, 2) column and row of each patch."""
    told = file.attributes
    assert file.coords is not None
    step_l0 = told["patch_size"] * told["mpp"] / told["level0_mpp"]
    cells: NDArray[np.int64] = np.rint(file.coords / step_l0).astype(np.int64)
    off_l0 = np.abs(file.coords - cells * step_l0).max()
    if off_l0 > _OFF_L0 or len(np.unique(cells, axis=0)) < len(cells):
        raise FeatureError(
            f"patches of {file.path} must lie on a grid, got one {off_l0:.0f} px beside it: extract them "
            'with edge="drop"'
        )
    return cells
