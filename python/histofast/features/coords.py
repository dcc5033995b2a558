"""An HDF5 file of TRIDENT, CLAM or ours in; where its patches lie, and what it says of their slide, out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._files import path_of
from histofast.errors import FeatureError
from histofast.features.file import stored_coords
from histofast.features.opening import dataset_of, known_attributes, reading


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoredCoords:
    """Where patches lie.

    Attributes:
        path: of the file.
        coords: (n, 2) int64 level-0 (x, y) of their top-left corners.
        patch_l0: their side in level-0 pixels; None where the file does not tell.
        patch_px, level: their side in pixels of a level, as CLAM tells it; None where it does not.
        size_l0: (width, height) of the slide; None where the file does not tell.
    """

    path: Path
    coords: NDArray[np.int64]
    patch_l0: float | None
    patch_px: float | None
    level: int | None
    size_l0: tuple[int, int] | None


def read_coords(path: Path | str) -> StoredCoords:
    """Read the dataset `coords` of a file; features need not be in it.

    Raises:
        FileNotFoundError: there is no such file.
        FeatureError: it is no whole HDF5 file, or has no coordinates of a slide.
    """
    path = path_of("path", path)
    with reading(path, kind="file of coordinates") as file:
        dataset = dataset_of(file, "coords", kinds="iuf")
        if dataset is None:
            raise FeatureError(f"{path} must have a dataset 'coords', got none")
        told = known_attributes(dataset, file)
        if dataset.ndim not in (2, 3) or not told.get("coords_known", True):
            got = f"shape {dataset.shape}" if dataset.ndim not in (2, 3) else "those of no slide"
            raise FeatureError(f"coords of {path} must be (n, 2) level-0 pixels, got {got}")
        coords = stored_coords(dataset, dataset.shape[-2], told)
        if coords is None:
            raise FeatureError(f"coords of {path} must tell the scale of their um, got none")
    size = tuple(_whole(told.get(f"level0_{side}")) for side in ("width", "height"))
    patch_l0 = told.get("patch_size_level0_exact", told.get("patch_size_level0"))
    return StoredCoords(
        path=path,
        coords=coords,
        patch_l0=patch_l0,
        patch_px=told.get("patch_size"),
        level=_whole(told.get("patch_level")),
        size_l0=None if size[0] is None or size[1] is None else (size[0], size[1]),
    )


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None
