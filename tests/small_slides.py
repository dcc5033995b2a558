"""Small slides with tissue on them, for tests of whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import histofast
from slide_files import half, picture, write_tiff


def write_slide(
    path: Path, *, seed: int = 0, size: tuple[int, int] = (640, 512), **options: Any
) -> Path:
    """A white slide with a colourful block of tissue, JPEG tiles, two levels."""
    image = np.full((*size, 3), 245, np.uint8)
    image[64:-64, 64:-64] = picture(size[0] - 128, size[1] - 128, seed=seed)
    options = {"compression": "jpeg", "compressionargs": {"level": 90}, "mpp": 1.0, **options}
    return write_tiff(path, [image, half(image, 2)], **options)


def run(slides: Any, out: Path, encoder: Path, **options: Any) -> histofast.RunReport:
    """`extract` as tests want it: two threads of each kind, little tissue is enough."""
    options = {"min_tissue": 0.1, "threads": 2, "workers": 2} | options
    return histofast.extract(slides, out=out, encoder=encoder, **options)


def content(folder: Path) -> dict[str, bytes]:
    """Bytes of the feature files anywhere in a folder, by their path in it."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.h5")}


def no_leftovers(folder: Path) -> bool:
    """Whether no temporary file is left."""
    return not list(folder.rglob("*.tmp"))
