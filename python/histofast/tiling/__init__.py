"""Where the patches of a slide lie, and how they are cut out of decoded tiles.

A *patch* is what the encoder sees (``patch_px`` pixels at ``mpp``), a *tile* what the slide file
stores. ``_l0`` is level-0 pixels, ``_px`` patch pixels. Boxes are (x, y, width, height).
"""

from __future__ import annotations

from histofast.tiling.covering import SLIVER, coverage
from histofast.tiling.cutting import WHITE, cut_patches
from histofast.tiling.plan import (
    LEVEL_TOLERANCE,
    MAG_TOLERANCE,
    UM_AT_1X,
    PatchPlan,
    Resample,
    mpp_at,
    nominal_patch_l0,
    plan_at,
    plan_patches,
)

__all__ = [
    "LEVEL_TOLERANCE",
    "MAG_TOLERANCE",
    "SLIVER",
    "UM_AT_1X",
    "WHITE",
    "PatchPlan",
    "Resample",
    "coverage",
    "cut_patches",
    "mpp_at",
    "nominal_patch_l0",
    "plan_at",
    "plan_patches",
]


def __dir__() -> list[str]:
    return __all__
