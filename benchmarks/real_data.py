"""Where real data lies, and real patches of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast import graphs
from histofast.patches import sample_patches

DATA = Path(
    os.environ.get("HISTOFAST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


def real_patches(n: int, patch_px: int) -> NDArray[np.uint8]:
    """(n, patch_px, patch_px, 3) patches of a real slide where it is there, and stained noise where not."""
    slide = DATA / "slides" / "CMU-1-Small-Region.svs"
    if not slide.exists():
        return graphs.stained_noise(n, patch_px)
    return sample_patches(slide, n=n, patch_px=patch_px, mpp=0.5).pixels
