"""A patch in: where it lies, what is said of it, and its pixels, out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histofast._numbers import whole_number
from histofast.errors import FeatureError
from histofast.patches import read_rows

if TYPE_CHECKING:
    from histofast.features import FeatureFile
    from histofast.slides import Slide
    from histofast.viewer.catalogue import Catalogue
    from histofast.viewer.layers import Layers

_SHOWN_PX = 256  # side of a patch whose file does not tell it


def about_patch(catalogue: Catalogue, layers: Layers, index: int, row: int) -> dict[str, Any]:
    """Return what is known of a patch.

    Returns:
        x, y and side_l0 (level-0 px) and the same in um, None where no scale is known; tissue_fraction; whether the patch shows what could
        not be decoded; its value and rank (1 is the highest, those as high share the smallest) in each layer of
        numbers; what the run says of it; its label, else its slide's; whether its pixels are those that the
        encoder saw ("exact"), the same square of the slide ("region"), or not to be had (None).

    Raises:
        IndexError: no such patch.
        FileNotFoundError, SlideError, FeatureError: slide or features cannot be read.
    """
    file = _file(catalogue, index, row)
    assert file.coords is not None
    x, y = file.coords[row].tolist()
    side_l0 = file.patch_l0
    mpp = catalogue.mpp(index)
    fraction = np.nan if file.tissue_fraction is None else float(file.tissue_fraction[row])
    label = file.labels[row] if file.labels else ""
    ranks, notes = _ranks(layers, index, row)
    return {
        "row": row,
        "x": x,
        "y": y,
        "side_l0": side_l0,
        "x_um": None if mpp is None else x * mpp,
        "y_um": None if mpp is None else y * mpp,
        "side_um": None if mpp is None or side_l0 is None else side_l0 * mpp,
        "tissue_fraction": fraction if np.isfinite(fraction) else None,
        "unreadable": bool((file.unreadable_patches == row).any()),
        "ranks": ranks,
        "prediction": None if notes else layers.prediction_of_patch(index, row),
        "label": label or catalogue.entries[index].label,
        "pixels": _kind_of_pixels(file),
        "notes": notes,
    }


def rank_of(values: NDArray[Any], row: int) -> tuple[int, int] | None:
    """Return the rank of one of (n,) values, and of how many; None where it has none.

    Example:
        >>> rank_of(np.array([1.0, 5.0, 5.0, np.nan]), 1), rank_of(np.array([1.0, 5.0, 5.0]), 0)
        ((1, 3), (3, 3))
    """
    if not np.isfinite(values[row]):
        return None
    return 1 + int((values > values[row]).sum()), int(np.isfinite(values).sum())


def _ranks(layers: Layers, index: int, row: int) -> tuple[list[dict[str, Any]], list[str]]:
    ranks: list[dict[str, Any]] = []
    for layer in layers.of(index):
        if layer.kind != "scalar":
            continue
        try:
            values = layers.values(index, layer.id)
        except FeatureError:
            return ranks, ["the models of the run cannot look at this slide: its layers say why"]
        if (rank := rank_of(values, row)) is not None:
            place, of = rank
            value = float(values[row])
            told = {"layer": layer.id, "name": layer.name, "value": value, "rank": place, "of": of}
            ranks.append(told)
    return ranks, []


def pixels_of_patch(catalogue: Catalogue, index: int, row: int) -> NDArray[np.uint8]:
    """Return the pixels of a patch (p, p, 3).

    They are what the encoder saw, colours of stain and ICC included; of features of other tools, which do not
    tell that, the same square of the slide at about its size in pixels.

    Raises:
        IndexError: no such patch.
        FileNotFoundError, SlideError, FeatureError: what cannot be read, or is not of the slide.
    """
    file = _file(catalogue, index, row)
    with catalogue.slide(index) as slide:
        if _kind_of_pixels(file) == "exact":
            exact: NDArray[np.uint8] = read_rows(slide, file, np.array([row]))[0]
            return exact
        return _region(slide, file, row)


def _region(slide: Slide, file: FeatureFile, row: int) -> NDArray[np.uint8]:
    if file.patch_l0 is None:
        raise FeatureError(f"{file.path} does not tell the side of its patches")
    assert file.coords is not None
    x, y = file.coords[row].tolist()
    patch_px = min(int(file.attributes.get("patch_size") or _SHOWN_PX), file.patch_l0)
    scale = file.patch_l0 / patch_px
    return slide.read_region((x, y), size=(patch_px, patch_px), mpp=slide.mpp * scale)


def _kind_of_pixels(file: FeatureFile) -> str | None:
    if file.identity is not None and "slide" in file.identity:
        return "exact"
    return None if file.patch_l0 is None else "region"


def _file(catalogue: Catalogue, index: int, row: int) -> FeatureFile:
    file = catalogue.features(index)
    if file is None or file.coords is None:
        raise IndexError(f"{catalogue.entries[index].name} has no patches")
    n = len(file.features)
    if not 0 <= whole_number("row", row) < n:
        raise IndexError(f"patch must be within 0..{n - 1}, got {row}")
    return file
