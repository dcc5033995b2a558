"""Small slides with tissue on them, for tests of whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from slide_files import half, picture, write_tiff


def write_slide(
    path: Path, *, seed: int = 0, size: tuple[int, int] = (640, 512), **options: Any
) -> Path:
    """A white slide with a colourful block of tissue, JPEG tiles, two levels."""
    image = np.full((*size, 3), 245, np.uint8)
    image[64:-64, 64:-64] = picture(size[0] - 128, size[1] - 128, seed=seed)
    options = {"compression": "jpeg", "compressionargs": {"level": 90}, "mpp": 1.0, **options}
    return write_tiff(path, [image, half(image, 2)], **options)
